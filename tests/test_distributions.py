"""gumbel_ext.distributions beside torch's own: all but the samples is the same, and those follow the same law."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import reference
import torch
from scipy import stats
from torch import Tensor
from torch import distributions as base

import gumbel_ext
from gumbel_ext import distributions

TAU = 0.6


@dataclass(frozen=True)
class Pair:
    ours: Any
    theirs: Any
    relaxed: bool

    def make(self, which: Any, validate_args: bool | None = None, tau: Any = None, **parameters: Any) -> Any:
        temperature = [torch.tensor(TAU) if tau is None else tau] if self.relaxed else []
        return which(*temperature, **parameters, validate_args=validate_args)

    def both(self, **arguments: Any) -> tuple[Any, Any]:
        return self.make(self.ours, **arguments), self.make(self.theirs, **arguments)


PAIRS = {
    "RelaxedOneHotCategorical": Pair(distributions.RelaxedOneHotCategorical, base.RelaxedOneHotCategorical, True),
    "ExpRelaxedCategorical": Pair(
        distributions.ExpRelaxedCategorical, base.relaxed_categorical.ExpRelaxedCategorical, True
    ),
    "OneHotCategoricalStraightThrough": Pair(
        distributions.OneHotCategoricalStraightThrough, base.OneHotCategoricalStraightThrough, False
    ),
}
PARAMETERS: dict[str, Callable[[Tensor], dict[str, Tensor]]] = {
    "logits": lambda x: {"logits": x},
    "probs": lambda x: {"probs": x.exp()},  # not normalised
}
SHAPES: list[tuple[int, ...]] = [(4,), (3, 4), (2, 1, 4)]


def logits(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).mul(2).to(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("parameter", PARAMETERS)
@pytest.mark.parametrize("name", PAIRS)
def test_all_but_the_samples_is_torchs(name: str, parameter: str, shape: tuple[int, ...]) -> None:
    ours, theirs = PAIRS[name].both(**PARAMETERS[parameter](logits(*shape)))
    assert isinstance(ours, PAIRS[name].theirs) and ours.has_rsample
    for _ in range(2):
        for attribute in ("batch_shape", "event_shape", "arg_constraints", "support"):
            assert getattr(ours, attribute) == getattr(theirs, attribute), attribute
        assert torch.equal(ours.logits, theirs.logits) and torch.equal(ours.probs, theirs.probs)
        value = theirs.sample((5,))
        assert torch.equal(ours.log_prob(value), theirs.log_prob(value))
        if not PAIRS[name].relaxed:
            for attribute in ("mean", "mode", "variance"):
                assert torch.equal(getattr(ours, attribute), getattr(theirs, attribute))
            assert torch.equal(ours.entropy(), theirs.entropy())
            assert torch.equal(ours.enumerate_support(), theirs.enumerate_support())
            other = base.OneHotCategorical(logits=logits(*shape) * 2)
            assert torch.equal(base.kl_divergence(ours, other), base.kl_divergence(theirs, other))
        ours, theirs = (d.expand((6, *shape[:-1])) for d in (ours, theirs))
        assert type(ours) is PAIRS[name].ours


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sample_shape", [(), (5,), (2, 3)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("parameter", PARAMETERS)
@pytest.mark.parametrize("name", PAIRS)
def test_samples_lie_in_the_support(
    name: str, parameter: str, shape: tuple[int, ...], sample_shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """Of torch's shape and dtype; `sample` without gradient; and of finite probability."""
    x = logits(*shape, dtype=dtype).requires_grad_()
    ours, theirs = PAIRS[name].both(**PARAMETERS[parameter](x))
    for draw, grad in (("sample", False), ("rsample", True)):
        y, expected = (getattr(d, draw)(torch.Size(sample_shape)) for d in (ours, theirs))
        assert y.shape == expected.shape and y.dtype == expected.dtype and y.requires_grad == grad
        assert ours.support.check(y.detach()).all()
        assert ours.log_prob(y.detach()).isfinite().all()
        assert getattr(ours, draw)((0,)).shape == (0, *shape)


@pytest.mark.parametrize("parameter", PARAMETERS)
@pytest.mark.parametrize("name", PAIRS)
def test_samples_are_the_functions(name: str, parameter: str) -> None:
    """The noise is gumbel_softmax's, with a seed, a seed a row, a generator, and torch's default one."""
    x, shape = logits(3, 4), (2, 3, 4)
    distribution = PAIRS[name].make(PAIRS[name].ours, **PARAMETERS[parameter](x))
    tau = {"tau": TAU} if PAIRS[name].relaxed else {"hard": True}
    seeds = torch.arange(6).view(2, 3)

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(4)

    for make in (lambda: {"seed": 5}, lambda: {"seed": seeds}, lambda: {"generator": generator()}, dict):
        torch.manual_seed(7)
        expected = gumbel_ext.gumbel_softmax(x.expand(shape), **tau, **make())
        for draw in (distribution.sample, distribution.rsample):
            torch.manual_seed(7)
            found = draw((2,), **make())
            found = found.exp() if name.startswith("Exp") else found
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="expected at most one of the two"):
        distribution.sample(seed=1, generator=generator())


@pytest.mark.parametrize("temperature", ["number", "tensor", "a row"])
@pytest.mark.parametrize("parameter", PARAMETERS)
@pytest.mark.parametrize("name", ["RelaxedOneHotCategorical", "ExpRelaxedCategorical"])
def test_gradients_of_relaxed_samples(name: str, parameter: str, temperature: str) -> None:
    """With respect to parameters and temperatures: those of torch's arithmetic on the same noise."""
    x = logits(3, 4, dtype=torch.float64).requires_grad_()
    shapes = {"number": None, "tensor": (), "a row": (3, 1)}
    tau = TAU if temperature == "number" else torch.full(shapes[temperature], TAU).double().requires_grad_()
    inputs = (x,) if temperature == "number" else (x, tau)
    ours, theirs = PAIRS[name].both(**PARAMETERS[parameter](x), tau=tau, validate_args=False)
    weight = logits(2, 3, 4, dtype=torch.float64)
    noise = gumbel_ext.gumbel_noise((2, 3, 4), seed=5, dtype=torch.float64)
    logs = torch.log_softmax((theirs.logits + noise) / tau, -1)
    found, expected = ours.rsample((2,), seed=5), logs if name.startswith("Exp") else logs.exp()
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((y * weight).sum(), inputs, retain_graph=True) for y in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_gradients_of_straight_through_samples(parameter: str) -> None:
    """The probabilities'; the value is exactly the draw."""
    x = logits(3, 4).requires_grad_()
    ours, theirs = PAIRS["OneHotCategoricalStraightThrough"].both(**PARAMETERS[parameter](x))
    y, weight = ours.rsample((2,)), logits(2, 3, 4)
    assert set(y.unique().tolist()) == {0.0, 1.0}
    gradients = [torch.autograd.grad((p * weight).sum(), x, retain_graph=True)[0] for p in (y, theirs.probs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("parameter", PARAMETERS)
@pytest.mark.parametrize("name", PAIRS)
def test_the_largest_class_follows_the_probabilities(name: str, parameter: str) -> None:
    """A chi-square test; a class of probability 0 is never drawn."""
    x = torch.tensor([0.3, -1.0, 1.2, -torch.inf if name.startswith("OneHot") else -2.0])
    ours = PAIRS[name].make(PAIRS[name].ours, **PARAMETERS[parameter](x), validate_args=False)
    torch.manual_seed(11)
    counts = ours.sample((20_000,)).argmax(-1).bincount(minlength=4).numpy()
    expected = 20_000 * torch.softmax(x.double(), 0).numpy()
    possible = expected > 0
    assert counts[~possible].sum() == 0
    assert stats.chisquare(counts[possible], expected[possible]).pvalue > 1e-4


@pytest.mark.parametrize("name", ["RelaxedOneHotCategorical", "ExpRelaxedCategorical"])
def test_relaxed_samples_follow_their_law(name: str) -> None:
    """Of two classes: tau times the log-odds is the logits' difference and logistic noise, by a Kolmogorov-Smirnov
    test."""
    ours = PAIRS[name].make(PAIRS[name].ours, logits=torch.tensor([0.4, -0.3], dtype=torch.float64))
    torch.manual_seed(12)
    sample = ours.sample((40_000,))
    p = (sample.exp() if name.startswith("Exp") else sample)[:, 0].numpy()
    assert stats.kstest(np.log(p / (1 - p)) * TAU - 0.7, "logistic").pvalue > 1e-4


def test_logarithms_stay_finite_where_probabilities_underflow() -> None:
    """At a temperature of 1e-3, and their gradients too."""
    x = logits(64, 30).requires_grad_()
    y = PAIRS["ExpRelaxedCategorical"].make(distributions.ExpRelaxedCategorical, logits=x, tau=torch.tensor(1e-3))
    sample = y.rsample(seed=3)
    assert sample.isfinite().all() and (sample.exp() == 0).any()
    (gradient,) = torch.autograd.grad(sample[:, 0].sum(), x)
    assert gradient.isfinite().all()


def invalid() -> dict[str, dict[str, Any]]:
    return {
        "both": {"logits": torch.zeros(3), "probs": torch.ones(3)},
        "neither": {},
        "no dimension": {"logits": torch.tensor(0.0)},
        "NaN": {"logits": torch.tensor([0.0, torch.nan]), "validate_args": True},
        "infinity": {"logits": torch.tensor([0.0, torch.inf]), "validate_args": True},
        "a negative probability": {"probs": torch.tensor([1.5, -0.5]), "validate_args": True},
    }


@pytest.mark.parametrize("case", invalid())
@pytest.mark.parametrize("name", PAIRS)
def test_parameters_are_validated_as_torch_does(name: str, case: str) -> None:
    errors = []
    for which in (PAIRS[name].ours, PAIRS[name].theirs):
        with pytest.raises(ValueError) as error:
            PAIRS[name].make(which, **invalid()[case])
        errors.append(str(error.value))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("name", PAIRS)
def test_values_are_validated_as_torch_does(name: str) -> None:
    wrong = torch.full((4,), torch.nan)
    for distribution in PAIRS[name].both(logits=logits(4), validate_args=True):
        with pytest.raises(ValueError, match=r"within the support|to be within"):
            distribution.log_prob(wrong)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("name", PAIRS)
def test_copies_sample_alike(name: str, copied: Callable[[Any], Any]) -> None:
    distribution = PAIRS[name].make(PAIRS[name].ours, logits=logits(3, 4))
    assert torch.equal(copied(distribution).sample(seed=1), distribution.sample(seed=1))


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("name", PAIRS)
def test_compiled(name: str, dtype: torch.dtype) -> None:
    """A model that makes a distribution and samples from it: one graph, eager's numbers."""
    torch._dynamo.reset()

    def draw(x: Tensor) -> Tensor:
        return PAIRS[name].make(PAIRS[name].ours, logits=x, validate_args=False).rsample((2,), seed=3)

    x = logits(3, 4, dtype=dtype)
    torch.testing.assert_close(torch.compile(draw, backend="aot_eager", fullgraph=True)(x), draw(x))


@pytest.mark.parametrize("name", PAIRS)
def test_vmap(name: str) -> None:
    """Where validation, which looks at values, is off."""

    def draw(x: Tensor) -> Tensor:
        return PAIRS[name].make(PAIRS[name].ours, logits=x).rsample((2,), seed=3)

    x = logits(5, 4)
    base.Distribution.set_default_validate_args(False)
    try:
        torch.testing.assert_close(torch.func.vmap(draw)(x), torch.stack([draw(row) for row in x]))
    finally:
        base.Distribution.set_default_validate_args(True)


@pytest.mark.parametrize("name", PAIRS)
def test_a_distribution_keeps_its_parameters(name: str) -> None:
    """Whatever becomes of the tensor that it was made from."""
    x = logits(3, 4)
    ours = PAIRS[name].make(PAIRS[name].ours, logits=x)
    expected = PAIRS[name].make(PAIRS[name].ours, logits=x.clone())
    x.mul_(-5)
    assert torch.equal(ours.sample(seed=1), expected.sample(seed=1)) and torch.equal(ours.probs, expected.probs)


@pytest.mark.parametrize("name", PAIRS)
def test_whole_logits(name: str) -> None:
    ours, theirs = PAIRS[name].both(logits=torch.tensor([1, 2, 3]))
    assert ours.sample().dtype == theirs.sample().dtype and torch.equal(ours.probs, theirs.probs)


@pytest.mark.parametrize("drawn", ["sample", "rsample"])
@pytest.mark.parametrize("name", PAIRS)
def test_subclasses_may_have_torchs_arguments(name: str, drawn: str) -> None:
    def draw(self: Any, sample_shape: Any = ()) -> Tensor:
        return getattr(PAIRS[name].ours, drawn)(self, sample_shape)

    other = "sample" if drawn == "rsample" else "rsample"
    distribution = PAIRS[name].make(type("Own", (PAIRS[name].ours,), {drawn: draw}), logits=logits(3, 4))
    assert getattr(distribution, other)((2,)).shape == getattr(distribution, drawn)((2,)).shape == (2, 3, 4)


def test_what_is_impossible_stays_so() -> None:
    """Also of what was asked for its logits, which torch bounds, and expanded."""
    probs = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    ours = distributions.OneHotCategoricalStraightThrough(probs=probs)
    ours.entropy()
    draws = ours.expand((1_000_000, 2)).sample(seed=5)
    assert (draws[:, 0, 2] == 0).all() and (draws[:, 1, 2] == 1).all()
    bounded = gumbel_ext.gumbel_softmax(ours.logits.expand(1_000_000, 2, 3), hard=True, seed=5)
    assert (bounded[:, 0, 2] != 0).any() or (bounded[:, 1, 2] != 1).any(), "the bound would not have shown"


@pytest.mark.parametrize(
    ("dtype", "values", "tau"),
    [
        (torch.float16, [4000.0, 4001.0, 3999.0], 0.05),
        (torch.float16, [60000.0, -60000.0, 0.0], 0.7),
        (torch.bfloat16, [3e38, -3e38, 0.0], 0.5),
        (torch.float32, [3e38, -3e38, 0.0], 4.0),
        (torch.float64, [1.5e308, -1.5e308, 0.0], 4.0),
    ],
    ids=str,
)
def test_logarithms_of_logits_of_any_size(dtype: torch.dtype, values: list[float], tau: float) -> None:
    """No NaN, and infinity only where the type holds no such logarithm."""
    x = torch.tensor(values, dtype=dtype)
    found = distributions.ExpRelaxedCategorical(torch.tensor(tau), logits=x).sample((100,), seed=3)
    noise = gumbel_ext.gumbel_noise((100, 3), seed=3, dtype=torch.promote_types(dtype, torch.float32))
    scores = x.double() / tau / 4 + noise.double() / tau / 4
    expected = (scores - scores.amax(-1, keepdim=True)) * 4
    expected = (expected - expected.exp().sum(-1, keepdim=True).log()).to(dtype)
    torch.testing.assert_close(found, expected, rtol=1e-2 if dtype.itemsize == 2 else 1e-5, atol=2e-2)
