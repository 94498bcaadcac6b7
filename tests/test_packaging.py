"""What pip makes of the source: an sdist, a wheel of it with library, header and package config; and what an import
says when the wheel does not fit."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from commands import ROOT, attempt, run

import gumbel_ext


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    code = f"from setuptools import build_meta; print(build_meta.build_sdist({str(folder)!r}))"
    run(sys.executable, "-c", code, cwd=ROOT)
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder)
    return next(path for path in folder.iterdir() if path.is_dir())


#: Plain kernels alone, compiled in a fraction of the time, to the same bits.
QUICK = "-DGUMBEL_EXT_OPTIMIZATION=-O1 -DGUMBEL_EXT_CPU_ISAS="


@pytest.fixture(scope="session")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the sdist."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", folder, sdist]
    run(*command, cwd=folder, CMAKE_ARGS=QUICK)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="session")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def import_from(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "import gumbel_ext, torch; print(gumbel_ext.__file__, gumbel_ext.gumbel_max(torch.zeros(2, 9), seed=3))"
    return attempt(sys.executable, "-c", code, cwd=folder, PYTHONPATH=str(folder))


@pytest.mark.parametrize(
    "name",
    [
        "gumbel_ext/lib/libgumbel_ext.so",
        "gumbel_ext/include/gumbel_ext/gumbel_ext.h",
        "gumbel_ext/py.typed",
        "gumbel_ext/_C.pyi",
        "gumbel_ext/version.txt",
    ],
)
def test_wheel_carries(wheel: Path, name: str) -> None:
    assert name in zipfile.ZipFile(wheel).namelist()


def test_wheel_carries_the_package_config(wheel: Path) -> None:
    assert any(name.endswith("gumbel_extConfig.cmake") for name in zipfile.ZipFile(wheel).namelist())


def test_values_are_nobody_elses(unpacked: Path) -> None:
    """Of the C library's functions of numbers, whose last bits differ from one to another, the library takes none but
    the fused product and sum, which is rounded exactly."""
    needed = run("nm", "-D", "--undefined-only", unpacked / "gumbel_ext" / "lib" / "libgumbel_ext.so").split()
    names = {name.split("@")[0] for name in needed}
    functions = ("exp", "exp2", "expm1", "log", "log2", "log1p", "pow", "sqrt")
    assert not any(name.startswith(("GOMP_", "__kmpc_", "omp_")) for name in names), "threads are torch's"
    assert "fma" in names
    assert names.isdisjoint(name + suffix for name in functions for suffix in ("", "f", "l"))


def test_wheel_works_anywhere(unpacked: Path) -> None:
    """The wheel's own library is the one that loads, and it samples as this one does."""
    done = import_from(unpacked)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        str(unpacked / "gumbel_ext" / "__init__.py"),
        *str(gumbel_ext.gumbel_max(torch.zeros(2, 9), seed=3)).split(),
    ]


@pytest.mark.parametrize(
    ("built_for", "sentence"),
    [("1.2.3", f"built for torch 1.2.3 and cannot be loaded by torch {torch.__version__}"), (None, "is not built in")],
)
def test_import_that_cannot_work_says_why(unpacked: Path, tmp_path: Path, built_for: str | None, sentence: str) -> None:
    shutil.copytree(unpacked / "gumbel_ext", tmp_path / "gumbel_ext")
    record = tmp_path / "gumbel_ext" / "lib" / "torch_version.txt"
    record.unlink()
    if built_for:
        record.write_text(built_for)
    done = import_from(tmp_path)
    assert done.returncode != 0
    assert sentence in done.stderr.splitlines()[-1]
    assert "pip install --no-build-isolation" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("variables", [{"FORCE_CUDA": "1"}, {"FORCE_CUDA": "1", "FORCE_CPU": "1"}])
def test_cuda_that_cannot_be_had_fails_loudly(sdist: Path, tmp_path: Path, variables: dict[str, str]) -> None:
    done = attempt(sys.executable, "setup.py", "build_ext", "--build-temp", tmp_path, cwd=sdist, **variables)
    assert done.returncode != 0
    assert "FORCE_CUDA=1" in done.stdout + done.stderr


ISOLATED = """
import runpy, sys, sysconfig
usual = sysconfig.get_path
sysconfig.get_path = lambda name, *args, **kwargs: sys.argv[-1] if name == "purelib" else usual(name, *args, **kwargs)
environment = sys.argv[-1]
sys.argv[:] = ["setup.py", "build_ext", "--build-temp", environment]
try:
    runpy.run_path("setup.py", run_name="__main__")
finally:
    sys.argv.append(environment)
"""


@pytest.mark.parametrize(("installed", "refused"), [("1.2.3", True), (torch.__version__, False)])
def test_a_build_for_another_torch_than_the_installed_one_is_refused(
    sdist: Path, tmp_path: Path, installed: str, refused: bool
) -> None:
    """As pip's isolated builds are, where the newest torch is not the one that is there."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text(f"__version__ = {installed!r}\n")
    # (what is not refused goes on to a failure that is cheap)
    done = attempt(sys.executable, "-c", ISOLATED, tmp_path, cwd=sdist, CMAKE_ARGS="--no-such-option")
    assert done.returncode != 0
    sentence = f"expected to be built for the torch that is installed, {installed} in {tmp_path / 'torch'}, got"
    assert (sentence in done.stderr) == refused
    assert ("pip install --no-build-isolation" in done.stderr) == refused


def test_an_install_asks_for_no_torch_in_particular(wheel: Path) -> None:
    """pip never replaces the torch that is there."""
    metadata = next(name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("METADATA"))
    lines = zipfile.ZipFile(wheel).read(metadata).decode().splitlines()
    assert [line for line in lines if line.startswith("Requires-Dist: torch")] == ["Requires-Dist: torch>=2.11"]


def test_one_version() -> None:
    assert gumbel_ext.__version__ == gumbel_ext.build_info()["version"] == version("gumbel-ext")
