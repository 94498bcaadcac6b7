"""Loads the compiled module, after a look at whether it fits the installed torch."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import torch

PACKAGE = Path(__file__).resolve().parent
REBUILD = "pip install --no-build-isolation --force-reinstall --no-deps"


def _release(version: str) -> tuple[str, ...]:
    """Major and minor version: within them torch keeps its binary interface."""
    return tuple(version.split("+")[0].split(".")[:2])


def load() -> ModuleType | None:
    """The module `_C`; none where the environment variable GUMBEL_EXT_LIBRARY names a libgumbel_ext.so to load in its
    place, whose functions torch.ops then reaches."""
    if library := os.environ.get("GUMBEL_EXT_LIBRARY"):
        torch.ops.load_library(library)  # type: ignore[no-untyped-call]
        return None
    record = PACKAGE / "lib" / "torch_version.txt"
    if not record.exists():
        raise ImportError(
            f"gumbel_ext is not built in {PACKAGE}, which Python found first: if that is its source, build it there "
            "with `pip install --no-build-isolation -e .`, or start Python in another folder"
        )
    built_for = record.read_text().strip()
    if _release(built_for) != _release(torch.__version__):
        raise ImportError(
            f"gumbel_ext was built for torch {built_for} and cannot be loaded by torch {torch.__version__}: "
            f"build it again with `{REBUILD} gumbel-ext` (or a path to its source), or install torch {built_for}"
        )
    from gumbel_ext import _C

    return _C
