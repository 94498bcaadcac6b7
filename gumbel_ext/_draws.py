"""Draws with all of their answers. The arguments in common are those of `gumbel_ext.functional`."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from gumbel_ext._override import Results, overridden
from gumbel_ext.functional import _C, _is_overridden, _is_traced, _ops, _seed


class _Sample(NamedTuple):
    index: Tensor  # type: ignore[assignment]  # (tuple has a method of this name)
    log_prob: Tensor
    entropy: Tensor


class Sample(Results, _Sample):
    """What `sample` returns."""

    __slots__ = ()


def sample(
    logits: Tensor,
    temperature: float | Tensor = 1.0,
    *,
    dim: int = -1,
    num_samples: int | None = None,
    mask: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Sample:
    """Gumbel-max sample ``i`` with its log-probability and the entropy, of ``p = softmax(x / T)``, in one pass::

        log_prob = log p_i,    entropy = -Σ_k p_k log p_k

    ``index``: int64, exactly `gumbel_max`'s, shaped as ``logits`` without ``dim``, with a last dimension
    ``num_samples`` where that is given; ``log_prob``: one for each; ``entropy``: one a row. Both are in the working
    precision, float32 (float64 for float64): a bfloat16 log-probability would have steps of 1/16 at -12. Each is within
    4 ulp of its exact value and what the rounding of ``x / T`` changes, near 0 too.

    Both have gradients with respect to the logits and to a ``temperature`` that is a tensor; with ``L_k = (max x -
    x_k) / T``, ``H`` the entropy, ``c`` the mean of ``L`` under ``p``, and gradients ``g`` and ``h`` for the two::

        dx_k = (g [k = i] - p_k (g + h (log p_k + H))) / T,    dT = (g (L_i - c) + h Var_p(L)) / T

    Backward computes ``p`` again from the logits and three numbers a row: nothing of the logits' size is saved that the
    caller does not hold already. At ``T = 0``, in any row, the index is ``argmax x``, and log-probability, entropy and
    gradients are 0. Source: [A], section 2.

    >>> index, log_prob, entropy = sample(torch.zeros(4), seed=0)
    >>> log_prob.exp().item(), entropy.exp().item()
    (0.25, 4.0)
    """
    if _is_overridden(logits, temperature, mask, seed):
        tensors = {"temperature": temperature, "mask": mask, "seed": seed}
        return overridden(sample, logits, tensors, dim=dim, num_samples=num_samples, generator=generator)
    if _is_traced():
        return Sample(*_ops.sample(
            logits, temperature, dim=dim, num_samples=num_samples, mask=mask, seed=_seed(seed), generator=generator
        ))  # fmt: skip
    return Sample(*_C.sample(logits, temperature, dim, num_samples, mask, _seed(seed), generator))


class TopK(NamedTuple):
    """What `gumbel_top_k` returns."""

    indices: Tensor
    log_probs: Tensor
    scores: Tensor


class TopKWithThreshold(NamedTuple):
    """What `gumbel_top_k` returns with ``return_threshold``."""

    indices: Tensor
    log_probs: Tensor
    scores: Tensor
    threshold: Tensor


@overload
def gumbel_top_k(
    logits: Tensor,
    k: int,
    temperature: float | Tensor = 1.0,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    return_threshold: Literal[False] = False,
) -> TopK: ...
@overload
def gumbel_top_k(
    logits: Tensor,
    k: int,
    temperature: float | Tensor = 1.0,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    return_threshold: Literal[True],
) -> TopKWithThreshold: ...
def gumbel_top_k(
    logits: Tensor,
    k: int,
    temperature: float | Tensor = 1.0,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    return_threshold: bool = False,
) -> TopK | TopKWithThreshold:
    """``k`` draws without replacement from ``p = softmax(x / T)``, in their order: the ``k`` largest of ``x / T + g``.

    ``indices``: int64, shaped as ``logits`` without ``dim``, with a last dimension ``k``; ties go to the lower class,
    and ``indices[..., 0]`` is exactly `gumbel_max`'s. Shaped alike, in the working precision, and with gradients with
    respect to the logits and to a ``temperature`` that is a tensor (the noise being constant)::

        log_probs = log p_i,    scores = x_i / T + g_i - log Z = log p_i + g_i,    Z = Σ_j exp(x_j / T)

    Scores descend. With ``return_threshold`` there is a fourth result, ``threshold``: the score of the class that
    follows the ``k``-th, one a row, -∞ where there is none. Given the threshold ``κ``, a class is among the ``k`` with
    probability ``1 - exp(-exp(log p_i - κ))``, and ``Σ_i p_i f_i / (1 - exp(-exp(log p_i - κ)))`` over the ``k`` classes
    estimates the mean of ``f`` without bias.

    Classes that cannot be drawn, by the mask or a logit of -∞, come last, with -∞, in the order of classes. At ``T = 0``
    the order is that of the logits; the first class is certain, with ``log_probs`` and ``scores`` 0, and the others have
    -∞. NaN counts as the largest score; where a row has no softmax, ``log_probs`` and ``scores`` are NaN. Any number of
    classes. Raises ValueError unless 1 ≤ ``k`` ≤ the number of classes.

    Sources: Vieira, "Gumbel-max trick and weighted reservoir sampling", 2014; Kool, van Hoof, Welling, "Stochastic beams
    and where to find them: the Gumbel-top-k trick for sampling sequences without replacement", ICML 2019, sections 2
    and 4.

    >>> gumbel_top_k(torch.tensor([0.0, -torch.inf, 1.0]), 2, seed=0).indices.sort().values.tolist()
    [0, 2]
    """
    if _is_overridden(logits, temperature, mask, seed):
        tensors = {"temperature": temperature, "mask": mask, "seed": seed}
        others = {"k": k, "generator": generator, "return_threshold": return_threshold}
        found = overridden(gumbel_top_k, logits, tensors, dim=dim, **others)
        return TopKWithThreshold(*found) if return_threshold else TopK(*found)
    if return_threshold:
        return _with_threshold(logits, k, temperature, dim=dim, mask=mask, seed=seed, generator=generator)
    if _is_traced():
        return TopK(*_ops.gumbel_top_k(
            logits, k, temperature, dim=dim, mask=mask, seed=_seed(seed), generator=generator
        ))  # fmt: skip
    return TopK(*_C.gumbel_top_k(logits, k, temperature, dim, mask, _seed(seed), generator))


def _with_threshold(
    logits: Tensor, k: int, temperature: float | Tensor, *, dim: int, **others: Any
) -> TopKWithThreshold:
    """The class that follows is one more, where there is one."""
    follows = isinstance(k, int) and 1 <= k < (logits.shape[dim] if logits.dim() else 1)
    found = gumbel_top_k(logits, k + follows, temperature, dim=dim, **others)
    if not follows:
        return TopKWithThreshold(*found, torch.full_like(found.scores[..., 0], -torch.inf))
    return TopKWithThreshold(*(part[..., :k] for part in found), found.scores[..., k])
