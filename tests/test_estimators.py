"""`one_hot_sample`: its value, and the gradient of each estimator against the formula of its paper.

Each check fails for a factor of 2, a missing term, a temperature in the wrong place or another row's noise.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import hard_inputs
import numpy as np
import pytest
import reference
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck

import gumbel_ext
from gumbel_ext import one_hot_sample

ESTIMATORS = ["gumbel", "softmax", "reinmax", "rao"]
F64 = torch.float64


def along(p: Tensor, dy: Tensor) -> Tensor:
    """J(p) dy."""
    return p * (dy - (p * dy).sum(-1, keepdim=True))


def noises(u: Tensor, index: Tensor, seed: Any, draws: int) -> list[Tensor]:
    """Of each draw, float64: the first is the sample's own, of the others u + g is such that its class wins."""
    hot, found = torch.zeros_like(u).scatter(-1, index[..., None], 1.0).bool(), []
    for draw in range(draws):
        rows = reference.noise(seed, u.shape[:-1].numel(), u.shape[-1], np.float64, draw)
        g = torch.from_numpy(rows).view(u.shape)
        if draw:
            best = torch.logsumexp(u, -1, keepdim=True) + (g * hot).sum(-1, keepdim=True)
            g = (torch.where(hot, best, -torch.logaddexp(-(u + g), -best)) - u).nan_to_num(0.0)
        found.append(g.detach())
    return found


def surrogate(
    name: str, x: Tensor, t: Tensor, tau: Tensor, mask: Tensor, z: Tensor, dy: Tensor, seed: Any, k: int
) -> Tensor:
    """What has the estimator's gradient, in torch's own operations; classes last."""
    softmax = lambda scores: torch.softmax(scores.masked_fill(~mask, -math.inf), -1)  # noqa: E731
    if name == "softmax":
        return (softmax(x / tau) * dy).sum()
    if name == "reinmax":
        q, r = softmax(x / t / tau).detach(), softmax(x / t).detach()
        return (x / t * (2 * along((z + q) / 2, dy) - along(r, dy) / 2)).sum()
    draws = noises((x / t).masked_fill(~mask, -math.inf), z.argmax(-1), seed, k if name == "rao" else 1)
    return sum((softmax((x / t + g) / tau) * dy).sum() for g in draws) / len(draws)


SHAPES = [((4, 1), -1), ((4, 3), -1), ((3, 10), 0), ((2, 5, 70), -1), ((2, 33, 3), 1)]
LONG = [((2, 2049), -1), ((2, 4100), -1)]
TEMPERATURES: list[tuple[Any, Any]] = [(1.0, 1.0), (1.0, 0.6), (0.7, 1.0), ("rows", 0.8), (1.2, "rows")]
CASES = [*itertools.product(SHAPES, TEMPERATURES), *itertools.product(LONG, TEMPERATURES[-2:])]


def case(shape: tuple[int, ...], dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, a mask that leaves a class in every row, and what comes back."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = (torch.randn(shape, generator=generator, dtype=F64) * 2).to(dtype)
    mask = torch.rand(shape, generator=generator) < 0.9
    mask.select(dim, 0).fill_(True)
    return x, mask, torch.randn(shape, generator=generator, dtype=F64).to(dtype)


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_are_the_papers(estimator: str, dtype: torch.dtype) -> None:
    """Of logits and both temperatures, at every shape, with masks and seeds a row."""
    eps = torch.finfo(F64 if dtype == F64 else torch.float32).eps
    for ((shape, dim), (temperature, tau)), masked in itertools.product(CASES, (False, True)):
        x, mask, dy = case(shape, dim, dtype)
        rows = [n if d != dim % len(shape) else 1 for d, n in enumerate(shape)]
        t_, tau_ = (
            (torch.linspace(0.5, 2, math.prod(rows), dtype=F64).view(rows) if v == "rows" else torch.tensor(v).double())
            for v in (temperature, tau)
        )
        seeds = torch.arange(math.prod(rows)).view(rows).squeeze(dim) if masked else 7
        inputs = [v.clone().requires_grad_() for v in (x, t_, tau_)]
        z = one_hot_sample(
            inputs[0], inputs[2], estimator=estimator, temperature=inputs[1], dim=dim, mask=mask if masked else None,
            seed=seeds, num_noises=3,
        )  # fmt: skip
        found = torch.autograd.grad(z, inputs, dy)
        last = [v.movedim(dim, -1) if v.dim() else v for v in (*inputs, mask, z, dy)]
        wide = [v.detach().double().requires_grad_() for v in last[:3]]
        allowed = last[3] if masked else torch.ones_like(last[3])
        value = surrogate(estimator, *wide, allowed, last[4].detach().double(), last[5].double(), seeds, 3)
        expected = torch.autograd.grad(value, wide, allow_unused=True)
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            b = torch.zeros_like(a) if b is None else b.movedim(-1, dim) if b.dim() else b
            rounding = torch.finfo(dtype).eps if i == 0 and dtype.itemsize == 2 else 0
            scale = 30 if i == 0 else 30 * math.sqrt(x.numel())
            assert ((a.double() - b).abs() <= 20 * eps * scale + rounding * b.abs()).all(), (shape, temperature, tau, i)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_one_noise_is_the_draws_own(temperature: float) -> None:
    """`rao` of one noise is `gumbel`, to the bit."""
    x = torch.randn(50, 300, requires_grad=True)
    dy = torch.randn(50, 300)
    sample = functools.partial(one_hot_sample, x, 0.7, temperature=temperature, seed=3)
    grads = [torch.autograd.grad(z, x, dy)[0] for z in (sample(), sample(estimator="rao", num_noises=1))]
    assert torch.equal(*grads)


def test_law_of_conditional_noise() -> None:
    """Given the class, the gradients of the noises that are made again have the mean and the spread of the draw's own:
    4 deviations of 2^17 rows a class at most, and a tenth of the variance for ten of them."""
    rows = 1 << 17
    x = torch.tensor([0.5, -1.0, 1.2, 0.0]).expand(rows, 4).contiguous().requires_grad_()
    dy = torch.tensor([1.0, 2.0, -1.0, 0.5]).expand(rows, 4)
    for temperature, tau in ((1.0, 0.7), (0.5, 1.0), (2.0, 0.5)):
        of = {}
        for k in (1, 2, 11):
            z = one_hot_sample(x, tau, estimator="rao", temperature=temperature, seed=5, num_noises=k)
            of[k] = torch.autograd.grad(z, x, dy)[0].double()
        own, again = of[1], 2 * of[2] - of[1]
        ten = (11 * of[11] - of[1]) / 10
        for cls in range(4):
            chosen = z[:, cls] == 1
            a, b, c = own[chosen], again[chosen], ten[chosen]
            deviation = ((a.var(0) + b.var(0)) / len(a)).sqrt()
            assert ((a.mean(0) - b.mean(0)).abs() <= 4 * deviation).all()
            ratio = b.var(0) / a.var(0)
            assert ((ratio > 0.8) & (ratio < 1.25)).all()
            assert ((10 * c.var(0) / a.var(0) - 1).abs() < 0.25).all()


def test_reinmax_is_exact_for_quadratics() -> None:
    """At tau 1 its mean over the classes, weighted by their probabilities, is the gradient of the mean of f; that of
    `softmax` is not."""
    x = torch.randn(6, dtype=F64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    a, b = torch.randn(6, 6, dtype=F64), torch.randn(6, dtype=F64)
    eye = torch.eye(6, dtype=F64)
    f = torch.einsum("ni,ij,nj->n", eye, a, eye) + eye @ b
    (exact,) = torch.autograd.grad(torch.softmax(x, 0) @ f, x)
    dy = eye @ (a + a.T) + b
    off = {}
    for name, number in (("reinmax", 2), ("softmax", 1)):
        rows = x.detach().expand(6, 6)
        index = torch.arange(6)
        grads = torch.ops.gumbel_ext._estimate(
            dy, rows, None, 1.0, None, 1.0, None, index, None, None, number, 1, -1, None, False, False, False
        )[0]  # fmt: skip
        off[name] = (torch.softmax(x.detach(), 0) @ grads - exact).abs().max()
    assert off["reinmax"] < 1e-14 < 1e-3 < off["softmax"]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_without_a_seed(estimator: Any) -> None:
    """The generator's noise, as `gumbel_softmax` takes it, in forward and backward alike; the state moves on."""
    x, dy = torch.randn(20, 30, requires_grad=True), torch.randn(20, 30)
    for generator in (None, torch.Generator()):
        source = torch.default_generator if generator is None else generator
        source.manual_seed(11)
        expected = gumbel_ext.gumbel_softmax(x, hard=True, generator=generator)
        after = source.get_state()
        source.manual_seed(11)
        z = one_hot_sample(x, estimator=estimator, generator=generator, num_noises=1)
        assert torch.equal(z, expected) and torch.equal(source.get_state(), after)
        source.manual_seed(12)  # the backward asks no generator
        if estimator in ("gumbel", "rao"):
            torch.testing.assert_close(*(torch.autograd.grad(y, x, dy)[0] for y in (z, expected)))


@pytest.mark.parametrize("layout", hard_inputs.LAYOUTS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_layouts(estimator: Any, layout: str) -> None:
    """Whatever the strides of logits and gradient."""
    view = hard_inputs.LAYOUTS[layout]
    for shape, dim in (((17, 20), -1), ((20, 33), 0), ((3, 18, 5), 1), ((2, 2050), -1)):
        x, dy = view(torch.randn(shape)), view(torch.randn(shape))
        plain = x.clone(memory_format=torch.contiguous_format)
        found = []
        for logits, grad in ((x, dy), (plain, dy.clone(memory_format=torch.contiguous_format))):
            leaf = logits.detach().requires_grad_()
            z = one_hot_sample(leaf, 0.8, estimator=estimator, temperature=0.9, dim=dim, seed=1, num_noises=2)
            found.append((z.detach(), torch.autograd.grad(z, leaf, grad)[0]))
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("estimator", ["gumbel", "softmax", "reinmax"])
def test_higher_orders_and_tangents(estimator: Any) -> None:
    """The gradient's own gradient against differences; tangents are what gradients are, along temperatures too."""
    generator = torch.Generator().manual_seed(2)
    x, dy = (torch.randn(3, 5, generator=generator, dtype=F64).requires_grad_() for _ in range(2))
    t, tau = (torch.tensor([[0.8], [1.1], [1.6]], dtype=F64, requires_grad=True) for _ in range(2))

    def first(x: Tensor, t: Tensor, tau: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
        z = one_hot_sample(x, tau, estimator=estimator, temperature=t, seed=4)
        return torch.autograd.grad(z, (x, t, tau), dy, create_graph=True)

    # Not of a draw that changes: differences are small enough for it not to.
    assert gradcheck(lambda *args: first(*args)[0], (x, t, tau, dy), eps=1e-7, atol=1e-5)
    grads = first(x, t, tau, dy)
    for i, input in enumerate((x, t, tau)):
        with forward_ad.dual_level():
            direction = torch.randn(input.shape, generator=generator, dtype=F64)
            args = [v.detach() for v in (x, t, tau)]
            args[i] = forward_ad.make_dual(args[i], direction)
            z = one_hot_sample(args[0], args[2], estimator=estimator, temperature=args[1], seed=4)
            tangent = forward_ad.unpack_dual(z).tangent
        along_it = 0.0 if tangent is None else (tangent * dy).sum()
        torch.testing.assert_close(torch.as_tensor(along_it).double(), (grads[i] * direction).sum())


def test_second_order_of_rao_is_refused() -> None:
    x = torch.randn(3, 5, requires_grad=True)
    z = one_hot_sample(x, estimator="rao", seed=1)
    with pytest.raises(NotImplementedError, match="expected another estimator than 'rao'"):
        torch.autograd.grad(z, x, torch.ones_like(x), create_graph=True)


def test_backward_keeps_an_index_a_row() -> None:
    """Of what is saved, nothing has the size of the logits but the logits."""
    x, sizes = torch.randn(64, 512, requires_grad=True), []

    def pack(t: Tensor) -> Tensor:
        if t.data_ptr() != x.data_ptr():
            sizes.append(t.numel())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        one_hot_sample(x, estimator="rao")
    assert sorted(sizes) == [1, 64]


def test_threads_and_neighbours_change_no_bit() -> None:
    """A row's gradient is its own, on any number of threads."""
    x, dy = torch.randn(70, 3000), torch.randn(70, 3000)
    threads = torch.get_num_threads()
    for estimator in ESTIMATORS:
        found = []
        for count, rows in ((threads, 70), (1, 70), (2, 9)):
            torch.set_num_threads(count)
            leaf = x[:rows].clone().requires_grad_()
            z = one_hot_sample(leaf, 0.7, estimator=estimator, temperature=0.8, seed=6, num_noises=2)
            found.append(torch.autograd.grad(z, leaf, dy[:rows])[0])
        torch.set_num_threads(threads)
        assert torch.equal(found[0], found[1]) and torch.equal(found[0][:9], found[2])


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"estimator": "st"}, ValueError, "estimator: expected 'gumbel', 'softmax', 'reinmax' or 'rao', got 'st'"),
    ({"estimator": 3}, TypeError, "estimator: expected a str, got int"),
    ({"num_noises": 0}, ValueError, "num_noises: expected 1 <= num_noises"),
    ({"temperature": 0.0}, ValueError, "temperature: expected a positive finite number, got 0"),
    ({"temperature": torch.tensor([[1.0], [-1.0]])}, ValueError, "temperature: expected a positive finite number"),
    ({"tau": -1.0}, ValueError, "tau: expected a positive finite number, got -1"),
    ({"tau": torch.tensor([[0.0], [1.0]])}, ValueError, "tau: expected a positive finite number, got 0"),
    ({"tau": torch.ones(3)}, ValueError, "tau: expected a shape that broadcasts"),
    ({"mask": torch.ones(2, 3)}, TypeError, "mask: expected a bool tensor"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=[message[:40] for *_, message in BAD])
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """One sentence, and the generator as it was."""
    before = torch.get_rng_state()
    for call in (one_hot_sample, torch.ops.gumbel_ext.one_hot_sample):
        if call is not one_hot_sample and not isinstance(arguments.get("estimator", ""), str):
            continue
        with pytest.raises(error, match=message.replace("(", r"\(")):
            call(torch.zeros(2, 3), **arguments)
    assert torch.equal(torch.get_rng_state(), before)
