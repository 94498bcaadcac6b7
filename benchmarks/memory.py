"""The peak of resident memory during one step, above what the inputs take; each side in its own process."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_SECONDS = 600


class Failed(Exception):
    """The process of a side did not come to its end."""


def peak(case_name: str, side: str) -> int:
    """Bytes: the most that one step of `side` on the case held at once beyond its inputs."""
    command = [sys.executable, "-m", "benchmarks.memory", case_name, side]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        raise Failed(f"not done in {TIMEOUT_SECONDS} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise Failed(lines[-1][:100] if lines else f"exit status {done.returncode}")
    return int(done.stdout.split()[-1])


def _status(field: str) -> int:
    """A line of /proc/self/status, in bytes: VmRSS is what is resident now, VmHWM the most it has been."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def _child(case_name: str, side: str) -> int:
    from benchmarks.cases import CASES, Problem
    from benchmarks.peers import PEERS
    from benchmarks.sides import ours

    factory = ours if side == "ours" else PEERS[side]
    case = next(case for case in CASES if case.name == case_name)
    # What a first call loads and keeps is no part of the step.
    factory(Problem.build(replace(case, shape=(4, *case.shape[1:])))).call()
    step = factory(Problem.build(case))
    if side == "compile":
        step.call()  # compiles
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _status("VmRSS")
    step.call()
    return _status("VmHWM") - before


if __name__ == "__main__":
    print(_child(*sys.argv[1:]))
