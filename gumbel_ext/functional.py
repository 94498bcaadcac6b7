"""The operations.

Common to all of them:

* ``logits``: unnormalised log-probabilities ``x = log π`` along ``dim``; float32, float64, float16 or
  bfloat16, of any shape and strides. Results have its shape and dtype unless said otherwise, and are
  contiguous; arithmetic is in float32 (float64 for float64).
* ``tau``: a positive finite number, or a tensor of them that broadcasts against ``logits`` with size 1 along
  ``dim`` (one temperature a row); a floating-point tensor gets a gradient too. A tensor of no dimensions on
  the CPU goes with logits on any device.
* ``mask``: bool, broadcastable to ``logits``, True where a class may be chosen; elsewhere the logit counts
  as -∞.
* ``seed``: an int in [-2^63, 2^64), or an int64 tensor shaped as ``logits`` without ``dim`` (one seed a
  row). ``generator``: a `torch.Generator`. With neither, torch's default generator of the device, so that
  `torch.manual_seed` governs. A seed fixes the noise whatever the batch size, thread count, device, dtype,
  memory layout or ``dim``. It may also be a key of `torch.func._random`, or one key a row (docs/tokens.md).

A row with NaN, +∞, or with every class at -∞ gives NaN along the row; an index is then what `torch.argmax`
gives. Ties go to the lowest class.

Every function raises `TypeError` for an argument of a wrong type or dtype, `IndexError` for a ``dim`` out
of range, `ValueError` for a wrong value, shape or device, and `NotImplementedError` for a device without
kernels in this build.

Sources: Jang, Gu, Poole, "Categorical reparameterization with Gumbel-softmax", ICLR 2017 [J]; Maddison, Mnih,
Teh, "The concrete distribution", ICLR 2017 [M]; Bengio, Léonard, Courville, "Estimating or propagating
gradients through stochastic neurons", 2013 [B]; Maddison, Tarlow, Minka, "A* sampling", NeurIPS 2014 [A]; Xie, Ermon,
"Reparameterizable subset sampling via continuous relaxations", IJCAI 2019 [X].
"""

from __future__ import annotations

import json
import operator
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from gumbel_ext._keys import seed_of_key
from gumbel_ext._load import load
from gumbel_ext._override import overridden

_C: Any = load()
_ops = torch.ops.gumbel_ext


def softmax(logits: Tensor, tau: float | Tensor = 1.0, *, dim: int = -1, mask: Tensor | None = None) -> Tensor:
    """Tempered softmax, ``p_i = exp(x_i / τ) / Σ_j exp(x_j / τ)``.

    Gradient: ``dx = p ⊙ (dy - ⟨p, dy⟩) / τ``; backward keeps the output alone. See the module's notes for
    the arguments and errors.

    >>> softmax(torch.tensor([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    if _is_overridden(logits, tau, mask):
        return overridden(softmax, logits, {"tau": tau, "mask": mask}, dim=dim)
    if _is_traced():
        return _ops.softmax(logits, tau, dim=dim, mask=mask)
    return _C.softmax(logits, tau, dim, mask)


def straight_through(logits: Tensor, tau: float | Tensor = 1.0, *, dim: int = -1, mask: Tensor | None = None) -> Tensor:
    """Straight-through one-hot, ``y = z - sg(p) + p`` with ``z = one_hot(argmax x)``, ``p = softmax(x / τ)``.

    The value is ``z``, exactly 0 and 1; the gradient is ``p``'s. Source: [B], section 4.

    >>> straight_through(torch.tensor([0.0, 2.0, 1.0])).tolist()
    [0.0, 1.0, 0.0]
    """
    if _is_overridden(logits, tau, mask):
        return overridden(straight_through, logits, {"tau": tau, "mask": mask}, dim=dim)
    if _is_traced():
        return _ops.straight_through(logits, tau, dim=dim, mask=mask)
    return _C.straight_through(logits, tau, dim, mask)


def gumbel_softmax(
    logits: Tensor,
    tau: float | Tensor = 1.0,
    hard: bool = False,
    eps: float = 1e-10,
    dim: int = -1,
    *,
    mask: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Gumbel-softmax sample, ``p_i ∝ exp((x_i + g_i) / τ)`` with ``g_i ~ Gumbel(0, 1)``.

    Stands in for `torch.nn.functional.gumbel_softmax`, whose positions and names it has; ``eps`` is
    deprecated there and has no effect here either. With ``hard``, the value is ``one_hot(argmax(x + g))``, a
    draw from ``softmax(x)``, exactly 0 and 1; the gradient is ``p``'s (straight-through). Source: [J],
    section 2; [M], section 3.

    >>> gumbel_softmax(torch.zeros(3), hard=True, seed=0).sum().item()
    1.0
    """
    if _is_overridden(logits, tau, mask, seed):
        tensors = {"tau": tau, "mask": mask, "seed": seed}
        return overridden(gumbel_softmax, logits, tensors, dim=dim, hard=hard, eps=eps, generator=generator)
    if eps != 1e-10:
        warnings.warn("`eps` parameter is deprecated and has no effect.", stacklevel=2)
    if _is_traced():
        return _ops.gumbel_softmax(logits, tau, hard, dim=dim, mask=mask, seed=_seed(seed), generator=generator)
    return _C.gumbel_softmax(logits, tau, hard, dim, mask, _seed(seed), generator)


def gumbel_max(
    logits: Tensor,
    temperature: float | Tensor = 1.0,
    *,
    dim: int = -1,
    num_samples: int | None = None,
    mask: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Gumbel-max sample, ``argmax_i (x_i / temperature + g_i)``: drawn from ``softmax(x / temperature)``.

    Returns int64 indices shaped as ``logits`` without ``dim``, with a last dimension ``num_samples`` where
    that is given. ``temperature`` divides the logits before the noise and may be 0, in any row: then the
    index is ``argmax x``. At temperature 1 and the same seed the index is that of
    ``gumbel_softmax(..., hard=True)``. Source: [A], section 2.

    >>> gumbel_max(torch.tensor([0.0, 2.0, 1.0]), temperature=0).item()
    1
    """
    if _is_overridden(logits, temperature, mask, seed):
        tensors = {"temperature": temperature, "mask": mask, "seed": seed}
        return overridden(gumbel_max, logits, tensors, dim=dim, num_samples=num_samples, generator=generator)
    if _is_traced():
        return _ops.gumbel_max(
            logits, temperature, dim=dim, num_samples=num_samples, mask=mask, seed=_seed(seed), generator=generator
        )
    return _C.gumbel_max(logits, temperature, dim, num_samples, mask, _seed(seed), generator)


def gumbel_noise(
    size: int | Sequence[int],
    *,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    class_offset: int = 0,
    row_offset: int = 0,
    draw: int = 0,
) -> Tensor:
    """The very noise that the other operations add, ``g = -log(-log1p(-v))``, of shape ``size``.

    The last dimension is the class. ``v`` is the word of Philox4x32-10 for (seed, row, class, draw); noise
    is finite and reaches 45. float32 noise is within 2 ulp or 2^-22 of the exact value, float64 noise within
    4 ulp or 2^-50, whichever is larger.

    Row r and class k of the result are ``row_offset + r``, rows being counted in C order, and ``class_offset + k`` of
    the noise: a part of a larger whole takes the noise of its place there. ``draw``, below 2^31, is the sample's number
    in ``num_samples``. With one seed a row all rows have number 0, and ``row_offset`` must be 0.

    >>> gumbel_noise(4, seed=7).shape
    torch.Size([4])
    >>> gumbel_noise(9, seed=7)[6:].equal(gumbel_noise(3, seed=7, class_offset=6))
    True
    """
    dtype = torch.get_default_dtype() if dtype is None else dtype
    device = torch.empty(()).device if device is None else device  # where torch's own factories put it
    relevant = (seed, *size) if isinstance(size, (tuple, list)) else (seed, size)
    offsets = {"class_offset": class_offset, "row_offset": row_offset, "draw": draw}
    if has_torch_function(relevant):
        return handle_torch_function(
            gumbel_noise, relevant, size, seed=seed, generator=generator, dtype=dtype, device=device, **offsets
        )
    if torch._C._get_tracing_state() and not (
        class_offset or row_offset
    ):  # sizes that jit.trace sees stay open, as in torch's own factories
        like = torch.empty((), dtype=dtype, device=device).expand(size)
        number, rows = (None, seed) if isinstance(seed, Tensor) else (_seed(seed), None)
        return _ops._noise(like, number, rows, generator, None, 0, draw)
    if _is_traced():
        sizes = [size] if isinstance(size, int) else list(size)
        return _ops.gumbel_noise(sizes, seed=_seed(seed), generator=generator, dtype=dtype, device=device, **offsets)
    return _C.gumbel_noise(size, _seed(seed), generator, dtype, device, class_offset, row_offset, draw)


def relaxed_top_k(
    logits: Tensor,
    k: int,
    tau: float | Tensor = 1.0,
    hard: bool = False,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Relaxed sample of ``k`` classes without replacement, ``p_1 + … + p_k``, shaped and typed as ``logits``.

    On the scores ``a_1 = x + g``, ``g`` the noise of `gumbel_softmax`, for ``j = 1 … k``::

        p_j = softmax(a_j / τ),    a_{j+1} = a_j + log(1 - p_j)

    A row's sum is ``k``; as τ → 0 it becomes the k-hot of the k largest scores. (Where τ is not small, a class may get
    more than 1.) With ``hard``, the value is that k-hot, exactly 0 and 1, ties to the lower class: a draw of ``k``
    classes without replacement; the gradient is the relaxed sample's (straight-through). At ``k=1`` this is
    `gumbel_softmax`. Source: [X], sections 3 and 4.

    Classes that the mask excludes, or whose logit is -∞, get exactly 0. Where fewer than ``k`` others are left, each of
    them gets 1, and the row's gradient is 0. Raises ValueError unless 1 ≤ ``k`` ≤ the number of classes.

    The steps are computed in float64 whatever the dtype, ``1 - p`` from the sum of the other classes; the result is
    rounded once. Backward keeps the scores, a tensor in float32 (float64 for float64), and computes the steps again.

    >>> relaxed_top_k(torch.zeros(5), 2, hard=True, seed=0).sum().item()
    2.0
    """
    if _is_overridden(logits, tau, mask, seed):
        tensors = {"tau": tau, "mask": mask, "seed": seed}
        return overridden(relaxed_top_k, logits, tensors, dim=dim, k=k, hard=hard, generator=generator)
    if _is_traced():
        return _ops.relaxed_top_k(logits, k, tau, hard, dim=dim, mask=mask, seed=_seed(seed), generator=generator)
    return _C.relaxed_top_k(logits, k, tau, hard, dim, mask, _seed(seed), generator)


def _log_gumbel_softmax(
    logits: Tensor, tau: float | Tensor, seed: int | Tensor | None, generator: torch.Generator | None
) -> Tensor:
    """log(gumbel_softmax(logits, tau)), finite also where that underflows to 0."""
    tau = tau if isinstance(tau, Tensor) else _in_tensor(tau)
    number, rows = (None, seed) if isinstance(seed, Tensor) else (_seed(seed), None)
    return _ops._log_gumbel_softmax.default(logits, tau, number, rows, generator)


def build_info() -> dict[str, Any]:
    """What the library was built as and what it runs on.

    ``version``; ``torch_version``, the torch it was built for; ``cuda``, whether it holds CUDA kernels;
    ``cpu_isa``, the instruction set of the CPU kernels in use, of ``cpu_isas``, those this processor could
    use (the environment variable ``GUMBEL_EXT_CPU_ISA`` chooses another); ``num_threads``; ``cpu_cached_bytes``,
    the memory that `empty_cache` would give back.
    """
    return json.loads(_ops._build_info())


def empty_cache() -> None:
    """Gives the memory that large results on the CPU left behind back to the system.

    It is kept for the next results, up to the environment variable ``GUMBEL_EXT_CPU_KEEP_MB`` (1024 MiB), and, but
    for 64 MiB at most, is the system's to take whenever memory is short. (What results on a GPU leave is with
    `torch.cuda.empty_cache`.)

    >>> empty_cache()
    >>> build_info()["cpu_cached_bytes"]
    0
    """
    _ops.empty_cache()


def _is_overridden(logits: Tensor, *others: Any) -> bool:
    """Whether an argument's class, or a mode, has a say. (Compilers see through the classes that they know.)"""
    return has_torch_function((logits, *others)) or (torch.compiler.is_compiling() and logits.is_nested)


def _is_traced() -> bool:
    """Whether a compiler has to see an operator."""
    return _C is None or torch.compiler.is_compiling()


def _in_tensor(number: Any) -> Tensor:
    """Of what makes a tensor of a number, compilers leave products alone open."""
    return torch.ones((), dtype=torch.float64, device="cpu") * number


def _seed(seed: int | Tensor | None) -> int | Tensor | None:
    """The signed number with the seed's 64 bits; of keys, the seeds that they stand for."""
    if isinstance(seed, Tensor):
        return seed_of_key(seed) if seed.dtype == torch.uint64 else seed
    if seed is None:
        return None
    try:
        # What a compiler leaves open is an int already, and `index` would make a constant of it.
        number = seed if torch.compiler.is_compiling() else operator.index(seed)
    except TypeError:
        raise TypeError(f"seed: expected an int or an int64 tensor, got {type(seed).__name__}") from None
    if not -(2**63) <= number < 2**64:
        raise ValueError(f"seed: expected an int in [-2^63, 2^64), got {number}")
    return number - 2**64 if number >= 2**63 else number
