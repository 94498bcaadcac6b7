"""A part of a larger whole takes the noise of its place there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import torch

import gumbel_ext

OPS = torch.ops.gumbel_ext
# Off a Philox counter, on one, about a tile's border.
OFFSETS = [1, 2, 3, 4, 7, 2047, 2048, 2050]
# Few classes (a row in each lane), some, more than a tile; one row and many.
SHAPES = [(40, 6), (3, 5), (1, 70), (5, 300), (3, 2 * 2048 + 9)]


def numbers(offset: int, shape: tuple[int, ...], row_offset: int = 0) -> list[int]:
    """What operators take for a part that begins at a class, with rows in C order."""
    strides = [torch.Size(shape[d + 1 : -1]).numel() for d in range(len(shape) - 1)]
    return [row_offset, offset, *strides, 0]


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_noise_from_a_class_on(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Noise with a class offset is a slice of the whole's, to the bit; with a seed for each row too."""
    rows, classes = shape
    for seed in (3, torch.arange(rows) * 7919):
        whole = gumbel_ext.gumbel_noise((rows, OFFSETS[-1] + classes), seed=seed, dtype=dtype)
        for offset in OFFSETS:
            part = gumbel_ext.gumbel_noise(shape, seed=seed, dtype=dtype, class_offset=offset)
            assert torch.equal(part, whole[:, offset : offset + classes])


@pytest.mark.parametrize("offset", [2**34 - 300, 2**33 + 1, 2**32 - 150])
def test_noise_of_far_classes(offset: int) -> None:
    """Words below the tail's border among them: the class in the counter is the whole's there too."""
    rows, classes, row_offset, draw = 1500, 300, 2**40 + 5, 11
    found = gumbel_ext.gumbel_noise(
        (rows, classes), seed=9, dtype=torch.float64, class_offset=offset, row_offset=row_offset, draw=draw
    )
    words = reference.words(9, np.arange(rows, dtype=np.uint64) + row_offset, offset + np.arange(classes), draw)
    assert (words[0] < reference.TAIL_WORDS).any()
    assert np.abs(found.numpy() - reference.exact_noise(*words)).max() < 1e-12


def test_draws_and_rows_are_those_of_samples() -> None:
    """`draw` is the sample's number, and `row_offset` counts rows in C order over all dimensions but the last."""
    shape, draws = (3, 4, 9), 5
    index = gumbel_ext.gumbel_max(torch.zeros(shape), seed=2, num_samples=draws)
    for draw in range(draws):
        noise = gumbel_ext.gumbel_noise(shape, seed=2, draw=draw)
        assert torch.equal(noise.argmax(-1), index[..., draw])
        assert torch.equal(gumbel_ext.gumbel_noise((2, 4, 9), seed=2, draw=draw, row_offset=4), noise[1:])


def every_operation(x: torch.Tensor, dy: torch.Tensor, place: list[int], seed: Any) -> dict[str, torch.Tensor]:
    """Every operation that takes noise, of logits at a place in a larger whole, and gradients that make it again."""
    number, rows = (None, seed) if isinstance(seed, torch.Tensor) else (seed, None)
    source = (number, rows, None)
    forward = (x, None, 0.7, None, True, *source, -1, place)
    index, _ = OPS._sample(x, None, 1.0, None, 0.7, None, *source, -1, place)
    held = None if number is None else torch.tensor(number)
    drawn = (x, None, 1.0, None, 0.7, None, index, held, rows)
    return {
        "relaxed": OPS._relaxed(*forward),
        "logarithms": OPS._log_relaxed(*forward),
        "one-hot": OPS._one_hot(*forward),
        "one-hot and relaxed": torch.stack(OPS._one_hot_relaxed(*forward)),
        "index": OPS._index(x, None, 0.7, None, *source, -1, 5, place),
        "marked index": index,
        "gumbel's gradient": OPS._estimate(dy, *drawn, 0, 1, -1, place, False, False, False)[0],
        "rao's gradient": OPS._estimate(dy, *drawn, 3, 3, -1, place, False, False, False)[0],
        "top-k scores": OPS._top_k(x, 2, False, None, 0.7, None, *source, -1, place)[1],
    }


@pytest.mark.parametrize("row_seeds", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_operation_from_a_class_on(shape: tuple[int, int], dtype: torch.dtype, row_seeds: bool) -> None:
    """An operation on a part is the one on the whole, whose other classes are impossible: to the bit, but for sums that
    meet tiles' borders elsewhere."""
    rows = shape[0]
    seed = torch.arange(rows) * 104729 if row_seeds else 5
    x, dy = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0)).to(dtype)
    close = 0.02 if dtype == torch.bfloat16 else 1e-5
    for offset in (1, 6, 2051):
        before = torch.full((rows, offset), -torch.inf, dtype=dtype)
        whole, whole_dy = torch.cat([before, x], -1), torch.cat([torch.zeros_like(before), dy], -1)
        expected = every_operation(whole, whole_dy, numbers(0, whole.shape), seed)
        for name, found in every_operation(x, dy, numbers(offset, shape), seed).items():
            if "index" in name:
                assert torch.equal(found + offset, expected[name]), name
            elif name in ("one-hot", "top-k scores"):
                assert torch.equal(found, expected[name][:, offset:]), name
            else:
                torch.testing.assert_close(found, expected[name][..., offset:], rtol=close, atol=close, msg=name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_offset": -1}, r"class_offset: expected 0 <= class_offset <= 2\^34 - 3, got -1"),
        ({"class_offset": 2**34 - 2}, r"class_offset: expected .* got 17179869182"),
        ({"row_offset": -5}, "row_offset: expected no negative number, got -5"),
        ({"row_offset": 1, "seed": torch.tensor([1, 2])}, "row_offset: expected 0 with a seed for each row"),
        ({"draw": -1}, r"draw: expected 0 <= draw < 2\^31, got -1"),
        ({"draw": 2**31}, r"draw: expected 0 <= draw < 2\^31, got 2147483648"),
    ],
)
def test_places_out_of_range(arguments: dict[str, Any], message: str) -> None:
    """Refused in one sentence, by every way in, and the generator stays as it was."""
    state = torch.get_rng_state()
    for call in (gumbel_ext.gumbel_noise, torch.ops.gumbel_ext.gumbel_noise):
        with pytest.raises(ValueError, match=message):
            call([2, 3], **arguments)
    assert torch.equal(state, torch.get_rng_state())
