"""Contexts of use: what test_contexts.py multiplies with the operations and ways of ways.py.

A context is a function of (call, inputs, upstream, held) that gives the value and the gradients of the inputs, or
another measure of them that its `plain` counterpart, the same without the context, gives too. What it passes to
`held` a user could look at: it must not change.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import context_runs as runs
import numpy as np
import torch
from context_machinery import MACHINERY
from held import Context, Held, Results, plain, value_alone
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from ways import Call


def within(manager: Callable[[Held], AbstractContextManager[Any]], **kwargs: Any) -> Context:
    """Forward and backward inside of `manager`."""

    def run(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
        with manager(held):
            return plain(call, inputs, upstream, held)

    return Context(run, **kwargs)


def hooks(pack: Callable[[Tensor, Held], Any], unpack: Callable[[Any], Tensor], **kwargs: Any) -> Context:
    """Saved tensors go where `pack` puts them."""

    def manager(held: Held) -> AbstractContextManager[Any]:
        return torch.autograd.graph.saved_tensors_hooks(lambda t: pack(t.detach(), held), unpack)

    return within(manager, differentiates=True, **kwargs)


def file_hooks(mode: Any, **kwargs: Any) -> Context:
    """Saved tensors go to a file each, which is mapped into memory to be read."""

    @contextmanager
    def manager(held: Held) -> Iterator[None]:
        def pack(t: Tensor) -> Path:
            with tempfile.NamedTemporaryFile(suffix=".npy", dir=folder, delete=False) as file:
                np.save(file, t.detach().numpy())
            held(np.load(file.name, mmap_mode="r"))
            return Path(file.name)

        def unpack(path: Path) -> Tensor:
            return torch.from_numpy(np.load(path, mmap_mode=mode))

        with tempfile.TemporaryDirectory() as folder, torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield

    return within(manager, differentiates=True, **kwargs)


class Watching(TorchDispatchMode):
    """Sees every operator, and passes it on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


class WatchingFunctions(TorchFunctionMode):
    """Sees every function, and passes it on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(f"{getattr(function, '__module__', '')}.{function}")
        return function(*args, **(kwargs or {}))


def watching(mode: Any) -> Context:
    @contextmanager
    def manager(held: Held) -> Iterator[None]:
        with mode() as watch:
            yield
        assert any("gumbel" in name for name in watch.seen), "the mode saw nothing of ours"

    return within(manager)


def cache_hooks(held: Held) -> AbstractContextManager[Any]:
    """Saved tensors go to arrays, of which every unpacking gives the same one."""
    cache: dict[int, np.ndarray] = {}

    def pack(t: Tensor) -> int:
        cache[len(cache)] = held(t.detach().numpy().copy())
        return len(cache) - 1

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda key: torch.from_numpy(cache[key]))


@contextmanager
def enable_grad_in_no_grad(held: Held) -> Iterator[None]:
    with torch.no_grad(), torch.enable_grad():
        yield


@contextmanager
def deterministic(held: Held) -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


ORDER = "threads take from torch's default generator in whatever order"
CONTEXTS: dict[str, Context] = {
    "nothing": Context(plain),
    "no_grad": within(lambda held: torch.no_grad(), plain=value_alone),
    "inference_mode": within(lambda held: torch.inference_mode(), plain=value_alone),
    "tensors of inference_mode": Context(runs.inference_inputs, value_alone),
    "enable_grad in no_grad": within(enable_grad_in_no_grad),
    "retain_graph": Context(runs.retained, differentiates=True),
    "create_graph": Context(runs.graph_of_the_gradient, close=True, differentiates=True),
    "checkpoint, reentrant": runs.checkpointed(True),
    "checkpoint, not reentrant": runs.checkpointed(False),
    "saved to NumPy's view": hooks(lambda t, held: held(t.numpy()), torch.from_numpy),
    "saved to NumPy's copy": hooks(lambda t, held: held(t.numpy().copy()), torch.from_numpy),
    "saved through DLPack": hooks(lambda t, held: (held(t.numpy()), t)[1], torch.from_dlpack),
    "saved transposed": hooks(lambda t, held: held(t.t().contiguous()), torch.t),
    "saved to a file": file_hooks(None),
    "saved to a file, mapped r+": file_hooks("r+"),
    "saved to a file, mapped r only": file_hooks("r", may_crash=True),
    "saved to a cache": hooks(lambda t, held: held(t.clone()), lambda t: t),
    "saved to a cache of arrays": within(cache_hooks, differentiates=True),
    "save_on_cpu": within(lambda held: torch.autograd.graph.save_on_cpu(), differentiates=True),
    "allow_mutation_on_saved_tensors": within(
        lambda held: torch.autograd.graph.allow_mutation_on_saved_tensors(), differentiates=True
    ),
    "TorchDispatchMode": watching(Watching),
    "TorchFunctionMode": watching(WatchingFunctions),
    "Tensor subclass": Context(runs.as_subclass),
    "wrapper subclass": Context(runs.as_wrapper),
    "vmap, randomness=error": runs.mapped("error"),
    "vmap, randomness=same": runs.mapped("same"),
    "vmap, randomness=different": runs.mapped("different"),
    "torch.func.vjp": Context(runs.vjp, close=True, differentiates=True),
    "torch.func.jvp": Context(runs.jvp, runs.along_tangents, close=True, differentiates=True),
    "dual numbers": Context(runs.dual, runs.along_tangents, close=True, differentiates=True),
    "is_grads_batched": Context(runs.batched_gradient, runs.looped_gradient, close=True, differentiates=True),
    "threads": Context(runs.threads, needs_seed=ORDER),
    "threads on one graph": Context(runs.threads_on_one_graph, differentiates=True),
    "autocast": within(lambda held: torch.autocast("cpu", torch.bfloat16)),
    "share_memory_": Context(runs.shared_memory),
    "deepcopy": Context(runs.copied, needs_seed="a second call draws other noise"),
    "hooks and retain_grad": Context(runs.hooked, differentiates=True),
    "upstream is the output": Context(
        runs.own_upstream, functools.partial(runs.own_upstream, copied=True), differentiates=True
    ),
    "detect_anomaly": within(lambda held: torch.autograd.detect_anomaly()),
    "deterministic algorithms": within(deterministic),
    "profile": within(lambda held: torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])),
    "functional_call": Context(runs.functional_call),
    "parametrize": Context(runs.parametrized),
    **MACHINERY,
}
