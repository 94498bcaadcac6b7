"""The operations as nodes of torch's graph: what is kept, freed, noticed, computed and transformed."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from test_gradients import HARD, OPERATIONS, RELAXED, TAUS, logits

import gumbel_ext


@pytest.mark.parametrize("name", OPERATIONS)
def test_graph_is_kept_and_freed_as_any(name: str) -> None:
    """retain_graph allows a second pass with the same result; without it there is none."""
    x = logits(4, 6)
    y, weight = OPERATIONS[name](x), torch.randn(4, 6, dtype=torch.float64)
    first = torch.autograd.grad(y, x, weight, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(y, x, weight)[0], first)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y, x, weight)


@pytest.mark.parametrize("name", RELAXED)
def test_output_changed_in_place_is_noticed(name: str) -> None:
    """The output is what backward keeps: changing it is an error, not a wrong gradient."""
    y = OPERATIONS[name](logits(4, 6))
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("name", HARD)
def test_one_hot_may_be_changed_in_place(name: str) -> None:
    """As in torch's composition, backward does not need the one-hot."""
    x, weight = logits(4, 6), torch.randn(4, 6, dtype=torch.float64)
    expected = torch.autograd.grad(OPERATIONS[name](x), x, 2 * weight)[0]
    assert torch.equal(torch.autograd.grad(OPERATIONS[name](x).mul_(2), x, weight)[0], expected)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("tau", ["number", "rows"])
def test_memory_kept_for_backward(name: str, tau: str) -> None:
    """Relaxed: the output alone. One-hot: one tensor of the logits' size. And tau, where it is one."""
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = OPERATIONS[name](logits(4, 5), TAUS[tau])
    large = [t for t in kept if t.numel() == y.numel()]
    assert len(large) == 1 and len(kept) == 1 + (tau == "rows")
    assert (large[0].data_ptr() == y.data_ptr()) == (name in RELAXED)


@pytest.mark.parametrize("name", OPERATIONS)
def test_only_what_is_asked_for_is_computed(name: str) -> None:
    """tau alone, logits alone, neither; and under no_grad nothing is recorded."""
    x, tau, op = logits(4, 5), torch.tensor(0.8, dtype=torch.float64, requires_grad=True), OPERATIONS[name]
    both = torch.autograd.grad(op(x, tau)[0, 0], (x, tau))
    assert torch.equal(torch.autograd.grad(op(x.detach(), tau)[0, 0], tau)[0], both[1])
    assert torch.equal(torch.autograd.grad(op(x, tau.detach())[0, 0], x)[0], both[0])
    assert torch.equal(torch.autograd.grad(op(x, tau)[0, 0], tau)[0], both[1])
    assert not op(x.detach(), tau.detach()).requires_grad
    with torch.no_grad():
        assert not op(x, tau).requires_grad
    assert not gumbel_ext.gumbel_max(x).requires_grad


@pytest.mark.parametrize("name", OPERATIONS)
def test_function_transforms(name: str) -> None:
    """torch.func's grad, jacrev, hessian-vector products and vmap agree with autograd and with loops."""
    x, weight, op = logits(4, 6).detach(), torch.randn(4, 6, dtype=torch.float64), OPERATIONS[name]
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad(op(leaf, 0.7), leaf, weight)[0]
    torch.testing.assert_close(torch.func.grad(lambda a: (op(a, 0.7) * weight).sum())(x), expected)
    torch.testing.assert_close(torch.func.vjp(lambda a: op(a, 0.7), x)[1](weight)[0], expected)
    loop = torch.stack([op(row, 0.7) for row in x])
    torch.testing.assert_close(torch.func.vmap(lambda row: op(row, 0.7), randomness="same")(x), loop)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0,), (2, 0, 3)], ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_gradient_of_nothing(name: str, shape: tuple[int, ...]) -> None:
    """Empty batches and classes have empty gradients, and tau's is zero."""
    x, tau = logits(*shape), torch.tensor(1.0, requires_grad=True)
    OPERATIONS[name](x, tau).sum().backward()
    assert x.grad.shape == shape and tau.grad.item() == 0


@pytest.mark.parametrize("name", ["softmax", "gumbel_softmax", "straight_through", "gumbel_softmax_hard"])
@pytest.mark.parametrize("hooked", [False, True])
def test_backward_overwrites_nothing_that_is_held(name: str, hooked: bool) -> None:
    """The last backward may reuse the saved tensor's memory, but not where somebody else still holds it."""
    held: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor.detach())
        return tensor

    x = torch.randn(6, 40, requires_grad=True)
    operation = getattr(gumbel_ext, name.removesuffix("_hard"))
    kwargs = {"seed": 1} if name.startswith("gumbel") else {}
    kwargs |= {"hard": True} if name.endswith("_hard") else {}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor) if hooked else nullcontext():
        y = operation(x, 0.7, **kwargs)
    held.append(y.detach())
    before = [tensor.clone() for tensor in held]
    upstream = torch.randn_like(y)
    (kept,) = torch.autograd.grad(y, x, upstream, retain_graph=True)
    (last,) = torch.autograd.grad(y, x, upstream)
    assert torch.equal(kept, last) and not last.requires_grad
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(held, before, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y, x, upstream)


def test_internal_operators_write_on_what_they_declare_and_nothing_else() -> None:
    """In place, what was written has a new version, and what cannot be written on is refused; others only read."""
    ops = torch.ops.gumbel_ext
    grad, relaxed = torch.randn(3, 5), torch.rand(3, 5)
    expected, _ = ops._backward(grad, relaxed, 1.0, None, -1, True, False)
    assert ops._backward(grad, relaxed, 1.0, None, -1, False, False) == (None, None) and relaxed._version == 0
    ops._backward_(grad, relaxed, 1.0, None, -1, False)
    assert torch.equal(relaxed, expected) and relaxed._version == 1
    refused = {
        "more than one element": (grad, torch.rand(1, 5).expand(3, 5)),
        "some elements of the input": (relaxed, relaxed),
        "a leaf Variable that requires grad": (grad, torch.rand(3, 5).requires_grad_()),
    }
    for message, arguments in refused.items():
        before = arguments[1].detach().clone()
        with pytest.raises(RuntimeError, match=message):
            ops._backward_(*arguments, 1.0, None, -1, False)
        assert torch.equal(arguments[1], before) and arguments[1]._version == 0 + (arguments[1] is relaxed)
    for like in (torch.rand(1, 5).expand(3, 5), torch.rand(3, 5).requires_grad_()):
        before = like.detach().clone()
        ops._noise(like, 1, None, None)
        assert torch.equal(like, before) and like._version == 0
