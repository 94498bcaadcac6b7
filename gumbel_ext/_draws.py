"""Draws with all of their answers. The arguments in common are those of `gumbel_ext.functional`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gumbel_ext._override import overridden
from gumbel_ext.functional import _C, _is_overridden, _is_traced, _ops, _seed


class Sample(NamedTuple):
    """What `sample` returns."""

    index: Tensor  # type: ignore[assignment]  # (tuple has a method of this name)
    log_prob: Tensor
    entropy: Tensor


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
        return Sample(*overridden(sample, logits, tensors, dim=dim, num_samples=num_samples, generator=generator))
    if _is_traced():
        return Sample(*_ops.sample(
            logits, temperature, dim=dim, num_samples=num_samples, mask=mask, seed=_seed(seed), generator=generator
        ))  # fmt: skip
    return Sample(*_C.sample(logits, temperature, dim, num_samples, mask, _seed(seed), generator))
