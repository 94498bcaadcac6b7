"""What machine_checks.py calls on the machine's devices (machine.h), and how it looks at what they were asked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

import gumbel_ext

machine = torch.ops.gumbel_ext_machine
Call = Callable[..., torch.Tensor]


def sample(estimator: str) -> Call:
    return lambda x, tau=0.7, **options: gumbel_ext.one_hot_sample(x, tau, estimator=estimator, num_noises=2, **options)


DRAWS: dict[str, Call] = {
    "relaxed": lambda x, tau=0.7, **options: gumbel_ext.gumbel_softmax(x, tau, **options),
    "logarithm": lambda x, tau=0.7, seed=None, generator=None: gumbel_ext.functional._log_gumbel_softmax(
        x, tau, seed, generator
    ),
    "one-hot": lambda x, tau=0.7, **options: gumbel_ext.gumbel_softmax(x, tau, hard=True, **options),
    "index": lambda x, tau=0.7, **options: gumbel_ext.gumbel_max(x, tau, **options),
    "indices": lambda x, tau=1.0, **options: gumbel_ext.gumbel_max(x, tau, num_samples=5, **options),
    "noise": lambda x, tau=None, **options: gumbel_ext.gumbel_noise(x.shape, device=x.device, **options),
    "top k": lambda x, tau=0.7, **options: gumbel_ext.relaxed_top_k(x, 2, tau, **options),
    "sample": sample("gumbel"),
    "sample by rao": sample("rao"),
    "sample by reinmax": sample("reinmax"),
}
CALLS: dict[str, Call] = DRAWS | {
    "softmax": lambda x, tau=0.7, **_: gumbel_ext.softmax(x, tau),
    "straight-through": lambda x, tau=0.7, **_: gumbel_ext.straight_through(x, tau),
}
GRADIENTS = [name for name in CALLS if name not in ("index", "indices", "noise")]
# A public sample is two operators, of which the second can fail after the draw; the logarithm's gradient is made of
# torch's.
OPERATORS = [name for name in CALLS if not name.startswith("sample by ")]
OPERATORS += [f"gradient of {name}" for name in GRADIENTS if name != "logarithm"]


class Event(NamedTuple):
    what: str
    device: int
    stream: int


def events() -> list[Event]:
    """What the machine was asked since the last time."""
    words = machine.events()
    return [Event(what, int(device), int(stream)) for what, device, stream in zip(*[iter(words)] * 3, strict=True)]


def kinds() -> list[str]:
    """The same in one word each; a question about the device, which comes once, left out."""
    found = [event.what.split(",")[0] for event in events()]
    return [kind for kind in found if kind != "query"]


def logits(shape: tuple[int, ...], device: int = 1) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    there = machine.to_device(x, device)
    events()
    return there


def on_host(tensor: torch.Tensor) -> torch.Tensor:
    return machine.to_host(tensor.detach())


def generator(device: int = 1) -> torch.Generator:
    return machine.default_generator(device)


def results(name: str, x: torch.Tensor, tau: torch.Tensor, dy: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The value, and the gradients that there are."""
    if name not in GRADIENTS:
        return (CALLS[name](x, tau, seed=5),)
    x, tau = x.requires_grad_(), tau.requires_grad_()
    y = CALLS[name](x, tau, seed=5)
    return y, *torch.autograd.grad(y, (x, tau), dy)


@contextlib.contextmanager
def captured() -> Iterator[list[int]]:
    """The graph of what runs within, on the current device's current stream."""
    graph: list[int] = []
    machine.begin_capture()
    try:
        yield graph
    finally:
        graph.append(machine.end_capture())


def repeatable(name: str, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A call of one operator."""
    if name == "sample":
        return lambda: torch.ops.gumbel_ext._sample(x, None, 1.0, None, 0.7, None, None, None, None, -1)[0]
    if not name.startswith("gradient of "):
        return lambda: CALLS[name](x)
    x.requires_grad_()
    y, dy = CALLS[name.removeprefix("gradient of ")](x, seed=5), machine.to_device(on_host(x), 0)
    return lambda: torch.autograd.grad(y, x, dy, retain_graph=True)[0]
