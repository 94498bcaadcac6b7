"""What share of the memory's bandwidth the kernels reach: bytes that have to move, each input read once and each
output written once, over the time, as a share of what a copy on the same device reaches in the same round. Beside it
the share that tools/sass_table.py predicts for an H100, from the instructions it counts."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import gumbel_ext  # noqa: F401  (registers the operators)

SHAPES = ((65536, 1024), (4096, 32000), (256, 151936))
QUICK_SHAPES = ((64, 1024), (16, 32000))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: The least share asked for, by the kernel and the dtype.
TARGETS = {
    ("relaxed", "float32"): 0.9,
    ("hard, p kept", "float32"): 0.9,
    ("backward", "float32"): 0.9,
    ("index", "float32"): 0.9,
    ("relaxed", "bfloat16"): 0.7,
    ("hard, p kept", "bfloat16"): 0.7,
    ("backward", "bfloat16"): 0.85,
}
ROUNDS = 15
PREDICTED = Path(__file__).resolve().parent / "results" / "predicted-h100.json"


@functools.cache
def predictions() -> dict[tuple[str, str, int], float]:
    """The share of a copy's bandwidth, by kernel, dtype and classes; of some."""
    records = json.loads(PREDICTED.read_text())
    return {(r["kernel"], r["dtype"], r["classes"]): r["share"] for r in records}


@dataclass(frozen=True)
class Share:
    """One kernel on one tensor. `seconds` of a call; `bytes` that have to move; `copy`: bytes a second of a copy."""

    kernel: str
    shape: tuple[int, int]
    dtype: str
    seconds: float
    bytes: int
    copy: float
    at_least: float | None

    @property
    def share(self) -> float:
        return self.bytes / self.seconds / self.copy

    @property
    def predicted(self) -> float | None:
        """The same share, for an H100."""
        return predictions().get((self.kernel, self.dtype, self.shape[1]))

    def record(self) -> dict[str, Any]:
        met = None if self.at_least is None else round(self.share, 3) >= self.at_least
        return asdict(self) | {"share": self.share, "predicted": self.predicted, "met": met}

    def line(self) -> str:
        rows, classes = self.shape
        size, verdict = f"{rows}x{classes}", ""
        if self.predicted is not None:
            verdict = f"predicted {self.predicted:4.0%}  "
        if self.at_least is not None:
            verdict += f"of {self.at_least:.0%}  " + ("met" if self.record()["met"] else "MISSED")
        speed = self.bytes / self.seconds / 1e9
        return f"{self.kernel:<14}{size:<14}{self.dtype:<10}{speed:9.1f} GB/s {self.share:6.1%} {verdict}"


def _kernels(x: Tensor) -> dict[str, tuple[Callable[[], Any], int]]:
    """Each kernel's call, and the bytes it has to move."""
    ops, size = torch.ops.gumbel_ext, x.numel() * x.element_size()
    inputs: tuple[Any, ...] = (x, None, 0.7, None, True, 1, None, None, -1)
    p, dy = ops._relaxed(*inputs), torch.randn_like(x)
    return {
        "relaxed": (lambda: ops._relaxed(*inputs), 2 * size),
        "hard": (lambda: ops._one_hot(*inputs), 2 * size),
        "hard, p kept": (lambda: ops._one_hot_relaxed(*inputs), 3 * size),
        "backward": (lambda: ops._backward(dy, p, 0.7, None, -1, True, False), 3 * size),
        "index": (lambda: ops._index(x, None, 1.0, None, 1, None, None, -1, None), size + 8 * x.shape[0]),
        "softmax": (lambda: ops._relaxed(x, None, 0.7, None, False, None, None, None, -1), 2 * size),
    }


def _seconds(call: Callable[[], Any], device: str, calls: int) -> float:
    """Of one call, on the device's own clock."""
    if device == "cpu":
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - start) / calls
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / calls


def shares(device: str, quick: bool) -> list[Share]:
    """Every kernel at every shape and dtype; the copy takes its turn in each round."""
    results = []
    shapes = QUICK_SHAPES if quick else SHAPES
    for shape, (name, dtype) in tqdm([(s, d) for s in shapes for d in DTYPES.items()], unit="tensor", disable=None):
        x = torch.randn(shape, device=device, dtype=dtype)
        target = torch.empty_like(x)
        sides = _kernels(x) | {"copy": (lambda x=x, t=target: t.copy_(x), 2 * x.numel() * x.element_size())}
        times: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(2 + (3 if quick else ROUNDS)):  # two to warm up
            for side, (call, _) in sides.items():
                spent = _seconds(call, device, 1 if quick else 10)
                if turn >= 2:
                    times[side].append(spent)
        copied = sides["copy"][1] / median(times["copy"])
        for kernel, (_, moved) in sides.items():
            if kernel == "copy":
                continue
            target_share = None if quick else TARGETS.get((kernel, name))
            results.append(Share(kernel, shape, name, median(times[kernel]), moved, copied, target_share))
    return results


def chart(path: Any, results: list[Share], title: str) -> None:
    """Bars of the shares, a tick for what is asked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.27 * len(results)), layout="constrained")
    labels = [f"{r.kernel}, {r.shape[0]}×{r.shape[1]}, {r.dtype}" for r in results]
    colours = ["#1b6ca8" if r.dtype == "float32" else "#7fb069" for r in results]
    axes.barh(labels, [100 * r.share for r in results], color=colours)
    for position, r in enumerate(results):
        axes.text(100 * r.share + 1, position, f"{r.share:.0%}", va="center", fontsize=8)
        if r.at_least is not None:
            axes.plot([100 * r.at_least] * 2, [position - 0.4, position + 0.4], color="black", linewidth=1.6)
    axes.set_xlim(0, max(105.0, math.ceil(110 * max(r.share for r in results))))
    axes.set_xlabel("share of a copy's bandwidth, %; the black tick is what is asked")
    axes.set_title(title, loc="left", fontsize=10)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
