"""The operations as modules. They sample in evaluation mode as in training."""

from __future__ import annotations

import torch
from torch import Tensor

from gumbel_ext import functional


class GumbelSoftmax(torch.nn.Module):
    """`gumbel_ext.gumbel_softmax`; ``tau`` is an attribute, to be annealed as training goes on.

    >>> GumbelSoftmax(tau=0.5, hard=True)(torch.zeros(2, 3)).shape
    torch.Size([2, 3])
    """

    def __init__(self, tau: float | Tensor = 1.0, hard: bool = False, *, dim: int = -1) -> None:
        super().__init__()
        self.tau = tau
        self.hard = hard
        self.dim = dim

    def forward(
        self,
        logits: Tensor,
        mask: Tensor | None = None,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        return functional.gumbel_softmax(
            logits, self.tau, self.hard, dim=self.dim, mask=mask, seed=seed, generator=generator
        )

    def extra_repr(self) -> str:
        return f"tau={self.tau}, hard={self.hard}, dim={self.dim}"


class StraightThrough(torch.nn.Module):
    """`gumbel_ext.straight_through`: one-hot forward, softmax's gradient.

    >>> StraightThrough()(torch.tensor([0.0, 1.0])).tolist()
    [0.0, 1.0]
    """

    def __init__(self, tau: float | Tensor = 1.0, *, dim: int = -1) -> None:
        super().__init__()
        self.tau = tau
        self.dim = dim

    def forward(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        return functional.straight_through(logits, self.tau, dim=self.dim, mask=mask)

    def extra_repr(self) -> str:
        return f"tau={self.tau}, dim={self.dim}"
