"""What torch's own test-suite asks of `torch.nn.functional.gumbel_softmax`, asked of it and of ours.

Its questions (pytorch/pytorch, test/test_nn.py, `test_gumbel_softmax`): a hard draw has the logits' shape and one
choice a row; choices follow the softmax; hard and relaxed draws have one gradient. Here each is put a little harder, so
that it says more; torch's function passes them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import reference
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

import gumbel_ext

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Peer:
    function: Function
    roundings: int  # of 1, in a hard draw's choice


PEERS = {"torch": Peer(F.gumbel_softmax, 1), "gumbel_ext": Peer(gumbel_ext.gumbel_softmax, 0)}

# Shape, dim, and how many choices there are.
SHAPES = [
    ((5,), 0, 1), ((5,), -1, 1), ((5, 4), 1, 5), ((5, 4), 0, 4), ((5, 4, 3), 1, 15), ((5, 4, 3), -1, 20),
    ((5, 4, 3), -3, 12), ((2, 1), -1, 2), ((0, 4), 1, 0), ((2, 3, 4, 5), 1, 40),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "dim", "count"), SHAPES, ids=str)
@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("peer", PEERS)
def test_a_hard_draw_chooses_once_a_row(
    peer: str, dtype: torch.dtype, shape: tuple[int, ...], dim: int, count: int
) -> None:
    """Along `dim` one number is 1 and the others are 0: torch's up to one rounding, ours exactly."""
    logits = torch.randn(shape).to(dtype)
    y = PEERS[peer].function(logits, hard=True, dim=dim)
    assert y.shape == logits.shape and y.dtype == dtype
    assert ((y == 0) | ((y - 1).abs() <= PEERS[peer].roundings * torch.finfo(dtype).eps)).all()
    assert (y != 0).sum(dim).eq(1).all() and (y != 0).sum() == count


LOGITS = [0.2, 0.8, 0.1]
DRAWS = 4000


def a_row_each(draw: Function, logits: Tensor) -> Tensor:
    return draw(logits.expand(DRAWS, 3))


def a_call_each(draw: Function, logits: Tensor) -> Tensor:
    return torch.stack([draw(logits) for _ in range(DRAWS)])


def along_the_first_dim(draw: Function, logits: Tensor) -> Tensor:
    return draw(logits[:, None].expand(3, DRAWS), dim=0).T


SOURCES = [a_row_each, a_call_each, along_the_first_dim]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("peer", PEERS)
def test_choices_follow_the_softmax(
    peer: str, dtype: torch.dtype, hard: bool, source: Callable[[Function, Tensor], Tensor]
) -> None:
    """The classes chosen, at a temperature of 0.6, are drawn from softmax(logits), by a chi-square test."""
    logits = torch.tensor(LOGITS, dtype=dtype)
    y = source(lambda x, dim=-1: PEERS[peer].function(x, 0.6, hard, dim=dim), logits)
    counts = torch.bincount(y.argmax(-1), minlength=3).numpy()
    assert stats.chisquare(counts, logits.double().softmax(-1).numpy() * DRAWS).pvalue > 1e-4


@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("peer", PEERS)
def test_relaxed_draws_follow_their_law(peer: str, dtype: torch.dtype, tau: float) -> None:
    """tau log(y_i / y_j) - (x_i - x_j), the difference of two Gumbel variables, is logistic (Kolmogorov-Smirnov)."""
    logits = torch.tensor(LOGITS, dtype=dtype)
    y = PEERS[peer].function(logits.expand(10 * DRAWS, 3), tau).double().log().numpy()
    for i, j in ((0, 1), (1, 2), (2, 0)):
        assert stats.kstest(tau * (y[:, i] - y[:, j]) - (LOGITS[i] - LOGITS[j]), "logistic").pvalue > 1e-4


@pytest.mark.parametrize("dim", [-1, 0])
@pytest.mark.parametrize("tau", [1.0, 0.5])
@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("peer", PEERS)
def test_hard_and_relaxed_draws_have_one_gradient(peer: str, dtype: torch.dtype, tau: float, dim: int) -> None:
    """From one state of the generator: one choice, and the gradient of the relaxed draw, dx = p (dy - <p, dy>) / tau.

    torch's suite sums the draw, whose true gradient is 0 whatever was drawn; here each class weighs something else.
    """
    logits, dy = torch.randn(10, 10).to(dtype), torch.randn(10, 10).to(dtype)
    draws: list[Tensor] = []
    gradients: list[Tensor] = []
    for hard in (False, True):
        x = logits.clone().requires_grad_()
        torch.manual_seed(3)
        y = PEERS[peer].function(x, tau, hard, dim=dim)
        draws.append(y.detach())
        gradients += torch.autograd.grad(y, x, dy)
    soft, chosen = draws[0], draws[1].argmax(dim, keepdim=True)
    assert torch.equal(soft.gather(dim, chosen), soft.amax(dim, keepdim=True))
    p, weights = soft.double(), dy.double()
    right = p * (weights - (p * weights).sum(dim, keepdim=True)) / tau
    room = 4 * torch.finfo(dtype).eps
    for gradient in gradients:
        torch.testing.assert_close(gradient.double(), right, rtol=room, atol=room * float(right.abs().max()))
