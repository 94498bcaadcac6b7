"""What Philox, the logarithms and the exponential cost by themselves (parts.cpp): the floor of a noisy sample."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import gumbel_ext

SOURCE = Path(__file__).resolve().with_suffix(".cpp")
#: The row kernels' own flags, of CMakeLists.txt. There, too, OPTIONAL ones are left out where a compiler lacks them.
FLAGS = [
    *("-std=c++20", "-O3", "-fopenmp-simd", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
    *("-Wno-psabi", "-w"),
]
INSTRUCTION_SETS = {
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "avx2": ["-march=x86-64-v3"],
    "plain": [],
}
OPTIONAL = {"avx2": ["-mmove-max=256", "-mstore-max=256"]}


@functools.cache
def costs() -> dict[str, float]:
    """Nanoseconds a float32 logit on one core, by part; empty where there is no compiler to ask."""
    compiler = shutil.which("g++")
    if compiler is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "parts"
        isa = gumbel_ext.build_info()["cpu_isa"]
        flags = FLAGS + INSTRUCTION_SETS[isa] + _accepted(compiler, OPTIONAL.get(isa, []))
        built = subprocess.run([compiler, *flags, SOURCE, "-o", program], capture_output=True, text=True)
        if built.returncode != 0:
            raise RuntimeError(f"expected {SOURCE} to compile, got\n{built.stderr}")
        return dict(json.loads(subprocess.run([program], capture_output=True, check=True, text=True).stdout))


def _accepted(compiler: str, flags: list[str]) -> list[str]:
    """The flags, if the compiler knows them all."""
    empty = [compiler, *flags, "-x", "c++", "-fsyntax-only", "/dev/null"]
    return flags if subprocess.run(empty, capture_output=True).returncode == 0 else []
