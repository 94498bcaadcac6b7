"""The k best classes of rows whose classes lie on several processes: what each finds among its own, merged by all."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from gumbel_ext._shards import Part, together, working_type
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
    everyones = gathered(torch.stack(candidates), group)
    index, score = _best(everyones, k)
    t = torch.as_tensor(part.row_temperature(), dtype=torch.float64, device=score.device)
    is_low = (t > 0) & (t < 1)
    out_of_range = everyones[:, 2].isfinite() & everyones[:, 1].isinf()
    if bool((out_of_range.any(0).any(-1) & is_low).any()):
        # A low temperature took finite logits out of range: as kernels do, with the largest of them subtracted.
        largest = _largest_finite(part, group)
        again = is_low & largest.isfinite() & _quotient(part, largest).isinf()
        shift = torch.where(again, largest, 0.0)
        *candidates, _ = _own(part, k, shift)
        other, its_score = _best(gathered(torch.stack(candidates), group), k)
        index, score = other.where(again.unsqueeze(-1), index), its_score.where(again.unsqueeze(-1), score)
    return index, _relative(part, score, shift, statistics[..., 0]), statistics


def _allowed(part: Part) -> Tensor:
    """The part's logits, -∞ where the mask is false, the classes last."""
    x = part.logits if part.mask is None else part.logits.masked_fill(~part.mask, -math.inf)
    return x.movedim(part.dim, -1) if x.dim() > 0 else x.unsqueeze(-1)


def _largest_finite(part: Part, group: Group) -> Tensor:
    """Each row's largest finite logit, -∞ where there is none; float64."""
    x = _allowed(part.with_some_class()).double()
    largest = x.masked_fill(~x.isfinite(), -math.inf).amax(-1)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
    return largest


def _own(part: Part, k: int, shift: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the part's k best: class (float64, infinite where there is none), score, logit; and the part's statistics.
    ``shift``, one a row, is subtracted from the logits first; those that it takes to -∞ keep their order."""
    some = part.with_some_class()
    count = min(k, some.classes)

    def ranked(part: Part) -> tuple[Tensor, Tensor, Tensor]:
        logits, mask, *temperature = part.arguments(part.temperature if part.noise else 0.0)
        source = (part.seed if part.noise else 0, part.row_seeds, None)
        return _ops._top_classes(logits, count, mask, *temperature, *source, part.dim, part.numbers, 0, False)

    if shift is None:
        index, score, statistics = ranked(some)
    else:
        wide = some.logits.to(working_type(some.logits.dtype))
        index, score, statistics = ranked(
            dataclasses.replace(some, logits=wide - some.along_classes(shift).to(wide.dtype))
        )
        by_logit, _, _ = ranked(some.greedy())
        index = by_logit.where(score == -math.inf, index)
    logit = _allowed(some).gather(-1, index).double()
    number = (index + part.class_offset).double()
    if part.classes == 0:
        number.fill_(math.inf)
        statistics[..., 0] = -math.inf
    rest, pad = (0, k - count), torch.nn.functional.pad
    score, logit = (pad(values.double(), rest, value=-math.inf) for values in (score, logit))
    return pad(number, rest, value=math.inf), score, logit, statistics


def _best(everyones: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Of everyone's candidates (processes, columns of `_own`, rows, candidates) a row's k best and their scores: by
    score, NaN the largest; where that is -∞, by logit; ties to the lower class."""
    number, score, logit = torch.cat(list(everyones.unbind(0)), -1).unbind(0)
    order = number.argsort(stable=True, dim=-1)
    for key in (torch.where(score == -math.inf, logit, 0.0), score, (number < math.inf).double()):
        order = order.gather(-1, key.gather(-1, order).argsort(stable=True, dim=-1, descending=True))
    order = order[..., :k]
    best = number.gather(-1, order)
    if not bool((best < math.inf).all()):
        most = int((number < math.inf).sum(-1).amin())
        raise ValueError(f"k: expected 1 <= k <= {most}, the number of classes in all, got {k}")
    return best.long(), score.gather(-1, order)


def _quotient(part: Part, logit: Tensor) -> Tensor:
    """A row's logit by its temperature, as kernels round it (csrc/core/search.h)."""
    dtype = working_type(part.logits.dtype)
    info = torch.finfo(dtype)
    t = torch.as_tensor(part.row_temperature(), dtype=torch.float64, device=logit.device)
    held, divisor = logit.to(dtype), torch.where(t == 0, 1.0, t)
    is_held = (divisor >= info.tiny) & (divisor <= info.max)
    return torch.where(is_held, (held / divisor.to(dtype)).double(), (held.double() / divisor).to(dtype).double())


def _relative(part: Part, score: Tensor, shift: Tensor | float, largest: Tensor) -> Tensor:
    """Scores less the quotient of the row's largest logit by the temperature."""
    is_defined, dtype = largest.isfinite(), working_type(part.logits.dtype)
    t = torch.as_tensor(part.row_temperature(), dtype=torch.float64, device=score.device)
    origin = torch.where(is_defined, (largest.to(dtype) - torch.as_tensor(shift).to(dtype)).double(), 0.0)
    found = score - _quotient(part, origin).unsqueeze(-1)
    certain = torch.full_like(found, -math.inf)
    certain[..., 0] = 0.0
    found = torch.where((t == 0).unsqueeze(-1), certain, found)
    return found.masked_fill(~is_defined.unsqueeze(-1), math.nan).to(dtype)
