"""Tensors of other kinds than torch's own dense ones, as any argument: taken as torch's functions take them, or refused
in one sentence."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.masked import masked_tensor

import gumbel_ext

CLASSES = 5


class Watched(Tensor):
    """Sees what it is part of."""

    seen: ClassVar[list[Any]] = []

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.seen.append(function)
        return super().__torch_function__(function, types, args, kwargs or {})


ARGUMENTS: dict[str, dict[str, Callable[[], Tensor]]] = {
    "softmax": {"tau": lambda: torch.tensor(0.5), "mask": lambda: torch.arange(CLASSES) != 2},
    "straight_through": {"tau": lambda: torch.ones(3, 1), "mask": lambda: torch.arange(CLASSES) != 2},
    "gumbel_softmax": {
        "tau": lambda: torch.tensor(0.5),
        "mask": lambda: torch.arange(CLASSES) != 2,
        "seed": lambda: torch.arange(3),
    },
    "gumbel_max": {
        "temperature": lambda: torch.ones(3, 1),
        "mask": lambda: torch.arange(CLASSES) != 2,
        "seed": lambda: torch.arange(3),
    },
    "gumbel_noise": {"seed": lambda: torch.arange(3)},
    "relaxed_top_k": {
        "tau": lambda: torch.tensor(0.5),
        "mask": lambda: torch.arange(CLASSES) != 2,
        "seed": lambda: torch.arange(3),
    },
}
CELLS = [(function, name) for function, names in ARGUMENTS.items() for name in names]


@pytest.mark.parametrize(("function", "name"), CELLS)
def test_any_argument_overrides(function: str, name: str) -> None:
    """A subclass beside plain logits is asked, and comes out."""
    call, value = getattr(gumbel_ext, function), ARGUMENTS[function][name]()
    first = (3, CLASSES) if function == "gumbel_noise" else torch.randn(3, CLASSES)
    rest: dict[str, Any] = {} if name == "seed" or function in ("softmax", "straight_through") else {"seed": 1}
    rest |= {"k": 2} if function == "relaxed_top_k" else {}
    Watched.seen.clear()
    found = call(first, **{name: value.as_subclass(Watched)}, **rest)
    assert call in Watched.seen and type(found) is Watched
    assert torch.equal(found.as_subclass(Tensor), call(first, **{name: value}, **rest))


def sequences(grad: bool = False, transposed: bool = False) -> Tensor:
    rows = [torch.randn(2, CLASSES), torch.randn(0, CLASSES), torch.randn(4, CLASSES)]
    nested = torch.nested.nested_tensor(rows, layout=torch.jagged, requires_grad=grad)
    return nested.transpose(1, 2) if transposed else nested


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_jagged_tensors(transposed: bool, compiled: bool) -> None:
    """Values through, offsets kept: the shape goes with that of the logits, and the gradient comes back."""
    torch._dynamo.reset()
    x, dim = sequences(grad=True), 1 if transposed else -1
    logits = x.transpose(1, 2) if transposed else x

    def call(logits: Tensor) -> Tensor:
        y = gumbel_ext.gumbel_softmax(logits, 0.7, True, dim=dim, seed=3)
        return y * logits

    y = (torch.compile(call, backend="aot_eager", fullgraph=True) if compiled else call)(logits)
    rows = x.values().detach().requires_grad_()
    expected = gumbel_ext.gumbel_softmax(rows, 0.7, True, seed=3) * rows
    assert y.layout == torch.jagged and y.shape == logits.shape
    values = y.transpose(1, 2).values() if transposed else y.values()
    torch.testing.assert_close(values, expected)
    (found,) = torch.autograd.grad(values.square().sum(), x)
    torch.testing.assert_close(found.values(), torch.autograd.grad(expected.square().sum(), rows)[0])


def test_jagged_arguments() -> None:
    """A temperature, mask and seed for each row of each sequence, or the same for all."""
    x = sequences()
    values, ones = x.values(), x * 0 + 1
    tau, mask = (ones * 0.5).sum(-1, keepdim=True) / CLASSES, x > -1
    found = gumbel_ext.softmax(x, tau, mask=mask)
    assert torch.equal(found.values(), gumbel_ext.softmax(values, tau.values(), mask=mask.values()))
    same = torch.arange(CLASSES) != 2
    for mask in (same, same[None], same[None, None]):
        assert torch.equal(gumbel_ext.softmax(x, mask=mask).values(), gumbel_ext.softmax(values, mask=same))
    seeds = torch.nested.nested_tensor_from_jagged(torch.arange(len(values)), x.offsets())
    index = gumbel_ext.gumbel_max(x, torch.tensor(0.5), num_samples=3, seed=seeds)
    expected = gumbel_ext.gumbel_max(values, 0.5, num_samples=3, seed=seeds.values())
    assert index.layout == torch.jagged and torch.equal(index.values(), expected)


def test_jagged_tensors_with_holes() -> None:
    """Lengths stay as they are, and a mask has to have the same ones."""
    values, offsets, lengths = torch.randn(7, CLASSES), torch.tensor([0, 3, 7]), torch.tensor([2, 4])
    x = torch.nested.nested_tensor_from_jagged(values, offsets, lengths)
    y = gumbel_ext.softmax(x)
    for found, row in zip(y.unbind(), x.unbind(), strict=True):
        assert torch.equal(found, gumbel_ext.softmax(row))
    whole = torch.nested.nested_tensor_from_jagged(values > 0, offsets)
    with pytest.raises(ValueError, match="mask: expected a jagged tensor with the logits' own offsets"):
        gumbel_ext.softmax(x, mask=whole)


def refusals() -> dict[str, tuple[type[Exception], Callable[[], Any], str]]:
    x, nested, other = torch.randn(3, CLASSES), sequences(), sequences()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        masked = masked_tensor(x, x > 0)
        compressed = x.to_sparse_csr()
        strided = torch.nested.nested_tensor([x, x[:1]])
        quantized = torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)
    dense = "logits: expected a dense tensor"
    return {
        "MaskedTensor": (TypeError, lambda: gumbel_ext.softmax(masked), f"{dense} and `mask`, got a MaskedTensor"),
        "sparse": (TypeError, lambda: gumbel_ext.gumbel_max(x.to_sparse()), f"{dense}, got a Sparse one"),
        "sparse, compressed": (TypeError, lambda: gumbel_ext.softmax(compressed), f"{dense}, got a SparseCsr one"),
        "quantized": (TypeError, lambda: gumbel_ext.softmax(quantized), f"{dense}, got a quantized"),
        "nested, strided": (TypeError, lambda: gumbel_ext.softmax(strided), f"{dense}, got a nested Strided one"),
        "jagged mask": (TypeError, lambda: gumbel_ext.softmax(x, mask=nested > 0), "mask: expected a dense tensor"),
        "along what is ragged": (
            ValueError,
            lambda: gumbel_ext.softmax(nested, dim=1),
            "dim: expected a regular dimension of a jagged tensor, neither 0 nor 1, got 1",
        ),
        "along the batch": (ValueError, lambda: gumbel_ext.gumbel_max(nested, dim=-3), "neither 0 nor 1, got -3"),
        "out of range": (IndexError, lambda: gumbel_ext.softmax(nested, dim=3), "dim: expected one in [-3, 2], got 3"),
        "other offsets": (
            ValueError,
            lambda: gumbel_ext.softmax(nested, mask=other > 0),
            "mask: expected a jagged tensor with the logits' own offsets, got another nested tensor",
        ),
        "a temperature a sequence": (
            ValueError,
            lambda: gumbel_ext.softmax(nested, torch.ones(3, 1, 1)),
            "tau: expected a jagged tensor with the logits' own offsets, or one of size 1 there and along the batch",
        ),
        "dense seeds": (ValueError, lambda: gumbel_ext.gumbel_max(nested, seed=torch.arange(6)), "got a dense tensor"),
    }


@pytest.mark.parametrize("name", refusals())
def test_what_is_refused(name: str) -> None:
    """One sentence, as for plain tensors, and nothing drawn."""
    kind, call, message = refusals()[name]
    state = torch.get_rng_state()
    with pytest.raises(kind, match=re.escape(message)) as error:
        call()
    assert "\n" not in str(error.value).strip()
    assert torch.equal(torch.get_rng_state(), state)
