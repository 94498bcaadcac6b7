"""Planted bugs, each modelled on one that others published or fixed; a check that passes its twin is worthless."""

from __future__ import annotations

import numpy as np
import reference
import torch
from reference import Array

from . import sources


def fresh(rows: int, classes: int, seed: int) -> torch.Tensor:
    return torch.rand(rows, classes, generator=torch.Generator().manual_seed(seed))


def coarse(rows: int, classes: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Uniforms of 24 bits. jax-ml/jax#26974: 23 bits, "very coarse sampling near zero"; vllm-project/vllm#47524."""
    tiny = torch.finfo(torch.float32).tiny
    return -(-fresh(rows, classes, seed).clamp_min_(tiny).log()).log()


def coarse_words(rows: int, classes: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """The same 24 bits as words: the lowest 8 bits are always one and the same."""
    u = fresh(rows, classes, seed).double() + 2.0**-25
    return -(-torch.log1p(-u)).log()


def cut(rows: int, classes: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tail cut at 16. jax-ml/jax#5348: after it, gumbel "will give samples in the range (-4.47, 16)"."""
    return sources.noise(rows, classes, seed, dtype).clamp_(max=15.94)


def sixteen_bits(rows: int, classes: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Noise in the logits' 16-bit type. pytorch/pytorch#41663; jax-ml/jax#30879 (bfloat16 against float32)."""
    return sources.noise(rows, classes, seed, torch.bfloat16).to(dtype)


def infinite(rows: int, classes: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Word 0xFFFFFFFF becomes 1, and its noise infinite. sgl-project/sglang#25106: hash / (2^32 - 1) is 1."""
    words, _ = reference.words(seed, rows, classes)
    u = torch.from_numpy(words.astype(np.float64) / (2**32 - 1))
    return -(-u.log()).log()


def shared(rows: int, classes: int, seed: int | torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """One noise vector for every row. vllm-project/vllm#50440: a seed broadcast over the batch."""
    first = seed if isinstance(seed, int) else int(seed[0])
    return sources.noise(1, classes, first, dtype).expand(rows, -1).contiguous()


def seed_plus_row(
    rows: int, classes: int, seed: int | torch.Tensor, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """A known mistake: the row's number is added to the seed, so (seed + 1, row - 1) repeats (seed, row)."""
    seeds = torch.arange(rows) + seed if isinstance(seed, int) else seed
    return sources.noise(rows, classes, seeds, dtype)


def shared_streams(seed: int) -> list[torch.Tensor]:
    """Draft and recovery take one noise. vllm-project/vllm#47386: "the identical noise vector"."""
    draft = sources.noise(1 << 20, 4, seed)
    return [draft, sources.noise(1 << 20, 1, seed + 1), draft]


def first_seed_only(logits: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
    """Rows are told apart by their place. flashinfer-ai/flashinfer#4861: `seed_arr[0]` for the whole batch."""
    return sources.gumbel_ext.gumbel_max(logits, seed=int(seeds[0]))


def rank_noise(logits: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
    """Noise by rank where any row of the batch asks for a filter. sgl-project/sglang#35697: a row's sample changes
    with its batchmates."""
    if not (logits.amax(-1) > 3.5).any():
        return sources.batch(logits, seeds)
    ordered, token = logits.sort(-1, descending=True)
    return token.gather(-1, sources.batch(ordered, seeds)[:, None])[:, 0]


def search(boundaries: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """The class whose interval of the cumulative distribution a uniform of 24 bits falls into."""
    u = torch.rand(n, generator=torch.Generator().manual_seed(seed)) * boundaries[-1]
    return torch.searchsorted(boundaries, u, right=True).clamp_(max=len(boundaries) - 1)


def half_search(logits: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """A search in a float16 distribution. pytorch/pytorch#43115: boundaries in float collapse among many classes
    (at 2^24 in float32; here 16 bits, so that few classes show it)."""
    return search(logits.softmax(-1).double().cumsum(0).half().float(), n, seed)


def lost_tail_search(logits: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """Small weights vanish beside a large one. pytorch/pytorch#28390: "we lose mantissa"."""
    weights = logits.exp().numpy()
    return search(torch.from_numpy(np.add.accumulate(weights, dtype=np.float32)), n, seed)


def cut_rows(logits: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """Gumbel-max with the tail cut at 16: a class 20 nats behind is never drawn. jax-ml/jax#26974."""
    return cut(n, len(logits), seed).add_(logits).argmax(-1)


def closed_search(logits: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """Uniform 0 falls on a first class of probability 0. pytorch/pytorch#9960 (there once in 2^24; here 16 bits)."""
    boundaries = logits.double().softmax(-1).cumsum(0)
    u = torch.randint(1 << 16, (n,), generator=torch.Generator().manual_seed(seed)) / 2**16
    return torch.searchsorted(boundaries, u.double(), right=False).clamp_(max=len(boundaries) - 1)


def finite_mask(logits: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """A known mistake: a finite number, "low enough", in place of minus infinity (here -10, so that few draws do)."""
    return sources.rows(logits.clamp_min(-10.0), n, seed)


def tau_before_noise(logits: torch.Tensor, tau: float, n: int, seed: int) -> torch.Tensor:
    """A known mistake: logits / tau + noise in one-hot samples, which so follow softmax(logits / tau)."""
    return sources.rows((logits / tau).clamp(-3e38, 3e38), n, seed)


def reseeded_words(seeds: Array) -> Array:
    """First outputs of MCG31m1, seeded with these numbers."""
    return seeds.astype(np.uint64) * np.uint64(1132489760) % np.uint64(2**31 - 1)


def reseeded(logits: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """A weak generator seeded anew for every sample, so that consecutive seeds make a lattice. pytorch/pytorch#132395:
    every call of exponential_ seeded a new MCG31m1."""
    u = reseeded_words(np.arange(seed + 1, seed + 1 + n)) / (2**31 - 1)
    return search_exact(logits, torch.from_numpy(u))


def search_exact(logits: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    boundaries = logits.double().softmax(-1).cumsum(0)
    return torch.searchsorted(boundaries, u, right=True).clamp_(max=len(boundaries) - 1)
