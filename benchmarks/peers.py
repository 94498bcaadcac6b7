"""The peers: for each, a function from a `Problem` to a `Side`, one call of which is one step.

Every peer starts where ours starts, from logits, and ends where ours ends: at the sample and, where the case
asks for it, the gradient of the logits. Each is written as its own users would write it at their best.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import gumbel_ext
from benchmarks.cases import WORKS, Problem
from benchmarks.sides import (
    NOISES,
    Side,
    Unavailable,
    copy,
    noise,
    ours_a_tenth_as_long,
    ours_in_float32,
    ours_index_alone,
    ours_on_one_thread,
    side,
)

# torch.


def _masked(problem: Problem) -> Callable[[Tensor], Tensor]:
    if problem.mask is None:
        return lambda x: x
    banned = ~problem.mask
    return lambda x: x.masked_fill(banned, -torch.inf)


def _torch_function(problem: Problem) -> Callable[[Tensor], Tensor]:
    """What a user of torch alone writes for the work."""
    work, dim, tau, masked = problem.case.work, problem.case.dim, problem.tau, _masked(problem)
    k = problem.case.k

    def straight_through(x: Tensor) -> Tensor:
        p = F.softmax(masked(x) / tau, dim=dim)
        z = torch.zeros_like(p).scatter_(dim, p.argmax(dim, keepdim=True), 1.0)
        return z - p.detach() + p

    def exponential_race(x: Tensor) -> Tensor:
        p = F.softmax(masked(x), dim=dim)
        return (p / torch.empty_like(p).exponential_()).argmax(dim)

    def perturbed(x: Tensor) -> Tensor:
        return (masked(x) - torch.empty_like(x).exponential_().log_()).topk(k, dim).indices

    def scored(x: Tensor) -> Tensor:
        log_p = torch.log_softmax(x, -1)
        p = log_p.exp()
        index = torch.multinomial(p.detach(), 1)
        return torch.stack([log_p.gather(-1, index).squeeze(-1), -(p * log_p).sum(-1)])

    def reinmax(x: Tensor) -> Tensor:
        """Liu et al. 2023, algorithm 2."""
        p = F.softmax(x, dim=-1)
        z = F.one_hot(torch.multinomial(p, 1).squeeze(-1), x.shape[-1]).to(p.dtype)
        middle = (z + F.softmax(x / tau, dim=-1)) / 2
        middle = F.softmax((middle.log() - x).detach() + x, dim=-1)
        both = 2 * middle - p / 2
        return both - both.detach() + z

    def rao(x: Tensor) -> Tensor:
        """Paulus et al. 2021, section 3: all noises at once."""
        z = F.one_hot(torch.multinomial(F.softmax(x, dim=-1), 1).squeeze(-1), x.shape[-1]).to(x.dtype)
        with torch.no_grad():
            e = torch.empty(NOISES, *x.shape, dtype=x.dtype, device=x.device).exponential_()
            least, total = (z * e).sum(-1, keepdim=True), x.exp().sum(-1, keepdim=True)
            shift = torch.where(z == 1, total.log() - least.log(), -(e / x.exp() + least / total).log()) - x
        p = F.softmax((x + shift) / tau, dim=-1).mean(0)
        return p - p.detach() + z

    return {
        "embedding": lambda x: F.gumbel_softmax(x, tau, hard=True) @ problem.weight,
        "sample": scored,
        "reinmax": reinmax,
        "rao": rao,
        "hard": lambda x: F.gumbel_softmax(masked(x), tau, hard=True, dim=dim),
        "relaxed": lambda x: F.gumbel_softmax(masked(x), tau, dim=dim),
        "softmax": lambda x: F.softmax(masked(x) / tau, dim=dim),
        "straight_through": straight_through,
        "index": exponential_race,
        "subset": perturbed,
    }[work]


def eager(problem: Problem) -> Side:
    return side(problem, _torch_function(problem))


def compiled(problem: Problem) -> Side:
    torch._dynamo.reset()  # or a few shapes later it would quietly fall back to eager
    return side(problem, torch.compile(_torch_function(problem), dynamic=False, fullgraph=True))


def plain_softmax(problem: Problem) -> Side:
    """No noise, no one-hot, no temperature: the least that a step through a categorical variable costs."""
    dim, masked = problem.case.dim, _masked(problem)
    return side(problem, lambda x: F.softmax(masked(x), dim=dim))


def multinomial(problem: Problem) -> Side:
    num_samples, k, masked = problem.case.num_samples, problem.case.k, _masked(problem)
    if k is not None:
        return side(problem, lambda x: torch.multinomial(F.softmax(masked(x), dim=-1), k))
    if num_samples is None:
        return side(problem, lambda x: torch.multinomial(F.softmax(masked(x), dim=-1), 1).squeeze(-1))
    return side(problem, lambda x: torch.multinomial(F.softmax(masked(x), dim=-1), num_samples, replacement=True))


def distributions(problem: Problem) -> Side:
    """torch.distributions, its checks of arguments turned off."""
    case, tau = problem.case, problem.tau
    if case.dim != -1 or not WORKS[case.work] or problem.mask is not None:
        raise Unavailable("torch.distributions has no such variable")
    d = torch.distributions
    if case.work == "relaxed":
        temperature = torch.as_tensor(tau)
        return side(
            problem,
            lambda x: d.RelaxedOneHotCategorical(temperature, logits=x, validate_args=False).rsample(),
        )
    if case.work == "hard":
        return side(problem, lambda x: d.OneHotCategoricalStraightThrough(logits=x, validate_args=False).rsample())
    if case.num_samples is None:
        return side(problem, lambda x: d.Categorical(logits=x, validate_args=False).sample())
    size = (case.num_samples,)
    return side(problem, lambda x: d.Categorical(logits=x, validate_args=False).sample(size).mT)


# Others.


def jax_jit(problem: Problem) -> Side:
    """The step under jax.jit, with the fastest of JAX's generators for this case."""
    if problem.case.dtype == torch.float64:
        raise Unavailable("JAX computes in float32 unless told otherwise")
    try:
        from benchmarks import jax_peer
    except ImportError as error:
        raise Unavailable(f"not installed: {error}") from None
    sides = [jax_peer.side(problem, generator) for generator in jax_peer.GENERATORS]
    return min(sides, key=lambda side: _quick_time(side.call)) if WORKS[problem.case.work] else sides[0]


def _quick_time(call: Callable[[], Any]) -> float:
    """The least of a few calls, for choosing between variants of a side."""
    call()
    times: list[float] = []
    while not times or (len(times) < 20 and sum(times) < 0.02):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def _on_cuda(problem: Problem) -> None:
    if problem.logits.device.type != "cuda":
        raise Unavailable("needs a CUDA device")


def vllm(problem: Problem) -> Side:
    try:
        from vllm.v1.sample.ops.topk_topp_sampler import random_sample
    except ImportError as error:
        raise Unavailable(f"not installed: {error}") from None
    _on_cuda(problem)
    return side(problem, lambda x: random_sample(F.softmax(x, dim=-1, dtype=torch.float32), {}))


def flashinfer(problem: Problem) -> Side:
    try:
        from flashinfer.sampling import sampling_from_logits
    except ImportError as error:
        raise Unavailable(f"not installed: {error}") from None
    _on_cuda(problem)
    return side(problem, lambda x: sampling_from_logits(x).long())


PEERS: dict[str, Callable[[Problem], Side]] = {
    "eager": eager,
    "compile": compiled,
    "jax": jax_jit,
    "distributions": distributions,
    "F.softmax": plain_softmax,
    "multinomial": multinomial,
    "exponential race": eager,
    "vllm": vllm,
    "flashinfer": flashinfer,
    "float32": ours_in_float32,
    "index": ours_index_alone,
    "one thread": ours_on_one_thread,
    "a tenth as long": ours_a_tenth_as_long,
}
CEILINGS: dict[str, Callable[[Problem], Side]] = {"copy": copy, "noise": noise}
#: Peers whose result is another quantity or another problem's, and so not held against the case.
UNCHECKED = {"F.softmax", "float32", "a tenth as long", "index"}
#: Peers that bring a thread pool of their own, which may still be spinning when the other side's turn comes.
OWN_THREADS = {"jax"}


@functools.cache
def versions() -> dict[str, str]:
    """The versions of what is compared."""
    import importlib.metadata as metadata

    found = {"gumbel_ext": gumbel_ext.__version__, "torch": torch.__version__}
    for name in ("jax", "jaxlib", "vllm", "flashinfer-python"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
