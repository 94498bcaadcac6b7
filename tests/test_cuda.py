"""On a GPU: the CPU's samples bit for bit, values within the bound, and what only a GPU has: generators of its own,
graphs, streams, tensors of many gigabytes. As a script, with the argument `smoke`, it runs every kernel once (for
compute-sanitizer)."""

from __future__ import annotations

import threading
from typing import Any

import fingerprint
import numpy as np
import on_device
import pytest
import reference
import torch
from commands import run

import gumbel_ext

GIB = 2**30
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif(not gumbel_ext.build_info()["cuda"], reason="this build has no CUDA kernels"),
]


def needs(gib: float) -> None:
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    if free < gib * GIB:
        pytest.skip(f"needs {gib} GiB of free GPU memory, found {free / GIB:.1f}")


def softmax_gradient(p: torch.Tensor, dy: torch.Tensor, tau: float) -> torch.Tensor:
    return p * (dy - (p * dy).sum(-1, keepdim=True)) / tau


def test_the_samples_of_the_cpu() -> None:
    """Every operation, dtype and shape: one-hot, indices and noise bit for bit, values within twice the bound."""
    mine, theirs = fingerprint.cases("cuda"), fingerprint.cases("cpu")
    assert mine.keys() == theirs.keys()
    for name, expected in theirs.items():
        found = mine[name]
        exact = expected.dtype == torch.int64 or name.startswith(("noise", "straight", "gumbel_softmax hard torch"))
        if exact or name.startswith("gumbel_softmax hard tau") or name.startswith("gumbel_softmax hard seeds"):
            assert found.isnan().equal(expected.isnan()) and reference.differing(found, expected) == 0, name
            continue
        scale = expected.nan_to_num(0.0).double().abs().max().item()
        half = "float16" in name  # the logits' dtype: tau, and its gradient, are float64 throughout
        precision = 1e-12 if "torch.float64" in name else 2e-2 if half and "of tau" not in name else 2e-4
        torch.testing.assert_close(
            found.double(), expected.double(), rtol=precision, atol=precision * scale, equal_nan=True, msg=name
        )


@pytest.mark.parametrize("seed", [0, 2**63 + 5])
def test_noise_bit_for_bit(seed: int) -> None:
    """10^9 noise values in all, thousands of them from the tail."""
    size = (2**13, 2**16)
    found = gumbel_ext.gumbel_noise(size, seed=seed, device="cuda").cpu()
    assert torch.equal(found, gumbel_ext.gumbel_noise(size, seed=seed))
    assert (found > 12).sum() > 1000


@pytest.mark.parametrize(("shape", "samples"), [((10**5, 100), None), ((2000, 50257), 5), ((4, 151936), 1000)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_indices_bit_for_bit(shape: tuple[int, int], samples: int | None, temperature: float) -> None:
    """10^7 draws in all, of short rows and of vocabularies."""
    generator = torch.Generator().manual_seed(1)
    for seed in range(60 if samples is None else 1):
        x = torch.randn(shape, generator=generator) * 3
        found = gumbel_ext.gumbel_max(x.cuda(), temperature, num_samples=samples, seed=seed)
        assert torch.equal(found.cpu(), gumbel_ext.gumbel_max(x, temperature, num_samples=samples, seed=seed))


def test_generators() -> None:
    """manual_seed governs; every call is fresh; a generator of one's own; one of the CPU is refused."""
    x = torch.zeros(64, 1000, device="cuda")
    torch.manual_seed(5)
    first, second = gumbel_ext.gumbel_max(x), gumbel_ext.gumbel_max(x)
    torch.manual_seed(5)
    assert torch.equal(first, gumbel_ext.gumbel_max(x)) and not torch.equal(first, second)
    own = torch.Generator("cuda").manual_seed(9)
    third = gumbel_ext.gumbel_max(x, generator=own)
    assert torch.equal(third, gumbel_ext.gumbel_max(x, generator=own.manual_seed(9)))
    with pytest.raises(ValueError, match="generator: expected one on cuda"):
        gumbel_ext.gumbel_max(x, generator=torch.Generator())


def warm_up(step: Any) -> None:
    """As torch asks before a capture: on another stream, a few times."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)


@pytest.mark.parametrize("classes", [10, 1000, 20000, 300_000])
def test_graphs_replay_with_new_noise(classes: int) -> None:
    """A captured call draws anew at each replay, and as manual_seed says."""
    x = torch.zeros(8, classes, device="cuda")
    warm_up(lambda: (gumbel_ext.gumbel_max(x), gumbel_ext.gumbel_softmax(x, hard=True)))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        index, hot = gumbel_ext.gumbel_max(x), gumbel_ext.gumbel_softmax(x, hard=True)
    torch.cuda.manual_seed(3)
    graph.replay()
    first = (index.clone(), hot.argmax(-1))
    graph.replay()
    assert not torch.equal(index, first[0]) and not torch.equal(hot.argmax(-1), first[1])
    assert not torch.equal(*first)
    torch.cuda.manual_seed(3)
    graph.replay()
    assert torch.equal(index, first[0]) and torch.equal(hot.argmax(-1), first[1])


@pytest.mark.parametrize("hard", [False, True])
def test_backward_captured_apart_agrees_with_forward(hard: bool) -> None:
    """Forward and backward in one graph, and in two, replayed: the gradient is that of the noise of this replay."""
    x = torch.randn(16, 3000, device="cuda", requires_grad=True)
    dy = torch.randn(16, 3000, device="cuda")
    warm_up(lambda: torch.autograd.grad(gumbel_ext.gumbel_softmax(x, 0.7, hard), x, dy))
    one, forward, backward, relaxed = (torch.cuda.CUDAGraph() for _ in range(4))
    with torch.cuda.graph(one):
        (dx_one,) = torch.autograd.grad(gumbel_ext.gumbel_softmax(x, 0.7, hard), x, dy)
    with torch.cuda.graph(forward):
        y = gumbel_ext.gumbel_softmax(x, 0.7, hard)
    with torch.cuda.graph(backward, pool=forward.pool()):
        (dx,) = torch.autograd.grad(y, x, dy)
    with torch.cuda.graph(relaxed):  # the same draw, to know p
        p = gumbel_ext.gumbel_softmax(x.detach(), 0.7)
    for seed in range(3):
        found = []
        for graphs, gradient in (((one,), dx_one), ((forward, backward), dx)):
            torch.cuda.manual_seed(seed)
            for graph in graphs:
                graph.replay()
            found.append(gradient.clone())
        torch.cuda.manual_seed(seed)
        relaxed.replay()
        for gradient in found:
            torch.testing.assert_close(gradient, softmax_gradient(p, dy, 0.7), rtol=1e-4, atol=1e-7)


def test_a_replay_leaves_a_gradient_alone_that_was_not_captured() -> None:
    """Of a captured forward: what backward returned lies in no memory of the graph's."""
    x = torch.randn(16, 3000, device="cuda", requires_grad=True)
    dy = torch.randn(16, 3000, device="cuda")
    warm_up(lambda: torch.autograd.grad(gumbel_ext.gumbel_softmax(x, 0.7, hard=True), x, dy))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = gumbel_ext.gumbel_softmax(x, 0.7, hard=True)
    graph.replay()
    (dx,) = torch.autograd.grad(y, x, dy)
    expected = dx.clone()
    graph.replay()
    assert torch.equal(dx, expected)


def test_streams_and_threads() -> None:
    """Work goes to the current stream; two threads on two streams disturb no one."""
    x = torch.randn(512, 5000, device="cuda")
    expected = gumbel_ext.gumbel_softmax(x, 0.5, seed=4)
    torch.cuda.synchronize()
    wrong: list[int] = []

    def work(number: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(50):
                found = gumbel_ext.gumbel_softmax(x, 0.5, seed=4)
                if not torch.equal(found, expected):
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_another_device_than_the_current_one() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x = torch.randn(5, 700)
    found = gumbel_ext.gumbel_max(x.to("cuda:1"), seed=2)
    assert found.device == torch.device("cuda:1") and torch.equal(found.cpu(), gumbel_ext.gumbel_max(x, seed=2))


def test_autocast_gives_float32() -> None:
    x = torch.randn(4, 9, device="cuda", dtype=torch.float16)
    with torch.autocast("cuda", dtype=torch.float16):
        assert gumbel_ext.gumbel_softmax(x).dtype == torch.softmax(x, -1).dtype == torch.float32


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled(mode: str) -> None:
    """torch.compile, with CUDA graphs too."""
    step = torch.compile(lambda x: gumbel_ext.gumbel_softmax(x * 2, 0.7, hard=True, seed=6), mode=mode, fullgraph=True)
    x = torch.randn(32, 300, device="cuda", requires_grad=True)
    for _ in range(3):
        x.grad = None
        y = step(x)
        y.sum().backward()
    assert torch.equal(y, gumbel_ext.gumbel_softmax(x * 2, 0.7, hard=True, seed=6))


def test_gradients() -> None:
    x = torch.randn(3, 40, device="cuda", dtype=torch.float64, requires_grad=True)
    tau = torch.rand(3, 1, device="cuda", dtype=torch.float64).add(0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, t: gumbel_ext.gumbel_softmax(x, t, seed=1), (x, tau))


def test_arguments_on_different_devices_are_refused() -> None:
    x = torch.zeros(3, 4, device="cuda")
    for arguments in ({"mask": torch.ones(4, dtype=torch.bool)}, {"seed": torch.zeros(3, dtype=torch.int64)}):
        with pytest.raises(ValueError, match="cuda:0"):
            gumbel_ext.gumbel_max(x, **arguments)
        on_gpu = {name: value.cuda() for name, value in arguments.items()}
        with pytest.raises(ValueError, match="cuda:0"):
            gumbel_ext.gumbel_max(x.cpu(), **on_gpu)
    with pytest.raises(ValueError, match="tau"):
        gumbel_ext.softmax(x, torch.ones(3, 1))
    with pytest.raises(ValueError, match="tau"):
        gumbel_ext.softmax(x.cpu(), torch.ones(3, 1, device="cuda"))


def test_one_row_of_more_than_2_32_classes() -> None:
    """Among a few classes allowed, the index is the reference's."""
    needs(9)
    classes = 2**32 + 1001
    allowed = np.unique(np.random.default_rng(0).integers(0, classes, 500))
    x = torch.full((1, classes), -torch.inf, dtype=torch.bfloat16, device="cuda")
    x[0, torch.from_numpy(allowed).cuda()] = 0
    assert gumbel_ext.gumbel_max(x, seed=3).item() == allowed[reference.noise(3, 1, allowed)[0].argmax()]


def test_more_than_2_32_elements_in_rows() -> None:
    """The last rows are those of a small tensor with the same numbers."""
    needs(26)
    rows, classes = 2**17 + 3, 2**15
    x = torch.zeros(rows, classes, dtype=torch.bfloat16, device="cuda")
    x[-3:] = torch.randn(3, classes, device="cuda")
    index = gumbel_ext.gumbel_max(x, seed=3)
    noise = reference.noise(3, np.arange(rows - 3, rows), classes)
    assert index[-3:].tolist() == (x[-3:].float().cpu().numpy() + noise).argmax(-1).tolist()
    relaxed = gumbel_ext.softmax(x)
    assert torch.equal(relaxed[-3:], gumbel_ext.softmax(x[-3:]))
    assert (relaxed[: rows - 3 : 997] == 2.0**-15).all()


@pytest.mark.parametrize("name", ["values", "indices", "gradients", "noise", "verify", "large"])
def test_the_tests_of_the_cpu_hold(name: str) -> None:
    """Each test of the CPU with its tensors taken to the GPU and back."""
    run(*on_device.cpu_tests(name), GUMBEL_EXT_TEST_DEVICE="cuda")


def smoke() -> None:
    """Every kernel, at sizes on both sides of each change of kernel."""
    for dtype in reference.DTYPES:
        for classes in (3, 10, 33, 127, 300, 1024, 2049, 8193, 20000, 140_000, 300_000):
            x = torch.randn(3, classes, device="cuda", dtype=dtype, requires_grad=True)
            tau = torch.ones(3, 1, device="cuda", requires_grad=True)
            gumbel_ext.gumbel_softmax(x, tau, hard=True).sum().backward()
            gumbel_ext.gumbel_softmax(x[:, 1:], 0.7).sum().backward()
            gumbel_ext.gumbel_max(x.detach(), 0.7, num_samples=3)
        image = torch.randn(2, 300, 5, 7, device="cuda", dtype=dtype, requires_grad=True)
        gumbel_ext.gumbel_softmax(image, dim=1).sum().backward()
        gumbel_ext.gumbel_max(image.detach(), dim=1)
        gumbel_ext.gumbel_noise((3, 1001), dtype=dtype, device="cuda")
    torch.cuda.synchronize()


if __name__ == "__main__":
    smoke()
