"""Temperature schedules, and the quantizer of wav2vec 2.0, against the formulas and against `transformers`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import gumbel_ext
from gumbel_ext.nn import GumbelSoftmax, GumbelVectorQuantizer, StraightThrough, TemperatureSchedule

F64 = torch.float64

# ---- Schedules --------------------------------------------------------------------------------------

FORMULAS: dict[Any, Callable[[float, float, float], float]] = {
    "exponential": lambda start, end, f: start * math.exp(f * math.log(end / start)),
    "linear": lambda start, end, f: start + f * (end - start),
    "cosine": lambda start, end, f: end + (start - end) * math.cos(f * math.pi / 2) ** 2,
}


@pytest.mark.parametrize(("start", "end", "updates"), [(2.0, 0.5, 7), (0.1, 3.0, 1), (1e3, 1e-3, 10), (1.0, 1.0, 3)])
@pytest.mark.parametrize("shape", FORMULAS)
def test_a_schedule_follows_its_formula(shape: Any, start: float, end: float, updates: int) -> None:
    schedule = TemperatureSchedule(start, end, updates, shape)
    found = [schedule().item()] + [schedule.step().item() for _ in range(updates + 3)]
    expected = [FORMULAS[shape](start, end, min(n / updates, 1)) for n in range(updates + 4)]
    assert found == pytest.approx(expected, rel=1e-12)
    assert found[0] == start and found[updates:] == [end] * 4  # exactly, and from then on
    jumps = TemperatureSchedule(start, end, updates, shape)
    assert jumps.step(updates - 1).item() == found[updates - 1]


def test_wav2vecs_schedule() -> None:
    schedule = TemperatureSchedule(2.0, 0.5, updates=277_258)
    for updates in (1, 1000, 100_000):
        schedule.done.fill_(updates)
        assert schedule().item() == pytest.approx(2 * 0.999995**updates, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1.0, 5), "start: expected a positive finite number, got 0.0"),
        ((1.0, math.inf, 5), "end: expected a positive finite number, got inf"),
        ((math.nan, 1.0, 5), "start: expected a positive finite number, got nan"),
        ((1.0, 0.5, 0), "updates: expected at least 1, got 0"),
        ((1.0, 0.5, 5, "step"), "shape: expected one of exponential, linear, cosine, got 'step'"),
    ],
    ids=str,
)
def test_a_wrong_schedule_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        TemperatureSchedule(*arguments)


@pytest.mark.parametrize("make", [GumbelSoftmax, StraightThrough])
def test_modules_take_a_schedule(make: Callable[..., torch.nn.Module]) -> None:
    """Its temperature at every call; and it is theirs: moved, copied, saved and loaded with them."""
    schedule, x = TemperatureSchedule(2.0, 0.5, updates=4), torch.randn(3, 5, requires_grad=True)
    module = make(schedule)
    kwargs: Any = {"seed": 3} if make is GumbelSoftmax else {}
    dy = torch.randn(3, 5)
    for _ in range(6):
        found, expected = module(x, **kwargs), make(schedule().item())(x, **kwargs)
        assert torch.equal(found, expected)
        assert torch.equal(*(torch.autograd.grad(y, x, dy)[0] for y in (found, expected)))
        schedule.step()
    other = make(TemperatureSchedule(2.0, 0.5, updates=4))
    other.load_state_dict(module.state_dict())
    assert other.tau().item() == 0.5 and copy.deepcopy(module).tau().item() == 0.5
    assert "tau=0.5" in repr(other) and "shape='exponential'" in repr(other)


def test_a_schedule_compiles_once() -> None:
    module = GumbelSoftmax(TemperatureSchedule(2.0, 0.5, updates=20))
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    x, counters = torch.randn(3, 5), torch._dynamo.utils.counters
    torch._dynamo.reset()
    counters.clear()
    for _ in range(12):
        assert torch.equal(compiled(x, seed=1), module(x, seed=1))
        module.tau.step()
    assert counters["stats"]["unique_graphs"] == 1


# ---- The quantizer ----------------------------------------------------------------------------------


def by_formula(
    q: GumbelVectorQuantizer, hidden: Tensor, mask: Tensor | None, noise: Tensor | None, tau: float
) -> tuple[Tensor, Tensor]:
    """In float64, entry by entry; without noise, evaluation mode's."""
    logits = (hidden.double() @ q.weight_proj.weight.double().T + q.weight_proj.bias.double()).unflatten(
        -1, (q.groups, q.entries)
    )
    scores = logits if noise is None else logits + noise.double()
    z = torch.nn.functional.one_hot(scores.argmax(-1), q.entries).double()
    if noise is not None:
        p = (scores / tau).softmax(-1)
        z = z + p - p.detach()
    books = q.codevectors.double()[0].unflatten(0, (q.groups, q.entries))
    value = torch.cat([z[..., g, :] @ books[g] for g in range(q.groups)], -1)
    used = z if noise is None else logits.softmax(-1)
    counted = used.flatten(0, -3) if mask is None else used[mask]
    mean = counted.mean(0)
    return value, torch.exp(-torch.xlogy(mean, mean).sum(-1)).sum()


def quantizer(groups: int, entries: int, tau: Any = 2.0) -> GumbelVectorQuantizer:
    torch.manual_seed(groups * 100 + entries)
    return GumbelVectorQuantizer(6, 4 * groups, groups=groups, entries=entries, tau=tau).to(F64)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 5)], ids=str)
@pytest.mark.parametrize(("groups", "entries"), [(1, 5), (2, 12), (3, 1)])
def test_values_perplexity_and_gradients(
    groups: int, entries: int, shape: tuple[int, ...], training: bool, masked: bool
) -> None:
    q = quantizer(groups, entries, tau=0.7).train(training)
    hidden = torch.randn(*shape, 6, dtype=F64, requires_grad=True)
    mask = torch.rand(shape) < 0.6 if masked else None
    if mask is not None:
        mask.view(-1)[0] = True
    noise = gumbel_ext.gumbel_noise((*shape, groups, entries), seed=9) if training else None
    found, expected = q(hidden, mask, seed=9), by_formula(q, hidden, mask, noise, 0.7)
    inputs = [hidden, *q.parameters()] if training else [q.codevectors]
    torch.testing.assert_close(found.value, expected[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.perplexity.double(), expected[1], rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(expected[0])
    gradients = [
        torch.autograd.grad((value * weight).sum() + (perplexity if training else 0), inputs)
        for value, perplexity in (found, expected)
    ]
    for ours, right in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-5)
    if not training:
        assert torch.equal(q.codes(hidden), (q._logits(hidden)).argmax(-1)) and q.codes(hidden).shape == (
            *shape,
            groups,
        )


def test_entries_are_not_rounded_under_autocast() -> None:
    q = quantizer(2, 5).float()
    with torch.autocast("cpu", torch.bfloat16):
        value = q(torch.randn(9, 6), seed=1).value
    books = q.codevectors[0].view(2, 5, 4)
    for g in range(2):
        assert all(any(torch.equal(row, entry) for entry in books[g]) for row in value[:, 4 * g : 4 * g + 4])


def test_an_entry_that_is_never_likely_has_a_finite_gradient() -> None:
    q = quantizer(1, 5).float()
    with torch.no_grad():
        q.weight_proj.weight.zero_()
        q.weight_proj.bias.copy_(torch.tensor([0.0, 1.0, -200.0, -1e30, -300.0]))
    q(torch.randn(9, 6)).perplexity.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in q.parameters())


def test_groups_divide_the_output() -> None:
    with pytest.raises(ValueError, match=r"^output_dim: expected a multiple of the number of groups, 3, got 8$"):
        GumbelVectorQuantizer(6, 8, groups=3)


@pytest.mark.long
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_quantizer_of_transformers(training: bool, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It loads the other's state dict, and from the same noise computes the same outputs and gradients."""
    module = pytest.importorskip(
        "transformers.models.wav2vec2.modeling_wav2vec2", reason="`pip install --group models`"
    )
    config = module.Wav2Vec2Config(
        conv_dim=(6,), conv_stride=(2,), conv_kernel=(2,), codevector_dim=8, num_codevector_groups=2,
        num_codevectors_per_group=12,
    )  # fmt: skip
    torch.manual_seed(3)
    theirs = module.Wav2Vec2GumbelVectorQuantizer(config).train(training)
    torch.nn.init.uniform_(theirs.codevectors)
    ours = GumbelVectorQuantizer(6, 8, groups=2, entries=12, tau=2).train(training)
    assert str(ours.load_state_dict(theirs.state_dict())) == "<All keys matched successfully>"

    def torchs(logits: Tensor, tau: float, hard: bool) -> Tensor:
        noise = gumbel_ext.gumbel_noise(logits.shape, seed=5)
        p = ((logits + noise) / tau).softmax(-1)
        return torch.nn.functional.one_hot((logits + noise).argmax(-1), 12) - p.detach() + p

    monkeypatch.setattr(torch.nn.functional, "gumbel_softmax", torchs)
    hidden, mask = torch.randn(3, 7, 6), torch.rand(3, 7) < 0.5 if masked else None
    expected, found = theirs(hidden, mask), ours(hidden, mask, seed=5)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    if training:
        weight = torch.randn_like(found.value)
        for value, perplexity in (found, expected):
            ((value * weight).sum() + perplexity).backward()
        for name, parameter in theirs.named_parameters():
            torch.testing.assert_close(ours.get_parameter(name).grad, parameter.grad, rtol=1e-4, atol=1e-5)
