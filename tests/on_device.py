"""The library's functions on CPU tensors, served by another device: each call takes its tensors there and brings the
results back. So every test runs on a GPU as it stands (GUMBEL_EXT_TEST_DEVICE=cuda; see conftest.py)."""

from __future__ import annotations

from typing import Any

import torch

OPERATORS = ("_relaxed", "_one_hot", "_index", "_noise_", "_backward", "_backward_")
_libraries: list[torch.library.Library] = []


def _moved(value: Any, device: str) -> Any:
    """A tensor there, with the strides it has here where they are dense; a generator as a seed."""
    if isinstance(value, torch.Tensor):
        return value.detach().to(device)
    if isinstance(value, (tuple, list)):
        return tuple(_moved(part, device) for part in value)
    return value


def take_over(device: str) -> None:
    # Of an operator found before it is overridden: with the CPU itself as the device there is nothing to find.
    library = torch.library.Library("gumbel_ext", "IMPL")
    _libraries.append(library)
    for name in OPERATORS:
        operator = getattr(torch.ops.gumbel_ext, name).default
        library.impl(name, _served(operator, device), "CPU", allow_override=True)


def _served(operator: Any, device: str) -> Any:
    names = [argument.name for argument in operator._schema.arguments]

    def call(*args: Any) -> Any:
        arguments = dict(zip(names, args, strict=False))
        draws = "generator" in names and arguments.get("noise", True)
        if draws and arguments["seed"] is None and arguments["row_seeds"] is None:
            number = torch.empty((), dtype=torch.int64)
            arguments["seed"] = number.random_(generator=arguments["generator"]).item()
            arguments["generator"] = None
        there = {key: _moved(value, device) for key, value in arguments.items()}
        found = _moved(operator(**there), "cpu")
        for written in ("out", "relaxed"):
            if operator._schema.name.endswith("_") and written in arguments:
                arguments[written].copy_(there[written].cpu())
        return found

    return call
