"""What Python raises on the way comes out as it is; a call that fails changes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
import torch
from context_runs import Subclass, Wrapper
from contexts import Watching, WatchingFunctions
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from ways import OPERATIONS, ROWS, WAYS, Call

import gumbel_ext


class Own(Exception):
    """An exception with a content, that cannot be made from its text."""

    def __init__(self, number: int, content: object) -> None:
        super().__init__("own")
        self.number, self.content = number, content


class OwnBase(BaseException):
    """Not even an Exception, as torch's own to stop a recomputation early."""


EXCEPTIONS: list[BaseException] = [
    RuntimeError("a text"), RuntimeError(), ValueError("expected", 1), KeyError("key"), TypeError("a type"),
    IndexError(), NotImplementedError("later"), StopIteration(3), MemoryError(), AssertionError(),
    OSError(2, "no such file", "name"), UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), KeyboardInterrupt(),
    SystemExit(3), GeneratorExit(), Own(3, object()), OwnBase("stop"), torch.OutOfMemoryError("theirs"),
]  # fmt: skip

Raise = Callable[..., NoReturn]


def at_pack(call: Call, inputs: Any, upstream: Tensor, fail: Raise) -> None:
    with saved_tensors_hooks(fail, lambda t: t):
        call(*inputs)


def at_unpack(call: Call, inputs: Any, upstream: Tensor, fail: Raise) -> None:
    with saved_tensors_hooks(lambda t: t, fail):
        y = call(*inputs)
    y.backward(upstream)


def at_pack_again(call: Call, inputs: Any, upstream: Tensor, fail: Raise) -> None:
    """Within a checkpoint's backward: its forward saves nothing."""

    def hooked(*inputs: Tensor) -> Tensor:
        with saved_tensors_hooks(fail, lambda t: t):
            return call(*inputs)

    checkpoint(hooked, *inputs, use_reentrant=True).backward(upstream)


def in_mode(mode: Any, backward: bool = False) -> Callable[..., None]:
    class Failing(mode):
        def raising(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if "gumbel_ext" in f"{getattr(function, '__module__', '')} {function}":
                self.fail()
            return function(*args, **(kwargs or {}))

        __torch_dispatch__ = __torch_function__ = raising

    def run(call: Call, inputs: Any, upstream: Tensor, fail: Raise) -> None:
        failing = Failing()
        failing.fail = fail
        if not backward:
            with failing:
                call(*inputs)
        else:
            y = call(*inputs)
            with failing:
                y.backward(upstream)

    return run


def of_type(kind: type) -> Callable[..., None]:
    def run(call: Call, inputs: Any, upstream: Tensor, fail: Raise) -> None:
        failing = type("Failing", (kind,), {"__torch_function__": classmethod(lambda *args: fail())})
        x = inputs[0].as_subclass(failing)
        call(x, *inputs[1:])

    return run


def of_wrapper(call: Call, inputs: Any, upstream: Tensor, fail: Raise) -> None:
    failing = type("Failing", (Wrapper,), {"__torch_dispatch__": classmethod(lambda *args: fail())})
    call(failing(inputs[0].detach()), *inputs[1:])


def in_tensor_hook(call: Call, inputs: Any, upstream: Tensor, fail: Raise) -> None:
    inputs[0].register_hook(fail)
    call(*inputs).backward(upstream)


def in_node_hook(call: Call, inputs: Any, upstream: Tensor, fail: Raise) -> None:
    y = call(*inputs)
    y.grad_fn.register_prehook(fail)
    y.backward(upstream)


def in_vmap(call: Call, inputs: Any, upstream: Tensor, fail: Raise) -> None:
    def failing(x: Tensor) -> Tensor:
        with saved_tensors_hooks(fail, lambda t: t):
            return call(x, *inputs[1:])

    torch.func.vmap(failing, randomness="different")(torch.stack([inputs[0]] * 2))


# Where Python's code runs within a call or its backward, and which operations have such a place.
PLACES: dict[str, Callable[..., None]] = {
    "pack hook": at_pack,
    "pack hook in a checkpoint": at_pack_again,
    "unpack hook": at_unpack,
    "TorchDispatchMode": in_mode(Watching),
    "TorchDispatchMode in backward": in_mode(Watching, backward=True),
    "TorchFunctionMode": in_mode(WatchingFunctions),
    "subclass": of_type(Subclass),
    "wrapper subclass": of_wrapper,
    "tensor hook": in_tensor_hook,
    "node hook": in_node_hook,
    "pack hook in vmap": in_vmap,
}
IN_FORWARD = ("TorchDispatchMode", "TorchFunctionMode", "subclass", "wrapper subclass")


def reason(place: str, operation: str, way: str) -> str:
    """Why the operation, reached so, has no such place; empty where it has one."""
    row = OPERATIONS[operation]
    if not row.differentiable and place not in IN_FORWARD:
        return "has no gradient"
    if not row.logits and "subclass" in place:
        return "takes no tensor"
    return WAYS[way].reason(row)


CELLS = [
    cell
    for cell in itertools.product(PLACES, OPERATIONS, ["function", "function, a tau a row", "module", "torch.ops"])
    if not reason(*cell)
]


@pytest.mark.parametrize(("place", "operation", "way"), CELLS)
def test_an_exception_comes_out_as_it_is(place: str, operation: str, way: str) -> None:
    """The very object; the generator is as it was where nothing was drawn; and the next call is as any."""
    row = OPERATIONS[operation]
    call, upstream = WAYS[way].bind(row, None), torch.ones(ROWS, 5)
    expected = WAYS[way].bind(row, 13)
    for error in EXCEPTIONS:
        inputs = [torch.zeros(ROWS, 5, requires_grad=row.differentiable)]
        inputs += [torch.ones(ROWS, 1)] if WAYS[way].tau_rows else []
        before, plain = torch.get_rng_state(), expected(*inputs)

        def fail(*args: Any, error: BaseException = error, **kwargs: Any) -> NoReturn:
            raise error

        try:
            PLACES[place](call, inputs, upstream, fail)
        except BaseException as found:
            assert found is error, f"{error!r} came out as {found!r}"
        else:
            raise AssertionError(f"{error!r} did not come out")
        assert torch.equal(expected(*inputs), plain)
        if place in IN_FORWARD:
            assert torch.equal(torch.get_rng_state(), before)


class Number:
    """A number whose conversion fails."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def fail(self) -> NoReturn:
        raise self.error

    __float__ = __index__ = __int__ = fail


ARGUMENTS: dict[str, Callable[[Any], object]] = {
    "tau": lambda number: gumbel_ext.softmax(torch.zeros(3), number),
    "tau of gumbel_softmax": lambda number: gumbel_ext.gumbel_softmax(torch.zeros(3), number),
    "temperature": lambda number: gumbel_ext.gumbel_max(torch.zeros(3), number),
    "seed": lambda number: gumbel_ext.gumbel_max(torch.zeros(3), seed=number),
    "seed of gumbel_noise": lambda number: gumbel_ext.gumbel_noise(3, seed=number),
}


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_an_exception_of_a_number_comes_out_as_it_is(argument: str) -> None:
    """But for a TypeError, which is how Python says that something is no number."""
    for error in EXCEPTIONS:
        if not isinstance(error, TypeError):
            try:
                ARGUMENTS[argument](Number(error))
            except BaseException as found:
                assert found is error, f"{error!r} came out as {found!r}"
            else:
                raise AssertionError(f"{error!r} did not come out")


HUGE = torch.zeros(1).expand(1 << 46, 4)  # a result of its shape finds no memory
X = torch.zeros(3, 4)
FAILURES: dict[str, dict[str, Any]] = {
    "tau": {"tau": -1.0},
    "tau of one row": {"tau": torch.tensor([[1.0], [1.0], [-1.0]])},
    "shape of tau": {"tau": torch.ones(2, 1)},
    "dtype of tau": {"tau": torch.ones(3, 1, dtype=torch.bool)},
    "mask": {"mask": torch.ones(5, dtype=torch.bool)},
    "dtype of the mask": {"mask": torch.ones(4)},
    "dim": {"dim": 2},
    "dtype of the logits": {"logits": X.long()},
    "seed": {"seed": torch.zeros(2, dtype=torch.int64)},
    "memory": {"logits": HUGE},
    "num_samples": {"num_samples": -1},
    "too many samples": {"num_samples": 1 << 31},
    "memory of the samples": {"logits": X[:1].expand(1 << 18, 4), "num_samples": (1 << 31) - 1},
    "size": {"size": (-1, 3)},
    "memory of the noise": {"size": (1 << 46, 3)},
    "dtype of the noise": {"dtype": torch.int64},
    "row seeds of the noise": {"seed": torch.zeros(7, dtype=torch.int64)},
}


def takes(operation: str) -> set[str]:
    if operation == "gumbel_noise":
        return {"size", "dtype", "seed"}
    return {"tau", "mask", "dim", "logits", "seed"} | ({"num_samples"} if operation == "gumbel_max" else set())


FAILING = [
    (operation, failure)
    for operation, failure in itertools.product(OPERATIONS, FAILURES)
    if OPERATIONS[operation].noisy and set(FAILURES[failure]) <= takes(operation)
]


@pytest.mark.parametrize("generator", [None, torch.Generator()], ids=["default", "own"])
@pytest.mark.parametrize(("operation", "failure"), FAILING)
def test_a_failed_call_leaves_the_generator_alone(operation: str, failure: str, generator: Any) -> None:
    """Whatever failed, the arguments or the memory for the result."""
    row, arguments = OPERATIONS[operation], {"logits": X} if operation != "gumbel_noise" else {"size": (3, 4)}
    arguments |= row.arguments | FAILURES[failure] | {"generator": generator}
    if "tau" in arguments:
        arguments[row.temperature] = arguments.pop("tau")

    def state() -> Tensor:
        return torch.get_rng_state() if generator is None else generator.get_state()

    before = state()
    with pytest.raises((RuntimeError, ValueError, TypeError, IndexError)):
        getattr(gumbel_ext, row.function)(**arguments)
    assert torch.equal(state(), before)
