"""What contexts.py and test_contexts.py are written in: what is held and compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from ways import Call, Operation

Results = tuple[Tensor, ...]


class Held:
    """What a user holds from a call to the end of its backward, as it was; with `keeping`, the output too."""

    def __init__(self, keeping: bool) -> None:
        self.keeping = keeping
        self._things: list[tuple[Any, np.ndarray, int | None]] = []

    def __call__(self, thing: Any) -> Any:
        self._things.append((thing, self._array(thing).copy(), self._version(thing)))
        return thing

    def output(self, y: Tensor) -> None:
        if self.keeping:
            for thing in (y, y.detach(), y.detach()[..., :1], y.detach().numpy(), np.from_dlpack(y.detach())):
                self(thing)

    def check(self) -> None:
        """Nothing has another value or version."""
        for thing, before, version in self._things:
            np.testing.assert_array_equal(self._array(thing), before, err_msg="written on, what a user holds")
            assert self._version(thing) == version

    @staticmethod
    def _array(thing: Any) -> np.ndarray:
        return thing.detach().numpy() if isinstance(thing, Tensor) else thing

    @staticmethod
    def _version(thing: Any) -> int | None:
        return thing._version if isinstance(thing, Tensor) and not thing.is_inference() else None


def give(y: Tensor, held: Held) -> tuple[Tensor, Tensor]:
    """y's value, and y as another node gives it on: after it nobody but `held` holds y itself."""
    held.output(y)
    return y.detach().clone(), y * 1


def gradients(y: Tensor, inputs: Results, upstream: Tensor, **kwargs: Any) -> Results:
    return torch.autograd.grad(y, inputs, upstream, **kwargs) if y.requires_grad else ()


def plain(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
    value, y = give(call(*inputs), held)
    return value, *gradients(y, inputs, upstream)


def value_alone(call: Call, inputs: Results, upstream: Tensor, held: Held) -> Results:
    return plain(call, inputs, upstream, held)[:1]


Run = Callable[[Call, Results, Tensor, Held], Results]


@dataclass(frozen=True)
class Context:
    run: Run
    plain: Run = plain
    close: bool = False  # not the same bits, where torch's own operations compute the gradient
    differentiates: bool = False  # there is nothing to see without a gradient
    needs_seed: str = ""  # why
    large: bool = True  # with large results too
    may_crash: bool = False  # a wrong write ends the process: it is checked in one of its own
    long: bool = False  # takes too long for every run of the tests
    ways: tuple[str, ...] = ()  # the only ones that are tried
    why: str = ""
    excuse: Callable[[Operation, str], str] = lambda operation, way: ""

    def reason(self, operation: Operation, way: str) -> str:
        """Why the operation has no place here; empty where it has one."""
        if self.differentiates and not operation.differentiable:
            return "has no gradient"
        if self.ways and way not in self.ways:
            return self.why
        return self.excuse(operation, way)
