"""Speaks to sample_server: sends random rows as binary frames, and compares the answers with Python's.

python client.py build/sample_server --frames 100 --rows 256 --classes 1000
"""

from __future__ import annotations

import argparse
import struct
import subprocess

import torch
from torch import Tensor

import gumbel_ext


def frame(seeds: Tensor, temperatures: Tensor, logits: Tensor, log_probs: bool = False) -> bytes:
    """The binary frame that `frame.h` describes; seeds and temperatures ``[R]``, logits ``[R, C]``."""
    payload = b"".join(part.contiguous().numpy().tobytes() for part in (seeds, temperatures.float(), logits.float()))
    return struct.pack("<4sIII", b"GMBP" if log_probs else b"GMBL", *logits.shape, len(payload)) + payload


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server")
    for name, default in (("frames", 100), ("rows", 256), ("classes", 1000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()

    frames, expected = [], []
    for _ in range(options.frames):
        logits = torch.randn(options.rows, options.classes)
        seeds = torch.randint(2**62, (options.rows,))
        temperatures = torch.rand(options.rows) * 2
        frames.append(frame(seeds, temperatures, logits))
        expected.append(gumbel_ext.gumbel_max(logits, temperatures[:, None], seed=seeds).tolist())

    answers = subprocess.run([options.server], input=b"".join(frames), stdout=subprocess.PIPE, check=True).stdout
    got = [[int(index) for index in line.split()] for line in answers.decode().splitlines()]
    print("the same indices as Python's" if got == expected else "NOT the same indices as Python's")
    raise SystemExit(got != expected)


if __name__ == "__main__":
    main()
