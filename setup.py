"""pip's way in: configures, builds and installs the CMake project into the package. Nothing else.

Environment: FORCE_CPU=1, FORCE_CUDA=1, MAX_JOBS, TORCH_CUDA_ARCH_LIST, CUDA_HOME or CUDACXX, CMAKE_ARGS.
"""

import os
import shlex
import subprocess
import sys
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

        package = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve()
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


def flag(name: str) -> str:
    return "ON" if os.environ.get(name, "0").lower() in ("1", "on", "true", "yes") else "OFF"


setup(ext_modules=[CMakeExtension("gumbel_ext._C")], cmdclass={"build_ext": CMakeBuild})
