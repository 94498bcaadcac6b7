"""Values: within the promised bound of a float64 softmax, in every dtype, shape, stride and extreme."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable
from typing import Any

import fingerprint
import numpy as np
import on_device
import pytest
import reference
import torch
from commands import run

import gumbel_ext

INF, NAN = float("inf"), float("nan")
SHAPES = [((), 0), ((1,), -1), ((3,), 0), ((7, 5), -1), ((7, 5), 0), ((2, 3, 4, 5), 1), ((2, 3, 4, 5), -3),
          ((130, 33), 1), ((3, 2048), -1), ((3, 2049), 1), ((2, 4097), -1), ((2050, 3), 0), ((1, 30000), -1),
          ((0, 4), -1), ((4, 0), -1), ((3, 0, 2), 0), ((1, 1, 1), 1), ((17, 16, 3), 1)]  # fmt: skip


def logits(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape) + sum(shape))
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def softmax(x: torch.Tensor, tau: Any, dim: int, mask: Any, seed: Any) -> torch.Tensor:
    return gumbel_ext.softmax(x, tau, dim=dim, mask=mask)


def gumbel_softmax(x: torch.Tensor, tau: Any, dim: int, mask: Any, seed: Any) -> torch.Tensor:
    return gumbel_ext.gumbel_softmax(x, tau, dim=dim, mask=mask, seed=seed)


Operation = Callable[[torch.Tensor, Any, int, Any, Any], torch.Tensor]
RELAXED = [softmax, gumbel_softmax]


def check(op: Operation, x: torch.Tensor, tau: Any = 1.0, dim: int = -1, mask: Any = None, seed: Any = 9) -> None:
    """Result against the reference: shape, dtype, bound, exact zeros, NaN where undefined."""
    found = op(x, tau, dim, mask, seed)
    assert found.shape == x.shape and found.dtype == x.dtype
    if x.dtype in (torch.float16, torch.bfloat16):  # the float32 result, rounded once
        wide = op(x.float(), tau, dim, mask, seed)
        if on_device.is_gpu():  # whose sums have an order that depends on the dtype: to the last bits of float32
            low, high = ((wide * (1 + sign * 2.0**-20)).to(x.dtype) for sign in (-1, 1))
            assert ((low <= found) & (found <= high) | (wide.isnan() & found.isnan())).all()
        else:
            assert reference.differing(found, wide.to(x.dtype)) == 0
        return
    if x.numel() == 0:
        return
    logit_rows, taus = reference.to_rows(x, dim, mask), reference.row_values(tau, x, dim)
    limits = np.finfo(logit_rows.dtype)
    with np.errstate(invalid="ignore"):
        scores = logit_rows.astype(np.longdouble)
    exact = np.ones_like(taus, bool)
    g = np.zeros_like(logit_rows)
    if op is gumbel_softmax:
        g = reference.noise(seed, *scores.shape, logit_rows.dtype)
        # Where half an ulp of x + g is not small beside tau, no relative bound can hold: there, the softmax
        # is that of the rounded sums, whose argmax is the index.
        exact = np.abs(np.where(np.isfinite(scores), scores, 0)).max(-1, keepdims=True) * limits.eps > taus / 6
        scores = np.where(exact, logit_rows + g, scores + g)
    expected, actual = reference.softmax(scores, taus), reference.to_rows(found, dim)
    undefined = ~np.isfinite(scores.max(-1))
    approximate = np.broadcast_to(on_device.roundings(scores, g, taus), (len(undefined), 1))[~undefined]
    assert np.isnan(actual[undefined]).all()
    scores, expected, actual = scores[~undefined], expected[~undefined], actual[~undefined]
    taus, exact = (np.broadcast_to(a, (len(undefined), 1))[~undefined] for a in (taus, exact))
    assert np.isfinite(actual).all()
    assert (actual[np.isneginf(scores)] == 0).all()
    # What is rounded: a score's sum of logit and noise and the largest one's, where they are not taken as rounded.
    reach = np.where(np.isfinite(scores), np.abs(scores), 0).max(-1, keepdims=True, initial=0)
    roundings = 8 + np.where(exact, 0, 2 * reach) / taus
    if limits.bits == 32:
        roundings = np.maximum(roundings, approximate)
    with np.errstate(invalid="ignore"):  # 0 * inf
        bound = (
            np.nan_to_num(limits.eps / 2 * roundings * expected) + limits.smallest_subnormal.astype(np.longdouble) / 2
        )
    error = np.abs(actual - expected)
    assert (error <= bound).all(), (error / bound).max()


@pytest.mark.parametrize("op", RELAXED)
@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "dim"), SHAPES, ids=str)
@pytest.mark.parametrize("tau", [0.3, 1.0, 4.0])
def test_shapes_and_dims(op: Operation, shape: tuple[int, ...], dim: int, dtype: torch.dtype, tau: float) -> None:
    """The bound holds for any shape and dim."""
    check(op, logits(shape, dtype), tau, dim)


VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "transposed": lambda x: x.transpose(1, 3),
    "permuted": lambda x: x.permute(2, 0, 3, 1),
    "sliced": lambda x: x[1:, ::2, :, 1:-1],
    "narrow last": lambda x: x[..., 2:3],
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "expanded rows": lambda x: x[:1].expand(6, -1, -1, -1),
    "expanded classes": lambda x: x[..., :1].expand(-1, -1, -1, 9),
    "overlapping": lambda x: x.contiguous().view(-1).unfold(0, 9, 3)[:8].view(2, 4, 1, 9),
    "diagonal": lambda x: x.diagonal(dim1=1, dim2=2)[:, None],
    "flipped": lambda x: x.flip(-1),
    "negated view": lambda x: torch._neg_view(x),
    "imaginary of conjugate": lambda x: torch.complex(x.float(), x.float()).conj().imag,
}


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dim", [-1, 0, 1, 2])
def test_strides_do_not_matter(view: str, dim: int, dtype: torch.dtype) -> None:
    """Any strided view gives what its contiguous copy gives, within the bound."""
    x = VIEWS[view](logits((4, 6, 6, 11), dtype))
    copy = x.clone(memory_format=torch.contiguous_format)
    mask = torch.rand(x.shape[-1], x.shape[0]).T[:, None, None] < 0.7
    for name, op in fingerprint.OPERATIONS.items():
        assert reference.differing(op(x, dim=dim, mask=mask), op(copy, dim=dim, mask=mask)) == 0, name
    for op in RELAXED:
        check(op, x, 0.8, dim, mask)


@pytest.mark.parametrize("op", RELAXED)
@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("tau_shape", [(5, 1, 1), (1, 6, 1), (6, 1), (5, 6, 1), (1,), (), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("tau_dtype", reference.DTYPES, ids=str)
def test_tau_of_each_row(op: Operation, tau_shape: tuple[int, ...], tau_dtype: torch.dtype, dtype: torch.dtype) -> None:
    """tau broadcasts with size 1 along dim, in any floating dtype."""
    check(op, logits((5, 6, 40), dtype), (torch.rand(tau_shape) + 0.2).to(tau_dtype))


@pytest.mark.parametrize("op", RELAXED)
@pytest.mark.parametrize("classes", [7, 2500])
def test_tau_of_each_row_along_another_dim(op: Operation, classes: int) -> None:
    """Rows are counted over all dimensions but dim."""
    check(op, logits((3, classes, 4)), torch.rand(3, 1, 4) + 0.1, 1)


@pytest.mark.parametrize("op", RELAXED)
@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(20, 9), (5, 5000)], ids=str)
def test_masked_classes_are_exactly_zero(op: Operation, shape: tuple[int, int], dtype: torch.dtype) -> None:
    """False behaves as -inf, whatever stands there; a row of nothing else is NaN."""
    x = logits(shape, dtype)
    mask = torch.rand(shape) < 0.5
    mask[1], mask[2, : shape[1] // 2], mask[3, 1:] = False, False, False
    check(op, x, 0.7, mask=mask)
    poisoned = torch.where(mask, x, torch.tensor([NAN, INF, 3e38]).to(dtype)[torch.randint(0, 3, shape)])
    assert reference.differing(op(poisoned, 0.7, -1, mask, 9), op(x.masked_fill(~mask, -INF), 0.7, -1, None, 9)) == 0


UNDEFINED = [
    [NAN, 0.0, 1.0],
    [INF, 0.0, 1.0],
    [INF, NAN],
    [-INF, -INF],
    [-INF],
    [NAN],
    [INF],
    [INF, -INF],
    [INF, INF],
]


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("row", UNDEFINED, ids=str)
@pytest.mark.parametrize("padding", [0, 5, 2047, 4100])
@pytest.mark.parametrize("name", ["softmax", "straight_through", "gumbel_softmax", "gumbel_softmax hard"])
def test_undefined_rows_are_nan(name: str, row: list[float], padding: int, dtype: torch.dtype) -> None:
    """A row with NaN, with +inf or of nothing but -inf is NaN, and its neighbours are not."""
    bad = torch.cat([torch.full((padding,), -INF), torch.tensor(row)])
    x = torch.stack([torch.zeros_like(bad), bad, bad.flip(0), torch.ones_like(bad)]).to(dtype)
    found = fingerprint.OPERATIONS[name](x)
    assert found[1:3].isnan().all() and found[[0, 3]].isfinite().all()
    assert fingerprint.OPERATIONS[name](x.requires_grad_())[1:3].isnan().all()


FINITE_TAUS = [
    1e-300,
    1e-46,
    1e-38,
    2.0**-127,
    1e-36,
    2.0**-118,
    2.0**-117,
    1e-30,
    1e-10,
    0.1,
    1.0,
    10.0,
    1e10,
    1e30,
    1e38,
    1e42,
    1e300,
]
EXTREMES = {
    "largest": [3.4e38, -3.4e38, 0.0],
    "largest twice": [3.4e38, 3.4e38, 3.3e38],
    "all lowest": [-3.4e38, -3.4e38, -3.3e38],
    "wide": [0.0, -80.0, -87.0, -88.5, -95.0, -103.0, -104.0, -150.0],
    "tiny": [1e-30, 0.0, -1e-30, 5e-31],
    "near the smallest normal": [1e-37, 0.0, 3e-38, 2e-36, 1e-36, 3e-36, 2.0**-118, -(2.0**-118)],
    "subnormal": [1e-40, 0.0, -3e-42, 1.4e-45],
    "mixed": [-INF, 1e30, 1.0, -1e-30],
}


@pytest.mark.parametrize("op", RELAXED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("tau", FINITE_TAUS)
def test_extremes(op: Operation, name: str, tau: float, dtype: torch.dtype) -> None:
    """No finite logits and tau give NaN or infinity, and the bound holds for them."""
    check(op, torch.tensor([EXTREMES[name]], dtype=dtype), tau)
    check(op, torch.tensor([EXTREMES[name] * 700], dtype=dtype), tau)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tau", FINITE_TAUS)
def test_extremes_of_16_bits(dtype: torch.dtype, tau: float) -> None:
    """Every 16-bit number among the logits: results are the float32 results rounded once."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    x = every[every.isfinite()].view(-1, 2 if dtype == torch.bfloat16 else 4)
    for op in RELAXED:
        check(op, x, tau)
        assert op(x, tau, -1, None, 9).isfinite().all()


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(50, 3), (9, 500), (3, 4500), (1, 1)], ids=str)
@pytest.mark.parametrize("name", ["straight_through", "gumbel_softmax hard"])
def test_one_hot_is_exact(name: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Values are exactly 0 and 1, one 1 a row, with or without a gradient wanted."""
    x = logits(shape, dtype)
    for tau in (1e-30, 0.7, 1e30, torch.rand(shape[0], 1) + 0.1):
        found = fingerprint.OPERATIONS[name](x, tau=tau)
        assert ((found == 0) | (found == 1)).all() and (found.sum(-1) == 1).all()
        assert torch.equal(found, fingerprint.OPERATIONS[name](x.clone().requires_grad_(), tau=tau))
        if name == "straight_through":
            assert torch.equal(found.argmax(-1), x.argmax(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sums_of_long_rows(dtype: torch.dtype) -> None:
    """The bound does not grow with the number of classes."""
    for scale in (0.0, 1.0, 10.0):
        check(softmax, logits((1, 500_000), dtype, scale))


@pytest.mark.skipif(not hasattr(mmap, "MAP_ANONYMOUS"), reason="needs mmap and mprotect")
@pytest.mark.parametrize("op", RELAXED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("ahead", [30.0, 80.0, 250.0])
def test_tiles_far_behind(op: Operation, ahead: float, dtype: torch.dtype) -> None:
    """Rows whose later classes lie far behind the first ones: the smallest probabilities keep their precision."""
    x = logits((3, 6000), dtype)
    x[:, :100] += ahead
    check(op, x, 0.6)


def test_nothing_is_read_out_of_bounds() -> None:
    """Logits and masks that end where readable memory ends."""
    assert run(sys.executable, fingerprint.__file__, "guard").split() == ["guarded"]
