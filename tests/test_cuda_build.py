"""The CUDA half of the build, without a GPU: configures, compiles and links against a CUDA build of torch, with
warnings as errors; no kernel spills a register, and none takes more instructions than its ceiling. tools/ptxas_table.py
and tools/sass_table.py make the tables that the run ends with.

The torch is fetched from the package index (half a gigabyte) and kept in pytest's cache.
"""

from __future__ import annotations

import re
import shutil
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import torch
from commands import ENVIRONMENT, ROOT, attempt, configure_command, run
from conftest import REPORT

CUDA_TORCH = "torch==2.11.0"  # of the package index: built for CUDA 13
ARCHITECTURES = "9.0+PTX"
NEEDED = ("torch/include/", "torch/lib/libc10", "torch/lib/libtorch", "torch/share/cmake/", "torch/version.py")


def nvcc_release() -> str:
    """As 13.0; empty where there is no nvcc."""
    nvcc = shutil.which("nvcc", path=ENVIRONMENT["PATH"])
    found = re.search(r"release ([\d.]+)", run(nvcc, "--version") if nvcc else "")
    return found[1] if found else ""


NVCC = nvcc_release()
pytestmark = [
    pytest.mark.skipif(
        not NVCC.startswith("13."),
        reason=f"needs nvcc 13, as {CUDA_TORCH} does, found {NVCC or 'none'}: the CUDA build was not proved",
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
        pip = (sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:")
        run(*pip, "-d", download, CUDA_TORCH)
        (wheel,) = download.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith(NEEDED)]
            archive.extractall(folder, sorted(names))  # version.py last: then all is there
        wheel.unlink()
    return folder


@pytest.mark.long
def test_compiles_links_and_spills_nothing(cuda_torch: Path, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """With warnings as errors, every symbol found, and no register in local memory."""
    configuration = configure_command(
        ROOT, tmp_path, CMAKE_PREFIX_PATH=cuda_torch / "torch", GUMBEL_EXT_FORCE_CUDA="ON", GUMBEL_EXT_WERROR="ON",
        CMAKE_CUDA_FLAGS="-Xptxas -v", CMAKE_SHARED_LINKER_FLAGS="-Wl,-z,defs", GUMBEL_EXT_OPTIMIZATION="-O1",
        GUMBEL_EXT_CPU_ISAS="",
    )  # fmt: skip
    assert f"for {ARCHITECTURES}" in run(*configuration, TORCH_CUDA_ARCH_LIST=ARCHITECTURES)
    printed = run("cmake", "--build", tmp_path, "-v")
    report = attempt(sys.executable, ROOT / "tools" / "ptxas_table.py", stdin=printed.encode())
    pytestconfig.stash.setdefault(REPORT, []).append(report.stdout)
    assert report.returncode == 0, report.stdout + report.stderr
    kernels = (
        "forward_rows", "forward_tiles", "backward_rows", "backward_tiles", "index_rows", "noise_packs",
        "estimate_rows", "estimate_gradients", "top_k",
    )  # fmt: skip
    assert all(kernel in report.stdout for kernel in kernels)


@pytest.mark.long
def test_instructions_stay_under_their_ceilings(pytestconfig: pytest.Config) -> None:
    """And what benchmarks/gpu_check.py predicts is what is counted, to a percent."""
    sys.path.insert(0, str(ROOT / "tools"))
    import sass_table

    if sass_table.find_nvdisasm() is None:
        pytest.skip("needs nvdisasm (the package nvidia-cuda-nvdisasm): the instructions were not counted")
    measured = sass_table.measure(sass_table.ROWS, sass_table.disassemble(sass_table.ROWS))
    pytestconfig.stash.setdefault(REPORT, []).append(sass_table.table(measured))
    assert not [each.line() for each in measured if each.is_above]
    for each, recorded in zip(measured, sass_table.recorded(), strict=True):
        assert each.record() == recorded | {
            "instructions": pytest.approx(recorded["instructions"], rel=0.01),
            "share": pytest.approx(recorded["share"], rel=0.01),
        }


@pytest.mark.parametrize(
    ("environment", "cache", "sentence"),
    [
        ({"CUDACXX": "", "CUDA_HOME": "/nowhere", "PATH": "/usr/bin:/bin"}, {}, "no toolkit was found"),
        ({"TORCH_CUDA_ARCH_LIST": "sm_90"}, {}, 'expected numbers as in "8.0;9.0+PTX", got "sm_90"'),
        ({"TORCH_CUDA_ARCH_LIST": "7.5 9.0"}, {}, 'expected 8.0 or later, got "7.5"'),
        ({}, {"GUMBEL_EXT_FORCE_CPU": "ON"}, "Kernels: CPU only: as asked"),
        ({"TORCH_CUDA_ARCH_LIST": "8.0,9.0 12.0+PTX"}, {}, "for 8.0,9.0 12.0+PTX"),
    ],
)
def test_says_what_it_found(
    cuda_torch: Path, tmp_path: Path, environment: dict[str, str], cache: dict[str, str], sentence: str
) -> None:
    """One sentence for whichever way the kernels are chosen."""
    if "PATH" in environment:
        environment = environment | {"PATH": f"{sysconfig.get_path('scripts')}:{environment['PATH']}"}
    configuration = configure_command(ROOT, tmp_path, CMAKE_PREFIX_PATH=cuda_torch / "torch", **cache)
    done = attempt(*configuration, **({"TORCH_CUDA_ARCH_LIST": ARCHITECTURES} | environment))
    assert sentence in " ".join((done.stdout + done.stderr).split())
