"""What modules take for `tau`: numbers, tensors, and schedules."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

Shape = Literal["exponential", "linear", "cosine"]


class TemperatureSchedule(torch.nn.Module):
    r"""A temperature that goes from ``start`` to ``end`` in ``updates`` calls of `step`, and then stays there.

    With :math:`f = \min(n / N, 1)` after `n` of `N` updates, the temperature is

    - exponential: :math:`\tau = s^{1 - f}\, e^f`, the same factor at every update (Jang et al. 2017, section 4);
    - linear: :math:`\tau = (1 - f)\, s + f e`;
    - cosine: the same with :math:`(1 - \cos \pi f) / 2` in place of `f`.

    Calling it gives the temperature as a float64 tensor without dimensions, which is a ``tau`` or a ``temperature`` of
    any function of this package; modules take the schedule itself. How many updates were made is a buffer, ``done``:
    ``state_dict()`` holds it, and under `torch.compile` a new temperature does not compile again.

    Raises ValueError where ``start`` or ``end`` is not positive and finite, ``updates`` is less than 1, or ``shape`` is
    none of the three.

    >>> schedule = TemperatureSchedule(2.0, 0.5, updates=2, shape="linear")
    >>> schedule().item(), schedule.step().item(), schedule.step().item(), schedule.step().item()
    (2.0, 1.25, 0.5, 0.5)
    """

    if TYPE_CHECKING:
        done: Tensor

    def __init__(self, start: float, end: float, updates: int, shape: Shape = "exponential") -> None:
        super().__init__()
        for name, value in (("start", start), ("end", end)):
            if not (0 < value < math.inf):
                raise ValueError(f"{name}: expected a positive finite number, got {value}")
        if updates < 1:
            raise ValueError(f"updates: expected at least 1, got {updates}")
        if shape not in get_args(Shape):
            raise ValueError(f"shape: expected one of {', '.join(get_args(Shape))}, got {shape!r}")
        self.start, self.end, self.updates, self.shape = start, end, updates, shape
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))

    def forward(self) -> Tensor:
        """The temperature now."""
        part = (self.done.double() / self.updates).clamp(max=1)
        if self.shape == "exponential":
            return self.start ** (1 - part) * self.end**part
        if self.shape == "cosine":
            part = (1 - (math.pi * part).cos()) / 2
        return self.start * (1 - part) + self.end * part

    def step(self, updates: int = 1) -> Tensor:
        """Counts one update, or so many; returns the temperature that is in force from now on."""
        self.done += updates
        return self.forward()

    def extra_repr(self) -> str:
        return f"start={self.start}, end={self.end}, updates={self.updates}, shape={self.shape!r}"

    if TYPE_CHECKING:
        __call__ = forward


Tau = float | Tensor | TemperatureSchedule


def keep_tau(module: torch.nn.Module, tau: Tau) -> None:
    """As the attribute ``tau``: a tensor as a buffer, a parameter or a schedule as what it is in a module."""
    if isinstance(tau, Tensor) and not isinstance(tau, torch.nn.Parameter):
        module.register_buffer("tau", tau)
    else:
        setattr(module, "tau", tau)  # noqa: B010 (torch.nn.Module's types know no numbers)


def tau_now(tau: Tau) -> float | Tensor:
    """A schedule's temperature; any other as it is."""
    return tau() if isinstance(tau, TemperatureSchedule) else tau
