"""Noise and samples follow their laws: each check passes the library and rejects its planted bug.

The quick tier: about 30 p-values, each failing a right library once in a million times (`result.RATE`), so the whole
once in 30,000. Seeds are fixed: a run that passes passes again. `make test-long` draws a thousand times as much.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from randomness import noise, page, samples, sources, twins, words
from randomness.result import Result

TAUS = (1e-30, 1e-3, 0.5, 1.0, 30.0, 1e30)


def quick_words(source: sources.Noise) -> Result:
    return words.dieharder(source, "classes", 1, tests=(8, 100))


# name: the check as a function of a source, the library, its planted bugs, and the results a bug has to fail.
TABLE: dict[str, tuple[Callable, object, Sequence[object], Sequence[str]]] = {
    "law of the noise": (
        partial(noise.fit, n=1 << 25, seed=1), sources.noise, [twins.sixteen_bits],
        ["Kolmogorov-Smirnov", "chi-square of noise"],
    ),
    "mean and variance": (partial(noise.fit, n=1 << 24, seed=2), sources.noise, [twins.shared], ["mean and variance"]),
    "tail": (partial(noise.tail, n=1 << 28, seed=3, beyond=(12, 14, 16)), sources.noise, [twins.cut], ["tail"]),
    "resolution": (
        partial(noise.collisions, n=1 << 25, seed=4), sources.noise, [twins.coarse], ["resolution of the tail"],
    ),
    "extreme words": (
        partial(noise.finite, places=noise.EXTREME[:1]), sources.noise, [twins.infinite], ["extreme words"],
    ),
    "independence": (
        partial(noise.independence, seed=5, rows=512), sources.noise, [twins.shared, twins.seed_plus_row],
        ["correlations", "joint tables"],
    ),
    "speculative decoding": (
        partial(noise.speculative, seed=6, blocks=1), sources.streams, [twins.shared_streams], ["speculative decoding"],
    ),
    "flat samples": (
        partial(samples.goodness, logits=torch.zeros(500), n=200_000, seed=7), sources.draws, [twins.half_search],
        ["chi-square of samples", "G of samples"],
    ),
    "skewed samples": (
        partial(samples.goodness, logits=samples.skewed(3000), n=200_000, seed=8), sources.rows, [twins.half_search],
        ["chi-square of samples", "G of samples"],
    ),
    "far behind": (
        partial(samples.far_behind, classes=1 << 16, nats=17.0, n=11_000, seed=9), sources.draws,
        [twins.cut_rows, twins.lost_tail_search], ["classes 17.0 nats behind"],
    ),
    "probability 0": (
        partial(samples.never, n=1 << 22, seed=10), sources.rows, [twins.closed_search, twins.finite_mask],
        ["classes of probability 0"],
    ),
    "probability 0 by a mask": (
        partial(samples.never, n=1 << 22, seed=11), sources.masked, [twins.closed_search], ["classes of probability 0"],
    ),
    "every tau": (
        partial(samples.every_tau, taus=TAUS, n=1 << 18, seed=12), sources.hard, [twins.tau_before_noise],
        ["one-hot samples at every tau"],
    ),
    "consecutive seeds": (
        partial(samples.joint, n=1 << 21, seed=13), sources.seeds, [twins.reseeded], ["neighbouring samples"],
    ),
    "neighbouring draws": (
        partial(samples.joint, n=1 << 21, seed=14), sources.draws, [twins.reseeded], ["neighbouring samples"],
    ),
    "samples of consecutive seeds": (
        partial(samples.goodness, logits=samples.SKEWED, n=1 << 21, seed=15), sources.seeds, [twins.reseeded],
        ["chi-square of samples", "G of samples"],
    ),
    "place in the batch": (
        partial(samples.place, n=300, seed=16), sources.batch, [twins.first_seed_only, twins.rank_noise],
        ["place in the batch"],
    ),
    "words": (quick_words, sources.noise, [twins.coarse_words], ["dieharder, words across classes"]),
}  # fmt: skip


def results(name: str, source: object) -> dict[str, Result]:
    if name == "words" and not shutil.which("dieharder"):
        pytest.skip("needs dieharder (Debian: apt install dieharder)")
    found = TABLE[name][0](source)
    return {r.check: r for r in (found if isinstance(found, list) else [found])}


@pytest.mark.parametrize("name", TABLE)
def test_library_passes(name: str) -> None:
    """The check's p-value is above its rate of false alarms."""
    assert [r for r in results(name, TABLE[name][1]).values() if not r.passed] == []


@pytest.mark.parametrize(("name", "twin"), [(n, t) for n in TABLE for t in TABLE[n][2]],
                         ids=lambda x: getattr(x, "__name__", x))  # fmt: skip
def test_planted_bug_is_rejected(name: str, twin: object) -> None:
    """The same check, with the same draws, fails the bug."""
    found = results(name, twin)
    assert [found[check] for check in TABLE[name][3] if found[check].passed] == []


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
    assert not noise.tail(twins.coarse, 1 << 31, seed=18).passed
    assert noise.tail(sources.noise, 1 << 31, seed=18).passed


def test_page_is_up_to_date() -> None:
    """docs/proofs.md holds the figures of tests/results; `cd tests && python -m randomness.page` writes them."""
    assert page.PAGE.read_text() == page.filled()
