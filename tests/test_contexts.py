"""In every context of use an operation gives what it gives without, and changes nothing that a user holds."""

from __future__ import annotations

import functools
import itertools
import os
import sys
from pathlib import Path

import pytest
import torch
from commands import attempt
from contexts import CONTEXTS
from contexts_table import PAGE, page, reason
from held import Held, Results
from ways import OPERATIONS, ROWS, WAYS

import gumbel_ext

SMALL, LARGE = 6, (1 << 18) // ROWS + 8  # the memory of large results has an allocator of its own
MAY_CRASH = "GUMBEL_EXT_TEST_WHAT_MAY_CRASH"


def inputs(operation: str, way: str, classes: int) -> Results:
    """The same logits at every call, and with them temperatures where the way takes them."""
    generator = torch.Generator().manual_seed(classes)
    leaf = OPERATIONS[operation].differentiable
    x = torch.randn(ROWS, classes, generator=generator).requires_grad_(leaf)
    tau = torch.linspace(0.5, 2, ROWS)[:, None].requires_grad_(leaf)
    return (x, tau) if WAYS[way].tau_rows else (x,)


def check(operation: str, way: str, context: str, classes: int, seed: int | None, keeping: bool) -> None:
    """One cell, in one variant."""
    call, reference = (w.bind(OPERATIONS[operation], seed) for w in (WAYS[way], WAYS[way].reference))
    upstream = torch.linspace(-1, 1, ROWS * classes).view(ROWS, classes)
    torch.manual_seed(3)
    expected = CONTEXTS[context].plain(reference, inputs(operation, way, classes), upstream, Held(False))
    held, given = Held(keeping), inputs(operation, way, classes)
    for thing in (*given, upstream):
        held(thing)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = CONTEXTS[context].run(call, given, upstream, held)
    assert len(found) == len(expected) >= 1 and not any(t.isnan().any() for t in found)
    close = {"rtol": 1e-4, "atol": 1e-6} if CONTEXTS[context].close else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(found, expected, **close)
    held.check()
    if seed is not None or not OPERATIONS[operation].noisy:
        assert torch.equal(torch.get_rng_state(), before), "the generator was taken from"


def cells() -> list[pytest.param]:
    found = []
    for cell in itertools.product(CONTEXTS, WAYS, OPERATIONS):
        context, way, operation = cell
        if CONTEXTS[context].may_crash == bool(os.environ.get(MAY_CRASH)) and not reason(context, way, operation):
            marks = pytest.mark.long if CONTEXTS[context].long else ()
            found.append(pytest.param(operation, way, context, id="-".join(cell), marks=marks))
    return found


@pytest.mark.filterwarnings("ignore:.*(non-writable|Anomaly Detection|batching rule|check_forward_ad)")
@pytest.mark.parametrize(("operation", "way", "context"), cells())
def test_the_same_as_without(operation: str, way: str, context: str) -> None:
    """Values, gradients, all that is held and the generator; held or not, seeded or not, small and large."""
    row = CONTEXTS[context]
    unseeded = OPERATIONS[operation].noisy and not row.needs_seed and not WAYS[way].row_seeds
    check(operation, way, context, SMALL, 13, keeping=False)
    check(operation, way, context, SMALL, None if unseeded else 13, keeping=True)
    if way == "function" and row.large:
        for keeping in (False, True):
            check(operation, way, context, LARGE, 13, keeping)


@pytest.mark.parametrize("operation", [name for name, row in OPERATIONS.items() if row.differentiable])
def test_what_is_unpacked_may_overlap(operation: str) -> None:
    """Equal rows, saved as one of them."""
    row = OPERATIONS[operation]
    seeds = {"seed": torch.zeros(ROWS, dtype=torch.int64)} if row.noisy else {}
    function = functools.partial(getattr(gumbel_ext, row.function), **row.arguments, **seeds)
    x, upstream = torch.arange(6.0).expand(ROWS, -1).clone().requires_grad_(), torch.randn(ROWS, 6)
    hooks = torch.autograd.graph.saved_tensors_hooks(
        lambda t: t[:1].detach() if t.dim() else t, lambda t: t.expand(ROWS, *t.shape[1:]) if t.dim() else t
    )
    if row.answer:
        function = functools.partial(lambda function, x, *args: row.answer(x, function(x, *args)), function)
    with hooks:
        y = function(x, *row.leading) * 1
    torch.testing.assert_close(*(torch.autograd.grad(y, x, upstream)[0] for y in (y, function(x, *row.leading))))


def test_memory_that_may_only_be_read() -> None:
    """A write to it ends the process, hence another one."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", "same_as"]
    done = attempt(*command, cwd=Path(__file__).parent, **{MAY_CRASH: "1"})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_every_cell_is_tested_or_says_why_not() -> None:
    """No operation, way or context is without a tested cell."""
    tested = {name for cell in cells() for name in cell.values}
    apart = {context for context, row in CONTEXTS.items() if row.may_crash} | {"C++"}
    assert tested | apart == {*OPERATIONS, *WAYS, *CONTEXTS}


def test_the_documented_table_is_of_these_cells() -> None:
    """All of which pass where this does not stand alone."""
    assert PAGE.read_text() == page(failed=set()), "python tests/contexts_table.py writes it anew"
