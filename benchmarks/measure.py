"""Timing: all sides of a row take turns, so that whatever the machine does meanwhile hits them alike."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch

from benchmarks import memory, parts
from benchmarks.cases import WORKS, Case, Problem
from benchmarks.checks import Wrong, check_ours, check_peer
from benchmarks.peers import CEILINGS, OWN_THREADS, PEERS, UNCHECKED
from benchmarks.sides import Side, Unavailable, ours

#: A timed batch of calls lasts at least this long, so that the clock's own cost does not count.
BATCH_SECONDS = 2e-3
#: Calls shorter than this are preceded by an untimed one, which brings caches and threads back.
SHORT_SECONDS = 5e-3
#: How long idle OpenMP or XLA threads may go on spinning after a call.
SPIN_SECONDS = 20e-3
MAX_ROUNDS = 200


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        low, median, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        return cls(median, low, high)


@dataclass(frozen=True)
class Comparison:
    """A peer beside ours: its cost per logit (nanoseconds, or bytes), over ours, and what was asked."""

    peer: str
    cost: Spread
    ratio: Spread
    at_least: float | None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """At the three digits that the table shows."""
        if self.at_least is None:
            return None
        return float(f"{self.ratio.median:.3g}") >= float(f"{self.at_least:.3g}")


@dataclass
class Row:
    """The outcome of a case. `left_out` says why a peer is missing; `wrong` why ours was not timed."""

    case: Case
    ours: Spread | None = None  # nanoseconds (or bytes) per logit
    peers: list[Comparison] = field(default_factory=list)
    ceilings: list[Comparison] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    arithmetic: float | None = None  # Philox, logarithms and exponential alone, shared by the threads
    wrong: str = ""
    rounds: int = 0


@dataclass(frozen=True)
class Effort:
    """Seconds of timing a row, the least number of rounds whatever they take, and the peers that sit out."""

    seconds: float = 6.0
    rounds: int = 7
    without: frozenset[str] = frozenset()


QUICK = Effort(seconds=0.5, rounds=3, without=frozenset({"compile", "distributions"}))


def run(case: Case, effort: Effort, device: str = "cpu") -> Row:
    """Checks and measures one row."""
    row = Row(case)
    wanted = {name: least for name, least in case.peers.items() if name not in effort.without}
    if case.quantity == "memory":
        _measure_memory(row, wanted)
        return row
    problem = Problem.build(case, device)
    try:
        check_ours(problem)
        sides = {"ours": _checked("ours", problem)}
    except Wrong as error:
        row.wrong = str(error)
        return row
    for name in wanted:
        try:
            sides[name] = _checked(name, problem)
        except (Unavailable, Wrong) as error:
            row.left_out[name] = str(error)
        except Exception as error:  # a peer that breaks is reported, and stops nobody
            row.left_out[name] = f"failed: {type(error).__name__}: {str(error).splitlines()[0][:100]}"
    for name, factory in CEILINGS.items():
        with contextlib.suppress(Unavailable):
            sides[name] = factory(problem)
    if device == "cpu" and case.dtype == torch.float32 and WORKS[case.work] and parts.costs():
        needed = parts.costs() if case.work != "index" else {"Philox": parts.costs()["Philox"]}
        row.arithmetic = sum(needed.values()) / torch.get_num_threads()
    _fill(row, sides, interleave(sides, effort, _synchronise(device)), wanted)
    return row


def _checked(name: str, problem: Problem) -> Side:
    """The side of that name, its first result checked."""
    side = ours(problem) if name == "ours" else PEERS[name](problem)
    if name not in UNCHECKED:
        check_peer(problem, side.trial())
    return side


def _fill(row: Row, sides: dict[str, Side], costs: dict[str, list[float]], wanted: dict[str, float | None]) -> None:
    mine = costs["ours"]
    row.ours, row.rounds = Spread.of(mine), len(mine)
    for name, theirs in costs.items():
        if name == "ours":
            continue
        ratio = Spread.of([b / a for a, b in zip(mine, theirs, strict=True)])
        comparison = Comparison(name, Spread.of(theirs), ratio, wanted.get(name), sides[name].note)
        (row.ceilings if name in CEILINGS else row.peers).append(comparison)


def _synchronise(device: str) -> Callable[[], None]:
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def interleave(
    sides: dict[str, Side], effort: Effort, synchronise: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Nanoseconds per logit of each side, one figure a round; in a round every side has one timed batch."""
    seconds = {name: _call_seconds(side.call, synchronise) for name, side in sides.items()}
    batch = {name: max(1, round(BATCH_SECONDS / spent)) for name, spent in seconds.items()}
    costs: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    gc.collect()
    gc.disable()
    try:
        end = time.perf_counter() + effort.seconds
        for turn in range(MAX_ROUNDS):
            if turn >= effort.rounds and time.perf_counter() >= end:
                break
            previous = order[-1]
            for name in order:
                alien = (name in OWN_THREADS) != (previous in OWN_THREADS)
                if alien:
                    time.sleep(SPIN_SECONDS)
                if alien or seconds[name] < SHORT_SECONDS:
                    sides[name].call()
                spent = _timed(sides[name].call, batch[name], synchronise)
                costs[name].append(spent * 1e9 / sides[name].logits)
                previous = name
            order = order[1:] + order[:1]
    finally:
        gc.enable()
    return costs


def _timed(call: Callable[[], Any], times: int, synchronise: Callable[[], None]) -> float:
    """Seconds per call."""
    synchronise()
    start = time.perf_counter()
    for _ in range(times):
        call()
    synchronise()
    return (time.perf_counter() - start) / times


def _call_seconds(call: Callable[[], Any], synchronise: Callable[[], None]) -> float:
    """Warm-up, and how long a call takes afterwards."""
    first = _timed(call, 1, synchronise)
    if first > 0.1:
        return first
    return max(1e-7, min(_timed(call, 3, synchronise) for _ in range(3)))


def _measure_memory(row: Row, wanted: dict[str, float | None]) -> None:
    """The peak of one step above its inputs, each side in a process of its own, in bytes per logit."""
    mine = memory.peak(row.case.name, "ours") / row.case.logits
    row.ours, row.rounds = Spread(mine, mine, mine), 1
    for name, least in wanted.items():
        try:
            theirs = memory.peak(row.case.name, name) / row.case.logits
        except memory.Failed as error:
            row.left_out[name] = str(error)
            continue
        cost, ratio = Spread(theirs, theirs, theirs), theirs / mine
        row.peers.append(Comparison(name, cost, Spread(ratio, ratio, ratio), least))


class Load:
    """What part of the processor's time others took since this object was made."""

    def __init__(self) -> None:
        self._began, self._busy, self._own = time.perf_counter(), self._busy_seconds(), self._own_seconds()

    @staticmethod
    def _own_seconds() -> float:
        return sum(os.times()[:4])  # of this process and of its children that have ended

    @staticmethod
    def _busy_seconds() -> float | None:
        """Of all cores: user, nice, system, interrupts, and what the hypervisor gave to others."""
        try:
            ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        except OSError:
            return None
        idle, waiting = ticks[3:5]
        return (sum(ticks) - idle - waiting) / os.sysconf("SC_CLK_TCK")

    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def others(self) -> float | None:
        busy = self._busy_seconds()
        if busy is None or self._busy is None:
            return None
        spent = (busy - self._busy) - (self._own_seconds() - self._own)
        return round(max(0.0, spent) / (self.seconds() * (os.cpu_count() or 1)), 3)


@dataclass(frozen=True)
class Ceiling:
    """What the machine itself does, measured in the same run: nanoseconds per float32."""

    name: str
    cost: Spread

    @property
    def gigabytes_per_second(self) -> float:
        return 8 / self.cost.median  # four bytes read, four written


def part_ceilings() -> list[Ceiling]:
    """The parts of the arithmetic, on one core."""
    return [Ceiling(f"{name} alone, one core", Spread(cost, cost, cost)) for name, cost in parts.costs().items()]


def ceilings(effort: Effort, floats: int = 1 << 26) -> list[Ceiling]:
    """Memory copies too large for any cache but the last, into the same and into fresh memory."""
    source, target = torch.randn(floats), torch.empty(floats)
    sides = {
        "copy": Side(lambda: target.copy_(source), floats),
        "copy into fresh memory": Side(lambda: source.clone(), floats),
    }
    return [Ceiling(name, Spread.of(costs)) for name, costs in interleave(sides, effort).items()]
