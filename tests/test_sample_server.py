"""examples/cpp/sample_server: its answers are Python's, whatever comes between them; and its load test."""

from __future__ import annotations

import math
import re
import resource
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import ROOT, attempt, configure_command, needs_build_tools, run

import gumbel_ext

FOLDER = ROOT / "examples" / "cpp" / "sample_server"

pytestmark = needs_build_tools


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built against the Python package."""
    build = tmp_path_factory.mktemp("server")
    run(*configure_command(FOLDER, build, CMAKE_PREFIX_PATH=gumbel_ext.cmake_prefix_path, CMAKE_BUILD_TYPE="Release"))
    run("cmake", "--build", build)
    return build / "sample_server"


def binary_frame(
    logits: torch.Tensor, temperatures: torch.Tensor, seeds: torch.Tensor, magic: bytes = b"GMBL"
) -> bytes:
    payload = b"".join(part.contiguous().numpy().tobytes() for part in (seeds, temperatures, logits))
    return struct.pack("<4sIII", magic, *logits.shape, len(payload)) + payload


def log_probs(logits: torch.Tensor, temperatures: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Of the indices, in float64; 0 where the temperature is."""
    greedy = (temperatures == 0)[:, None]
    quotients = logits.double() / temperatures.double()[:, None].masked_fill(greedy, 1)
    return quotients.log_softmax(-1).gather(-1, index[:, None]).masked_fill(greedy, 0)[:, 0]


@pytest.mark.parametrize("threads", [1, 5])
def test_the_server_draws_what_python_draws(server: Path, threads: int) -> None:
    frames, expected = [], []
    for i in range(60):
        logits = torch.randn(1 + i * 7 % 30, 1 + i * 31 % 500)
        temperatures, seeds = torch.rand(len(logits)), torch.randint(-(2**63), 2**63 - 1, (len(logits),))
        temperatures[0] = 0
        frames.append(binary_frame(logits, temperatures, seeds))
        expected.append(gumbel_ext.gumbel_max(logits, temperatures[:, None], seed=seeds).tolist())
        if i % 10 == 3:
            frames.append(binary_frame(logits, temperatures - 2, seeds) + b"between frames")
            expected += ["temperature", "GMBL"]
    answers = run(server, "--threads", threads, stdin=b"".join(frames))
    for answer, wanted in zip(answers.splitlines(), expected, strict=True):
        if isinstance(wanted, str):
            assert answer.startswith("error at byte ") and wanted in answer
        else:
            assert [int(index) for index in answer.split()] == wanted


def test_the_server_reads_text(server: Path) -> None:
    logits = torch.randn(50, 7)
    lines = [f"{seed} 0.5 {' '.join(map(repr, row))}" for seed, row in enumerate(logits.tolist())]
    lines[20] = "20 0.5 wh\u00e4t\a"
    answers = run(server, "--text", stdin="\n".join(lines).encode()).splitlines()
    expected = [str(i) for i in gumbel_ext.gumbel_max(logits, 0.5, seed=torch.arange(50)).tolist()]
    expected[20] = 'error at line 21: expected LOGIT, a number, got "wh\\xc3\\xa4t\\x07"'
    assert answers == expected


@pytest.mark.parametrize("text", [False, True])
def test_log_probabilities_are_answered_where_they_are_asked_for(server: Path, text: bool) -> None:
    """Frame by frame; of a temperature of 0 they are 0."""
    frames, expected, exact = [], [], []
    for i in range(40):
        rows = 1 if text else 1 + i % 5
        logits, seeds = 3 * torch.randn(rows, 1 + i * 31 % 500), torch.randint(-(2**63), 2**63 - 1, (rows,))
        temperatures = torch.rand(rows) * 2 * (torch.arange(rows) != i % 4)
        asked = i % 3 == 0
        if text:
            numbers = map(repr, [int(seeds[0]), float(temperatures[0]), *logits[0].tolist()])
            frames.append(("P " * asked + " ".join(numbers) + "\n").encode())
        else:
            frames.append(binary_frame(logits, temperatures, seeds, b"GMBP" if asked else b"GMBL"))
        expected.append(gumbel_ext.gumbel_max(logits, temperatures[:, None], seed=seeds))
        exact.append(log_probs(logits, temperatures, expected[-1]) if asked else None)
    answers = run(server, *(["--text"] if text else []), stdin=b"".join(frames)).splitlines()
    for answer, index, values in zip(answers, expected, exact, strict=True):
        words = [word.split(":") for word in answer.split()]
        assert [int(word[0]) for word in words] == index.tolist()
        assert all(len(word) == (1 if values is None else 2) for word in words)
        if values is not None:
            found = torch.tensor([float(word[1]) for word in words], dtype=torch.float64)
            torch.testing.assert_close(found, values, rtol=1e-5, atol=1e-6)
    assert any(values is not None and values.eq(0).any() for values in exact)


def test_the_server_outlives_a_frame_too_large_for_its_memory(server: Path) -> None:
    ones = torch.ones(1, dtype=torch.int64)
    good, large = (binary_frame(torch.ones(1, classes), torch.ones(1), ones) for classes in (5, 1 << 24))
    size = len(large) - 16
    command = [server, "--threads", "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        process.stdin.write(good)
        process.stdin.flush()
        answer = process.stdout.readline()
        status = Path(f"/proc/{process.pid}/status").read_text()
        used = int(re.search(r"VmSize:\s+(\d+) kB", status)[1]) << 10  # type: ignore[index]
        resource.prlimit(process.pid, resource.RLIMIT_AS, (used + size // 2, used + size // 2))
        rest, _ = process.communicate(large + good + b"GMBL" + good)
    too_large, after, stray, last = rest.splitlines(keepends=True)
    assert too_large.decode() == (
        f"error at byte {len(good)}: expected memory for the {size} bytes after the header, got none\n"
    )
    assert stray.startswith(b"error at byte ") and process.returncode == 0
    assert answer == after == last


def load(server: object, *options: object) -> subprocess.CompletedProcess[str]:
    return attempt(sys.executable, FOLDER / "load.py", server, "--frames", 6, "--rows", 3, "--classes", 50, *options)


@pytest.mark.parametrize("options", [(), ("--log-probs",)], ids=str)
def test_the_load_test_reports_rates_and_waits(server: Path, options: tuple[str, ...]) -> None:
    done = load(server, "--clients", 1, 5, "--threads", 2, *options)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if re.match(r"\| \d", line)]
    numbers = [[float(cell) for cell in row] for row in rows]
    assert [row[0] for row in numbers] == [1, 5]
    for _, rate, middle, most in numbers:
        assert rate > 0 and 0 < middle <= most and math.isfinite(most)
    assert done.stdout.endswith("every answer is Python's\n")


STUB = """#!{python}
import sys
while header := sys.stdin.buffer.read(16):
    sys.stdin.buffer.read(int.from_bytes(header[12:], "little"))
    print({answer!r}, flush=True)
"""


@pytest.mark.parametrize("answer", ["0 0 50", "0 0", "0:0 0:0 0:0", "error at byte 0"])  # there is no class 50
def test_the_load_test_finds_wrong_answers(answer: str, tmp_path: Path) -> None:
    stub = tmp_path / "stub"
    stub.write_text(STUB.format(python=sys.executable, answer=answer))
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    done = load(stub, "--clients", 2)
    assert done.returncode == 1 and done.stdout.endswith("12 wrong answers\n"), done.stderr


def test_the_load_test_ends_with_the_server() -> None:
    done = load("/bin/false", "--clients", 2)
    assert done.returncode == 1 and "expected an answer to every frame, got" in done.stderr
