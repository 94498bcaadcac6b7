"""The JAX side: noise, softmax and straight-through one-hot, forward and backward, under one jax.jit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import torch
from torch import Tensor

from benchmarks.cases import WORKS, Case, Problem
from benchmarks.sides import Outcome, Side

#: JAX's pseudo-random generators; which is fastest depends on the processor and the shape.
GENERATORS = ("threefry2x32", "rbg", "unsafe_rbg")


def _from_torch(tensor: Tensor) -> jax.Array:
    return jax.dlpack.from_dlpack(tensor.detach().contiguous().clone())


def _to_torch(array: jax.Array) -> Tensor:
    return torch.from_dlpack(array)


def _sample(case: Case, key: jax.Array, x: jax.Array, mask: jax.Array | None, tau: Any) -> jax.Array:
    if mask is not None:
        x = jnp.where(mask, x, -jnp.inf)
    if case.work == "index":
        return jax.random.categorical(key, x, axis=case.dim)
    if WORKS[case.work]:
        x = x + jax.random.gumbel(key, x.shape, x.dtype)
    p = jax.nn.softmax(x / tau, axis=case.dim)
    if case.work in ("relaxed", "softmax"):
        return p
    z = jax.nn.one_hot(jnp.argmax(x, case.dim), x.shape[case.dim], axis=case.dim, dtype=p.dtype)
    return z - jax.lax.stop_gradient(p) + p


def side(problem: Problem, generator: str) -> Side:
    """One jitted step that takes the generator's key and returns the next."""
    case = problem.case
    x = _from_torch(problem.logits)
    mask = None if problem.mask is None else _from_torch(problem.mask)
    per_row = isinstance(problem.tau, Tensor)
    tau = _from_torch(problem.tau) if per_row else problem.tau
    upstream = _from_torch(problem.upstream)

    @jax.jit
    def step(key: jax.Array, *inputs: Any) -> tuple[jax.Array, ...]:
        x, mask, upstream = inputs[:3]
        key, now = jax.random.split(key)
        if not case.differentiates:
            return key, _sample(case, now, x, mask, tau)
        wanted = (x, inputs[3]) if per_row else (x,)
        y, pull = jax.vjp(lambda x, tau=tau: _sample(case, now, x, mask, tau), *wanted)
        return key, y, *pull(upstream)

    inputs = (x, mask, upstream, tau) if per_row else (x, mask, upstream)
    key = jax.random.key(0, impl=generator)

    def call() -> tuple[jax.Array, ...]:
        nonlocal key
        key, *results = jax.block_until_ready(step(key, *inputs))
        return tuple(results)

    def trial() -> Outcome:
        results = call()
        sample = _to_torch(results[0])
        if case.work == "index":
            return sample.long(), None
        return sample, _to_torch(results[1]) if case.differentiates else None

    return Side(call, case.logits, trial, note=generator if WORKS[case.work] else "")
