"""One-hot samples whose gradient is an estimator's. The arguments in common are those of `gumbel_ext.functional`."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from gumbel_ext._override import Results, overridden
from gumbel_ext.functional import _C, _in_tensor, _is_overridden, _is_traced, _ops, _seed

Estimator = Literal["gumbel", "softmax", "reinmax", "rao"]


class _Embedded(NamedTuple):
    value: Tensor
    index: Tensor  # type: ignore[assignment]  # (tuple has a method of this name)


class Embedded(Results, _Embedded):
    """What `straight_through_embedding` returns."""

    __slots__ = ()


def one_hot_sample(
    logits: Tensor,
    tau: float | Tensor = 1.0,
    *,
    estimator: Estimator = "gumbel",
    temperature: float | Tensor = 1.0,
    dim: int = -1,
    mask: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    num_noises: int = 10,
) -> Tensor:
    """One-hot sample ``z = one_hot(argmax(x / T + g))``, with the gradient that ``estimator`` names.

    The value is exactly 0 and 1, and the same for every estimator: ``T``, the ``temperature`` (positive), belongs to
    the draw, ``tau`` to the gradient alone. With ``J(p) dy = p ⊙ (dy - ⟨p, dy⟩)``, logits ``x`` get

    =============  ===================================================  ============================================
    ``estimator``  gradient                                             source
    =============  ===================================================  ============================================
    ``"gumbel"``   ``J(p) dy / (τT)``, ``p = softmax((x/T + g) / τ)``   Jang et al., ICLR 2017: what
                                                                        ``gumbel_softmax(hard=True)`` has
    ``"softmax"``  ``J(p) dy / τ``, ``p = softmax(x / τ)``              Bengio et al. 2013; where ``τ ≠ T``,
                                                                        Shah et al., arXiv 2410.13331 (decoupled)
    ``"reinmax"``  ``(2 J((z + q) / 2) - J(r) / 2) dy / T``,            Liu et al., NeurIPS 2023; at ``τ = 1`` its
                   ``q = softmax(x / (Tτ))``, ``r = softmax(x / T)``    mean is exact for quadratic functions of ``z``
    ``"rao"``      the mean of ``"gumbel"``'s over ``num_noises``       Paulus et al., ICLR 2021
                   noises given ``z``; the first is the draw's own
    =============  ===================================================  ============================================

    Noise given ``z`` depends on the logits; like the paper's own code, ``"rao"`` does not differentiate that
    dependence: it is the conditional mean of ``"gumbel"``'s gradient, and so has its bias and less variance. Its noises
    are draws 1, 2, ... of the row, made again in backward. Tensors for ``tau`` and ``temperature`` get the gradients of
    the same formulas (``"softmax"``'s does not depend on ``temperature``, nor ``"reinmax"``'s, as the paper has it, on
    ``tau``: they get zeros). Backward keeps the logits and an index a row. Gradients of gradients: all but ``"rao"``.

    >>> one_hot_sample(torch.zeros(3), estimator="reinmax", seed=0).sum().item()
    1.0
    """
    if _is_overridden(logits, tau, temperature, mask, seed):
        tensors = {"tau": tau, "temperature": temperature, "mask": mask, "seed": seed}
        others: dict[str, Any] = {"estimator": estimator, "generator": generator, "num_noises": num_noises}
        return overridden(one_hot_sample, logits, tensors, dim=dim, **others)
    if _is_traced():
        tau, temperature = _alike(tau, temperature)
        return _ops.one_hot_sample(
            logits, tau, estimator=estimator, temperature=temperature, dim=dim, mask=mask, seed=_seed(seed),
            generator=generator, num_noises=num_noises,
        )  # fmt: skip
    return _C.one_hot_sample(logits, tau, estimator, temperature, dim, mask, _seed(seed), generator, num_noises)


def straight_through_embedding(
    logits: Tensor,
    weight: Tensor,
    tau: float | Tensor = 1.0,
    *,
    estimator: Estimator = "gumbel",
    temperature: float | Tensor = 1.0,
    dim: int = -1,
    mask: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    num_noises: int = 10,
) -> Embedded:
    """``one_hot_sample(logits, tau, ...) @ weight`` without the one-hot rows: ``value = weight[index]``.

    ``weight``: shape ``[..., classes, size]``, whose first dimensions broadcast to the shape of the index: ``[C, D]``
    for any logits, ``[G, C, D]`` for logits ``[..., G, C]``, as product quantizers have them. Returns ``value``, of
    ``weight``'s dtype and the index's shape with a last dimension ``size`` (NaN where a row of logits has no softmax),
    and ``index``, int64, shaped as ``logits`` without ``dim``.

    Gradients are those of the product, to its rounding: for the logits, ``dy @ weight.T`` through the estimator; for
    the weight, a sum over the rows that chose it. The other arguments are `one_hot_sample`'s.

    >>> straight_through_embedding(torch.zeros(4, 3), torch.eye(3), seed=0).value.sum(-1).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    if _is_overridden(logits, weight, tau, temperature, mask, seed):
        if isinstance(logits, Tensor) and logits.is_nested:
            raise TypeError("logits: expected a dense tensor, such as a jagged one's values(), got a nested one")
        tensors = {"weight": weight, "tau": tau, "temperature": temperature, "mask": mask, "seed": seed}
        others: dict[str, Any] = {"estimator": estimator, "generator": generator, "num_noises": num_noises}
        return overridden(straight_through_embedding, logits, tensors, dim=dim, **others)
    if _is_traced():
        tau, temperature = _alike(tau, temperature)
        return Embedded(*_ops.straight_through_embedding(
            logits, weight, tau, estimator=estimator, temperature=temperature, dim=dim, mask=mask, seed=_seed(seed),
            generator=generator, num_noises=num_noises,
        ))  # fmt: skip
    return Embedded(*_C.straight_through_embedding(
        logits, weight, tau, estimator, temperature, dim, mask, _seed(seed), generator, num_noises
    ))  # fmt: skip


def _alike(*temperatures: float | Tensor) -> list[float | Tensor]:
    """Both numbers, or both tensors, as operators have them."""
    if not any(isinstance(value, Tensor) for value in temperatures):
        return list(temperatures)
    return [value if isinstance(value, Tensor) else _in_tensor(value) for value in temperatures]
