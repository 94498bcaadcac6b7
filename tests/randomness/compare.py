"""The same questions to gumbel_ext, torch.nn.functional.gumbel_softmax and JAX: how far noise reaches, and what a
sample depends on besides its seed. JAX is optional: `pip install jax` beside torch."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

import gumbel_ext

from .noise import above, collisions, fit

BEYOND = (8, 10, 12, 14, 16, 18, 20, 22)
ROWS, CLASSES = 4096, 1024
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@dataclass(frozen=True)
class Library:
    """Noise of (rows, classes), relaxed samples of logits under one seed, and of a batch in parts of these sizes: with
    a seed a row where there is one, and else one after the other."""

    name: str
    version: str
    noise: Callable[[int, int, int, torch.dtype], torch.Tensor]
    sample: Callable[[torch.Tensor, int], torch.Tensor]
    parts: Callable[[torch.Tensor, list[int]], list[torch.Tensor]]


def ours() -> Library:
    return Library(
        "gumbel_ext", gumbel_ext.__version__,
        lambda rows, classes, seed, dtype: gumbel_ext.gumbel_noise((rows, classes), seed=seed, dtype=dtype),
        lambda x, seed: gumbel_ext.gumbel_softmax(x, seed=seed),
        lambda x, sizes: [
            gumbel_ext.gumbel_softmax(part, seed=seeds)
            for part, seeds in zip(x.split(sizes), torch.arange(len(x)).split(sizes), strict=True)
        ],
    )  # fmt: skip


def pytorch() -> Library:
    def noise(rows: int, classes: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
        torch.manual_seed(seed)  # the line of torch.nn.functional.gumbel_softmax
        return -torch.empty(rows, classes, dtype=dtype).exponential_().log()

    def sample(x: torch.Tensor, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.nn.functional.gumbel_softmax(x)

    def parts(x: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
        torch.manual_seed(1)
        return [torch.nn.functional.gumbel_softmax(part) for part in x.split(sizes)]

    return Library("torch", torch.__version__, noise, sample, parts)


def jax(mode: str | None = None) -> Library:
    import jax
    import jax.numpy as jnp

    def key(seed: int) -> Any:
        return jax.random.key(seed)

    def back(x: Any) -> torch.Tensor:
        return torch.from_numpy(np.asarray(x).copy())

    gumbel = jax.jit(partial(jax.random.gumbel, mode=mode), static_argnums=(1, 2))
    types = {torch.float32: jnp.float32, torch.float16: jnp.float16}

    def relaxed(k: Any, x: Any) -> Any:
        return jax.nn.softmax(x + jax.random.gumbel(k, x.shape, x.dtype, mode=mode))

    def parts(x: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
        keys, ends = jax.vmap(jax.random.key)(jnp.arange(len(x))), np.cumsum(sizes)
        rows = jax.jit(jax.vmap(relaxed))
        return [back(rows(keys[i:j], x[i:j].numpy())) for i, j in zip(ends - sizes, ends, strict=True)]

    return Library(
        f"JAX, {mode}" if mode else "JAX", jax.__version__,
        lambda r, c, seed, dtype: back(gumbel(key(seed), (r, c), types[dtype])),
        lambda x, seed: back(jax.jit(relaxed)(key(seed), x.numpy())),
        parts,
    )  # fmt: skip


LIBRARIES: dict[str, Callable[[], Library]] = {
    "gumbel_ext": ours, "torch": pytorch, "JAX": jax, "JAX, high": partial(jax, "high"),
}  # fmt: skip


def available() -> list[str]:
    return [name for name in LIBRARIES if not name.startswith("JAX") or importlib.util.find_spec("jax")]


def reach(library: Library, n: int, dtype: torch.dtype) -> dict[str, Any]:
    """Counts beyond each threshold, the largest finite value, and how many values are infinite or NaN."""
    counts, largest, bad, draws = np.zeros(len(BEYOND), int), -np.inf, 0, 0
    for seed in range(-(-n // (ROWS * CLASSES))):
        g = library.noise(ROWS, CLASSES, seed, dtype)
        draws += g.numel()
        top = g.amax(0)
        if not top.isfinite().all():
            bad += int((~g.isfinite()).sum())
            g = g.where(g.isfinite(), 0)
            top = g.amax(0)
        largest = max(largest, top.max().item())
        far = g[g > BEYOND[0]]
        counts += [int((far > t).sum()) for t in BEYOND]
    expected = draws * above(np.array(BEYOND))
    return {"draws": draws, "beyond": BEYOND, "counts": counts.tolist(), "expected": expected.tolist(),
            "largest": largest, "not_finite": bad}  # fmt: skip


def digest(name: str, threads: int) -> str:
    """Of samples drawn by a new process with this many threads and processors."""
    command = [sys.executable, "-m", "randomness.compare", name, str(threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()[-1]


def invariance(library: Library) -> dict[str, bool]:
    """Whether a sample is the same for another thread count, in a longer batch, and with the batch in parts."""
    x = torch.zeros(512, 1000)
    return {
        "threads": digest(library.name, 1) == digest(library.name, 2),
        "longer_batch": torch.equal(library.sample(x[:200], 1), library.sample(x, 1)[:200]),
        "parts": torch.equal(torch.cat(library.parts(x, [200, 312])), library.parts(x, [512])[0]),
    }


def compared(name: str, scaled: Callable[[int], int]) -> dict[str, Any]:
    """Everything of one library: `scaled` says how much to draw of these draws."""
    library = LIBRARIES[name]()
    noise = partial(library.noise, dtype=torch.float32)
    equal = collisions(noise, scaled(10**9), 1)
    return {
        "version": library.version,
        "float32": reach(library, scaled(4 * 10**9), torch.float32),
        "float16": reach(library, scaled(25 * 10**7), torch.float16),
        "law": {r.check: r.p for r in fit(noise, scaled(10**8), 2)},
        "equal": {"draws": equal.draws, "pairs": equal.statistic, "p": equal.p},
        "same": invariance(library),
    }


if __name__ == "__main__":
    name, threads = sys.argv[1], int(sys.argv[2])
    if CORES:
        os.sched_setaffinity(0, CORES[:threads])
    torch.set_num_threads(threads)
    sampled = LIBRARIES[name]().sample(torch.zeros(512, 1000), 1)
    print(hashlib.sha256(sampled.numpy().tobytes()).hexdigest())
