"""The benchmarks run, and find right what they measure."""

from __future__ import annotations

import shutil
import sys

import pytest
from commands import ROOT, attempt

ROWS = ("hard 1024x10", "index 1x10", "sample 1024x10", "sample forward 4096", "reinmax", "softmax 1x10")


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("g++"), reason="the ceilings are compiled")
def test_a_row_of_each_kind() -> None:
    done = attempt(sys.executable, "-m", "benchmarks", "--seconds", 0.1, "--rows", *ROWS, cwd=ROOT)
    assert "WRONG" not in done.stdout and "targets met" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
