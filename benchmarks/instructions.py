"""``python -m benchmarks.instructions``: instructions per logit of each operation's CPU kernels.

Counted by valgrind's callgrind, so that a regression shows on a machine however busy. valgrind knows AVX2 and
not AVX-512: it is the AVX2 kernels that are counted. The counts are of one compiler's code; another compiler,
or another torch, gives other ones. A count is the difference between a call on 2N rows and one on N rows,
divided by the logits of N rows, so that what does not depend on the size cancels.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
TABLE = HERE / "instructions.json"
ISA = "avx2"
ROWS, CLASSES = 64, 1024
GROWTH_ALLOWED = 1.05

#: Entering this function ends one section of the count and begins the next.
BORDER = "gumbel_ext::build_info()"
OPERATIONS = (
    "noise",
    "index",
    "hard",
    "hard, to differentiate",
    "relaxed",
    "backward",
    "softmax",
    "sample",
    "sample, backward",
    "hard bfloat16, to differentiate",
)


def _prepare(operation: str, rows: int) -> Callable[[], object]:
    """A call of the operation on so many rows, its inputs made and everything warmed up."""
    import torch

    import gumbel_ext as ge

    x = torch.randn(rows, CLASSES)
    leaf = x.clone().requires_grad_()
    half = x.bfloat16().requires_grad_()
    if operation == "backward":
        ge.gumbel_softmax(leaf, 0.7, seed=1).backward(x)
        leaf.grad = None
        y = ge.gumbel_softmax(leaf, 0.7, seed=1)
        return lambda: y.backward(x)
    if operation == "sample, backward":
        weights = torch.randn(2, rows)
        torch.stack(ge.sample(leaf, seed=1)[1:]).backward(weights)
        leaf.grad = None
        answers = torch.stack(ge.sample(leaf, seed=1)[1:])
        return lambda: answers.backward(weights)
    call = {
        "noise": lambda: ge.gumbel_noise((rows, CLASSES), seed=1),
        "index": lambda: ge.gumbel_max(x, seed=1),
        "hard": lambda: ge.gumbel_softmax(x, 0.7, hard=True, seed=1),
        "hard, to differentiate": lambda: ge.gumbel_softmax(leaf, 0.7, hard=True, seed=1),
        "relaxed": lambda: ge.gumbel_softmax(x, 0.7, seed=1),
        "softmax": lambda: ge.softmax(x, 0.7),
        "sample": lambda: ge.sample(x, seed=1),
        "hard bfloat16, to differentiate": lambda: ge.gumbel_softmax(half, 0.7, hard=True, seed=1),
    }[operation]
    call()
    return call


def child() -> None:
    """Runs under valgrind: each operation on N and on 2N rows, between two borders."""
    import torch

    import gumbel_ext

    torch.set_num_threads(1)
    torch.manual_seed(0)
    gc.disable()
    for operation in OPERATIONS:
        for rows in (ROWS, 2 * ROWS):
            call = _prepare(operation, rows)
            gumbel_ext.build_info()
            call()
            gumbel_ext.build_info()


def count() -> dict[str, float]:
    """Instructions per logit of each operation."""
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is not installed")
    surroundings = {"GUMBEL_EXT_CPU_ISA": ISA, "ATEN_CPU_CAPABILITY": ISA, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "callgrind"
        command = [
            "valgrind",
            "--tool=callgrind",
            f"--callgrind-out-file={output}",
            f"--dump-before={BORDER}",
        ]
        command += [sys.executable, "-m", "benchmarks.instructions", "--child"]
        done = subprocess.run(command, cwd=HERE.parent, env=os.environ | surroundings, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"valgrind failed:\n{done.stderr[-2000:]}")
        # Dump 1 ends before the first call, dump 2 holds that call, dump 3 what lies before the next ...
        calls = [_total(Path(f"{output}.{2 * i + 2}")) for i in range(2 * len(OPERATIONS))]
    pairs = zip(OPERATIONS, calls[::2], calls[1::2], strict=True)
    return {operation: round((twice - once) / (ROWS * CLASSES), 2) for operation, once, twice in pairs}


def _total(dump: Path) -> int:
    found = re.search(r"^totals: (\d+)", dump.read_text(), re.MULTILINE)
    if not found:
        sys.exit(f"{dump.name}: no total in it")
    return int(found.group(1))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a count has grown by more than 5 %%")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child()
        return 0
    kept = json.loads(TABLE.read_text())["per_logit"] if TABLE.exists() else {}
    if arguments.check and not kept:
        sys.exit(f"nothing to check against: {TABLE.name} does not exist")
    counted = count()
    grown = []
    print(f"instructions per logit, {ISA} kernels, rows of {CLASSES} float32 logits unless said")
    for operation, now in counted.items():
        before = kept.get(operation)
        change = "" if before is None else f"   kept: {before:.2f}, {now / before - 1:+.1%}"
        if before is not None and now > GROWTH_ALLOWED * before:
            grown.append(operation)
            change += "  GREW"
        print(f"{now:8.2f}  {operation}{change}")
    if arguments.check:
        return 1 if grown else 0
    TABLE.write_text(json.dumps({"isa": ISA, "classes": CLASSES, "per_logit": counted}, indent=1) + "\n")
    print(f"wrote {TABLE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
