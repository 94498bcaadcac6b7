"""Checks of a sampler: that its samples follow softmax(logits), however they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from reference import Array

from .result import Result, bonferroni, certain, chi_square, likelihood_ratio, poisson_p
from .sources import Sampler

SKEWED = torch.linspace(0, 9, 8)
FLAT = torch.zeros(8)


def skewed(classes: int) -> torch.Tensor:
    """Logits of a power law, as word frequencies have."""
    return -torch.arange(1, classes + 1, dtype=torch.float64).log().float()


def probabilities(logits: torch.Tensor) -> Array:
    return torch.softmax(logits.double(), -1).numpy()


def count(sampler: Sampler, logits: torch.Tensor, n: int, seed: int, block: int = 1 << 20) -> Array:
    """How often each class is drawn in `n` draws."""
    block = min(n, block, max(1, (1 << 28) // len(logits)))
    counts = torch.zeros(len(logits), dtype=torch.int64)
    for start in range(0, n, block):
        counts += torch.bincount(sampler(logits, min(block, n - start), seed + start), minlength=len(logits))
    return counts.numpy()


def goodness(sampler: Sampler, logits: torch.Tensor, n: int, seed: int) -> list[Result]:
    """Pearson's chi-square and the likelihood ratio G of the counts of all classes."""
    counts, expected = count(sampler, logits, n, seed), probabilities(logits) * n
    degrees = f"{len(logits)} classes"
    return [
        Result("chi-square of samples", n, *swap(chi_square(counts, expected), f"chi-square, {degrees}")),
        Result("G of samples", n, *swap(likelihood_ratio(counts, expected), f"G, {degrees}")),
    ]


def swap(found: tuple[float, float], law: str) -> tuple[float, str, float]:
    return found[0], law, found[1]


def cosine(sampler: Sampler, logits: torch.Tensor, n: int, seed: int) -> float:
    """The cosine of frequencies and probabilities: what some test suites take for a proof, above 0.99."""
    counts, p = count(sampler, logits, n, seed), probabilities(logits)
    return float(counts @ p / np.linalg.norm(counts) / np.linalg.norm(p))


def far_behind(sampler: Sampler, classes: int, nats: float, n: int, seed: int) -> Result:
    """The first class is `nats` ahead: the others are drawn n q times, Poisson, evenly over 16 ranges of classes."""
    logits = torch.zeros(classes)
    logits[0] = nats
    counts = count(sampler, logits, n, seed)
    counts[0] = 0
    mean = n * (classes - 1) / (classes - 1 + np.exp(nats))
    hits = int(counts.sum())
    ps = [poisson_p(hits, mean)]
    if hits >= 160:
        ranges = np.add.reduceat(counts, np.arange(16) * classes // 16)
        ps.append(chi_square(ranges, np.full(16, hits / 16))[1])
    return Result(f"classes {nats} nats behind", n, float(hits), f"Poisson, mean {mean:.1f}", bonferroni(ps),
                  detail=f"{classes} classes, {hits} of {mean:.1f} draws")  # fmt: skip


def never(sampler: Sampler, n: int, seed: int) -> Result:
    """Classes of probability 0, first and last and between, are never drawn."""
    logits = torch.tensor([-np.inf, 0.0, -np.inf, -np.inf, -20.0, 3.0, -np.inf, -np.inf])
    counts = count(sampler, logits, n, seed)
    return certain("classes of probability 0", n, int(counts[logits.numpy() == -np.inf].sum()), "none drawn")


def every_tau(
    hard: Callable[[torch.Tensor, float, int, int], torch.Tensor], taus: Sequence[float], n: int, seed: int
) -> Result:
    """One-hot samples follow softmax(logits), not softmax(logits / tau), by a chi-square for each tau."""
    expected, found = probabilities(SKEWED) * n, []
    for i, tau in enumerate(taus):
        counts = torch.bincount(hard(SKEWED, tau, n, seed + i), minlength=len(SKEWED)).numpy()
        found.append(chi_square(counts, expected))
    worst = min(range(len(taus)), key=lambda i: found[i][1])
    return Result("one-hot samples at every tau", n * len(taus), found[worst][0], f"worst of {len(taus)} chi-squares",
                  bonferroni(p for _, p in found), detail=f"tau {taus[worst]:g}")  # fmt: skip


def joint(sampler: Sampler, n: int, seed: int, lags: Sequence[int] = (1, 2, 4, 64)) -> Result:
    """Samples `lag` apart fill the joint table of 16 even classes evenly: chi-square, df 255, of disjoint pairs."""
    index, found = sampler(torch.zeros(16), n, seed), []
    for lag in lags:
        pairs = index[: n // (2 * lag) * 2 * lag].view(-1, 2, lag)
        cells = (pairs[:, 0] * 16 + pairs[:, 1]).flatten()
        found.append(chi_square(torch.bincount(cells, minlength=256).numpy(), np.full(256, len(cells) / 256)))
    worst = min(range(len(lags)), key=lambda i: found[i][1])
    return Result("neighbouring samples", n, found[worst][0], f"worst of {len(lags)} chi-squares, df 255",
                  bonferroni(p for _, p in found), detail=f"lag {lags[worst]}")  # fmt: skip


def place(batch: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], n: int, seed: int) -> Result:
    """With a seed a row, a row's sample is the same alone, in another order, and in any part of the batch."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 50, generator=generator)
    seeds = torch.randint(-(2**63), 2**63 - 1, (n,), generator=generator)
    order = torch.randperm(n, generator=generator)
    whole = batch(logits, seeds)
    differing = (batch(logits[order], seeds[order]) != whole[order]).sum()
    parts = torch.cat([batch(logits[i:j], seeds[i:j]) for i, j in ((0, 1), (1, n // 3), (n // 3, n))])
    return certain("place in the batch", 2 * n, int(differing + (parts != whole).sum()), "no row differs")
