"""The operations and the ways to reach them, each with the reason where an operation cannot be reached so."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import gumbel_ext

Call = Callable[..., Tensor]
ROWS = 4


@dataclass(frozen=True)
class Operation:
    function: str
    arguments: dict[str, Any] = field(default_factory=dict)
    noisy: bool = True
    differentiable: bool = True
    logits: bool = True
    leading: tuple[Any, ...] = ()  # arguments between the logits and the temperature
    answer: Callable[..., Tensor] | None = None  # of logits and a result of several tensors: one, as the logits

    @property
    def temperature(self) -> str:
        return "temperature" if self.function in ("gumbel_max", "sample", "gumbel_top_k") else "tau"


def _of_sample(x: Tensor, sample: Any, dim: int = -1) -> Tensor:
    """All of a sample's answers in one tensor, shaped as the logits."""
    size = x.shape[dim]
    return ((sample[0] + sample[1] + 2 * sample[2]) / size).unsqueeze(dim) * torch.ones_like(x)


def _of_top_k(x: Tensor, top: Any, dim: int = -1) -> Tensor:
    """The same of draws without replacement."""
    if isinstance(x, Tensor) and x.is_nested:  # of which torch differentiates a product, and no selection
        place = torch.tensor([[1.0], [2.0]])
        return _of_sample(x, [(top[part].to(x.dtype) @ place).squeeze(-1) for part in range(3)], dim)
    return _of_sample(x, [top[part].select(-1, 0) + 2 * top[part].select(-1, 1) for part in range(3)], dim)


OPERATIONS = {
    "softmax": Operation("softmax", noisy=False),
    "straight_through": Operation("straight_through", noisy=False),
    "gumbel_softmax": Operation("gumbel_softmax"),
    "gumbel_softmax, hard": Operation("gumbel_softmax", {"hard": True}),
    "one_hot_sample": Operation("one_hot_sample"),
    "one_hot_sample, reinmax": Operation("one_hot_sample", {"estimator": "reinmax"}),
    "gumbel_max": Operation("gumbel_max", differentiable=False),
    "sample": Operation("sample", answer=_of_sample),
    "gumbel_top_k": Operation("gumbel_top_k", leading=(2,), answer=_of_top_k),
    "gumbel_noise": Operation("gumbel_noise", differentiable=False, logits=False),
    "relaxed_top_k": Operation("relaxed_top_k", leading=(2,)),
    "relaxed_top_k, hard": Operation("relaxed_top_k", {"hard": True}, leading=(2,)),
}


@dataclass(frozen=True)
class Way:
    find: Callable[[Operation], Callable[..., Tensor]]
    tau_rows: bool = False
    row_seeds: bool = False
    excuse: Callable[[Operation], str] = lambda operation: ""

    @property
    def reference(self) -> Way:
        """The Python function with the same kinds of arguments, the plain way."""
        return Way(_function, self.tau_rows, self.row_seeds)

    def reason(self, operation: Operation) -> str:
        """Why the operation cannot be reached so; empty where it can."""
        if self.tau_rows and not operation.logits:
            return "has no temperature"
        if self.row_seeds and not operation.noisy:
            return "draws no noise"
        return self.excuse(operation)

    def bind(self, operation: Operation, seed: int | None) -> Call:
        """The operation as a function of the logits, and of one temperature a row where the way has them."""
        function = self.find(operation)
        if operation.answer:
            function = _answering(function, operation.answer)
        function = functools.partial(function, **operation.arguments)
        if operation.noisy:
            seeded = self.row_seeds and seed is not None
            function = functools.partial(function, seed=torch.arange(ROWS) + seed if seeded else seed)
        call: Any = lambda x: function(x, *operation.leading, 0.7)  # noqa: E731
        if not operation.logits:
            call = lambda x: function(x.shape, dtype=x.dtype, device=x.device)  # noqa: E731
        elif self.tau_rows:
            call = lambda x, tau: function(x, *operation.leading, tau)  # noqa: E731
        call.operation = operation
        return call


def _answering(function: Callable[..., Any], answer: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, *args, **kwargs: answer(x, function(x, *args, **kwargs))


def _operator(overload: str) -> Callable[[Operation], Any]:
    return lambda operation: getattr(getattr(torch.ops.gumbel_ext, operation.function), overload)


def _module(operation: Operation) -> Callable[..., Tensor]:
    module = {"gumbel_softmax": gumbel_ext.nn.GumbelSoftmax, "straight_through": gumbel_ext.nn.StraightThrough}
    return lambda x, tau, seed=None, **kwargs: module[operation.function](tau, **kwargs)(
        x, **({"seed": seed} if operation.noisy else {})
    )


def _function(operation: Operation) -> Callable[..., Tensor]:
    return getattr(gumbel_ext, operation.function)


def _no_module(operation: Operation) -> str:
    return "" if operation.function in ("gumbel_softmax", "straight_through") else "has no module"


WAYS = {
    "function": Way(_function),
    "function, a tau a row": Way(_function, tau_rows=True),
    "function, a seed a row": Way(_function, row_seeds=True),
    "module": Way(_module, excuse=_no_module),
    "module, a tau a row": Way(_module, tau_rows=True, excuse=_no_module),
    "torch.ops": Way(lambda operation: getattr(torch.ops.gumbel_ext, operation.function)),
    "torch.ops, default": Way(_operator("default")),
    "torch.ops, tau_tensor": Way(_operator("tau_tensor"), tau_rows=True),
    "torch.ops, seed_tensor": Way(_operator("seed_tensor"), row_seeds=True),
    "torch.ops, tensors": Way(_operator("tensors"), tau_rows=True, row_seeds=True),
    "C++": Way(_function, excuse=lambda operation: "tests/cpp/contexts.cpp has its own table"),
}
