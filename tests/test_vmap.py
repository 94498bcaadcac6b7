"""vmap: with a seed what a loop gives, without one what torch's own random functions mean by `randomness`."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap
from ways import OPERATIONS

import gumbel_ext

NOISY = [name for name, row in OPERATIONS.items() if row.noisy]
DIFFERENTIABLE = [name for name, row in OPERATIONS.items() if row.differentiable]
# Whose gradient is a softmax's.
SOFTMAXES = [name for name in DIFFERENTIABLE if OPERATIONS[name].arguments.keys() <= {"hard"}
             and OPERATIONS[name].function not in ("relaxed_top_k", "sample", "gumbel_top_k")]  # fmt: skip
RANDOMNESS = ["error", "same", "different"]
CLASSES = 1000  # so many that no two draws agree by chance


def sample(name: str, x: Tensor, **kwargs: Any) -> Tensor:
    """The operation at logits x, or noise of x's shape; its index or one-hot of 1000 classes, or its values."""
    row = OPERATIONS[name]
    function = getattr(gumbel_ext, row.function)
    if not row.logits:
        return function(list(x.shape), dtype=x.dtype, **kwargs)
    result = function(x, *row.leading, **row.arguments, **kwargs)
    return row.answer(x, result, kwargs.get("dim", -1)) if row.answer else result


def draws(name: str, x: Tensor, **kwargs: Any) -> Tensor:
    """Several samples of a call, that all of them agree by chance may be ruled out."""
    return sample(name, x.expand(4, -1), **kwargs)


# What is batched: the logits, something beside them, or nothing that we see.
BATCHES: dict[str, Callable[..., tuple[Callable[..., Tensor], Tensor]]] = {
    "logits": lambda name, **kwargs: (lambda x: draws(name, x, **kwargs), torch.zeros(5, CLASSES)),
    "tau": lambda name, **kwargs: (
        lambda tau: draws(name, torch.zeros(CLASSES), **{OPERATIONS[name].temperature: tau}, **kwargs),
        torch.ones(5),
    ),
    "mask": lambda name, **kwargs: (
        lambda mask: draws(name, torch.zeros(CLASSES), mask=mask, **kwargs),
        torch.ones(5, CLASSES, dtype=torch.bool),
    ),
    "nothing": lambda name, **kwargs: (lambda i: draws(name, torch.zeros(CLASSES), **kwargs), torch.arange(5)),
}
CELLS = [cell for cell in itertools.product(NOISY, BATCHES) if cell[0] != "gumbel_noise" or cell[1] == "nothing"]


def state(generator: torch.Generator | None) -> Tensor:
    return (generator or torch.default_generator).get_state()


@pytest.fixture(params=["default", "own"])
def generator(request: pytest.FixtureRequest) -> torch.Generator | None:
    return torch.Generator().manual_seed(5) if request.param == "own" else None


@pytest.mark.parametrize(("name", "batch"), CELLS)
def test_error(name: str, batch: str, generator: torch.Generator | None) -> None:
    """Randomness that nobody allowed raises, and takes nothing from the generator."""
    call, x = BATCHES[batch](name, generator=generator)
    before = state(generator)
    with pytest.raises(RuntimeError, match="random"):
        vmap(call)(x)
    assert torch.equal(state(generator), before)


@pytest.mark.parametrize(("name", "batch"), CELLS)
def test_same(name: str, batch: str, generator: torch.Generator | None) -> None:
    """One call's noise in every element."""
    call, x = BATCHES[batch](name, generator=generator)
    before = state(generator)
    found = vmap(call, randomness="same")(x)
    after = state(generator)
    (generator or torch.default_generator).set_state(before)
    expected = call(x[0])
    assert found.shape == (5, *expected.shape) and all(torch.equal(element, expected) for element in found)
    assert torch.equal(state(generator), after)


@pytest.mark.parametrize(("name", "batch"), CELLS)
def test_different(name: str, batch: str, generator: torch.Generator | None) -> None:
    """Noise of its own in every element and row, governed by the generator, and new in the next call."""
    call, x = BATCHES[batch](name, generator=generator)
    before = state(generator)
    found, again = (vmap(call, randomness="different")(x) for _ in range(2))
    assert len(torch.unique(torch.cat([found, again]).flatten(0, 1), dim=0)) >= 30  # of 40, as chance has it
    (generator or torch.default_generator).set_state(before)
    assert torch.equal(vmap(call, randomness="different")(x), found)


@pytest.mark.parametrize("batched", ["neither", "outer", "inner", "both"])
@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize(("outer", "inner"), list(itertools.product(["same", "different"], repeat=2)))
def test_nested(name: str, outer: str, inner: str, batched: str) -> None:
    """Each level has its own say, whichever of them the logits come from."""
    x = torch.zeros(2 if batched in ("outer", "both") else 1, 3 if batched in ("inner", "both") else 1, CLASSES)
    outside, inside = (0 if size > 1 else None for size in x.shape[:2])
    call = vmap(lambda x, i: draws(name, x.view(-1)), (inside, 0), randomness=inner)
    found = vmap(call, (outside, 0), randomness=outer)(x if outside == 0 else x[0], torch.arange(6).view(2, 3))
    assert torch.equal(found[0], found[1]) == (outer == "same")
    assert torch.equal(found[:, 0], found[:, 1]) == (inner == "same")
    assert torch.equal(found[:, 1], found[:, 2]) == (inner == "same")
    assert torch.equal(found[0, 1], found[1, 2]) == (outer == inner == "same")


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("nesting", [("error", "different"), ("different", "error"), ("error", "same")])
def test_nested_error(name: str, nesting: tuple[str, str]) -> None:
    """One level that forbids is enough."""
    call = vmap(vmap(lambda x: draws(name, x), randomness=nesting[1]), randomness=nesting[0])
    with pytest.raises(RuntimeError, match="random"):
        call(torch.zeros(2, 3, CLASSES))


@pytest.mark.parametrize("seed", [{}, {"seed": None}], ids=str)
@pytest.mark.parametrize("name", NOISY)
def test_operators(name: str, seed: dict[str, None]) -> None:
    """torch.ops means the same by randomness; a seed of None is none, whichever overload takes it."""
    row = OPERATIONS[name]
    function = getattr(torch.ops.gumbel_ext, row.function)
    first = torch.zeros(4, CLASSES) if row.logits else [4, CLASSES]
    one = lambda found: found[0] if row.answer else found  # noqa: E731
    calls: list[tuple[Callable[[Tensor], Tensor], Tensor]] = [
        (lambda i: one(function(first, *row.leading, **row.arguments, **seed)), torch.arange(3))
    ]
    if row.logits:
        calls.append((lambda x: one(function(x, *row.leading, **row.arguments, **seed)), torch.zeros(3, 4, CLASSES)))
    for call, x in calls:
        with pytest.raises(RuntimeError, match="random"):
            vmap(call)(x)
        same, different = (vmap(call, randomness=r)(x) for r in ("same", "different"))
        assert torch.equal(same[0], same[1]) and torch.equal(same[0], same[2])
        assert not torch.equal(different[0], different[1]) and not torch.equal(different[1], different[2])


@pytest.mark.parametrize("name", ["softmax", "straight_through"])
def test_what_draws_nothing_needs_no_permission(name: str) -> None:
    x = torch.randn(5, 7)
    torch.testing.assert_close(vmap(lambda row: sample(name, row))(x), sample(name, x))


def loop(call: Callable[..., Tensor], in_dims: tuple[int | None, ...], arguments: tuple[Tensor, ...]) -> Tensor:
    """vmap, written out."""
    sizes = {t.shape[d] for t, d in zip(arguments, in_dims, strict=True) if d is not None}
    parts = [
        [t if d is None else t.select(d, i) for t, d in zip(arguments, in_dims, strict=True)] for i in range(*sizes)
    ]
    return torch.stack([call(*part) for part in parts])


# in_dims of logits (3, 4, 6), a temperature (3, 1, 6), a mask (3, 4, 6) and seeds (3, 6), less what is batched of
# each (a dimension of five), where the classes are dimension 1.
IN_DIMS: list[tuple[int | None, ...]] = [
    (0, None, None, None), (3, None, None, None), (-2, None, None, None), (None, 0, None, None),
    (None, -1, None, None), (None, None, 2, None), (None, None, None, 0), (None, None, None, -1),
    (1, 2, 3, 1), (2, None, 0, 2),
]  # fmt: skip


def arguments(in_dims: tuple[int | None, ...]) -> tuple[Tensor, ...]:
    shapes = [(3, 4, 6), (3, 1, 6), (3, 4, 6), (3, 6)]
    kinds = [torch.randn, torch.rand, torch.rand, torch.rand]
    found = []
    for shape, kind, dim in zip(shapes, kinds, in_dims, strict=True):
        t = kind((5, *shape))
        found.append(t[0] if dim is None else t.movedim(0, dim))
    x, tau, mask, seeds = found
    return x, tau + 0.5, mask > 0.2, (seeds * 2**40).long()


def seeded(name: str, x: Tensor, tau: Tensor, mask: Tensor, seeds: Tensor, **kwargs: Any) -> Tensor:
    row = OPERATIONS[name]
    if not row.logits:
        return sample(name, x.transpose(1, 2), seed=seeds)
    kwargs = {row.temperature: tau, "dim": 1, "mask": mask} | ({"seed": seeds} if row.noisy else {}) | kwargs
    return sample(name, x, **kwargs)


@pytest.mark.parametrize("randomness", RANDOMNESS)
@pytest.mark.parametrize("in_dims", IN_DIMS, ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_seeded_calls_are_a_loop(name: str, in_dims: tuple[int | None, ...], randomness: str) -> None:
    """Whatever is batched, along any dimension, with a number for the seed and with one a row; nothing is drawn."""
    values = arguments(in_dims)
    before = torch.get_rng_state()
    for kwargs in ({}, {"num_samples": 3} if name == "gumbel_max" else {"seed": 9}):
        if kwargs.keys() <= ({"seed"} if OPERATIONS[name].noisy and OPERATIONS[name].logits else {"num_samples"}):
            call = lambda *values, kwargs=kwargs: seeded(name, *values, **kwargs)  # noqa: E731
            found = vmap(call, in_dims, randomness=randomness)(*values)
            torch.testing.assert_close(found, loop(call, in_dims, values), rtol=1e-6, atol=1e-7)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", NOISY)
def test_a_seed_an_element(name: str) -> None:
    """Of one row each: a batched seed of no dimensions; in chunks, nested and with another out_dim."""
    x, seeds = torch.randn(6, 50), torch.arange(6)
    expected = torch.stack([sample(name, *pair[:1], seed=pair[1]) for pair in zip(x, seeds, strict=True)])
    call = lambda x, seed: sample(name, x, seed=seed)  # noqa: E731
    assert torch.equal(vmap(call)(x, seeds), expected)
    assert torch.equal(vmap(call, chunk_size=4)(x, seeds), expected)
    assert torch.equal(vmap(call, out_dims=-1)(x, seeds), expected.movedim(0, -1))
    nested = vmap(vmap(call), in_dims=(1, 0))(x.view(3, 2, 50).transpose(0, 1), seeds.view(3, 2))
    assert torch.equal(nested.flatten(0, 1), expected)
    crossed = vmap(vmap(call, (None, 0)), (0, None))(x, seeds)
    assert torch.equal(crossed.diagonal().movedim(-1, 0), expected)


@pytest.mark.parametrize("batched", ["logits", "tau", "both"])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients(name: str, batched: str) -> None:
    """vmap of grad and grad of vmap, to logits and temperatures, are the loop's."""
    in_dims = {"logits": (0, None, None, None), "tau": (None, 0, None, None), "both": (3, 2, 1, 0)}[batched]
    x, tau, mask, seeds = arguments(in_dims)
    weight = torch.randn(3, 4, 6)

    def loss(x: Tensor, tau: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
        return (seeded(name, x, tau, mask, seeds) * weight).sum()

    for argument in (0, 1):
        derivative = grad(loss, argument)
        expected = loop(derivative, in_dims, (x, tau, mask, seeds))
        found = vmap(derivative, in_dims)(x, tau, mask, seeds)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        whole = [grad(lambda *a, f=f: f(loss, in_dims)(*a).sum(), argument) for f in (vmap, looped)]
        torch.testing.assert_close(*(f(x, tau, mask, seeds) for f in whole), rtol=1e-4, atol=1e-6)


def looped(call: Callable[..., Tensor], in_dims: tuple[int | None, ...]) -> Callable[..., Tensor]:
    return lambda *arguments: loop(call, in_dims, arguments)


FORWARD, REVERSE = torch.func.jacfwd, torch.func.jacrev
SECOND: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]] = {
    "jacfwd of jacrev": lambda f, x: FORWARD(REVERSE(f))(x),
    "jacrev of jacrev": lambda f, x: REVERSE(REVERSE(f))(x),
    "jacrev of jacfwd": lambda f, x: REVERSE(FORWARD(f))(x),
    "jacfwd of jacfwd": lambda f, x: FORWARD(FORWARD(f))(x),
    "hessian": torch.autograd.functional.hessian,
    "hessian, vectorize": functools.partial(torch.autograd.functional.hessian, vectorize=True),
}


@pytest.mark.parametrize("way", SECOND)
@pytest.mark.parametrize("name", SOFTMAXES)
def test_second_derivatives(name: str, way: str) -> None:
    """Of logits and temperature at once, by every composition of the modes: those of torch's own operations."""
    weight = torch.randn(6, dtype=torch.float64)
    noise = sample("gumbel_noise", weight, seed=3) if OPERATIONS[name].noisy else 0
    kwargs = {"seed": 3} if OPERATIONS[name].noisy else {}

    def ours(v: Tensor) -> Tensor:
        tau = {OPERATIONS[name].temperature: v[6:].exp()}
        return (sample(name, v[:6], **tau, **kwargs) * weight).sum()

    def theirs(v: Tensor) -> Tensor:
        return (torch.softmax((v[:6] + noise) / v[6:].exp(), 0) * weight).sum()

    v = torch.randn(7, dtype=torch.float64)
    torch.testing.assert_close(SECOND[way](ours, v), REVERSE(REVERSE(theirs))(v))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@pytest.mark.parametrize("arguments", [{"vectorize": True}, {"vectorize": True, "strategy": "forward-mode"}], ids=str)
def test_jacobians(name: str, arguments: dict[str, Any]) -> None:
    """torch.autograd.functional's, in one pass, are those of a pass for each output."""
    kwargs = {"seed": 3} if OPERATIONS[name].noisy else {}
    inputs = (torch.randn(2, 5), torch.rand(2, 1) + 0.5)
    call = lambda x, tau: sample(name, x, **{OPERATIONS[name].temperature: tau}, **kwargs)  # noqa: E731
    found, expected = (torch.autograd.functional.jacobian(call, inputs, **a) for a in (arguments, {}))
    torch.testing.assert_close(found, expected)
