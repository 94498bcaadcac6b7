"""Tensors of other kinds than torch's own: whose class overrides functions, and jagged ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function


def overridden(function: Callable[..., Any], logits: Any, tensors: dict[str, Any], *, dim: int, **others: Any) -> Any:
    """``function(logits, dim=dim, **tensors, **others)``, of which `has_torch_function` holds, by what overrides it.

    Of jagged tensors (`torch.nested`, ``layout=torch.jagged``) along a regular dimension, it is the function of all
    rows together, with the offsets as they were: rows are numbered through the whole batch.
    """
    if isinstance(logits, torch.masked.MaskedTensor):
        raise TypeError("logits: expected a dense tensor and `mask`, got a MaskedTensor")
    if isinstance(logits, Tensor) and logits.is_nested and logits.layout == torch.jagged:
        return _of_rows(function, logits, tensors, dim, others)
    relevant = (logits, *tensors.values())
    return handle_torch_function(function, relevant, logits, dim=dim, **tensors, **others)


def _of_rows(
    function: Callable[..., Any], logits: Any, tensors: dict[str, Any], dim: int, others: dict[str, Any]
) -> Any:
    ndim, ragged = logits.dim(), logits._ragged_idx
    if not -ndim <= dim < ndim:
        raise IndexError(f"dim: expected one in [{-ndim}, {ndim - 1}], got {dim}")
    at = dim % ndim
    if at in (0, ragged):
        raise ValueError(f"dim: expected a regular dimension of a jagged tensor, neither 0 nor {ragged}, got {dim}")
    rows = {name: _rows(name, value, logits) for name, value in tensors.items()}
    result = function(logits.values(), dim=at - 1, **rows, **others)

    def jagged(values: Tensor, has_classes: bool) -> Tensor:
        return torch.nested.nested_tensor_from_jagged(
            values,
            logits.offsets(),
            logits.lengths(),
            jagged_dim=ragged - (not has_classes and at < ragged),
            min_seqlen=logits._maybe_min_seqlen,
            max_seqlen=logits._maybe_max_seqlen,
        )

    if isinstance(result, tuple):  # what is known of a row
        return tuple(jagged(values, has_classes=False) for values in result)
    return jagged(result, has_classes=result.dtype != torch.int64)


def _are_rows_of(jagged: Any, logits: Any) -> bool:
    return jagged.offsets() is logits.offsets() and jagged.lengths() is logits.lengths()


def _rows(name: str, value: Any, logits: Any) -> Any:
    """What stands beside the rows of jagged logits: a number, another jagged tensor's rows, or a tensor that is the
    same for all of the batch."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    same = "a jagged tensor with the logits' own offsets"
    if value.is_nested:
        jagged: Any = value
        if value.layout != torch.jagged or not _are_rows_of(jagged, logits):
            raise ValueError(f"{name}: expected {same}, got another nested tensor")
        return jagged.values()
    if name == "seed":
        raise ValueError(f"seed: expected an int or {same}, got a dense tensor")
    shape = (*[1] * (logits.dim() - value.dim()), *value.shape)
    if len(shape) != logits.dim() or shape[0] != 1 or shape[logits._ragged_idx] != 1:
        raise ValueError(
            f"{name}: expected {same}, or one of size 1 there and along the batch, got {list(value.shape)}"
        )
    return value.reshape(shape[1:])
