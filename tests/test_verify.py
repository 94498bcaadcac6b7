"""verify: which tokens are those of their seed, and by how much the others are not."""

from __future__ import annotations

import re
from typing import Any

import hard_inputs
import numpy as np
import pytest
import reference
import torch
from hard_inputs import Problem
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import gumbel_ext
from gumbel_ext import Verified, verify

INF = float("inf")


def drawn(problem: Problem, num_samples: int | None) -> torch.Tensor:
    return gumbel_ext.gumbel_max(
        problem.x(), problem.tau(), dim=problem.dim, num_samples=num_samples, mask=problem.mask(), seed=problem.seeds()
    )


def audit(problem: Problem, tokens: torch.Tensor) -> Verified:
    found = verify(problem.x(), tokens, problem.seeds(), problem.tau(), dim=problem.dim, mask=problem.mask())
    assert found.matches.dtype == torch.bool and found.expected.dtype == torch.int64
    assert found.margin.dtype == (torch.float64 if problem.dtype == torch.float64 else torch.float32)
    assert found.matches.shape == found.margin.shape == found.expected.shape == tokens.shape
    return found


SAMPLES = st.sampled_from([None, None, 1, 3])


@given(problem=hard_inputs.problems(finite=False, greedy=True), num_samples=SAMPLES)
def test_honest_tokens_pass(problem: Problem, num_samples: int | None) -> None:
    """Whatever the dtype, layout, temperature, mask and seeds, also in rows that have no softmax."""
    tokens = drawn(problem, num_samples)
    found = audit(problem, tokens)
    assert torch.equal(found.expected, tokens) and found.matches.all() and found.margin.eq(0).all()


@given(problem=hard_inputs.problems(finite=False, greedy=True), num_samples=SAMPLES)
def test_other_tokens_fall_short_by_the_margin(problem: Problem, num_samples: int | None) -> None:
    """That of the exact scores with the reference's noise."""
    x, expected = problem.x(), drawn(problem, num_samples)
    scores = reference.to_rows(x, problem.dim, problem.mask())
    tokens = torch.randint(scores.shape[1], expected.shape)
    found = audit(problem, tokens)
    assert torch.equal(found.expected, expected) and torch.equal(found.matches, tokens == expected)

    t = np.broadcast_to(reference.row_values(problem.tau(), x, problem.dim), (len(scores), 1)).astype(np.longdouble)
    columns = [part.reshape(len(scores), -1).numpy() for part in (expected, tokens)]
    logits = [np.take_along_axis(scores, part, 1).astype(np.longdouble) for part in columns]
    noises = np.stack(
        [reference.noise(problem.seeds(), *scores.shape, scores.dtype, draw) for draw in range(columns[0].shape[1])], -1
    ).astype(np.longdouble)  # rows, classes, draws
    best, other = (np.take_along_axis(noises, part[:, None], 1)[:, 0] for part in columns)
    with np.errstate(all="ignore"):
        distance = (logits[0] - logits[1]) / np.where(t == 0, 1, t)
        noise = np.where(t == 0, 0, best - other)
        exact = np.maximum(distance + noise, 0)
        error = np.where(np.isinf(exact), 0, 2.0**-50 * (np.abs(distance) + np.abs(noise)) + 1e-323)
    defined, matches = np.isfinite(logits[0]), found.matches.reshape(len(scores), -1).numpy()
    margin = found.margin.reshape(len(scores), -1)
    assert margin[torch.from_numpy(matches)].eq(0).all()
    assert margin[torch.from_numpy(~defined & ~matches)].isnan().all()
    checked = defined & ~matches
    assert reference.within(margin[torch.from_numpy(checked)], exact[checked], error[checked])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("seed", [0, -1, 1343428, 627779616, 293046734, "rows"], ids=str)
def test_noise_of_a_class_is_the_rows_own(seed: Any, dtype: torch.dtype) -> None:
    """Bit for bit, of any class and draw; three of the seeds have noise past 22 among the first classes."""
    rows, draws, many = 3, 5, 2**20
    seeds = torch.tensor([1343428, -(2**63), 5]) if seed == "rows" else seed
    classes = torch.cat([torch.arange(8).repeat(rows, 1)[:, :draws], torch.randint(many, (rows, draws))], 1)
    number, row_seeds = (None, seeds) if seed == "rows" else (seeds, None)
    found = torch.ops.gumbel_ext._noise_at(classes, dtype, number, row_seeds)
    for draw in range(2 * draws):
        whole = reference.noise(seeds, rows, classes[:, draw].numpy(), reference.working(dtype), draw)
        assert torch.equal(found[:, draw], torch.from_numpy(np.diagonal(whole).copy()))


def text(length: int = 300, classes: int = 1000) -> tuple[torch.Tensor, torch.Tensor]:
    return 2 * torch.randn(length, classes), torch.arange(length) + 7


def claim(change: str, logits: torch.Tensor, seeds: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """Tokens that do not come from (logits, seeds, 0.8), and the least share of them that has to be found."""
    honest = gumbel_ext.gumbel_max(logits, 0.8, seed=seeds)
    if change == "one token":
        honest[123] = (honest[123] + 1) % logits.shape[1]
        return honest, 1 / len(honest)
    if change == "another seed":
        return gumbel_ext.gumbel_max(logits, 0.8, seed=seeds + 1), 0.9
    if change == "rows shifted":
        return honest.roll(1), 0.9
    if change == "another temperature":
        return gumbel_ext.gumbel_max(logits, 1.0, seed=seeds), 0.1
    if change == "a filter":
        best = logits >= logits.topk(20).values[:, -1:]
        return gumbel_ext.gumbel_max(logits, 0.8, mask=best, seed=seeds), 0.1
    return logits.argmax(-1), 0.5  # greedy


@pytest.mark.parametrize(
    "change", ["one token", "another seed", "rows shifted", "another temperature", "a filter", "greedy"]
)
def test_what_is_not_the_claim_is_found(change: str) -> None:
    """Where tokens differ from the honest ones, and only there; and they fall short by more than rounding does."""
    logits, seeds = text()
    tokens, least = claim(change, logits, seeds)
    found = verify(logits, tokens, seeds, 0.8)
    honest = gumbel_ext.gumbel_max(logits, 0.8, seed=seeds)
    assert torch.equal(found.matches, tokens == honest)
    assert (~found.matches).float().mean() >= least - 1e-6
    assert torch.equal(found.margin > 1e-4, ~found.matches)


@pytest.mark.parametrize("temperature", [0.0, 0.1, 0.8, 5.0])
@pytest.mark.parametrize("delta", [1e-6, 1e-3, 0.1])
def test_an_honest_margin_is_at_most_twice_the_error_of_the_logits(temperature: float, delta: float) -> None:
    """As docs/tokens.md has it; and rounding does turn tokens over, or the bound would say nothing."""
    logits, seeds = text(2000, 300)
    served = gumbel_ext.gumbel_max(logits, temperature, seed=seeds)
    auditors = logits + delta * (2 * torch.rand_like(logits) - 1)
    found = verify(auditors, served, seeds, temperature)
    bound = 2 * delta / (temperature or 1)
    assert found.margin.max() <= bound * (1 + 1e-5) + 1e-5 / (temperature or 1)
    if delta == 0.1:
        assert not found.matches.all() and found.margin.max() > 0.1 * bound


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
def test_excluded_tokens_fall_short_by_infinity(dtype: torch.dtype) -> None:
    logits = torch.tensor([[0.0, 1.0, -INF, 2.0]] * 3, dtype=dtype)
    mask = torch.tensor([True, True, True, False])
    found = verify(logits, torch.tensor([2, 3, 1]), 0, 0.01, mask=mask)
    assert found.margin.tolist() == [INF, INF, 0.0] and found.expected.tolist() == [1, 1, 1]


def test_a_tie_that_goes_to_the_lower_class() -> None:
    found = verify(torch.full((1, 3), 1e12), torch.tensor([2]), 5)
    assert found.expected.item() == 0 and not found.matches and 0 <= found.margin < 40


def test_logits_whose_difference_leaves_the_range() -> None:
    x = torch.tensor([[1e308, -1e308]], dtype=torch.float64)
    assert verify(x, torch.tensor([1]), 0, 10.0).margin.item() == pytest.approx(2e307)
    assert verify(x, torch.tensor([1]), 0, 0.1).margin.item() == INF


LOGITS, TOKENS = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
REFUSED: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    ((LOGITS, TOKENS, None), {}, TypeError, "seed: expected an int or an int64 tensor, got None"),
    ((LOGITS, TOKENS.int(), 0), {}, TypeError, "tokens: expected an int64 tensor, got a torch.int32 tensor"),
    ((LOGITS, [0, 0], 0), {}, TypeError, "tokens: expected an int64 tensor, got list"),
    ((LOGITS, TOKENS[:1], 0), {}, ValueError, "tokens: expected shape [2], got [1]"),
    ((LOGITS, TOKENS, 0), {"dim": 0}, ValueError, "tokens: expected shape [3], got [2]"),
    ((LOGITS, TOKENS[None, None], 0), {}, ValueError, "tokens: expected shape [2], got [1, 1, 2]"),
    ((LOGITS, TOKENS[None], 0), {}, ValueError, "tokens: expected shape [2, 2], got [1, 2]"),
    ((LOGITS, TOKENS + 3, 0), {}, ValueError, "tokens: expected classes in [0, 3), got 3"),
    ((LOGITS, TOKENS - 1, 0), {}, ValueError, "tokens: expected classes in [0, 3), got -1"),
    ((LOGITS, TOKENS.to("meta"), 0), {}, ValueError, "tokens: expected a tensor on cpu, got one on meta"),
    ((LOGITS, TOKENS, TOKENS[:1]), {}, ValueError, "seed: expected one a row, shape [2], got [1]"),
    ((LOGITS, TOKENS, 0, -1.0), {}, ValueError, "temperature: "),
    ((LOGITS, TOKENS, 0), {"dim": 2}, IndexError, "range"),
    ((LOGITS.int(), TOKENS, 0), {}, TypeError, "logits: "),
    ((torch.nested.nested_tensor([LOGITS], layout=torch.jagged), TOKENS, 0), {}, TypeError, "logits: "),
]  # fmt: skip


@pytest.mark.parametrize(("args", "kwargs", "error", "message"), REFUSED, ids=lambda v: v if isinstance(v, str) else "")
def test_bad_arguments(args: tuple[Any, ...], kwargs: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        verify(*args, **kwargs)


def test_empty_batches() -> None:
    for shape, tokens in (((0, 3), (0,)), ((2, 3), (2, 0))):
        found = verify(torch.zeros(shape), torch.zeros(tokens, dtype=torch.int64), 0)
        assert all(part.shape == tokens for part in found)


class Largest(TorchDispatchMode):
    """The most bytes of a result that is not a view of what was there."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        held = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = function(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in held:
                self.bytes = max(self.bytes, t.untyped_storage().nbytes())
        return result


def test_no_tensor_of_the_logits_size_is_made() -> None:
    """Beyond a few numbers a token, with a mask, a temperature a row and strided classes too."""
    logits = torch.randn(4000, 64).T.requires_grad_()
    tokens, mask = torch.randint(4000, (64,)), torch.ones(4000, dtype=torch.bool)
    with Largest() as largest:
        found = verify(logits, tokens, torch.arange(64), torch.rand(64, 1), mask=mask)
    assert largest.bytes <= 64 * 8 and not found.margin.requires_grad


def test_compiled_and_subclassed() -> None:
    class Subclass(torch.Tensor):
        pass

    logits, seeds = text(20)
    tokens = gumbel_ext.gumbel_max(logits, 0.8, seed=seeds + (seeds % 2))
    expected = verify(logits, tokens, seeds, 0.8)
    assert 0 < expected.matches.sum() < 20
    for found in (
        torch.compile(verify, backend="aot_eager")(logits, tokens, seeds, 0.8),
        verify(logits.as_subclass(Subclass), tokens, seeds, 0.8),
    ):
        for part, right in zip(found, expected, strict=True):
            assert torch.equal(part.as_subclass(torch.Tensor), right)
