"""The promises, the tests that prove them, and where torch and JAX stand: the first table of docs/proofs.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Record = dict[str, Any]


class Promise(NamedTuple):
    """`jobs` are of the long tier, by the name of the job or of one check in it; `elsewhere` is a line of another
    library's figures, if any was measured."""

    promise: str
    tests: str
    jobs: tuple[str, ...] = ()
    elsewhere: Callable[[Record], str] | None = None


def beyond(t: int) -> Callable[[Record], str]:
    def line(found: Record) -> str:
        i = found["float32"]["beyond"].index(t)
        return f"beyond {t}: {found['float32']['counts'][i]:,} of {found['float32']['expected'][i]:,.1f}"

    return line


def largest(found: Record) -> str:
    return f"largest of {found['float32']['draws']:,}: {found['float32']['largest']:.2f}"


def bad_halves(found: Record) -> str:
    return f"float16: {found['float16']['not_finite']:,} infinite of {found['float16']['draws']:,}"


def same(key: str) -> Callable[[Record], str]:
    words = {True: "the same sample", False: "another sample"}
    return lambda found: words[found["same"][key]]


PROMISES = [
    Promise("Noise is standard Gumbel: its law, mean and variance", "test_randomness", ("law of the noise",)),
    Promise("Noise reaches 45, and every part of the tail comes as often as it should",
            "test_randomness, test_noise", ("tail", "resolution of the tail"), beyond(18)),
    Promise("Noise is never infinite or NaN, in any dtype", "test_randomness, test_noise",
            ("infinite or NaN", "extreme words"), bad_halves),
    Promise("Noise is independent across classes, rows, draws, seeds and neighbouring seeds", "test_randomness",
            ("independence", "neighbours")),
    Promise("The words pass dieharder, taken across classes, rows, draws and seeds", "test_randomness", ("dieharder",)),
    Promise("Samples follow the softmax, flat or skewed, few classes or many", "test_randomness, test_indices",
            ("8 classes, flat", "8 classes, skewed", "200,000 classes, flat", "200,000 classes, skewed")),
    Promise("A class 20 nats behind is drawn as often as it should", "test_randomness, test_indices", ("far behind",),
            largest),
    Promise("A class of probability 0 is never drawn", "test_randomness, test_indices", ("probability 0",)),
    Promise("One-hot samples follow softmax(logits), whatever tau", "test_randomness, test_indices", ("every tau",)),
    Promise("A row with a seed of its own has one sample, wherever it lies and in whatever batch",
            "test_randomness, test_invariance", ("place in the batch",)),
    Promise("A row's sample does not depend on how many rows follow", "test_invariance", (), same("longer_batch")),
    Promise("The same bits for any number of threads", "test_invariance", (), same("threads")),
    Promise("Draft and target of speculative decoding can have independent noise", "test_randomness",
            ("speculative decoding",)),
    Promise("Noise is a pure function of (seed, row, class, draw): Philox4x32-10, bit for bit", "test_noise"),
    Promise("The same bits on every instruction set, in every memory layout and along any dim", "test_invariance"),
    Promise("Without a seed, noise is fresh and follows torch.manual_seed", "test_noise"),
    Promise("Indices are the argmax of logits / temperature + noise; ties go to the lowest class", "test_indices"),
    Promise("Values are within the stated bound of a float64 reference", "test_values"),
    Promise("Gradients are the tempered softmax's, of logits and of tau, twice and in forward mode",
            "test_gradients, test_autograd"),
    Promise("All of it holds for every bit pattern and every temperature", "test_hard_inputs, test_values, fuzz"),
    Promise("The same under compile, export, vmap, checkpoint, autocast, hooks and threads",
            "test_contexts, test_vmap, test_exceptions, test_compile"),
    Promise("Bad arguments raise at once and change nothing", "test_arguments, test_argument_types"),
    Promise("Nothing is read or written out of bounds", "test_values, test_cuda_on_cpu, fuzz"),
    Promise("No more memory than promised; more than 2^31 elements", "test_memory, test_large"),
    Promise("A call that fails for want of memory changes nothing", "test_memory_failures"),
    Promise("The C++ interface and the installed package do the same", "test_cpp, test_packaging"),
    Promise("CUDA kernels give the CPU's bits, and values within their bound",
            "test_cuda, test_cuda_on_cpu, test_approximate, test_cuda_build"),
]  # fmt: skip


def links(tests: str) -> str:
    return ", ".join(
        f"[{t}](../tests/{t}{'/api_fuzzer.cpp' if t == 'fuzz' else '.py'})"
        for t in (t.strip() for t in tests.split(","))
    )
