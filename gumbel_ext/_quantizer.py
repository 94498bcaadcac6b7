"""The product quantizer of wav2vec 2.0."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from gumbel_ext import functional
from gumbel_ext._temperature import Tau, keep_tau, tau_now


class Quantized(NamedTuple):
    value: Tensor  #: ``[..., output_dim]``
    perplexity: Tensor  #: without dimensions


class GumbelVectorQuantizer(torch.nn.Module):
    r"""Vectors made of one codebook entry for each group (Baevski et al. 2020, wav2vec 2.0, section 2).

    Group `g` has logits :math:`x_g`, a linear map of the input, over its `V` entries. The output holds, group by group,
    the entry :math:`z_g E_g`: in training :math:`z_g` is `gumbel_ext.gumbel_softmax` of :math:`x_g` with ``hard=True``,
    in evaluation mode it is one-hot at the largest logit. ``tau`` is a number, a tensor without dimensions, or a
    `TemperatureSchedule` (the paper's: ``TemperatureSchedule(2.0, 0.5, updates=277_258)``, 0.999995 an update).

    The perplexity says how many entries are in use, from 1 to `V` for each group, of which it is the sum:
    :math:`\sum_g \exp H(\bar p_g)`, :math:`\bar p_g` being the mean over all vectors of :math:`\mathrm{softmax}(x_g)`
    in training, of :math:`z_g` in evaluation mode. It has a gradient in training: the paper maximises the like.

    Parameters are those of ``Wav2Vec2GumbelVectorQuantizer`` of `transformers`, whose ``state_dict()`` it loads:
    ``codevectors`` ``[1, G * V, output_dim / G]``, ``weight_proj.weight`` and ``weight_proj.bias``.

    Raises ValueError where ``output_dim`` is not a multiple of ``groups``.

    >>> quantizer = GumbelVectorQuantizer(16, 8, groups=2, entries=5)
    >>> value, perplexity = quantizer(torch.zeros(3, 7, 16))
    >>> value.shape, quantizer.codes(torch.zeros(3, 7, 16)).shape
    (torch.Size([3, 7, 8]), torch.Size([3, 7, 2]))
    """

    if TYPE_CHECKING:
        tau: Tau

    def __init__(self, input_dim: int, output_dim: int, *, groups: int = 2, entries: int = 320, tau: Tau = 2.0) -> None:
        super().__init__()
        if output_dim % groups != 0:
            raise ValueError(f"output_dim: expected a multiple of the number of groups, {groups}, got {output_dim}")
        self.groups, self.entries = groups, entries
        self.codevectors = torch.nn.Parameter(torch.rand(1, groups * entries, output_dim // groups))
        self.weight_proj = torch.nn.Linear(input_dim, groups * entries)
        torch.nn.init.normal_(self.weight_proj.weight)
        torch.nn.init.zeros_(self.weight_proj.bias)
        keep_tau(self, tau)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None = None,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Quantized:
        """``hidden`` is ``[..., input_dim]``; ``mask``, bool ``[...]``, says which vectors the perplexity counts."""
        logits = self._logits(hidden)
        if self.training:
            scores = logits.float()
            sample = functional.gumbel_softmax(scores, tau_now(self.tau), hard=True, seed=seed, generator=generator)
            used = functional.softmax(scores)
        else:
            sample = functional.straight_through(logits)
            used = sample.float()
        codebooks = self.codevectors.view(self.groups, self.entries, -1)
        with torch.autocast(hidden.device.type, enabled=False):  # an entry is not rounded
            entries = torch.einsum("...gv,gvd->...gd", sample.to(codebooks.dtype), codebooks)
        return Quantized(entries.flatten(-2), self._perplexity(used, mask))

    def codes(self, hidden: Tensor) -> Tensor:
        """The entries' numbers, int64 ``[..., groups]``, that evaluation mode takes."""
        return self._logits(hidden).argmax(-1)

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.weight_proj(hidden)
        return logits.view(*logits.shape[:-1], self.groups, self.entries)

    @staticmethod
    def _perplexity(used: Tensor, mask: Tensor | None) -> Tensor:
        rows = used.flatten(0, -3) if used.dim() > 2 else used[None]
        if mask is None:
            mean = rows.mean(0)
        else:
            counted = mask.reshape(-1, 1, 1)
            mean = torch.where(counted, rows, 0).sum(0) / counted.sum()
        mean = mean.clamp_min(torch.finfo(mean.dtype).tiny)  # at 0 the entropy has no finite gradient
        return torch.special.entr(mean).sum(-1).exp().sum()

    def extra_repr(self) -> str:
        return f"groups={self.groups}, entries={self.entries}"

    if TYPE_CHECKING:
        __call__ = forward
