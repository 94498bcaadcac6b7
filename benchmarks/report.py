"""What comes out: the table, the JSON record, the chart, the comparison with an older record."""

from __future__ import annotations

import json
import platform
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import gumbel_ext
from benchmarks.measure import Ceiling, Comparison, Row, Spread
from benchmarks.peers import versions

#: Up to this share of the processor's time spent on others, a run counts as undisturbed.
QUIET = 0.03
COLOURS = {
    "eager": "#d95f02",
    "compile": "#7570b3",
    "jax": "#1b9e77",
    "multinomial": "#a6761d",
    "exponential race": "#66666e",
}


def processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        return found.group(1).strip() if found else platform.machine()
    except OSError:
        return platform.processor() or platform.machine()


def environment(device: str) -> dict[str, Any]:
    info = gumbel_ext.build_info()
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "instruction_set": info["cpu_isa"],
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": versions(),
    }


# The table.


def header(facts: dict[str, Any], ceilings: list[Ceiling]) -> str:
    names = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines = [
        f"{facts['processor']}, {facts['threads']} threads, our kernels for {facts['instruction_set']}",
        names,
        *(
            f"{c.name}: {c.cost.median:.2f} ns per float32"
            + (f", {c.gigabytes_per_second:.1f} GB/s" if "copy" in c.name else "")
            for c in ceilings
        ),
        "ratio: the peer's time per logit over ours, median [quartiles]; more than 1: ours is faster",
    ]
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _seconds(nanoseconds: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= size:
            return f"{_number(nanoseconds / size)} {unit}"
    return f"{_number(nanoseconds)} ns"


def _spread(spread: Spread) -> str:
    return f"[{_number(spread.low)}, {_number(spread.high)}]"


def _verdict(comparison: Comparison) -> str:
    if comparison.at_least is None:
        return "for information"
    return f">= {comparison.at_least:<6.3g} " + ("met" if comparison.met else "MISSED")


def table(row: Row) -> str:
    """One row: ours on the first line, a line a peer."""
    case = row.case
    title = f"{case.name}  ({str(case.dtype).removeprefix('torch.')}"
    title += ", forward and backward)" if case.differentiates else ")"
    if row.ours is None:
        return f"{title}  WRONG, not measured: {row.wrong}"
    if case.quantity == "memory":
        unit, total = "bytes per logit", f"{row.ours.median * case.logits / 2**20:.0f} MiB above the inputs"
    else:
        unit, total = "ns per logit", f"{_seconds(row.ours.median * case.logits)} a call, {row.rounds} rounds"
    lines = [f"{title}  ours {_number(row.ours.median)} {_spread(row.ours)} {unit}, {total}"]
    floors = [f"{_number(1 / c.ratio.median)} times {_CEILING_NAMES[c.peer]}" for c in row.ceilings]
    if row.arithmetic:
        what = "Philox alone" if case.work == "index" else "Philox, logarithms and exponential alone"
        floors.append(f"{_number(row.ours.median / row.arithmetic)} times {what}")
    if floors:
        lines.append(f"{'':10}floor: ours takes " + ", ".join(floors))
    for c in row.peers:
        name = f"{c.peer} ({c.note})" if c.note else c.peer
        ratio = f"{_number(c.ratio.median):>7}x {_spread(c.ratio):<18}"
        lines.append(f"{ratio} {_verdict(c):<17} {name:<22} {_number(c.cost.median)} {unit}")
    lines += [f"{'-':>7}  {name}: {why}" for name, why in row.left_out.items()]
    return "\n".join(lines)


_CEILING_NAMES = {"copy": "a copy of the logits", "noise": "the noise alone"}


def summary(rows: list[Row], facts: dict[str, Any]) -> str:
    """How many targets were met, the misses with the worst first, who was not there, how quiet it was."""
    asked = [(c.ratio.median / c.at_least, row, c) for row in rows for c in row.peers if c.at_least is not None]
    missed = sorted((entry for entry in asked if not entry[2].met), key=lambda entry: entry[0])
    lines = [f"{len(asked) - len(missed)} of {len(asked)} targets met"]
    for share, row, c in missed:
        ratio = f"{_number(c.ratio.median):>7}x of {_number(c.at_least)}x"
        lines.append(f"{ratio:<18} ({share:.0%})  {row.case.name} over {c.peer}")
    absent = Counter(f"{name}: {why}" for row in rows for name, why in row.left_out.items())
    lines += [f"left out in {count} rows: {reason}" for reason, count in absent.items()]
    lines += [f"WRONG: {row.case.name}: {row.wrong}" for row in rows if row.wrong]
    lines.append(f"{facts['seconds']:.0f} s in all")
    others = facts["others_share"]
    if others is not None and others > QUIET:
        lines.append(f"NOT QUIET: other processes took {others:.0%} of the processor; the figures are rough")
    return "\n".join(lines)


# The record.


def _entry(comparison: Comparison) -> dict[str, Any]:
    return asdict(comparison) | {"met": comparison.met}


def record(rows: list[Row], ceilings: list[Ceiling], facts: dict[str, Any], date: str) -> dict[str, Any]:
    """Everything, as JSON holds it; `cost` in nanoseconds (or bytes) per logit."""
    return {
        "date": date,
        "environment": facts,
        "ceilings": {c.name: asdict(c.cost) for c in ceilings},
        "rows": [
            {
                "name": row.case.name,
                "work": row.case.work,
                "shape": row.case.shape,
                "dtype": str(row.case.dtype).removeprefix("torch."),
                "quantity": row.case.quantity,
                "rounds": row.rounds,
                "ours": asdict(row.ours) if row.ours else None,
                "peers": {c.peer: _entry(c) for c in row.peers},
                "ceilings": {c.peer: _entry(c) for c in row.ceilings},
                "arithmetic": row.arithmetic,
                "left_out": row.left_out,
                "wrong": row.wrong,
            }
            for row in rows
        ],
    }


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def compare(rows: list[Row], old: dict[str, Any]) -> str:
    """Our standing against each peer, now over then: below 1 is a loss."""
    before = {entry["name"]: entry["peers"] for entry in old["rows"]}
    lines = [f"ratio now over ratio then ({old['date']}); below 1 is a loss"]
    changes = []
    for row in rows:
        for c in row.peers:
            then = before.get(row.case.name, {}).get(c.peer)
            if then:
                median = then["ratio"]["median"]
                line = f"{row.case.name} over {c.peer}: {_number(median)}x, now {_number(c.ratio.median)}x"
                changes.append((c.ratio.median / median, line))
    return "\n".join(lines + [f"{change:7.2f}  {line}" for change, line in sorted(changes)])


# The chart.


def chart(path: Path, rows: list[Row], facts: dict[str, Any]) -> None:
    """Horizontal bars of the speed-up over each peer, logarithmic; a tick marks the least that is asked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    groups = []
    for row in rows:
        bars = [c for c in row.peers if c.peer in COLOURS]
        if row.case.chart and bars:
            groups.append((row.case.name, bars))
    height = sum(len(bars) + 0.9 for _, bars in groups)
    figure, axes = pyplot.subplots(figsize=(9, 1.3 + 0.24 * max(height, 4)), layout="constrained")
    position, labels = 0.0, []
    left = min([0.5, *(0.7 * c.ratio.median for _, bars in groups for c in bars)])
    for name, bars in groups:
        labels.append((position + (len(bars) - 1) / 2, name))
        for c in bars:
            _bar(axes, position, c, left)
            position += 1
        position += 0.9
    axes.set_xscale("log")
    axes.set_xlim(left=left, right=max([2.0, *(c.ratio.median for _, bars in groups for c in bars)]) * 1.8)
    axes.set_ylim(position - 0.4, -1)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks([at for at, _ in labels], [name for _, name in labels])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.grid(axis="x", which="major", color="#dddddd")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"How many times faster gumbel_ext is ({facts['threads']} threads)", loc="left")
    axes.set_xlabel(f"{facts['processor']}; torch {facts['versions']['torch']}; the black tick is the target")
    shown = {c.peer for _, bars in groups for c in bars}
    patches = [Patch(color=colour, label=_PEER_NAMES[name]) for name, colour in COLOURS.items() if name in shown]
    axes.legend(handles=patches, loc="lower right", frameon=True, framealpha=0.95)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


_PEER_NAMES = {
    "eager": "torch",
    "compile": "torch.compile",
    "jax": "JAX jit",
    "multinomial": "torch.multinomial",
    "exponential race": "exponential race in torch",
}


def _bar(axes: Any, position: float, comparison: Comparison, left: float) -> None:
    ratio, target = comparison.ratio.median, comparison.at_least or 0
    axes.barh(position, ratio - left, left=left, height=0.85, color=COLOURS[comparison.peer])
    if target > 1:
        axes.plot([target] * 2, [position - 0.42, position + 0.42], color="black", linewidth=1.6)
    beyond = target > 1 and 0.9 * ratio < target < 1.6 * ratio  # the tick would cross the number
    end = max(ratio, target) if beyond else ratio
    axes.text(end * 1.05, position, f"{_number(ratio)}×", va="center", fontsize=8)
