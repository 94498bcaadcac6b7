"""What every test starts from: a known default generator, and the thread count it found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import on_device
import pytest
import torch
from commands import ROOT, configure_command, run
from hypothesis import settings

import gumbel_ext

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("repeatable")
# `--hypothesis-profile`: few examples for slow kernels and for each instruction set, and the long tier's many.
settings.register_profile("few", settings.get_profile("repeatable"), max_examples=10)
settings.register_profile("many", settings.get_profile("repeatable"), max_examples=600)

# What tests want to see in the last lines of a run.
REPORT = pytest.StashKey[list[str]]()

# Other kernels in the CPU's place: those of a GPU, or (tests/test_cuda_on_cpu.py) CUDA's as the CPU executes them.
if device := os.environ.get("GUMBEL_EXT_TEST_DEVICE"):
    on_device.take_over(device)
if path := os.environ.get("GUMBEL_EXT_TEST_KERNELS"):
    torch.ops.load_library(path)
    torch.ops.gumbel_ext_cuda_on_cpu.take_over()


@pytest.fixture(autouse=True)
def known_state() -> Iterator[None]:
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


@pytest.fixture(scope="session")
def cuda_on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the libraries of tests/cuda_on_cpu are."""
    build = tmp_path_factory.mktemp("cuda_on_cpu")
    source = ROOT / "tests" / "cuda_on_cpu"
    run(*configure_command(source, build, CMAKE_PREFIX_PATH=torch.utils.cmake_prefix_path))
    run("cmake", "--build", build)
    return build


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for text in config.stash.get(REPORT, []):
        terminalreporter.section("CUDA kernels, as compiled")
        terminalreporter.write(text)
    if not torch.cuda.is_available():
        terminalreporter.line("No GPU here: tests/test_cuda.py was skipped, and no kernel ran on a GPU.")
    elif not gumbel_ext.build_info()["cuda"]:
        terminalreporter.line("This build has no CUDA kernels: tests/test_cuda.py was skipped.")
