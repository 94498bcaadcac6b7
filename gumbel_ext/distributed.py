r"""Rows whose classes lie on several processes: sampling for vocabulary-parallel language-model heads.

Each process of a group holds some of the classes of every row, ``local_logits``: those from ``class_offset`` on. (In
Megatron and vLLM that is ``vocab_start_index``.) Noise is a function of seed, row, class and draw, so each process
makes that of its own classes, and what it tells the others is a few numbers a row, where gathering the logits would
send them all. Results are those of one process that holds the whole: indices bit for bit, values within the bound on
numbers.

Common to all functions, besides what `gumbel_ext.functional` says of their other arguments:

* ``local_logits``: this process's classes along ``dim``, perhaps none; the other dimensions are the same on all
  processes of the group. ``mask`` broadcasts to it; a ``tau``, ``temperature`` or ``seed`` that is a tensor is the same
  on all. Gradients are for ``local_logits`` and, whole on every process, for ``tau``.
* ``group``: a process group, by default the default one. All its processes make the same call.
* ``class_offset``: how many classes lie before the local ones. None: processes hold consecutive classes in the order of
  their ranks, and tell each other how many (8 bytes each, which then have to be waited for).
* ``seed``: the same on all processes. Without one, each draws a seed from its generator, so that generators that agree
  go on to agree, and the group's first one's is sent to all.

Errors are those of the functions for whole rows. A process that fails tells nobody: the others wait for it as long as
the group's timeout says.

DTensors need none of this: every operation of `gumbel_ext` takes them as they are (see the guide).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from gumbel_ext import _shard_ranks, _shards, _wire
from gumbel_ext._draws import Sample, TopK
from gumbel_ext._shards import Part
from gumbel_ext.functional import _seed

if TYPE_CHECKING:
    from gumbel_ext._wire import Group

__all__ = ["gumbel_max", "gumbel_softmax", "gumbel_top_k", "sample", "softmax"]


def softmax(
    local_logits: Tensor,
    tau: float | Tensor = 1.0,
    *,
    group: Group = None,
    dim: int = -1,
    mask: Tensor | None = None,
) -> Tensor:
    """`gumbel_ext.softmax` of the whole: the local classes' part of it, of the local logits' shape and dtype.

    On the wire: 24 bytes a row from each process, and 8 a row in the backward.
    """
    part = _part(local_logits, tau, group, 0, dim, mask, noise=False)
    return _relaxed(local_logits, tau, part, group, hard=False)


def gumbel_softmax(
    local_logits: Tensor,
    tau: float | Tensor = 1.0,
    hard: bool = False,
    *,
    group: Group = None,
    class_offset: int | None = None,
    dim: int = -1,
    mask: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`gumbel_ext.gumbel_softmax` of the whole: the local classes' part of it, of the local logits' shape and dtype.

    On the wire: 24 bytes a row from each process, and 8 a row in the backward.
    """
    part = _part(local_logits, tau, group, class_offset, dim, mask, seed, generator)
    return _relaxed(local_logits, tau, part, group, hard)


def gumbel_max(
    local_logits: Tensor,
    temperature: float | Tensor = 1.0,
    *,
    group: Group = None,
    class_offset: int | None = None,
    dim: int = -1,
    num_samples: int | None = None,
    mask: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`gumbel_ext.gumbel_max` of the whole: the index of the class among all of them, the same on every process.

    On the wire: one int64 a row and draw, reduced by max (of float64 logits, two from each process). At a temperature
    below 1 the host looks whether a row's best score left the dtype's range; such rows go a second round.
    """
    part = _part(local_logits, temperature, group, class_offset, dim, mask, seed, generator)
    return _shards.gumbel_max(part, group, num_samples)


def sample(
    local_logits: Tensor,
    temperature: float | Tensor = 1.0,
    *,
    group: Group = None,
    class_offset: int | None = None,
    dim: int = -1,
    num_samples: int | None = None,
    mask: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Sample:
    """`gumbel_ext.sample` of the whole: index, log-probability and entropy, the same on every process.

    Gradients with respect to them are the same on every process, too. On the wire: what `gumbel_max` sends, 24 bytes a
    row from each process, and one number in the working precision a row and draw; in the backward nothing, or, where
    the temperature has a gradient, 8 bytes a row.
    """
    part = _part(local_logits, temperature, group, class_offset, dim, mask, seed, generator)
    index, statistics = _shards.draw(part, group, num_samples)
    return Sample(index, *_answers(local_logits, temperature, part, group, index, statistics))


def gumbel_top_k(
    local_logits: Tensor,
    k: int,
    temperature: float | Tensor = 1.0,
    *,
    group: Group = None,
    class_offset: int | None = None,
    dim: int = -1,
    mask: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> TopK:
    """`gumbel_ext.gumbel_top_k` of the whole: classes, log-probabilities and scores, the same on every process; ``k``
    at most the number of classes in all.

    Gradients with respect to them are the same on every process, too. On the wire: ``24 k + 24`` bytes a row from each
    process, and one number in the working precision for each class that is drawn; where a row's best score left the
    dtype's range, the former twice.
    """
    if not isinstance(k, int):
        raise TypeError(f"k: expected an int, got {type(k).__name__}")
    if k < 1:
        raise ValueError(f"k: expected 1 <= k, got {k}")
    part = _part(local_logits, temperature, group, class_offset, dim, mask, seed, generator)
    indices, found, statistics = _shard_ranks.top_classes(part, k, group)
    log_probs, _ = _answers(local_logits, temperature, part, group, indices, statistics)
    return TopK(indices, log_probs, torch.ops.gumbel_ext._top_scores(found, statistics, log_probs))


def _answers(
    local_logits: Tensor, temperature: float | Tensor, part: Part, group: Group, index: Tensor, statistics: Tensor
) -> tuple[Tensor, Tensor]:
    """The log-probabilities of drawn classes, and the entropy."""
    apply: Any = _Answers.apply
    rows = temperature if isinstance(temperature, Tensor) else None
    log_prob, entropy = apply(local_logits, rows, part, group, index, statistics)
    return log_prob, entropy


class _Answers(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, temperature: Tensor | None, part: Part, group: Group, index: Tensor,
        statistics: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        ctx.save_for_backward(logits, temperature, part.mask, index, statistics)
        ctx.part = dataclasses.replace(part, logits=logits.new_empty(0), mask=None, temperature=0.0)
        ctx.temperature, ctx.group = 0.0 if temperature is not None else part.temperature, group
        ctx.set_materialize_grads(False)
        return _shards.log_prob(part, index, statistics, group)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        logits, rows, mask, index, statistics = ctx.saved_tensors
        temperature = ctx.temperature if rows is None else rows
        part = dataclasses.replace(ctx.part, logits=logits, mask=mask, temperature=temperature)
        needs_logits, needs_temperature = ctx.needs_input_grad[:2]
        d_logits, d_rows = _shards.log_prob_backward(
            (grads[0], grads[1]), part, index, statistics, ctx.group, needs_temperature
        )
        if d_rows is not None:
            d_rows = d_rows.sum_to_size(rows.shape).to(rows.dtype)
        return (d_logits if needs_logits else None), d_rows, None, None, None, None


class _Relaxed(torch.autograd.Function):
    """The relaxed sample, or the one-hot one with its gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tau_rows: Tensor | None, part: Part, group: Group, hard: bool) -> Tensor:
        value, winner, best = _shards.relaxed(dataclasses.replace(part, logits=logits), group)
        value = value.to(logits.dtype)
        ctx.save_for_backward(value, tau_rows)
        ctx.tau, ctx.dim, ctx.group = part.temperature, part.dim, group
        return _shards.one_hot(part, winner, ~best.isfinite()) if hard else value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, tau_rows = ctx.saved_tensors
        needs_logits, needs_tau = ctx.needs_input_grad[:2]
        tau = ctx.tau if tau_rows is None else tau_rows.double()
        d_logits, d_tau = _shards.backward(grad, value, tau, ctx.dim, ctx.group, needs_logits, needs_tau)
        if d_tau is not None:
            d_tau = d_tau.sum_to_size(tau_rows.shape).to(tau_rows.dtype)
        return d_logits, d_tau, None, None, None


def _relaxed(local_logits: Tensor, tau: float | Tensor, part: Part, group: Group, hard: bool) -> Tensor:
    apply: Any = _Relaxed.apply
    value: Tensor = apply(local_logits, tau if isinstance(tau, Tensor) else None, part, group, hard)
    return value


def _part(
    local_logits: Tensor,
    temperature: float | Tensor,
    group: Group,
    class_offset: int | None,
    dim: int,
    mask: Tensor | None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: bool = True,
) -> Part:
    if not isinstance(local_logits, Tensor):
        raise TypeError(f"local_logits: expected a torch.Tensor, got {type(local_logits).__name__}")
    ndim = max(local_logits.dim(), 1)
    if not -ndim <= dim < ndim:
        raise IndexError(f"dim: expected one in [{-ndim}, {ndim - 1}], got {dim}")
    seed, dim = _seed(seed), dim % ndim
    if seed is not None and generator is not None:
        raise ValueError("seed, generator: expected at most one of the two, got both")
    shape = local_logits.shape
    if class_offset is None:
        class_offset = _offset(shape[dim] if shape else 1, local_logits.device, group)
    if not 0 <= class_offset <= 2**32 - (shape[dim] if shape else 1):
        raise ValueError(f"class_offset: expected a number of classes before 2^32, got {class_offset}")
    if seed is None and noise:
        seed = _wire.agreed_seed([group], local_logits, generator)
    number, rows = (None, seed) if isinstance(seed, Tensor) else (seed, None)
    return Part(
        local_logits.detach(), dim, [0, class_offset, *_shards.row_strides(shape, dim)], mask,
        temperature.detach() if isinstance(temperature, Tensor) else temperature, number, rows, noise,
    )  # fmt: skip


def _offset(classes: int, device: torch.device, group: Group) -> int:
    """How many classes lie before one's own."""
    counts = _wire.gathered(torch.tensor([classes], device=device), group)
    return int(counts[: dist.get_rank(group)].sum())
