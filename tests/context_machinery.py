"""The contexts that take an operation apart or pass it on: compilers, tracers, wrappers of modules; see contexts.py."""

from __future__ import annotations

import functools
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from context_runs import Module
from held import Context, Held, Results, give, plain
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from ways import Call

import gumbel_ext

#: What looks at the call itself sees no difference between the other ways.
FUNCTIONS = ("function", "function, a tau a row", "function, a seed a row")
WAYS = (*FUNCTIONS, "module", "torch.ops")
SAME = "the same to it as the function"


def through(transform: Callable[[Call, Results], Call], ways: tuple[str, ...] = WAYS, **kwargs: Any) -> Context:
    """What `transform` makes of the call, in its place; the generator is then as it was before."""

    def run(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
        torch._dynamo.reset()
        state = torch.get_rng_state()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            transformed = transform(call, inputs)
        torch.set_rng_state(state)
        return plain(transformed, inputs, upstream, held)

    return Context(run, close=True, large=False, ways=ways, why=SAME, **kwargs)


def compiled(call: Call, inputs: Results) -> Call:
    return torch.compile(call, backend="aot_eager", fullgraph=True)


def compiled_dynamic(call: Call, inputs: Results) -> Call:
    """One graph for every size; it has seen another already."""
    function = torch.compile(call, backend="aot_eager", fullgraph=True, dynamic=True)
    function(*(torch.cat([t, t], -1) if t is inputs[0] else t for t in inputs))
    return function


def exported(call: Call, inputs: Results) -> Call:
    return torch.export.export(Module(call), inputs).module()


def in_a_package(call: Call, inputs: Results) -> Call:
    """A library of its own, which has no gradients."""
    program = torch.export.export(Module(call), tuple(t.detach() for t in inputs))
    with tempfile.TemporaryDirectory() as folder:
        path = torch._inductor.aoti_compile_and_package(program, package_path=str(Path(folder) / "model.pt2"))
        model = torch._inductor.aoti_load_package(path)
        return lambda *tensors: model(*(t.detach() for t in tensors))


def value_of(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
    return plain(call, tuple(t.detach() for t in inputs), upstream, held)


def traced(call: Call, inputs: Results) -> Call:
    return torch.jit.trace(call, tuple(t.detach() for t in inputs), check_trace=False)


def symbolically_traced(call: Call, inputs: Results) -> Call:
    names = ["x", "tau"][: len(inputs)]
    arguments = ", ".join(names)
    # (fx counts a function's arguments, and asks for names)
    return torch.fx.symbolic_trace(eval(f"lambda {arguments}: call({arguments})", {"call": call}))


# TorchScript compiles source. A seed of 13 is what test_contexts.py gives.
def softmax(x: Tensor) -> Tensor:
    return gumbel_ext.softmax(x, 0.7)


def straight_through(x: Tensor) -> Tensor:
    return gumbel_ext.straight_through(x, 0.7)


def gumbel_softmax(x: Tensor) -> Tensor:
    return gumbel_ext.gumbel_softmax(x, 0.7, seed=13)


def gumbel_softmax_hard(x: Tensor) -> Tensor:
    return gumbel_ext.gumbel_softmax(x, 0.7, hard=True, seed=13)


def sample(x: Tensor) -> Tensor:
    index, log_prob, entropy = gumbel_ext.sample(x, 0.7, seed=13)
    return ((index + log_prob + 2 * entropy) / x.shape[-1]).unsqueeze(-1) * torch.ones_like(x)


def gumbel_top_k(x: Tensor) -> Tensor:
    indices, log_probs, scores = gumbel_ext.gumbel_top_k(x, 2, 0.7, seed=13)
    place = torch.arange(1, 3)
    answers = (indices * place).sum(-1) + (log_probs * place).sum(-1) + 2 * (scores * place).sum(-1)
    return (answers / x.shape[-1]).unsqueeze(-1) * torch.ones_like(x)


def one_hot_sample(x: Tensor) -> Tensor:
    return gumbel_ext.one_hot_sample(x, 0.7, seed=13)


def one_hot_sample_reinmax(x: Tensor) -> Tensor:
    return gumbel_ext.one_hot_sample(x, 0.7, estimator="reinmax", seed=13)


def gumbel_max(x: Tensor) -> Tensor:
    return gumbel_ext.gumbel_max(x, 0.7, seed=13)


def gumbel_noise(x: Tensor) -> Tensor:
    return gumbel_ext.gumbel_noise(list(x.shape), seed=13, dtype=x.dtype, device=x.device)


def relaxed_top_k(x: Tensor) -> Tensor:
    return gumbel_ext.relaxed_top_k(x, 2, 0.7, seed=13)


def relaxed_top_k_hard(x: Tensor) -> Tensor:
    return gumbel_ext.relaxed_top_k(x, 2, 0.7, hard=True, seed=13)


def scripted(call: Call, inputs: Results) -> Call:
    operation = call.operation
    suffix = "_hard" if operation.arguments.get("hard") else ""
    suffix += "_" + operation.arguments["estimator"] if "estimator" in operation.arguments else ""
    return torch.jit.script(globals()[operation.function + suffix])


def jagged(call: Call, inputs: Results) -> Call:
    """The rows as a batch of two sequences."""
    offsets = torch.tensor([0, 1, len(inputs[0])])
    nested = functools.partial(torch.nested.nested_tensor_from_jagged, offsets=offsets)
    return lambda *tensors: call(*map(nested, tensors)).values()


@contextmanager
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def wrapped(wrap: Callable[[Module], Any]) -> Context:
    """The inputs are the parameters of a module that is wrapped for many processes; there is one."""

    def run(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
        module = Module(call, len(inputs))
        for name, t in zip(module.names, inputs, strict=True):
            setattr(module, name, torch.nn.Parameter(t.detach().clone()))
        with process_group():
            y = wrap(module)()
            held.output(y)
            if y.requires_grad:
                y.backward(upstream)
            found = [p.grad for p in module.parameters() if p.grad is not None]
            found = [g.full_tensor() if hasattr(g, "full_tensor") else g for g in found]
        return y.detach().clone(), *found

    return Context(run, large=False, ways=WAYS, why=SAME)


def compiled_backward(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
    """Compiled autograd: the forward is eager, the backward one graph."""
    torch._dynamo.reset()
    compiler = torch.compile(backend="aot_eager", fullgraph=True)
    with torch._dynamo.compiled_autograd._enable(compiler):
        value, y = give(call(*inputs), held)
        y.backward(upstream)
    return value, *(t.grad for t in inputs if t.grad is not None)


MACHINERY: dict[str, Context] = {
    "torch.compile": through(compiled),
    "torch.compile, dynamic": through(compiled_dynamic),
    "torch.export": through(exported),
    "AOTInductor": through(in_a_package, ("function",), plain=value_of, long=True),
    "compiled autograd": Context(compiled_backward, close=True, differentiates=True, large=False, ways=WAYS, why=SAME),
    "torch.jit.script": through(scripted, ("function",), needs_seed="its source has a seed"),
    "torch.jit.trace": through(
        traced,
        excuse=lambda operation, way: (
            "" if operation.logits or way != "torch.ops" else "torch traces no sizes into operators of others"
        ),
    ),
    "torch.fx.symbolic_trace": through(symbolically_traced, (*FUNCTIONS, "torch.ops")),
    "jagged nested tensors": through(
        jagged,
        ("function", "function, a tau a row", "module"),
        excuse=lambda operation, way: "" if operation.logits else "takes no tensor",
    ),
    "DistributedDataParallel": wrapped(DistributedDataParallel),
    "FSDP2": wrapped(fully_shard),
}
