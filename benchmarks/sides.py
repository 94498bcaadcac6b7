"""What a contestant is, and ours: by itself, and beside itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import gumbel_ext
from benchmarks.cases import WORKS, Problem

Outcome = tuple[Tensor, "Tensor | None"]  # the sample, the gradient of the logits


class Unavailable(Exception):
    """The peer is not installed, or cannot do the case."""


@dataclass
class Side:
    """One contestant: `call` is timed; `trial` makes the same step and keeps its results for the check."""

    call: Callable[[], Any]
    logits: int
    trial: Callable[[], Outcome] | None = None
    note: str = ""


def side(problem: Problem, sample: Callable[[Tensor], Tensor], note: str = "") -> Side:
    """One step of a torch function: forward, and backward where the case has one."""
    logits, upstream, tau = problem.logits, problem.upstream, problem.tau

    def forward() -> Outcome:
        return sample(logits), None

    def forward_backward(keep: bool = False) -> Outcome:
        result = sample(logits)
        # To be kept it is copied: torch.compile's backward may overwrite the result of its forward.
        kept = result.detach().clone() if keep else result
        result.backward(upstream)
        gradient, logits.grad = logits.grad, None
        for other in (tau, problem.weight):
            if isinstance(other, Tensor):
                other.grad = None
        return kept, gradient

    if not problem.case.differentiates:
        return Side(forward, problem.case.logits, forward, note)
    return Side(forward_backward, problem.case.logits, lambda: forward_backward(keep=True), note)


NOISES = 10  # of the Rao-Blackwellised estimator

# Ours, and ours beside itself.


def ours(problem: Problem) -> Side:
    case, tau, mask = problem.case, problem.tau, problem.mask
    work, dim, num_samples = case.work, case.dim, case.num_samples
    if work == "index":
        return side(problem, lambda x: gumbel_ext.gumbel_max(x, dim=dim, num_samples=num_samples, mask=mask))
    if work == "sample":
        return side(problem, lambda x: torch.stack(gumbel_ext.sample(x)[1:]))
    if work == "subset":
        return side(problem, lambda x: gumbel_ext.gumbel_top_k(x, case.k, dim=dim, mask=mask).indices)
    if work == "embedding":
        return side(problem, lambda x: gumbel_ext.straight_through_embedding(x, problem.weight, tau).value)
    if work in ("reinmax", "rao"):
        return side(problem, lambda x: gumbel_ext.one_hot_sample(x, tau, estimator=work, num_noises=NOISES))
    if WORKS[work]:
        hard = work == "hard"
        return side(problem, lambda x: gumbel_ext.gumbel_softmax(x, tau, hard, dim=dim, mask=mask))
    function = getattr(gumbel_ext, work)
    return side(problem, lambda x: function(x, tau, dim=dim, mask=mask))


def ours_index_alone(problem: Problem) -> Side:
    return ours(replace(problem, case=replace(problem.case, work="index")))


def ours_in_float32(problem: Problem) -> Side:
    return ours(Problem.build(replace(problem.case, dtype=torch.float32), problem.logits.device.type))


def ours_a_tenth_as_long(problem: Problem) -> Side:
    *rows, classes = problem.case.shape
    return ours(Problem.build(replace(problem.case, shape=(*rows, classes // 10)), problem.logits.device.type))


def ours_on_one_thread(problem: Problem) -> Side:
    threads = torch.get_num_threads()
    if threads == 1:
        raise Unavailable("there is only one thread")
    side = ours(problem)

    def call() -> None:
        torch.set_num_threads(1)
        side.call()
        torch.set_num_threads(threads)

    return replace(side, call=call)


# Ceilings: what no implementation gets below.


def copy(problem: Problem) -> Side:
    """The logits copied, into the same memory each time."""
    source = problem.logits.detach()
    target = torch.empty_like(source)
    return Side(lambda: target.copy_(source), source.numel())


def noise(problem: Problem) -> Side:
    """The noise alone, written to fresh memory."""
    if not WORKS[problem.case.work]:
        raise Unavailable("no noise in this case")
    shape, dtype, device = problem.logits.shape, problem.logits.dtype, problem.logits.device
    return Side(lambda: gumbel_ext.gumbel_noise(shape, dtype=dtype, device=device), problem.logits.numel())
