"""The k best classes of rows whose classes lie on several processes: what each finds among its own, merged by all."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gumbel_ext._shards import Part, best_of, together, working_type
from gumbel_ext._wire import gathered
from gumbel_ext.functional import _ops

if TYPE_CHECKING:
    from gumbel_ext._wire import Group


def top_classes(part: Part, k: int, group: Group) -> tuple[Tensor, Tensor, Tensor]:
    """What the operator ``_top_classes`` gives of the whole: the classes, the best first, their scores relative to the
    row's largest logit, and the rows' statistics.

    Three numbers for each of a process's k best are gathered. Raises ValueError where k exceeds the classes in all.
    """
    shift: Tensor | float = 0.0
    *candidates, statistics = _own(part, k)
    statistics = together(gathered(statistics, group), part.row_temperature())
    index, score = _best(*gathered(torch.stack(candidates), group).unbind(1), k)
    low = part.row_temperature()
    again = score[..., 0].isinf() & _is_low(low, score)
    if bool(again.any()):
        # A low temperature took the row's best score out of range: as kernels do, with the largest logit subtracted.
        _, largest = best_of(part.greedy(), group)
        shift = torch.where(again & largest.isfinite(), largest, 0.0)
        wide = part.logits.to(working_type(part.logits.dtype))
        shifted = dataclasses.replace(part, logits=wide - part.along_classes(shift).to(wide.dtype))
        *candidates, _ = _own(shifted, k)
        other, its_score = _best(*gathered(torch.stack(candidates), group).unbind(1), k)
        moved = (shift != 0).unsqueeze(-1)
        index, score = other.where(moved, index), its_score.where(moved, score)
    return index, _relative(part, score, shift, statistics[..., 0]), statistics


def _is_low(temperature: float | Tensor, like: Tensor) -> Tensor:
    t = torch.as_tensor(temperature, dtype=torch.float64, device=like.device)
    return (t > 0) & (t < 1)


def _own(part: Part, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the part's k best: class (float64, infinite where there is none), score, logit; and the part's statistics."""
    some = part.with_some_class()
    count = min(k, some.classes)
    logits, mask, *temperature = some.arguments(part.temperature if part.noise else 0.0)
    index, score, statistics = _ops._top_classes(
        logits, count, mask, *temperature, part.seed, part.row_seeds, None, part.dim, part.numbers, 0, False
    )
    x = some.logits if mask is None else some.logits.masked_fill(~mask, -math.inf)
    last = x.movedim(part.dim, -1) if x.dim() > 0 else x.unsqueeze(-1)
    logit = last.gather(-1, index).double()
    number = (index + part.class_offset).double()
    if part.classes == 0:
        number.fill_(math.inf)
        statistics[..., 0] = -math.inf
    rest = (0, k - count)
    pad = torch.nn.functional.pad
    return pad(number, rest, value=math.inf), pad(score.double(), rest, value=-math.inf), pad(
        logit, rest, value=-math.inf
    ), statistics  # fmt: skip


def _best(numbers: Tensor, scores: Tensor, logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Of everyone's candidates, those of a row along the last dimension, the k best and their scores: by score, NaN the
    largest; where that is infinite, by logit; ties to the lower class."""
    columns = [torch.cat(list(each.unbind(0)), -1) for each in (numbers, scores, logits)]
    number, score, logit = columns
    order = number.argsort(-1, stable=True)
    for key in (torch.where(score.isinf(), logit, 0.0), score, (number < math.inf).double()):
        order = order.gather(-1, key.gather(-1, order).argsort(-1, stable=True, descending=True))
    order = order[..., :k]
    best = number.gather(-1, order)
    if not bool((best < math.inf).all()):
        most = int((number < math.inf).sum(-1).amin())
        raise ValueError(f"k: expected 1 <= k <= {most}, the number of classes in all, got {k}")
    return best.long(), score.gather(-1, order)


def _relative(part: Part, score: Tensor, shift: Tensor | float, largest: Tensor) -> Tensor:
    """Scores less the quotient of the row's largest logit by the temperature, as kernels round it."""
    dtype = working_type(part.logits.dtype)
    info = torch.finfo(dtype)
    t = torch.as_tensor(part.row_temperature(), dtype=torch.float64, device=score.device)
    logit, divisor = (largest - shift).to(dtype), torch.where(t == 0, 1.0, t)
    is_held = (divisor >= info.tiny) & (divisor <= info.max)
    quotient = torch.where(is_held, (logit / divisor.to(dtype)).double(), (logit.double() / divisor).to(dtype).double())
    found = score - torch.where(largest.isfinite(), quotient, 0.0).unsqueeze(-1)
    is_first = torch.arange(score.shape[-1], device=score.device) == 0
    certain = torch.where(is_first, 0.0, -math.inf).to(found.dtype)
    found = torch.where((t == 0).unsqueeze(-1), certain, found)
    return found.masked_fill(~largest.isfinite().unsqueeze(-1), math.nan).to(dtype)
