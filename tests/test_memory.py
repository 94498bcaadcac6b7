"""Memory that large results leave behind is kept for the next ones, within a limit, and never while anyone holds it."""

from __future__ import annotations

import copy
import io
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

import gumbel_ext

SHAPE = (1024, 1024)  # 4 MiB: large enough to be kept


def test_reused_when_nobody_holds_it() -> None:
    x = torch.randn(SHAPE)
    first = gumbel_ext.softmax(x)
    address = first.data_ptr()
    del first
    assert gumbel_ext.softmax(x).data_ptr() == address


def test_not_reused_while_a_view_lives() -> None:
    x = torch.randn(SHAPE)
    y = gumbel_ext.softmax(x)
    row, expected = y[3], y[3].clone()
    del y
    others = [gumbel_ext.softmax(torch.randn(SHAPE)) for _ in range(4)]
    assert torch.equal(row, expected)
    assert len({other.data_ptr() for other in others}) == 4


def test_reused_memory_is_written_throughout() -> None:
    """What the last result left shows nowhere."""
    x = torch.randn(SHAPE)
    for _ in range(2):
        gumbel_ext.softmax(x).fill_(torch.nan)
        assert not gumbel_ext.gumbel_softmax(x, hard=True, seed=1).isnan().any()


@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.T, lambda x: x.view(4, 256, 32, 32).transpose(1, 2)])
def test_strides_are_those_of_empty_like(view: object) -> None:
    x = view(torch.randn(SHAPE))  # type: ignore[operator]
    assert gumbel_ext.softmax(x).stride() == torch.empty_like(x).stride()


def test_results_can_be_resized() -> None:
    y = gumbel_ext.softmax(torch.zeros(SHAPE)).resize_(2, *SHAPE)
    assert y.shape == (2, *SHAPE) and (y[0] == 2.0**-10).all()


def pickled(y: torch.Tensor) -> torch.Tensor:
    buffer = io.BytesIO()
    torch.save(y, buffer)
    buffer.seek(0)
    return torch.load(buffer)


COPIES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "clone": torch.clone,
    "_lazy_clone": torch._lazy_clone,
    "deepcopy": copy.deepcopy,
    "save": pickled,
    "share_memory_": torch.Tensor.share_memory_,
    "untyped_storage": lambda y: torch.empty(0).set_(y.untyped_storage().clone(), 0, y.shape, y.stride()),
    "numpy": lambda y: torch.from_numpy(y.numpy().copy()),
    "dlpack": lambda y: torch.from_dlpack(y).clone(),
}


@pytest.mark.parametrize("size", [(3, 5), (512, 512), SHAPE], ids=str)
@pytest.mark.parametrize("way", COPIES)
def test_results_are_copied_as_any_tensor(way: str, size: tuple[int, int]) -> None:
    """Copies have memory of their own: neither changes with the other, nor with a later result."""
    for function in (gumbel_ext.softmax, gumbel_ext.straight_through):
        x = torch.randn(size)
        y = function(x)
        expected = y.clone()
        other = COPIES[way](y)
        assert torch.equal(other, expected)
        if other is not y:
            y.add_(1)
            assert torch.equal(other, expected) and torch.equal(y, expected + 1)
            other.sub_(1)
            assert torch.equal(y, expected + 1)
            other.add_(1)
        del y
        function(x * 2)
        torch.testing.assert_close(other, expected)


RESIDENT = """
import os, torch, gumbel_ext
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
x = torch.zeros(4096, 8192)  # 128 MiB
gumbel_ext.softmax(x[:8])
before = resident()
y = gumbel_ext.softmax(x)
del y
print((resident() - before) >> 20)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
@pytest.mark.parametrize(("limit", "kept"), [("0", False), ("64", False), ("200", True), (None, True)])
def test_the_limit_holds(limit: str | None, kept: bool) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "GUMBEL_EXT_CPU_KEEP_MB"}
    if limit is not None:
        environment["GUMBEL_EXT_CPU_KEEP_MB"] = limit
    done = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert (int(done.stdout) > 100) == kept
