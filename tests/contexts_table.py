"""``python contexts_table.py``: runs test_contexts.py, all of it, and writes docs/contexts.md from the outcome."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from contexts import CONTEXTS
from ways import OPERATIONS, WAYS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "contexts.md"
PASSED = "✓"
Cells = dict[tuple[str, str], str]  # (context or way, operation): what is to be read there
HEAD = """# Where it works

In each of these contexts of use, an operation gives the values and gradients that it gives without, with a seed and
from the generator, and changes nothing that its user holds. A ✓ stands for tests that passed, by each of the ways in
the first table, or by those that are named where the context cannot tell the others apart
([tests/contexts.py](../tests/contexts.py)). The page is written from their outcome
(`python tests/contexts_table.py`), and a test fails where it is not theirs any more.

"""


class Outcomes:
    """What became of each cell of test_contexts.py."""

    def __init__(self) -> None:
        self.failed: set[tuple[str, str, str]] = set()
        self._cells: dict[str, tuple[str, str, str]] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        for item in items:
            params = getattr(getattr(item, "callspec", None), "params", {})
            if "context" in params:
                self._cells[item.nodeid] = (params["context"], params["way"], params["operation"])

    def pytest_runtest_logreport(self, report: Any) -> None:
        if not report.passed and report.nodeid in self._cells:
            self.failed.add(self._cells[report.nodeid])


def reason(context: str, way: str, operation: str) -> str:
    return WAYS[way].reason(OPERATIONS[operation]) or CONTEXTS[context].reason(OPERATIONS[operation], way)


def table(failed: set[tuple[str, str, str]]) -> Cells:
    """Of every context over all ways, and of every way in no context."""
    found: Cells = {}
    for operation in OPERATIONS:
        groups = {way: [("nothing", way)] for way in WAYS if way != "C++"}
        groups |= {context: [(context, way) for way in WAYS if way != "C++"] for context in CONTEXTS}
        del groups["nothing"]
        for name, cells in groups.items():
            tried = [cell for cell in cells if not reason(*cell, operation)]
            excuses = {way: CONTEXTS[context].excuse(OPERATIONS[operation], way) for context, way in cells}
            if any((*cell, operation) in failed for cell in tried):
                found[name, operation] = "fails"
            elif tried:
                partly = [f"{way}: {excuse}" for way, excuse in excuses.items() if excuse]
                found[name, operation] = f"{PASSED} ({'; '.join(partly)})" if partly else PASSED
            else:
                found[name, operation] = reason(*cells[0], operation)
    return found


def page(failed: set[tuple[str, str, str]]) -> str:
    cells, columns = table(failed), list(OPERATIONS)
    names = list(dict.fromkeys(name for name, _ in cells))
    ways, contexts = [name for name in names if name in WAYS], [name for name in names if name not in WAYS]

    def rows(title: str, names: list[str]) -> str:
        lines = [[title, *(f"`{column}`" for column in columns)], ["---", *[":-:"] * len(columns)]]
        lines += [[described(name), *(cells[name, column] for column in columns)] for name in names]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    return HEAD + rows("way", ways) + "\n" + rows("context", contexts)


def described(name: str) -> str:
    ways = CONTEXTS[name].ways if name in CONTEXTS else ()
    return f"{name} (by {'; '.join(ways)})" if ways else name


def main() -> int:
    outcomes = Outcomes()
    tests = Path(__file__).with_name("test_contexts.py")
    status = pytest.main(["-q", "-m", "", "-k", "not documented", str(tests)], plugins=[outcomes])
    if status != 0 and not outcomes.failed:
        return status
    PAGE.write_text(page(outcomes.failed))
    print(f"wrote {PAGE}, {len(outcomes.failed)} cells failed")
    return 1 if outcomes.failed else 0


if __name__ == "__main__":
    sys.exit(main())
