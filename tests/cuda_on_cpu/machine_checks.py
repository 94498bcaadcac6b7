"""The host side of CUDA on a machine whose devices are none (machine.h): what it asks of the runtime and of torch, in
which order, for which device and stream; what it takes of a generator, captured or not; and what an error leaves.

A script that tests/test_cuda_host.py runs, with the machine's library loaded before torch.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from on_machine import (
    CALLS,
    DRAWS,
    GRADIENTS,
    OPERATORS,
    captured,
    events,
    generator,
    kinds,
    logits,
    machine,
    on_host,
    repeatable,
    results,
)

import gumbel_ext

STREAMS = (3, 107, 205)  # of the devices
SEED, OFFSET = 42, 1000  # of their generators
# On device 0, rows that a warp serves, a block, and several passes over tiles; on device 1, which has clusters, one.
SHAPES = [(3, 10), (2, 5000), (1, 20000)]
ERRORS = {
    "launch": (RuntimeError, "CUDA error: no kernel image is available for execution on the device"),
    "allocate": (torch.OutOfMemoryError, "CUDA out of memory"),
}

every_draw = pytest.mark.parametrize("name", DRAWS)
every_call = pytest.mark.parametrize("name", CALLS)


@pytest.fixture(autouse=True)
def known_machine() -> Iterator[None]:
    machine.set_device(0)
    for device, stream in enumerate(STREAMS):
        machine.set_stream(device, stream)
        machine.seed(generator(device), SEED, OFFSET)
    events()
    yield
    for what in ("launch", "allocate", "query"):
        machine.fail(what, 0)
    assert machine.last_error() == 0  # whatever failed was reported, and is no later call's


@every_call
@pytest.mark.parametrize("device", [0, 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_all_is_asked_of_the_tensors_device_and_its_stream(name: str, device: int, shape: tuple[int, ...]) -> None:
    """Whatever device is the current one, which it is again thereafter; and the host does not wait for a value. Values
    and gradients are the CPU's: what was launched was what had to be."""
    machine.set_device(1 - device)
    x, dy = logits(shape, device), logits(shape, device)
    tau = machine.to_device(torch.linspace(0.5, 1, shape[0])[:, None], device)
    events()
    found = results(name, x, tau, dy)
    asked = events()
    assert {(event.device, event.stream) for event in asked} == {(device, STREAMS[device])}
    assert any(event.what.startswith("launch") for event in asked)
    assert "aten::_local_scalar_dense" not in {event.what for event in asked}
    assert machine.current_device() == 1 - device
    for result, expected in zip(found, results(name, on_host(x), on_host(tau), on_host(dy)), strict=True):
        torch.testing.assert_close(on_host(result), expected.detach(), rtol=1e-4, atol=1e-5)


@every_draw
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("own", [False, True], ids=["default", "own"])
def test_a_draw_comes_last_and_once(name: str, shape: tuple[int, ...], own: bool) -> None:
    """Under the generator's lock, when all memory is there and before the first launch; 4 of the generator's offset,
    whatever the shape; and so the next call has other noise."""
    x, call = logits(shape), DRAWS[name]
    options = {"generator": torch.Generator("cuda:1")} if own else {}
    source = options.get("generator", generator())
    machine.seed(source, SEED, OFFSET)
    found = []
    for offset in (OFFSET, OFFSET + 4):
        found.append(on_host(call(x, **options)))
        asked = kinds()
        first_launch = asked.index("launch")
        assert "allocate" not in asked[asked.index("draw") : first_launch]
        assert {"draw"} == {kind for kind in asked if kind.startswith("draw")} and asked.index("draw") < first_launch
        assert machine.offset(source) == offset + 4
        assert torch.equal(found[-1], on_host(call(x, seed=machine.seed_of_state(SEED, offset))))
        assert not any(kind.startswith("draw") for kind in kinds()) and machine.offset(source) == offset + 4
    assert not torch.equal(*found) or x.numel() < 100
    if own:
        assert machine.offset(generator()) == OFFSET
    assert machine.offset(generator(0)) == OFFSET


@every_draw
def test_a_generator_of_another_device_is_refused(name: str) -> None:
    x, other = logits((3, 10)), torch.Generator("cuda:2")
    with pytest.raises(ValueError, match="generator: expected one on cuda:1, got one on cuda:2"):
        DRAWS[name](x, generator=other)
    assert not {"launch", "draw"} & set(kinds())
    assert machine.offset(other) == 0 and machine.current_device() == 0


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("capture", [False, True], ids=["", "captured"])
@pytest.mark.parametrize("what", ERRORS)
def test_a_failed_call_changes_nothing(name: str, shape: tuple[int, ...], capture: bool, what: str) -> None:
    """Each launch and each allocation fails in turn: the call that made it says so, and asks for nothing more; the
    generator, captured or not, the current device and the next call are as if it had not been made."""
    call, (error, sentence) = repeatable(name, logits(shape, 0)), ERRORS[what]
    expected = on_host(call())
    after = machine.offset(generator(0))
    assert after == OFFSET + (4 if name in DRAWS else 0)
    machine.seed(generator(0), SEED, OFFSET)
    device = 0 if capture else 1
    machine.set_device(device)
    events()
    with captured() if capture else contextlib.nullcontext([]) as graph:
        for n in itertools.count(1):
            machine.fail(what, n)
            try:
                found = call()
            except error as raised:
                assert str(raised).startswith(sentence)
                assert kinds()[-1] == what
                assert machine.offset(generator(0)) == OFFSET and machine.last_error() == 0
                assert machine.current_device() == device
            else:
                break
    machine.fail(what, 0)
    assert n > 1
    if capture:
        assert machine.offset(generator(0)) == OFFSET
        machine.replay(*graph)
    assert machine.offset(generator(0)) == after
    assert torch.equal(on_host(found), expected)


@every_draw
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_replay_of_a_graph_draws_anew(name: str, shape: tuple[int, ...]) -> None:
    """A captured call runs nothing and takes nothing; a replay is what the same calls are without a graph: they use
    nothing that was the host's, for that is gone by then."""
    machine.set_device(1)
    x, call = logits(shape), DRAWS[name]
    with captured() as graph:
        first, second = call(x), call(x)
        draft = on_host(first)
    assert machine.offset(generator()) == OFFSET
    assert draft.isnan().all() if draft.is_floating_point() else (draft == -1).all()  # as the memory came
    for offset in (OFFSET, OFFSET + 8, OFFSET + 16):
        machine.replay(graph[0])
        assert machine.offset(generator()) == offset + 8
        for found, own in ((first, offset), (second, offset + 4)):
            assert torch.equal(on_host(found), on_host(call(x, seed=machine.seed_of_state(SEED, own))))


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("apart", [False, True], ids=["one graph", "apart"])
def test_forward_and_backward_captured_agree(name: str, apart: bool) -> None:
    """The gradient is that of the noise of the last forward replay, whatever the generator did since."""
    machine.set_device(1)
    x, dy, call = logits((3, 100)).requires_grad_(), logits((3, 100)), CALLS[name]
    with captured() as forward:
        y = call(x)
        if not apart:
            (dx,) = torch.autograd.grad(y, x, dy)
    with captured() as backward:
        if apart:
            (dx,) = torch.autograd.grad(y, x, dy)
    gradients = []
    for seed in range(3):
        machine.seed(generator(), seed, OFFSET)
        machine.replay(forward[0])
        moved = machine.offset(generator())
        assert moved == OFFSET + (4 if name in DRAWS else 0)
        machine.seed(generator(), 99, 8)
        machine.replay(backward[0])
        assert machine.offset(generator()) == 8
        machine.seed(generator(), seed, OFFSET)
        expected = call(x)
        (expected_dx,) = torch.autograd.grad(expected, x, dy)
        assert torch.equal(on_host(y), on_host(expected)) and torch.equal(on_host(dx), on_host(expected_dx))
        gradients.append(on_host(dx))
    assert name not in DRAWS or not torch.equal(gradients[0], gradients[1])


@every_call
def test_an_empty_batch_launches_nothing(name: str) -> None:
    """But for a sample's seed, which its gradient could be asked for; and it draws as any call does."""
    for shape in ((0, 5), (2, 0, 5)):
        x, before = logits(shape), machine.offset(generator())
        assert CALLS[name](x).numel() == 0
        assert kinds().count("launch") == ("sample" in name)
        assert machine.offset(generator()) == before + (4 if name in DRAWS else 0)


def test_threads_draw_different_noise() -> None:
    x = logits((1, 1000))
    found: list[torch.Tensor] = []

    def work() -> None:
        machine.set_stream(1, 107)
        for _ in range(10):
            found.append(on_host(gumbel_ext.gumbel_noise((1, 64), device="cuda:1")))
            gumbel_ext.gumbel_max(x)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert machine.offset(generator()) == OFFSET + 4 * 80
    assert len({tuple(noise.flatten().tolist()) for noise in found}) == 40
    assert "draw without the lock" not in kinds()


def test_a_device_is_asked_what_it_can_until_it_answers() -> None:
    """And then no more: its clusters are then as large as it says, where it has any, and this code knows of them."""
    x, source = logits((1, 40000), 2), generator(2)
    machine.fail("query", 1)
    with pytest.raises(RuntimeError, match="CUDA error: invalid argument"):
        gumbel_ext.gumbel_softmax(x)
    assert "launch" not in kinds() and machine.offset(source) == OFFSET
    for queries in (1, 0):
        gumbel_ext.gumbel_softmax(x)
        assert [event.what for event in events()].count("query") == queries
    for device, clusters in ((0, {1}), (1, {4}), (2, {1})):
        x = logits((1, 40000), device)
        gumbel_ext.softmax(x)
        launches = [event.what for event in events() if event.what.startswith("launch")]
        assert {int(what.split()[-1]) for what in launches} == clusters


if __name__ == "__main__":
    # Torch's threads for devices outlive the interpreter's end, and not always quietly.
    status = pytest.main(["-q", "-x", "-p", "no:cacheprovider", __file__, *sys.argv[1:]])
    sys.stdout.flush()
    os._exit(status)
