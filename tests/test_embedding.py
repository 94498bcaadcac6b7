"""`straight_through_embedding`: the product of one-hot rows with a matrix, without the rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
from torch import Tensor
from torch.autograd import forward_ad

import gumbel_ext
from gumbel_ext import one_hot_sample, straight_through_embedding

# Shape and dim of the logits, shape of the weight, and their product.
SHAPES: dict[str, tuple[tuple[int, ...], int, tuple[int, ...], str]] = {
    "one matrix": ((5, 7), -1, (7, 3), "nc,cd->nd"),
    "any rows": ((2, 5, 7), -1, (7, 3), "bnc,cd->bnd"),
    "classes first": ((7, 5), 0, (7, 3), "cn,cd->nd"),
    "one row": ((7,), -1, (7, 3), "c,cd->d"),
    "groups": ((5, 2, 7), -1, (2, 7, 3), "ngc,gcd->ngd"),
    "a matrix an image": ((4, 7, 2, 5), 1, (4, 1, 1, 7, 3), "bcgn,bcd->bgnd"),
    "a matrix a row": ((5, 7), -1, (5, 7, 3), "nc,ncd->nd"),
    "all of it": ((3, 2, 2, 6), -1, (3, 1, 2, 6, 4), "abgc,agcd->abgd"),
}


def inputs(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, int, Callable[[Tensor, Tensor], Tensor]]:
    shape, dim, weight_shape, equation = SHAPES[name]
    generator = torch.Generator().manual_seed(len(name))
    x, w = (torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in (shape, weight_shape))

    def product(z: Tensor, w: Tensor) -> Tensor:
        return torch.einsum(equation, z, w.reshape([n for n in w.shape if n != 1]))

    return x.requires_grad_(), w.requires_grad_(), dim, product


@pytest.mark.parametrize("estimator", ["gumbel", "softmax", "reinmax", "rao"])
@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_the_product_with_one_hot_rows(name: str, dtype: torch.dtype, estimator: Any) -> None:
    """Its value, and its gradients for logits, weight and temperatures."""
    x, w, dim, product = inputs(name, dtype)
    taus = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.7, 1.3)]
    options = {"estimator": estimator, "temperature": taus[1], "dim": dim, "seed": 4, "num_noises": 3}
    value, index = straight_through_embedding(x, w, taus[0], **options)
    z = one_hot_sample(x, taus[0], **options)
    expected = product(z, w)
    assert torch.equal(index, gumbel_ext.gumbel_max(x.detach(), taus[1].detach(), dim=dim, seed=4))
    assert value.dtype == w.dtype and torch.equal(value, expected)
    dy = torch.randn(value.shape, dtype=torch.float64).to(dtype)
    exact = {torch.float64: 1e-12, torch.float32: 2e-5}.get(dtype, 0.1)
    for found, wanted in zip(
        torch.autograd.grad(value, (x, w, *taus), dy), torch.autograd.grad(expected, (x, w, *taus), dy), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=exact, atol=exact)


def test_many_rows_choose_one() -> None:
    """The weight's gradient is the sum over them, the same at every run and on any number of threads."""
    x = torch.randn(3000, 4, requires_grad=True)
    w = torch.randn(4, 33, requires_grad=True)
    dy = torch.randn(3000, 33)
    threads, found = torch.get_num_threads(), []
    for count in (threads, threads, 1):
        torch.set_num_threads(count)
        value, index = straight_through_embedding(x, w, seed=1)
        found.append(torch.autograd.grad(value, w, dy)[0])
    torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    expected = torch.zeros(4, 33, dtype=torch.float64).index_add(0, index, dy.double())
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-4, atol=1e-3)


def test_rows_without_a_softmax() -> None:
    """NaN in their values, the index of `gumbel_max`, and nothing of theirs in the weight's gradient."""
    x = torch.tensor([[0.0, math.nan, 1.0], [0.0, 1.0, math.inf], [-math.inf] * 3, [0.0, 1.0, 2.0]], requires_grad=True)
    w = torch.ones(3, 2, requires_grad=True)
    value, index = straight_through_embedding(x, w, seed=3)
    assert torch.equal(index, gumbel_ext.gumbel_max(x.detach(), seed=3))
    assert value[:3].isnan().all() and (value[3] == 1).all()
    dx, dw = torch.autograd.grad(value, (x, w), torch.ones_like(value))
    assert dx[:3].isnan().all() and not dx[3].isnan().any()
    assert dw.sum() == 2


def test_dtypes_of_their_own() -> None:
    """As under autocast: half logits choose among float32 rows, which the value keeps."""
    x = torch.randn(6, 5, dtype=torch.bfloat16, requires_grad=True)
    w = torch.randn(5, 3, requires_grad=True)
    value, _ = straight_through_embedding(x, w, seed=2)
    dx, dw = torch.autograd.grad(value, (x, w), torch.randn(6, 3))
    assert value.dtype == dw.dtype == torch.float32 and dx.dtype == torch.bfloat16
    assert (w.detach()[:, None] == value.detach()).all(-1).any(0).all()


@pytest.mark.parametrize("batched", [(0, None), (None, 0), (0, 0), (1, 2)], ids=str)
def test_vmap(batched: tuple[int | None, int | None]) -> None:
    """Over logits, weight or both: what a loop gives, gradients too."""
    x = torch.randn(5, 7, dtype=torch.float64)
    w = torch.randn(7, 2, dtype=torch.float64)
    xs = torch.stack([x, x + 1, x * 2], batched[0]) if batched[0] is not None else x
    ws = torch.stack([w, w + 1, w * 2], batched[1]) if batched[1] is not None else w

    def loss(x: Tensor, w: Tensor) -> Tensor:
        return (straight_through_embedding(x, w, 0.7, seed=5).value ** 2).sum()

    found = torch.func.vmap(torch.func.grad(loss, (0, 1)), batched)(xs, ws)
    pick = lambda t, d, i: t if d is None else t.select(d, i)  # noqa: E731
    for i in range(3):
        expected = torch.func.grad(loss, (0, 1))(pick(xs, batched[0], i), pick(ws, batched[1], i))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a[i], b)


def test_compiled_and_with_tangents() -> None:
    """One graph whatever the temperatures; the tangent of the product."""
    x, w, dim, product = inputs("groups", torch.float32)

    def step(x: Tensor, w: Tensor, tau: float, temperature: float) -> tuple[Tensor, Tensor]:
        value, index = straight_through_embedding(x, w, tau, temperature=temperature, dim=dim, seed=6)
        return value * 2, index

    torch._dynamo.reset()
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for tau in (1.0, 0.9, 0.8, 0.7):
        with torch._dynamo.config.patch(error_on_recompile=tau < 0.9):
            found, expected = (f(x, w, tau, 2 * tau) for f in (compiled, step))
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
        dy = torch.randn(found[0].shape)
        for a, b in zip(*(torch.autograd.grad(y[0], (x, w), dy) for y in (found, expected)), strict=True):
            torch.testing.assert_close(a, b)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t.detach(), t.detach().sin()) for t in (x, w)]
        value = straight_through_embedding(*duals, 0.7, seed=6).value
        expected_value = product(one_hot_sample(duals[0], 0.7, seed=6), duals[1])
        torch.testing.assert_close(*(forward_ad.unpack_dual(y).tangent for y in (value, expected_value)))


def test_module() -> None:
    """The function with the module's own weight, a schedule for tau, and a state dict."""
    schedule = gumbel_ext.nn.TemperatureSchedule(2.0, 1.0, 10, "linear")
    module = gumbel_ext.nn.StraightThroughEmbedding(7, 3, schedule, groups=2, estimator="reinmax", temperature=0.8)
    assert {"weight"} < set(module.state_dict()) and module.weight.shape == (2, 7, 3)
    x = torch.randn(5, 2, 7)
    for _ in range(2):
        value, index = module(x, seed=1)
        expected = straight_through_embedding(
            x, module.weight, schedule(), estimator="reinmax", temperature=0.8, seed=1
        )
        assert torch.equal(value, expected.value) and torch.equal(index, expected.index)
        schedule.step()
    assert "2, 7, 3" in repr(module) and "reinmax" in repr(module)


BAD: list[tuple[Any, type[Exception], str]] = [
    (torch.ones(4, 3), ValueError, "weight: expected shape [..., 5, size]"),
    (torch.ones(5), ValueError, "weight: expected shape [..., 5, size]"),
    (torch.ones(3, 5, 3), ValueError, "whose first dimensions broadcast to [2], got [3, 5, 3]"),
    (torch.ones(1, 2, 5, 3), ValueError, "whose first dimensions broadcast to [2]"),
    (torch.ones(5, 3, dtype=torch.int64), TypeError, "weight: expected float32"),
    ([1.0], TypeError, "weight: expected a torch.Tensor, got list"),
    (torch.ones(5, 3).to_sparse(), TypeError, "weight: expected a dense tensor"),
]


@pytest.mark.parametrize(("weight", "error", "message"), BAD, ids=[message[-30:] for *_, message in BAD])
def test_bad_weights(weight: Any, error: type[Exception], message: str) -> None:
    before = torch.get_rng_state()
    with pytest.raises(error) as raised:
        straight_through_embedding(torch.zeros(2, 5), weight)
    assert message in str(raised.value)
    assert torch.equal(torch.get_rng_state(), before)
