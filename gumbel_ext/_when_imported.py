"""A module that is imported once another one is, without importing that: it may take a second."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _Followed(Loader):
    """A loader after whose module comes another."""

    def __init__(self, loader: Loader, follower: str) -> None:
        self.loader, self.follower = loader, follower

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        importlib.import_module(self.follower)


class _Finder(MetaPathFinder):
    def __init__(self, name: str, follower: str) -> None:
        self.name, self.follower = name, follower

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)  # once; and then the others are asked
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Followed(spec.loader, self.follower)
        return spec


def when_imported(name: str, follower: str) -> None:
    """Imports ``follower`` now, if module ``name`` is imported, or else right after that."""
    if name in sys.modules:
        importlib.import_module(follower)
    else:
        sys.meta_path.insert(0, _Finder(name, follower))
