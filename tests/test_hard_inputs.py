"""The promises hold for the whole of every dtype: any bits, temperatures, shapes, strides, masks and seeds."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import hard_inputs
import numpy as np
import pytest
import reference
import torch
from hard_inputs import LARGEST, Numbers, Problem
from hypothesis import example, given
from test_values import RELAXED, Operation, check
from torch.autograd import forward_ad

import gumbel_ext

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
TOP = torch.finfo(F32).max


def examples(*problems: Problem) -> Callable[[Any], Any]:
    """These problems are tried, whatever else is drawn."""
    return lambda test: functools.reduce(lambda wrapped, problem: example(problem=problem)(wrapped), problems, test)


def exactly(*values: float) -> Numbers:
    return Numbers(("zeros",), put=tuple(enumerate(values)))


def row(*values: float, **rest: Any) -> Problem:
    """One row of these logits."""
    return Problem((len(values),), logits=exactly(*values), **rest)


SUBNORMAL = 2.0**-149
FAINT = [
    row(0.0, 3 * SUBNORMAL, taus=(2e-45,)),
    row(0.0, SUBNORMAL, taus=(1e-46,)),
    row(0.0, 1.5e-323, dtype=F64, taus=(1e-323,)),
    row(0.0, -80.0, -87.0, -88.5, -95.0, -103.0, -104.0, -150.0),
    row(0.0, -700.0, -708.0, -709.0, -740.0, -744.0, -746.0, dtype=F64),
]


@pytest.mark.parametrize("op", RELAXED)
@examples(*FAINT)
@given(problem=hard_inputs.problems(finite=False, empty=True))
def test_values(op: Operation, problem: Problem) -> None:
    """Within the bound of a softmax in the widest type; NaN where undefined, 0 where excluded."""
    check(op, problem.x(), problem.tau(), problem.dim, problem.mask(), problem.seeds())


FAR = [Problem((20, 1000), dtype=dtype, taus=(tau,)) for dtype, tau in
       [(F32, 1e-31), (F32, 1e-37), (F16, 1e-36), (BF16, 1e-33), (F64, 1e-300), (F64, 1e-308)]]  # fmt: skip
LATER = [Problem((1, 65), logits=Numbers(("zeros",), put=((3, 3.0e38), (60, 3.3e38)))),
         Problem((1, 4097), logits=Numbers(("zeros",), put=((3, -1.0), (4000, 3.3e38))), taus=(0.5,))]  # fmt: skip
# Many rows of two classes at temperatures that float32 does not have.
BEYOND = [
    Problem((300, 2), logits=Numbers(kinds, exponent), taus=(tau,))
    for kinds, exponent, tau in [
        (("ahead later",), 128, 1e39),
        (("ahead later",), 128, 1e300),
        (("ties",), -149, 1e-46),
        (("ties",), -149, 1e-300),
        (("ties",), -149, 2e-45),
    ]
]


@examples(*FAR, *LATER, *BEYOND)
@given(problem=hard_inputs.problems(finite=False, greedy=True))
def test_indices(problem: Problem) -> None:
    """Of none and of three draws, the reference's to the bit; the exact winner where float32 lacks the temperature."""
    x, dim, mask, seeds, temperature = problem.x(), problem.dim, problem.mask(), problem.seeds(), problem.tau()
    found = gumbel_ext.gumbel_max(x, temperature, dim=dim, mask=mask, seed=seeds)
    samples = gumbel_ext.gumbel_max(x, temperature, dim=dim, mask=mask, seed=seeds, num_samples=3)
    assert torch.equal(found, samples[..., 0])
    t = np.broadcast_to(reference.row_values(temperature, x, dim), (found.numel(), 1))
    limits = np.finfo(reference.working(x.dtype))
    held = torch.from_numpy((t == 0) | (t >= limits.smallest_normal) & (t <= limits.max) | (x.dtype == F64))
    held |= torch.from_numpy(~np.isfinite(reference.to_rows(x, dim, mask).max(-1, keepdims=True)))
    held = held.reshape(found.shape)
    for draw in range(3):
        index, expected = samples[..., draw], reference.gumbel_max(x, temperature, dim, seeds, draw, mask)
        assert torch.equal(index[held], expected[held])
        if not held.all():
            short = reference.shortfall(x, index, t, dim, seeds, draw, mask)
            assert (short[~held.flatten().numpy()] <= 4).all()


@examples(*LATER)
@given(problem=hard_inputs.problems(finite=False))
def test_one_hot(problem: Problem) -> None:
    """With and without a gradient wanted, at any tau: 1 at the reference's index, or NaN in a row that has none."""
    x, tau, dim, mask, seeds = problem.x(), problem.tau(), problem.dim, problem.mask(), problem.seeds()
    rows = torch.from_numpy(reference.to_rows(x, dim, mask))
    for temperature, op in ((1.0, functools.partial(gumbel_ext.gumbel_softmax, hard=True, seed=seeds)),
                            (0.0, gumbel_ext.straight_through)):  # fmt: skip
        index = reference.gumbel_max(x, temperature, dim, seeds, 0, mask)
        hot = torch.nn.functional.one_hot(index.reshape(-1), rows.shape[1]).to(x.dtype)
        hot[~rows.max(-1).values.isfinite()] = math.nan
        expected = reference.from_rows(hot.double().numpy(), x, dim)
        for logits in (x, x.detach().requires_grad_()):
            found = op(logits, tau, dim=dim, mask=mask)
            assert found.shape == x.shape and found.dtype == x.dtype
            assert reference.differing(found.detach().double(), expected) == 0


@given(problem=hard_inputs.problems(empty=True), shape=hard_inputs.shapes(empty=True))
def test_noise(problem: Problem, shape: tuple[tuple[int, ...], int]) -> None:
    """The bits of the fixed sequence, of any size and seed."""
    size, _ = shape
    seeds = Problem(size, seed=problem.seed, row_seeds=problem.row_seeds).seeds()
    found = gumbel_ext.gumbel_noise(size, seed=seeds, dtype=problem.dtype)
    rows, classes = (found.shape[:-1].numel(), found.shape[-1]) if size else (1, 1)
    expected = torch.from_numpy(reference.noise(seeds, rows, classes, reference.working(problem.dtype)))
    assert torch.equal(found, expected.reshape(size).to(problem.dtype))


def precision(dtype: torch.dtype) -> tuple[float, float]:
    """Of the arithmetic on a dtype: its epsilon and smallest number."""
    working = F64 if dtype == F64 else F32
    return torch.finfo(working).eps, hard_inputs.smallest(working)


def softmax(x: torch.Tensor, tau: Any, problem: Problem, hard: bool = False) -> torch.Tensor:
    op = gumbel_ext.straight_through if hard else gumbel_ext.softmax
    return op(x, tau, dim=problem.dim, mask=problem.mask())


def gumbel_softmax(x: torch.Tensor, tau: Any, problem: Problem, hard: bool = False) -> torch.Tensor:
    return gumbel_ext.gumbel_softmax(x, tau, hard, dim=problem.dim, mask=problem.mask(), seed=problem.seeds())


def gradients(y: torch.Tensor, inputs: tuple[torch.Tensor, ...], dy: torch.Tensor, graph: bool) -> list[torch.Tensor]:
    return [g.detach() for g in torch.autograd.grad(y, inputs, dy, create_graph=graph)]


def tangent(op: Callable[..., torch.Tensor], problem: Problem, hard: bool, of_tau: bool = False) -> torch.Tensor:
    """Along dy; or, where it is `of_tau`, along tau itself."""
    x, tau = problem.x().clone(), problem.tau()
    with forward_ad.dual_level():
        if of_tau:
            y = op(x, forward_ad.make_dual(tau, tau), problem, hard)
        else:
            y = op(forward_ad.make_dual(x, problem.grad().clone()), tau, problem, hard)
        return forward_ad.unpack_dual(y).tangent


BIG = Numbers(("signs",), 1024)
INCOMING = [
    row(math.log(9), 0.0, dy=exactly(3e38, -3e38)),
    row(math.log(9), 0.0, dy=exactly(LARGEST, -LARGEST), dtype=F64),
    Problem((5, 33), dy=BIG, taus=(1e308,), tau_dtype=F64),
    Problem((5, 33), dy=BIG, taus=(1e38,), tau_dtype=F32),
    Problem((5, 33), dy=Numbers(("equal",), 1024), dtype=F64, tau_dtype=F64),
    Problem((3, 2049), dy=BIG, dtype=BF16, tau_dtype=BF16),
    row(0.0, -100.0, dy=exactly(TOP, -TOP), tau_dtype=F32),
    row(0.0, 1.0, dy=exactly(-TOP, TOP), taus=(1e-3,), tau_dtype=F64),
    Problem((255, 5), -2, logits=Numbers(("equal",)), dy=Numbers(("rising",), 129), tau_dtype=F32),
    Problem((15, 33), -2, logits=Numbers(("normal",), 3), dy=Numbers(("normal",), 128)),
]
SHARP = [
    row(0.0, 1.0, dy=exactly(1.0, 2.0), taus=(1e-40,), tau_dtype=F32),
    row(0.0, 1.0, dy=exactly(1.0, 2.0), taus=(1e-40,)),
    row(0.0, 1.0, dy=exactly(1.0, 2.0), dtype=F16, taus=(1e-5,)),
    row(0.0, 1.0, dy=exactly(1.0, 2.0), taus=(1e-46,)),
    row(0.0, 0.0, dy=exactly(1e-10, 0.0), taus=(1e-44,), tau_dtype=F64),
    row(0.0, 1e-40, dy=exactly(1e-3, 2e-3), taus=(1e-40,), tau_dtype=F32),
    row(0.0, 1e-5, dy=exactly(1e-2, 2e-2), dtype=F16, taus=(1e-5,), tau_dtype=F32),
    row(0.0, 1.0, dy=exactly(1.0, 2.0), dtype=F16, taus=(1e-300,), tau_dtype=F64),
    Problem((5, 2), -2, logits=Numbers(("equal",)), dy=Numbers(("equal", "normal")), taus=(1 / 32,)),
    row(0.0, 1e-310, dy=exactly(1e-9, 2e-9), dtype=F64, taus=(1e-310,), tau_dtype=F64),
    Problem((3, 63), dtype=F16, logits=Numbers(("zeros",)), dy=Numbers(("normal",), 5), taus=(1e-3,), tau_dtype=F32),
]


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("op", [softmax, gumbel_softmax])
@pytest.mark.parametrize("way", ["backward", "create_graph", "forward mode"])
@examples(*INCOMING, *SHARP)
@given(problem=hard_inputs.problems(dy=True))
def test_gradients(way: str, op: Callable[..., torch.Tensor], hard: bool, problem: Problem) -> None:
    """Of logits and tau, or tangents: finite where the truth is, and some roundings off, however they are asked for."""
    x, tau, dy = problem.x().detach(), problem.tau(), problem.grad()
    p = op(x, tau, problem)
    if way == "forward mode":  # the Jacobian is symmetric: a tangent comes out as a gradient would
        found = [tangent(op, problem, hard)]
    else:
        inputs = [x.requires_grad_(), *([tau.requires_grad_()] if isinstance(tau, torch.Tensor) else [])]
        found = gradients(op(x, tau, problem, hard), tuple(inputs), dy, way == "create_graph")
    limits = precision(p.dtype)
    p_rows, dy_rows = (reference.to_rows(a, problem.dim) for a in (p, dy))
    defined = ~np.isnan(p_rows).any(-1)
    taus, products = reference.row_values(tau, p, problem.dim), 1 if way == "backward" else 2
    expected = reference.vjp(p_rows, dy_rows, taus, *limits, products)
    dx = torch.from_numpy(reference.to_rows(found[0], problem.dim)).to(p.dtype)
    assert reference.within(dx[defined], expected[0][defined], expected[1][defined])
    if len(found) == 2:
        rows, error = expected[2], expected[3]
        if problem.one_tau or not problem.shape:
            if not defined.all() or np.abs(rows).sum() > LARGEST:
                return
            rows, error = rows.sum(keepdims=True), error.sum(keepdims=True)
            defined = np.ones(1, bool)
        assert reference.within(found[1].reshape(-1)[defined], rows[defined], error[defined])


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("op", [softmax, gumbel_softmax])
@examples(*SHARP)
@given(problem=hard_inputs.problems())
def test_tangent_of_tau(op: Callable[..., torch.Tensor], hard: bool, problem: Problem) -> None:
    """Finite, and that of logits along -log p; where p has lost digits of its own, as large as p at most."""
    problem = dataclasses.replace(problem, tau_dtype=problem.tau_dtype or F64)
    p, tau = op(problem.x(), problem.tau(), problem), problem.tau()
    rows, taus = (reference.to_rows(p, problem.dim), reference.row_values(tau, p, problem.dim))
    defined, found = ~np.isnan(rows).any(-1), tangent(op, problem, hard, of_tau=True)
    limits, log_p = precision(p.dtype), np.log(np.where(rows > 0, rows, 1).astype(np.longdouble))
    expected, error, *_ = reference.vjp(rows, -log_p * taus, taus, *limits, 2)
    error += np.where(rows < limits[1] / limits[0], 100 * rows, 0)
    found = torch.from_numpy(reference.to_rows(found, problem.dim)).to(p.dtype)
    assert reference.within(found[defined], expected[defined], error[defined])


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("tau", [1e-300, 1e-46, 1e-40, 1e-5], ids=str)
def test_second_order_of_saturated_rows(tau: float, dtype: torch.dtype) -> None:
    """A row that is one class depends on nothing, to any order and at any tau."""
    x = torch.tensor([[0.0, 9.0, -5.0], [3e4, 1.0, 1.0]], dtype=dtype, requires_grad=True)
    dy = torch.tensor([[1.0, 2.0, -7.0], [0.5, 3.0, 1.0]], dtype=dtype, requires_grad=True)
    for taus in (tau, torch.full((2, 1), tau, dtype=F64)):
        (first,) = torch.autograd.grad(gumbel_ext.gumbel_softmax(x, taus, seed=1), x, dy, create_graph=True)
        assert all((grad == 0).all() for grad in (first, *torch.autograd.grad(first, (x, dy), torch.ones_like(x))))
