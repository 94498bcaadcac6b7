"""Instructions a logit of the CUDA kernels, counted from their machine code, and what an H100 would make of them.

    python tools/sass_table.py                      # compiles for 9.0, disassembles, counts
    python tools/sass_table.py --record             # and keeps the figures for benchmarks/gpu_check.py

Needs nvcc (CUDA_HOME, or on the path) and nvdisasm (on the path, or of the package nvidia-cuda-nvdisasm). Prints a
table; the exit status is 1 where a kernel takes more instructions than its ceiling, the last column.

What is counted: tools/sass.py's cheapest way from entry to exit on which all of the row's logits are loaded, 16 bytes
at a time, given noise, and stored. It is the way of a contiguous row that fills its team, without a mask, with one
temperature and one seed for all rows. The index streams over its row: its loop's turns, and what is done once, the
noise of four classes more among it. (Not counted: that all scores are computed where the bounds do not decide.)

A time is the instructions over the pipe's published throughput; `bound` names the longest.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptxas_table import demangle
from sass import Kernel, Work, functions

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "csrc" / "cuda"
RECORD = ROOT / "benchmarks" / "results" / "predicted-h100.json"
#: An H100's published figures: multiprocessors, clock, bytes a second, and lanes a clock of a multiprocessor.
MULTIPROCESSORS, HERTZ, BYTES = 132, 1.75e9, 3.0e12
LANES = {"issue": 128, "alu": 64, "fma": 128, "sfu": 16}
COUNTER = 16  # wide multiplications of a block that holds a Philox counter: 20, less those that are the same for all


def work(loads: int, stores: int, counters: int, *more: Work, bits: str = r"\.128") -> tuple[Work, ...]:
    return (
        Work(rf"LDG\.E.*{bits}$", loads), Work(rf"STG\.E.*{bits}$", stores),
        Work(r"IMAD\.(WIDE|HI)\.U32", counters, COUNTER), *more,
    )  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A line of the table: a kernel's instance, the logits of a thread (of a turn, where it streams), and its work."""

    kernel: str  # as benchmarks/bandwidth.py names it
    dtype: str
    classes: int
    instance: str  # as c++filt prints it
    parameters: str
    bytes: int  # of memory, a logit
    logits: int
    work: tuple[Work, ...]
    ceiling: float
    turns: float = 0  # of the loop over a row; 0 where there is none
    turn: tuple[Work, ...] = ()  # the work of one

    @property
    def name(self) -> str:
        return f"{self.kernel}, {self.dtype}, {self.classes} classes"

    def count(self, kernel: Kernel) -> dict[str, float]:
        """Instructions a logit, by pipe, and `all`."""
        once = kernel.through(self.work)
        if self.turns == 0:
            return {pipe: n / self.logits for pipe, n in once.items()}
        turn = kernel.turn(self.turn)
        return {pipe: (turn[pipe] + (n - turn[pipe]) / self.turns) / self.logits for pipe, n in once.items()}


#: An element's name in C++, its bytes, and the classes of a pack.
ELEMENTS = {"float32": ("float", 4, 4), "bfloat16": ("BFloat16", 2, 8)}


def forward(kernel: str, dtype: str, ceiling: float) -> Row:
    element, size, pack = ELEMENTS[dtype]
    packs, outputs, counters = 32 // pack, 1 + (kernel == "hard, p kept"), 0 if kernel == "softmax" else 8
    return Row(kernel, dtype, 1024, f"forward_rows<{element}, WarpTeam<32>, {packs}>", "ForwardJob, RowExponent<float>",
               size * (1 + outputs), 32, work(packs, packs * outputs, counters), ceiling)  # fmt: skip


def backward(dtype: str, ceiling: float) -> Row:
    element, size, pack = ELEMENTS[dtype]
    packs = 32 // pack
    return Row("backward", dtype, 1024, f"backward_rows<{element}, WarpTeam<32>, {packs}, false>", "BackwardJob",
               3 * size, 32, work(2 * packs, packs, 0), ceiling)  # fmt: skip


def index(dtype: str, classes: int, ceiling: float) -> Row:
    """Rows that begin at 16 bytes, or, where their length says so, at an element."""
    (element, size, pack), logits = ELEMENTS[dtype], 16
    team, threads = ("WarpTeam<32>", 32) if classes <= 4096 else ("BlockTeam", 256)
    aligned = classes * size % 16 == 0
    loads, counters, bits = logits // pack if aligned else logits, logits // 4, r"\.128" if aligned else r"EF(\.U16)?"
    once = (Work(r"MUFU\.LG2", logits + 4), Work(r"STG\.E", 1))  # four classes again, and the result
    return Row("index", dtype, classes, f"index_rows<{element}, {team}, 1>",
               "IndexJob, IndexTasks, RowQuotients<float>, Best*", size, logits,
               work(loads, 0, counters + 1, *once, bits=bits), ceiling, classes / (threads * logits),
               work(loads, 0, counters, bits=bits))  # fmt: skip


ROWS = (
    forward("relaxed", "float32", 47),
    forward("relaxed", "bfloat16", 48),
    forward("hard, p kept", "float32", 53),
    forward("hard, p kept", "bfloat16", 50),
    forward("softmax", "float32", 17),
    index("float32", 1024, 30),
    index("float32", 32000, 22),
    index("bfloat16", 1024, 31),
    index("bfloat16", 32000, 22),
    index("float32", 50257, 24),
    index("bfloat16", 50257, 24),
    backward("float32", 16),
    backward("bfloat16", 20),
)


def times(row: Row, count: dict[str, float]) -> dict[str, float]:
    """Picoseconds a logit of the whole device, by what may bound it. Integer products go to half of the FMA lanes."""
    lanes = {
        "issue": count["all"], "alu": count.get("alu", 0), "fma": count.get("fma", 0) + 2 * count.get("imad", 0),
        "sfu": count.get("sfu", 0),
    }  # fmt: skip
    result = {pipe: 1e12 * n / (MULTIPROCESSORS * HERTZ * LANES[pipe]) for pipe, n in lanes.items()}
    return result | {"memory": 1e12 * row.bytes / BYTES}


def find_nvdisasm() -> str | None:
    package = Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "bin"
    return shutil.which("nvdisasm", path=f"{os.environ.get('PATH', '')}{os.pathsep}{package}")


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc", path=f"{home}/bin" if home else None)


def disassemble(rows: tuple[Row, ...]) -> str:
    """The machine code of the rows' instances for 9.0, each kernel once, compiled as the library compiles them."""
    nvcc, nvdisasm = find_nvcc(), find_nvdisasm()
    if nvcc is None or nvdisasm is None:
        raise SystemExit(f"needs nvcc and nvdisasm; found {nvcc or 'no nvcc'}, {nvdisasm or 'no nvdisasm'}")
    lines = [f'#include "{SOURCE}/{header}.cuh"' for header in ("backward", "forward", "index")]
    lines += ["namespace gumbel_ext::cuda {"]
    for instance, parameters in sorted({(row.instance, row.parameters) for row in rows}):
        constant = [re.sub(r"^(\w+(<float>)?)$", r"const __grid_constant__ \1", p) for p in parameters.split(", ")]
        lines.append(f"template __global__ void {instance}({', '.join(constant)});")
    lines.append("}")
    with tempfile.TemporaryDirectory() as folder:
        source, code = Path(folder) / "kernels.cu", Path(folder) / "kernels.cubin"
        source.write_text("\n".join(lines) + "\n")
        options = ("-std=c++20", "--fmad=false", "-O3", "-DNDEBUG", "-gencode", "arch=compute_90,code=sm_90", "-cubin")
        subprocess.run([nvcc, *options, source, "-o", code], check=True)
        return subprocess.run([nvdisasm, "-c", code], check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True)
class Measured:
    row: Row
    instructions: dict[str, float]
    picoseconds: dict[str, float]

    @property
    def bound(self) -> str:
        return max(self.picoseconds, key=lambda pipe: self.picoseconds[pipe])

    @property
    def share(self) -> float:
        """Of the bandwidth of a copy."""
        return self.picoseconds["memory"] / self.picoseconds[self.bound]

    @property
    def is_above(self) -> bool:
        return self.instructions["all"] > self.row.ceiling

    def line(self) -> str:
        ps = "".join(f"{self.picoseconds[pipe]:>8.2f}" for pipe in ("issue", "alu", "fma", "sfu", "memory"))
        return (f"{self.row.name:<36}{self.instructions['all']:>12.1f}{ps}  {self.bound:<8}{self.share:>9.0%}"
                f"{self.row.ceiling:>9}{'  <- above it' if self.is_above else ''}")  # fmt: skip

    def record(self) -> dict[str, Any]:
        return {"kernel": self.row.kernel, "dtype": self.row.dtype, "classes": self.row.classes,
                "instructions": round(self.instructions["all"], 1), "bound": self.bound,
                "share": round(self.share, 3)}  # fmt: skip


HEADING = (f"{'a logit, sm_90':<36}instructions{'picoseconds of an H100':>40}\n"
           f"{'':<48}   issue     ALU     FMA     SFU  memory  bound   of a copy  ceiling")  # fmt: skip


def measure(rows: tuple[Row, ...], disassembly: str) -> list[Measured]:
    code = functions(disassembly)
    kernels = {name: Kernel(text) for name, text in zip(demangle(list(code)), code.values(), strict=True)}
    result = []
    for row in rows:
        count = row.count(kernels[row.instance])
        result.append(Measured(row, count, times(row, count)))
    return result


def table(measured: list[Measured]) -> str:
    return "\n".join([HEADING, *(each.line() for each in measured)]) + "\n"


def recorded() -> list[dict[str, Any]]:
    """What --record kept."""
    records: list[dict[str, Any]] = json.loads(RECORD.read_text())
    return records


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help=f"keep the figures in {RECORD.name}")
    arguments = parser.parse_args()
    measured = measure(ROWS, disassemble(ROWS))
    print(table(measured), end="")
    if arguments.record:
        RECORD.write_text(json.dumps([each.record() for each in measured], indent=1) + "\n")
    return 1 if any(each.is_above for each in measured) else 0


if __name__ == "__main__":
    sys.exit(main())
