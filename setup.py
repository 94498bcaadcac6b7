"""pip's way in: configures, builds and installs the CMake project into the package. Nothing else.

Environment: FORCE_CPU=1, FORCE_CUDA=1, MAX_JOBS, TORCH_CUDA_ARCH_LIST, CUDA_HOME or CUDACXX, CMAKE_ARGS.
"""

import hashlib
import os
import runpy
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeExtension(Extension):
    def __init__(self, name: str) -> None:
        super().__init__(name, sources=[])


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        import pybind11
        import torch

        refuse_isolation(Path(torch.__file__).parent)
        package = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        # A build belongs to one Python and one torch, those of this environment.
        place = hashlib.sha256(f"{sys.executable} {torch.__file__}".encode()).hexdigest()[:8]
        build = Path(self.build_temp).resolve() / f"torch-{torch.__version__}-{place}"
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja",
            "-DCMAKE_BUILD_TYPE=Release",
            "-DGUMBEL_EXT_PYTHON=ON",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path};{pybind11.get_cmake_dir()}",
            "-DCMAKE_INSTALL_LIBDIR=lib",
            f"-DGUMBEL_EXT_FORCE_CPU={flag('FORCE_CPU')}",
            f"-DGUMBEL_EXT_FORCE_CUDA={flag('FORCE_CUDA')}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]  # fmt: skip
        jobs = os.environ.get("MAX_JOBS")
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build), *(["-j", jobs] if jobs else [])], check=True)
        # An editable install runs from the source tree; setuptools copies the module there, we the rest.
        for prefix in [package, ROOT / "gumbel_ext"] if self.editable_mode else [package]:
            subprocess.run(["cmake", "--install", str(build), "--prefix", str(prefix)], check=True)


def refuse_isolation(used: Path) -> None:
    """Ends a build in isolation, for the torch that pip fetched for it, where another one is installed: it would be
    installed beside that, and could not be loaded."""
    installed = Path(sysconfig.get_path("purelib")) / "torch"
    if used == installed or not (installed / "version.py").exists():
        return
    found, other = (runpy.run_path(str(torch / "version.py"))["__version__"] for torch in (used, installed))
    if found.split(".")[:2] != other.split(".")[:2]:
        sys.exit(
            f"gumbel_ext: expected to be built for the torch that is installed, {other} in {installed}, got {found} in "
            f"{used}, from an isolated build: pip install --no-build-isolation {ROOT}"
        )


def flag(name: str) -> str:
    return "ON" if os.environ.get(name, "0").lower() in ("1", "on", "true", "yes") else "OFF"


setup(ext_modules=[CMakeExtension("gumbel_ext._C")], cmdclass={"build_ext": CMakeBuild})
