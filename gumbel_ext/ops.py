"""The operators as the dispatcher knows them, ``torch.ops.gumbel_ext``, with types: for graphs, exporters and the like.

``ops.gumbel_max(logits)`` is ``torch.ops.gumbel_ext.gumbel_max(logits)``, and ``ops.gumbel_max.default`` its overload.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket

from gumbel_ext import _draws, _estimators, functional

#: The public operators.
NAMES = (
    "softmax", "straight_through", "gumbel_softmax", "gumbel_max", "sample", "gumbel_noise", "one_hot_sample",
    "straight_through_embedding", "relaxed_top_k", "empty_cache",
)  # fmt: skip
#: Where a temperature stands, by position and by names.
_TEMPERATURES: dict[str, tuple[int, tuple[str, ...]]] = {
    "gumbel_max": (1, ("temperature",)),
    "sample": (1, ("temperature",)),
    "one_hot_sample": (1, ("tau", "temperature")),
    "straight_through_embedding": (2, ("tau", "temperature")),
    "relaxed_top_k": (2, ("tau",)),
}


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module 'gumbel_ext.ops' has no attribute {name!r}")
    return getattr(torch.ops.gumbel_ext, name)


def __dir__() -> list[str]:
    return list(NAMES)


_TAU = (1, ("tau",))
_KNOWN = (Tensor, float, int, type(None), torch.SymFloat, torch.SymInt)


class _Operator(OpOverloadPacket):
    """An operator that looks which overload its arguments ask for. (torch tries one after the other, and each that does
    not fit costs some ten microseconds.)"""

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        at, names = _TEMPERATURES.get(self.__name__, _TAU)
        temperatures, seed = [*args[at : at + 1], *map(kwargs.get, names)], kwargs.get("seed")
        if not all(isinstance(value, _KNOWN) for value in (*temperatures, seed)):
            return super().__call__(*args, **kwargs)  # what stands in for a tensor or a number
        if any(isinstance(value, Tensor) for value in temperatures):
            overload = self.tensors if isinstance(seed, Tensor) else self.tau_tensor
            return overload(*_in_tensors(at, args), **_named_in_tensors(names, kwargs))
        overload = self.seed_tensor if isinstance(seed, Tensor) else self.default
        return overload(*args, **kwargs)


def _in_tensor(number: Any) -> Any:
    is_number = isinstance(number, (float, int, torch.SymFloat, torch.SymInt))
    return functional._in_tensor(number) if is_number else number


def _in_tensors(at: int, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*args[:at], *map(_in_tensor, args[at : at + 1]), *args[at + 1 :])


def _named_in_tensors(names: tuple[str, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: _in_tensor(value) if name in names else value for name, value in kwargs.items()}


def _leave_open(overload: OpOverload, of_tensor: OpOverload, at: int, names: tuple[str, ...]) -> None:
    """While a compiler traces `overload` with a temperature that it leaves open, `of_tensor` is traced: in C++ the
    number would become a constant of the graph, which another number could not use."""
    key = torch.DispatchKey.CompositeImplicitAutograd

    @overload.py_impl(key)
    def trace(*args: Any, **kwargs: Any) -> Tensor:
        given = (*args[at : at + 1], *map(kwargs.get, names))
        if not any(isinstance(value, (torch.SymFloat, torch.SymInt)) for value in given):
            return overload._op_dk(key, *args, **kwargs)
        return of_tensor(*_in_tensors(at, args), **_named_in_tensors(names, kwargs))


for _name in NAMES:
    _packet = getattr(torch.ops.gumbel_ext, _name)  # from now on `torch.ops.gumbel_ext.` completes
    if len(_packet.overloads()) > 1:
        _packet.__class__ = _Operator
    if hasattr(_packet, "tau_tensor"):
        _leave_open(_packet.default, _packet.tau_tensor, *_TEMPERATURES.get(_name, _TAU))
    if hasattr(_packet, "tensors"):
        _leave_open(_packet.seed_tensor, _packet.tensors, *_TEMPERATURES.get(_name, _TAU))
    _functions = (getattr(module, _name, None) for module in (functional, _draws, _estimators))
    if _function := next(filter(None, _functions), None):
        torch.jit._builtins._register_builtin(_function, f"gumbel_ext::{_name}")
