"""The operations as modules.

``tau`` is an attribute, to be annealed as training goes on. A number stays a number; a tensor is a buffer, a
`torch.nn.Parameter` a parameter and a `TemperatureSchedule` a module, so that ``.to()`` moves them and ``state_dict()``
holds them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gumbel_ext import functional
from gumbel_ext._estimators import Embedded, Estimator, straight_through_embedding
from gumbel_ext._quantizer import GumbelVectorQuantizer, Quantized
from gumbel_ext._temperature import Tau, TemperatureSchedule, keep_tau, tau_now

__all__ = [
    "GumbelSoftmax",
    "GumbelVectorQuantizer",
    "Quantized",
    "StraightThrough",
    "StraightThroughEmbedding",
    "TemperatureSchedule",
]


class _Tempered(torch.nn.Module):
    if TYPE_CHECKING:  # (TorchScript has its own eyes for attributes)
        tau: Any  # a Tau, of which TorchScript knows two kinds

    def __init__(self, tau: Tau, dim: int) -> None:
        super().__init__()
        keep_tau(self, tau)
        self.dim = dim

    def _described_tau(self) -> str:
        """A number, or a tensor of one, as a number; of other tensors the shape."""
        tau = tau_now(self.tau)
        if not isinstance(tau, Tensor):
            return f"{tau}"
        return f"{tau.item():.4g}" if tau.numel() == 1 else f"tensor of shape {tuple(tau.shape)}"


class GumbelSoftmax(_Tempered):
    """`gumbel_ext.gumbel_softmax`, called as ``module(logits, mask=None, seed=None, generator=None)``.

    In evaluation mode it samples as in training; with ``sample_in_eval=False`` it is `gumbel_ext.straight_through`
    there: one-hot at the likeliest class, without noise (``seed`` and ``generator`` then have no effect).

    >>> GumbelSoftmax(tau=0.5, hard=True)(torch.zeros(2, 3)).shape
    torch.Size([2, 3])
    """

    def __init__(self, tau: Tau = 1.0, hard: bool = False, *, dim: int = -1, sample_in_eval: bool = True) -> None:
        super().__init__(tau, dim)
        self.hard = hard
        self.sample_in_eval = sample_in_eval

    def forward(
        self,
        logits: Tensor,
        mask: Tensor | None = None,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """A sample for each row of ``logits``; the arguments are those of `gumbel_ext.gumbel_softmax`."""
        tau, hard, dim = self.tau, self.hard, self.dim
        if not torch._jit_internal.is_scripting():
            tau = tau_now(tau)
        if not (self.training or self.sample_in_eval):
            return functional.straight_through(logits, tau, dim=dim, mask=mask)
        if isinstance(seed, Tensor):  # the same call: TorchScript has an operator for each type
            return functional.gumbel_softmax(logits, tau, hard, dim=dim, mask=mask, seed=seed, generator=generator)
        return functional.gumbel_softmax(logits, tau, hard, dim=dim, mask=mask, seed=seed, generator=generator)

    def extra_repr(self) -> str:
        in_eval = "" if self.sample_in_eval else ", sample_in_eval=False"
        return f"tau={self._described_tau()}, hard={self.hard}, dim={self.dim}{in_eval}"

    if TYPE_CHECKING:  # torch.nn.Module's own is untyped
        __call__ = forward


class StraightThrough(_Tempered):
    """`gumbel_ext.straight_through`, called as ``module(logits, mask=None)``: one-hot forward, softmax's gradient.

    >>> StraightThrough()(torch.tensor([0.0, 1.0])).tolist()
    [0.0, 1.0]
    """

    def __init__(self, tau: Tau = 1.0, *, dim: int = -1) -> None:
        super().__init__(tau, dim)

    def forward(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """One-hot rows; the arguments are those of `gumbel_ext.straight_through`."""
        tau = self.tau
        if not torch._jit_internal.is_scripting():
            tau = tau_now(tau)
        return functional.straight_through(logits, tau, dim=self.dim, mask=mask)

    def extra_repr(self) -> str:
        return f"tau={self._described_tau()}, dim={self.dim}"

    if TYPE_CHECKING:
        __call__ = forward


class StraightThroughEmbedding(_Tempered):
    """`gumbel_ext.straight_through_embedding` with a ``weight`` of its own, called as
    ``module(logits, mask=None, seed=None, generator=None)``: for each row of ``logits`` (classes last) a row of
    ``weight``, and which.

    ``weight``: a parameter of shape ``[num_embeddings, embedding_dim]``, or, with ``groups``,
    ``[groups, num_embeddings, embedding_dim]`` for logits ``[..., groups, num_embeddings]``; normally distributed at
    first, as `torch.nn.Embedding`'s. It samples in evaluation mode as in training.

    >>> value, index = StraightThroughEmbedding(320, 128, groups=2)(torch.zeros(5, 2, 320))
    >>> value.shape, index.shape
    (torch.Size([5, 2, 128]), torch.Size([5, 2]))
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        tau: Tau = 1.0,
        *,
        groups: int | None = None,
        estimator: Estimator = "gumbel",
        temperature: float = 1.0,
        num_noises: int = 10,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(tau, dim=-1)
        self.estimator: Estimator = estimator
        self.temperature = temperature
        self.num_noises = num_noises
        shape = (num_embeddings, embedding_dim) if groups is None else (groups, num_embeddings, embedding_dim)
        self.weight = torch.nn.Parameter(torch.empty(shape, dtype=dtype, device=device))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        torch.nn.init.normal_(self.weight)

    def forward(
        self,
        logits: Tensor,
        mask: Tensor | None = None,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Embedded:
        """A row of ``weight`` for each row of ``logits``; the arguments are those of `gumbel_ext.one_hot_sample`."""
        return straight_through_embedding(
            logits,
            self.weight,
            tau_now(self.tau),
            estimator=self.estimator,
            temperature=self.temperature,
            mask=mask,
            seed=seed,
            generator=generator,
            num_noises=self.num_noises,
        )

    def extra_repr(self) -> str:
        shape = ", ".join(map(str, self.weight.shape))
        return f"{shape}, tau={self._described_tau()}, estimator={self.estimator!r}, temperature={self.temperature}"

    if TYPE_CHECKING:
        __call__ = forward


# `torch.load` takes whole modules too, without `weights_only=False`: nothing runs as these are loaded.
torch.serialization.add_safe_globals(
    [GumbelSoftmax, GumbelVectorQuantizer, StraightThrough, StraightThroughEmbedding, TemperatureSchedule]
)
