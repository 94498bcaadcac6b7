"""relaxed_top_k: values, gradients and the k-hot, against the formula with the library's noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import hard_inputs
import mpmath
import numpy as np
import pytest
import reference
import torch
from hard_inputs import Numbers, Problem
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

import gumbel_ext

Array = NDArray[Any]
EPS = 2.0**-53  # of the steps, whatever the dtype
INF = math.inf
relaxed_top_k = gumbel_ext.relaxed_top_k


def scores_of(problem: Problem) -> Array:
    """Rows of logits + noise as the library rounds them."""
    rows = reference.to_rows(problem.x(), problem.dim, problem.mask())
    with np.errstate(invalid="ignore"):
        return rows + reference.noise(problem.seeds(), *rows.shape, rows.dtype)


def kinds_of_rows(scores: Array, k: int) -> tuple[Array, Array]:
    """Which rows are undefined, and which have fewer than k possible classes."""
    undefined = ~np.isfinite(scores.max(-1, keepdims=True))
    return undefined, ~undefined & ((scores > -INF).sum(-1, keepdims=True) < k)


def k_hot(scores: Array, k: int) -> Array:
    """1 at the k largest scores, ties to the lower class."""
    place = np.argsort(np.argsort(-scores, -1, kind="stable"), -1, kind="stable")
    return np.where((place < k) & (scores > -INF), 1.0, 0.0)


def of_one(is_one: Array, values: Array) -> Array:
    return np.where(is_one, values, 0).sum(-1, keepdims=True)


class Chain:
    """The steps in the widest type, and a bound on what float64 does to each p, to first order.

    1 - p of the largest class is made of the others: no digit of it is lost where p rounds to 1. `jitter` numbers some
    rounding errors, or is 0 for none: how much a result changes tells how much of them it shows.
    """

    def __init__(self, scores: Array, tau: Array, k: int, jitter: int = 0) -> None:
        a, tau = scores.astype(np.longdouble), tau.astype(np.longdouble)
        error = np.zeros_like(a)  # of a, before it is divided by tau
        self.tau, self.value, self.error, self.steps = tau, np.zeros_like(a), np.zeros_like(a), []
        for step in range(k):
            is_top = np.arange(a.shape[-1]) == a.argmax(-1)[:, None]
            top, second = of_one(is_top, a), np.where(is_top, -INF, a).max(-1, keepdims=True)
            has_rest, second = second > -INF, np.where(second > -INF, second, 0)
            x = np.where(is_top | ~has_rest, -INF, a - second) / tau
            gap = np.where(has_rest, (top - second) / tau, INF)
            wobble = 4 * EPS * np.sin(jitter * (np.arange(a.shape[-1]) * 2.7 + step + 1))
            e = np.exp(x) * (1 + wobble * (1 + np.where(x > -1e4, np.abs(x), 0)))
            total = e.sum(-1, keepdims=True)
            some, rest = np.where(total > 0, total, 1), np.exp(-gap) * total
            r, p_top, q = e / some, 1 / (1 + rest), rest / (1 + rest)
            p = np.where(is_top, p_top, r * q)
            log_q = np.where(p_top > 0.5, np.log(some) - gap - np.log1p(rest), np.log1p(-np.minimum(p_top, 0.6)))
            self.steps.append((is_top, r, p, q, np.where(is_top, gap, x), 1 + wobble))
            self._bound(a, error, second, is_top, (x, e, r, gap, p, p_top, q))
            change = np.where(is_top, log_q, np.log1p(-np.where(is_top, 0, p))) * (1 + wobble)
            a = a + change + wobble * np.where(np.isfinite(a), np.abs(a), 0)
            error = error + EPS * (4 * np.abs(change) + np.where(np.isfinite(a), np.abs(a), 0)) + self.of_log
            self.value += p

    def _bound(self, a: Array, error: Array, second: Array, is_top: Array, parts: tuple[Array, ...]) -> None:
        """Relative errors of the exponentials, by differences, quotients and powers, and of what is made of them."""
        x, e, r, gap, p, p_top, q = parts
        of_second = np.where((a == second) & ~is_top, error, 0).max(-1, keepdims=True) / self.tau
        of_e = np.where(e > 0, error / self.tau + of_second + EPS * (3 * np.where(e > 0, np.abs(x), 0) + 6), 0)
        near = gap < 1500
        of_rest = np.where(near, of_one(is_top, error) / self.tau + of_second + EPS * (3 * gap + 12), 0)
        of_rest = np.where(near, of_rest, 0) + (r * of_e).sum(-1, keepdims=True)
        of_p = np.where(is_top, q * of_rest, of_e + of_rest) + 4 * EPS
        self.error += p * np.expm1(np.minimum(of_p, 1e3)) + 2.0**-1073
        of_top = p_top * np.where(p_top > 0.5, of_rest, 2 * q * of_rest + 4 * EPS)
        self.of_log = np.minimum(np.where(is_top, of_top, 2 * p * of_p), 1e3)

    def gradients(self, dy: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Of the scores and of tau, one a row (core/top_k.h); and the sizes of what their differences are made of."""
        b, tau_sum, size, tau_size = np.zeros_like(dy), np.zeros_like(self.tau), 0.0, 0.0
        for is_top, r, p, q, exponent, rounded in reversed(self.steps):
            pull = dy * rounded - b / (1 - np.where(is_top, 0, p))
            dot = (r * pull * rounded).sum(-1, keepdims=True)
            flow = of_one(is_top, p) * (q * (dot - of_one(is_top, dy * rounded)) + of_one(is_top, b * rounded))
            change = np.where(is_top, -flow, r * (q * (pull - dot) + flow)) / self.tau
            part = (
                np.where(is_top, q * p, r * q) * (np.abs(pull) + (r * np.abs(pull)).sum(-1, keepdims=True)) / self.tau
            )
            b, size = b + change, size + part
            tau_sum = tau_sum - np.where(change == 0, 0, change * exponent).sum(-1, keepdims=True)
            tau_size = tau_size + np.where(part == 0, 0, part * np.abs(exponent)).sum(-1, keepdims=True)
        return (b, tau_sum), (size, tau_size)


COUNTS = st.integers(1, 7)
SETTLED = Problem((3, 5), logits=Numbers(("normal",), holes=0.6), taus=(0.01,))
ALL = Problem((4, 6), logits=Numbers(("normal",), 2), taus=(0.01,))
FAR = Problem(
    (3, 5), dtype=torch.float64, logits=Numbers(("signs", "normal"), 1023), taus=(1.0, 0.3), tau_dtype=torch.float64
)
TIES = Problem((2, 9), logits=Numbers(("equal",), 100), taus=(0.01,))
WIDE = Problem((2, 4097), 1, logits=Numbers(("normal",)), taus=(0.05, 2.0), tau_dtype=torch.float32)
HUGE = Problem((3, 7), dtype=torch.float64, logits=Numbers(("normal",), 1022), taus=(1e308,))


@example(problem=SETTLED, count=4)
@example(problem=ALL, count=6)
@example(problem=FAR, count=4)
@example(problem=TIES, count=9)
@example(problem=WIDE, count=7)
@example(problem=HUGE, count=3)
@given(problem=hard_inputs.problems(finite=False), count=COUNTS)
def test_values(problem: Problem, count: int) -> None:
    """Within the rounding of the steps in float64, and one of the result; 0, 1 and NaN where that is promised."""
    x, scores = problem.x(), scores_of(problem)
    k = min(count, scores.shape[1])
    found = relaxed_top_k(x, k, problem.tau(), dim=problem.dim, mask=problem.mask(), seed=problem.seeds())
    assert found.shape == x.shape and found.dtype == x.dtype
    rows = torch.from_numpy(reference.to_rows(found, problem.dim)).to(x.dtype)
    undefined, settled = kinds_of_rows(scores, k)
    assert rows[torch.from_numpy(undefined[:, 0])].isnan().all()
    assert (rows[torch.from_numpy((scores == -INF) & ~undefined)] == 0).all()
    few = settled[:, 0]
    assert torch.equal(rows[few].double(), torch.from_numpy(k_hot(scores[few], k)))
    rest = ~undefined[:, 0] & ~few
    taus = np.broadcast_to(reference.row_values(problem.tau(), x, problem.dim), (len(rest), 1))[rest]
    with np.errstate(all="ignore"):
        chain = Chain(scores[rest], taus, k)
    limits = np.finfo(reference.working(x.dtype))
    error = chain.error + chain.value * limits.eps / 2 + limits.smallest_subnormal
    assert reference.within(rows[rest], chain.value, np.minimum(error, k))


@example(problem=SETTLED, count=4)
@example(problem=TIES, count=4)
@given(problem=hard_inputs.problems(finite=False), count=COUNTS)
def test_k_hot(problem: Problem, count: int) -> None:
    """The k largest of our own scores, bit for bit, with and without a gradient."""
    x, scores = problem.x(), scores_of(problem)
    k = min(count, scores.shape[1])
    expected = np.where(kinds_of_rows(scores, k)[0], np.nan, k_hot(np.nan_to_num(scores, nan=0.0, neginf=-INF), k))
    tau, mask, seeds = problem.tau(), problem.mask(), problem.seeds()
    for logits in (x, x.detach().requires_grad_()):
        found = relaxed_top_k(logits, k, tau, True, dim=problem.dim, mask=mask, seed=seeds)
        assert reference.differing(found.detach().double(), reference.from_rows(expected, x, problem.dim)) == 0


def gradients_and_bounds(scores: Array, taus: Array, k: int, dy: Array, dtype: Any) -> Iterator[tuple[Array, Array]]:
    """Of the scores and of tau: the gradient, and some times what jitters change, and one rounding."""
    exact, sizes = Chain(scores, taus, k).gradients(dy)
    others = (Chain(scores, taus, k, jitter).gradients(dy)[0] for jitter in (1, 2, 3))
    limits = np.finfo(dtype)
    for found, size, *jittered in zip(exact, sizes, *others, strict=True):
        error = 16 * (np.abs(np.array(jittered) - found).max(0) + EPS * size)
        error = error + (limits.eps + 2.0**-48) * np.abs(found) + limits.smallest_subnormal
        yield found, np.where(np.abs(found) < 2.0**1000, error, INF)


@pytest.mark.parametrize("way", ["backward", "create_graph"])
@example(problem=dataclasses.replace(ALL, dy=Numbers(("normal",)), tau_dtype=torch.float64), count=6)
@example(problem=dataclasses.replace(WIDE, dy=Numbers(("normal",))), count=7)
@example(problem=dataclasses.replace(SETTLED, dy=Numbers(("normal",)), tau_dtype=torch.float32), count=4)
@given(problem=hard_inputs.problems(dy=True), count=COUNTS)
def test_gradients(way: str, problem: Problem, count: int) -> None:
    """Of logits and tau: finite where the truth is, 0 where classes are what they are, and as near to the truth as
    float64's steps and one rounding leave them."""
    scores, dy, tau = scores_of(problem), reference.to_rows(problem.grad(), problem.dim), problem.tau()
    k, x = min(count, scores.shape[1]), problem.x().detach().requires_grad_()
    inputs = (x, tau.requires_grad_()) if isinstance(tau, torch.Tensor) else (x,)
    taus = np.broadcast_to(reference.row_values(tau, x, problem.dim), (len(dy), 1))
    size = max(np.abs(scores[scores > -INF]).max(initial=0), np.abs(dy).max())
    if way == "create_graph" and math.log2(max(size, 1)) - k * math.log2(min(taus.min(), 1)) > 900:
        return  # the operations have no more than float64's range
    y = relaxed_top_k(x, k, tau, dim=problem.dim, mask=problem.mask(), seed=problem.seeds())
    found = torch.autograd.grad(y, inputs, problem.grad(), create_graph=way == "create_graph")
    undefined, settled = kinds_of_rows(scores, max(k, 2))
    dx = torch.from_numpy(reference.to_rows(found[0].detach(), problem.dim)).to(x.dtype)
    assert (dx[torch.from_numpy(settled | (scores == -INF) & ~undefined)] == 0).all()
    rest = ~(undefined | settled)[:, 0]
    scores, dy, taus = scores[rest], np.where(scores > -INF, dy, 0)[rest].astype(np.longdouble), taus[rest]
    with np.errstate(all="ignore"):
        expected = list(gradients_and_bounds(scores, taus, k, dy, reference.working(x.dtype)))
    assert reference.within(dx[rest], *expected[0])
    if len(found) == 2 and found[1].numel() == len(rest):
        dtau = torch.from_numpy(reference.row_values(found[1], x, problem.dim)).to(found[1].dtype)
        assert reference.within(dtau[rest], *expected[1])


def by_the_formula(scores: list[float], tau: float, k: int, dy: list[float]) -> tuple[list[Any], list[Any], Any]:
    """Value and gradients by the formula as it is written, with as many digits as 1 - p needs."""
    spread = (max(scores) - min(scores)) / tau
    with mpmath.workdps(100 + int(2 * spread)):
        t, a, steps = mpmath.mpf(tau), [mpmath.mpf(s) for s in scores], []
        for _ in range(k):
            e = [mpmath.exp(s / t) for s in a]
            p = [v / mpmath.fsum(e) for v in e]
            steps.append((a, p))
            a = [s + mpmath.log(1 - v) for s, v in zip(a, p, strict=True)]
        b, dt = [mpmath.mpf(0)] * len(a), mpmath.mpf(0)
        for a, p in reversed(steps):
            pull = [g - (v / (1 - q) if v else 0) for g, v, q in zip(dy, b, p, strict=True)]
            mean = mpmath.fsum(q * v for q, v in zip(p, pull, strict=True))
            change = [q * (v - mean) / t for q, v in zip(p, pull, strict=True)]
            b = [v + c for v, c in zip(b, change, strict=True)]
            dt -= mpmath.fsum(c * s for c, s in zip(change, a, strict=True)) / t
        value = [mpmath.fsum(p[i] for _, p in steps) for i in range(len(scores))]
        return [+v for v in value], [+v for v in b], +dt


TAUS = [0.01, 0.1, 0.5, 1.0, 3.0, 30.0]


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("k", [1, 2, 5, 6])
def test_against_the_formula(tau: float, k: int) -> None:
    """Of six classes: the value, both gradients and a tangent, to the digits of float64."""
    for scale in (0.1, 1.0, 5.0):
        x, dy = torch.randn(6, dtype=torch.float64) * scale, torch.randn(6, dtype=torch.float64)
        t = torch.tensor(tau, dtype=torch.float64)
        scores = x + gumbel_ext.gumbel_noise(6, seed=5, dtype=torch.float64)
        value, dx, dt = by_the_formula(scores.tolist(), tau, k, dy.tolist())
        tangent = torch.func.jvp(lambda x, t: relaxed_top_k(x, k, t, seed=5) @ dy, (x, t), (x, t))[1]  # noqa: B023
        y = relaxed_top_k(x.requires_grad_(), k, t.requires_grad_(), seed=5)
        assert y.tolist() == pytest.approx([float(v) for v in value], rel=1e-12, abs=1e-300)
        for graph in (False, True):
            found = torch.autograd.grad(y, (x, t), dy, create_graph=graph, retain_graph=True)
            for a, b in zip([*found[0].tolist(), found[1].item()], [*dx, dt], strict=True):
                assert abs(a - b) <= 1e-12 * abs(b) + 1e-300
        terms = [a * b for a, b in zip([*x.tolist(), tau], [*dx, dt], strict=True)]
        assert abs(tangent.item() - mpmath.fsum(terms)) <= 1e-12 * mpmath.fsum(terms, absolute=True) + 1e-300


@pytest.mark.parametrize("hard", [False, True])
def test_to_second_order(hard: bool) -> None:
    """By finite differences, in both modes and under vmap; of the k-hot, what the relaxed value has."""
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    x[0, 1], x[1, 2:] = -INF, -INF  # in the latter, two classes are left for k = 3
    tau, free = 0.4 + torch.rand(2, 1, 1, dtype=torch.float64), x > -INF
    at = x[free].clone()

    def function(part: Any, t: Any, straight: bool = False) -> Any:
        full = x.masked_scatter(free, part)
        return relaxed_top_k(full, 3, t, straight, dim=1, seed=4)

    arguments = (at.requires_grad_(), tau.requires_grad_())
    if not hard:
        assert torch.autograd.gradcheck(function, arguments, check_forward_ad=True, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(function, arguments, check_batched_grad=True)
        return
    dy = torch.randn_like(x)
    for graph in (False, True):
        relaxed, straight = (
            torch.autograd.grad(function(*arguments, straight), arguments, dy, create_graph=graph)
            for straight in (False, True)
        )
        assert all(torch.equal(a, b) for a, b in zip(relaxed, straight, strict=True))


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
def test_the_same_bits_on_any_threads(dtype: torch.dtype) -> None:
    x, results = torch.randn(37, 3001, dtype=torch.float64).to(dtype), []
    dy = torch.randn_like(x)
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        leaf, tau = x.clone().requires_grad_(), torch.full((37, 1), 0.3, requires_grad=True)
        y = relaxed_top_k(leaf, 4, tau, seed=1)
        results.append([y.detach(), *torch.autograd.grad(y, (leaf, tau), dy)])
    assert all(torch.equal(a, b) for result in results[1:] for a, b in zip(results[0], result, strict=True))
    one = relaxed_top_k(x[5:6], 4, 0.3, seed=torch.tensor([7]))
    many = relaxed_top_k(x, 4, 0.3, seed=torch.full((37,), 7))
    assert torch.equal(one[0], many[5])


def test_of_one_class_it_is_gumbel_softmax() -> None:
    x = torch.randn(9, 300, dtype=torch.float64)
    torch.testing.assert_close(relaxed_top_k(x, 1, 0.2, seed=3), gumbel_ext.gumbel_softmax(x, 0.2, seed=3))
    hard = gumbel_ext.gumbel_softmax(x, 0.2, hard=True, seed=3)
    assert torch.equal(relaxed_top_k(x, 1, 0.2, hard=True, seed=3), hard)


def test_draws_from_the_generator() -> None:
    """Forward and backward are of one draw, and the next call's is another."""
    x = torch.randn(4, 8, requires_grad=True)
    first, second = relaxed_top_k(x, 2), relaxed_top_k(x, 2)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    torch.randn(4, 8)
    assert torch.equal(relaxed_top_k(x, 2), first)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    assert torch.equal(*(relaxed_top_k(x, 2, generator=g) for g in generators))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("k", "error", "words"),
    [
        (0, ValueError, "k: expected 1 <= k <= 3, the number of classes along dim 1, got 0"),
        (4, ValueError, "k: expected 1 <= k <= 3, the number of classes along dim 1, got 4"),
        (-(2**70), ValueError, "k: expected 1 <= k <= 3"),
        (2.0, TypeError, "k: expected an int, got float"),
        (None, TypeError, "k: expected an int, got NoneType"),
    ],
)
def test_wrong_k(k: Any, error: type[Exception], words: str, device: str) -> None:
    with pytest.raises(error, match=words):
        relaxed_top_k(torch.zeros(2, 3, device=device), k)


def test_shapes_without_data() -> None:
    """On meta tensors, and of nothing: the shapes and dtypes of the results and of what backward keeps."""
    for shape, dim in (((0, 4), -1), ((2, 4), 0), ((3, 0, 2), 0), ((), 0)):
        for dtype in reference.DTYPES:
            x = torch.zeros(shape, dtype=dtype, requires_grad=True)
            found, meta = relaxed_top_k(x, 1, dim=dim), relaxed_top_k(x.to("meta"), 1, dim=dim)
            assert (found.shape, found.dtype) == (meta.shape, meta.dtype) == (x.shape, dtype)
            found.sum().backward()
            assert x.grad is not None and x.grad.shape == x.shape
