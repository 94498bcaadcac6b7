"""The long tier: `cd tests && python -m randomness [--scale 0.01]`; about half an hour on two processors.

It prints a line a check, writes tests/results/*.json and the figures and picture of docs/proofs.md, and ends
with status 1 where the library failed a check or a planted bug passed one.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

import gumbel_ext

from . import compare, noise, page, quick, samples, sources, twins, words
from .result import Result

BILLION = 10**9
TAUS = (1e-30, 1e-20, 1e-10, 1e-3, 0.1, 0.5, 1.0, 2.0, 30.0, 1e3, 1e10, 1e20, 1e30)


class Job(NamedTuple):
    """A check of one source; `seconds` is what it took on two cores, for the estimate of what is left."""

    name: str
    source: str
    run: Callable[[], Result | list[Result]]
    seconds: float
    bug: bool = False


def noise_jobs(scale: float) -> Iterator[Job]:
    n = partial(scaled, scale)
    yield Job("law of the noise", "gumbel_noise", partial(noise.fit, sources.noise, n(BILLION), 1_000), 35)
    yield Job("tail", "gumbel_noise", partial(noise.tail, sources.noise, n(10 * BILLION), 10_000), 80)
    yield Job("resolution", "gumbel_noise", partial(noise.collisions, sources.noise, n(BILLION), 20_000), 10)
    yield Job("extreme words", "gumbel_noise", partial(noise.finite, sources.noise, noise.EXTREME), 1)
    for seed in (1, 2**32 - 1, 2**62):
        call = partial(noise.independence, sources.noise, seed, n(4096, 512), 1 << 10)
        yield Job("independence", f"gumbel_noise, seed {seed}", call, 7)
    blocks = n(100, 1)
    yield Job("speculative decoding", "gumbel_noise", partial(noise.speculative, sources.streams, 30_000, blocks), 15)
    if shutil.which("dieharder"):
        for axis in words.AXES:
            call = partial(words.dieharder, sources.noise, axis, 40_000)
            yield Job("dieharder", "reference" if axis == "draws" else "gumbel_noise", call, 60)


def sample_jobs(scale: float) -> Iterator[Job]:
    n, seed = partial(scaled, scale), 50_000_000_000
    for label, logits in (("flat", samples.FLAT), ("skewed", samples.SKEWED)):
        for sampler in (sources.draws, sources.rows, sources.seeds):
            call = partial(samples.goodness, sampler, logits, n(BILLION // 10), seed)
            yield Job(f"8 classes, {label}", sampler.__name__, call, 10)
    for label, logits in (("flat", torch.zeros(200_000)), ("skewed", samples.skewed(200_000))):
        call = partial(samples.goodness, sources.draws, logits, n(2_000_000), seed)
        yield Job(f"200,000 classes, {label}", "draws", call, 250)
    call = partial(samples.far_behind, sources.draws, 1 << 18, 20.5, n(600_000), seed)
    yield Job("far behind", "draws", call, 90)
    for sampler in (sources.rows, sources.masked):
        call = partial(samples.never, sampler, n(BILLION), seed)
        yield Job("probability 0", sampler.__name__, call, 60)
    call = partial(samples.every_tau, sources.hard, TAUS, n(1 << 22, 1 << 16), seed)
    yield Job("every tau", "hard", call, 10)
    for sampler in (sources.draws, sources.rows, sources.seeds):
        yield Job("neighbours", sampler.__name__, partial(samples.joint, sampler, n(1 << 25, 1 << 20), seed), 4)
    yield Job("place in the batch", "seeds", partial(samples.place, sources.batch, n(30_000, 300), 1), 1)


def bug_jobs() -> Iterator[Job]:
    """Bugs that take long runs; the others are in `quick.py`."""
    call = partial(noise.tail, twins.coarse, 2 * BILLION, 60_000)
    yield Job("tail", "24-bit uniforms", call, 15, bug=True)
    yield Job("tail", "a tail cut at 16", partial(noise.tail, twins.cut, BILLION, 61_000), 10, bug=True)
    if shutil.which("dieharder"):
        call = partial(words.dieharder, twins.coarse_words, "classes", 1, (100, 101, 206))
        yield Job("dieharder", "24-bit uniforms", call, 5, bug=True)


def scaled(scale: float, n: int, least: int = 1000) -> int:
    return max(least, round(n * scale))


def duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"


def perform(jobs: list[Job]) -> list[dict[str, Any]]:
    """Runs them in turn and prints a line a statistic, with the time left at the pace so far."""
    records, began = [], time.monotonic()
    for i, job in enumerate(jobs):
        start = time.monotonic()
        found = job.run()
        seconds = time.monotonic() - start
        pace = (time.monotonic() - began) / sum(j.seconds for j in jobs[: i + 1])
        left = duration(pace * sum(j.seconds for j in jobs[i + 1 :]))
        for r in found if isinstance(found, list) else [found]:
            if job.bug and r.check.split(",")[0] != job.name:  # what a bug need not fail
                continue
            good = r.passed != job.bug
            verdict = ("rejected" if good else "NOT REJECTED") if job.bug else ("passed" if good else "FAILED")
            records.append({"job": job.name, "source": job.source, "bug": job.bug, "verdict": verdict, "good": good,
                            **asdict(r), "seconds": round(seconds, 1)})  # fmt: skip
            line = f"{r.check}, {job.source}: {r.draws:.3g} draws, p = {r.p:.3g}, {verdict}"
            print(f"[{i + 1}/{len(jobs)}] {line} ({seconds:.0f} s; about {left} left) {r.detail}", flush=True)
    return records


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return f"{names[0].split(':')[1].strip() if names else platform.processor()}, {torch.get_num_threads()} threads"


def commit() -> str:
    """Of the sources, with a + where files differ from it."""
    git = partial(subprocess.run, cwd=Path(__file__).parent, capture_output=True, text=True)
    head = git(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
    return head + ("+" if git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip() else "")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m randomness", description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of the draws; below 1 nothing is written")
    scale = parser.parse_args().scale
    if not shutil.which("dieharder"):
        print("dieharder is not installed and takes no part (Debian: apt install dieharder)")
    start, jobs = time.monotonic(), [*noise_jobs(scale), *sample_jobs(scale), *bug_jobs()]
    record: dict[str, Any] = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"), "commit": commit(), "torch": torch.__version__,
        "cpu": processor(), "cpu_isa": gumbel_ext.build_info()["cpu_isa"], "checks": perform(jobs), "libraries": {},
    }  # fmt: skip
    for name in compare.available():
        print(f"compared: {name}", flush=True)
        record["libraries"][name] = compare.compared(name, partial(scaled, scale))
    record["seconds"] = round(time.monotonic() - start)
    if scale >= 1:
        page.RECORD.write_text(json.dumps(record, indent=1) + "\n")
        quick.write()
        page.write()
    wrong = [r for r in record["checks"] if not r["good"]]
    print(f"{len(record['checks'])} results, {len(wrong)} wrong, {duration(record['seconds'])}")
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
