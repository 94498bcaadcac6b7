"""Checks of a noise source: its law, its tail, its resolution, its finiteness and its independence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from reference import Array
from scipy import special, stats

from .result import Result, bonferroni, certain, chi_square, normal_p, poisson_p
from .sources import Noise

# (seed, class) whose word is 0xFFFFFFFF, and whose word is 0.
EXTREME = [(661, 1397827), (1072, 7511375), (1343428, 3), (627779616, 2), (293046734, 1), (585825483, 1)]
BLOCK = (1 << 12, 1 << 10)  # rows, classes: what is held at once
EULER, VARIANCE = float(np.euler_gamma), float(np.pi**2 / 6)
FOURTH = float(3 * np.pi**4 / 20)  # E (g - mean)^4
LOW, HIGH, BINS = -4.0, 60.0, 1 << 12  # of the grid; its edges are float32 numbers


def blocks(noise: Noise, n: int, seed: int) -> Iterator[torch.Tensor]:
    """At least `n` values, in blocks under consecutive seeds."""
    for block in range(-(-n // (BLOCK[0] * BLOCK[1]))):
        yield noise(*BLOCK, seed + block)


def above(t: Array | float) -> Array:
    """P(g > t)."""
    return -np.expm1(-np.exp(-np.asarray(t)))


def fit(noise: Noise, n: int, seed: int) -> list[Result]:
    """Against the standard Gumbel law: Kolmogorov-Smirnov, chi-square, mean and variance, in one pass.

    The largest distance is taken over a grid of spacing 1/64, so it is at most that over all numbers, and
    Kolmogorov's law bounds its p-value from above. Chi-square counts the same grid's cells. Mean and variance (about
    the known mean) are normal: VAR(mean) = VAR(g)/n, VAR(variance) = (E (g - mean)^4 - VAR(g)^2)/n.
    """
    histogram, draws, sums = np.zeros(BINS), 0, np.zeros(2)
    for g in blocks(noise, n, seed):
        histogram += torch.histc(g, BINS, LOW, HIGH).double().numpy()
        centred = g - EULER
        sums += centred.sum(dtype=torch.float64).item(), (centred * centred).sum(dtype=torch.float64).item()
        draws += g.numel()
    edges = np.linspace(LOW, HIGH, BINS + 1)
    survival = np.append(1.0, above(edges[1:-1]).tolist() + [0.0])
    distance = float(np.abs(np.append(0, histogram.cumsum()) / draws - (1 - survival)).max())
    statistic = distance * np.sqrt(draws)
    squared, p = chi_square(histogram, -np.diff(survival) * draws)
    z = sums[0] / np.sqrt(draws * VARIANCE), (sums[1] - draws * VARIANCE) / np.sqrt(draws * (FOURTH - VARIANCE**2))
    return [
        Result("Kolmogorov-Smirnov", draws, statistic, "sqrt(n) D: Kolmogorov", float(special.kolmogorov(statistic))),
        Result("chi-square of noise", draws, squared, "chi-square, cells of 1/64", p),
        Result("mean and variance", draws, max(z, key=abs), "larger of two z", bonferroni(map(normal_p, z)),
               detail=f"mean {z[0]:+.2f}, variance {z[1]:+.2f} standard deviations"),
    ]  # fmt: skip


def tail(noise: Noise, n: int, seed: int, beyond: Sequence[float] = (16, 18, 20, 22)) -> list[Result]:
    """Counts beyond far thresholds: Poisson of mean n (1 - exp(-exp(-t))), two-sided, for each of them.

    None of all values may be infinite or NaN.
    """
    counts, draws, largest, bad = np.zeros(len(beyond), int), 0, -np.inf, 0
    for g in blocks(noise, n, seed):
        draws += g.numel()
        low, top = g.aminmax(dim=0)  # most columns hold nothing this far out
        if not (low.isfinite().all() and top.isfinite().all()):
            bad += int((~g.isfinite()).sum())
        largest = max(largest, top.max().item())
        far = g[:, top > min(beyond)]
        counts += [int((far > t).sum()) for t in beyond]
    expected = draws * above(beyond)
    ps = [poisson_p(c, e) for c, e in zip(counts.tolist(), expected.tolist(), strict=True)]
    lines = [f"beyond {t}: {c} of {e:.1f}" for t, c, e in zip(beyond, counts, expected, strict=True)]
    return [
        Result("tail", draws, float(counts[0]), "Poisson, smallest p of all", bonferroni(ps),
               detail="; ".join([*lines, f"largest {largest:.3f}"])),
        certain("infinite or NaN", draws, bad, "none"),
    ]  # fmt: skip


def collisions(noise: Noise, n: int, seed: int, beyond: float = 11.1) -> Result:
    """Equal values far out betray a coarse uniform number behind them.

    Of m values beyond t, in float32 cells of width d, about m^2/2 * d/2 pairs are equal: Poisson. (Beyond 11.09 the
    library's noise has 64 bits; of 24-bit uniforms there are 253 values there.)
    """
    found, draws = [], 0
    for g in blocks(noise, n, seed):
        found.append(g[g > beyond])
        draws += g.numel()
    values = torch.cat(found)
    pairs = len(values) - len(values.unique())
    mean = len(values) ** 2 / 2 * 2.0**-20 / 2
    p = float(stats.poisson.sf(pairs - 1, mean))
    detail = f"{len(values)} values beyond {beyond}, {pairs} equal to another, {mean:.2f} expected"
    return Result("resolution of the tail", draws, float(pairs), "equal values: Poisson, too many", p, detail=detail)


def finite(noise: Noise, places: Sequence[tuple[int, int]]) -> Result:
    """Noise is finite at these places (seed, class), where the word is extreme."""
    found = [noise(1, c + 1, seed)[0, c].item() for seed, c in places]
    return certain("extreme words", len(places), sum(not np.isfinite(g) for g in found), "none infinite or NaN")


Pair = tuple[str, torch.Tensor, torch.Tensor]


def neighbours(noise: Noise, seed: int, rows: int, classes: int) -> Iterator[Pair]:
    """Disjoint pairs of noise that lie side by side in every way there is."""
    a = noise(rows, classes, seed, torch.float64)
    yield "class", a[:, 0::2], a[:, 1::2]
    quads = a.view(rows, -1, 2, 4)
    yield "counter (class + 4)", quads[:, :, 0], quads[:, :, 1]
    yield "row", a[0::2], a[1::2]
    halves = a.view(2, rows // 2, classes)
    yield "far row", halves[0], halves[1]
    b = noise(rows, classes, seed + 1, torch.float64)
    yield "seed", a, b
    yield "seed + 1, row - 1", a[1:], b[:-1]
    yield "seed + 2^32", a, noise(rows, classes, seed + 2**32, torch.float64)
    own = noise(rows, classes, torch.arange(seed, seed + rows), torch.float64)
    yield "rows of consecutive seeds", own[0::2], own[1::2]
    yield "a seed a row, against one seed", own[1:], a[1:]


def independence(noise: Noise, seed: int, rows: int = 1 << 10, classes: int = 1 << 10) -> list[Result]:
    """Neighbours are uncorrelated, as they are and as normal scores, and fill a joint table evenly.

    sqrt(n) r is standard normal (means and variances are known); the 16 x 16 table of uniforms has 255 degrees.
    """
    correlations: dict[str, float] = {}
    tables: dict[str, tuple[float, float]] = {}
    draws = 0
    for name, a, b in neighbours(noise, seed, rows, classes):
        draws += a.numel()
        u, v = torch.exp(-torch.exp(-a)), torch.exp(-torch.exp(-b))
        scale = np.sqrt(a.numel())
        correlations[name] = ((a - EULER) * (b - EULER)).mean().item() / VARIANCE * scale
        correlations[name + ", normal scores"] = (torch.special.ndtri(u) * torch.special.ndtri(v)).mean().item() * scale
        cells = (u * 16).long().clamp_(max=15) * 16 + (v * 16).long().clamp_(max=15)
        counts = torch.bincount(cells.flatten(), minlength=256).numpy()
        tables[name] = chi_square(counts, np.full(256, a.numel() / 256))
    worst = max(correlations, key=lambda name: abs(correlations[name]))
    table = min(tables, key=lambda name: tables[name][1])
    return [
        Result("correlations", draws, correlations[worst], f"largest of {len(correlations)} z",
               bonferroni(map(normal_p, correlations.values())), detail=worst),
        Result("joint tables", draws, tables[table][0], f"worst of {len(tables)} chi-squares, df 255",
               bonferroni(p for _, p in tables.values()), detail=table),
    ]  # fmt: skip


def speculative(streams: Callable[[int], Sequence[torch.Tensor]], seed: int, blocks: int) -> Result:
    """Speculative decoding (Leviathan et al., 2023) with this noise keeps the target's law, by chi-square.

    `streams` gives the draft's noise, the acceptance test's and the recovery's, of one row a trial.
    """
    draft = torch.tensor([4.0, 3, 2, 1]).div(10)
    target = torch.tensor([1.0, 4, 1, 4]).div(10)
    counts = torch.zeros(4, dtype=torch.int64)
    for block in range(blocks):
        first, test, second = streams(seed + 3 * block)
        token = (draft.log() + first).argmax(-1)
        accepted = torch.exp(-torch.exp(-test[:, 0])) < (target / draft)[token]
        again = ((target - draft).clamp_min(0).log() + second).argmax(-1)
        counts += torch.bincount(token.where(accepted, again), minlength=4)
    n = int(counts.sum())
    statistic, p = chi_square(counts.numpy(), target.double().numpy() * n)
    return Result("speculative decoding", n, statistic, "chi-square, df 3", p)
