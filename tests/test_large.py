"""Inputs past 2^31 elements: indices and offsets of 64 bits."""

from __future__ import annotations

import os

import numpy as np
import pytest
import reference
import torch

import gumbel_ext

GIB = 2**30
LIMIT = 2**31


def available() -> int:
    """Bytes that can be had without swapping."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 0


def needs(gib: int) -> None:
    if os.environ.get("GUMBEL_EXT_TEST_LARGE") == "0":
        pytest.skip("GUMBEL_EXT_TEST_LARGE=0")
    if available() < (gib + 1) * GIB:
        pytest.skip(f"needs {gib + 1} GiB of free memory, found {available() / GIB:.1f}")


@pytest.mark.parametrize("last", [True, pytest.param(False, marks=pytest.mark.long)])
def test_one_row_of_more_than_2_31_classes(last: bool) -> None:
    """The class is counted in 64 bits: among a few classes allowed, the index is the reference's."""
    needs(4)
    classes = LIMIT + 1001
    allowed = np.unique(np.random.default_rng(0).integers(0, classes, 500))
    if last:
        allowed = np.arange(LIMIT - 300, classes, 7)
    x = torch.full((1, classes), -torch.inf, dtype=torch.bfloat16)
    x[0, torch.from_numpy(allowed)] = 0
    x[0, 0] = -100  # never the largest, but a score to beat
    expected = allowed[reference.noise(3, 1, allowed)[0].argmax()]
    assert gumbel_ext.gumbel_max(x, seed=3).item() == expected


def test_more_than_2_31_elements_in_rows() -> None:
    """Offsets are counted in 64 bits: the last rows, past the limit, are the reference's."""
    needs(9)
    rows, classes = 2**16 + 3, 2**15
    x = torch.zeros(rows, classes, dtype=torch.bfloat16)
    x[-3:] = torch.randn(3, classes)
    index = gumbel_ext.gumbel_max(x, seed=3)
    noise = reference.noise(3, np.arange(rows - 3, rows), classes)
    assert index[-3:].tolist() == (x[-3:].float().numpy() + noise).argmax(-1).tolist()
    relaxed = gumbel_ext.softmax(x)
    assert torch.equal(relaxed[-3:], gumbel_ext.softmax(x[-3:]))
    assert (relaxed[: rows - 3 : 997] == 2.0**-15).all()
