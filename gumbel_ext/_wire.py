"""What processes tell each other: small tensors, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from gumbel_ext.functional import _ops

if TYPE_CHECKING:  # (a torch without torch.distributed has no such class)
    Group = dist.ProcessGroup | None

_all_gather = getattr(dist, "all_gather_single", getattr(dist, "all_gather_into_tensor", None))  # until torch 2.12

_LAST = 2**32 - 1  # complement of class 0, in a key of 64 bits
_NOTHING = torch.iinfo(torch.int64).min  # the key of no class at all


def ordered(scores: Tensor) -> Tensor:
    """Integers that are ordered as scores are: -0 and +0 are one, NaN is the largest."""
    scores = torch.where(scores == 0, 0.0, scores)
    bits = scores.view(torch.int32 if scores.dtype == torch.float32 else torch.int64)
    largest = torch.iinfo(bits.dtype).max
    return torch.where(scores.isnan(), largest, torch.where(bits < 0, bits ^ largest, bits))


def scores_of(integers: Tensor) -> Tensor:
    """The scores that `ordered` made these of."""
    bits = torch.where(integers < 0, integers ^ torch.iinfo(integers.dtype).max, integers)
    return bits.view(torch.float32 if bits.dtype == torch.int32 else torch.float64)


def gathered(mine: Tensor, group: Group) -> Tensor:
    """Everyone's, in the order of ranks, along a new first dimension."""
    size = dist.get_world_size(group)
    everyones = mine.new_empty(size * mine.numel())
    assert _all_gather is not None
    _all_gather(everyones, mine.reshape(-1), group=group)
    return everyones.view(size, *mine.shape)


def agreed_best(
    index: Tensor, score: Tensor, group: Group, *, is_double: bool, is_empty: bool
) -> tuple[Tensor, Tensor]:
    """The best of all processes' best classes and their scores (float64), of equals the lowest.

    One int64 for each is reduced by max: the ordered score above the complement of the class. Of scores that float32
    does not hold (``is_double``), two are gathered. ``is_empty``: this process has no class. Raises IndexError where
    none has one.
    """
    if is_double:
        key = torch.full_like(index, _NOTHING) if is_empty else ordered(score)
        keys, indices = gathered(torch.stack([key, index]), group).unbind(1)
        best = keys.amax(0)
        index = indices.masked_fill(keys != best, torch.iinfo(torch.int64).max).amin(0)
        score = scores_of(best)
    else:
        best = ordered(score.float()).long() << 32 | (_LAST - index)
        if is_empty:
            best.fill_(_NOTHING)
        dist.all_reduce(best, dist.ReduceOp.MAX, group=group)
        index, score = _LAST - (best & _LAST), scores_of((best >> 32).int()).double()
    if is_empty and bool((best == _NOTHING).any()):
        raise IndexError("local_logits: expected at least one class in all, got none on every rank")
    return index, score


def agreed_seed(groups: Sequence[Group], like: Tensor, generator: torch.Generator | None) -> int:
    """A seed from every process's generator, drawn as a call of its own would; the first process's counts."""
    one = like.new_zeros(1)
    _, seed = _ops._sample(one, None, 1.0, None, 1.0, None, None, None, generator, 0)
    for group in groups:
        dist.broadcast(seed, group=group, group_src=0)
    return int(seed.item())
