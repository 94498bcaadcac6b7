"""tools/sass_table.py without nvcc: a recorded disassembly (results/doubled.sass), counted by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from commands import ROOT

sys.path.insert(0, str(ROOT / "tools"))
from sass import Kernel, Work, functions
from sass_table import Measured, Row, times

RECORDED = (Path(__file__).parent / "results" / "doubled.sass").read_text()
WIDE_LOAD, WIDE_STORE = Work(r"LDG\.E.*\.128", 1), Work(r"STG\.E.*\.128", 1)
# Before the loop 7 and, past the test for no work, 10; a turn 20, a detour of 32 where a pack is negative, 5; an EXIT.
BEFORE, TURN, DETOUR, AFTER = 17, 25, 32, 1


@pytest.fixture
def kernel() -> Kernel:
    (code,) = functions(RECORDED).values()
    return Kernel(code)


@pytest.mark.parametrize(
    ("work", "once", "turn"),
    [
        ([WIDE_LOAD, WIDE_STORE], BEFORE + TURN + AFTER, TURN),
        ([WIDE_STORE], BEFORE + TURN + AFTER, TURN),
        ([WIDE_STORE, Work("FSEL", 1)], BEFORE + TURN + DETOUR + AFTER, TURN + DETOUR),
        ([WIDE_STORE, Work("FFMA", 1, unit=10)], BEFORE + TURN + DETOUR + AFTER, TURN + DETOUR),
        ([], 8, None),  # no work: the first EXIT
    ],
)
def test_counts_are_those_by_hand(kernel: Kernel, work: list[Work], once: int, turn: int | None) -> None:
    assert kernel.through(work)["all"] == once
    if turn is not None:
        assert kernel.turn(work)["all"] == turn


def test_pipes(kernel: Kernel) -> None:
    """Of a turn, predicated instructions among them: they are issued."""
    expected = {"all": 25, "alu": 7, "imad": 3, "lsu": 7, "fma": 4, "issue": 4}
    assert dict(kernel.turn([WIDE_STORE])) == expected
    assert kernel.turn([WIDE_STORE, Work("I2FP", 1)])["fma"] == 4 + 21


@pytest.mark.parametrize("work", [[Work("MUFU", 1)], [Work(r"LDG\.E.*\.128", 2)], [Work("FFMA", 2, unit=10)]])
def test_work_that_is_not_there(kernel: Kernel, work: list[Work]) -> None:
    with pytest.raises(ValueError, match="work"):
        kernel.through(work)
    with pytest.raises(ValueError, match="work"):
        kernel.turn(work)


@pytest.mark.parametrize(
    ("count", "bound", "share", "above"),
    [
        ({"all": 20, "alu": 5, "fma": 10}, "memory", 1.0, False),
        ({"all": 100, "alu": 40, "fma": 50}, "issue", 8 / 3e12 * 132 * 1.75e9 * 128 / 100, True),
        ({"all": 60, "alu": 40}, "alu", 8 / 3e12 * 132 * 1.75e9 * 64 / 40, True),
        ({"all": 50, "imad": 48}, "fma", 8 / 3e12 * 132 * 1.75e9 * 64 / 48, False),
        ({"all": 50, "sfu": 16}, "sfu", 8 / 3e12 * 132 * 1.75e9, False),
    ],
)
def test_bounds(count: dict[str, float], bound: str, share: float, above: bool) -> None:
    """The longest time is the bound, and a count above the ceiling is told."""
    row = Row("relaxed", "float32", 1024, "", "", bytes=8, logits=4, work=(), ceiling=50)
    measured = Measured(row, count, times(row, count))
    assert (measured.bound, measured.is_above, "above" in measured.line()) == (bound, above, above)
    assert measured.share == pytest.approx(share)
