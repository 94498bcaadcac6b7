"""An independent implementation, in NumPy, of what the library promises.

The words: Philox4x32-10 with its counter layout and the continuation of small words. The noise: in float64
from the defining formula, and bit for bit from the fixed sequence of operations, with emulated fused
multiply-adds (NumPy has none). The index: `numpy.argmax`. The softmax: in the widest precision there is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
TAIL_WORDS = 1 << 16
TAIL_DRAW = 1 << 31
LOW32 = np.uint64(0xFFFFFFFF)
SHIFT32 = np.uint64(32)


def philox4x32_10(counter: tuple[Array, Array, Array, Array], key: tuple[Array, Array]) -> list[Array]:
    """Salmon et al., SC 2011. Counter and key words are arrays that broadcast; so are the four results."""
    c0, c1, c2, c3 = (np.asarray(c, np.uint64) for c in counter)
    k0, k1 = (np.asarray(k, np.uint64) for k in key)
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> SHIFT32) ^ c1 ^ k0, p1 & LOW32, (p0 >> SHIFT32) ^ c3 ^ k1, p0 & LOW32
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & LOW32, (k1 + np.uint64(0xBB67AE85)) & LOW32
    return [np.asarray(c).astype(np.uint32) for c in (c0, c1, c2, c3)]


def row_keys(seed: Any, rows: int | Array) -> tuple[Array, Array]:
    """Key and counter row of every row: one seed and the row's number, or a seed a row and row 0.

    Rows are given by how many they are, or by their numbers.
    """
    numbers = np.arange(rows, dtype=np.uint64) if isinstance(rows, int) else np.asarray(rows, np.uint64)
    if isinstance(seed, torch.Tensor):
        return seed.reshape(-1).numpy().astype(np.int64).view(np.uint64), np.zeros_like(numbers)
    return np.full(len(numbers), seed % 2**64, np.uint64), numbers


def philox_words(seed: Any, rows: int | Array, classes: Array, draw: int) -> Array:
    """The word of every (row, class)."""
    seeds, numbers = row_keys(seed, rows)
    seeds, numbers = seeds[:, None], numbers[:, None]
    quads, inverse = np.unique(classes // 4, return_inverse=True)
    counter = (quads[None].astype(np.uint64), np.uint64(draw), numbers & LOW32, numbers >> SHIFT32)
    four = np.stack(np.broadcast_arrays(*philox4x32_10(counter, (seeds & LOW32, seeds >> SHIFT32))), -1)
    return np.broadcast_to(four, (len(seeds), len(quads), 4))[:, inverse.reshape(-1), classes % 4]


def words(seed: Any, rows: int | Array, classes: int | Array, draw: int = 0) -> tuple[Array, Array]:
    """The words and their continuations (0 where the word needs none)."""
    classes = np.arange(classes) if isinstance(classes, int) else np.asarray(classes)
    first = philox_words(seed, rows, classes, draw)
    second = np.zeros_like(first)
    small = first < TAIL_WORDS
    if small.any():
        columns = small.any(0)
        second[:, columns] = philox_words(seed, rows, classes[columns], draw + TAIL_DRAW)
    return first, np.where(small, second, np.uint32(0))


def exact_noise(word: Array, continuation: Array) -> Array:
    """-log(-log1p(-v)) in float64."""
    v = (word + np.where(word < TAIL_WORDS, (continuation + 0.5) * 2.0**-32, 0.5)) * 2.0**-32
    return -np.log(-np.log1p(-v))


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """Dekker's, after Veltkamp's split."""
    p = a * b
    ca, cb = a * 134217729.0, b * 134217729.0
    ah, bh = ca - (ca - a), cb - (cb - b)
    al, bl = a - ah, b - bh
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def add_to_odd(a: Array, b: Array) -> Array:
    """a + b rounded to odd, so that rounding it once more rounds the exact sum."""
    s, e = two_sum(a, b)
    even = (s.view(np.int64) & 1) == 0
    return np.where((e != 0) & even, np.nextafter(s, np.where(e > 0, np.inf, -np.inf)), s)


def fma(a: Array, b: Any, c: Any) -> Array:
    """a * b + c, rounded once, in the type of `a`: float32, or float64 (Boldo and Melquiond, 2008)."""
    b, c = np.broadcast_to(np.asarray(b, a.dtype), a.shape), np.broadcast_to(np.asarray(c, a.dtype), a.shape)
    if a.dtype == np.float32:
        return add_to_odd(a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)).astype(np.float32)
    high, low = two_product(a, b)
    t_high, t_low = two_sum(c, low)
    v_high, v_low = two_sum(high, t_high)
    return v_high + add_to_odd(t_low, v_low)


LOG_COEFFICIENTS = {
    np.float32: (
        -0.135311271, 0.1421005, -0.120142585, 0.139542767, -0.1669595, 0.200140797, -0.24999251, 0.33333137,
        -0.500000058,
    ),
    np.float64: (
        -0.087808525632828650961, 0.086888048633854426473, -0.035694487402396050061, 0.040668154300173290518,
        -0.058171787790743349911, 0.060784001822100399252, -0.062203780370098490378, 0.066470174799310150906,
        -0.071450423883538901036, 0.076935689830905811345, -0.083332269295813831076, 0.090908569189013824531,
        -0.10000003371545522044, 0.1111111246716778427, -0.12499999933386004483, 0.1428571426492370436,
        -0.16666666667420635497, 0.20000000000164852448, -0.24999999999995867984, 0.33333333333332843719,
        -0.50000000000000007271,
    ),
}  # fmt: skip
LOG_LAYOUT = {  # unsigned type, mantissa bits, bits of the first number above 2/3, ln 2
    np.float32: (np.uint32, 23, 0x3F2AAAAB, float.fromhex("0x1.62e43p-1")),
    np.float64: (np.uint64, 52, 0x3FE5555555555556, float.fromhex("0x1.62e42fefa39efp-1")),
}


def log_reduced(exponent: Array, f: Array) -> Array:
    """log(2^exponent * (1 + f)) by the fixed sequence."""
    first, *rest = LOG_COEFFICIENTS[f.dtype.type]
    polynomial = np.full_like(f, first)
    for coefficient in rest:
        polynomial = fma(polynomial, f, coefficient)
    return fma(exponent, LOG_LAYOUT[f.dtype.type][3], fma(f * f, polynomial, f))


def reduce_log(x: Array) -> tuple[Array, Array]:
    unsigned, mantissa, two_thirds, _ = LOG_LAYOUT[x.dtype.type]
    bits = x.view(unsigned)
    exponent = ((bits - unsigned(two_thirds)) >> unsigned(mantissa)) << unsigned(mantissa)
    signed = np.int32 if unsigned is np.uint32 else np.int64
    return (exponent.view(signed) >> mantissa).astype(x.dtype), (bits - exponent).view(x.dtype) - x.dtype.type(1)


def noise_of(word: Array, continuation: Array, dtype: Any) -> Array:
    """The noise's bits in float32 or float64."""
    dtype = np.dtype(dtype).type
    small = word < 0x55555555
    steps = np.where(small, word, np.uint32(0) - word).astype(dtype)
    v = (steps + np.where(small, dtype(0.5), dtype(-0.5))) * dtype(2.0**-32)
    exponent, f = reduce_log(v)
    tail = word < TAIL_WORDS
    twice = ((word.astype(np.uint64) << SHIFT32 | continuation.astype(np.uint64)) << np.uint64(1)) | np.uint64(1)
    v = np.where(tail, np.where(tail, twice, 1).astype(np.int64).astype(dtype) * dtype(2.0**-65), v)
    e = -log_reduced(np.where(small, dtype(0), exponent), np.where(small, -v, f))
    return -log_reduced(*reduce_log(e))


def noise(seed: Any, rows: int | Array, classes: int | Array, dtype: Any = np.float32, draw: int = 0) -> Array:
    """g(seed, row, class, draw), of one row a row and one column a class."""
    return noise_of(*words(seed, rows, classes, draw), dtype)


def working(dtype: torch.dtype) -> Any:
    """The type in which arithmetic on `dtype` is."""
    return np.float64 if dtype == torch.float64 else np.float32


def to_rows(x: torch.Tensor, dim: int = -1, mask: torch.Tensor | None = None) -> Array:
    """Rows in C order over the dimensions but `dim`; -inf where the mask is false."""
    x = x.detach()
    if mask is not None:
        x = x.masked_fill(~mask, -torch.inf)
    if x.dim() == 0:
        x = x[None]
    x = x.movedim(dim, -1)
    rows = x.to(torch.float64).resolve_neg().reshape(x.shape[:-1].numel(), x.shape[-1]).numpy()
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return rows.astype(working(x.dtype))


def from_rows(values: Array, like: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """The rows back at their places in a tensor shaped as `like`."""
    shape = like.movedim(dim, -1).shape if like.dim() else torch.Size([1])
    return torch.from_numpy(np.ascontiguousarray(values)).reshape(shape).movedim(-1, dim).reshape(like.shape)


def row_values(value: Any, x: torch.Tensor, dim: int) -> Array:
    """A number, or a tensor that broadcasts with size 1 along `dim`, as a column of one value a row."""
    if not isinstance(value, torch.Tensor):
        return np.full((1, 1), float(value))
    value, shape = value.detach().to(torch.float64), list(x.shape)
    if shape:
        shape[dim] = 1
        value = value.expand(shape).movedim(dim, -1)
    return value.reshape(-1, 1).numpy()


def quotients(scores: Array, t: Array) -> Array:
    """scores / t in their precision, t rounded to it first where it has it among its normal numbers.

    Where a quotient leaves the range at the top of a finite row, the row's largest score is subtracted first: the
    winner is that of the exact quotients. Beside +infinity no finite score counts. A temperature of 0 is greedy, and
    here divides by 1.
    """
    limits, t = np.finfo(scores.dtype), np.where(t == 0, 1, t)
    held = scores.dtype == t.dtype or ((t >= limits.tiny) & (t <= limits.max))
    with np.errstate(all="ignore"):
        rounded = np.where(held, t.astype(scores.dtype), t)

        def divided(a: Array) -> Array:
            return np.where(held, a / rounded.astype(scores.dtype), (a / rounded).astype(scores.dtype))

        found, largest = divided(scores), scores.max(-1, keepdims=True, initial=-np.inf)
        beyond = np.isfinite(largest) & np.isinf(found.max(-1, keepdims=True, initial=-np.inf))
        found = np.where((largest == np.inf) & (scores < np.inf), -np.inf, found)
        return np.where(beyond, divided(scores - largest), found)


def gumbel_max(
    x: torch.Tensor, temperature: Any = 1.0, dim: int = -1, seed: Any = 0, draw: int = 0, mask: Any = None
) -> torch.Tensor:
    """argmax(x / temperature + g), in the working precision; a temperature of 0 is greedy."""
    scores, t = to_rows(x, dim, mask), row_values(temperature, x, dim)
    noisy = quotients(scores, t) + noise(seed, *scores.shape, scores.dtype, draw)
    index = np.where(t == 0, scores, noisy).argmax(-1)
    return torch.from_numpy(index).reshape(x.movedim(dim, -1).shape[:-1] if x.dim() else ())


def top_classes(
    x: torch.Tensor, temperature: Any = 1.0, dim: int = -1, seed: Any = 0, mask: Any = None
) -> tuple[Array, Array]:
    """Each row's classes by x / temperature + g, the best first, and these scores less the largest x / temperature.

    NaN is the largest, and of equals the lower class comes first; scores of -infinity are in the order of x. Where the
    largest finite quotient leaves the range, the largest finite x is subtracted first. A temperature of 0 is greedy.
    """
    scores, t = to_rows(x, dim, mask), row_values(temperature, x, dim)
    limits = np.finfo(scores.dtype)
    divisor, is_zero = np.where(t == 0, 1, t), t == 0
    held = scores.dtype == t.dtype or ((divisor >= limits.tiny) & (divisor <= limits.max))
    with np.errstate(all="ignore"):
        rounded = np.where(held, divisor.astype(scores.dtype), divisor)

        def divided(a: Array) -> Array:
            return np.where(held, a / rounded.astype(scores.dtype), (a / rounded).astype(scores.dtype))

        finite = np.where(scores < np.inf, scores, -np.inf).max(-1, keepdims=True)
        beyond = np.isfinite(finite) & np.isinf(divided(finite)) & ~is_zero
        shift = np.where(beyond, finite, 0).astype(scores.dtype)
        noisy = divided(scores - shift) + noise(seed, *scores.shape, scores.dtype)
        found = np.where(is_zero, scores, noisy)
        base = np.where(is_zero, finite, divided(finite - shift))
    is_nan, is_lowest = np.isnan(found), found == -np.inf
    keys = (np.where(is_lowest, -scores, 0), np.where(is_nan, 0, -found), ~is_nan)  # the last one first; stable
    order = np.lexsort(keys, axis=-1)
    with np.errstate(all="ignore"):
        return order, np.take_along_axis(found - base, order, -1)


def shortfall(x: torch.Tensor, index: torch.Tensor, t: Array, dim: int, seed: Any, draw: int, mask: Any) -> Array:
    """How far the exact score of each row's index is below the row's best, in the working precision's roundings."""
    scores = to_rows(x, dim, mask)
    limits, g = np.finfo(scores.dtype), noise(seed, *scores.shape, scores.dtype, draw)
    scores, t = scores.astype(np.longdouble), np.where(t == 0, 1, t).astype(np.longdouble)
    largest = scores.max(-1, keepdims=True)
    exact = (scores - largest) / t + g
    lost = exact.max(-1) - exact[np.arange(len(scores)), index.reshape(-1).numpy()]
    reach = np.abs(largest / t)[:, 0]  # where this leaves the range, the largest logit is subtracted
    return lost / (limits.eps * (50 + np.where(reach > limits.max, 0, reach)))


def softmax(scores: Array, tau: Array) -> Array:
    """softmax(scores / tau) along the last axis in the widest type there is; NaN where it is undefined."""
    scores = scores.astype(np.longdouble)
    with np.errstate(all="ignore"):
        exponentials = np.exp((scores - scores.max(-1, keepdims=True)) / tau.astype(np.longdouble))
    return exponentials / exponentials.sum(-1, keepdims=True)


def vjp(
    p: Array, dy: Array, tau: Array, eps: float, smallest: float, products: int = 1
) -> tuple[Array, Array, Array, Array]:
    """The gradients of logits and of tau, one of the latter a row, and a bound on the error of each.

    Eight roundings `eps` of what the differences are made of, and one of the `smallest` number for each of the
    `products` with p: the kernels make one, operations that can be differentiated again two. For tau one more in double
    for each class, whose sum it is. p log p may count as 0 where p has lost digits of its own.
    """
    p, dy, tau = (a.astype(np.longdouble) for a in (p, dy, tau))
    with np.errstate(all="ignore"):
        dx = p * (dy - (p * dy).sum(-1, keepdims=True)) / tau
        size = p * (np.abs(dy) + (p * np.abs(dy)).sum(-1, keepdims=True)) / tau
        error = np.where(p > 0, 8 * eps * size + smallest * (1 + products * (1 + p * p.shape[1]) / tau), 0)
        log_p = np.log(np.where(p > 0, p, 1))
        lost = size * np.where(p < smallest / eps, 1, p.shape[1] * 2.0**-53) * np.abs(log_p)
        return dx, error, -(dx * log_p).sum(-1), (error * (1 - log_p) + lost).sum(-1) + smallest


def vjp_error(p: Array, p_error: Array, dy: Array, tau: Array | float) -> Array:
    """How far the gradient of logits is off where p is by p_error."""
    p, size, tau = (np.asarray(a, np.longdouble) for a in (p, np.abs(dy), tau))
    with np.errstate(all="ignore"):
        along = (p * size).sum(-1, keepdims=True)
        return (p_error * (size + along) + p * (p_error * size).sum(-1, keepdims=True)) / tau


def within(found: torch.Tensor, expected: Array, error: Array) -> bool:
    """Whether all numbers are between expected - error and expected + error as their dtype rounds these.

    So a number is finite unless one of the two is beyond the dtype, and never NaN.
    """
    with np.errstate(all="ignore"):
        low, high = (
            torch.from_numpy(a.astype(np.float64)).to(found.dtype) for a in (expected - error, expected + error)
        )
    return bool(((low <= found) & (found <= high)).all())


def differing(a: torch.Tensor, b: torch.Tensor) -> int:
    """How many elements differ; NaNs are alike."""
    return int((~((a == b) | (a.isnan() & b.isnan()))).sum())
