"""`one_hot_sample` over the whole of every dtype: any bits, temperatures, shapes, strides, masks and seeds."""

from __future__ import annotations

import math
from typing import Any

import hard_inputs
import numpy as np
import on_device
import pytest
import reference
import torch
from hard_inputs import Problem
from hypothesis import given
from hypothesis import strategies as st

import gumbel_ext
from gumbel_ext import one_hot_sample

F64 = torch.float64


@pytest.mark.parametrize("estimator", ["gumbel", "softmax", "reinmax", "rao"])
@given(problem=hard_inputs.problems(finite=False))
def test_value(estimator: Any, problem: Problem) -> None:
    """The index of `gumbel_max`, as one-hot rows, whatever the estimator; NaN along rows that have no softmax."""
    x, t, dim, mask, seeds = problem.x(), problem.tau(), problem.dim, problem.mask(), problem.seeds()
    rows = torch.from_numpy(reference.to_rows(x, dim, mask))
    index = gumbel_ext.gumbel_max(x, t, dim=dim, mask=mask, seed=seeds)
    hot = torch.nn.functional.one_hot(index.reshape(-1), rows.shape[1]).to(x.dtype)
    hot[~rows.max(-1).values.isfinite()] = math.nan
    expected = reference.from_rows(hot.double().numpy(), x, dim)
    for logits in (x, x.detach().requires_grad_()):
        found = one_hot_sample(logits, 0.5, estimator=estimator, temperature=t, dim=dim, mask=mask, seed=seeds)
        assert found.shape == x.shape and found.dtype == x.dtype
        assert reference.differing(found.detach().double(), expected) == 0


@pytest.mark.parametrize("estimator", ["gumbel", "softmax", "reinmax"])
@given(problem=hard_inputs.problems(dy=True), of_t=st.sampled_from([0.5, 3.0, 1e-20]))
def test_gradients_of_all_numbers(estimator: Any, problem: Problem, of_t: float) -> None:
    """Finite where the truth is, and some roundings off, at any logits, temperatures and gradients."""
    x, tau, dim, mask, seeds = problem.x().detach(), problem.tau(), problem.dim, problem.mask(), problem.seeds()
    temperature = of_t if estimator == "reinmax" else 1.0
    x.requires_grad_()
    z = one_hot_sample(
        x, tau, estimator=estimator, temperature=temperature, dim=dim, mask=mask, seed=seeds
    )  # fmt: skip
    (found,) = torch.autograd.grad(z, x, problem.grad())
    wide = x.detach().double() if x.dtype == F64 else x.detach().float()
    dy = reference.to_rows(problem.grad(), dim)
    limits = (torch.finfo(wide.dtype).eps, hard_inputs.smallest(wide.dtype))
    taus = reference.row_values(tau, x, dim)
    options: dict[str, Any] = {"dim": dim, "mask": mask}
    if estimator == "reinmax":
        hot = reference.to_rows(z, dim)
        defined = ~np.isnan(hot).any(-1)
        exact = reference.to_rows(wide, dim, mask).astype(np.longdouble)
        with np.errstate(all="ignore"):
            q = reference.softmax(exact, np.longdouble(temperature) * taus)
            r = reference.softmax(exact, np.full_like(taus, temperature))
            size = (np.abs(dy) * hot).sum(-1, keepdims=True) + (q * np.abs(dy)).sum(-1, keepdims=True)
            of_q, of_r = (reference.vjp(p, dy, np.full_like(taus, temperature), *limits, 4) for p in (q, r))
            rest = (hot - q) * ((hot - q) * dy).sum(-1, keepdims=True) / 2 / temperature
            expected = of_q[0] - of_r[0] / 2 + rest
            error = 4 * (of_q[1] + of_r[1] + 16 * limits[0] * size * (hot + q) / temperature)
            error += 8 * limits[0] * (np.abs(dy) + size) * (q + r) / temperature
            error += sum(
                reference.vjp_error(p, limits[1] * (p > 0), dy, np.full_like(taus, temperature)) for p in (q, r)
            )
        # Where the parts of a sum of two sweeps leave the range, the sum is not known.
        defined &= (error <= torch.finfo(x.dtype).max).all(-1)
    else:
        p = gumbel_ext.gumbel_softmax(wide, tau, seed=seeds, **options) if estimator == "gumbel" else (
            gumbel_ext.softmax(wide, tau, **options))  # fmt: skip
        p_rows = reference.to_rows(p, dim)
        defined = ~np.isnan(p_rows).any(-1)
        expected, error, *_ = reference.vjp(p_rows, dy, taus, *limits, 2)
        error = 2 * error
        if wide.dtype != F64:  # whose p may have been approximate, where the estimator's is not
            g = reference.noise(seeds, *p_rows.shape) if estimator == "gumbel" else np.zeros_like(p_rows)
            scores = reference.to_rows(wide, dim, mask) + g
            p_error = 2.0**-24 * on_device.roundings(scores, g, taus) * p_rows + limits[1]
            error += reference.vjp_error(p_rows, p_error, dy, taus)
    dx = torch.from_numpy(reference.to_rows(found, dim)).to(x.dtype)
    assert reference.within(dx[defined], expected[defined], error[defined])
    if estimator == "gumbel" and x.numel():  # the same as `gumbel_softmax`'s: its own kernel
        assert torch.equal(z.isnan(), gumbel_ext.gumbel_softmax(x, tau, True, seed=seeds, **options).isnan())
