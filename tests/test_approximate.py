"""The bounds of csrc/cuda/approximate.cuh and search.cuh, from the documented errors of the special-function unit: on
them rest the promise on a GPU's values, and the margins within which the fixed sequence decides."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

OFFSET = -math.log(2 * math.log(2))
#: The least noise, that of v = 1 - 2^-33, and about the most.
NOISE = np.concatenate([np.linspace(-3.14, 3.2, 2000), np.linspace(3.2, 46, 200)])
#: Of -log2(1 - v) / 2 below v = 1/2: the polynomial's and its roundings'.
POLYNOMIAL = 2.6
#: Of an exponential: 2 ulp from the rounded one.
EXPONENTIAL = 5
Array = np.ndarray


def half_ulp(x: Array) -> Array:
    """Of float32, in units of 2^-24."""
    return np.where(x == 0, 0.0, 2.0 ** np.floor(np.log2(np.where(x == 0, 1, np.abs(x)))))


def noise_error(g: Array) -> Array:
    """Of -log(-log(1 - v)) as approximate.cuh has it, in units of 2^-24."""
    e = np.exp(-g)
    above, v = np.exp(-e), -np.expm1(-e)
    survival = np.where(v < 0.5, v, above)
    roundings = 2 * half_ulp(survival) / survival  # a conversion and a fused multiplication
    first = roundings * np.where(v < 0.5, v / (above * e), 1 / e) + np.where(v < 0.5, POLYNOMIAL, 4)
    distance = np.abs(g - OFFSET)
    second = 4 * np.maximum(math.log(2), distance) + 0.05 * distance  # the unit's error, and that of log(2)
    return first + second


@pytest.mark.parametrize("reach", [1, 1.02, 1.1, 1.25, 1.5, 2, 3, 6, 20, 46, 1e3])
def test_values(reach: float) -> None:
    """Value k is 1 / sum of exp((s_j - s_k) / tau). Over all j and k with |x| + |g| <= M: the errors of two scores
    and of their exponents, by the scores' distance (scale) and each one's from the largest (rounding), are at most
    24 M / tau."""
    g = NOISE[np.abs(NOISE) <= reach]
    logits = np.linspace(-1, 1, 21)[:, None] * (reach - np.abs(g))
    score = (logits + g).ravel()
    error = (noise_error(g) + half_ulp(logits + g - OFFSET)).ravel()
    order = np.argsort(score)
    score, error = score[order], error[order]
    most_above = np.maximum.accumulate(error[::-1])[::-1]
    distances = 2 * (reach - score)  # |a - b| + a + b, where a, that of the smaller one, is the larger distance
    total = (error + most_above + distances).max()
    assert total <= 24 * reach
    assert reach > 1 or total > 23 * reach  # the bound is no larger than it has to be


def test_constant_part() -> None:
    """Of two exponentials, of a sum of 16 numbers in a tree, of the factor and the product: at most 16."""
    assert 2 * EXPONENTIAL + math.log2(16) + 2 <= 16


def test_polynomial() -> None:
    """In float32, over all of its range, from the coefficients in the source."""
    source = (Path(__file__).parents[1] / "csrc" / "cuda" / "approximate.cuh").read_text()
    found = re.search(r"horner\(survival,([^)]*)\)", source)
    assert found
    coefficients = [np.float32(c.strip(" \nf")) for c in found[1].split(",")]
    v = np.concatenate([np.linspace(2.0**-16, 0.5, 200_001), 2.0 ** np.linspace(-16, -1, 100_001)]).astype(np.float32)
    value = np.full_like(v, coefficients[0])
    for c in coefficients[1:]:
        value = (value.astype(np.float64) * v + c).astype(np.float32)  # rounded once, but for ties of ties
    exact = -np.log1p(-v.astype(np.float64)) / math.log(4)
    error = np.abs((v * value).astype(np.float64) / exact - 1).max() * 2**24
    assert 2 < error <= POLYNOMIAL


@pytest.mark.parametrize("largest", [0, 1, 30, 1e4, 1e30])
def test_margin(largest: float) -> None:
    """A class whose rounded score is the largest comes within the margin of the largest approximate score."""
    fixed = np.maximum(4, 4 * np.abs(NOISE))  # the fixed sequence's own error: 2 ulp or 2^-22
    rounding = half_ulp(np.float64(largest) + 47) * 2
    apart = 2 * (noise_error(NOISE) + fixed + rounding).max() * 2.0**-24
    assert apart <= 2.0**-13 + 2.0**-20 * largest


@pytest.mark.parametrize("score", [0, -3, 50, 1e4, -1e30])
def test_search_slack(score: float) -> None:
    """search.cuh: bounds of classes whose rounded scores reach `score` are not below ScoreBound::least(score). In units
    of 2^-24 of a base-2 logarithm."""
    bits, size = math.log2(math.e), abs(score) + 46  # at most so large is x / T
    logarithm = 4 * 32 + bits  # the unit's, of a word, and the word's conversion
    scale = 3 * bits * size  # 1 / T, log2(e), their product
    rounding = bits * size + 32 + 65  # of the bound itself, which may be that far above -32
    exact = bits * (size + 4 * 46 + abs(score))  # the quotient's, the noise's, the sum's
    least = bits * abs(score) + 33  # how ScoreBound::least itself is rounded
    assert (logarithm + scale + rounding + exact + least) * 2.0**-24 <= 2e-4 + 2.0**-19 * abs(score)
