"""DTensors: every operator on the parts that processes hold (imported once there is a `torch.distributed.tensor`).

Torch's own sharding rules (`register_sharding`) run an operator on local tensors as it is. That does not do for noise,
which depends on where a part lies: so the operators have rules of `torch.library.register_torch_dispatch` instead.
They say, for every dimension of the mesh, how rows are shared: what is sharded on a dimension other than the classes'
stays so, and nothing is sent; on the classes, so too, for operators that `_OVER_CLASSES` has; all else is replicated.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from gumbel_ext import _shard_ranks, _shards, _wire
from gumbel_ext._shards import Part

# What results are, beside logits of a shape: shaped as they; one a row, without `dim`; one a row, of size 1 along
# `dim`; a single number.
_WHOLE, _INDEX, _ROW, _NUMBER = range(4)
_RESULTS = {
    "_relaxed": (_WHOLE,), "_log_relaxed": (_WHOLE,), "_one_hot": (_WHOLE,), "_one_hot_relaxed": (_WHOLE, _WHOLE),
    "_index": (_INDEX,), "_scored_index": (_INDEX, _INDEX), "_sample": (_INDEX, _NUMBER), "_one_hot_of": (_WHOLE,),
    "_estimate": (_WHOLE, _ROW, _ROW), "_backward": (_WHOLE, _ROW), "_backward_": (_ROW,), "_top_k": (_WHOLE, _WHOLE),
    "_top_k_backward": (_WHOLE, _ROW), "_noise": (_WHOLE,), "_draw": (_INDEX, _INDEX), "_log_prob": (_INDEX, _INDEX),
    "_log_prob_backward": (_WHOLE, _ROW), "_top_classes": (_INDEX, _INDEX, _INDEX), "_top_scores": (_WHOLE,),
}  # fmt: skip
# Which arguments are shaped as the logits, broadcast to them, or have one number a row.
_AS_LOGITS = ("logits", "grad", "relaxed", "scores", "like", "found", "log_probs")
_BROADCAST = ("mask", "tau_rows", "temperature_rows", "tau")
_PER_ROW = ("row_seeds", "index", "statistics", "grad_log_prob", "grad_entropy")
_MAIN = ("logits", "relaxed", "scores", "like", "found")  # whose layout the others follow


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How a tensor lies on a mesh: for each dimension of that, which one of the tensor is sharded over it, if any."""

    mesh: DeviceMesh
    shape: torch.Size
    dim: int  # the classes'
    sharded: tuple[int | None, ...]

    @classmethod
    def of(cls, tensor: DTensor, dim: int, over_classes: bool) -> _Layout:
        sharded: list[int | None] = []
        for placement in tensor.placements:
            at = placement.dim % tensor.dim() if type(placement) is Shard else None
            keeps = at != dim or (over_classes and dim not in sharded)
            sharded.append(at if keeps else None)
        return cls(tensor.device_mesh, tensor.shape, dim, tuple(sharded))

    def placements(self, place: Callable[[int], int | None]) -> list[Placement]:
        """Of a tensor that has at place(d) what the layout's own has at d."""
        places = [None if d is None else place(d) for d in self.sharded]
        return [Replicate() if d is None else Shard(d) for d in places]

    def spans(self) -> list[tuple[int, int]]:
        """Where this process's part begins along each dimension, and how long it is (as `torch.chunk` has it)."""
        spans = [(0, size) for size in self.shape]
        coordinate = self.mesh.get_coordinate() or [0] * self.mesh.ndim
        for d, at, parts in zip(self.sharded, coordinate, self.mesh.shape, strict=True):
            if d is not None:
                begin, size = spans[d]
                step = math.ceil(size / parts)
                first = min(size, at * step)
                spans[d] = (begin + first, min(step, size - first))
        return spans

    def class_group(self) -> Any:
        """The processes over which classes are sharded, if any are."""
        return self.mesh.get_group(self.sharded.index(self.dim)) if self.dim in self.sharded else None

    def local(self, tensor: Any, place: Callable[[int], int | None]) -> Any:
        """This process's part of a tensor, one of torch's own being the same everywhere."""
        if not isinstance(tensor, Tensor):
            return tensor
        if isinstance(tensor, DTensor):
            return tensor.redistribute(self.mesh, self.placements(place)).to_local()
        for d, (begin, size) in enumerate(self.spans()):
            at = place(d)
            if at is not None and d in self.sharded:
                tensor = tensor.narrow(at, begin, size)
        return tensor

    def result(self, local: Tensor | None, kind: int) -> DTensor | None:
        """A result's part as a DTensor."""
        if local is None:
            return None
        shape, place = list(self.shape), self.whole
        if kind == _NUMBER:
            shape, place = [], self.nowhere
        elif kind == _ROW:
            place = self.row
            shape[self.dim : self.dim + 1] = [1] * bool(shape)
        elif kind == _INDEX:
            place, samples = self.index, local.shape[max(len(shape) - 1, 0) :]
            shape[self.dim : self.dim + 1] = []
            shape.extend(samples)
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(
            local, self.mesh, self.placements(place), run_check=False, shape=torch.Size(shape), stride=stride
        )

    # Where tensors have what the logits have at dimension d.

    def whole(self, d: int) -> int | None:
        return d

    def row(self, d: int) -> int | None:
        return None if d == self.dim else d

    def index(self, d: int) -> int | None:
        return None if d == self.dim else d - (d > self.dim)

    def nowhere(self, d: int) -> int | None:
        return None

    def broadcast(self, tensor: Tensor) -> Callable[[int], int | None]:
        missing = len(self.shape) - tensor.dim()
        return lambda d: d - missing if d >= missing and tensor.shape[d - missing] != 1 else None


def _numbers(layout: _Layout, given: Any) -> list[int]:
    """How the noise numbers this process's part, given how it does the whole."""
    numbers = [0, 0, *_shards.row_strides(layout.shape, layout.dim)] if given is None else list(given)
    for d, (begin, _) in enumerate(layout.spans()):
        numbers[1 if d == layout.dim else 0] += begin * (1 if d == layout.dim else numbers[d + 2])
    return numbers


def _arguments(func: OpOverload, args: Any, kwargs: Any) -> dict[str, Any]:
    schema = func._schema.arguments
    given = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    return given | dict(zip([argument.name for argument in schema], args, strict=False)) | kwargs


def _to_local(layout: _Layout, given: dict[str, Any]) -> dict[str, Any]:
    places: dict[str, Any] = dict.fromkeys(_AS_LOGITS, layout.whole) | dict.fromkeys(_PER_ROW, layout.index)
    local = {}
    for name, value in given.items():
        if isinstance(value, Tensor):
            place = layout.broadcast(value) if name in _BROADCAST else places.get(name, layout.nowhere)
            value = layout.local(value, place)
        local[name] = value
    return local


def _rule(cls: type, func: OpOverload, types: Any, args: Any, kwargs: Any) -> Any:
    name = func._schema.name.split("::")[1]
    given = _arguments(func, args, kwargs)
    main_name = next(name for name in _MAIN if name in given)
    main = given[main_name]
    if not isinstance(main, DTensor):
        raise TypeError(f"{main_name}: expected a DTensor beside one, got a {type(main).__name__}")
    dim = given.get("dim", -1) % max(main.dim(), 1)
    layout = _Layout.of(main, dim, name in _OVER_CLASSES)
    with torch.no_grad():
        local = _to_local(layout, given)
        local["numbers"] = _numbers(layout, given.get("numbers"))
        if "generator" in given and given.get("noise", True) and given["seed"] is given["row_seeds"] is None:
            groups = [layout.mesh.get_group(d) for d in range(layout.mesh.ndim)]
            local["seed"] = _wire.agreed_seed(groups, local[main_name], given["generator"])
            local["generator"] = None
        group = layout.class_group()
        if group is None:
            found = func(**{name: local[name] for name in given})
        else:
            found = _OVER_CLASSES[name](local, dim, group)
    results = found if isinstance(found, tuple) else (found,)
    wrapped = tuple(layout.result(*result) for result in zip(results, _RESULTS[name], strict=True))
    return wrapped if isinstance(found, tuple) else wrapped[0]


# ---- Operators whose classes are sharded ----------------------------------------------------------------------------


def _part(local: dict[str, Any], dim: int, temperature: str) -> Part:
    rows = local[f"{temperature}_rows"]
    return Part(
        local["logits"], dim, local["numbers"], local["mask"], local[temperature] if rows is None else rows,
        local.get("seed"), local.get("row_seeds"), local.get("noise", True),
    )  # fmt: skip


def _index(local: dict[str, Any], dim: int, group: Any) -> Tensor:
    return _shards.gumbel_max(_part(local, dim, "temperature"), group, local["num_samples"])


def _draw(local: dict[str, Any], dim: int, group: Any) -> tuple[Tensor, Tensor]:
    return _shards.draw(_part(local, dim, "temperature"), group, local["num_samples"])


def _top_classes(local: dict[str, Any], dim: int, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _shard_ranks.top_classes(_part(local, dim, "temperature"), local["k"], group)


def _log_prob(local: dict[str, Any], dim: int, group: Any) -> tuple[Tensor, Tensor]:
    return _shards.log_prob(_part(local, dim, "temperature"), local["index"], local["statistics"], group)


def _log_prob_backward(local: dict[str, Any], dim: int, group: Any) -> tuple[Tensor, Tensor | None]:
    return _shards.log_prob_backward(
        (local["grad_log_prob"], local["grad_entropy"]), _part(local, dim, "temperature"), local["index"],
        local["statistics"], group, local["need_temperature"],
    )  # fmt: skip


def _relaxed(local: dict[str, Any], dim: int, group: Any) -> Tensor:
    return _shards.relaxed(_part(local, dim, "tau"), group)[0].to(local["logits"].dtype)


def _one_hot(local: dict[str, Any], dim: int, group: Any) -> Tensor:
    part = dataclasses.replace(_part(local, dim, "tau"), temperature=1.0)
    index, score = _shards.best_of(part, group)
    return _shards.one_hot(part, index, ~score.isfinite())


def _one_hot_relaxed(local: dict[str, Any], dim: int, group: Any) -> tuple[Tensor, Tensor]:
    part = _part(local, dim, "tau")
    value, index, score = _shards.relaxed(part, group)
    return _shards.one_hot(part, index, ~score.isfinite()), value.to(part.logits.dtype)


def _backward(local: dict[str, Any], dim: int, group: Any) -> tuple[Tensor | None, Tensor | None]:
    tau = local["tau"] if local["tau_rows"] is None else local["tau_rows"].double()
    needs = local.get("need_logits", True), local["need_tau"]
    return _shards.backward(local["grad"], local["relaxed"], tau, dim, group, *needs)


def _backward_in_place(local: dict[str, Any], dim: int, group: Any) -> Tensor | None:
    d_logits, d_tau = _backward(local, dim, group)
    local["relaxed"].copy_(d_logits)
    return d_tau


_OVER_CLASSES: dict[str, Callable[[dict[str, Any], int, Any], Any]] = {
    "_index": _index, "_relaxed": _relaxed, "_one_hot": _one_hot, "_one_hot_relaxed": _one_hot_relaxed,
    "_backward": _backward, "_backward_": _backward_in_place, "_draw": _draw, "_log_prob": _log_prob,
    "_log_prob_backward": _log_prob_backward, "_top_classes": _top_classes,
}  # fmt: skip

for _name in _RESULTS:
    torch.library.register_torch_dispatch(f"gumbel_ext::{_name}", DTensor, _rule)
