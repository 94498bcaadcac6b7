"""Hashes of many outputs, to be compared between processes; run as a script, it prints them as JSON.

With the argument `guard`, it instead runs every operation on tensors that end at an unreadable page.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import mmap
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import gumbel_ext


def relaxed_top_k(x: torch.Tensor, *args: Any, dim: int = -1, **kwargs: Any) -> torch.Tensor:
    return gumbel_ext.relaxed_top_k(x, min(3, x.shape[dim]), *args, dim=dim, seed=2718, **kwargs)


DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
OPERATIONS: dict[str, Callable[..., torch.Tensor]] = {
    "softmax": gumbel_ext.softmax,
    "straight_through": gumbel_ext.straight_through,
    "gumbel_softmax": functools.partial(gumbel_ext.gumbel_softmax, seed=2718),
    "gumbel_softmax hard": functools.partial(gumbel_ext.gumbel_softmax, hard=True, seed=2718),
    "gumbel_max": functools.partial(gumbel_ext.gumbel_max, seed=2718),
    "gumbel_max samples": functools.partial(gumbel_ext.gumbel_max, seed=2718, num_samples=3),
    "reinmax": functools.partial(gumbel_ext.one_hot_sample, estimator="reinmax", temperature=0.8, seed=2718),
    "rao": functools.partial(gumbel_ext.one_hot_sample, estimator="rao", temperature=0.8, seed=2718, num_noises=3),
    "relaxed_top_k": relaxed_top_k,
}
# The first ones draw words below 2^16: class 3 of seed 1343428 and class 2 of seed 627779616 draw 0.
SEEDS = [1343428, 627779616, -1, 5]
SHAPES = [((4, 1), -1), ((4, 7), -1), ((4, 100), 1), ((33, 4), 0), ((4, 2051), -1), ((4, 4100), -1),
          ((2600, 4), 0), ((2, 3, 65, 2), 2), ((200, 3), 1), ((1, 9001), -1), ((4, 333), -1),
          ((2, 37, 81), 1)]  # fmt: skip


def digest(tensor: torch.Tensor) -> str:
    """Of a tensor's shape and bits; all NaNs are one."""
    tensor = tensor.detach().contiguous()
    if tensor.is_floating_point():
        tensor = tensor.nan_to_num(nan=-7.0, posinf=torch.inf, neginf=-torch.inf)
    raw = tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    return hashlib.sha256(repr(tuple(tensor.shape)).encode() + raw).hexdigest()


def logits(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Ordinary rows with holes of -inf, wide ones, and one with a NaN."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 4
    x[torch.rand(shape, generator=generator) < 0.1] = -torch.inf
    flat = x.view(-1)
    flat[:: max(1, flat.numel() // 3)] *= 30
    flat[flat.numel() // 2] = torch.nan
    return x.to(dtype)


def cases(device: str = "cpu") -> dict[str, torch.Tensor]:
    """Every output and gradient, by name."""
    results: dict[str, torch.Tensor] = {}
    for dtype in DTYPES:
        for shape, dim in SHAPES:
            x, name = logits(shape, dtype).to(device), f"{dtype} {shape} {dim}"
            mask = torch.arange(shape[dim]).remainder(5).ne(3)[(...,) + (None,) * (x.dim() - 1 - dim % x.dim())]
            row_shape = [1 if d == dim % x.dim() else n for d, n in enumerate(shape)]
            mask = mask.to(device)
            rows = torch.arange(1.0, 1 + x.numel() // shape[dim], dtype=torch.float64, device=device)
            tau = 0.2 + rows.reshape(row_shape) / 7
            seeds = torch.tensor(SEEDS)[torch.arange(tau.numel()) % 4].reshape(tau.squeeze(dim).shape).to(device)
            for op_name, op in OPERATIONS.items():
                results[f"{op_name} {name}"] = op(x, 0.6, dim=dim)
                results[f"{op_name} tau, mask {name}"] = op(x, tau, dim=dim, mask=mask)
                if "gumbel" in op_name:
                    results[f"{op_name} seeds {name}"] = op(x, dim=dim, seed=seeds)
            for op_name in ("softmax", "gumbel_softmax hard", "reinmax", "rao", "relaxed_top_k"):
                a, t = x.nan_to_num(0.0, neginf=-torch.inf).requires_grad_(), tau.clone().requires_grad_()
                y = OPERATIONS[op_name](a, t, dim=dim)
                weight = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape).to(dtype).to(device)
                results[f"{op_name} gradient {name}"], results[f"{op_name} gradient of tau {name}"] = (
                    torch.autograd.grad(y, (a, t), weight)
                )
                y = OPERATIONS[op_name](a, 0.6, dim=dim)
                results[f"{op_name} gradient alone {name}"] = torch.autograd.grad(y, a, weight)[0]
        for seed in (0, torch.tensor(SEEDS, device=device)):
            name = f"noise {dtype} {'seeds' if isinstance(seed, torch.Tensor) else seed}"
            results[name] = gumbel_ext.gumbel_noise((4, 4099), seed=seed, dtype=dtype, device=device)
    return {name: result.detach().cpu() for name, result in results.items()}


def fingerprints() -> dict[str, str]:
    return {name: digest(tensor) for name, tensor in cases().items()}


def guarded(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor whose last element ends where an unreadable page begins."""
    wanted = torch.Size(shape).numel() * dtype.itemsize
    size = -(-wanted // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, size + mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address + size), ctypes.c_size_t(mmap.PAGESIZE), 0) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    return torch.frombuffer(memory, dtype=dtype, count=wanted // dtype.itemsize, offset=size - wanted).view(shape)


def run_guarded() -> None:
    for dtype in DTYPES:
        for shape in [(1, 1), (1, 3), (3, 5), (2, 17), (5, 63), (1, 67), (7, 129), (1, 2049), (3, 4111)]:
            x, mask, tau = guarded(shape, dtype), guarded(shape, torch.bool), guarded((shape[0], 1), dtype)
            x.copy_(torch.zeros(shape))
            mask.fill_(True)
            tau.fill_(0.5)
            for op in OPERATIONS.values():
                for a, m, dim in ((x, mask, 1), (x, mask, 0), (x.T, mask.T, 0), (x[:, -1:], mask[:, -1:], 0)):
                    if op(a, 0.5, dim=dim, mask=m).is_floating_point():
                        y = op(a.detach().requires_grad_(), 0.5, dim=dim, mask=m)
                        grad = guarded(tuple(y.shape), dtype).copy_(torch.ones_like(y))
                        y.backward(grad)
                op(x, tau)
            seeds = guarded((shape[0],), torch.int64).fill_(3)
            gumbel_ext.gumbel_softmax(x, seed=seeds)
            gumbel_ext.gumbel_max(x, seed=seeds)


def openmp_runtimes() -> list[str]:
    """The files of OpenMP runtimes in this process: two would share its processors out twice."""
    files = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    return sorted(file for file in files if re.search(r"/lib[gi]?omp\d?[-.]", file))


if __name__ == "__main__":
    if sys.argv[1:] == ["guard"]:
        run_guarded()
        print("guarded")
    else:
        found = {"isa": gumbel_ext.build_info()["cpu_isa"], "fingerprints": fingerprints()}
        print(json.dumps(found | {"openmp_runtimes": openmp_runtimes()}))
