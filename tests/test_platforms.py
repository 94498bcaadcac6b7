"""What the build says where it cannot be had, and how it links on macOS. Nothing is compiled."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from commands import ROOT, attempt, configure_command, needs_build_tools

pytestmark = needs_build_tools


def configured(build: Path, **variables: object) -> subprocess.CompletedProcess[str]:
    """For another system, by a compiler that is not tried."""
    cache = {"CMAKE_PREFIX_PATH": torch.utils.cmake_prefix_path, "CMAKE_CXX_COMPILER": "g++"} | variables
    return attempt(*configure_command(ROOT, build, CMAKE_CXX_COMPILER_WORKS=1, **cache))


@pytest.mark.parametrize("system", ["Windows", "FreeBSD"])
def test_other_systems_are_refused(system: str, tmp_path: Path) -> None:
    done = configured(tmp_path, CMAKE_SYSTEM_NAME=system)
    assert done.returncode != 0 and f"gumbel_ext: expected Linux or macOS, got {system}\n" in done.stderr


def test_macos_has_flags_of_its_own(tmp_path: Path) -> None:
    """Libraries are found beside the one that needs them; nothing is said that only GNU's linker understands."""
    done = configured(tmp_path, CMAKE_SYSTEM_NAME="Darwin", CMAKE_SYSTEM_PROCESSOR="arm64")
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "build.ninja").read_text()
    script = (tmp_path / "cmake_install.cmake").read_text()
    assert "libgumbel_ext.dylib" in commands
    assert "@loader_path/../../torch/lib" in script
    for gnu in ("$ORIGIN", "$$ORIGIN", "version-script", "push-state", "as-needed", "mavx", "x86-64-v"):
        assert gnu not in commands + script


def test_a_torch_that_is_too_old_is_refused(tmp_path: Path) -> None:
    torch_folder = tmp_path / "torch"
    for library in ("torch_cpu", "c10"):
        (torch_folder / "lib").mkdir(parents=True, exist_ok=True)
        (torch_folder / "lib" / f"lib{library}.so").touch()
    config = torch_folder / "share" / "cmake" / "Torch"
    config.mkdir(parents=True)
    (config / "TorchConfig.cmake").touch()
    (config / "TorchConfigVersion.cmake").write_text('set(PACKAGE_VERSION "2.9.1")\n')
    done = configured(tmp_path / "build", CMAKE_PREFIX_PATH=torch_folder)
    words = " ".join(done.stderr.split())
    assert done.returncode != 0 and 'Found unsuitable version "2.9.1", but required is at least "2.11"' in words
