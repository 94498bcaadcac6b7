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
from torch.distributions.utils import lazy_property
from torch.types import _size

from gumbel_ext import functional

__all__ = ["ExpRelaxedCategorical", "OneHotCategoricalStraightThrough", "RelaxedOneHotCategorical"]

_ONE_SAMPLE = torch.Size()
Seed = int | Tensor | None


class _Unnormalised(base.Categorical):
    """Logits as they were given, which the kernels take: torch normalises them at once, here whoever asks for them."""

    def __init__(self, given: Tensor) -> None:  # a tensor that nobody else changes
        self._param = given
        self._num_events = given.size(-1)
        base.Distribution.__init__(self, given.shape[:-1], validate_args=False)

    @staticmethod
    def can_hold(probs: Tensor | None, logits: Tensor | None, validate_args: bool | None) -> bool:
        """Not what torch's constructor may refuse: its errors are to be torch's."""
        if probs is not None or logits is None or logits.dim() < 1 or logits.numel() == 0:
            return False
        if not logits.is_floating_point():
            return False  # torch's normalised ones are
        if torch.compiler.is_compiling() or not (validate_args or base.Distribution._validate_args):
            return True  # where torch does not look either
        return bool(logits.detach().amax(-1).isfinite().all())

    def expand(self, batch_shape: _size, _instance: Any = None) -> _Unnormalised:
        return _Unnormalised(self._param.expand((*batch_shape, self._num_events)))

    @lazy_property
    def logits(self) -> Tensor:
        return self._param - self._param.logsumexp(-1, keepdim=True)


def _given(**source: Any) -> dict[str, Any]:
    """What is not None: a subclass may override one of `sample` and `rsample` with torch's own arguments."""
    return {name: value for name, value in source.items() if value is not None}


class _Sampler(base.Distribution):
    """What the distributions have in common. `_categorical` is torch's, or an `_Unnormalised`."""

    _categorical: base.Categorical

    def _hold(self, logits: Tensor, validate_args: bool | None) -> None:
        self._categorical = _Unnormalised(logits.clone())
        base.Distribution.__init__(self, logits.shape[:-1], logits.shape[-1:], validate_args=False)
        self._validate_later(validate_args)

    def _validate_later(self, validate_args: bool | None) -> None:
        """Parameters are valid; whether values will be validated."""
        del self._validate_args
        if validate_args is not None:
            self._validate_args = validate_args

    def expand(self, batch_shape: _size, _instance: Any = None) -> Any:
        return super().expand(batch_shape, self.__new__(type(self)) if _instance is None else _instance)

    def sample(self, sample_shape: _size = _ONE_SAMPLE, *, seed: Seed = None, generator: Any = None) -> Tensor:
        """As `rsample`, without gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape, **_given(seed=seed, generator=generator))

    def _scores(self) -> Tensor:
        """Logits, up to a constant."""
        held = self._categorical
        return held._param if isinstance(held, _Unnormalised) else held.logits


class ExpRelaxedCategorical(_Sampler, base.relaxed_categorical.ExpRelaxedCategorical):
    """The logarithms of what `RelaxedOneHotCategorical` samples, finite also where those underflow to 0. Source: [M],
    appendix C.3.

    Logarithms and noise are the kernel's, in float32 (float64 of float64) and rounded once.

    >>> ExpRelaxedCategorical(torch.tensor(1e-3), logits=torch.zeros(4, 3)).sample(seed=1).isfinite().all().item()
    True
    """

    def __init__(
        self,
        temperature: Tensor,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if logits is None or not _Unnormalised.can_hold(probs, logits, validate_args):
            super().__init__(temperature, probs, logits, validate_args)
            return
        self.temperature = temperature
        self._hold(logits, validate_args)

    def rsample(
        self,
        sample_shape: _size = _ONE_SAMPLE,
        *,
        seed: Seed = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Logarithms of points of the simplex, with their gradient with respect to parameters and temperature."""
        x, shape = self._scores(), self._extended_shape(sample_shape)
        # Gradients too are those of numbers that are not rounded to 16 bits.
        wide = x.to(torch.promote_types(x.dtype, torch.float32)).expand(shape)
        return functional._log_gumbel_softmax(wide, self.temperature, seed, generator).to(x.dtype)


class RelaxedOneHotCategorical(_Sampler, base.RelaxedOneHotCategorical):
    """The Gumbel-softmax (concrete) distribution: ``y_i ∝ exp((log π_i + g_i) / τ)``, ``g_i ~ Gumbel(0, 1)``, of
    temperature ``τ``. Source: [J], section 2; [M], section 3.

    >>> RelaxedOneHotCategorical(torch.tensor(0.5), logits=torch.zeros(4, 3)).rsample((2,), seed=1).shape
    torch.Size([2, 4, 3])
    """

    def __init__(
        self,
        temperature: Tensor,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        held = ExpRelaxedCategorical(temperature, probs, logits, validate_args=validate_args)
        valid = isinstance(held._categorical, _Unnormalised)
        base.TransformedDistribution.__init__(
            self, held, base.ExpTransform(), validate_args=False if valid else validate_args
        )
        if valid:
            self._validate_later(validate_args)

    base_dist: ExpRelaxedCategorical

    def rsample(
        self,
        sample_shape: _size = _ONE_SAMPLE,
        *,
        seed: Seed = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Points of the simplex, with their gradient with respect to the parameters and the temperature."""
        logits = self.base_dist._scores().expand(self._extended_shape(sample_shape))
        return functional.gumbel_softmax(logits, self.temperature, seed=seed, generator=generator)


class OneHotCategoricalStraightThrough(_Sampler, base.OneHotCategoricalStraightThrough):
    """One-hot draws, ``z ~ π`` by the Gumbel-max trick, with the gradient of the probabilities: the value of
    ``z + π - sg(π)``. Source: [B], section 4.

    >>> OneHotCategoricalStraightThrough(logits=torch.zeros(4, 3)).sample(seed=1).sum(-1).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(
        self, probs: Tensor | None = None, logits: Tensor | None = None, validate_args: bool | None = None
    ) -> None:
        if logits is None or not _Unnormalised.can_hold(probs, logits, validate_args):
            super().__init__(probs, logits, validate_args)
            return
        self._hold(logits, validate_args)

    def rsample(
        self,
        sample_shape: _size = _ONE_SAMPLE,
        *,
        seed: Seed = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """One-hot rows, exactly 0 and 1, with the gradient of the probabilities."""
        held = self._categorical
        probs = functional.softmax(held._param) if isinstance(held, _Unnormalised) else held.probs
        return self.sample(sample_shape, **_given(seed=seed, generator=generator)) + (probs - probs.detach())

    def sample(self, sample_shape: _size = _ONE_SAMPLE, *, seed: Seed = None, generator: Any = None) -> Tensor:
        """As `rsample`, without gradient; a class of probability 0 is never drawn."""
        held = self._categorical
        # Of probabilities torch bounds the logits, which would draw what is impossible.
        given = "probs" in held.__dict__ and not isinstance(held, _Unnormalised)
        with torch.no_grad():
            x = (held.probs.log() if given else self._scores()).expand(self._extended_shape(sample_shape))
            return functional.gumbel_softmax(x, hard=True, seed=seed, generator=generator)
