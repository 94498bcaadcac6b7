"""The library as noise sources and samplers: what the checks are functions of."""

from __future__ import annotations

from typing import Protocol

import torch

import gumbel_ext


class Noise(Protocol):
    """Noise of a (rows, classes) matrix under a seed, or under a seed a row."""

    def __call__(
        self, rows: int, classes: int, seed: int | torch.Tensor, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor: ...


class Sampler(Protocol):
    """`n` samples of softmax(logits), of one vector of logits; samples of seeds `n` apart are independent."""

    def __call__(self, logits: torch.Tensor, n: int, seed: int) -> torch.Tensor: ...


def noise(rows: int, classes: int, seed: int | torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return gumbel_ext.gumbel_noise((rows, classes), seed=seed, dtype=dtype)


def streams(seed: int) -> list[torch.Tensor]:
    """Noise of a million trials of speculative decoding over 4 classes: draft, acceptance, recovery."""
    return [noise(1 << 20, classes, seed + i) for i, classes in enumerate((4, 1, 4))]


def draws(logits: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """One row, `n` draws."""
    return gumbel_ext.gumbel_max(logits, num_samples=n, seed=seed)


def rows(logits: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """`n` equal rows under one seed."""
    return gumbel_ext.gumbel_max(logits.expand(n, -1), seed=seed)


def seeds(logits: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """`n` equal rows under seeds of their own: consecutive numbers."""
    return gumbel_ext.gumbel_max(logits.expand(n, -1), seed=torch.arange(seed, seed + n))


def masked(logits: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """Classes at minus infinity are given by a mask, with the largest logit in their place."""
    mask = logits > -torch.inf
    return gumbel_ext.gumbel_max(logits.where(mask, logits.max()).expand(n, -1), mask=mask, seed=seed)


def hard(logits: torch.Tensor, tau: float, n: int, seed: int) -> torch.Tensor:
    """The classes of one-hot samples."""
    return gumbel_ext.gumbel_softmax(logits.expand(n, -1), tau, hard=True, seed=seed).argmax(-1)


def batch(logits: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
    """A row of logits and a seed for every sample."""
    return gumbel_ext.gumbel_max(logits, seed=seeds)
