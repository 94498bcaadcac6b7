"""Memory that large results leave behind is kept for the next ones, within a limit, never while anyone holds it, and is
the system's to take."""

from __future__ import annotations

import copy
import io
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import gumbel_ext

SHAPE = (4096, 2048)  # 32 MiB: large enough to be kept


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


def test_results_can_be_resized() -> None:
    y = gumbel_ext.softmax(torch.zeros(SHAPE)).resize_(2, *SHAPE)
    assert y.shape == (2, *SHAPE) and (y[0] == 2.0**-11).all()


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


def resident_kib() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 10


def small_calls() -> list[Callable[[], Tensor]]:
    """Every operation in every form, with a gradient where it has one."""
    x, mask, seeds = torch.randn(3, 5), torch.tensor([True, False, True, True, True]), torch.arange(3)
    w, tau = torch.randn(3, 5, requires_grad=True), torch.full((3, 1), 0.7, requires_grad=True)
    return [
        lambda: gumbel_ext.softmax(x),
        lambda: gumbel_ext.softmax(w, tau, mask=mask),
        lambda: gumbel_ext.straight_through(x, dim=0),
        lambda: gumbel_ext.straight_through(w, tau),
        lambda: gumbel_ext.gumbel_softmax(x, 0.7, seed=3),
        lambda: gumbel_ext.gumbel_softmax(w, tau, mask=mask),
        lambda: gumbel_ext.gumbel_softmax(x, hard=True, seed=seeds),
        lambda: gumbel_ext.gumbel_softmax(w, hard=True),
        lambda: gumbel_ext.gumbel_max(x, 0.7, mask=mask),
        lambda: gumbel_ext.gumbel_max(x, num_samples=4),
        lambda: gumbel_ext.gumbel_noise((3, 5)),
        lambda: torch.ops.gumbel_ext.gumbel_softmax(w, tau),
    ]


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_small_calls_leave_nothing_behind(count: int) -> None:
    upstream = torch.randn(3, 5)

    def make(count: int) -> None:
        for call in itertools.islice(itertools.cycle(small_calls()), count):
            y = call()
            if y.requires_grad:
                y.backward(upstream)

    make(5_000)
    before = resident_kib()
    make(count)
    assert resident_kib() - before <= 512  # 26 bytes a call, if few; half a byte, if many


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
def test_empty_cache_gives_back_what_is_kept() -> None:
    y = gumbel_ext.softmax(torch.zeros(SHAPE))
    held = gumbel_ext.build_info()["cpu_cached_bytes"]
    del y
    assert gumbel_ext.build_info()["cpu_cached_bytes"] >= held + (32 << 20)
    before = resident_kib()
    gumbel_ext.empty_cache()
    assert gumbel_ext.build_info()["cpu_cached_bytes"] == 0
    assert before - resident_kib() >= 30 << 10


UNDER_PRESSURE = """
import ctypes, json, mmap, re, torch, gumbel_ext
def lazily_freed():
    with open("/proc/self/smaps_rollup") as file:
        return int(re.search(r"LazyFree: *([0-9]+)", file.read())[1]) << 10
x = torch.zeros(4096, 4096)  # 64 MiB
y = gumbel_ext.softmax(x)
held = lazily_freed()
del y
kept = lazily_freed()
again = gumbel_ext.softmax(x)
print(json.dumps([held, kept, lazily_freed(), bool((again == 2.0**-12).all())]))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs /proc")
def test_what_is_kept_is_the_systems_to_take() -> None:
    """The pages of what is kept, and of nothing that is held, are marked as free for the taking."""
    done = subprocess.run([sys.executable, "-c", UNDER_PRESSURE], capture_output=True, text=True, check=True)
    held, kept, again, right = json.loads(done.stdout)
    assert (held, again, right) == (0, 0, True) and kept >= 60 << 20


OUT_OF_MEMORY = """
import resource, torch, gumbel_ext
torch.set_num_threads(1)
x = torch.zeros(4096, 8192)  # 128 MiB
for rows in (256, 512, 1024, 2048):  # each too small for the next result
    del_me = gumbel_ext.softmax(x[:rows * 4 // 3])
    del del_me
kept = gumbel_ext.build_info()["cpu_cached_bytes"]
with open("/proc/self/statm") as file:
    mapped = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + (120 << 20), -1))  # not enough for 128 MiB, but for what is kept
y = gumbel_ext.softmax(x)
print(kept >> 20, gumbel_ext.build_info()["cpu_cached_bytes"], bool((y == 2.0**-13).all()))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_what_is_kept_is_given_back_before_an_allocation_fails() -> None:
    done = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept, after, right = done.stdout.split()
    assert int(kept) > 64 and (after, right) == ("0", "True")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
@pytest.mark.parametrize(("limit", "kept"), [("0", False), ("64", False), ("200", True), (None, True)])
def test_the_limit_holds(limit: str | None, kept: bool) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "GUMBEL_EXT_CPU_KEEP_MB"}
    if limit is not None:
        environment["GUMBEL_EXT_CPU_KEEP_MB"] = limit
    done = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert (int(done.stdout) > 100) == kept


LIMITS = """
import json, os, sys, torch, gumbel_ext
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
def outcome(value):
    os.environ["GUMBEL_EXT_CPU_KEEP_MB"] = value
    errors = []
    for size in (3, 3, 1 << 23):  # each time, and whatever the size
        try:
            x = torch.zeros(size)
            before = resident()
            y = gumbel_ext.softmax(x)
            del y
        except BaseException as error:
            errors.append([type(error).__name__, str(error)])
    return errors or ["kept" if resident() - before > 8 << 20 else "not kept"]
for value in json.loads(sys.argv[1]):
    sys.stdout.flush()
    child = os.fork()  # the limit is read once in a process
    if child == 0:
        print(json.dumps(outcome(value)), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_limits_that_are_none_are_refused() -> None:
    wrong = ["abc", "-1", "1e9", "17592186044416", " 5", "0x10", "1" * 100]
    right = {"": "kept", "0": "not kept", "64": "kept", "9999999999999": "kept"}
    done = subprocess.run(
        [sys.executable, "-c", LIMITS, json.dumps([*wrong, *right])], capture_output=True, text=True, check=True
    )
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    for value, outcome in zip(wrong, outcomes, strict=False):
        text = f"GUMBEL_EXT_CPU_KEEP_MB: expected a whole number of megabytes below 10^13, got {value}"
        assert outcome == [["ValueError", text]] * 3, value
    assert outcomes[len(wrong) :] == [[kept] for kept in right.values()]
