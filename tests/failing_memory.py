"""Every operation, with every request for memory in it failing in turn: `failing_memory.py INPUT...`, as a program.

It runs under tests/cpp/failing_memory.cpp, and ends with an error where a promise is broken.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

import gumbel_ext

THREADS = 2
SEED = 5

# Smaller requests do not fail. Below 128 bytes torch itself ends the process: its autograd engine allocates where it
# may not throw; and below 64 bytes the loader does, for thread-local data.
LEAST = 128
# Once a differentiable operation has drawn, torch ties its result to the graph in some 250 bytes of its own for each
# tensor; where these are not there, the call fails after the draw. All else fails before it.
LEAST_WHERE_RECORDED = 264


@dataclass
class Input:
    size: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    dim: int = -1
    rows: bool = False  # a temperature and a seed a row
    masked: bool = False

    @functools.cached_property
    def logits(self) -> Tensor:
        return torch.randn(self.size, generator=torch.Generator().manual_seed(1)).to(self.dtype)

    @functools.cached_property
    def upstream(self) -> Tensor:
        return torch.linspace(-1, 1, self.logits.numel()).view(self.size).to(self.dtype)


INPUTS = {
    "short rows": Input((3, 5)),
    "long 16-bit rows": Input((2, 5000), torch.bfloat16),
    "float64": Input((4, 300), torch.float64),
    "another dim": Input((300, 40), dim=0),
    "large result": Input((1026, 8192)),  # of more than 32 MiB: from the library's own allocator
    "long row": Input((1, 40_000)),  # shared among the threads
    "large workspace": Input((1, 1_100_000), torch.float16),  # of more than 4 MiB: not kept from call to call
    "temperature and seed a row": Input((6, 70), rows=True),
    "mask": Input((6, 700), masked=True),
}


@dataclass(frozen=True)
class Operation:
    function: Callable[..., Tensor]
    noisy: bool = True
    gradient: bool = False  # whether one is asked for


def hard(logits: Tensor, tau: Any, **arguments: Any) -> Tensor:
    return gumbel_ext.gumbel_softmax(logits, tau, True, **arguments)


def several(logits: Tensor, temperature: Any, **arguments: Any) -> Tensor:
    return gumbel_ext.gumbel_max(logits, temperature, num_samples=3, **arguments)


def noise(logits: Tensor, tau: Any, *, seed: Tensor | None = None, **arguments: Any) -> Tensor:
    return gumbel_ext.gumbel_noise(logits.shape, seed=seed, dtype=logits.dtype)


OPERATIONS = {
    "softmax": Operation(gumbel_ext.softmax, noisy=False),
    "softmax, gradient": Operation(gumbel_ext.softmax, noisy=False, gradient=True),
    "straight_through": Operation(gumbel_ext.straight_through, noisy=False),
    "straight_through, gradient": Operation(gumbel_ext.straight_through, noisy=False, gradient=True),
    "gumbel_softmax": Operation(gumbel_ext.gumbel_softmax),
    "gumbel_softmax, gradient": Operation(gumbel_ext.gumbel_softmax, gradient=True),
    "hard": Operation(hard),
    "hard, gradient": Operation(hard, gradient=True),
    "gumbel_max": Operation(gumbel_ext.gumbel_max),
    "gumbel_max, num_samples": Operation(several),
    "gumbel_noise": Operation(noise),
}


SOME_OPERATIONS = ("softmax, gradient", "hard, gradient", "gumbel_noise")  # for what takes long


class Call(NamedTuple):
    run: Callable[[], Any]
    repeatable: bool = True


def forward(operation: Operation, given: Input) -> tuple[Call, tuple[Tensor, ...]]:
    """The call, and what it may be differentiated by."""
    logits = given.logits.detach().requires_grad_(operation.gradient)
    tau: Any = 0.7
    arguments: dict[str, Any] = {"dim": given.dim}
    if given.masked:
        arguments["mask"] = torch.arange(given.size[-1]) % 3 > 0
    if given.rows:
        tau = torch.linspace(0.5, 2, given.size[0]).unsqueeze(-1).requires_grad_(operation.gradient)
    if given.rows and operation.noisy:
        arguments["seed"] = torch.arange(2 * given.size[0]).view(-1, 2)[:, 0]  # not contiguous: they are copied
    call = Call(lambda: operation.function(logits, tau, **arguments))
    return call, (logits, tau) if given.rows else (logits,)


def backward_twice(operation: Operation, given: Input) -> Call:
    """The gradient, where the graph and the result are kept."""
    call, inputs = forward(operation, given)
    y = call.run()
    return Call(lambda: torch.autograd.grad(y, inputs, given.upstream, retain_graph=True))


def backward_once(operation: Operation, given: Input) -> Call:
    """The gradient, where nobody holds the result: it is written over it."""
    call, inputs = forward(operation, given)
    total = (call.run() * given.upstream).sum()
    return Call(lambda: torch.autograd.grad(total, inputs), repeatable=False)


class Memory:
    """The memory of this process."""

    def __init__(self) -> None:
        process = ctypes.PyDLL(None)
        self._arm, self._disarm = process.failing_memory_arm, process.failing_memory_disarm
        self._arm.argtypes, self._arm.restype = [ctypes.c_int64, ctypes.c_size_t], None
        self._disarm.argtypes, self._disarm.restype = [], ctypes.c_int64

    def attempt(self, call: Call, n: int, least: int) -> tuple[Any, Exception | None, bool]:
        """What the call returned and raised, its n-th request for `least` bytes or more failing; whether one failed."""
        result, error = None, None
        self._arm(n, least)
        try:
            result = call.run()
        except (MemoryError, RuntimeError) as raised:
            error = raised
        finally:
            failed = self._disarm() <= 0
        return result, error, failed


def in_new_thread(body: Callable[[], bool]) -> bool:
    """The body's result in a thread where torch has all that it makes once for a thread, and the library nothing."""
    results: list[bool] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            torch.set_num_threads(THREADS)
            torch.zeros(1 << 17).add_(1)
            torch.zeros(1, requires_grad=True).exp().backward()
            results.append(body())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def bits(result: Any) -> list[Tensor]:
    tensors = result if isinstance(result, tuple) else (result,)
    return [tensor.detach().contiguous().view(torch.uint8) for tensor in tensors]


def same(result: Any, expected: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(bits(result), bits(expected), strict=True))


def fail_in_turn(memory: Memory, prepare: Callable[[], Call], least: int) -> int:
    """Attempts a call until nothing is left to fail; the number of failures."""

    def prepared() -> Call:
        torch.manual_seed(SEED)
        return prepare()

    expected = prepared().run()
    state = torch.get_rng_state()

    def check(result: Any, how: str) -> None:
        assert same(result, expected), f"{how} it gives another result"
        assert torch.equal(torch.get_rng_state(), state), f"{how} it draws otherwise"

    def attempt(n: int) -> bool:
        call = prepared()
        before = torch.get_rng_state()
        result, error, failed = memory.attempt(call, n, least)
        if error is None:
            check(result, f"failure {n} overcome," if failed else "nothing failing,")
            return failed
        assert failed, f"it raises though nothing failed: {error!r}"
        assert torch.equal(torch.get_rng_state(), before), f"failure {n} leaves the generator changed: {error!r}"
        again = call if call.repeatable else prepared()
        check(again.run(), f"called again after failure {n},")
        return True

    n = 1
    while in_new_thread(functools.partial(attempt, n)):
        n += 1
    return n - 1


def main(names: list[str]) -> None:
    memory = Memory()
    for title, operation in OPERATIONS.items():
        chosen = [name for name in names if name != "large result" or title in SOME_OPERATIONS]
        count = 0
        for name in chosen:
            given = INPUTS[name]
            recorded = operation.gradient and operation.noisy and not given.rows
            least = LEAST_WHERE_RECORDED if recorded else LEAST
            parts = {"forward": (lambda *which: forward(*which)[0], least)}
            if operation.gradient:
                parts |= {"backward": (backward_twice, LEAST), "backward in place": (backward_once, LEAST)}
            for part, (prepare, least_bytes) in parts.items():
                print(f"{title}, {name}, {part}: ", end="", flush=True)  # the last words before a crash
                failures = fail_in_turn(memory, functools.partial(prepare, operation, given), least_bytes)
                print(failures)
                count += failures
        assert count > 0 or not chosen, f"{title}: no request failed"


if __name__ == "__main__":
    main(sys.argv[1:] or list(INPUTS))
