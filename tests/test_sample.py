"""sample: the index, its log-probability and the entropy, and their gradients, against formulas in the widest type."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hard_inputs
import numpy as np
import on_device
import pytest
import reference
import torch
from hard_inputs import Numbers, Problem
from hypothesis import given
from numpy.typing import NDArray
from test_hard_inputs import BEYOND, FAINT, FAR, LATER, examples, row
from torch.autograd import gradcheck, gradgradcheck

import gumbel_ext

Array = NDArray[Any]
INF = math.inf
F16, F32, F64 = torch.float16, torch.float32, torch.float64
SURE = [
    row(0.0, -20.0),
    row(0.0, -80.0, -90.0),
    row(40.0, 0.0, -1e-3, dtype=F64),
    row(0.0, -700.0, dtype=F64),
    row(3e38, -3e38),
    row(1e308, -1.7e308, dtype=F64, taus=(1e308,)),
    row(0.0, -INF, -INF),
    row(5.0, 5.0, 5.0),
]
TILES = [
    Problem((3, 4097), logits=Numbers(("normal",), 3), taus=(0.5,)),
    Problem((2, 6000), logits=Numbers(("normal",), holes=0.95), taus=(0.01, 2.0), tau_dtype=F64),
    Problem((2, 4097), logits=Numbers(("rising",), 12), dtype=F16),
    Problem((1, 9000), logits=Numbers(("magnitudes",), 127), taus=(3e38,), tau_dtype=F32),
]
GREEDY = [
    Problem((4, 7), logits=Numbers(("ties",)), taus=(0.0, 1.0, 0.0, 1e-300), tau_dtype=F64),
    Problem((2, 5), taus=(0.0,)),
    Problem((3, 4), logits=Numbers(finite=False, put=((1, math.nan), (5, INF))), taus=(0.0,)),
]
CASES = (*FAINT, *FAR, *LATER, *BEYOND, *SURE, *TILES, *GREEDY)


@dataclass
class Answers:
    """What is asked of a row, class by class, in the widest type."""

    distance: Array  # (max x - x) / T
    p: Array
    others: Array  # the exponentials without the first largest one
    zero: Array
    undefined: Array

    @staticmethod
    def of(problem: Problem) -> Answers:
        x = reference.to_rows(problem.x(), problem.dim, problem.mask()).astype(np.longdouble)
        t = np.broadcast_to(reference.row_values(problem.tau(), problem.x(), problem.dim), (len(x), 1))
        with np.errstate(all="ignore"):
            largest = x.max(-1, keepdims=True)
            distance = (largest - x) / np.where(t == 0, 1, t).astype(np.longdouble)
            e = np.exp(-distance)
            is_first = np.arange(x.shape[1]) == x.argmax(-1)[:, None]
            others = np.where(is_first, 0, e).sum(-1, keepdims=True)
            return Answers(distance, e / (1 + others), others, t == 0, ~np.isfinite(largest))

    @property
    def log_sum(self) -> Array:
        return np.log1p(self.others)

    @property
    def mean(self) -> Array:
        return np.where(self.p > 0, self.p * np.where(self.p > 0, self.distance, 0), 0).sum(-1, keepdims=True)

    def log_prob(self, index: Array) -> Array:
        with np.errstate(all="ignore"):
            found = -np.take_along_axis(self.distance, index, -1) - self.log_sum
        return np.where(self.undefined, np.nan, np.where(self.zero, 0, found))

    def entropy(self) -> Array:
        return np.where(self.undefined, np.nan, np.where(self.zero, 0, self.log_sum + self.mean))


def drawn(problem: Problem, num_samples: int | None) -> tuple[gumbel_ext.Sample, Array]:
    """The sample, and its indices as rows of draws."""
    found = gumbel_ext.sample(
        problem.x(), problem.tau(), dim=problem.dim, num_samples=num_samples, mask=problem.mask(), seed=problem.seeds()
    )
    return found, found.index.reshape(-1, 1 if num_samples is None else num_samples).numpy()


def agree(found: torch.Tensor, expected: Array) -> bool:
    """Within 4 ulp; NaN where that is expected."""
    values, eps = found.double().numpy().reshape(expected.shape), torch.finfo(found.dtype).eps / 2
    smallest = hard_inputs.smallest(found.dtype)
    with np.errstate(all="ignore"):
        known = ~np.isnan(expected)
        error = 8 * eps * np.where(np.isfinite(expected), np.abs(expected), 0) + smallest
    assert np.isnan(values[~known]).all()
    return reference.within(torch.from_numpy(values[known]).to(found.dtype), expected[known], error[known])


@pytest.mark.parametrize("num_samples", [None, 3])
@examples(*CASES)
@given(problem=hard_inputs.problems(finite=False, greedy=True))
def test_values(problem: Problem, num_samples: int | None) -> None:
    """The index is gumbel_max's; log-probabilities and entropies in the working precision."""
    x = problem.x()
    found, index = drawn(problem, num_samples)
    own = gumbel_ext.gumbel_max(
        x, problem.tau(), dim=problem.dim, num_samples=num_samples, mask=problem.mask(), seed=problem.seeds()
    )
    assert torch.equal(found.index, own)
    assert found.log_prob.shape == own.shape
    assert list(found.entropy.shape) == list(problem.row_shape)
    assert found.log_prob.dtype == found.entropy.dtype == (F64 if x.dtype == F64 else F32)
    answers = Answers.of(problem)
    assert agree(found.log_prob, answers.log_prob(index))
    assert agree(found.entropy, answers.entropy())


def expected_gradients(
    answers: Answers, index: Array, g: Array, h: Array, t: Array
) -> tuple[Array, Array, Array, Array]:
    """Of the logits, and of T, one a row; and the sizes of what their differences are made of."""
    weight, absolute = np.zeros_like(answers.p), np.zeros_like(answers.p)
    for sums, terms in ((weight, g), (absolute, np.abs(g))):
        np.add.at(sums, (np.arange(len(index))[:, None], index), terms)
    others, total = weight.sum(-1, keepdims=True) - weight, np.abs(g).sum(-1, keepdims=True)
    complement = np.where(answers.distance == 0, answers.others / (1 + answers.others), 1 - answers.p)
    distance = np.where(answers.p > 0, answers.distance, 0)
    with np.errstate(all="ignore"):
        dx = (weight * complement - answers.p * (others + h * (answers.mean - distance))) / t
        spread = answers.p * np.abs(h) * (answers.mean + distance)
        size = (absolute * complement + answers.p * total + spread) / t
        variance = (answers.p * (distance - answers.mean) ** 2).sum(-1, keepdims=True)
        apart = np.take_along_axis(answers.distance, index, -1) - answers.mean
        dt = ((g * apart).sum(-1, keepdims=True) + h * variance) / t
        bound = (np.abs(g) * (np.abs(apart) + answers.mean)).sum(-1, keepdims=True)
        square = (answers.p * (distance + answers.mean) ** 2).sum(-1, keepdims=True)
        return dx, size, dt[:, 0], ((bound + np.abs(h) * square) / t)[:, 0]


@pytest.mark.parametrize("num_samples", [None, 5])
@examples(*CASES)
@given(problem=hard_inputs.problems(finite=True, greedy=True))
def test_gradients(problem: Problem, num_samples: int | None) -> None:
    """Within some roundings of what the formula's differences are made of: also where p is within 1e-30 of 1. Zero at
    T = 0 and where a class is excluded."""
    x = problem.x().detach().requires_grad_()
    t = problem.tau()
    t = t.detach().double().requires_grad_() if isinstance(t, torch.Tensor) else t
    found = gumbel_ext.sample(x, t, dim=problem.dim, num_samples=num_samples, mask=problem.mask(), seed=problem.seeds())
    rng = np.random.default_rng(3)
    index = found.index.reshape(-1, 1 if num_samples is None else num_samples).numpy()
    g, h = rng.standard_normal(index.shape), rng.standard_normal((len(index), 1))
    grads = torch.from_numpy(g).reshape(found.log_prob.shape), torch.from_numpy(h).reshape(found.entropy.shape)
    torch.autograd.backward((found.log_prob, found.entropy), [a.to(found.entropy.dtype) for a in grads])
    g, h = (a.to(found.entropy.dtype).double().reshape(b.shape).numpy().astype(np.longdouble)
            for a, b in zip(grads, (g, h), strict=True))  # fmt: skip

    answers = Answers.of(problem)
    rows = np.broadcast_to(reference.row_values(problem.tau(), x, problem.dim), (len(index), 1)).astype(np.longdouble)
    dx, size, dt, dt_size = expected_gradients(answers, index, g, h, np.where(rows == 0, 1, rows))
    fixed = (answers.zero | answers.undefined)[:, 0]
    assert x.grad is not None and x.grad.dtype == x.dtype
    values = reference.to_rows(x.grad, problem.dim)
    assert np.isnan(values[answers.undefined[:, 0]]).all()
    assert (values[(answers.zero & ~answers.undefined)[:, 0]] == 0).all()
    eps, smallest = torch.finfo(found.entropy.dtype).eps / 2, hard_inputs.smallest(found.entropy.dtype)
    known = torch.from_numpy(values[~fixed]).to(x.dtype)
    with np.errstate(all="ignore"):
        error = np.where(size > 0, 16 * eps * size + smallest * (1 + np.abs(dx)), 0)
    assert reference.within(known, dx[~fixed], error[~fixed])
    if isinstance(t, torch.Tensor) and t.numel() == len(index):
        of_t = t.grad.double().reshape(-1)[torch.from_numpy(~fixed)]
        with np.errstate(all="ignore"):
            beyond = hard_inputs.smallest(found.entropy.dtype) * 2.0**-30 / np.where(rows == 0, 1, rows)[:, 0]
            t_error = (16 + answers.p.shape[1] * 2.0**-20) * eps * dt_size + smallest + beyond
            # Exponents of scores near 0 are rounded as the largest logit over T is, or as subnormal numbers are.
            logits = reference.to_rows(x, problem.dim, problem.mask()).astype(np.longdouble)
            reach = np.abs(logits.max(-1)) / rows[:, 0]
            weight = (np.abs(g).sum(-1) + np.abs(h * answers.mean)[:, 0]) / rows[:, 0]
            lost = (eps * np.minimum(reach, 512) + smallest) * weight
            t_error += 4 * np.where(np.isfinite(reach), lost, 0)
        assert reference.within(of_t, dt[~fixed], t_error[~fixed])


def test_near_one() -> None:
    """A log-probability of -e^-d keeps its digits, and 1 - p of its gradient too."""
    for dtype, distance in ((F32, 30.0), (F32, 85.0), (F64, 300.0)):
        x = torch.tensor([0.0, -distance], dtype=dtype, requires_grad=True)
        found = gumbel_ext.sample(x, seed=1)
        assert found.index.item() == 0
        found.log_prob.backward()
        exact = math.exp(-distance)
        assert found.log_prob.item() == pytest.approx(-exact, rel=1e-6 if dtype == F32 else 1e-14)
        assert x.grad is not None and x.grad.tolist() == pytest.approx([exact, -exact], rel=1e-6)


@pytest.mark.parametrize("mask", [None, torch.tensor([True, False, True, True, True])])
@pytest.mark.parametrize("num_samples", [None, 4])
@pytest.mark.parametrize("dim", [0, -1])
def test_gradcheck(dim: int, num_samples: int | None, mask: torch.Tensor | None) -> None:
    """Both modes, twice, of the logits and of a temperature a row."""
    torch.manual_seed(2)
    x, t = torch.randn(5, 5, dtype=F64, requires_grad=True), torch.rand(1, 5, dtype=F64).add(0.5)
    t = (t if dim == 0 else t.T).requires_grad_()
    mask = mask if mask is None or dim == -1 else mask[:, None]

    def answers(x: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return gumbel_ext.sample(x, t, dim=dim, num_samples=num_samples, mask=mask, seed=4)[1:]

    assert gradcheck(answers, (x, t), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(answers, (x, t), check_fwd_over_rev=True)


def test_scalar_logits() -> None:
    x = torch.tensor(3.0, requires_grad=True)
    for num_samples in (None, 2):
        index, log_prob, entropy = gumbel_ext.sample(x, num_samples=num_samples)
        assert index.tolist() == log_prob.tolist() == ([0, 0] if num_samples else 0) and entropy.item() == 0
        (log_prob.sum() + entropy).backward()
        assert x.grad is not None and x.grad.item() == 0


def test_no_draws() -> None:
    """The entropy is the row's whatever the draws."""
    index, log_prob, entropy = gumbel_ext.sample(torch.zeros(3, 4), num_samples=0, seed=0)
    assert index.shape == log_prob.shape == (3, 0)
    assert entropy.tolist() == pytest.approx([math.log(4)] * 3)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0, 4)])
def test_empty_batches(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape, requires_grad=True)
    found = gumbel_ext.sample(x)
    assert [t.shape for t in found] == [torch.Size(shape[:-1])] * 3
    (found.log_prob.sum() + found.entropy.sum()).backward()
    assert x.grad is not None and x.grad.shape == shape


def saved_bytes(run: Callable[[], Any], user: torch.Tensor) -> int:
    """What a graph keeps besides the user's own tensor."""
    kept = []

    def pack(t: torch.Tensor) -> torch.Tensor:
        kept.append(0 if t.data_ptr() == user.data_ptr() else t.numel() * t.element_size())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        run()
    return sum(kept)


def test_backward_keeps_a_few_numbers_a_row() -> None:
    x = torch.randn(64, 3000, requires_grad=True)
    assert saved_bytes(lambda: gumbel_ext.sample(x, seed=1), x) <= 64 * 4 * 8 + 64


@pytest.mark.skipif(on_device.is_gpu(), reason="threads are the CPU's")
@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(500, 7), (33, 300), (1, 40_000), (3, 20_001)], ids=str)
def test_same_bits_for_any_number_of_threads(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """And for any batch."""
    torch.manual_seed(1)
    x, threads = torch.randn(shape, dtype=F64).mul(5).to(dtype).requires_grad_(), torch.get_num_threads()

    def run() -> list[torch.Tensor]:
        found = gumbel_ext.sample(x, 0.7, num_samples=66, seed=8)
        gradient = torch.autograd.grad(found.log_prob.sum() + found.entropy.square().sum(), x)
        return [*found, *gradient]

    try:
        torch.set_num_threads(1)
        whole = run()
        for number in (2, 3):
            torch.set_num_threads(number)
            assert all(map(torch.equal, whole, run()))
    finally:
        torch.set_num_threads(threads)
    first = gumbel_ext.sample(x[:1], 0.7, num_samples=66, seed=8)
    assert all(torch.equal(part[:1], of_one) for part, of_one in zip(whole[:3], first, strict=True))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"temperature": -1.0}, ValueError, "temperature: expected a finite number that is not negative"),
        ({"num_samples": -1}, ValueError, "num_samples: expected 0 <= num_samples"),
        ({"dim": 2}, IndexError, "range"),
        ({"seed": torch.zeros(3, dtype=torch.int64)}, ValueError, "seed: expected one a row"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gumbel_ext.sample(torch.zeros(2, 3), **arguments)
