"""gumbel_top_k: classes in the order of their perturbed scores, bit for bit; their law; log-probabilities; scores."""

from __future__ import annotations

import itertools
import math
from typing import Any

import hard_inputs
import numpy as np
import pytest
import reference
import torch
from hard_inputs import Numbers, Problem
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

import gumbel_ext

INF, NAN = math.inf, math.nan
gumbel_top_k = gumbel_ext.gumbel_top_k


def rows_of(found: torch.Tensor) -> np.ndarray[Any, Any]:
    return found.reshape(-1, found.shape[-1]).numpy()


def expected(x: torch.Tensor, k: int, temperature: Any = 1.0, **kwargs: Any) -> torch.Tensor:
    """The indices, with the classes last."""
    order, _ = reference.top_classes(x, temperature, **kwargs)
    shape = x.movedim(kwargs.get("dim", -1), -1).shape[:-1] if x.dim() else ()
    return torch.from_numpy(order[:, :k].copy()).reshape(*shape, k)


COUNTS = st.integers(1, 9) | st.sampled_from([64, 100, 512, 10_000])
LOW = Problem(
    (3, 70), dtype=torch.float32, logits=Numbers(("signs", "normal"), 126), taus=(1e-3, 1e-30), tau_dtype=torch.float64
)
ALL_TIE = Problem((2, 300), logits=Numbers(("equal",), 100), taus=(0.5,))
FEW = Problem((4, 257), logits=Numbers(("normal",), holes=0.95), taus=(0.7, 1.0), tau_dtype=torch.float32)
BEYOND = Problem(
    (2, 40), dtype=torch.bfloat16, logits=Numbers(("normal",), put=((3, INF), (9, INF), (50, NAN))), taus=(1e-40,)
)


@example(problem=LOW, count=70)
@example(problem=ALL_TIE, count=9)
@example(problem=FEW, count=100)
@example(problem=BEYOND, count=5)
@example(problem=BEYOND, count=2)
@given(problem=hard_inputs.problems(finite=False, greedy=True), count=COUNTS)
def test_the_order_of_the_perturbed_scores(problem: Problem, count: int) -> None:
    """Bit for bit a stable sort of logits / temperature + noise, for any input; the first class is gumbel_max's."""
    x, t, mask, seed = problem.x(), problem.tau(), problem.mask(), problem.seeds()
    k = min(count, x.shape[problem.axis] if x.dim() else 1)
    found = gumbel_top_k(x, k, t, dim=problem.dim, mask=mask, seed=seed)
    assert found.indices.dtype == torch.int64
    assert torch.equal(found.indices, expected(x, k, t, dim=problem.axis if x.dim() else -1, seed=seed, mask=mask))
    first = gumbel_ext.gumbel_max(x, t, dim=problem.dim, mask=mask, seed=seed)
    assert torch.equal(found.indices[..., 0], first)


@example(problem=LOW, count=70)
@example(problem=FEW, count=100)
@given(problem=hard_inputs.problems(finite=False, greedy=True), count=COUNTS)
def test_numbers(problem: Problem, count: int) -> None:
    """log_probs and scores in the working precision: within the rounding of x / T + g; descending; NaN of undefined
    rows, -infinity of classes that cannot be drawn."""
    x, t, mask, seed = problem.x(), problem.tau(), problem.mask(), problem.seeds()
    k = min(count, x.shape[problem.axis] if x.dim() else 1)
    dim = problem.axis if x.dim() else -1
    found = gumbel_top_k(x, k, t, dim=problem.dim, mask=mask, seed=seed)
    assert found.log_probs.dtype == found.scores.dtype
    assert found.scores.numpy().dtype == reference.working(x.dtype)
    rows, temperature = reference.to_rows(x, dim, mask), reference.row_values(t, x, dim)
    order, relative = (a[:, :k] for a in reference.top_classes(x, t, dim, seed, mask))
    log_probs, scores = rows_of(found.log_probs), rows_of(found.scores)
    undefined = ~np.isfinite(rows.max(-1))
    assert np.isnan(log_probs[undefined]).all() and np.isnan(scores[undefined]).all()
    greedy = np.broadcast_to(temperature[:, 0] == 0, undefined.shape) & ~undefined
    certain = np.where(np.arange(k) == 0, 0.0, -INF)
    assert (log_probs[greedy] == certain).all() and (scores[greedy] == certain).all()
    drawn = ~undefined & ~greedy
    with np.errstate(all="ignore"):
        assert (np.diff(scores[drawn], axis=-1) <= 0)[np.isfinite(scores[drawn][:, 1:])].all()
        wide, divisor = rows.astype(np.longdouble), np.where(temperature == 0, 1, temperature).astype(np.longdouble)
        quotient = (wide - wide.max(-1, keepdims=True)) / divisor
        is_first = np.arange(rows.shape[1]) == rows.argmax(-1)[:, None]
        exact = quotient - np.log1p(np.where(is_first, 0, np.exp(quotient)).sum(-1, keepdims=True))
        log_sum = exact.max(-1, keepdims=True)
        taken, eps = np.take_along_axis(exact, order, -1), np.finfo(rows.dtype).eps
        close = np.abs(log_probs - taken) <= 4 * eps * np.abs(taken) + np.finfo(rows.dtype).tiny
        beyond = np.abs(taken) > np.finfo(rows.dtype).max / 2
        assert (close | (log_probs == taken) | beyond)[drawn].all()
        close = np.abs(scores - (relative + log_sum)) <= 4 * eps * (np.abs(relative) + np.abs(log_sum))
        assert (close | (scores == relative) | beyond)[drawn].all()


PROBABILITIES = {
    "uniform": torch.zeros(4),
    "mixed": torch.tensor([0.0, 1.5, -1.0, 0.5]),
    "masked": torch.tensor([0.3, -INF, 0.9, -0.4, -INF, 0.0]),
}


def plackett_luce(p: Any, k: int) -> dict[tuple[int, ...], float]:
    """The probability of every sequence of k draws without replacement."""
    law = {}
    for sequence in itertools.permutations(np.flatnonzero(p), k):
        left, probability = 1.0, 1.0
        for cls in sequence:
            probability *= p[cls] / left
            left -= p[cls]
        law[sequence] = probability
    return law


@pytest.mark.parametrize("name", PROBABILITIES)
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("source", ["rows", "seeds"])
def test_the_law_is_plackett_luces(source: str, temperature: float, k: int, name: str) -> None:
    """Draws without replacement, by enumeration of all sequences and a chi-square test."""
    x, n = PROBABILITIES[name], 60_000
    rows = x.expand(n, -1)
    found = gumbel_top_k(rows, k, temperature, seed=5 if source == "rows" else torch.arange(n)).indices.numpy()
    law = plackett_luce(torch.softmax(x.double() / temperature, -1).numpy(), k)
    sequences, counts = np.unique(found, axis=0, return_counts=True)
    seen = {tuple(sequence): count for sequence, count in zip(sequences.tolist(), counts, strict=True)}
    assert seen.keys() <= law.keys()
    assert stats.chisquare([seen.get(s, 0) for s in law], [n * p for p in law.values()]).pvalue > 1e-4


LONG: dict[str, Any] = {
    "normal": lambda n: torch.randn(2, n, generator=torch.Generator().manual_seed(n)) * 2,
    "falling": lambda n: torch.linspace(40, -40, n).expand(2, n),
    "rising": lambda n: torch.linspace(-40, 40, n).expand(2, n),
    "ties": lambda n: torch.zeros(2, n) + 2.0**40,
    "between the sampled": lambda n: torch.where(torch.arange(n) % 1024 == 512, 30.0, 0.0).expand(2, n),
    "only the sampled": lambda n: torch.where(torch.arange(n) % 1536 < 64, 0.0, -INF).expand(2, n),
}


@pytest.mark.parametrize("kind", LONG)
@pytest.mark.parametrize("classes", [16384, 50257])
def test_long_rows(classes: int, kind: str) -> None:
    """Vocabulary-sized rows, whose order a sample of the row says much of, or nothing; any k."""
    x = LONG[kind](classes)
    order = expected(x, classes, 0.9, seed=11)
    for k in (1, 8, 64, 512, classes // 16, classes // 16 + 1, classes - 1, classes):
        assert torch.equal(gumbel_top_k(x, k, 0.9, seed=11).indices, order[:, :k])


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
def test_the_same_bits_on_any_threads(dtype: torch.dtype) -> None:
    """Threads that have rows of their own, and those that share the tiles of one."""
    for shape in ((37, 3001), (1, 70_000)):
        x, results = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype), []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append([gumbel_top_k(x, k, 0.6, seed=1) for k in (3, 200)])
        assert all(torch.equal(a, b) for r in results[1:] for f, g in zip(results[0], r, strict=True)
                   for a, b in zip(f, g, strict=True))  # fmt: skip
        assert torch.equal(results[0][1].indices, expected(x, 200, 0.6, seed=1))


def test_more_than_2_24_classes() -> None:
    """Classes are counted, and told apart, beyond what float32 holds."""
    classes = 2**24 + 4099
    x = torch.full((1, classes), -60.0, dtype=torch.float16)
    best = torch.tensor([2**24 + 4097, 2**24 + 1, 2**24 + 2, 5])
    x[0, best] = torch.tensor([60.0, 40.0, 20.0, 0.0], dtype=torch.float16)
    assert torch.equal(gumbel_top_k(x, 4, 0.5, seed=0).indices[0], best)


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("temperature", [0.0, 0.3, 2.0])
def test_classes_that_cannot_be_drawn_come_last(temperature: float, dtype: torch.dtype) -> None:
    """In the order of classes, with -infinity; the others keep theirs."""
    x = torch.tensor([[1.0, 5.0, -INF, 2.0, -INF, 0.0]], dtype=dtype)
    mask = torch.tensor([True, False, True, True, True, True])
    found = gumbel_top_k(x, 6, temperature, mask=mask, seed=3)
    assert found.indices[0, 3:].tolist() == [1, 2, 4]
    assert sorted(found.indices[0, :3].tolist()) == [0, 3, 5]
    assert (found.log_probs[0, 3:] == -INF).all() and (found.scores[0, 3:] == -INF).all()
    assert found.scores[0, :3].isfinite().all() or temperature == 0
    possible = gumbel_top_k(x, 3, temperature, mask=mask, seed=3)
    assert torch.equal(possible.indices, found.indices[:, :3])
    if temperature > 0:
        torch.testing.assert_close(found.log_probs[0, :3].exp().sum().item(), 1.0)


def test_temperature_zero_is_plain_top_k() -> None:
    """By the logits, ties to the lower class; the first class is certain."""
    x = torch.randint(0, 9, (50, 100), generator=torch.Generator().manual_seed(0)).float()
    found = gumbel_top_k(x, 10, 0)
    assert torch.equal(found.indices, x.sort(dim=-1, descending=True, stable=True).indices[:, :10])
    certain = torch.tensor([0.0] + [-INF] * 9).expand(50, 10)
    assert torch.equal(found.log_probs, certain) and torch.equal(found.scores, certain)
    mixed = gumbel_top_k(x, 10, torch.where(torch.arange(50) % 2 == 0, 0.0, 1.0)[:, None], seed=1)
    assert torch.equal(mixed.indices[::2], found.indices[::2])
    assert not torch.equal(mixed.indices[1::2], found.indices[1::2])


@pytest.mark.parametrize("k", [1, 3, 6, 7])
def test_threshold(k: int) -> None:
    """The k+1-st score, -infinity where there is none; what else is returned is as without."""
    x = torch.tensor([[0.1, 2.0, -1.0, 0.5, 0.0, 1.0, 0.7], [0.0, -INF, -INF, 1.0, -INF, -INF, 0.5]])
    found, all_classes = gumbel_top_k(x, k, seed=2, return_threshold=True), gumbel_top_k(x, 7, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(found, gumbel_top_k(x, k, seed=2), strict=False))
    padded = torch.nn.functional.pad(all_classes.scores, (0, 1), value=-INF)
    assert torch.equal(found.threshold, padded[:, k])


def test_scores_estimate_without_bias() -> None:
    """What scores and threshold are for: sum_i p_i f_i / q_i, q_i = 1 - exp(-exp(log p_i - threshold)), has the mean of
    f (Kool et al. 2019, section 4.1)."""
    x, n, k = torch.tensor([0.5, -1.0, 1.0, 0.0, 2.0], dtype=torch.float64), 40_000, 2
    values = torch.tensor([1.0, -3.0, 2.0, 5.0, 0.3], dtype=torch.float64)
    found = gumbel_top_k(x.expand(n, -1), k, seed=8, return_threshold=True)
    inclusion = -torch.expm1(-torch.exp(found.log_probs - found.threshold[:, None]))
    estimates = (found.log_probs.exp() / inclusion * values[found.indices]).sum(-1)
    error = estimates.std().item() / n**0.5
    assert abs(estimates.mean().item() - (torch.softmax(x, -1) * values).sum().item()) < 4 * error


def test_gradients() -> None:
    """Of log_probs and scores alike, in both modes and to second order; a constant for what cannot be drawn."""
    x = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    t = 0.5 + torch.rand(2, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    mask = torch.ones(2, 5, 3, dtype=torch.bool)
    mask[0, 1], mask[1, 2:] = False, False

    def answers(x: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = gumbel_top_k(x, 2, t, dim=1, mask=mask, seed=4)
        return found.log_probs, found.scores

    arguments = (x.requires_grad_(), t.requires_grad_())
    torch.autograd.gradgradcheck(answers, arguments)
    log_probs, scores = answers(*arguments)
    dy = torch.randn_like(log_probs)
    grads = [torch.autograd.grad(y, arguments, dy, retain_graph=True) for y in (log_probs, scores)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)
    quotients = torch.where(mask, x / t, -INF)
    indices = gumbel_top_k(x, 2, t, dim=1, mask=mask, seed=4).indices
    plain = torch.log_softmax(quotients, 1).movedim(1, -1).gather(-1, indices)
    torch.testing.assert_close(log_probs, plain)
    for a, b in zip(*(torch.autograd.grad(y, arguments, dy) for y in (log_probs, plain)), strict=True):
        torch.testing.assert_close(a, b)
    tangents = (torch.randn_like(x), torch.randn_like(t))
    for i, y in enumerate(torch.func.jvp(answers, (x.detach(), t.detach()), tangents)[1]):
        expected_sum = sum((g * v).sum() for g, v in zip(grads[i], tangents, strict=True))
        torch.testing.assert_close((y * dy).sum(), expected_sum)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("threshold", [False, True])
@pytest.mark.parametrize(
    ("k", "error", "words"),
    [
        (0, ValueError, "k: expected 1 <= k <= 3, the number of classes along dim 1, got 0"),
        (-1, ValueError, "k: expected 1 <= k <= 3, the number of classes along dim 1, got -1"),
        (4, ValueError, "k: expected 1 <= k <= 3, the number of classes along dim 1, got 4"),
        (2.0, TypeError, "k: expected an int, got float"),
        (None, TypeError, "k: expected an int, got NoneType"),
    ],
)
def test_wrong_k(k: Any, error: type[Exception], words: str, threshold: bool, device: str) -> None:
    before = torch.get_rng_state()
    with pytest.raises(error, match=words):
        gumbel_top_k(torch.zeros(2, 3, device=device), k, return_threshold=threshold)
    assert torch.equal(torch.get_rng_state(), before)


def test_shapes_without_data() -> None:
    for shape, dim, result in (((0, 4), -1, (0, 2)), ((2, 4), 0, (4, 2)), ((3, 5, 2), 1, (3, 2, 2))):
        for dtype in reference.DTYPES:
            x = torch.zeros(shape, dtype=dtype)
            found, meta = gumbel_top_k(x, 2, dim=dim), gumbel_top_k(x.to("meta"), 2, dim=dim)
            for a, b in zip(found, meta, strict=True):
                assert (a.shape, a.dtype) == (b.shape, b.dtype) and a.shape == result
