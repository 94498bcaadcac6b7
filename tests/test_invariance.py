"""Same bits whatever the threads, the batch, the memory layout, the dim and the instruction set."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import fingerprint
import on_device
import pytest
import reference
import torch
from commands import ROOT, attempt, configure_command, needs_build_tools, run

import gumbel_ext

ISAS = gumbel_ext.build_info()["cpu_isas"]
PACKAGE = str(Path(gumbel_ext.__file__).resolve().parents[1])
PATHS = os.pathsep.join([PACKAGE, *filter(None, [os.environ.get("PYTHONPATH")])])
GUMBEL = [name for name in fingerprint.OPERATIONS if "gumbel" in name]


def in_process_with(**environment: str) -> subprocess.CompletedProcess[str]:
    """fingerprint.py in a new process that loads the same library."""
    return attempt(sys.executable, fingerprint.__file__, PYTHONPATH=PATHS, **environment)


@pytest.fixture(scope="module")
def here() -> dict[str, str]:
    return fingerprint.fingerprints()


def hard_inputs_by(isa: str, profile: str) -> None:
    """tests/test_hard_inputs.py in a new process, on an instruction set."""
    command = [*on_device.cpu_tests("hard_inputs"), f"--hypothesis-profile={profile}"]
    run(*command, PYTHONPATH=PATHS, GUMBEL_EXT_CPU_ISA=isa)


@pytest.mark.parametrize("isa", ISAS)
def test_hard_inputs_on_instruction_sets(isa: str) -> None:
    """What is asked of hard inputs, asked of every instruction set this processor has."""
    hard_inputs_by(isa, "few")


@pytest.mark.long
@pytest.mark.parametrize("isa", ISAS)
def test_hard_inputs_at_length(isa: str) -> None:
    """The same with ten times the examples."""
    hard_inputs_by(isa, "many")


@pytest.mark.parametrize("isa", ISAS)
def test_instruction_sets_agree(isa: str, here: dict[str, str]) -> None:
    """Every output and gradient has the same bits on every instruction set this processor has."""
    done = in_process_with(GUMBEL_EXT_CPU_ISA=isa)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["isa"] == isa
    assert [name for name in here if found["fingerprints"][name] != here[name]] == []
    assert found["fingerprints"].keys() == here.keys()
    assert len(found["openmp_runtimes"]) <= 1, "torch's own, or, where it has none, none"


@pytest.mark.long
@needs_build_tools
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_compilers_agree(compiler: str, here: dict[str, str], tmp_path: Path) -> None:
    """Without a warning, the library has the same bits by every compiler, and no OpenMP runtime but torch's own."""
    if not shutil.which(compiler):
        pytest.skip(f"needs {compiler}")
    variables = {"CMAKE_CXX_COMPILER": compiler, "GUMBEL_EXT_FORCE_CPU": "ON", "GUMBEL_EXT_WERROR": "ON"}
    run(*configure_command(ROOT, tmp_path, CMAKE_PREFIX_PATH=torch.utils.cmake_prefix_path, **variables))
    run("cmake", "--build", tmp_path)
    for isa in ISAS:
        done = in_process_with(GUMBEL_EXT_LIBRARY=str(tmp_path / "libgumbel_ext.so"), GUMBEL_EXT_CPU_ISA=isa)
        found = json.loads(done.stdout or "null")
        assert found is not None, done.stderr
        assert found["isa"] == isa and len(found["openmp_runtimes"]) <= 1
        assert [name for name in here if found["fingerprints"][name] != here[name]] == []


def test_unknown_instruction_set_is_an_error() -> None:
    """GUMBEL_EXT_CPU_ISA of another value says which there are."""
    done = in_process_with(GUMBEL_EXT_CPU_ISA="nonsense")
    assert done.returncode == 1
    assert "ValueError: GUMBEL_EXT_CPU_ISA" in done.stderr and "nonsense" in done.stderr
    assert all(isa in done.stderr for isa in ISAS)


def test_build_info() -> None:
    """What runs is one of what could; the thread count is torch's."""
    torch.set_num_threads(1)
    info = gumbel_ext.build_info()
    assert info["cpu_isa"] in info["cpu_isas"] and info["cpu_isas"][-1] == "plain"
    assert info["num_threads"] == 1 and isinstance(info["cuda"], bool)
    assert info["version"] == gumbel_ext.__version__
    assert info["torch_version"].split(".")[:2] == torch.__version__.split(".")[:2]


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_thread_counts_agree(threads: int, here: dict[str, str]) -> None:
    """Every output and gradient has the same bits for any number of threads."""
    torch.set_num_threads(threads)
    found = fingerprint.fingerprints()
    assert [name for name in here if found[name] != here[name]] == []


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 200_000), (3, 70_000), (2000, 100), (30_000, 5), (5, 40_000)], ids=str)
def test_thread_counts_agree_on_large_inputs(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Also where the work is shared out: many rows, and few long ones."""
    x = torch.randn(shape).to(dtype).requires_grad_()
    tau = torch.full((shape[0], 1), 0.7, requires_grad=True)
    results = []
    for threads in (1, 2, 7):
        torch.set_num_threads(threads)
        y = gumbel_ext.gumbel_softmax(x, tau, seed=3)
        grads = torch.autograd.grad(y, (x, tau), torch.cos(torch.arange(x.numel())).reshape(shape).to(dtype))
        hard = gumbel_ext.gumbel_softmax(x, hard=True, seed=3)
        index = gumbel_ext.gumbel_max(x, 0.5, seed=3, num_samples=2)
        noise = gumbel_ext.gumbel_noise(shape, seed=3, dtype=dtype)
        results.append((y, *grads, hard, index, noise))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("name", GUMBEL)
@pytest.mark.parametrize("classes", [1, 3, 40, 129, 2050, 5000])
@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
def test_prefixes_of_a_batch(name: str, classes: int, dtype: torch.dtype) -> None:
    """A row's result depends on its number and not on how many rows follow."""
    op, x = fingerprint.OPERATIONS[name], torch.randn(23, classes).to(dtype)
    tau, mask = torch.rand(23, 1) + 0.2, torch.rand(23, classes) < 0.9
    whole = op(x, tau, mask=mask)
    for rows in (1, 2, 8, 17):
        part = op(x[:rows], tau[:rows], mask=mask[:rows])
        assert reference.differing(part, whole[:rows]) == 0


@pytest.mark.parametrize("name", GUMBEL)
@pytest.mark.parametrize("classes", [1, 3, 40, 129, 2050, 5000])
@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
def test_rows_with_their_own_seeds_go_anywhere(name: str, classes: int, dtype: torch.dtype) -> None:
    """With a seed a row, splits and permutations of the batch change nothing."""
    op, x = fingerprint.OPERATIONS[name], torch.randn(24, classes).to(dtype)
    tau, seeds = torch.rand(24, 1) + 0.2, torch.randint(-(2**63), 2**63 - 1, (24,))
    whole, order = op(x, tau, seed=seeds), torch.randperm(24)
    assert reference.differing(op(x[order], tau[order], seed=seeds[order]), whole[order]) == 0
    parts = [op(x[i:j], tau[i:j], seed=seeds[i:j]) for i, j in ((0, 1), (1, 6), (6, 23), (23, 24))]
    assert reference.differing(torch.cat(parts), whole) == 0
    grid = op(x.view(2, 3, 4, classes), tau.view(2, 3, 4, 1), seed=seeds.view(2, 3, 4))
    assert reference.differing(grid.reshape(whole.shape), whole) == 0


@pytest.mark.parametrize("name", fingerprint.OPERATIONS)
@pytest.mark.parametrize("shape", [(3, 5, 7, 4), (2, 70, 3, 3), (2, 37, 9, 9), (2, 2100, 2, 2)], ids=str)
@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
def test_dim_and_layout(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Classes along any dim, in any memory order: the bits of the contiguous last dim."""
    op, x = fingerprint.OPERATIONS[name], torch.randn(shape).to(dtype)
    mask = torch.rand(shape) < 0.9
    for dim in range(4):
        kwargs: dict[str, Any] = {"temperature" if name.startswith("gumbel_max") else "tau": 0.7}
        last = op(x.movedim(dim, -1).contiguous(), mask=mask.movedim(dim, -1), **kwargs)
        back = last if name.startswith("gumbel_max") else last.movedim(-1, dim)
        for layout in ((0, 1, 2, 3), (3, 2, 1, 0), (0, 2, 3, 1), (1, 0, 3, 2)):
            inverse = [layout.index(d) for d in range(4)]
            laid, laid_mask = (t.permute(layout).contiguous().permute(inverse) for t in (x, mask))
            for d in (dim, dim - 4):
                assert reference.differing(op(laid, dim=d, mask=laid_mask, **kwargs), back) == 0


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("shape", [(2, 37, 9, 9), (30, 130, 3, 2), (3, 300, 70)], ids=str)
@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
def test_gradients_along_another_dim(dtype: torch.dtype, shape: tuple[int, ...], hard: bool) -> None:
    """Values and gradients of classes along dim 1, with every option: the bits of the contiguous last dim."""
    x, dy, mask = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype), torch.rand(shape) < 0.9
    x.flatten()[::1013] = torch.nan
    row_shape = shape[:1] + shape[2:]
    seeds, taus = torch.randint(2**62, row_shape), (torch.rand(row_shape) + 0.2).unsqueeze(1)
    for options in ({}, {"tau": 0.3}, {"tau": taus}, {"mask": mask}, {"seed": seeds, "tau": taus, "mask": mask}):
        along, last = {"seed": 3, **options}, {"seed": 3, **options}
        last |= {key: last[key].movedim(1, -1) for key in ("tau", "mask") if torch.is_tensor(last.get(key))}
        found, expected = x.clone().requires_grad_(), x.movedim(1, -1).contiguous().requires_grad_()
        y, z = (
            gumbel_ext.gumbel_softmax(found, hard=hard, dim=1, **along),
            gumbel_ext.gumbel_softmax(expected, hard=hard, **last),
        )
        y.backward(dy)
        z.backward(dy.movedim(1, -1).contiguous())
        assert reference.differing(y.movedim(1, -1), z) == 0
        assert reference.differing(found.grad.movedim(1, -1), expected.grad) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(40, 9), (3, 333), (2, 5000)], ids=str)
def test_dtypes_share_their_indices(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """16-bit logits give the indices of the same numbers in float32."""
    x = torch.randn(shape).to(dtype)
    for temperature in (0, 0.3, 1.0, torch.rand(shape[0], 1)):
        found = gumbel_ext.gumbel_max(x, temperature, seed=5)
        assert torch.equal(found, gumbel_ext.gumbel_max(x.float(), temperature, seed=5))


@pytest.mark.parametrize("grad", [False, True])
def test_calls_from_many_threads(grad: bool) -> None:
    """Python threads that call at once do not disturb one another."""
    xs = [torch.randn(50, 37 + 400 * i, requires_grad=grad) for i in range(6)]
    ops = list(fingerprint.OPERATIONS.values())
    expected = [[op(x, 0.7).detach() for op in ops] for x in xs]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(10):
            for op, value in zip(ops, expected[i], strict=True):
                if not torch.equal(op(xs[i], 0.7), value):
                    wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_one_generator_for_many_threads() -> None:
    """Its lock is taken: no two calls draw the same noise."""
    generator, x, found = torch.Generator().manual_seed(1), torch.zeros(8), []

    def work() -> None:
        for _ in range(200):
            found.append(tuple(gumbel_ext.gumbel_softmax(x, generator=generator).tolist()))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == len(found) == 1200
