"""Noise and samples follow their laws: each check passes the library and rejects its planted bug.

The quick tier (`randomness/quick.py`): about 30 p-values, each failing a right library once in a million times
(`result.RATE`), so the whole once in 30,000. Seeds are fixed: a run that passes passes again. `make test-long` draws
up to a thousand times as much.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from randomness import noise, page, quick, samples, sources, twins
from randomness.result import Result


def results(name: str, source: Any) -> dict[str, Result]:
    if not quick.available(name):
        pytest.skip("needs dieharder (Debian: apt install dieharder)")
    return quick.results(name, source)


@pytest.mark.parametrize("name", quick.TABLE)
def test_library_passes(name: str) -> None:
    """The check's p-value is above its rate of false alarms."""
    assert [r for r in results(name, quick.TABLE[name][1]).values() if not r.passed] == []


@pytest.mark.parametrize(
    ("name", "twin"),
    [(name, twin) for name, row in quick.TABLE.items() for twin in row[2]],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_planted_bug_is_rejected(name: str, twin: Any) -> None:
    """The same check, with the same draws, fails the bug."""
    found = results(name, twin)
    assert [found[check] for check in quick.TABLE[name][3] if found[check].passed] == []


def test_a_cosine_of_0_99_proves_nothing() -> None:
    """A sampler off by tens of per cent passes; chi-square rejects it with the same draws.

    The cosine of frequencies and probabilities, above 0.99, is flashinfer-ai/flashinfer's test of its samplers
    (tests/utils/test_sampling.py, test_sampling_freq).
    """
    logits, n, seed = torch.zeros(500), 500_000, 17
    assert samples.cosine(twins.half_search, logits, n, seed) > 0.99
    assert not any(r.passed for r in samples.goodness(twins.half_search, logits, n, seed))
    assert all(r.passed for r in samples.goodness(sources.draws, logits, n, seed))


@pytest.mark.long
def test_24_bits_end_the_tail() -> None:
    """Two billion values show that uniforms of 24 bits reach 16.6 and no further."""
    assert not noise.tail(twins.coarse, 1 << 31, seed=18)[0].passed
    assert all(r.passed for r in noise.tail(sources.noise, 1 << 31, seed=18))


def test_page_is_up_to_date() -> None:
    """docs/proofs.md holds the figures of tests/results; `cd tests && python -m randomness.page` writes them."""
    assert page.PAGE.read_text() == page.filled()
