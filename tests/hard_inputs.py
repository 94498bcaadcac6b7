"""Where every test of hard input takes it from: Hypothesis strategies over whole dtypes, temperatures and layouts.

A strategy draws a recipe, some words and a seed, and the recipe makes the tensors: a failure prints a few numbers that
can be pasted into an `@example`, and shrinks, however many classes a row has.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

Array = NDArray[Any]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LARGEST, SMALLEST = torch.finfo(torch.float64).max, 5e-324

# Where a vector, a block of the search, a lane or a tile begins.
SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1023, 1024, 1025,
         2047, 2048, 2049, 4095, 4096, 4097]  # fmt: skip
ROWS = [2, 1, 3, 5, 8, 17, 33, 65, 300, 2049]


def smallest(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).tiny * torch.finfo(dtype).eps


Make = Callable[[np.random.Generator, tuple[int, int], torch.dtype], Array]


def _bits(rng: np.random.Generator, shape: tuple[int, int], dtype: torch.dtype) -> Array:
    raw = rng.integers(0, 2 ** (8 * dtype.itemsize), shape, f"uint{8 * dtype.itemsize}")
    return torch.from_numpy(raw).view(dtype).double().numpy()


def _shuffled_top(rng: np.random.Generator, low: Array, *top: float) -> Array:
    """`low` with the numbers of `top` in some of its columns, in this order."""
    n = low.shape[1]
    places = np.sort(rng.permuted(np.tile(np.arange(n), (len(low), 1)), axis=1)[:, : len(top)], axis=1)
    for column, value in zip(places.T, top, strict=False):
        low[np.arange(len(low)), column] = value
    return low


# Rows of numbers about 1, or of the whole dtype: (rows, classes) at once. From the simplest to the strangest.
KINDS: dict[str, Make] = {
    "equal": lambda rng, shape, dtype: np.ones(shape),
    "normal": lambda rng, shape, dtype: rng.standard_normal(shape),
    "ties": lambda rng, shape, dtype: rng.integers(-2, 3, shape).astype(float),
    "zeros": lambda rng, shape, dtype: rng.choice([0.0, -0.0], shape),
    "signs": lambda rng, shape, dtype: rng.choice([1.0, -1.0], shape),
    "rising": lambda rng, shape, dtype: np.sort(rng.uniform(-1, 1, shape)),
    "falling": lambda rng, shape, dtype: -np.sort(rng.uniform(-1, 1, shape)),
    "ahead": lambda rng, shape, dtype: _shuffled_top(rng, rng.uniform(-1e-3, 1e-3, shape), 1.0),
    "ahead later": lambda rng, shape, dtype: _shuffled_top(rng, np.zeros(shape), 0.9, 1.0),
    "an ulp apart": lambda rng, shape, dtype: _shuffled_top(
        rng, rng.uniform(-1, 1, shape), *rng.permuted([1.0, 1 + torch.finfo(dtype).eps])
    ),
    "magnitudes": lambda rng, shape, dtype: rng.choice([1.0, -1.0], shape) * np.exp2(rng.uniform(-300, 0, shape)),
    "bits": _bits,
}  # fmt: skip
UNSCALED = "bits"


@dataclass(frozen=True)
class Numbers:
    """Rows of `kinds` in turn, times 2**exponent, then `holes` (a share) of -inf, then single numbers put in."""

    kinds: tuple[str, ...] = ("normal",)
    exponent: int = 0
    seed: int = 0
    holes: float = 0.0
    put: tuple[tuple[int, float], ...] = ()
    finite: bool = True

    def tensor(self, shape: tuple[int, ...], dim: int, dtype: torch.dtype) -> torch.Tensor:
        classes = shape[dim] if shape else 1
        rows = math.prod(shape) // max(classes, 1) if classes else 0
        rng, limit = np.random.default_rng(self.seed), torch.finfo(dtype).max
        values = np.empty((rows, classes))
        with np.errstate(all="ignore"):
            for first, kind in enumerate(self.kinds):
                part = values[first :: len(self.kinds)]
                part[...] = KINDS[kind](rng, part.shape, dtype)
                if kind != UNSCALED:
                    part[...] = np.clip(np.ldexp(part, self.exponent), -limit, limit)
        if self.finite:
            values = np.nan_to_num(values, nan=0.0, posinf=limit, neginf=-limit)
        values[rng.random(values.shape) < self.holes] = -np.inf
        flat = values.reshape(-1)
        for place, value in self.put if flat.size else ():
            flat[place % flat.size] = value if not math.isfinite(value) else min(max(value, -limit), limit)
        if not shape:
            return torch.from_numpy(flat).to(dtype)[0]
        moved = torch.from_numpy(values).to(dtype).reshape(*shape[:dim], *shape[dim + 1 :], classes)
        return moved.movedim(-1, dim).contiguous()


def _sliced(x: torch.Tensor) -> torch.Tensor:
    frame = torch.full([2 * n + 3 for n in x.shape], torch.nan, dtype=x.dtype)
    inner = frame[tuple(slice(1, 2 * n + 1, 2) for n in x.shape)]
    return inner.copy_(x)


def _offset(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, torch.full_like(x[..., :1], torch.nan)], -1)[..., :-1] if x.dim() else x


# Views that hold other numbers where `expanded`, and else the same ones at other strides.
LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": lambda x: x,
    "permuted": lambda x: x.permute(tuple(range(x.dim()))[::-1]).contiguous().permute(tuple(range(x.dim()))[::-1]),
    "rotated": lambda x: x.movedim(-1, 0).contiguous().movedim(0, -1) if x.dim() else x,
    "sliced": _sliced,
    "offset": _offset,
    "negated": lambda x: torch._neg_view(x.neg()),
    "expanded rows": lambda x: x[:1].expand_as(x) if x.dim() and len(x) else x,
    "expanded classes": lambda x: x[..., :1].expand_as(x) if x.dim() and x.shape[-1] else x,
}


@dataclass(frozen=True)
class Problem:
    """The arguments of an operation, and a gradient that comes in (or a tangent)."""

    shape: tuple[int, ...] = (1, 2)
    dim: int = -1
    dtype: torch.dtype = torch.float32
    logits: Numbers = Numbers()
    layout: str = "contiguous"
    taus: tuple[float, ...] = (1.0,)  # of the rows, in turn
    tau_dtype: torch.dtype | None = None  # of a tensor of one a row, else the first is a number for all
    allowed: float | None = None  # the share of a mask's classes
    seed: int = 0
    row_seeds: bool = False
    dy: Numbers = Numbers()
    dy_layout: str = "contiguous"
    one_tau: bool = field(default=False)  # the tensor has one element for all rows

    @property
    def axis(self) -> int:
        return self.dim % len(self.shape) if self.shape else 0

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]

    def x(self) -> torch.Tensor:
        return LAYOUTS[self.layout](self.logits.tensor(self.shape, self.axis, self.dtype))

    def grad(self) -> torch.Tensor:
        return LAYOUTS[self.dy_layout](self.dy.tensor(self.shape, self.axis, self.dtype))

    def tau(self) -> float | torch.Tensor:
        if self.tau_dtype is None:
            return self.taus[0]
        info = torch.finfo(self.tau_dtype)
        held = [tau and min(max(tau, smallest(self.tau_dtype)), info.max) for tau in self.taus]
        if self.one_tau:
            return torch.tensor(held[0], dtype=torch.float64).to(self.tau_dtype)
        rows = itertools.islice(itertools.cycle(held), math.prod(self.row_shape))
        values = torch.tensor(list(rows), dtype=torch.float64).to(self.tau_dtype).reshape(self.row_shape)
        return values.unsqueeze(self.axis) if self.shape else values

    def mask(self) -> torch.Tensor | None:
        if self.allowed is None:
            return None
        shape = (1, *self.shape[1:]) if self.seed % 2 else self.shape  # for every row its own, or for many
        return torch.rand(shape[: len(self.shape)], generator=torch.Generator().manual_seed(5)) < self.allowed

    def seeds(self) -> int | torch.Tensor:
        if not self.row_seeds:
            return self.seed
        extremes = torch.tensor([self.seed % 2**63, -(2**63), 2**63 - 1, 0, -1, 1343428])
        count = math.prod(self.row_shape)
        return (extremes.repeat(count // 6 + 1)[:count] ^ torch.arange(count) // 6).reshape(self.row_shape)


# Exponents of 2: of every number there is, and where a dtype's range or precision ends.
EXPONENTS = (
    st.just(0)
    | st.integers(-8, 8)
    | st.sampled_from([-24, -53, -126, -127, -149, -150, -1022, -1074, 24, 53, 104, 127, 128, 1000, 1023])
    | st.integers(-1074, 1023)
)
TAUS = (
    st.just(1.0)
    | EXPONENTS.map(lambda k: math.ldexp(1.0, k))
    | st.sampled_from([0.1, 0.7, 1e-5, 1e-31, 1e-38, 1e-40, 1e-46, 1e-300, 1e10, 1e38, 1e39, 1e300, LARGEST, SMALLEST])
    | st.floats(SMALLEST, LARGEST)
)
SEEDS = st.sampled_from([0, -1, -(2**63), 2**63 - 1, 2**64 - 1, 1343428]) | st.integers(-(2**63), 2**64 - 1)
NUMBERS = st.sampled_from([0.0, -0.0, 1.0, -1.0, LARGEST, -LARGEST, SMALLEST, 3.0e38, 3.3e38]) | st.floats(
    allow_nan=False, allow_infinity=False
)
UNDEFINED = st.sampled_from([math.nan, math.inf, -math.inf])


@st.composite
def numbers(draw: Any, about: float = 1.0, finite: bool = True, holes: bool = True) -> Numbers:
    """Of the whole dtype, or as large as `about`, where softmax and noise have something to decide."""
    near = st.integers(-2, 6).map(lambda k: k + math.frexp(about)[1] - 1)
    value = NUMBERS if finite else NUMBERS | UNDEFINED
    kinds = st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=3)
    return Numbers(
        kinds=tuple(draw(kinds)),
        exponent=draw(near | near | EXPONENTS),
        seed=draw(st.integers(0, 99)),
        holes=draw(st.sampled_from([0.0, 0.0, 0.1, 0.95])) if holes else 0.0,
        put=tuple(draw(st.lists(st.tuples(st.integers(0, 5000), value), max_size=6))),
        finite=finite,
    )


@st.composite
def shapes(draw: Any, most: int = 12_000, empty: bool = False) -> tuple[tuple[int, ...], int]:
    """A shape of at most so many elements and the dimension of its classes."""
    if draw(st.integers(0, 30)) == 30:
        return (), 0
    classes = draw(st.sampled_from([*SIZES, *([0] if empty else [])]))
    sizes = st.sampled_from([*ROWS, 0] if empty else ROWS)
    others = draw(st.lists(sizes, min_size=draw(st.sampled_from([1, 1, 0])), max_size=3))
    while math.prod(max(n, 1) for n in others) * classes > most:
        others[others.index(max(others))] = 1
    dim = draw(st.integers(0, len(others)))
    return (*others[:dim], classes, *others[dim:]), dim - draw(st.sampled_from([len(others) + 1, 0]))


@st.composite
def problems(draw: Any, finite: bool = True, greedy: bool = False, empty: bool = False, dy: bool = False) -> Problem:
    """Any dtype, shape, layout, temperature, mask and seed. `greedy`: a temperature may be 0."""
    shape, dim = draw(shapes(empty=empty))
    dtype = draw(st.sampled_from(DTYPES))
    about = draw(
        st.just(1.0) | st.sampled_from([smallest(dtype), torch.finfo(dtype).tiny, torch.finfo(dtype).max]) | TAUS
    )
    near = st.sampled_from([1.0, 0.7, 1 / 3, 2.0, 30.0]).map(lambda part: min(max(about * part, SMALLEST), LARGEST))
    taus = tuple(draw(st.lists(near | (TAUS | st.just(0.0) if greedy else TAUS), min_size=1, max_size=3)))
    return Problem(
        shape=shape,
        dim=dim,
        dtype=dtype,
        logits=draw(numbers(about, finite or draw(st.sampled_from([True, True, False])))),
        layout=draw(st.sampled_from(list(LAYOUTS))),
        taus=taus,
        tau_dtype=draw(st.sampled_from([None, *DTYPES])),
        allowed=draw(st.sampled_from([None, None, 0.9, 0.3])),
        seed=draw(SEEDS),
        row_seeds=draw(st.booleans()),
        dy=draw(numbers(1.0, holes=False)) if dy else Numbers(),
        dy_layout=draw(st.sampled_from(list(LAYOUTS))) if dy else "contiguous",
        one_tau=draw(st.sampled_from([False, False, True])),
    )
