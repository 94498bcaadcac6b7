"""Are the results right? Asked before anything is timed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import gumbel_ext
from benchmarks.cases import WORKS, Problem
from benchmarks.sides import Outcome

SEED = 20
# Relative tolerance; the absolute one is this times the largest entry.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
#: How far the mean log-probability of the draws may lie from its expectation, in standard deviations.
SIGMAS = 6.0


class Wrong(Exception):
    """A result is not what it should be."""


def _require(condition: bool | Tensor, what: str) -> None:
    if not bool(condition):
        raise Wrong(what)


def _close(got: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    difference = (got.to(expected.dtype) - expected).abs().max().item()
    bound = tolerance * max(expected.abs().max().item(), 1e-30)
    if not difference <= bound:
        raise Wrong(f"{what}: off by {difference:.3g}, allowed {bound:.3g}")


def _scores(problem: Problem) -> Tensor:
    """Masked logits plus the very noise that ours adds, in the precision that ours computes in."""
    case = problem.case
    precision = torch.float64 if case.dtype == torch.float64 else torch.float32
    x = problem.logits.detach().to(precision)
    if problem.mask is not None:
        x = x.masked_fill(~problem.mask, -torch.inf)
    if not WORKS[case.work]:
        return x
    size = x.movedim(case.dim, -1).shape
    noise = gumbel_ext.gumbel_noise(size, seed=SEED, dtype=precision, device=x.device)
    return x + noise.movedim(-1, case.dim)


def _one_hot(sample: Tensor, dim: int) -> None:
    """Rows of one 1 and zeros; the detach trick is allowed its rounding."""
    half = sample.dtype in (torch.float16, torch.bfloat16)
    slack = 2e-2 if half else 1e-5
    _require((sample.float().sum(dim) - 1).abs().max() <= (1.0 if half else 1e-2), "one-hot rows do not sum to 1")
    _require(torch.minimum(sample.abs(), (sample - 1).abs()).max() <= slack, "one-hot entries are not 0 and 1")


def check_ours(problem: Problem) -> None:
    """Ours, seeded, against torch's own softmax and its gradient in float64 on the same noise."""
    case, x, tau = problem.case, problem.logits, problem.tau
    scores = _scores(problem)
    best = scores.amax(case.dim, keepdim=True)
    if case.work == "index":
        index = gumbel_ext.gumbel_max(x, dim=case.dim, mask=problem.mask, seed=SEED)
        _require((scores.gather(case.dim, index.unsqueeze(case.dim)) == best).all(), "an index is not the argmax")
        return
    if case.work == "sample":
        found, log_p = gumbel_ext.sample(x, seed=SEED), torch.log_softmax(x.detach().double(), -1)
        _require((scores.gather(-1, found.index.unsqueeze(-1)) == best).all(), "an index is not the argmax")
        _close(
            found.log_prob.detach(), log_p.gather(-1, found.index.unsqueeze(-1)).squeeze(-1), 1e-5, "log-probability"
        )
        _close(found.entropy.detach(), -(log_p.exp() * log_p).sum(-1), 1e-5, "entropy")
        return
    if case.work == "subset":
        indices = gumbel_ext.gumbel_top_k(x, case.k, dim=case.dim, mask=problem.mask, seed=SEED).indices
        expected = scores.movedim(case.dim, -1).topk(case.k, -1).values
        _require((scores.movedim(case.dim, -1).gather(-1, indices) == expected).all(), "not the best classes, in order")
        return
    if case.work in ("reinmax", "rao", "embedding"):
        return _check_estimated(problem)
    options = {"dim": case.dim, "mask": problem.mask}
    if WORKS[case.work]:
        y = gumbel_ext.gumbel_softmax(x, tau, case.work == "hard", seed=SEED, **options)
    else:
        y = getattr(gumbel_ext, case.work)(x, tau, **options)

    scores = scores.double().requires_grad_(case.differentiates)
    tau64 = tau.detach().double().requires_grad_(case.differentiates) if isinstance(tau, Tensor) else tau
    p = torch.softmax(scores / tau64, dim=case.dim)
    if case.work in ("hard", "straight_through"):
        _require(((y == 0) | (y == 1)).all() and (y.sum(case.dim, dtype=torch.float32) == 1).all(), "not one-hot")
        _require((scores.gather(case.dim, y.argmax(case.dim, keepdim=True)) == best).all(), "not the argmax")
    else:
        _close(y.detach(), p.detach(), TOLERANCE[case.dtype], "sample")
    if case.differentiates:
        _check_gradients(problem, y, p, scores, tau64)


def _check_estimated(problem: Problem) -> None:
    """The value is the one-hot sample's, or its product with the matrix; the rest is tests/test_estimators.py's."""
    case, x = problem.case, problem.logits
    z = gumbel_ext.gumbel_softmax(x.detach(), hard=True, seed=SEED)
    if problem.weight is not None:
        value, _ = gumbel_ext.straight_through_embedding(x, problem.weight, problem.tau, seed=SEED)
        _close(value.detach(), z @ problem.weight.detach(), TOLERANCE[case.dtype], "rows")
        return
    y = gumbel_ext.one_hot_sample(x, problem.tau, estimator=case.work, seed=SEED)
    _require(torch.equal(y.detach(), z), "not the draw")


def _check_gradients(problem: Problem, y: Tensor, p: Tensor, scores: Tensor, tau64: float | Tensor) -> None:
    tolerance = TOLERANCE[problem.case.dtype]
    y.backward(problem.upstream)
    p.backward(problem.upstream.double())
    _close(problem.logits.grad, scores.grad, tolerance, "gradient of the logits")
    problem.logits.grad = None
    if isinstance(problem.tau, Tensor):
        _close(problem.tau.grad, tau64.grad, 10 * tolerance, "gradient of tau")
        problem.tau.grad = None


def check_peer(problem: Problem, outcome: Outcome) -> None:
    """Any side's result: of the right kind, drawn as it should be, its gradient tangent to the simplex."""
    case, (sample, gradient) = problem.case, outcome
    sample, half = sample.detach(), sample.element_size() == 2
    if case.work == "index":
        rows = problem.logits.detach().movedim(case.dim, -1).shape[:-1]
        _require(sample.shape == rows + ((case.num_samples,) if case.num_samples else ()), "shape of the indices")
        _require((sample >= 0).all() and (sample < case.shape[case.dim]).all(), "an index is out of range")
    elif case.work == "subset":
        in_order = sample.sort(-1).values
        _require(sample.shape[-1] == case.k and (in_order.diff(dim=-1) > 0).all(), "a class was drawn twice")
    elif case.work == "sample":
        _require(sample.shape == (2, *case.shape[:-1]), f"shape {tuple(sample.shape)}")
        _require((sample[0] <= 0).all() and (sample[1] >= 0).all(), "the sign of a log-probability or an entropy")
    elif case.work == "embedding":
        _require(sample.shape == problem.upstream.shape, f"shape {tuple(sample.shape)}")
    else:
        _require(sample.shape == problem.logits.shape, f"shape {tuple(sample.shape)}")
        if case.work in ("hard", "straight_through", "reinmax", "rao"):
            _one_hot(sample, case.dim)
        else:
            total = sample.sum(case.dim, dtype=torch.float32)
            _require((total - 1).abs().max() <= (5e-2 if half else 1e-4), "rows do not sum to 1")
    if WORKS[case.work] and case.work not in ("embedding", "sample") and case.dtype in (torch.float32, torch.float64):
        _check_draws(problem, sample)
    if gradient is not None:
        _require(torch.isfinite(gradient).all(), "the gradient is not finite")
        total = gradient.double().sum(case.dim).abs().max().item()
        scale = max(1.0, gradient.double().abs().sum(case.dim).max().item())
        _require(total <= (0.1 if half else 1e-3) * scale, "the gradient does not sum to 0")


def _check_draws(problem: Problem, sample: Tensor) -> None:
    """The log-probabilities of the drawn classes must average to minus the entropy."""
    case = problem.case
    x = problem.logits.detach()
    if problem.mask is not None:
        x = x.masked_fill(~problem.mask, -torch.inf)
    log_p = torch.log_softmax(x.movedim(case.dim, -1), dim=-1)
    p, finite = log_p.exp(), log_p.clamp_min(-1e4)
    mean = (p * finite).sum(-1)
    variance = (p * (finite - mean.unsqueeze(-1)).square()).sum(-1).double().sum()
    if case.work == "subset":
        sample = sample[..., 0]  # of the others the law depends on it
    index = sample if case.work in ("index", "subset") else sample.movedim(case.dim, -1).argmax(-1)
    draws = case.num_samples or 1
    drawn = log_p.gather(-1, index.view(*mean.shape, draws))
    deviation = (drawn.double() - mean.double().unsqueeze(-1)).sum().item()
    sigmas = deviation / math.sqrt(max(variance.item() * draws, 1e-30))
    _require(abs(sigmas) <= SIGMAS, f"draws are {sigmas:.1f} standard deviations from their distribution")
