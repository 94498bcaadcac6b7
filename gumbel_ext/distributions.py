"""Relaxed and straight-through categorical variables as distributions of torch, sampled by this package's kernels.

Subclasses of `torch.distributions`' own, which they replace with no other change: parameters, shapes, ``expand``,
``log_prob``, ``entropy``, ``kl_divergence`` and validation are torch's. ``sample`` and ``rsample`` take ``seed`` or
``generator`` besides, as `gumbel_ext.gumbel_softmax` does: one seed for all rows, or one for each, of shape
``sample_shape + batch_shape``; rows are numbered through that shape. ``temperature`` is a number, or a tensor that
broadcasts against the samples with size 1 along the last dimension.

Sources: Jang, Gu, Poole, "Categorical reparameterization with Gumbel-softmax", ICLR 2017 [J]; Maddison, Mnih,
Teh, "The concrete distribution", ICLR 2017 [M]; Bengio, Léonard, Courville, "Estimating or propagating
gradients through stochastic neurons", 2013 [B].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributions as base
from torch.types import _size

from gumbel_ext import functional

__all__ = ["ExpRelaxedCategorical", "OneHotCategoricalStraightThrough", "RelaxedOneHotCategorical"]

_ONE_SAMPLE = torch.Size()


class RelaxedOneHotCategorical(base.RelaxedOneHotCategorical):
    """The Gumbel-softmax (concrete) distribution: ``y_i ∝ exp((log π_i + g_i) / τ)``, ``g_i ~ Gumbel(0, 1)``, of
    temperature ``τ``. Source: [J], section 2; [M], section 3.

    >>> RelaxedOneHotCategorical(torch.tensor(0.5), logits=torch.zeros(4, 3)).rsample((2,), seed=1).shape
    torch.Size([2, 4, 3])
    """

    def rsample(
        self,
        sample_shape: _size = _ONE_SAMPLE,
        *,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Points of the simplex, with their gradient with respect to the parameters and the temperature."""
        logits = self.logits.expand(self._extended_shape(sample_shape))
        return functional.gumbel_softmax(logits, self.temperature, seed=seed, generator=generator)

    def sample(self, sample_shape: _size = _ONE_SAMPLE, **source: Any) -> Tensor:
        """As `rsample`, without gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape, **source)


class ExpRelaxedCategorical(base.relaxed_categorical.ExpRelaxedCategorical):
    """The logarithms of what `RelaxedOneHotCategorical` samples, finite also where those underflow to 0. Source: [M],
    appendix C.3.

    The noise is the kernel's; `torch.log_softmax` normalises.

    >>> ExpRelaxedCategorical(torch.tensor(1e-3), logits=torch.zeros(4, 3)).sample(seed=1).isfinite().all().item()
    True
    """

    def rsample(
        self,
        sample_shape: _size = _ONE_SAMPLE,
        *,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Logarithms of points of the simplex, with their gradient with respect to parameters and temperature."""
        logits = self.logits
        noise = functional.gumbel_noise(
            self._extended_shape(sample_shape), seed=seed, generator=generator, dtype=logits.dtype, device=logits.device
        )
        return torch.log_softmax((logits + noise) / self.temperature, -1)

    def sample(self, sample_shape: _size = _ONE_SAMPLE, **source: Any) -> Tensor:
        """As `rsample`, without gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape, **source)


class OneHotCategoricalStraightThrough(base.OneHotCategoricalStraightThrough):
    """One-hot draws, ``z ~ π`` by the Gumbel-max trick, with the gradient of the probabilities: the value of
    ``z + π - sg(π)``. Source: [B], section 4.

    >>> OneHotCategoricalStraightThrough(logits=torch.zeros(4, 3)).sample(seed=1).sum(-1).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """

    def rsample(self, sample_shape: _size = _ONE_SAMPLE, **source: Any) -> Tensor:
        """As `sample`, with the gradient of the probabilities."""
        categorical = self._categorical
        given = categorical._param is categorical.__dict__.get("probs")
        probs = categorical.probs if given else functional.softmax(categorical.logits)
        return self.sample(sample_shape, **source) + (probs - probs.detach())

    def sample(
        self,
        sample_shape: _size = _ONE_SAMPLE,
        *,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """One-hot rows, exactly 0 and 1."""
        categorical = self._categorical
        with torch.no_grad():
            given = categorical._param is categorical.__dict__.get("probs")
            logits = categorical.probs.log() if given else categorical.logits
            logits = logits.expand(self._extended_shape(sample_shape))
            return functional.gumbel_softmax(logits, hard=True, seed=seed, generator=generator)
