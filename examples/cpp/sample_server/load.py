"""Loads sample_server: clients that share its pipes, each with one frame under way at a time.

python load.py build/sample_server --clients 1 4 16 --frames 200 --rows 8 --classes 32000

Prints, for each number of clients, rows a second and how long a client waits: from when it has a frame to write, while
the pipe may still be another's, to the answer's line. Then every answer is compared with Python's.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import subprocess
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from dataclasses import dataclass
from typing import Any

import torch
from client import frame

import gumbel_ext

WAIT = 60.0  # seconds that a client waits for an answer before it gives the server up
FRAMES = 8  # different ones a client


class Server:
    """The program, whose answers come in the order of its frames."""

    def __init__(self, *command: str) -> None:
        self._process: Any = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._writing, self._waiting = threading.Lock(), deque[Future[str]]()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def ask(self, content: bytes) -> str:
        """The answer to a frame."""
        answer: Future[str] = Future()
        with self._writing:
            self._waiting.append(answer)
            self._process.stdin.write(content)
            self._process.stdin.flush()
        return answer.result(WAIT)

    def _read(self) -> None:
        for line in self._process.stdout:
            self._waiting.popleft().set_result(line.decode().rstrip("\n"))
        while self._waiting:
            self._waiting.popleft().set_exception(EOFError("the end of the server's output"))

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._reader.join()
        self._process.wait()


@dataclass(frozen=True)
class Question:
    """A frame, and what Python answers: an index for each row, with its log-probability where it asks for that."""

    content: bytes
    answer: list[tuple[float, ...]]

    @staticmethod
    def random(rows: int, classes: int, log_probs: bool) -> Question:
        logits, seeds = 3 * torch.randn(rows, classes), torch.randint(2**62, (rows,))
        temperatures = torch.rand(rows) * 2
        temperatures[0] = 0
        drawn = gumbel_ext.sample(logits, temperatures[:, None], seed=seeds)
        columns = [drawn.index.tolist(), *([drawn.log_prob.tolist()] if log_probs else [])]
        return Question(frame(seeds, temperatures, logits, log_probs), list(zip(*columns, strict=True)))

    def is_answered_by(self, line: str) -> bool:
        rows = [word.split(":") for word in line.split()]
        try:
            return self.answer == [(int(index), *(in_float32(part) for part in others)) for index, *others in rows]
        except ValueError:  # an error's words
            return False


def in_float32(digits: str) -> float:
    return torch.tensor(float(digits), dtype=torch.float32).item()


def percentile(values: list[float], share: float) -> float:
    """The least of the values that so many are not above."""
    return sorted(values)[max(math.ceil(share * len(values)), 1) - 1]


def serve(server: Server, questions: list[Question], frames: int) -> tuple[list[float], list[str]]:
    """One client: how long each of its frames took, and the answers."""
    seconds, answers = [], []
    for number in range(frames):
        start = time.perf_counter()
        answers.append(server.ask(questions[number % len(questions)].content))
        seconds.append(time.perf_counter() - start)
    return seconds, answers


def load(options: argparse.Namespace, clients: int) -> int:
    """Prints the row of the table; returns how many answers are wrong."""
    questions = [
        [Question.random(options.rows, options.classes, options.log_probs) for _ in range(min(FRAMES, options.frames))]
        for _ in range(clients)
    ]
    command = [options.server, *(["--threads", str(options.threads)] if options.threads else [])]
    with Server(*command) as server, ThreadPoolExecutor(clients) as pool:
        server.ask(questions[0][0].content)  # the first frame pays for what is set up once
        start = time.perf_counter()
        results = list(pool.map(lambda own: serve(server, own, options.frames), questions))
        elapsed = time.perf_counter() - start
    waits = [1000 * seconds for times, _ in results for seconds in times]
    rate = clients * options.frames * options.rows / elapsed
    print(f"| {clients} | {rate:.0f} | {percentile(waits, 0.5):.2f} | {percentile(waits, 0.99):.2f} |", flush=True)
    return sum(
        not own[number % len(own)].is_answered_by(answer)
        for own, (_, answers) in zip(questions, results, strict=True)
        for number, answer in enumerate(answers)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    for name, default in (("frames", 200), ("rows", 8), ("classes", 32000), ("threads", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--log-probs", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the processors are the server's
    print(f"{options.frames} frames a client of {options.rows} rows and {options.classes} classes\n")
    print("| clients | rows a second | p50, ms | p99, ms |\n| --- | --- | --- | --- |")
    try:
        wrong = sum(load(options, clients) for clients in options.clients)
    except (BrokenPipeError, EOFError, TimeoutError) as error:
        raise SystemExit(f"expected an answer to every frame, got {type(error).__name__}: {error}") from None
    print(f"\n{wrong} wrong answers" if wrong else "\nevery answer is Python's")
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
