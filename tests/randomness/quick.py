"""The quick tier: every check as the library passes it and its planted bugs do not, in a minute on two cores.

tests/test_randomness.py runs it; `cd tests && python -m randomness.quick` writes tests/results/bugs.json.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from . import noise, page, samples, sources, twins, words
from .result import Result

TAUS = (1e-30, 1e-3, 0.5, 1.0, 30.0, 1e30)


def first_words(source: sources.Noise) -> Result:
    return words.dieharder(source, "classes", 1, tests=(8, 100))


# name: the check as a function of a source, the library, its planted bugs, and the results a bug has to fail.
TABLE: dict[str, tuple[Callable[[Any], Any], Any, Sequence[Any], Sequence[str]]] = {
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
    "words": (first_words, sources.noise, [twins.coarse_words], ["dieharder, words across classes"]),
}  # fmt: skip


def available(name: str) -> bool:
    return name != "words" or bool(shutil.which("dieharder"))


def results(name: str, source: Any) -> dict[str, Result]:
    """What the check of this name finds, by the names of its results."""
    found = TABLE[name][0](source)
    return {r.check: r for r in (found if isinstance(found, list) else [found])}


def write() -> None:
    """For every check and bug: the p-values that the library has and the bug has."""
    records = []
    for name in filter(available, TABLE):
        _, library, bugs, checks = TABLE[name]
        ours = results(name, library)
        for bug in bugs:
            theirs = results(name, bug)
            for check in checks:
                records.append({
                    "check": check, "of": name, "bug": bug.__name__, "model": " ".join(bug.__doc__.split()),
                    "draws": ours[check].draws, "rate": ours[check].rate, "p": ours[check].p,
                    "passed": ours[check].passed, "bug_p": theirs[check].p, "rejected": not theirs[check].passed,
                })  # fmt: skip
    page.BUGS.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    write()
