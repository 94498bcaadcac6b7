"""Every way a row can go over the CPU (csrc/cpu/plan.cpp) gives the same bits: each is forced, on every instruction
set."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

import gumbel_ext

ROWS, TRANSPOSED, SEARCH = 0, 1, 2
TABLE = -1
# way, group_rows, in_place, parts, share_tiles
PLANS = {
    "rows, one by one": (ROWS, 1, 0, 1, 0),
    "rows, in place": (ROWS, 1, 1, 1, 0),
    "rows, in groups": (ROWS, 48, 0, 3, 0),
    "rows, tiles shared": (ROWS, 1, 1, 3, 1),
    "rows in groups, tiles shared": (ROWS, 16, 0, 2, 1),
    "transposed, a vector": (TRANSPOSED, 16, TABLE, 1, 0),
    "transposed, wide blocks": (TRANSPOSED, 80, TABLE, 2, 0),
    "search": (SEARCH, 1, TABLE, 1, 0),
    "search in groups": (SEARCH, 33, TABLE, 2, 0),
    "search, tiles shared": (SEARCH, 2, TABLE, 5, 1),
}
SHAPES = [(1, 1), (3, 5), (90, 4), (70, 17), (66, 64), (40, 65), (35, 130), (20, 700), (3, 2048), (18, 2050), (2, 9001)]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def outputs(shape: tuple[int, int], dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Every operation's, and the gradients, of rows whose classes are contiguous, strided, and contiguous in the logits
    alone; of every other row the scores are of any size that the type has."""
    rows, classes = shape
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64) * 5
    far = math.log10(torch.finfo(dtype).max) * (2 * torch.rand(rows // 2, 1, generator=generator) - 1)
    logits[1::2] *= 10 ** far.double()
    logits[0, 0] = -torch.inf
    for dim, copies in ((1, False), (0, True), (0, False)):
        x = logits.to(dtype) if dim == 1 else logits.to(dtype).T
        x = x.contiguous() if copies else x
        tau = torch.linspace(0.3, 2, rows, dtype=torch.float64).view((rows, 1) if dim == 1 else (1, rows))
        mask = (torch.arange(classes) % 3 != 1).view((1, classes) if dim == 1 else (classes, 1))
        yield gumbel_ext.gumbel_max(x, 0.7, dim=dim, mask=mask, seed=3, num_samples=2)
        yield gumbel_ext.gumbel_max(x, torch.where(tau < 1, 0, tau), dim=dim, seed=3)
        for k, t in ((min(3, classes), 0.7), (classes, tau), (classes // 20 + 1, torch.where(tau < 1, 0, 1e-3 * tau))):
            yield from gumbel_ext.gumbel_top_k(x, k, t, dim=dim, mask=mask, seed=3)
        for operation in (gumbel_ext.softmax, gumbel_ext.straight_through):
            yield operation(x, tau, dim=dim)
        for hard, t in itertools.product((False, True), (0.5, tau)):
            yield gumbel_ext.gumbel_softmax(x, t, hard, dim=dim, mask=mask, seed=5)
            a = x.clone().requires_grad_()
            y = gumbel_ext.gumbel_softmax(a, t, hard, dim=dim, seed=5)
            weight = torch.linspace(-1, 2, x.numel()).view(x.shape).to(dtype)
            yield from (y, *torch.autograd.grad(y, a, weight))
    yield gumbel_ext.gumbel_noise(shape, seed=7, dtype=dtype)


def differing(name: str) -> list[str]:
    """The cases whose bits differ from what the tables' plans give."""
    found = []
    for shape, dtype in itertools.product(SHAPES, DTYPES):
        expected = list(outputs(shape, dtype))
        torch.ops.gumbel_ext._force_cpu_plan(PLANS[name])
        try:
            results = list(outputs(shape, dtype))
        finally:
            torch.ops.gumbel_ext._force_cpu_plan([])
        for i, (a, b) in enumerate(zip(expected, results, strict=True)):
            if not torch.equal(a.nan_to_num(-7), b.nan_to_num(-7)):
                found.append(f"{shape} {dtype}: output {i}")
    return found


@pytest.mark.parametrize("name", PLANS)
def test_forced_plans_give_the_same_bits(name: str) -> None:
    assert differing(name) == []


@pytest.mark.parametrize("isa", gumbel_ext.build_info()["cpu_isas"][1:])
def test_on_other_instruction_sets(isa: str) -> None:
    """The first is what the tests above run on."""
    environment = os.environ | {"GUMBEL_EXT_CPU_ISA": isa}
    command = [sys.executable, __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    assert json.loads(run.stdout) == {"isa": isa, "differing": []}


if __name__ == "__main__":
    every = [f"{name}: {case}" for name in PLANS for case in differing(name)]
    print(json.dumps({"isa": gumbel_ext.build_info()["cpu_isa"], "differing": every}))
