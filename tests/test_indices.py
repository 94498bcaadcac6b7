"""Indices: bit for bit the argmax of logits / temperature + noise, distributed as the softmax."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from scipy import stats

import gumbel_ext

INF, NAN = float("inf"), float("nan")
SHAPES = [((64, 10), -1), ((3, 5, 7), 1), ((9, 65), 0), ((2, 3, 4, 5), -2), ((1,), 0), ((50, 1), 1), ((), 0),
          ((4, 2048), -1), ((3, 2049), -1), ((33, 100), 1), ((2, 5000), -1), ((5000, 3), 0),
          ((0, 3), -1)]  # fmt: skip
WIDE = 3.0  # nats: most classes have a chance


def logits(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, scale: float = WIDE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape) + sum(shape))
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "dim"), SHAPES, ids=str)
def test_index_bit_for_bit(shape: tuple[int, ...], dim: int, dtype: torch.dtype) -> None:
    """The index is the reference's for every shape, dim and dtype, with int and per-row seeds."""
    x = logits(shape, dtype)
    seeds = torch.randint(-(2**63), 2**63 - 1, reference.gumbel_max(x, 1.0, dim).shape)
    for seed in (17, seeds):
        found = gumbel_ext.gumbel_max(x, dim=dim, seed=seed)
        assert found.dtype == torch.int64
        assert torch.equal(found, reference.gumbel_max(x, 1.0, dim, seed))


@pytest.mark.parametrize("classes", [1, 63, 64, 65, 2048, 50257, 151936])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 5.0])
def test_long_rows(classes: int, temperature: float) -> None:
    """Vocabulary-sized rows."""
    x = logits((2, classes))
    found = gumbel_ext.gumbel_max(x, temperature, seed=-3)
    assert torch.equal(found, reference.gumbel_max(x, temperature, -1, -3))


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("temperature", [0.0, 1e-3, 0.1, 1.0, 1 / 3, 2.0, 1e4, 1e30])
@pytest.mark.parametrize("classes", [5, 200])
def test_temperature_divides_before_the_noise(classes: int, temperature: float, dtype: torch.dtype) -> None:
    """argmax(x / temperature + g); 0 is greedy."""
    x = logits((40, classes), dtype)
    expected = reference.gumbel_max(x, temperature, -1, 8)
    assert torch.equal(gumbel_ext.gumbel_max(x, temperature, seed=8), expected)


@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 8, 1), (8, 1), (6, 8, 1), (1,), ()], ids=str)
@pytest.mark.parametrize("temperature_dtype", reference.DTYPES, ids=str)
def test_temperature_of_each_row(shape: tuple[int, ...], temperature_dtype: torch.dtype) -> None:
    """A tensor of temperatures broadcasts, and 0 in a row makes that row greedy."""
    x = logits((6, 8, 70))
    t = torch.tensor([0.0, 0.5, 1.0, 2.0])[torch.randint(0, 4, shape)].to(temperature_dtype)
    assert torch.equal(gumbel_ext.gumbel_max(x, t, seed=4), reference.gumbel_max(x, t, -1, 4))


@pytest.mark.parametrize("temperature", [1e-20, 1e-37, 1e-46, 1e-300], ids=str)
@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_tiny_temperatures_choose_the_largest(as_tensor: bool, dtype: torch.dtype, temperature: float) -> None:
    """Any positive number is a temperature, also one that float32 cannot hold."""
    x = torch.tensor([[0.0, 1.0, 0.5]] * 50, dtype=dtype)
    t = torch.tensor(temperature, dtype=torch.float64) if as_tensor else temperature
    assert torch.equal(gumbel_ext.gumbel_max(x, t, seed=0), x.argmax(-1))


@pytest.mark.parametrize("row", [[1.0, 1e30, 2e30], [-2e30, -1e30, -3e30]], ids=str)
@pytest.mark.parametrize(("dtype", "temperature"), [(torch.float32, 1e-20), (torch.float64, 1e-290)], ids=str)
def test_quotients_that_overflow_still_choose_the_largest(
    row: list[float], dtype: torch.dtype, temperature: float
) -> None:
    """No finite logits and temperature make an infinity, and with it a tie."""
    x = torch.tensor([row] * 50, dtype=dtype)
    assert torch.equal(gumbel_ext.gumbel_max(x, temperature, seed=0), x.argmax(-1))


@pytest.mark.parametrize("temperature", [1e38, 1e39, 1e60, 1e300])
@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
def test_huge_temperatures_sample_uniformly_among_allowed_classes(dtype: torch.dtype, temperature: float) -> None:
    """A large finite temperature never lets a class at -inf win."""
    x = torch.tensor([[-INF, 0.0, 1.0, -INF, 5.0]], dtype=dtype).repeat(200, 1)
    counts = torch.bincount(gumbel_ext.gumbel_max(x, temperature, seed=0), minlength=5)
    assert counts[0] == counts[3] == 0 and counts[[1, 2, 4]].min() > 40


@pytest.mark.parametrize("num_samples", [0, 1, 3, 64, 65, 130])
@pytest.mark.parametrize(
    ("shape", "dim"), [((5, 9), -1), ((7, 3), 0), ((2, 100), 1), ((1, 2500), 1), ((4,), 0)], ids=str
)
def test_num_samples_are_draws(shape: tuple[int, ...], dim: int, num_samples: int) -> None:
    """Sample number s takes the noise of draw s; draw 0 is the index without num_samples."""
    x = logits(shape)
    found = gumbel_ext.gumbel_max(x, 0.5, dim=dim, num_samples=num_samples, seed=77)
    expected = [reference.gumbel_max(x, 0.5, dim, 77, draw) for draw in range(num_samples)]
    assert torch.equal(found, torch.stack(expected, -1) if expected else found.new_empty((*found.shape[:-1], 0)))
    if num_samples:
        assert torch.equal(found[..., 0], gumbel_ext.gumbel_max(x, 0.5, dim=dim, seed=77))


@pytest.mark.parametrize("mask_shape", [(6, 40), (1, 40), (40,), (6, 1), (), (1, 1)], ids=str)
@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
def test_mask(mask_shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """False behaves as logit -inf, for any shape that broadcasts, whatever stands there."""
    x = logits((6, 40), dtype)
    mask = torch.rand(mask_shape) < 0.5
    poisoned = x.masked_fill(~mask, NAN)
    expected = reference.gumbel_max(x, 1.0, -1, 5, mask=mask)
    assert torch.equal(gumbel_ext.gumbel_max(x, mask=mask, seed=5), expected)
    assert torch.equal(gumbel_ext.gumbel_max(poisoned, mask=mask, seed=5), expected)
    hard = gumbel_ext.gumbel_softmax(poisoned, hard=True, mask=mask, seed=5)
    defined = mask.expand(6, 40).any(-1)
    assert torch.equal(hard.argmax(-1)[defined], expected[defined])


PROBABILITIES = {
    "uniform": torch.zeros(12),
    "mixed": torch.linspace(-4, 2, 20),
    "two": torch.tensor([0.0, 1.5]),
    "long": torch.randn(300, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("name", PROBABILITIES)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("source", ["draws", "rows", "hard", "seeds"])
def test_samples_follow_the_softmax(name: str, temperature: float, source: str) -> None:
    """Draws, rows and seeds alike are samples of softmax(x / temperature), by a chi-square test."""
    x, n = PROBABILITIES[name], 40_000
    rows = x.expand(n, -1)
    if source == "draws":
        index = gumbel_ext.gumbel_max(x, temperature, num_samples=n, seed=1)
    elif source == "rows":
        index = gumbel_ext.gumbel_max(rows, temperature, seed=2)
    elif source == "seeds":
        index = gumbel_ext.gumbel_max(rows, temperature, seed=torch.arange(n))
    else:
        index = gumbel_ext.gumbel_softmax(rows / temperature, 0.3, hard=True, seed=3).argmax(-1)
    counts = torch.bincount(index, minlength=len(x)).numpy()
    expected = torch.softmax(x.double() / temperature, -1).numpy() * n
    rare = expected < 5
    if rare.any():
        counts, expected = (np.append(a[~rare], a[rare].sum()) for a in (counts, expected))
    assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-4


def test_draws_are_independent() -> None:
    """Neighbouring draws, and neighbouring rows of one draw, fill the joint table evenly."""
    index = gumbel_ext.gumbel_max(torch.zeros(200, 8), num_samples=200, seed=6)
    for a, b in [(index[:, 1:], index[:, :-1]), (index[1:], index[:-1]), (index[4:], index[:-4])]:
        joint = torch.bincount((a * 8 + b).flatten(), minlength=64).numpy()
        assert stats.chisquare(joint).pvalue > 1e-4


@pytest.mark.parametrize(("seed", "cls"), [(1343428, 3), (627779616, 2), (293046734, 1)])
@pytest.mark.parametrize("classes", [4, 64, 100, 3000])
def test_a_class_far_behind_can_win(classes: int, seed: int, cls: int) -> None:
    """Noise past 22 lets a class win that is 12 nats behind every other, in every search path."""
    x = torch.full((1, classes), 12.0)
    x[0, cls] = 0
    assert reference.gumbel_max(x, 1.0, -1, seed).item() == cls
    assert gumbel_ext.gumbel_max(x, seed=seed).item() == cls
    assert gumbel_ext.gumbel_softmax(x, hard=True, seed=torch.tensor([seed])).argmax().item() == cls


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(500, 7), (100, 65), (20, 2049), (3, 20000)], ids=str)
@pytest.mark.parametrize("tau", [0.01, 1.0, 100.0])
def test_hard_sample_has_the_index_of_gumbel_max(shape: tuple[int, int], dtype: torch.dtype, tau: float) -> None:
    """With or without a gradient wanted, at any tau; and the relaxed sample's argmax is there too."""
    x = logits(shape, dtype)
    expected = gumbel_ext.gumbel_max(x, seed=12)
    one_hot = torch.nn.functional.one_hot(expected, shape[1]).to(dtype)
    assert torch.equal(gumbel_ext.gumbel_softmax(x, tau, hard=True, seed=12), one_hot)
    assert torch.equal(gumbel_ext.gumbel_softmax(x.requires_grad_(), tau, True, seed=12), one_hot)
    relaxed = gumbel_ext.gumbel_softmax(x, tau, seed=12)
    assert torch.equal(relaxed.gather(-1, expected[:, None]), relaxed.max(-1, keepdim=True).values)


SPECIAL = [
    [NAN, 1.0, 2.0], [0.0, INF, NAN, NAN], [NAN, INF], [INF, 0.0, INF], [-INF, -INF], [-INF, 0.0, -INF],
    [-INF], [NAN], [INF], [0.0, -0.0, 0.0], [-0.0, 0.0], [5.0, 5.0, 5.0],
    [-INF, NAN, -INF], [1.0, 7.0, 7.0, 7.0],
]  # fmt: skip


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("row", SPECIAL, ids=str)
@pytest.mark.parametrize("padding", [0, 70, 2100, 9000])
def test_nan_infinity_and_ties_as_argmax(row: list[float], padding: int, dtype: torch.dtype) -> None:
    """Greedy is torch.argmax, ties to the lowest; with noise, NaN and infinities decide as there."""
    front = torch.cat([torch.full((padding,), -INF), torch.tensor(row)]).to(dtype)
    back = torch.cat([torch.tensor(row), torch.full((padding,), -INF)]).to(dtype)
    x = torch.stack([front, back, front])
    assert torch.equal(gumbel_ext.gumbel_max(x, 0), x.argmax(-1))
    assert torch.equal(gumbel_ext.gumbel_max(x, torch.zeros(3, 1)), x.argmax(-1))
    assert torch.equal(gumbel_ext.gumbel_max(x, 1.0, seed=1), reference.gumbel_max(x, 1.0, -1, 1))
    assert torch.equal(gumbel_ext.gumbel_max(x, 0.5, seed=1, num_samples=2)[:, 0], reference.gumbel_max(x, 0.5, -1, 1))
    one_hot = torch.nn.functional.one_hot(x.argmax(-1), x.shape[1]).to(dtype)
    undefined = ~x.max(-1, keepdim=True).values.isfinite()
    expected = torch.where(undefined, NAN, one_hot)
    assert reference.differing(gumbel_ext.straight_through(x), expected) == 0


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("classes", [2, 10, 16, 33, 64, 65, 300, 5000])
def test_ties_of_one_hot_rows_go_to_the_lowest(classes: int, dtype: torch.dtype) -> None:
    """In as many rows as a kernel handles together, and some more; with p kept for a gradient and without.

    The classes are contiguous or strided; there is no noise, or it vanishes in rounding.
    """
    level = torch.randint(1, 5, (81, classes), generator=torch.Generator().manual_seed(classes))
    first = torch.from_numpy(level.numpy().argmax(-1))
    expected = torch.nn.functional.one_hot(first, classes).to(dtype)
    large = 2.0**56 if dtype == torch.float64 else 2.0**30
    for laid in (level, level.T.contiguous().T):
        x = laid.to(dtype)
        assert torch.equal(gumbel_ext.straight_through(x), expected)
        assert torch.equal(gumbel_ext.straight_through(x.requires_grad_()), expected)
        if dtype != torch.float16:
            x = laid.to(dtype) * large
            assert torch.equal(gumbel_ext.gumbel_softmax(x, hard=True), expected)
            assert torch.equal(gumbel_ext.gumbel_softmax(x.requires_grad_(), hard=True), expected)


def test_ties_after_rounding_go_to_the_lowest() -> None:
    """Logits so large that noise vanishes in rounding tie, and the lowest class wins."""
    x = torch.full((40, 500), 1e12)
    assert torch.equal(gumbel_ext.gumbel_max(x, seed=1), torch.zeros(40, dtype=torch.int64))
    assert gumbel_ext.gumbel_softmax(x, hard=True, seed=1)[:, 0].eq(1).all()


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("classes", [12, 200])
@pytest.mark.parametrize("num_samples", [None, 3])
def test_infinity_is_larger_than_a_quotient_that_overflows(
    num_samples: int | None, classes: int, dtype: torch.dtype
) -> None:
    """+inf wins over a finite logit that a low temperature takes out of range; the first of several wins."""
    x = torch.zeros(2, classes, dtype=dtype)
    x[:, 3], x[0, 9], x[0, 11] = torch.finfo(dtype).max, INF, INF
    expected = torch.tensor([9, 3])
    found = gumbel_ext.gumbel_max(x, torch.tensor([[0.5], [1e-300]], dtype=torch.float64), num_samples=num_samples)
    assert torch.equal(found, expected if num_samples is None else expected[:, None].expand(2, 3))
