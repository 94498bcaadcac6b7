"""The contexts that are more than a `with` around call and backward; see contexts.py."""

from __future__ import annotations

import copy
import gc
import mmap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from held import Context, Held, Results, give, gradients, plain
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint
from ways import Call


class Subclass(Tensor):
    """A tensor of another type, as torch makes them in Python."""


class Wrapper(Tensor):
    """A tensor that is another inside, and has no memory of its own."""

    content: Tensor

    @staticmethod
    def __new__(cls, content: Tensor) -> Wrapper:
        self = torch.Tensor._make_wrapper_subclass(
            cls, content.shape, strides=content.stride(), dtype=content.dtype, requires_grad=content.requires_grad
        )
        self.content = content.detach()
        return self

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map_only(Wrapper, lambda t: t.content, (args, kwargs or {}))
        return tree_map_only(Tensor, Wrapper, function(*args, **kwargs))


def as_subclass(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
    return plain(lambda x, *tau: call(x.as_subclass(Subclass), *tau).as_subclass(Tensor), inputs, upstream, held)


def as_wrapper(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
    wrapped = tuple(Wrapper(t) for t in inputs)
    y = call(*wrapped)
    return (y.content if isinstance(y, Wrapper) else y).clone(), *(
        g.content for g in gradients(y, wrapped, Wrapper(upstream))
    )


def checkpointed(use_reentrant: bool) -> Context:
    """Backward calls the operation again."""

    def run(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
        value, y = give(checkpoint(call, *inputs, use_reentrant=use_reentrant), held)
        y.backward(upstream)
        return value, *(t.grad for t in inputs if t.grad is not None)

    return Context(run, differentiates=True)


def retained(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
    value, y = give(call(*inputs), held)
    first = gradients(y, inputs, upstream, retain_graph=True)
    for gradient in first:
        held(gradient)
    torch.testing.assert_close(gradients(y, inputs, upstream), first, rtol=0, atol=0)
    return value, *first


def graph_of_the_gradient(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
    value, y = give(call(*inputs), held)
    found = gradients(y, inputs, upstream, create_graph=True)
    copies = tuple(held(gradient).detach().clone() for gradient in found)
    torch.autograd.grad(sum(gradient.square().sum() for gradient in found), inputs)
    return value, *copies


def stack_of(upstream: Tensor) -> Tensor:
    return torch.stack([upstream, upstream.flip(-1), upstream * 2])


def batched_gradient(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
    value, y = give(call(*inputs), held)
    return value, *gradients(y, inputs, stack_of(upstream), is_grads_batched=True)


def looped_gradient(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
    value, y = give(call(*inputs), held)
    found = [gradients(y, inputs, u, retain_graph=True) for u in stack_of(upstream)]
    return value, *map(torch.stack, zip(*found, strict=True))


def batches_of(inputs: Results) -> Results:
    return tuple(
        torch.stack([t, t.flip(0), t + 1]).detach().requires_grad_(t.requires_grad and t.is_leaf) for t in inputs
    )


def mapped(randomness: str) -> Context:
    """Under vmap a call with a seed is what a loop gives, whatever `randomness` says."""

    def run(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
        return plain(torch.func.vmap(call, randomness=randomness), batches_of(inputs), stack_of(upstream), held)

    def loop(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
        def stacked(*batches: Tensor) -> Tensor:
            return torch.stack([call(*element) for element in zip(*batches, strict=True)])

        return plain(stacked, batches_of(inputs), stack_of(upstream), held)

    return Context(run, loop, close=True, large=False, needs_seed="tests/test_vmap.py has what randomness means")


def tangents_of(inputs: Results) -> Results:
    return tuple(t.detach().cos() for t in inputs)


def along_tangents(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
    """What forward mode gives, by the gradients: <upstream, J t> = <J' upstream, t>."""
    value, *found = plain(call, inputs, upstream, held)
    return value, sum((g * t).sum() for g, t in zip(found, tangents_of(inputs), strict=True))


def jvp(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
    y, tangent = torch.func.jvp(call, tuple(t.detach() for t in inputs), tangents_of(inputs))
    return y, (upstream * tangent).sum()


def dual(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
    with forward_ad.dual_level():
        y, tangent = forward_ad.unpack_dual(call(*map(forward_ad.make_dual, inputs, tangents_of(inputs))))
        held.output(y)
        return y.detach().clone(), (upstream * tangent).sum().detach()


def vjp(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
    y, pull = torch.func.vjp(call, *(t.detach() for t in inputs))
    held.output(y)
    return y.clone(), *pull(upstream)


def same_in_all(results: list[Results]) -> Results:
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)
    return results[0]


def in_threads(task: Callable[[], Results]) -> Results:
    """`task` in four threads that start together."""
    start = threading.Barrier(4)

    def run() -> Results:
        start.wait()
        return task()

    with ThreadPoolExecutor(4) as pool:
        return same_in_all([future.result() for future in [pool.submit(run) for _ in range(4)]])


def threads(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
    return in_threads(lambda: plain(call, inputs, upstream, held))


def threads_on_one_graph(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
    value, y = give(call(*inputs), held)
    found = in_threads(lambda: gradients(y, inputs, upstream, retain_graph=True))
    return value, *same_in_all([found, gradients(y, inputs, upstream)])


def shared_memory(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
    """Another mapping of the output's memory is another process', as far as torch knows."""
    y = call(*inputs)
    descriptor, size = y.share_memory_().untyped_storage()._share_fd_cpu_()
    held(np.frombuffer(mmap.mmap(descriptor, size), np.uint8))
    value, y = give(y, held)
    return value, *gradients(y, inputs, upstream)


def copied(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
    value, y = give(call(*inputs), held)
    again = plain(call, copy.deepcopy(inputs), upstream, held)
    return same_in_all([again, (value, *gradients(y, inputs, upstream))])


def hooked(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
    """Hooks of tensors and nodes keep every gradient that they see, and collect garbage meanwhile."""
    y = call(*inputs)
    y.retain_grad()

    def keep(*seen: Any) -> None:
        gc.collect(0)
        tree_map_only(Tensor, held, seen)

    for t in (y, *inputs):
        t.register_hook(keep)
    y.grad_fn.register_prehook(keep)
    y.grad_fn.register_hook(keep)
    held.output(y)
    value = y.detach().clone()
    y.backward(upstream)
    assert torch.equal(y.grad, upstream)
    return value, *(t.grad for t in inputs)


def own_upstream(call: Call, inputs: Results, upstream: Tensor, held: Held, *, copied: bool = False) -> Results:
    """The gradient that comes to the node is the output's memory."""
    y = call(*inputs)
    upstream = y.detach().clone() if copied else held(y.detach())
    return y.detach().clone(), *gradients(y, inputs, upstream)


class Module(torch.nn.Module):
    """The operation on parameters, which the caller replaces."""

    def __init__(self, call: Call, count: int = 0) -> None:
        super().__init__()
        self.call, self.names = call, [f"input{i}" for i in range(count)]
        for name in self.names:
            self.register_parameter(name, torch.nn.Parameter(torch.zeros(())))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.call(*inputs, *(getattr(self, name) for name in self.names))


def functional_call(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
    module = Module(call, len(inputs))
    value, y = give(torch.func.functional_call(module, dict(zip(module.names, inputs, strict=True)), ()), held)
    return value, *gradients(y, inputs, upstream)


def parametrized(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
    module, sample = torch.nn.Module(), Module(lambda x: call(x, *inputs[1:]))
    module.weight = torch.nn.Parameter(inputs[0].detach().clone(), requires_grad=inputs[0].requires_grad)
    torch.nn.utils.parametrize.register_parametrization(module, "weight", sample, unsafe=True)
    value, y = give(module.weight, held)
    return value, *gradients(y, (module.parametrizations.weight.original, *inputs[1:]), upstream)


def inference_inputs(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
    with torch.inference_mode():
        inputs = tuple(t.clone() for t in inputs)
    return (call(*inputs).clone(),)
