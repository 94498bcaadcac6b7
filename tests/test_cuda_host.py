"""The host side of CUDA without a GPU: tests/cuda_on_cpu/machine_checks.py, in a process whose torch finds devices that
are none. What kernels compute, tests/test_cuda_on_cpu.py asks; whether real devices do as these, tests/test_cuda.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from commands import ROOT, needs_build_tools, run

pytestmark = [
    needs_build_tools,
    pytest.mark.skipif(torch.version.cuda is not None, reason="a CUDA build of torch has devices of its own"),
]


def test_on_a_machine_whose_devices_are_none(cuda_on_cpu: Path) -> None:
    library = cuda_on_cpu / "libcuda_machine.so"
    run(sys.executable, ROOT / "tests" / "cuda_on_cpu" / "machine_checks.py", LD_PRELOAD=str(library))
