"""What the Gumbel-softmax does, on the triangle of three classes.

Every point of the triangle is a distribution over three classes, every corner one class. As the temperature
falls, relaxed samples move from the middle to the corners; one-hot samples lie in the corners from the first,
as often in each as its probability says, and their gradient is the relaxed sample's.

    p_i ∝ exp((log π_i + g_i) / τ),   z = one_hot(argmax_i [log π_i + g_i]),   g_i ~ Gumbel(0, 1)

    python simplex.py --out out/simplex.png

Source: Jang, Gu, Poole, "Categorical reparameterization with Gumbel-softmax", ICLR 2017, figure 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import gumbel_ext

PI = torch.tensor([0.5, 0.3, 0.2])
TAUS = (5.0, 1.0, 0.5, 0.1)
SAMPLES = 2000
SEED = 0

CORNERS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]])
LABEL_OFFSETS = ((-0.04, -0.13), (0.04, -0.13), (0.0, 0.12))
"""From each corner to the middle of its text."""


def in_plane(p: Tensor) -> Tensor:
    """Barycentric to Cartesian coordinates: ``Σ_i p_i c_i`` with the corners ``c``."""
    return p @ CORNERS


def draw_triangle(axes: Axes, labels: list[str]) -> None:
    """The outline, ``labels`` at the corners, and π."""
    outline = torch.cat([CORNERS, CORNERS[:1]])
    axes.plot(*outline.T, color="0.4", linewidth=1, zorder=1)
    for (x, y), (dx, dy), label in zip(CORNERS.tolist(), LABEL_OFFSETS, labels, strict=True):
        axes.text(x + dx, y + dy, label, ha="center", va="center")
    axes.scatter(*in_plane(PI), marker="*", s=130, color="tab:red", edgecolor="white", zorder=3)
    axes.set(xlim=(-0.22, 1.22), ylim=(-0.22, 1.05), aspect="equal")
    axes.set_axis_off()


def draw_relaxed(axes: Axes, tau: float) -> None:
    samples = gumbel_ext.gumbel_softmax(PI.log().expand(SAMPLES, 3), tau, seed=SEED)
    axes.scatter(*in_plane(samples).T, s=5, alpha=0.25, color="tab:blue", linewidth=0, zorder=2)
    draw_triangle(axes, ["class 1", "class 2", "class 3"])


def draw_one_hot(axes: Axes, tau: float) -> None:
    """A disc in each corner, its area the fraction of the samples there."""
    samples = gumbel_ext.gumbel_softmax(PI.log().expand(SAMPLES, 3), tau, hard=True, seed=SEED)
    frequency = samples.mean(0)
    axes.scatter(*CORNERS.T, s=700 * frequency, alpha=0.6, color="tab:blue", linewidth=0, zorder=2)
    draw_triangle(axes, [f"{share:.1%}" for share in frequency])


def draw() -> Figure:
    figure = Figure(figsize=(11, 6.6), layout="constrained")
    rows = figure.subfigures(2, 1)
    rows[0].suptitle("Relaxed samples, gumbel_softmax(log π, τ)", weight="bold")
    rows[1].suptitle(
        "One-hot samples, gumbel_softmax(log π, τ, hard=True): τ changes only their gradient", weight="bold"
    )
    for row, draw_samples in zip(rows, (draw_relaxed, draw_one_hot), strict=True):
        for axes, tau in zip(row.subplots(1, len(TAUS)), TAUS, strict=True):
            draw_samples(axes, tau)
            axes.set_title(f"τ = {tau:g}")
    pi = ", ".join(f"{share:g}" for share in PI.tolist())
    figure.supxlabel(f"★ π = ({pi}); {SAMPLES} samples, the same noise in every triangle", color="tab:red")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/simplex.png"), help="the picture to write")
    out = parser.parse_args().out
    out.parent.mkdir(parents=True, exist_ok=True)
    draw().savefig(out, dpi=150)
    print(f"picture in {out}")


if __name__ == "__main__":
    main()
