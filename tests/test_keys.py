"""Keys of torch.func._random as seeds. It is a prototype: the first test says when it has changed."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch

import gumbel_ext
from gumbel_ext import _keys

SINCE = (2, 13)
HAS_KEYS = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= SINCE
needs_keys = pytest.mark.skipif(not HAS_KEYS, reason="torch.func._random came with torch 2.13")
C = 0x9E3779B97F4A7C15


def key(seed: int, offset: int = 0) -> torch.Tensor:
    return torch.tensor([seed % 2**64, offset % 2**64], dtype=torch.uint64)


def seed_of(seed: int, offset: int) -> int:
    return (seed ^ offset * C) % 2**64


@needs_keys
@pytest.mark.parametrize("seed", [0, 42, 2**63, 2**64 - 1])
def test_torchs_keys_are_what_they_were(seed: int) -> None:
    """If this fails, torch has changed its prototype, and _keys.py and docs/tokens.md describe another."""
    module = pytest.importorskip("torch.func._random")
    found = module.key(seed)
    assert found.dtype == torch.uint64 and found.tolist() == [seed, 0] and _keys.KEYS_ARE_KNOWN
    meta = torch.empty(3, 2, dtype=torch.uint64, device="meta")
    split, folded = module.split(meta, 5), module.fold_in(meta, 1)
    assert split.shape == (5, 3, 2) and folded.shape == (3, 2) and split.dtype == folded.dtype == torch.uint64


X = 2 * torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "gumbel_max": lambda seed: gumbel_ext.gumbel_max(X, seed=seed),
    "sample": lambda seed: gumbel_ext.sample(X, seed=seed).log_prob,
    "gumbel_softmax": lambda seed: gumbel_ext.gumbel_softmax(X, seed=seed),
    "gumbel_noise": lambda seed: gumbel_ext.gumbel_noise((3, 10), seed=seed),
    "relaxed_top_k": lambda seed: gumbel_ext.relaxed_top_k(X, 2, seed=seed),
    "one_hot_sample": lambda seed: gumbel_ext.one_hot_sample(X, estimator="reinmax", seed=seed),
    "straight_through_embedding": lambda seed: gumbel_ext.straight_through_embedding(X, torch.eye(10), seed=seed).index,
    "distributions": lambda seed: gumbel_ext.distributions.OneHotCategoricalStraightThrough(logits=X).sample(seed=seed),
    "nn": lambda seed: gumbel_ext.nn.GumbelSoftmax()(X, seed=seed),
    "verify": lambda seed: gumbel_ext.verify(X, torch.tensor([1, 2, 3]), seed).margin,
}
PAIRS = [(7, 0), (-1, 0), (2**63, 0), (5, 1), (2**64 - 1, 2**64 - 1), (0, 2**63)]


@needs_keys
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_key_is_a_seed(name: str) -> None:
    """One for all rows is the number, and one a row a tensor of them: ``seed ^ offset * c``, modulo 2^64."""
    function = FUNCTIONS[name]
    for pair in PAIRS:
        assert torch.equal(function(key(*pair)), function(seed_of(*pair)))
    for pairs in (PAIRS[:3], PAIRS[3:]):
        numbers = [seed_of(*pair) for pair in pairs]
        seeds = torch.tensor([n - 2**64 if n >= 2**63 else n for n in numbers])
        assert torch.equal(function(torch.stack([key(*pair) for pair in pairs])), function(seeds))


@needs_keys
def test_keys_differ_in_seeds() -> None:
    """Also those of one seed at neighbouring offsets, and of neighbouring seeds."""
    keys = torch.stack([key(seed, offset) for seed in range(64) for offset in range(64)])
    assert len(set(_keys.seed_of_key(keys).tolist())) == len(keys)


@needs_keys
def test_keys_of_elements_under_vmap_and_of_rows_in_a_graph() -> None:
    keys = torch.stack([key(*pair) for pair in PAIRS[:3]])
    expected = gumbel_ext.gumbel_max(X, seed=keys)
    mapped = torch.func.vmap(lambda x, k: gumbel_ext.gumbel_max(x, seed=k))(X, keys)
    compiled = torch.compile(lambda x, k: gumbel_ext.gumbel_max(x, seed=k), backend="aot_eager", fullgraph=True)
    assert torch.equal(mapped, expected) and torch.equal(compiled(X, keys), expected)


@needs_keys
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)], ids=str)
def test_what_is_no_key(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"seed: expected keys of torch.func._random, shape \[..., 2\], got"):
        gumbel_ext.gumbel_max(X, seed=torch.zeros(shape, dtype=torch.uint64))


@needs_keys
def test_one_key_for_each_row() -> None:
    with pytest.raises(ValueError, match="seed: expected one a row"):
        gumbel_ext.gumbel_max(X, seed=torch.zeros(2, 2, dtype=torch.uint64))


def other_module(key: Any) -> types.ModuleType:
    module = types.ModuleType("torch.func._random")
    module.key = key  # type: ignore[attr-defined]
    return module


OTHERS = {
    "none": None,  # importing it raises
    "without key": types.ModuleType("torch.func._random"),
    "a class": other_module(lambda seed, device: object()),
    "another dtype": other_module(lambda seed, device: torch.tensor([seed, 0])),
    "another order": other_module(lambda seed, device: torch.tensor([0, seed], dtype=torch.uint64)),
    "another size": other_module(lambda seed, device: torch.tensor([seed, 0, 0, 0], dtype=torch.uint64)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_torch_with_other_keys_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.func._random", OTHERS[name])  # type: ignore[arg-type]
    monkeypatch.setattr(_keys, "KEYS_ARE_KNOWN", _keys.keys_are_known())
    with pytest.raises(
        TypeError, match="seed: expected an int or an int64 tensor, got a uint64 tensor, and this torch"
    ):
        gumbel_ext.gumbel_max(X, seed=key(7))
