"""Log-probabilities of relaxed samples (`_log_relaxed`, behind ExpRelaxedCategorical): values, gradients, contexts."""

from __future__ import annotations

import functools
import math
from typing import Any

import hard_inputs
import numpy as np
import on_device
import pytest
import reference
import torch
from hard_inputs import LARGEST, SMALLEST, Numbers, Problem
from hypothesis import given
from test_hard_inputs import BEYOND, FAINT, FAR, LATER, examples, row
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import gumbel_ext
from gumbel_ext import distributions

INF = math.inf
F16, F32, F64 = torch.float16, torch.float32, torch.float64


def log_relaxed(
    x: torch.Tensor, tau: Any = 1.0, dim: int = -1, mask: Any = None, seed: Any = 9, noise: bool = True
) -> torch.Tensor:
    number, rows = (1.0, tau) if isinstance(tau, torch.Tensor) else (tau, None)
    seeds = (None, seed) if isinstance(seed, torch.Tensor) else ((seed + 2**63) % 2**64 - 2**63, None)
    return torch.ops.gumbel_ext._log_relaxed(x, mask, number, rows, noise, *seeds, None, dim)


def expected_logarithms(scores: reference.Array, taus: reference.Array) -> reference.Array:
    """(s - max) / tau - log(sum) in the widest type."""
    scores, taus = scores.astype(np.longdouble), taus.astype(np.longdouble)
    with np.errstate(all="ignore"):
        quotients = (scores - scores.max(-1, keepdims=True)) / taus
        return quotients - np.log(np.exp(quotients).sum(-1, keepdims=True))


def check(problem: Problem, noise: bool) -> None:
    """Within eps (8 + 4 |y|), eps = 2^-24 (2^-53), of the logarithm for the rounded scores; and one rounding to 16
    bits. NaN where the softmax is undefined, -inf where a score is, or where y leaves the dtype."""
    x, tau, dim, mask, seeds = problem.x(), problem.tau(), problem.dim, problem.mask(), problem.seeds()
    found = log_relaxed(x, tau, dim, mask, seeds, noise)
    assert found.shape == x.shape and found.dtype == x.dtype
    if x.numel() == 0:
        return
    scores, taus = reference.to_rows(x, dim, mask), reference.row_values(tau, x, dim)
    if noise:
        scores = scores + reference.noise(seeds, *scores.shape, scores.dtype)
    undefined = ~np.isfinite(scores.max(-1))
    expected, rows = expected_logarithms(scores, taus)[~undefined], reference.to_rows(found, dim)
    assert np.isnan(rows[undefined]).all()
    error = np.finfo(scores.dtype).eps / 2 * (8 + 4 * np.where(np.isfinite(expected), np.abs(expected), 0))
    assert reference.within(torch.from_numpy(rows[~undefined]).to(x.dtype), expected, error)


TEMPERATURES = [
    Problem((3, 65), dtype=dtype, taus=(tau,)) for dtype in (F32, F64) for tau in (SMALLEST, 1e-310, 1e300, LARGEST)
]
SPREAD = [
    row(1.5e308, -1.7e308, 0.0, dtype=F64, taus=(1e10,)),
    row(2.0**980, -LARGEST, dtype=F64, taus=(4.0,)),
    row(0.0, -SMALLEST, -3 * SMALLEST, dtype=F64, taus=(SMALLEST,)),
    row(0.0, -INF, -INF, 4.0),
    Problem((2, 4097), logits=Numbers(holes=0.95), taus=(0.01,)),
    Problem((2, 4097), logits=Numbers(("magnitudes",), 127), taus=(3e38,), tau_dtype=F32),
    row(0.0, -60000.0, 7.0, dtype=F16, taus=(0.5,)),
]


@pytest.mark.parametrize("noise", [False, True])
@examples(*FAINT, *FAR, *LATER, *BEYOND, *TEMPERATURES, *SPREAD)
@given(problem=hard_inputs.problems(finite=False, empty=True))
def test_values(problem: Problem, noise: bool) -> None:
    check(problem, noise)


@pytest.mark.skipif(on_device.is_gpu(), reason="threads are the CPU's")
@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(500, 7), (33, 300), (1, 40_000), (3, 20_001)], ids=str)
def test_same_bits_for_any_number_of_threads(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """And for any batch."""
    x, threads = torch.randn(shape, dtype=F64).mul(5).to(dtype), torch.get_num_threads()
    whole = log_relaxed(x, 0.3)
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            assert torch.equal(log_relaxed(x, 0.3), whole)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(log_relaxed(x[:1], 0.3), whole[:1])
    assert torch.equal(log_relaxed(x.T, 0.3, dim=0), whole.T)


def logits(*shape: int, dtype: torch.dtype = F64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (torch.randn(shape, generator=generator, dtype=F64) * 2).to(dtype).requires_grad_()


def composed(x: torch.Tensor, tau: Any, dim: int = -1, mask: Any = None) -> torch.Tensor:
    u = x.movedim(dim, -1)
    u = (u + gumbel_ext.gumbel_noise(u.shape, seed=9, dtype=x.dtype)).movedim(-1, dim) / tau
    return torch.log_softmax(u if mask is None else u.masked_fill(~mask, -INF), dim)


ROWS = torch.linspace(0.3, 2, 4, dtype=F64)[:, None]
TAUS: dict[str, Any] = {"number": 0.7, "scalar": torch.tensor(0.7, dtype=F64), "rows": ROWS}


@pytest.mark.parametrize("dim", [-1, 0])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("tau", TAUS)
def test_gradients_are_torchs(tau: str, masked: bool, dim: int) -> None:
    """First and second order, of float64, as those of torch.log_softmax; what is excluded has gradient 0."""
    x, value = logits(4, 5), TAUS[tau] if dim == -1 or tau != "rows" else torch.linspace(0.3, 2, 5, dtype=F64)[None]
    mask = torch.arange(20).view(4, 5).remainder(4).ne(1) if masked else None
    inputs = (x, value.clone().requires_grad_()) if isinstance(value, torch.Tensor) else (x,)
    weight, second = logits(5, 4).detach().T, logits(4, 5, 1).detach()[..., 0]
    results = []
    for op in (log_relaxed, composed):
        y = op(inputs[0], inputs[1] if len(inputs) > 1 else value, dim=dim, mask=mask)
        finite = y if mask is None else y.masked_fill(~mask, 0)
        kept = torch.autograd.grad(y, inputs, weight if mask is None else weight * mask, retain_graph=True)
        first = torch.autograd.grad(finite, inputs, weight, create_graph=True)
        again = torch.autograd.grad((first[0] * second).sum() + sum(f.sum() for f in first[1:]), inputs)
        results.append((finite, *kept, *first, *again))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    if mask is not None:
        (grad,) = torch.autograd.grad(log_relaxed(x, value, dim=dim, mask=mask), x, torch.ones_like(x))
        assert (grad[~mask] == 0).all() and grad.isfinite().all()


@pytest.mark.filterwarnings("ignore:.*batching rule")
@pytest.mark.parametrize("tau", TAUS)
def test_by_differences(tau: str) -> None:
    """First and second derivatives in both modes, one by one and batched."""
    value = TAUS[tau]
    args = (logits(4, 5), value.clone().requires_grad_()) if isinstance(value, torch.Tensor) else (logits(4, 5),)

    def op(x: torch.Tensor, tau: Any = value) -> torch.Tensor:
        return log_relaxed(x, tau)

    assert gradcheck(op, args, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradgradcheck(op, args, check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("shape", [(3, 40), (2, 5000)], ids=str)
@pytest.mark.parametrize("tau", [0.05, 1.0, 7.0])
def test_accuracy_of_the_gradient(tau: float, shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Some roundings of the terms, against float64 autograd of torch.log_softmax on the rounded scores."""
    x, dy = logits(*shape, dtype=dtype), logits(*shape[::-1], dtype=dtype).detach().T
    value = torch.tensor(tau, requires_grad=True)
    dx, dtau = torch.autograd.grad(log_relaxed(x, value), (x, value), dy)
    scores = (x.detach() + gumbel_ext.gumbel_noise(shape, seed=9, dtype=dtype)).double().requires_grad_()
    wide = value.detach().double().requires_grad_()
    y = torch.log_softmax((scores - scores.detach().amax(-1, keepdim=True)) / wide, -1)
    expected, expected_tau = torch.autograd.grad(y, (scores, wide), dy.double())
    p, eps = y.detach().exp(), torch.finfo(dtype).eps
    size = (dy.abs() + p * (1 - y.detach()) * dy.abs().sum(-1, keepdim=True)) / tau
    assert ((dx - expected).abs() <= 8 * eps * size + 1e-44).all()
    torch.testing.assert_close(dtau.double(), expected_tau, rtol=1e-4, atol=1e-4 * float(expected_tau.abs()))


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_large_incoming_gradients(as_tensor: bool, create_graph: bool, dtype: torch.dtype) -> None:
    """The gradient is finite where the true one is, also where the sum of what comes in is not."""
    big = torch.finfo(dtype).max
    x = torch.zeros(4, dtype=dtype, requires_grad=True)
    tau = torch.tensor(1.0, dtype=F64) if as_tensor else 1.0
    for dy, expected in (([big] * 4, [0.0] * 4), ([big, big, -big, -big], [big, big, -big, -big])):
        y = log_relaxed(x, tau, noise=False)
        (dx,) = torch.autograd.grad(y, x, torch.tensor(dy, dtype=dtype), create_graph=create_graph)
        torch.testing.assert_close(dx.detach(), torch.tensor(expected, dtype=dtype), rtol=0, atol=0)


@pytest.mark.parametrize("tau", [SMALLEST, 1e-300, 1e-40, 1e-5, 1e30, 1e300, LARGEST])
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_gradients_at_any_temperature(dtype: torch.dtype, tau: float) -> None:
    """Of one class and of excluded ones: 0, and never NaN."""
    x = torch.tensor([[0.0, -INF, -INF], [3.0, -INF, 1.0]], dtype=dtype, requires_grad=True)
    for value in (tau, torch.tensor(tau, dtype=F64, requires_grad=True)):
        y = log_relaxed(x, value)
        (dx,) = torch.autograd.grad(y, x, torch.tensor([[2.0, 1.0, 0.0], [1.0, 0.0, 1.0]], dtype=dtype))
        assert not dx.isnan().any() and (dx[x.isneginf()] == 0).all()


@pytest.mark.parametrize("tau", TAUS)
def test_forward_mode(tau: str) -> None:
    x, dx, value = logits(4, 5).detach(), torch.randn(4, 5, dtype=F64), TAUS[tau]
    tangents = []
    for op in (log_relaxed, composed):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(value, value * 0.3) if isinstance(value, torch.Tensor) else value
            tangents.append(forward_ad.unpack_dual(op(forward_ad.make_dual(x, dx), dual)).tangent)
    torch.testing.assert_close(*tangents)


def test_vmap() -> None:
    """A call with a seed is what a loop gives; so are its gradients and tangents."""
    x, taus = logits(3, 4, 5).detach(), torch.linspace(0.3, 2, 3, dtype=F64)
    loss = lambda x, tau: log_relaxed(x, tau).square().sum()  # noqa: E731
    for op in (log_relaxed, torch.func.grad(loss, (0, 1)), torch.func.hessian(loss)):
        found = torch.func.vmap(op)(x, taus)
        each = [op(*pair) for pair in zip(x, taus, strict=True)]
        loop = (
            torch.stack(each) if isinstance(found, torch.Tensor) else tuple(map(torch.stack, zip(*each, strict=True)))
        )
        torch.testing.assert_close(found, loop)


SCHEMAS = [
    (logits(3, 5, dtype=F32), torch.arange(5) != 3, 0.5, None, True, 1, None, None, -1),
    (logits(3, 5, dtype=F32), None, 1.0, torch.linspace(0.5, 2, 3)[:, None].requires_grad_(), True, 3, None, None, 1),
]


@pytest.mark.parametrize("args", SCHEMAS, ids=["number", "rows"])
def test_opcheck(args: tuple[Any, ...]) -> None:
    torch.library.opcheck(torch.ops.gumbel_ext._log_relaxed.default, args)


def compiled_step(x: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
    return log_relaxed(x, tau).cos()


@pytest.mark.parametrize("tau", TAUS)
def test_compiled(tau: str) -> None:
    """Forward and backward under a compiler, and the backward of an eager forward under compiled autograd."""
    torch._dynamo.reset()
    x, value = logits(4, 5), TAUS[tau]
    inputs = (x, value.clone().requires_grad_()) if isinstance(value, torch.Tensor) else (x,)
    op = functools.partial(compiled_step, tau=value) if len(inputs) == 1 else compiled_step
    expected = torch.autograd.grad(op(*inputs).sum(), inputs)
    found = torch.autograd.grad(torch.compile(op, backend="aot_eager", fullgraph=True)(*inputs).sum(), inputs)
    torch.testing.assert_close(found, expected)
    y = op(*inputs).sum()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
        y.backward()
    torch.testing.assert_close(tuple(tensor.grad for tensor in inputs), expected)


def test_two_compiled_draws_differ() -> None:
    torch._dynamo.reset()

    def draw(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        distribution = distributions.ExpRelaxedCategorical(torch.tensor(0.5), logits=x, validate_args=False)
        return distribution.rsample(), distribution.rsample()

    first, second = torch.compile(draw, backend="aot_eager", fullgraph=True)(logits(3, 4).detach())
    assert not torch.equal(first, second)


def test_a_saturated_row_depends_on_its_logarithms_alone() -> None:
    """A probability that underflows leaves a logarithm, whose gradient is that of the difference of two logits."""
    x = torch.tensor([0.0, -300.0], requires_grad=True)
    y = log_relaxed(x, 0.5, noise=False)
    assert y.tolist() == [0.0, -600.0]
    (dx,) = torch.autograd.grad(y[1], x)
    assert dx.tolist() == [-2.0, 2.0]
