"""Memory may run out at any moment of any call: it raises, changes nothing, and the next call is right."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

import pytest
from commands import ENVIRONMENT, ROOT, run

needs_interposer = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or shutil.which("g++", path=ENVIRONMENT["PATH"]) is None,
    reason="needs the GNU C library and g++",
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An allocator that fails when told to, to be loaded before all others."""
    path = tmp_path_factory.mktemp("failing_memory") / "libfailing_memory.so"
    run("g++", "-std=c++17", "-shared", "-fPIC", ROOT / "tests" / "cpp" / "failing_memory.cpp", "-o", path)
    return path


# Where the limit is too small for any block to wait for its next use, the library's own allocator asks for memory each
# time.
@needs_interposer
@pytest.mark.parametrize(("megabytes", "inputs"), [("1", []), ("", ["large result"])], ids=["all", "kept"])
def test_failing_memory_forced_at_every_allocation_in_turn(library: Path, megabytes: str, inputs: list[str]) -> None:
    run(
        sys.executable,
        ROOT / "tests" / "failing_memory.py",
        *inputs,
        LD_PRELOAD=str(library),
        GUMBEL_EXT_CPU_KEEP_MB=megabytes,
    )
