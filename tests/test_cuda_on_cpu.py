"""The CUDA kernels, executed by the CPU (tests/cuda_on_cpu): what they compute, that they write every byte of
their outputs exactly once and nothing else, and that they read nothing beyond their inputs.

Every kernel runs at launch shapes of its own choosing and at forced ones. What is compared: indices and one-hot
outputs, bit for bit, and values within twice the promised bound, with the CPU's own kernels, which the other tests
hold against the reference. None of this needs a GPU, and none of it shows that one agrees: tests/test_cuda.py does.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fingerprint
import numpy as np
import on_device
import pytest
import reference
import torch
from commands import needs_build_tools, run

import gumbel_ext

pytestmark = needs_build_tools

WARP, BLOCK, CLUSTER, ACROSS, TILES = range(5)
# kernel, lanes, items, threads, blocks, parts; and the most classes of float32 it keeps
ROW_PLANS = {
    "4 lanes": ((WARP, 4, 0, 128, 1, 1), 16), "8 lanes": ((WARP, 8, 0, 64, 1, 1), 32),
    "16 lanes": ((WARP, 16, 0, 32, 1, 1), 64), "warp": ((WARP, 32, 8, 128, 1, 1), 256),
    "warp, 16 each": ((WARP, 32, 16, 64, 1, 1), 512), "warp, 32 each": ((WARP, 32, 32, 32, 1, 1), 1024),
    "small block": ((BLOCK, 0, 16, 32, 1, 1), 512), "block": ((BLOCK, 0, 16, 256, 1, 1), 4096),
    "block, 32 each": ((BLOCK, 0, 32, 64, 1, 1), 2048), "cluster of 2": ((CLUSTER, 0, 32, 32, 2, 1), 2048),
    "cluster of 8": ((CLUSTER, 0, 40, 64, 8, 1), 20480), "across": ((ACROSS, 0, 16, 64, 1, 1), 32),
    "across, 32 each": ((ACROSS, 0, 32, 128, 1, 1), 128), "tiles": ((TILES, 0, 0, 256, 1, 1), 10**6),
}  # fmt: skip
INDEX_PLANS = {
    "4 lanes": (WARP, 4, 0, 32, 1, 1), "8 lanes": (WARP, 8, 0, 64, 1, 1), "warp": (WARP, 32, 0, 128, 1, 1),
    "warp, 2 parts": (WARP, 32, 0, 64, 1, 2), "block": (BLOCK, 0, 0, 64, 1, 1), "across": (ACROSS, 0, 0, 96, 1, 1),
    "across, 3 parts": (ACROSS, 0, 0, 64, 1, 3), "block, 2 parts": (BLOCK, 0, 0, 64, 1, 2),
    "block, 7 parts": (BLOCK, 0, 0, 32, 1, 7),
}  # fmt: skip
CLASSES = [1, 2, 3, 4, 7, 8, 16, 31, 33, 64, 127, 256, 511, 1000, 2049, 5003]
FEW_CLASSES = [1, 3, 8, 33, 127, 300, 1009]

cpu = torch.ops.gumbel_ext


@pytest.fixture
def library(cuda_on_cpu: Path) -> Path:
    return cuda_on_cpu / "libcuda_on_cpu.so"


@pytest.fixture
def cuda(library: Path) -> Iterator[Any]:
    torch.ops.load_library(library)
    operators = torch.ops.gumbel_ext_cuda_on_cpu
    yield operators
    operators.force_plan([])
    operators.set_limits(132, 8)
    operators.set_errors(0)


def logits(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Ordinary rows, with holes of -inf."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    x[torch.rand(shape, generator=generator) < 0.02] = -torch.inf
    x.select(-1, 0).fill_(1.5)
    return x.to(dtype)


def assert_close(found: torch.Tensor, expected: torch.Tensor, reach: float) -> None:
    """Within twice the CPU's bound, `reach` being max|x + g| / tau or more, so that a GPU's has room; zeros and NaNs
    alike."""
    assert torch.equal(found.isnan(), expected.isnan())
    found, expected = found.nan_to_num(0.0), expected.nan_to_num(0.0)
    assert torch.equal(found == 0, expected == 0) or found.dtype == torch.float16
    type_epsilon, epsilon = torch.finfo(found.dtype).eps, torch.finfo(found.dtype).eps / 2
    if found.dtype in (torch.float16, torch.bfloat16):  # float32's, and one rounding that may fall the other way
        epsilon = 2.0**-24
    relative = 2 * epsilon * (8 + 3 * reach) + (type_epsilon if found.dtype.itemsize == 2 else 0)
    error, scale = (found.double() - expected.double()).abs(), expected.double().abs()
    assert (error <= relative * scale + 2 * torch.finfo(found.dtype).smallest_normal).all()


def assert_logarithms_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Within twice the bound of tests/test_logarithms.py; NaNs and infinities alike."""
    working = torch.finfo(torch.float64 if found.dtype == torch.float64 else torch.float32).eps
    rounding = torch.finfo(found.dtype).eps if found.dtype.itemsize == 2 else 0
    error = working * (8 + 4 * expected.double().abs()) + rounding * expected.double().abs()
    assert ((found == expected) | found.isnan() & expected.isnan() | ((found - expected).double().abs() <= error)).all()


def assert_gradients_close(
    found: torch.Tensor, expected: torch.Tensor, p: torch.Tensor, dy: torch.Tensor, tau: torch.Tensor | float
) -> None:
    """Within some units of what enters dx = p (dy - <p, dy>) / tau before the difference; rounded once to a half."""
    working = torch.finfo(torch.float64 if p.dtype == torch.float64 else torch.float32).eps
    rounding = torch.finfo(p.dtype).eps if p.dtype.itemsize == 2 else 0
    bound = 8 * working * p.double() / tau * dy.double().abs().max() + rounding * expected.double().abs()
    assert ((found.double() - expected.double()).abs() <= bound + 2 * torch.finfo(p.dtype).smallest_normal).all()


def fits(plan: tuple[int, ...], most: int, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[int, ...] | None:
    """The plan for the dtype's packs, where it keeps so many classes."""
    kernel, lanes, items, threads, blocks, parts = plan
    pack = 8 if dtype.itemsize == 2 else 4
    if kernel == WARP and items == 0:
        items, most = pack, lanes * pack
    if dtype == torch.float64 and kernel != TILES and (items > 16 or threads > 256):
        return None
    return (kernel, lanes, items, threads, blocks, parts) if shape[-1] <= most else None


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("name", ROW_PLANS)
def test_forward_and_backward(cuda: Any, name: str, dtype: torch.dtype) -> None:
    """Every kernel that keeps rows in registers, and the tiles, at every row length they serve."""
    plan, most = ROW_PLANS[name]
    ran = 0
    for classes in CLASSES:
        x = logits((5, classes), dtype)
        forced = fits(plan, most, x.shape, dtype)
        if forced is None:
            continue
        ran += 1
        cuda.force_plan(forced)
        tau = torch.tensor([0.4, 0.7, 1.0, 2.0, 7.0], dtype=torch.float64)[:, None]
        for noise, taus in ((True, (0.7, None)), (False, (0.7, None)), (True, (1.0, tau))):
            arguments = (x, None, *taus, noise, 11, None, None, -1)
            reach = float(x.double().nan_to_num(neginf=0.0).abs().max() + 25) / 0.4
            expected, relaxed = cpu._one_hot_relaxed(*arguments)
            found, found_relaxed = cuda._one_hot_relaxed(*arguments)
            assert torch.equal(found, expected)
            assert_close(found_relaxed, relaxed, reach)
            assert torch.equal(cuda._relaxed(*arguments), found_relaxed)
            assert_logarithms_close(cuda._log_relaxed(*arguments), cpu._log_relaxed(*arguments))
        dy = torch.linspace(-1, 2, x.numel(), dtype=torch.float64).view(x.shape).to(dtype)
        expected_x, expected_tau = cpu._backward(dy, relaxed, 1.0, tau, -1, True, True)
        found_x, found_tau = cuda._backward(dy, relaxed, 1.0, tau, -1, True, True)
        assert_gradients_close(found_x, expected_x, relaxed, dy, tau)
        exact = 2e-5 if dtype != torch.float64 else 1e-13
        torch.testing.assert_close(found_tau, expected_tau, rtol=exact, atol=exact)
        in_place = relaxed.clone()
        cuda._backward_(dy, in_place, 1.0, tau, -1, False)
        torch.testing.assert_close(in_place, found_x, rtol=0, atol=0)
    assert ran > 0 or dtype == torch.float64


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("name", INDEX_PLANS)
@pytest.mark.parametrize("samples", [None, 5])
def test_index(cuda: Any, name: str, dtype: torch.dtype, samples: int | None) -> None:
    """Every index kernel, bit for bit, at temperatures that divide, that are greedy, and that leave the range."""
    cuda.force_plan(INDEX_PLANS[name])
    rows = torch.tensor([1.0, 0.0, 0.7, 1e-42, 3.0, 1e30], dtype=torch.float64)[:, None]
    for classes in FEW_CLASSES:
        x = logits((6, classes), dtype)
        for temperature in ((1.0, None), (0.7, None), (0.0, None), (1e-40, None), (1e-300, None), (1.0, rows)):
            arguments = (x, None, *temperature, 11, None, None, -1, samples)
            assert torch.equal(cuda._index(*arguments), cpu._index(*arguments))
        for tau, noise in itertools.product(((0.7, None), (1.0, rows + 0.1)), (True, False)) if samples is None else ():
            arguments = (x, None, *tau, noise, 11, None, None, -1)
            torch.testing.assert_close(
                cuda._one_hot(*arguments), cpu._one_hot(*arguments), rtol=0, atol=0, equal_nan=True
            )


@pytest.mark.parametrize("limits", [(132, 8), (108, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
def test_chosen_plans(cuda: Any, limits: tuple[int, int], dtype: torch.dtype) -> None:
    """Shapes, strides, masks, seeds and temperatures of rows, by the plans that are chosen for them."""
    cuda.set_limits(*limits)
    for shape, dim in [*fingerprint.SHAPES, ((40, 16), 0), ((2, 300, 4, 9), 1), ((3, 12000), -1), ((1, 40000), 1)]:
        x = fingerprint.logits(shape, dtype)
        mask = torch.arange(shape[dim]).remainder(5).ne(3)[(...,) + (None,) * (x.dim() - 1 - dim % x.dim())]
        row_shape = [1 if d == dim % x.dim() else n for d, n in enumerate(shape)]
        tau = 0.2 + torch.arange(1.0, 1 + x.numel() // shape[dim], dtype=torch.float64).reshape(row_shape) / 7
        seeds = torch.tensor(fingerprint.SEEDS)[torch.arange(tau.numel()) % 4].reshape(tau.squeeze(dim).shape)
        for view in (x, x.flip(dim).flip(dim), torch.stack([x, x], -1)[..., 1]):
            for options in ((mask.expand(x.shape), 1.0, tau, True, 5, None), (None, 0.6, None, True, None, seeds)):
                mask_, tau_, rows, noise, seed, row_seeds = options
                arguments = (view, mask_, tau_, rows, noise, seed, row_seeds, None, dim)
                hot, relaxed = cuda._one_hot_relaxed(*arguments)
                expected_hot, expected = cpu._one_hot_relaxed(*arguments)
                assert reference.differing(hot, expected_hot) == 0
                assert reference.differing(cuda._one_hot(*arguments), expected_hot) == 0
                assert_close(relaxed, expected, 1e4)
                assert_logarithms_close(cuda._log_relaxed(*arguments), cpu._log_relaxed(*arguments))
                arguments = (view, mask_, tau_, rows, seed, row_seeds, None, dim, 3)
                assert torch.equal(cuda._index(*arguments), cpu._index(*arguments))
        if x.isnan().any():
            x, relaxed = x.nan_to_num(0.0), cpu._relaxed(x.nan_to_num(0.0), None, 0.6, None, False, 1, None, None, dim)
        found, expected = (ops._backward(x, relaxed, 0.6, None, dim, True, False)[0] for ops in (cuda, cpu))
        assert_gradients_close(found, expected, relaxed, x, 0.6)


def near_ties(rows: int, classes: int) -> torch.Tensor:
    """Logits with which, in the noise of seed 11, scores come within some roundings of each other: all of a row's, or a
    few above others."""
    generator = torch.Generator().manual_seed(classes)
    g = gumbel_ext.gumbel_noise((rows, classes), seed=11)
    level = torch.tensor([0.0, 1.0, -3.0, 30.0, 200.0, 5e6])[torch.arange(rows) % 6, None]
    apart = torch.randint(-3, 4, (rows, classes), generator=generator) * level.abs().clamp(min=0.5) * 2.0**-23
    x = level + apart - g
    share = torch.tensor([0.0, 0.9, 0.999])[torch.arange(rows) % 3, None]
    return torch.where(torch.rand((rows, classes), generator=generator) < share, x - 4, x)


@pytest.mark.parametrize("errors", range(5))
@pytest.mark.parametrize("name", ["4 lanes", "warp", "warp, 32 each", "block", "cluster of 2", "across, 32 each"])
def test_approximations_decide_nothing(cuda: Any, name: str, errors: int) -> None:
    """Whatever the special-function unit's errors, within what is documented: indices are those of the fixed sequence,
    and values stay within the promised e (16 + 24 M / tau)."""
    plan, most = ROW_PLANS[name]
    for classes in (classes for classes in (2, 33, 1000) if classes <= most):
        for dtype, tau in ((torch.float32, 0.003), (torch.float32, 0.7), (torch.bfloat16, 5.0)):
            x = near_ties(30, classes).to(dtype)
            forced = fits(plan, most, x.shape, dtype)
            cuda.force_plan(forced)
            cuda.set_errors(errors)
            arguments = (x, None, tau, None, True, 11, None, None, -1)
            hot, relaxed = cuda._one_hot_relaxed(*arguments)
            assert torch.equal(hot, cpu._one_hot_relaxed(*arguments)[0])
            g = torch.from_numpy(reference.noise(11, *x.shape, np.float64))
            expected = ((x.double() + g) / tau).softmax(-1).numpy()
            reach = (x.double().abs() + g.abs()).amax(-1, keepdim=True).clamp(min=1).numpy()
            relative = 2.0**-24 * (16 + 24 * reach / tau)
            bound = np.where(relative < 1, relative * expected + 2.0**-150, 1)  # beyond, any probability
            assert reference.within(relaxed, expected, bound)


def ties(rows: int, classes: int) -> torch.Tensor:
    """Logits with which, in the noise of seed 11, the scores of two classes of a row are the same, or some roundings
    apart, and all others far below. In every second row they are neighbours, one of them with the row's largest noise:
    its bound is near its score, the other's is not."""
    generator = torch.Generator().manual_seed(classes)
    g = gumbel_ext.gumbel_noise((rows, classes), seed=11)
    first, second = (torch.randint(low, high, (rows, 1), generator=generator)
                     for low, high in ((0, classes // 2), (classes // 2, classes)))  # fmt: skip
    largest = g[:, : classes // 2 * 2].argmax(1, keepdim=True)
    are_neighbours = torch.arange(rows)[:, None] % 2 == 1
    first, second = (torch.where(are_neighbours, a, b) for a, b in ((largest, first), (largest ^ 1, second)))
    x = torch.full_like(g, -30.0).scatter_(1, first, 3.0)
    score, noise = (x + g).gather(1, first), g.gather(1, second)
    candidates = score - noise + (torch.arange(-8, 9) * 2.0**-23)[None] * score.abs().clamp(min=1)
    ties = (candidates + noise == score).double().argmax(1, keepdim=True)
    apart = torch.arange(rows)[:, None] % 3 - 1
    return x.scatter_(1, second, candidates.gather(1, (ties + apart).clamp(min=0)))


@pytest.mark.parametrize("name", INDEX_PLANS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_index_at_the_ends_of_the_range(cuda: Any, name: str, dtype: torch.dtype) -> None:
    """Quotients all infinite, or so large that their bounds are: an ulp apart, or equal."""
    cuda.force_plan(INDEX_PLANS[name])
    rows = torch.tensor([-1e30, -3e38, 3e38, 1.7846270371398065e37, 2.3585e38, -2.3585e38], dtype=dtype)[:, None]
    for classes in (33, 130, 1100):
        x = rows.repeat(1, classes)
        x[:, 1::7] = x[:, 1::7].nextafter(torch.full_like(x[:, 1::7], torch.inf))
        x[:, 3::5] /= 2
        for temperature in (1e-20, 1e-30, 0.5, 0.07566282898187637, 0.9999, 1.0, 1.4, 1e38):
            for samples in (None, 3):
                arguments = (x, None, temperature, None, 11, None, None, -1, samples)
                assert torch.equal(cuda._index(*arguments), cpu._index(*arguments))


@pytest.mark.parametrize("errors", range(5))
@pytest.mark.parametrize("name", INDEX_PLANS)
def test_bounds_decide_nothing(cuda: Any, name: str, errors: int) -> None:
    """Whatever the special-function unit's errors: of the index, too, at temperatures that divide exactly."""
    cuda.force_plan(INDEX_PLANS[name])
    cuda.set_errors(errors)
    for classes in (33, 130, 1000, 4500) if name != "4 lanes" else (16,):
        for make, dtype, t in ((near_ties, torch.float32, 1.0), (near_ties, torch.float32, 2.0**-20),
                               (near_ties, torch.bfloat16, 64.0), (ties, torch.float32, 1.0)):  # fmt: skip
            arguments = ((make(15, classes) * t).to(dtype), None, t, None, 11, None, None, -1)
            for samples in (None, 3):
                assert torch.equal(cuda._index(*arguments, samples), cpu._index(*arguments, samples))


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(4, 4099), (7, 1), (3, 10), (1, 100000), (0, 3), (2, 0)], ids=str)
def test_noise(cuda: Any, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    """The noise's bits, tails included."""
    seeds = torch.tensor(fingerprint.SEEDS)[torch.arange(shape[0]) % 4]
    for seed, rows in ((1343428, None), (-5, None), (None, seeds)):
        for numbers in (None, [3, 0, 2, 0], [3, 7, 2, 0]):
            found, expected = (
                ops._noise(torch.empty(shape, dtype=dtype), seed, rows, None, numbers) for ops in (cuda, cpu)
            )
            assert torch.equal(found, expected)


def test_state_of_a_captured_generator(cuda: Any) -> None:
    """A kernel takes the seed from where a captured generator keeps its state, when it runs."""
    x, state = logits((3, 100), torch.float32), torch.tensor([42, 1000])
    cuda.set_captured(state, 8)
    for offset in (1000, 2000):
        state[1] = offset
        found = cuda._relaxed(x, None, 1.0, None, True, None, None, None, -1)
        seed = cuda.seed_of_state(42, offset + 8)
        assert torch.equal(found, cuda._relaxed(x, None, 1.0, None, True, seed, None, None, -1))
        assert torch.equal(cuda._index(x, None, 1.0, None, None, None, None, -1, None), found.argmax(-1))
        index, held = cuda._sample(x, None, 1.0, None, 1.0, None, None, None, None, -1)
        assert torch.equal(index, found.argmax(-1)) and held == seed  # what another graph's backward takes


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
def test_invalid_temperatures_give_nan(cuda: Any, dtype: torch.dtype) -> None:
    """The host cannot look at a device's tensor of temperatures: a row of a wrong one is NaN, its index 0."""
    x = logits((4, 50), dtype)
    tau = torch.tensor([1.0, 0.0, -1.0, torch.nan])[:, None]
    hot, relaxed = cuda._one_hot_relaxed(x, None, 1.0, tau, True, 3, None, None, -1)
    assert not relaxed[0].isnan().any() and not hot[0].isnan().any()
    assert relaxed[1:].isnan().all() and hot[1:].isnan().all()
    assert torch.equal(cuda._log_relaxed(x, None, 1.0, tau, True, 3, None, None, -1).isnan(), relaxed.isnan())
    assert cuda._index(x, None, 1.0, tau, 3, None, None, -1, None)[2:].tolist() == [0, 0]


def test_the_tests_of_the_cpu_hold(library: Path) -> None:
    """With these kernels in the CPU's place, what the other tests ask of values, indices, gradients and noise.

    One type of 16 bits stands for both, whose conversions the tests above compare.
    """
    command = on_device.cpu_tests(
        "values",
        "indices",
        "gradients",
        "noise",
        "estimators",
        "embedding",
        "positions",
        but=("bfloat16",),
    )
    run(*command, GUMBEL_EXT_TEST_KERNELS=str(library))


def test_hard_inputs(library: Path) -> None:
    """The same of hard inputs, of which these kernels take few in the time."""
    command = [
        *on_device.cpu_tests("hard_inputs", "hard_estimators", "top_k", "logarithms", "sample", "verify"),
        "--hypothesis-profile=few",
    ]
    run(*command, GUMBEL_EXT_TEST_KERNELS=str(library))


def test_no_read_beyond_the_inputs(library: Path) -> None:
    """Inputs that end where an unreadable page begins."""
    assert run(sys.executable, __file__, library) == "guarded\n"


def run_guarded(path: str) -> None:
    torch.ops.load_library(path)
    cuda = torch.ops.gumbel_ext_cuda_on_cpu
    for dtype in reference.DTYPES:
        for shape in [(1, 1), (1, 3), (3, 5), (2, 17), (5, 63), (1, 67), (7, 129), (1, 2049), (3, 4111), (1, 20001)]:
            x, mask = fingerprint.guarded(shape, dtype), fingerprint.guarded(shape, torch.bool)
            x.copy_(torch.zeros(shape))
            mask.fill_(True)
            seeds = fingerprint.guarded((shape[0],), torch.int64).fill_(3)
            for a, m, dim in ((x, mask, 1), (x, mask, 0), (x.T, mask.T, 0), (x[:, -1:], mask[:, -1:], 0)):
                relaxed = cuda._one_hot_relaxed(a, m, 0.5, None, True, 1, None, None, dim)[1]
                cuda._log_relaxed(a, m, 0.5, None, True, 1, None, None, dim)
                guarded = fingerprint.guarded(tuple(a.shape), dtype).copy_(relaxed)
                cuda._backward(guarded, guarded, 0.5, None, dim, True, True)
                cuda._index(a, m, 0.5, None, 1, None, None, dim, 3)
                index, _ = cuda._sample(a, m, 0.5, None, 0.5, None, 1, None, None, dim)
                index, one = fingerprint.guarded(tuple(index.shape), torch.int64).copy_(index), torch.tensor(1)
                cuda._one_hot_of(index, a, dim)
                if a.shape[1 - dim] > 200:
                    continue  # blocks of hundreds of threads a row, of which the first ones have shown all
                statistics = cuda._draw(a, m, 0.5, None, 1, None, None, dim, None)[1]
                of_rows = (a, m, 0.5, None, index, statistics, dim)
                answers = cuda._log_prob(*of_rows)
                cuda._log_prob_backward(*answers, *of_rows, True)
                cuda._top_classes(a, 1, m, 0.5, None, 1, None, None, dim)
                for number in range(4):
                    arguments = (a, m, 0.5, None, 0.5, None, index, one, None, number, 2, dim, None, False)
                    cuda._estimate(guarded, *arguments, True, True)
                scores = cuda._top_k(a, 1, False, m, 0.5, None, 1, None, None, dim)[1]
                guarded_scores = fingerprint.guarded(tuple(a.shape), scores.dtype).copy_(scores)
                cuda._top_k_backward(guarded, guarded_scores, 1, torch.tensor(0.5), dim, True, True)
            cuda._relaxed(x, mask, 0.5, None, True, None, seeds, None, 1)
            cuda._index(x, mask, 0.5, None, None, seeds, None, 1, None)


if __name__ == "__main__":
    run_guarded(sys.argv[1])
    print("guarded")
