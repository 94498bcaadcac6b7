"""Noise is a pure function of (seed, row, class, draw), with the promised words, bits and accuracy."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import reference
import torch
from scipy import stats

import gumbel_ext

SEEDS = [0, 1, -1, -(2**63), 2**63, 2**64 - 1, 2**32, 0x299F31D0A4093822]
SHAPES = [
    (),
    (1,),
    (3,),
    (5, 7),
    (2, 3, 4),
    (4, 2048),
    (3, 2049),
    (1, 10007),
    (70, 33),
    (0, 5),
    (5, 0),
    (2, 1, 4097),
]
# Seeds whose class of this number draws word 0: the continuation alone decides.
WORD_ZERO = [(1343428, 3), (627779616, 2), (293046734, 1), (585825483, 1)]
SIXTEEN = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_reference_gives_the_known_answers_of_philox(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    """The reference that the library is held against is Philox4x32-10 itself (Random123's vectors)."""
    assert tuple(int(w) for w in reference.philox4x32_10(counter, key)) == expected


def check_bits(shape: tuple[int, ...], seed: int | torch.Tensor, dtype: torch.dtype) -> None:
    found = gumbel_ext.gumbel_noise(shape, seed=seed, dtype=dtype)
    assert found.shape == shape and found.dtype == dtype
    rows, classes = (found.shape[:-1].numel(), found.shape[-1]) if shape else (1, 1)
    expected = torch.from_numpy(reference.noise(seed, rows, classes, reference.working(dtype))).reshape(shape)
    assert torch.equal(found, expected.to(dtype))


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
def test_seeds_are_the_key(seed: int, dtype: torch.dtype) -> None:
    """The key is the seed's 64 bits; 16-bit noise is the float32 noise rounded once."""
    check_bits((3, 517), seed, dtype)


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_lay_out_the_counter(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Row = position in C order over all dimensions but the last, class = position in the last."""
    check_bits(shape, 42, dtype)


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("shape", [s for s in SHAPES if s], ids=str)
def test_seed_of_each_row(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """With a seed a row, every row's number counts as 0."""
    check_bits(shape, torch.randint(-(2**63), 2**63 - 1, shape[:-1]), dtype)


def test_strided_seed_tensor() -> None:
    """Seeds are read by their place in the tensor, not in memory."""
    seeds = torch.randint(-(2**63), 2**63 - 1, (5, 6))
    found = gumbel_ext.gumbel_noise((6, 5, 9), seed=seeds.T)
    assert torch.equal(found, gumbel_ext.gumbel_noise((6, 5, 9), seed=seeds.T.contiguous()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(1, 1_000_003), (250_001, 4), (40_003, 25)], ids=str)
def test_small_words_are_continued(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """A word below 2^16 takes its noise from the word 2^31 draws on."""
    first, second = reference.words(7, *shape)
    tail = first < reference.TAIL_WORDS
    assert tail.sum() >= 5
    found = gumbel_ext.gumbel_noise(shape, seed=7, dtype=dtype).numpy()[tail]
    assert np.array_equal(found, reference.noise_of(first[tail], second[tail], reference.working(dtype)))


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize(("seed", "cls"), WORD_ZERO)
def test_noise_behind_word_zero(seed: int, cls: int, dtype: torch.dtype) -> None:
    """Noise beyond 22.2, where the first word is spent, is still the defining formula's."""
    first, second = reference.words(seed, 1, 4)
    assert first[0, cls] == 0
    check_bits((4,), seed, dtype)
    check_bits((3, 4), torch.full((3,), seed), dtype)
    exact = reference.exact_noise(first, second)[0, cls]
    assert exact > 22.18
    found = gumbel_ext.gumbel_noise(4, seed=seed, dtype=dtype)[cls].item()
    assert abs(found - exact) <= 2 * torch.finfo(dtype).eps * exact


def test_reach_of_the_noise() -> None:
    """The largest noise is 45 and the smallest is above -4, finite in both precisions."""
    words = np.array([0, 0, 2**32 - 1, 65535, 65536], np.uint32)
    continuations = np.array([0, 2**32 - 1, 0, 2**32 - 1, 0], np.uint32)
    for dtype in (np.float32, np.float64):
        noise = reference.noise_of(words, continuations, dtype)
        assert 45 < noise[0] < 45.1 and noise.min() == noise[2] > -3.2
        assert np.all(np.abs(noise - reference.exact_noise(words, continuations)) < 1e-5)


@pytest.mark.parametrize("seed", [11, -12, 2**63 + 13])
def test_float32_accuracy(seed: int) -> None:
    """Within 2 ulp or 2^-22 of -log(-log1p(-v)), whichever is larger; never infinite or NaN."""
    found = gumbel_ext.gumbel_noise((4, 100_000), seed=seed).numpy()
    exact = reference.exact_noise(*reference.words(seed, 4, 100_000))
    assert np.isfinite(found).all()
    bound = np.maximum(2 * np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64), 2.0**-22)
    assert (np.abs(found - exact) / bound).max() <= 1


@pytest.mark.parametrize("seed", [21, 627779616])
def test_float64_accuracy(seed: int) -> None:
    """Within 4 ulp or 2^-50 of the exact value, whichever is larger."""
    found = gumbel_ext.gumbel_noise((4, 512), seed=seed, dtype=torch.float64).flatten().tolist()
    first, second = reference.words(seed, 4, 512)
    with mpmath.workdps(40):
        for g, w, c in zip(found, first.flatten().tolist(), second.flatten().tolist(), strict=True):
            rest = (c + mpmath.mpf(0.5)) / 2**32 if w < reference.TAIL_WORDS else mpmath.mpf(0.5)
            exact = -mpmath.log(-mpmath.log1p(-(w + rest) / 2**32))
            assert abs(g - exact) <= max(4 * np.spacing(abs(float(exact))), 2.0**-50)


@pytest.mark.parametrize("shape", [(1, 2**20), (2**18, 4), (1024, 1024)], ids=str)
def test_distribution(shape: tuple[int, int]) -> None:
    """Noise is standard Gumbel, and classes, rows and seeds are uncorrelated."""
    g = gumbel_ext.gumbel_noise(shape, seed=5, dtype=torch.float64)
    assert stats.kstest(g.flatten().numpy(), "gumbel_r").pvalue > 1e-4
    other = gumbel_ext.gumbel_noise(shape, seed=6, dtype=torch.float64)
    flat = g.flatten()
    for a, b in [
        (flat[1:], flat[:-1]),
        (flat[4:], flat[:-4]),
        (flat[shape[1] :], flat[: -shape[1]]),
        (flat, other),
    ]:
        if a.numel():
            assert abs(np.corrcoef(a.numpy(), b.flatten().numpy())[0, 1]) < 5 / np.sqrt(a.numel())


def one_draw(op: str, **source: object) -> torch.Tensor:
    x = torch.zeros(64, 16)
    if op == "gumbel_noise":
        return gumbel_ext.gumbel_noise((64, 16), **source)
    if op == "hard":
        return gumbel_ext.gumbel_softmax(x, hard=True, **source)
    return getattr(gumbel_ext, op)(x, **source)


OPS = ["gumbel_noise", "gumbel_softmax", "hard", "gumbel_max"]


@pytest.mark.parametrize("op", OPS)
def test_without_a_seed_noise_is_fresh_and_governed_by_manual_seed(op: str) -> None:
    """Each call takes new noise from torch's default generator."""
    torch.manual_seed(123)
    first, second = one_draw(op), one_draw(op)
    torch.manual_seed(123)
    assert not torch.equal(first, second)
    assert torch.equal(one_draw(op), first) and torch.equal(one_draw(op), second)


@pytest.mark.parametrize("op", OPS)
def test_generator(op: str) -> None:
    """A generator is used instead of the default one, advances, and reproduces."""
    default = torch.get_rng_state()
    generator = torch.Generator().manual_seed(9)
    first, second = one_draw(op, generator=generator), one_draw(op, generator=generator)
    assert not torch.equal(first, second)
    assert torch.equal(one_draw(op, generator=torch.Generator().manual_seed(9)), first)
    assert torch.equal(torch.get_rng_state(), default)


@pytest.mark.parametrize("op", OPS)
def test_without_a_seed_the_seed_is_the_generators_next_64_bits(op: str) -> None:
    """On the CPU the seed is random64()."""
    bits = torch.empty((), dtype=torch.int64)
    bits.random_(-(2**63), None, generator=torch.Generator().manual_seed(31))
    found = one_draw(op, generator=torch.Generator().manual_seed(31))
    assert torch.equal(found, one_draw(op, seed=bits.item()))


@pytest.mark.parametrize("op", OPS)
def test_a_seed_leaves_the_generator_alone(op: str) -> None:
    """With a seed, nothing is taken from torch's generator."""
    before = torch.get_rng_state()
    one_draw(op, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("seed", [3, 2**63 + 3, -7, np.int64(5), True])
def test_seed_is_any_integer_of_64_bits(seed: int) -> None:
    """Seeds that are equal modulo 2^64 give the same noise."""
    same = int(seed) - 2**64 if int(seed) > 0 and int(seed) >= 2**63 else int(seed)
    assert torch.equal(one_draw("gumbel_noise", seed=seed), one_draw("gumbel_noise", seed=same))


def test_size_dtype_and_device_defaults() -> None:
    """`size` may be an int or any sequence; dtype and device default to torch's."""
    torch.set_default_dtype(torch.float64)
    assert gumbel_ext.gumbel_noise(7, seed=0).dtype == torch.float64
    assert gumbel_ext.gumbel_noise(torch.Size([2, 3]), seed=0).shape == (2, 3)
    assert gumbel_ext.gumbel_noise([2, 3], seed=0, device="meta").device.type == "meta"
    with torch.device("meta"):
        assert gumbel_ext.gumbel_noise([2, 3], seed=0).device.type == "meta"


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(6, 5), (4, 2049), (3, 64, 3)], ids=str)
def test_rows_may_be_numbered_as_those_of_a_larger_whole(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Row = the first row's number + the sum of index times stride: a part has the noise of its place in the whole."""
    sizes = [2 * n + 1 for n in shape[:-1]]
    strides = [torch.Size(sizes[d + 1 :]).numel() for d in range(len(sizes))]
    whole = gumbel_ext.gumbel_noise((*sizes, shape[-1]), seed=5, dtype=dtype)
    part = whole[tuple(slice(1, None, 2) for _ in sizes)]
    numbers = [sum(strides), 0, *(2 * stride for stride in strides), 0]
    found = torch.ops.gumbel_ext._noise(torch.empty(part.shape, dtype=dtype), 5, None, None, numbers)
    assert torch.equal(found, part)
    x = torch.zeros(part.shape, dtype=dtype)
    index = torch.ops.gumbel_ext._index(x, None, 1.0, None, 5, None, None, -1, None, numbers)
    assert torch.equal(index, part.argmax(-1))
    for moved in (x, x.movedim(-1, 0).contiguous().movedim(0, -1)):
        relaxed = torch.ops.gumbel_ext._relaxed(moved, None, 1.0, None, True, 5, None, None, -1, numbers)
        assert torch.equal(relaxed.argmax(-1), index)
