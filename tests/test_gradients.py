"""Gradients: the tempered softmax's, for every differentiable operation, to any order and in both modes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import gumbel_ext

INF = float("inf")
Operation = Callable[..., torch.Tensor]
OPERATIONS: dict[str, Operation] = {
    "softmax": gumbel_ext.softmax,
    "straight_through": gumbel_ext.straight_through,
    "gumbel_softmax": functools.partial(gumbel_ext.gumbel_softmax, seed=13),
    "hard": functools.partial(gumbel_ext.gumbel_softmax, hard=True, seed=13),
}
RELAXED_OF = {"softmax": "softmax", "straight_through": "softmax", "gumbel_softmax": "gumbel_softmax",
              "hard": "gumbel_softmax"}  # fmt: skip
RELAXED = ["softmax", "gumbel_softmax"]
HARD = ["straight_through", "hard"]
TAUS: dict[str, Any] = {
    "number": 0.7, "scalar": torch.tensor(0.7), "one": torch.tensor([[0.7]]),
    "float32 scalar": torch.tensor(0.5), "rows": torch.linspace(0.3, 2, 4)[:, None],
}  # fmt: skip


def logits(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 2).to(dtype).requires_grad_()


def composed(name: str, x: torch.Tensor, tau: Any, dim: int = -1, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The same operation put together from torch's own."""
    u = x.movedim(dim, -1)
    if RELAXED_OF[name] == "gumbel_softmax":
        u = u + gumbel_ext.gumbel_noise(u.shape, seed=13, dtype=x.dtype)
    u = u.movedim(-1, dim) / tau
    if mask is not None:  # after the division, which would make NaN of -inf in tau's gradient
        u = u.masked_fill(~mask, -INF)
    p = torch.softmax(u, dim)
    if name not in HARD:
        return p
    return torch.zeros_like(p).scatter(dim, u.argmax(dim, keepdim=True), 1.0) - p.detach() + p


def inputs(x: torch.Tensor, tau: Any) -> tuple[torch.Tensor, ...]:
    return (x, tau.clone().double().requires_grad_()) if isinstance(tau, torch.Tensor) else (x,)


def bind(name: str, tau: Any, **kwargs: Any) -> Operation:
    op = OPERATIONS[name]
    return lambda x, t=tau: op(x, t, **kwargs)


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("dim", [-1, 0])
@pytest.mark.parametrize("name", RELAXED)
def test_gradcheck(name: str, dim: int, tau: str) -> None:
    """First and second order against differences, with respect to logits and tau."""
    value = TAUS[tau].T if tau == "rows" and dim == 0 else TAUS[tau]
    args = inputs(logits(4, 5) if dim == -1 else logits(5, 4), value)
    assert gradcheck(bind(name, value, dim=dim), args)
    assert gradgradcheck(bind(name, value, dim=dim), args)


@pytest.mark.parametrize("tau_shape", [(), (1,), (1, 1, 1), (3, 1), (2, 1, 1), (1, 3, 1), (2, 3, 1)], ids=str)
@pytest.mark.parametrize("name", RELAXED)
def test_gradcheck_of_every_tau_shape(name: str, tau_shape: tuple[int, ...]) -> None:
    """tau's gradient has tau's shape, summed over what it was broadcast along."""
    tau = (torch.rand(tau_shape, dtype=torch.float64) + 0.4).requires_grad_()
    assert gradcheck(bind(name, None), (logits(2, 3, 4), tau))
    assert gradgradcheck(bind(name, None), (logits(2, 3, 4), tau))


@pytest.mark.parametrize("name", RELAXED)
def test_gradcheck_with_a_mask(name: str) -> None:
    """Masked classes take no part."""
    mask = torch.tensor([[True, False, True, True], [False, True, True, False], [True, True, True, True]])
    tau = torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64, requires_grad=True)
    assert gradcheck(bind(name, None, mask=mask), (logits(3, 4), tau))
    assert gradgradcheck(bind(name, None, mask=mask), (logits(3, 4), tau))


@pytest.mark.parametrize("name", RELAXED)
@pytest.mark.parametrize("tau", ["number", "rows"])
def test_gradcheck_in_forward_mode(name: str, tau: str) -> None:
    """Forward-mode derivatives, alone and over backward."""
    args = inputs(logits(4, 5), TAUS[tau])
    assert gradcheck(bind(name, TAUS[tau]), args, check_forward_ad=True, check_backward_ad=False)
    assert gradgradcheck(
        bind(name, TAUS[tau]),
        args,
        check_fwd_over_rev=True,
        check_rev_over_rev=False,
        check_undefined_grad=False,
    )


ops, ROWS = torch.ops.gumbel_ext, torch.linspace(0.4, 2, 4, dtype=torch.float64)[:, None]
# Every operator whose value is differentiable, as a function of logits, and of temperatures where it has them.
OPERATORS: dict[str, Operation] = {
    "softmax.default": lambda x: ops.softmax.default(x, 0.7, dim=0),
    "softmax.tau_tensor": lambda x, tau: ops.softmax.tau_tensor(x, tau, mask=torch.arange(5) != 2),
    "gumbel_softmax.default": lambda x: ops.gumbel_softmax.default(x, 2, seed=3),
    "gumbel_softmax.tau_tensor": lambda x, tau: ops.gumbel_softmax.tau_tensor(x, tau, seed=3),
    "gumbel_softmax.seed_tensor": lambda x: ops.gumbel_softmax.seed_tensor(x, 0.5, seed=torch.arange(4)),
    "gumbel_softmax.tensors": lambda x, tau: ops.gumbel_softmax.tensors(x, tau, seed=torch.arange(4)),
    "_relaxed": lambda x, tau: ops._relaxed(x, None, 1.0, tau, True, 7, None, None, -1),
    "_one_hot_relaxed": lambda x, tau: ops._one_hot_relaxed(x, None, 1.0, tau, True, 7, None, None, -1)[1],
}


@pytest.mark.filterwarnings("ignore:.*batching rule")
@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_by_differences(name: str) -> None:
    """First and second derivatives in both modes and across them, one by one and batched."""
    function = OPERATORS[name]
    takes_tau = "tau" in function.__code__.co_varnames
    args = (logits(4, 5), ROWS.clone().requires_grad_()) if takes_tau else (logits(4, 5),)
    assert gradcheck(function, args, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradgradcheck(function, args, check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("name", OPERATIONS)
def test_tangent_is_that_of_the_relaxed(name: str) -> None:
    """Forward mode of a one-hot sample is the relaxed one's, as in the composition."""
    x, tau = logits(4, 5).detach(), torch.tensor(0.6, dtype=torch.float64)
    dx, dtau = torch.randn_like(x), torch.tensor(0.3, dtype=torch.float64)
    tangents = []
    for op in (OPERATIONS[name], functools.partial(composed, name)):
        with forward_ad.dual_level():
            y = op(forward_ad.make_dual(x, dx), forward_ad.make_dual(tau, dtau))
            tangents.append(forward_ad.unpack_dual(y).tangent)
    torch.testing.assert_close(*tangents)


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(6, 5), (2, 3000)], ids=str)
@pytest.mark.parametrize("dim", [-1, 0])
def test_one_hot_has_the_gradient_of_the_relaxed(name: str, shape: Any, dim: int, dtype: torch.dtype) -> None:
    """Bit for bit: it is one backward kernel on the same p."""
    x = logits(*shape, dtype=dtype)
    row_shape = [n if d != dim % 2 else 1 for d, n in enumerate(shape)]
    tau = (torch.rand(row_shape) + 0.3).to(dtype).requires_grad_()
    weight = torch.randn(shape).to(dtype)
    mask = torch.rand(shape) < 0.8
    mask[0], mask[:, 0] = True, True
    hard, relaxed = (
        torch.autograd.grad(OPERATIONS[n](x, tau, dim=dim, mask=mask), (x, tau), weight)
        for n in (name, RELAXED_OF[name])
    )
    assert torch.equal(hard[0], relaxed[0]) and torch.equal(hard[1], relaxed[1])


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("tau", ["number", "scalar", "row", "rows"])
@pytest.mark.parametrize("dim", [-1, 1, 0])
@pytest.mark.parametrize("masked", [False, True])
def test_stands_in_for_the_composition(name: str, tau: str, dim: int, masked: bool) -> None:
    """Value, gradients and second-order gradients are those of the formula written in torch."""
    x = logits(5, 6, 7)
    row_shape = [1 if d == dim % 3 else n for d, n in enumerate(x.shape)]
    of_rows = torch.linspace(0.4, 2, x.numel() // x.shape[dim]).reshape(row_shape)
    value = {
        "number": 0.7,
        "scalar": torch.tensor(0.7),
        "row": of_rows.flatten()[0].reshape(1),
        "rows": of_rows,
    }[tau]
    mask = (torch.arange(x.numel()).reshape(x.shape).remainder(4) != 1) if masked else None
    args = inputs(x, value)
    weight, second = torch.randn_like(x), torch.randn_like(x)
    results = []
    for op in (OPERATIONS[name], functools.partial(composed, name)):
        y = op(args[0], args[1] if len(args) > 1 else value, dim=dim, mask=mask)
        first = torch.autograd.grad(y, args, weight, create_graph=True)
        again = torch.autograd.grad((first[0] * second).sum() + sum(f.sum() for f in first[1:]), args)
        results.append((y, *first, *again))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("tau", [1e-300, 1e-40, 1e-30, 0.5, 1e30, 1e40])
def test_gradient_of_excluded_classes_is_exactly_zero(name: str, dtype: torch.dtype, tau: float) -> None:
    """-inf logits and masked classes get gradient 0, at any tau, and finite inputs give no NaN."""
    x = torch.tensor([[0.0, -INF, 1.0, 5.0], [-INF, -INF, 2.0, 30.0]], dtype=dtype, requires_grad=True)
    mask = torch.tensor([True, True, True, False])
    y = OPERATIONS[name](x, tau, mask=mask)
    (grad,) = torch.autograd.grad(y, x, torch.tensor([[1.0, 2.0, 0.5, -4.0]] * 2).to(dtype))
    excluded = x.isneginf() | ~mask
    assert (grad[excluded] == 0).all()
    assert not grad.isnan().any()
    assert (grad[1] == 0).all()  # one class is left, so nothing depends on its logit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_large_incoming_gradients(dtype: torch.dtype) -> None:
    """Finite gradients near the largest number give no NaN where p is 0."""
    x = torch.tensor([0.0, 0.0, -INF], dtype=dtype, requires_grad=True)
    big = torch.finfo(dtype).max * 0.9
    gumbel_ext.softmax(x).backward(torch.tensor([big, big, -big], dtype=dtype))
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("shape", "dim"), [((50, 7), -1), ((7, 50), 0), ((3, 5000), 1), ((2049, 3), 0)], ids=str)
@pytest.mark.parametrize("tau", [0.2, 1.0, 7.0])
def test_accuracy_of_the_backward(shape: tuple[int, int], dim: int, tau: float, dtype: torch.dtype) -> None:
    """A few roundings of the terms, whatever the number of classes."""
    p = torch.softmax(logits(*shape, dtype=dtype).detach(), dim)
    dy = torch.randn(shape, dtype=dtype)
    found, _ = torch.ops.gumbel_ext._backward(dy, p, tau, None, dim, True, False)
    wide, p = dy.to(torch.float64), p.to(torch.float64)
    expected = p * (wide - (p * wide).sum(dim, True)) / tau
    size = p * (wide.abs() + (p * wide.abs()).sum(dim, True)) / tau
    assert ((found - expected).abs() <= 8 * torch.finfo(dtype).eps * size).all()


@pytest.mark.parametrize("name", RELAXED)
@pytest.mark.parametrize("scale", [1.0, 60.0, 600.0])
def test_tau_gradient_is_the_same_with_and_without_a_graph(name: str, scale: float) -> None:
    """create_graph changes how the gradient is computed, not what it is."""
    x = torch.tensor([[0.0, -0.9], [-1.0, 0.1]], dtype=torch.float64, requires_grad=True) * scale
    tau = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    y = OPERATIONS[name](x, tau)
    plain, graph = (torch.autograd.grad(y, tau, weight, create_graph=c, retain_graph=True)[0] for c in (False, True))
    torch.testing.assert_close(plain, graph, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("dim", [-1, 0])
@pytest.mark.parametrize("n", [70, 150])
def test_expanded_and_strided_incoming_gradients(name: str, dtype: torch.dtype, dim: int, n: int) -> None:
    """y.sum() hands back one number for all; other strides are as good."""
    x = logits(n, n, dtype=dtype)
    y = OPERATIONS[name](x, 0.5, dim=dim)
    for grad in (torch.ones(()).to(dtype).expand(n, n), torch.randn(n, 2 * n).to(dtype)[:, ::2],
                 torch.randn(n, n).to(dtype).T, torch.randn(n, 1).to(dtype).expand(-1, n)):  # fmt: skip
        found = torch.autograd.grad(y, x, grad, retain_graph=True)[0]
        assert torch.equal(found, torch.autograd.grad(y, x, grad.contiguous(), retain_graph=True)[0])
    x.grad = None
    y.sum().backward()
    assert x.grad.abs().max() < 8 * torch.finfo(dtype).eps


FAR: list[tuple[torch.dtype, float, list[float], list[float], list[float]]] = [
    (torch.float64, 2.0**-510, [0, 0], [2.0**-1060, 0], [2.0**-552, -(2.0**-552)]),
    (torch.float64, 2.0**-502, [0, 0], [2.0**-1060, 0], [2.0**-560, -(2.0**-560)]),
    (torch.float64, 2.0**520, [0, 0], [1.125 * 2.0**-500, 0], [1.125 * 2.0**-1022, -1.125 * 2.0**-1022]),
    (torch.float32, 2.0**-59, [0, -70 * 2.0**-59], [0, 2.0**-60], [-1.99e-31, 1.99e-31]),
    (torch.float32, 2.0**-61, [0, -70 * 2.0**-61], [0, 2.0**-60], [-7.95e-31, 7.95e-31]),
    (torch.float32, 1e-35, [0, 0], [2.0**-149, 0], [3.5e-11, -3.5e-11]),
]


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize(("dtype", "tau", "x", "dy", "expected"), FAR, ids=str)
def test_tau_far_from_one_loses_nothing(
    dtype: torch.dtype, tau: float, x: list[float], dy: list[float], expected: list[float], create_graph: bool,
    as_tensor: bool,
) -> None:  # fmt: skip
    """Products beyond the dtype's range on the way to a gradient within it."""
    logits, weight = torch.tensor(x, dtype=dtype, requires_grad=True), torch.tensor(dy, dtype=dtype)
    y = gumbel_ext.softmax(logits, torch.tensor(tau, dtype=torch.float64) if as_tensor else tau)
    (found,) = torch.autograd.grad(y, logits, weight, create_graph=create_graph)
    torch.testing.assert_close(found.detach(), torch.tensor(expected, dtype=dtype), rtol=0.01, atol=0)


def test_tau_counts_classes_of_subnormal_probability() -> None:
    """p dy log p is large where dy is."""
    tau = torch.tensor(1.0, requires_grad=True)
    y = gumbel_ext.softmax(torch.tensor([0.0, -89.5]), tau)
    (found,) = torch.autograd.grad(y, tau, torch.tensor([0.0, 1e38]))
    torch.testing.assert_close(found, torch.tensor(12.09), rtol=0.01, atol=0)


def test_a_lazy_copy_is_read_where_it_lies() -> None:
    """Inputs are only read: torch's copy on write makes no copy."""
    x = torch._lazy_clone(torch.randn(3, 4))
    gumbel_ext.gumbel_softmax(x, hard=True)
    gumbel_ext.gumbel_max(x, mask=torch._lazy_clone(torch.ones(3, 4, dtype=torch.bool)))
    assert torch._C._is_cow_tensor(x)
