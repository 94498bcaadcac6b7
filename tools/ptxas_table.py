"""Registers, stack and spills of every CUDA kernel, from a build's output with `-Xptxas -v` on standard input.

Prints a table; the exit status is 1 where a kernel spills registers to local memory, 2 where there is no kernel.

    cmake --build build -v 2>&1 | python tools/ptxas_table.py
"""

from __future__ import annotations

import re
import subprocess
import sys

ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\S+)' for '(?P<arch>\S+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)


def demangle(names: list[str]) -> list[str]:
    plain = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return [re.sub(r"gumbel_ext::(cuda::)?|^void |\(.*", "", line) for line in plain.splitlines()]


def main() -> int:
    found = list(ENTRY.finditer(sys.stdin.read()))
    if not found:
        print("no kernel in this output: was it built with -Xptxas -v?", file=sys.stderr)
        return 2
    rows = sorted(zip(demangle([entry["name"] for entry in found]), found, strict=True), key=lambda row: row[0])
    print(f"{'kernel':<52} {'arch':<8} {'registers':>9} {'stack':>6} {'spills':>7}")
    spilling = 0
    for name, entry in rows:
        spills = int(entry["stores"]) + int(entry["loads"])
        spilling += spills > 0
        print(f"{name:<52} {entry['arch']:<8} {entry['registers']:>9} {entry['stack']:>6} {spills:>7}")
    print(f"{len(rows)} kernels, {spilling} of them with spills")
    return 1 if spilling else 0


if __name__ == "__main__":
    sys.exit(main())
