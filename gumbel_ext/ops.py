"""The operators as the dispatcher knows them, ``torch.ops.gumbel_ext``, with types: for graphs, exporters and the like.

``ops.gumbel_max(logits)`` is ``torch.ops.gumbel_ext.gumbel_max(logits)``, and ``ops.gumbel_max.default`` its overload.
"""

from __future__ import annotations

from typing import Any

import torch

from gumbel_ext import functional

NAMES = functional.OPERATORS


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module 'gumbel_ext.ops' has no attribute {name!r}")
    return getattr(torch.ops.gumbel_ext, name)


def __dir__() -> list[str]:
    return list(NAMES)
