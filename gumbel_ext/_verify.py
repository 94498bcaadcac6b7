"""Whether tokens are the ones that a seed draws. The arguments in common are those of `gumbel_ext.functional`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gumbel_ext.functional import _ops, _seed, gumbel_max


class Verified(NamedTuple):
    """What `verify` returns, each shaped as the tokens."""

    matches: Tensor
    margin: Tensor
    expected: Tensor


def verify(
    logits: Tensor,
    tokens: Tensor,
    seed: int | Tensor,
    temperature: float | Tensor = 1.0,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
) -> Verified:
    """Whether ``tokens`` are the ones that ``seed`` draws, and by how much they are not.

    ``tokens``: int64, shaped as what ``gumbel_max(logits, temperature, dim=dim, mask=mask, seed=seed)`` returns, or,
    with a last dimension more, as with ``num_samples``. With the scores ``s = x / T + g`` of that draw (at ``T = 0``,
    ``s = x``), returns

    * ``expected``: its indices;
    * ``matches``: bool, ``tokens == expected``;
    * ``margin``: ``max(0, s_expected - s_token)``, of scores that are not rounded, in the working precision (float32,
      float64 for float64); exactly 0 where the token matches, +∞ where it had probability 0 (the mask is False or the
      logit -∞), NaN where another token than the expected one stands for a row that has no softmax.

    Where the logits differ from those of the draw by at most ``δ``, as other hardware's do, the token that was drawn
    has a margin of at most ``2δ / T`` (``2δ`` at ``T = 0``); of a token that was not drawn by this seed it is of the
    order of 1. ``margin * T`` is the score of Token-DiFR (Karvonen et al., "DiFR: inference verification despite
    nondeterminism", arXiv 2511.20621, 2025).

    Nothing has a gradient, and no tensor of the logits' size is made. The tokens are read by the host, so that this is
    neither for ``vmap`` nor for one graph of a compiler. Raises ValueError where a token is no class.

    >>> logits = torch.tensor([[0.0, 2.0, 1.0]])
    >>> verify(logits, torch.tensor([2]), 0, temperature=0)
    Verified(matches=tensor([False]), margin=tensor([1.]), expected=tensor([1]))
    """
    if isinstance(logits, Tensor) and logits.is_nested:
        raise TypeError("logits: expected a dense tensor, such as a jagged one's values(), got a nested one")
    if seed is None:
        raise TypeError("seed: expected an int or an int64 tensor, got None")
    if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64:
        got = f"a {tokens.dtype} tensor" if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(f"tokens: expected an int64 tensor, got {got}")
    several = isinstance(logits, Tensor) and tokens.dim() == max(logits.dim(), 1)
    draws = tokens.shape[-1] if several else None
    with torch.no_grad():
        expected = gumbel_max(logits, temperature, dim=dim, num_samples=draws, mask=mask, seed=seed)
        rows = (logits if logits.dim() else logits.reshape(1)).movedim(dim, -1)
        _check(tokens, expected, rows.shape[-1])
        columns = (expected, tokens) if several else (expected.unsqueeze(-1), tokens.unsqueeze(-1))
        x = [_logits_at(rows, mask, dim, classes) for classes in columns]
        t = _temperatures(temperature, rows, dim)
        g = [_noise_at(classes, _seed(seed), logits.dtype) for classes in columns]
        margin = _difference(x[0], x[1], t) + (g[0].double() - g[1].double()).masked_fill(t == 0, 0.0)
        margin = margin.masked_fill(~x[0].isfinite(), torch.nan).clamp_min(0).to(g[0].dtype).reshape(tokens.shape)
        matches = tokens == expected
        return Verified(matches, margin.masked_fill_(matches, 0.0), expected)


def _check(tokens: Tensor, expected: Tensor, classes: int) -> None:
    if tokens.device != expected.device:
        raise ValueError(f"tokens: expected a tensor on {expected.device}, got one on {tokens.device}")
    if tokens.shape != expected.shape:
        raise ValueError(f"tokens: expected shape {list(expected.shape)}, got {list(tokens.shape)}")
    outside = tokens[(tokens < 0) | (tokens >= classes)]
    if outside.numel() > 0:
        raise ValueError(f"tokens: expected classes in [0, {classes}), got {outside[0].item()}")


def _logits_at(rows: Tensor, mask: Tensor | None, dim: int, classes: Tensor) -> Tensor:
    """The logits of ``classes``, ``[*rows, draws]``, in float64; -∞ where the mask is False."""
    x = rows.gather(-1, classes).double()
    if mask is None:
        return x
    allowed = mask.expand(rows.movedim(-1, dim).shape).movedim(dim, -1)
    return x.masked_fill(~allowed.gather(-1, classes), -torch.inf)


def _temperatures(temperature: float | Tensor, rows: Tensor, dim: int) -> Tensor:
    """One a row, ``[*rows, 1]``, in float64."""
    t = torch.as_tensor(temperature, dtype=torch.float64, device=rows.device)
    return t.expand(rows[..., :1].movedim(-1, dim).shape).movedim(dim, -1)


def _noise_at(classes: Tensor, seed: int | Tensor | None, dtype: torch.dtype) -> Tensor:
    """The noise of ``classes``, ``[*rows, draws]``, in the working precision of ``dtype``."""
    number, rows = (None, seed) if isinstance(seed, Tensor) else (seed, None)
    return _ops._noise_at(classes, torch.float64 if dtype == torch.float64 else torch.float32, number, rows)


def _difference(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """(a - b) / t, also where a - b leaves the range of float64; a - b where t is 0."""
    t = t.masked_fill(t == 0, 1.0)
    difference = a - b
    return torch.where(difference.isinf(), (a / 2 - b / 2) / t * 2, difference / t)
