"""Rows whose classes lie on several processes: what each computes of its own, and what all then know.

A process holds some classes of every row, all of them numbered as in the whole; `Part` is that. It searches its own
classes, and the processes of a group then agree on each row's best by one integer, or by a few numbers, a row.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from gumbel_ext._wire import agreed_best, gathered
from gumbel_ext.functional import _ops

if TYPE_CHECKING:
    from gumbel_ext._wire import Group


def working_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclasses.dataclass(frozen=True)
class Part:
    """Some classes of rows, along ``dim``, and where they lie in the whole.

    ``numbers``: as operators take them (csrc/arguments.h): of the first row, of the first class, and a stride for each
    dimension. ``temperature`` divides the logits of a draw, or the scores of a softmax.
    """

    logits: Tensor
    dim: int
    numbers: Sequence[int]
    mask: Tensor | None = None
    temperature: float | Tensor = 1.0
    seed: int | None = None
    row_seeds: Tensor | None = None
    noise: bool = True

    @property
    def classes(self) -> int:
        return self.logits.shape[self.dim] if self.logits.dim() > 0 else 1

    @property
    def class_offset(self) -> int:
        return self.numbers[1]

    def with_some_class(self) -> Part:
        """Itself, or, where it has no class, one that is impossible: what kernels and argument checks can take."""
        if self.classes > 0:
            return self
        shape = [1 if d == self.dim else size for d, size in enumerate(self.logits.shape)]
        return dataclasses.replace(self, logits=self.logits.new_full(shape, -math.inf), mask=None)

    def greedy(self) -> Part:
        return dataclasses.replace(self, temperature=0.0)

    def arguments(self, temperature: float | Tensor) -> tuple[object, ...]:
        """What operators take for logits, mask and a temperature."""
        rows = isinstance(temperature, Tensor)
        return self.logits, self.mask, *((1.0, temperature) if rows else (temperature, None))

    def row_values(self, values: Tensor) -> Tensor:
        """One a row, shaped as the logits without ``dim``."""
        if self.logits.dim() == 0:
            return values.reshape(())
        shape = [1 if d == self.dim else size for d, size in enumerate(self.logits.shape)]
        return values.expand(shape).squeeze(self.dim)

    def row_temperature(self) -> float | Tensor:
        """Of float64, one a row."""
        value = self.temperature
        return self.row_values(value.double()) if isinstance(value, Tensor) else value

    def along_classes(self, rows: Tensor) -> Tensor:
        return rows.unsqueeze(self.dim) if self.logits.dim() > 0 else rows

    def local(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Classes as the part numbers them, 0 for those that lie elsewhere; and which are here."""
        local = index - self.class_offset
        here = (local >= 0) & (local < self.classes)
        return local.where(here, 0), here

    def agreed(self, group: Group, index: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """Of every process's best, the best."""
        is_double = self.logits.dtype == torch.float64
        return agreed_best(index, score, group, is_double=is_double, is_empty=self.classes == 0)

    def search(self, num_samples: int | None = None, operator: Any = _ops._scored_index) -> tuple[Tensor, ...]:
        """The best class of the part, as the whole numbers it, and its score (float64), which is infinite where a low
        temperature took it out of range; and what else `operator` gives."""
        part = self.with_some_class()
        source = (self.seed if self.noise else 0, self.row_seeds, None)
        temperature = self.temperature if self.noise else 0.0
        index, *rest = operator(*part.arguments(temperature), *source, self.dim, num_samples, self.numbers)
        return index + self.class_offset, *rest


def best_of(part: Part, group: Group, num_samples: int | None = None) -> tuple[Tensor, Tensor]:
    """Each row's best class in the whole, and its score (float64)."""
    index, score, *_ = part.search(num_samples)
    return part.agreed(group, index, score)


def gumbel_max(part: Part, group: Group, num_samples: int | None = None) -> Tensor:
    """argmax(logits / temperature + noise) of the whole."""
    return searched_again(part, group, num_samples, *best_of(part, group, num_samples))


def searched_again(part: Part, group: Group, num_samples: int | None, index: Tensor, score: Tensor) -> Tensor:
    """The index, given the best scores.

    Where a low temperature takes a row's best score out of range, all processes, which see the same scores, search that
    row once more with its largest logit subtracted, as kernels do with a row of their own.
    """
    temperature = part.temperature
    if not isinstance(temperature, Tensor):
        again = score.isinf() if 0 < temperature < 1 else None
    else:
        low = part.row_values((temperature > 0) & (temperature < 1))
        again = score.isinf() & (low if num_samples is None else low.unsqueeze(-1))
    if again is None or not bool(again.any()):
        return index
    largest, maximum = best_of(part.greedy(), group)
    shift = part.along_classes(torch.where(maximum.isfinite(), maximum, 0.0))
    wide = part.logits.to(working_type(part.logits.dtype))
    found, _ = best_of(dataclasses.replace(part, logits=wide - shift.to(wide.dtype)), group, num_samples)
    if num_samples is not None:
        largest, maximum = largest.unsqueeze(-1), maximum.unsqueeze(-1)
    return torch.where(again, torch.where(maximum.isfinite(), found, largest), index)


def draw(part: Part, group: Group, num_samples: int | None = None) -> tuple[Tensor, Tensor]:
    """The same index, and the statistics of the whole's rows (csrc/core/log_prob.h), gathered: three numbers a row."""
    index, score, statistics = part.search(num_samples, _ops._scored_draw)
    if part.classes == 0:
        statistics[..., 0] = -math.inf
    index = searched_again(part, group, num_samples, *part.agreed(group, index, score))
    return index, together(gathered(statistics, group), part.row_temperature())


def together(statistics: Tensor, temperature: float | Tensor) -> Tensor:
    """Of several sets of classes, along the first dimension."""
    maxima, others, weighted = statistics.unbind(-1)
    temperature = torch.as_tensor(temperature, dtype=torch.float64, device=maxima.device)
    largest = maxima.amax(0)
    distance = (largest - maxima) / temperature
    distance = torch.where(maxima == largest, 0.0, distance)  # also at temperature 0
    factor = (-distance).exp()
    counts = maxima > -math.inf
    is_first = torch.zeros_like(maxima, dtype=torch.bool).scatter_(0, maxima.argmax(0, keepdim=True), value=True)
    without = others + torch.where(is_first, 0.0, 1.0)
    terms = torch.where(counts & (factor > 0), weighted + distance * (1 + others), 0.0)
    others = torch.where(counts, factor * without, 0.0).sum(0).where(temperature > 0, 0.0)
    return torch.stack([largest, others, (factor * terms).sum(0).where(temperature > 0, 0.0)], -1)


def log_prob(part: Part, index: Tensor, statistics: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """The log-probabilities of drawn classes, of which each process knows its own's; and the entropy."""
    local, here = part.local(index)
    some = part.with_some_class()
    value, entropy = _ops._log_prob(*some.arguments(part.temperature), local, statistics, part.dim)
    value = value.where(here, 0.0)
    dist.all_reduce(value, group=group)
    if index.dim() < max(part.logits.dim(), 1):  # a draw a row
        return value, entropy
    # At temperature 0 the first draw is certain, wherever it lies.
    certain = torch.where(index == index[..., :1], 0.0, -math.inf).to(value.dtype)
    temperature = torch.as_tensor(part.row_temperature(), device=value.device)
    is_certain = (temperature == 0) & statistics[..., 0].isfinite()
    return torch.where(is_certain.unsqueeze(-1), certain, value), entropy


def log_prob_backward(
    grads: tuple[Tensor | None, Tensor | None], part: Part, index: Tensor, statistics: Tensor, group: Group,
    need_temperature: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Of both, the gradients for the logits, the part's classes, and for the temperature, one a row (size 1 along
    ``dim``, float64), of which every process has its classes' share."""
    local, here = part.local(index)
    elsewhere = torch.iinfo(torch.int64).max
    some = part.with_some_class()
    d_logits, d_temperature = _ops._log_prob_backward(
        *grads, *some.arguments(part.temperature), local.where(here, elsewhere), statistics, part.dim, need_temperature
    )
    if d_temperature is not None:
        d_temperature = d_temperature * (part.classes > 0)
        dist.all_reduce(d_temperature, group=group)
    return (d_logits if part.classes > 0 else torch.empty_like(part.logits)), d_temperature


def one_hot(part: Part, index: Tensor, undefined: Tensor) -> Tensor:
    """The part's classes of one_hot(index); NaN along rows that are undefined."""
    local = part.along_classes(index - part.class_offset)
    classes = torch.arange(part.classes, device=index.device)
    if part.logits.dim() > 0:
        classes = classes.view([-1 if d == part.dim else 1 for d in range(part.logits.dim())])
    else:
        classes = classes.view(())
    result = (classes == local).to(part.logits.dtype)
    return result.masked_fill_(part.along_classes(undefined), math.nan)


def relaxed(part: Part, group: Group) -> tuple[Tensor, Tensor, Tensor]:
    """softmax((logits + noise) / temperature) of the whole: the part's classes, in the working precision; each row's
    best class and score.

    A part's own softmax times its share of the whole's sum: three numbers a row are gathered.
    """
    dtype = working_type(part.logits.dtype)
    part = dataclasses.replace(part, logits=part.logits.to(dtype))
    some = part.with_some_class()
    index, score, *_ = dataclasses.replace(some, temperature=1.0).search()
    source = (part.noise, part.seed, part.row_seeds, None)
    value = _ops._relaxed(*some.arguments(part.temperature), *source, part.dim, part.numbers)
    # The largest exponential is 1: what became of it is one over the sum.
    largest = value.gather(part.dim, part.along_classes(index - part.class_offset)) if value.dim() > 0 else value
    total = torch.where(score.isfinite(), 1 / part.row_values(largest).double(), 0.0)
    if part.classes == 0:
        total = torch.zeros_like(total)
    scores, totals, indices = gathered(torch.stack([score, total, index.double()]), group).unbind(1)
    best = scores.amax(0)
    shares = ((scores - best) / part.row_temperature()).exp().where(scores != best, 1.0) * totals
    share = torch.where(best.isfinite(), shares[dist.get_rank(group)] / shares.sum(0), math.nan)
    winner = indices.masked_fill(scores != best, math.inf).amin(0).nan_to_num(posinf=0).long()
    if part.classes == 0:
        return part.logits.new_empty(part.logits.shape), winner, best
    share = part.along_classes(share)
    value = value.mul_(share).masked_fill_(share == 0, 0)  # of a part of impossible classes, kernels make NaN
    return value, winner, best


def backward(
    grad: Tensor, value: Tensor, tau: float | Tensor, dim: int, group: Group, need_logits: bool, need_tau: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Of p = softmax(u / tau), the gradients for u, the part's classes, and for tau, one a row (size 1 along ``dim``,
    float64): du = p (dy - <p, dy>) / tau, dtau = -sum(du log p). A number a row is summed over the group for each."""
    half = 0.25  # of finite gradients, differences are finite
    p, scaled = value.double(), grad.double() * half

    def over_group(terms: Tensor) -> Tensor:
        total = terms.sum(dim, keepdim=True)
        dist.all_reduce(total, group=group)
        return total

    d_logits = p * (scaled - over_group(p * scaled))
    d_tau = None
    if need_tau:
        d_tau = -over_group(d_logits * torch.where(p > 0, p, 1.0).log()) / tau / half
    return ((d_logits / tau / half).to(value.dtype) if need_logits else None), d_tau


def row_strides(shape: Sequence[int], dim: int) -> list[int]:
    """What a step along each dimension adds to a row's number, in C order."""
    strides, count = [0] * len(shape), 1
    for d in reversed(range(len(shape))):
        if d != dim:
            strides[d] = count
            count *= shape[d]
    return strides
