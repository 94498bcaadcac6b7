"""Keys of `torch.func._random`, torch's prototype of stateless random numbers, as seeds."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

_MIXING = -0x61C8864680B583EB  # 2^64 divided by the golden ratio, odd, as an int64


def keys_are_known() -> bool:
    """Whether torch has keys, and they are what `seed_of_key` takes them for."""
    try:
        module: Any = importlib.import_module("torch.func._random")
        key = module.key(5, device=torch.device("cpu"))
        return isinstance(key, Tensor) and key.dtype == torch.uint64 and key.tolist() == [5, 0]
    except (ImportError, AttributeError, TypeError, RuntimeError):
        return False


KEYS_ARE_KNOWN = keys_are_known()


def seed_of_key(key: Tensor) -> int | Tensor:
    """The seed of a key, uint64 ``(seed, offset)``: a number of one key, an int64 tensor of one key a row.

    It is ``seed ^ (offset · c)`` modulo 2^64, ``c`` odd. So ``key(7)`` stands for the seed 7, and the keys that torch
    derives, of 128 random bits each, for seeds of 64 random bits. Under vmap one key for each element is one a row.
    """
    if not KEYS_ARE_KNOWN:
        raise TypeError(
            "seed: expected an int or an int64 tensor, got a uint64 tensor, and this torch has no "
            "`torch.func._random`, or one whose keys are not uint64 tensors (seed, offset)"
        )
    if key.dim() == 0 or key.shape[-1] != 2:
        raise ValueError(f"seed: expected keys of torch.func._random, shape [..., 2], got {list(key.shape)}")
    words = key.view(torch.int64)
    seeds = words[..., 0] ^ words[..., 1] * _MIXING
    is_one = key.dim() == 1 and not torch._C._functorch.is_batchedtensor(key)
    return int(seeds.item()) if is_one else seeds
