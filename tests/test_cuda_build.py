"""The CUDA half of the build, without a GPU: configures, compiles and links against a CUDA build of torch, with
warnings as errors; no kernel spills a register. tools/ptxas_table.py makes the table that the run ends with.

The torch is fetched from the package index (half a gigabyte) and kept in pytest's cache.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import REPORT

ROOT = Path(__file__).resolve().parent.parent
PATH = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
CUDA_TORCH = "torch==2.11.0"  # of the package index: built for CUDA 13
ARCHITECTURES = "9.0+PTX"
NEEDED = ("torch/include/", "torch/lib/libc10", "torch/lib/libtorch", "torch/share/cmake/", "torch/version.py")


def nvcc_release() -> str:
    """As 13.0; empty where there is no nvcc."""
    nvcc = shutil.which("nvcc", path=PATH)
    printed = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout if nvcc else ""
    found = re.search(r"release ([\d.]+)", printed)
    return found[1] if found else ""


pytestmark = [
    pytest.mark.skipif(
        not nvcc_release().startswith("13."),
        reason=f"needs nvcc 13, as {CUDA_TORCH} does, found {nvcc_release() or 'none'}: the CUDA build was not proved",
    ),
    pytest.mark.skipif(torch.version.cuda is not None, reason="the installed torch is a CUDA build, and so is ours"),
]


@pytest.fixture(scope="session")
def cuda_torch(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unzipped CUDA build of torch: no package of it is installed, and nothing of it runs."""
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir(CUDA_TORCH.replace("==", "-"))
    if not (folder / "torch" / "version.py").exists():
        download = tmp_path_factory.mktemp("download")
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-d", download, CUDA_TORCH]
        done = subprocess.run(pip, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (wheel,) = download.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith(NEEDED)]
            archive.extractall(folder, sorted(names))  # version.py last: then all is there
        wheel.unlink()
    return folder


def configure(cuda_torch: Path, build: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["cmake", "-S", ROOT, "-B", build, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={cuda_torch / 'torch'}", *options]
    variables = os.environ | {"PATH": PATH, "TORCH_CUDA_ARCH_LIST": ARCHITECTURES} | environment
    return subprocess.run(command, capture_output=True, text=True, env=variables)


def test_compiles_links_and_spills_nothing(cuda_torch: Path, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """With warnings as errors, every symbol found, and no register in local memory."""
    done = configure(
        cuda_torch, tmp_path, "-DGUMBEL_EXT_FORCE_CUDA=ON", "-DGUMBEL_EXT_WERROR=ON", "-DCMAKE_CUDA_FLAGS=-Xptxas -v",
        "-DCMAKE_SHARED_LINKER_FLAGS=-Wl,-z,defs",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"for {ARCHITECTURES}" in done.stdout
    build = ["cmake", "--build", tmp_path, "-v"]
    done = subprocess.run(build, capture_output=True, text=True, env=os.environ | {"PATH": PATH})
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr
    table = [sys.executable, str(ROOT / "tools" / "ptxas_table.py")]
    report = subprocess.run(table, input=done.stdout + done.stderr, capture_output=True, text=True)
    pytestconfig.stash.setdefault(REPORT, []).append(report.stdout)
    assert report.returncode == 0, report.stdout + report.stderr
    kernels = ("forward_rows", "forward_tiles", "backward_rows", "backward_tiles", "index_rows", "noise_packs")
    assert all(kernel in report.stdout for kernel in kernels)


@pytest.mark.parametrize(
    ("environment", "options", "sentence"),
    [
        ({"CUDACXX": "", "CUDA_HOME": "/nowhere", "PATH": "/usr/bin:/bin"}, [], "no toolkit was found"),
        ({"TORCH_CUDA_ARCH_LIST": "sm_90"}, [], 'expected numbers as in "8.0;9.0+PTX", got "sm_90"'),
        ({"TORCH_CUDA_ARCH_LIST": "7.5 9.0"}, [], 'expected 8.0 or later, got "7.5"'),
        ({}, ["-DGUMBEL_EXT_FORCE_CPU=ON"], "Kernels: CPU only: as asked"),
        ({"TORCH_CUDA_ARCH_LIST": "8.0,9.0 12.0+PTX"}, [], "for 8.0,9.0 12.0+PTX"),
    ],
)
def test_says_what_it_found(
    cuda_torch: Path, tmp_path: Path, environment: dict[str, str], options: list[str], sentence: str
) -> None:
    """One sentence for whichever way the kernels are chosen."""
    if "PATH" in environment:
        environment = environment | {"PATH": f"{sysconfig.get_path('scripts')}:{environment['PATH']}"}
    done = configure(cuda_torch, tmp_path, *options, **environment)
    assert sentence in " ".join((done.stdout + done.stderr).split())
