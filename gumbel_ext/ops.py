"""The operators as the dispatcher knows them, ``torch.ops.gumbel_ext``, with types: for graphs, exporters and the like.

``ops.gumbel_max(logits)`` is ``torch.ops.gumbel_ext.gumbel_max(logits)``, and ``ops.gumbel_max.default`` its overload.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket

from gumbel_ext import functional

#: The public operators.
NAMES = ("softmax", "straight_through", "gumbel_softmax", "gumbel_max", "gumbel_noise", "empty_cache", "relaxed_top_k")
_TAU_AT = {"relaxed_top_k": 2}  # which argument the temperature is, where it is not the first after the logits


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module 'gumbel_ext.ops' has no attribute {name!r}")
    return getattr(torch.ops.gumbel_ext, name)


def __dir__() -> list[str]:
    return list(NAMES)


_KNOWN = (Tensor, float, int, type(None), torch.SymFloat, torch.SymInt)


class _Operator(OpOverloadPacket):
    """An operator that looks which overload its arguments ask for. (torch tries one after the other, and each that does
    not fit costs some ten microseconds.)"""

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        at = _TAU_AT.get(self.__name__, 1)
        tau = args[at] if len(args) > at else kwargs.get("temperature" if self.__name__ == "gumbel_max" else "tau")
        seed = kwargs.get("seed")
        if not (isinstance(tau, _KNOWN) and isinstance(seed, _KNOWN)):
            return super().__call__(*args, **kwargs)  # what stands in for a tensor or a number
        if isinstance(seed, Tensor):
            overload = self.tensors if isinstance(tau, Tensor) else self.seed_tensor
        else:
            overload = self.tau_tensor if isinstance(tau, Tensor) else self.default
        return overload(*args, **kwargs)


def _leave_open(overload: OpOverload, of_tensor: OpOverload, at: int) -> None:
    """While a compiler traces `overload` with a temperature, argument `at`, that it leaves open, `of_tensor` is traced:
    in C++ the number would become a constant of the graph, which another number could not use."""
    key = torch.DispatchKey.CompositeImplicitAutograd

    @overload.py_impl(key)
    def trace(*args: Any, **kwargs: Any) -> Tensor:
        if len(args) <= at or not isinstance(args[at], (torch.SymFloat, torch.SymInt)):
            return overload._op_dk(key, *args, **kwargs)
        # Of what makes a tensor of a number, compilers leave products alone open.
        tensor = torch.ones((), dtype=torch.float64, device=args[0].device) * args[at]
        return of_tensor(*args[:at], tensor, *args[at + 1 :], **kwargs)


for _name in NAMES:
    _packet = getattr(torch.ops.gumbel_ext, _name)  # from now on `torch.ops.gumbel_ext.` completes
    if len(_packet.overloads()) > 1:
        _packet.__class__ = _Operator
    if hasattr(_packet, "tau_tensor"):
        _leave_open(_packet.default, _packet.tau_tensor, _TAU_AT.get(_name, 1))
    if hasattr(_packet, "tensors"):
        _leave_open(_packet.seed_tensor, _packet.tensors, _TAU_AT.get(_name, 1))
    if _function := getattr(functional, _name, None):
        torch.jit._builtins._register_builtin(_function, f"gumbel_ext::{_name}")
