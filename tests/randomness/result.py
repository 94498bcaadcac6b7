"""What a check returns, and the laws that turn statistics into p-values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from reference import Array
from scipy import special, stats

# A right library fails a check this often, by its p-value's law. The quick tier has about 30 p-values, so its
# family-wise rate of false alarms is below 1e-4; the long tier adds up its own rates.
RATE = 1e-6


@dataclass(frozen=True)
class Result:
    """One statistic, its p-value under the null hypothesis, and how often a right library fails.

    A check that no right library can fail has rate 0, and p-value 1 or 0.
    """

    check: str
    draws: int
    statistic: float
    law: str
    p: float
    rate: float = RATE
    detail: str = ""

    @property
    def passed(self) -> bool:
        return bool(self.p >= self.rate) if self.rate else self.p == 1.0


def certain(check: str, draws: int, violations: int, law: str) -> Result:
    """A check without chance: nothing may violate it."""
    return Result(check, draws, float(violations), law, float(violations == 0), rate=0.0)


def bonferroni(ps: Iterable[float]) -> float:
    """The p-value of the smallest of several p-values, whatever their dependence; NaN counts as 0."""
    found = np.nan_to_num(np.fromiter(ps, float), nan=0.0)
    return float(min(1.0, len(found) * found.min()))


def two_sided(lower: float, upper: float) -> float:
    return float(min(1.0, 2 * min(lower, upper)))


def normal_p(z: float) -> float:
    return float(2 * special.ndtr(-abs(z)))


def poisson_p(count: int, mean: float) -> float:
    """Too many as well as too few."""
    return two_sided(stats.poisson.cdf(count, mean), stats.poisson.sf(count - 1, mean))


def pool(counts: Array, expected: Array, least: float = 10.0) -> tuple[Array, Array]:
    """Neighbouring cells in which less than `least` is expected become groups with more, so that chi-square's law
    holds; where all of them together have less, they are left out."""
    rare = expected < least
    total = expected[rare].sum()
    if total < least:
        return counts[~rare], expected[~rare]
    groups = max(1, int(total / (2 * least)))
    group = np.minimum(expected[rare].cumsum() / (2 * least), groups - 1).astype(int)
    joined = (np.bincount(group, weights, groups) for weights in (counts[rare], expected[rare]))
    return tuple(np.append(cells[~rare], more) for cells, more in zip((counts, expected), joined, strict=True))


def chi_square(counts: Array, expected: Array) -> tuple[float, float]:
    """Pearson's statistic and its p-value; a fit too good to be chance fails too."""
    counts, expected = pool(np.asarray(counts, float), np.asarray(expected, float))
    statistic = float(((counts - expected) ** 2 / expected).sum())
    degrees = len(expected) - 1
    return statistic, two_sided(stats.chi2.cdf(statistic, degrees), stats.chi2.sf(statistic, degrees))


def likelihood_cell(expected: float) -> tuple[float, float, float]:
    """Mean and variance of 2 (O log(O/E) - (O - E)), and its covariance with O, for a Poisson count O of mean E."""
    if expected > 5000:
        return 1 + 1 / (6 * expected), 2.0, 0.0
    counts = np.arange(int(expected + 14 * np.sqrt(expected) + 40))
    weights = stats.poisson.pmf(counts, expected)
    term = 2 * (special.xlogy(counts, counts / expected) - (counts - expected))
    mean = float(weights @ term)
    return mean, float(weights @ (term - mean) ** 2), float(weights @ ((term - mean) * (counts - expected)))


def likelihood_ratio(counts: Array, expected: Array) -> tuple[float, float]:
    """The G statistic and its p-value, by a gamma law with the exact moments of multinomial cells (Morris, 1975)."""
    counts, expected = pool(np.asarray(counts, float), np.asarray(expected, float))
    statistic = float(2 * special.xlogy(counts, counts / expected).sum())
    rounded, cells = np.unique(np.round(np.log(expected), 2), return_counts=True)
    mean, variance, covariance = cells @ np.array([likelihood_cell(e) for e in np.exp(rounded)])
    mean, variance = mean - 1.0, variance - 2.0 - covariance**2 / expected.sum()
    law = stats.gamma(mean**2 / variance, scale=variance / mean)
    return statistic, two_sided(law.cdf(statistic), law.sf(statistic))
