"""The raw words, put through dieharder (Brown, Eddelbuettel and Bauer), a battery that others wrote.

dieharder is a program: on Debian and Ubuntu `apt install dieharder`, on Fedora `dnf install dieharder`, on macOS
`brew install dieharder`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import torch
from reference import Array, philox4x32_10
from scipy import stats

from .result import RATE, Result
from .sources import Noise

# What runs in minutes and is marked "Good" in `dieharder -l`: birthdays, ranks of 6x8 matrices, counted ones, squeeze,
# runs, monobit, runs of bits, DCT, fill tree, monobit 2. Some give several p-values.
TESTS = (0, 3, 8, 13, 15, 100, 101, 206, 207, 209)
BLOCK = 1 << 20
FAILED = 2e-6  # dieharder's own: p below 1e-6 or above 1 - 1e-6
WEAK = 0.01  # p below 0.005 or above 0.995


def words_of(g: torch.Tensor) -> bytes:
    """The words that float64 noise was made of: survival is (word + 1/2) / 2^32, and g -log(-log1p(-survival))."""
    words = (-torch.expm1(-torch.exp(-g)) * 2.0**32).long()
    return bytes(words.flatten().numpy().astype("<u4").data)


def across_classes(noise: Noise, seed: int) -> Iterator[bytes]:
    """Class after class of one row, then of the next seed."""
    while True:
        yield words_of(noise(1, 4 * BLOCK, seed, torch.float64))
        seed += 1


def across_rows(noise: Noise, seed: int) -> Iterator[bytes]:
    """Row after row of one class, then of the next class, then of the next seed."""
    while True:
        yield words_of(noise(BLOCK, 4, seed, torch.float64).T.contiguous())
        seed += 1


def across_seeds(noise: Noise, seed: int) -> Iterator[bytes]:
    """Consecutive seeds' word of one class, then of the next class."""
    while True:
        yield words_of(noise(BLOCK, 4, torch.arange(seed, seed + BLOCK), torch.float64).T.contiguous())
        seed += BLOCK


def across_draws(noise: Noise, seed: int) -> Iterator[bytes]:
    """Draw after draw of one class. Noise has draw 0, so these are words of the reference, whose bits are ours."""
    draws: Array = torch.arange(BLOCK).numpy()
    while True:
        four = philox4x32_10((0, draws, 0, 0), (seed % 2**32, seed >> 32))
        yield b"".join(bytes(word.astype("<u4").data) for word in four)
        seed += 1


AXES: dict[str, Callable[[Noise, int], Iterator[bytes]]] = {
    "classes": across_classes, "rows": across_rows, "draws": across_draws, "seeds": across_seeds,
}  # fmt: skip


def run(test: int, stream: Iterator[bytes]) -> list[tuple[str, float, str]]:
    """(name, p-value, verdict) of each line that one of dieharder's tests prints, fed with as much as it reads."""
    fields = [word for name in ("test_name", "ntuple", "pvalues", "assessment") for word in ("-D", name)]
    command = ["dieharder", "-g", "200", "-d", str(test), "-c", ",", *fields]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    try:
        for block in stream:
            process.stdin.write(block)
    except BrokenPipeError:
        pass
    output, errors = process.stdout.read().decode(), process.stderr.read().decode()
    if process.wait() or "," not in output:
        raise RuntimeError(f"dieharder -d {test} failed:\n{output}{errors}")
    rows = [[word.strip() for word in line.split(",")] for line in output.splitlines() if line.count(",") >= 3]
    return [(f"{name} {n}".removesuffix(" 0"), float(p), verdict) for name, n, p, verdict in (r[:4] for r in rows)]


def dieharder(noise: Noise, axis: str, seed: int, tests: tuple[int, ...] = TESTS) -> Result:
    """No test may say FAILED, and WEAK as often as p-values at either end are to be expected.

    The p-value reported is that of as many WEAK as were seen, binomial; 0 with any FAILED. A right library gets
    FAILED with probability 2e-6 a line.
    """
    read = 0

    def counted() -> Iterator[bytes]:
        nonlocal read
        for block in AXES[axis](noise, seed):
            read += len(block) // 4
            yield block

    lines = [line for test in tests for line in run(test, counted())]
    weak = [f"{name} p={p:.2g}" for name, p, verdict in lines if verdict == "WEAK"]
    failed = [f"{name} p={p:.2g}" for name, p, verdict in lines if verdict not in ("PASSED", "WEAK")]
    p = 0.0 if failed else float(stats.binom.sf(len(weak) - 1, len(lines), WEAK))
    smallest = min(min(p, 1 - p) for _, p, _ in lines)
    return Result(f"dieharder, words across {axis}", read, smallest, "least p from either end; WEAK binomial", p,
                  rate=RATE + FAILED * len(lines),
                  detail=f"{len(lines)} p-values, {len(failed)} FAILED, {len(weak)} WEAK"
                         + "".join(f"; {line}" for line in weak + failed))  # fmt: skip
