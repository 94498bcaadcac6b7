"""Where the fuzzers start from: a few inputs of each kind, a file each in FOLDER/frames and FOLDER/api.

python seeds.py FOLDER

The bytes of frames_fuzzer.cpp's inputs are those of a server's; call.cpp says what those of a call mean.
"""

from __future__ import annotations

import random
import struct
import sys
from pathlib import Path

OPERATIONS = ("softmax", "straight_through", "gumbel_softmax", "gumbel_softmax_hard", "gumbel_max", "gumbel_noise")
HEAD = 80
CONTIGUOUS, TRANSPOSED, EXPANDED = b"\0", b"\1\0\1", b"\2\0\0\0\13"  # of two dimensions
ANY_BITS, EDGES, SMALL = range(3)
ONE, HALF, ZERO = b"\50" + bytes(8), b"\121" + bytes(8), b"\40" + bytes(8)
TAU_ROWS = b"\200\1\2\0"
NUMBER, ROWS, DEFAULT, GENERATOR = b"\0" + bytes([42] * 8), b"\6\0", b"\14", b"\17" + bytes(8)


def frame(rows: int, classes: int, magic: bytes = b"GMBL") -> bytes:
    payload = struct.pack(f"<{rows}q{rows}f{rows * classes}f", *range(rows), *[0.5] * rows, *range(rows * classes))
    return struct.pack("<4sIII", magic, rows, classes, len(payload)) + payload


FRAMES = {
    "good": b"\0" + frame(1, 2) + frame(2, 3),
    "log_probs": b"\0" + frame(2, 3, b"GMBP") + frame(1, 2) + b"GMBP",
    "stray_magic": b"\0GMBL" + frame(1, 2),
    "garbage_between": b"\0" + frame(1, 1) + b"GMBGMBX" + frame(1, 1),
    "cut": b"\0" + frame(2, 5)[:-3],
    "frame_within_a_cut_one": b"\0" + frame(1, 100)[:16] + frame(1, 2),
    "claims_most": b"\0" + struct.pack("<4sIII", b"GMBL", 1, (1 << 26) - 3, 1 << 28),
    "text": b"\0017 1 0.5 -0.5\n\n1\t2 3 \r\n-1 0 -inf 4\n\tP 7 1 0.5 -0.5\nP",
    "malformed_text": b"\0011 2\n1 2 x\x07\n99999999999999999999 1 1\n1 nan 1",
}


def call(
    operation: str,
    sizes: tuple[int, ...] = (3, 5),
    dtype: int = 0,
    values: int = SMALL,
    layout: bytes = CONTIGUOUS,
    tau: bytes = HALF,
    mask: bytes = b"\0",
    seed: bytes = NUMBER,
    samples: bytes = b"\0",
    gradient: bytes = b"\43\0",
) -> bytes:
    """A call with dim=-1; `sizes` are bytes that stand for sizes."""
    head = bytes([OPERATIONS.index(operation), len(sizes), *sizes, dtype, values]) + layout
    head += bytes([max(1, len(sizes)) * 2 - 1])
    if operation != "gumbel_noise":
        head += tau + mask
    if operation not in ("softmax", "straight_through"):
        head += seed
    if operation == "gumbel_max":
        head += samples
    return (head + b"\1" + gradient).ljust(HEAD, b"\0") + random.Random(1).randbytes(64)


CALLS = (
    {operation: call(operation) for operation in OPERATIONS}
    | {
        f"{operation}_edges_{dtype}": call(operation, (2, 249), dtype, EDGES)
        for operation in ("softmax", "gumbel_softmax_hard", "gumbel_max")
        for dtype in range(4)
    }
    | {
        "any_bits": call("gumbel_softmax", values=ANY_BITS),
        "scalar": call("gumbel_softmax_hard", ()),
        "no_classes": call("softmax", (4, 0)),
        "long_row": call("gumbel_max", (1, 255), tau=ONE),
        "transposed": call("gumbel_softmax", (200, 5), layout=TRANSPOSED),
        "expanded": call("straight_through", (6, 5), layout=EXPANDED),
        "mask": call("gumbel_softmax_hard", (3, 40), mask=b"\200\0\0"),
        "tau_rows": call("gumbel_softmax", tau=TAU_ROWS),
        "row_seeds": call("gumbel_max", seed=ROWS),
        "default_generator": call("gumbel_max", seed=DEFAULT),
        "generator": call("gumbel_max", seed=GENERATOR, samples=b"\203"),
        "greedy": call("gumbel_max", tau=ZERO),
    }
)


def main(folder: Path) -> None:
    for name, inputs in (("frames", FRAMES), ("api", CALLS)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for seed, content in inputs.items():
            (folder / name / seed).write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
