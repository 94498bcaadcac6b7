"""Filters of docs/tokens.md, as its code has them: what they keep, on hard rows, and against transformers' warpers."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from test_readme import SNIPPETS

import gumbel_ext

INF, NAN = float("inf"), float("nan")
Filter = Callable[[torch.Tensor, Any], torch.Tensor]
PAGE: dict[str, Any] = {}
exec(SNIPPETS["tokens.md"][0], PAGE)
FILTERS: dict[str, Filter] = {name: PAGE[name] for name in ("top_k", "top_p", "min_p")}


def rows(classes: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Rows that ask something of a filter; three of each kind."""
    generator = torch.Generator().manual_seed(classes)
    normal = torch.randn(3, classes, generator=generator)
    level = torch.randint(-2, 3, (3, classes), generator=generator).float()
    few = torch.full((3, classes), -INF)
    few[:, : classes // 3 + 1] = normal[:, : classes // 3 + 1]
    found = {
        "normal": normal,
        "flat": normal * 1e-3,
        "peaked": normal * 30,
        "ties": level,
        "all equal": torch.zeros(3, classes),
        "far apart": normal * 1e30,
        "few possible": few,
        "large": normal + 3e4,
    }
    return {name: x.to(dtype) for name, x in found.items()}


SIZES = [1, 2, 7, 64, 1000]
CASES = [(name, at) for name, ats in {
    "top_k": (1, 2, 5, 63, 64, 10**6),
    "top_p": (0.0, 1e-9, 0.1, 0.5, 0.9, 0.95, 0.999999, 1.0),
    "min_p": (0.0, 1e-30, 0.05, 0.5, 1.0),
}.items() for at in ats]  # fmt: skip


def by_definition(name: str, row: list[float], at: Any, slack: float) -> list[bool | None]:
    """The classes that are kept, in exact numbers of float64's exponentials; none where `slack` decides."""
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))
    if name == "top_k":
        return [x >= row[order[min(at, len(row)) - 1]] for x in row]
    best = row[order[0]]
    if name == "min_p":
        bound = best + (math.log(at) if at > 0 else -INF)
        return [None if 0 < abs(x - bound) <= slack * max(1, abs(best)) else x >= bound for x in row]
    weights = [Fraction(math.exp(x - best)) for x in row]
    total, before = sum(weights), Fraction(0)
    kept: list[bool | None] = [False] * len(row)
    for place, i in enumerate(order):
        distance = before / total - Fraction(at)
        kept[i] = place == 0 or (None if place and abs(distance) <= slack else distance < 0)
        before += weights[i]
    return kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("classes", SIZES[:-1])
@pytest.mark.parametrize(("name", "at"), CASES, ids=str)
def test_what_is_kept(name: str, at: Any, classes: int, dtype: torch.dtype) -> None:
    """The definition of the page's table, in fractions; of ties in top-p the lower classes."""
    for kind, x in rows(classes, dtype).items():
        for row, kept in zip(x.tolist(), FILTERS[name](x, at).tolist(), strict=True):
            expected = by_definition(name, row, at, 1e-13)
            assert all(e is None or k == e for k, e in zip(kept, expected, strict=True)), kind
            assert any(kept), kind


def test_exact_ends() -> None:
    """Of probabilities that are exact: the class that reaches p is kept, the next one is not."""
    x = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log2() * math.log(2)
    halves = torch.zeros(1, 4)
    assert FILTERS["top_p"](halves, 0.5).tolist() == [[True, True, False, False]]
    assert FILTERS["top_p"](halves, 0.5 + 1e-9).tolist() == [[True, True, True, False]]
    assert FILTERS["top_p"](halves, 0.0).tolist() == [[True, False, False, False]]
    assert FILTERS["min_p"](halves, 1.0).all() and FILTERS["top_k"](halves, 1).all()
    assert FILTERS["min_p"](x, 0.3).tolist() == [[True, True, False, False]]
    assert FILTERS["top_k"](x, 3).tolist() == [[True, True, True, True]]  # a tie at the third


@pytest.mark.parametrize("row", [[0.0, NAN, 1.0], [0.0, INF, 1.0], [INF, 0.0, INF], [-INF, -INF]], ids=str)
@pytest.mark.parametrize(("name", "at"), CASES, ids=str)
def test_rows_without_a_softmax_keep_their_index(name: str, at: Any, row: list[float]) -> None:
    x = torch.tensor([row])
    found = gumbel_ext.gumbel_max(x, mask=FILTERS[name](x, at), seed=1)
    assert torch.equal(found, gumbel_ext.gumbel_max(x, seed=1))


@pytest.mark.parametrize(("name", "at"), CASES, ids=str)
def test_a_filter_changes_only_what_it_excludes(name: str, at: Any) -> None:
    x = 2 * torch.randn(500, 64)
    mask = FILTERS[name](x, at)
    free, filtered = gumbel_ext.gumbel_max(x, seed=3), gumbel_ext.gumbel_max(x, mask=mask, seed=3)
    allowed = mask.gather(-1, free[:, None])[:, 0]
    assert torch.equal(free[allowed], filtered[allowed])
    assert mask.gather(-1, filtered[:, None]).all()


def warper(name: str, at: Any) -> Any:
    transformers = pytest.importorskip("transformers", reason="needs transformers: `pip install --group models`")
    kind = {"top_k": "TopKLogitsWarper", "top_p": "TopPLogitsWarper", "min_p": "MinPLogitsWarper"}[name]
    return getattr(transformers, kind)(at)


def same_prefix(found: torch.Tensor, expected: torch.Tensor, q: torch.Tensor, at: float, eps: float) -> bool:
    """Whether two sets of the likeliest classes have one size, or the sums between them are `at` but for rounding.

    ``q``: probabilities in float64. Sums are compared as what is left over, which keeps its digits.
    """
    few, many = sorted([int(found.sum()), int(expected.sum())])
    left = q.sort().values.cumsum(-1).flip(-1)  # with and behind each class, from the likeliest on
    between = left[few:many]
    return bool(((between - (1 - at)).abs() <= 16 * eps * (1 - at) + 1e-37).all())


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("classes", [*SIZES, 50257])
@pytest.mark.parametrize(("name", "at"), CASES, ids=str)
def test_transformers_keeps_the_same(name: str, at: Any, classes: int, dtype: torch.dtype) -> None:
    """But for which of equals at the end of top-p, and where the dtype's rounding decides: theirs computes in it."""
    theirs, eps = warper(name, at), torch.finfo(dtype).eps
    for kind, x in rows(classes, dtype).items():
        possible = x > -INF  # of the others theirs does not say
        found, expected = FILTERS[name](x, at) & possible, theirs(None, x) > -INF
        q = x.double().softmax(-1)
        if name == "top_k":
            assert torch.equal(found, expected), kind
        elif name == "min_p":
            best = at * q.amax(-1, keepdim=True)
            assert torch.equal(found, expected) or ((q - best).abs() <= 256 * eps * best)[found != expected].all(), kind
        else:
            for one in range(len(x)):
                kept = [x[one][part[one]].sort(descending=True).values for part in (found, expected)]
                shorter = min(map(len, kept))
                assert torch.equal(kept[0][:shorter], kept[1][:shorter]), kind
                assert same_prefix(found[one], expected[one], q[one], at, eps), kind


@pytest.mark.long
def test_the_filters_in_a_row_are_transformers() -> None:
    """Temperature, top-k, top-p, min-p, each of what the ones before it left."""
    logits = 3 * torch.randn(50, 5000, generator=torch.Generator().manual_seed(0))
    x = expected = logits / 0.8
    for name, at in (("top_k", 300), ("top_p", 0.9), ("min_p", 0.02)):
        x = x.masked_fill(~FILTERS[name](x, at), -INF)
        expected = warper(name, at)(None, expected)
    assert torch.equal(x, expected)
    assert 1 < (x > -INF).sum(-1).float().mean() < 300
