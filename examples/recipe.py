"""What the recipes share: their command line, their tables, and how their pictures look."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t as student_t

COLOURS = [f"tab:{name}" for name in ("blue", "orange", "green", "red", "purple", "brown", "pink", "gray", "olive")]


@dataclass(frozen=True)
class Options:
    out: Path
    seeds: range
    quick: bool


def parser(doc: str, picture: str, seeds: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out") / picture, help="the picture to write")
    parser.add_argument("--seeds", type=int, default=seeds, help=f"how many (default {seeds})")
    parser.add_argument("--quick", action="store_true", help="one seed and few steps, for a first look")
    return parser


def options(arguments: argparse.Namespace) -> Options:
    """Also keeps torch to one thread: layers this small gain nothing from a second one."""
    torch.set_num_threads(1)
    return Options(arguments.out, range(1 if arguments.quick else arguments.seeds), arguments.quick)


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean and standard deviation over the seeds, where there are several."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def difference(ours: Sequence[float], theirs: Sequence[float], digits: int = 3) -> str:
    """The mean of the differences, seed by seed, and the half width of its 95 % interval (Student's t)."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    count = len(differences)
    mean = f"{round(statistics.mean(differences), digits) + 0.0:+.{digits}f}"  # no -0
    if count < 2:
        return mean
    half = float(student_t.ppf(0.975, count - 1)) * statistics.stdev(differences) / count**0.5
    return f"{mean} ± {half:.{digits}f}"


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """As Markdown, with columns that line up."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    print(f"\n{title}\n")
    for row in (header, ["-" * width for width in widths], *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")


def draw_seeds(axes: Axes, results: Mapping[str, Sequence[float]], colours: Sequence[str] = COLOURS) -> None:
    """A row for each name, from the top: a dot for each seed, a bar at their mean."""
    for row, (values, colour) in enumerate(zip(results.values(), colours, strict=False)):
        axes.scatter(values, [row] * len(values), s=22, alpha=0.6, color=colour, linewidth=0)
        axes.plot([statistics.mean(values)] * 2, [row - 0.3, row + 0.3], color=colour, linewidth=2)
    axes.set_yticks(range(len(results)), list(results))
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)


def save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"\npicture in {path}")
