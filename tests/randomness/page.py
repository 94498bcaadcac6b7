"""docs/proofs.md: its tables between markers, and its picture, made from tests/results/*.json and never typed.

`cd tests && python -m randomness.page` writes them; tests/test_randomness.py checks that they are up to date.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from scipy import stats

from .promises import PROMISES, links

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "proofs.md"
PICTURE = ROOT / "docs" / "tail.png"
BUGS = ROOT / "tests" / "results" / "bugs.json"
RECORD = ROOT / "tests" / "results" / "randomness.json"
MARKED = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
COLOURS = {"gumbel_ext": "#1b6ca8", "torch": "#d1495b", "JAX": "#66a182", "JAX, high": "#8d6cab"}


def number(x: float) -> str:
    """A count as people read it: 10^9 or 2.5·10^8."""
    if x < 100_000:
        return f"{x:,.0f}"
    mantissa, exponent = f"{x:.1e}".split("e")
    power = "10" + str(int(exponent)).translate(SUPERSCRIPTS)
    return power if mantissa == "1.0" else f"{mantissa.removesuffix('.0')}·{power}"


def probability(p: float, rate: float) -> str:
    return "certain" if rate == 0 else ("0" if p == 0 else f"{p:.2g}")


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]) + "\n"


def run(record: dict[str, Any]) -> str:
    checks = record["checks"]
    passed = [c for c in checks if not c["bug"]]
    return (
        f"{record['date']}, commit {record['commit']}, torch {record['torch']}, {record['cpu']} "
        f"({record['cpu_isa']}), {record['seconds'] / 60:.0f} minutes: "
        f"{sum(c['good'] for c in passed)} of {len(passed)} statistics passed. A right library fails one of them, "
        f"anywhere in the run, with probability about {sum(c['rate'] for c in passed):.1e}.\n"
    )


def promises(record: dict[str, Any]) -> str:
    """A row a promise: its tests, the draws and the smallest p-value of its long checks, and the same elsewhere."""
    rows, others = [], [name for name in record["libraries"] if name != "gumbel_ext"]
    for promise, tests, jobs, elsewhere in PROMISES:
        found = [c for c in record["checks"] if {c["job"], c["check"]} & set(jobs) and not c["bug"]]
        chance = [c["p"] for c in found if c["rate"]]
        result = "in `make test`"
        if found:
            verdict = f"{sum(c['good'] for c in found)} of {len(found)} passed"
            result = verdict + (f", smallest p {min(chance):.2g}" if chance else ", without exception")
        draws = number(max(c["draws"] for c in found)) if found else ""
        lines = [elsewhere(record["libraries"][name]) if elsewhere else "" for name in others]
        rows.append([promise, links(tests), draws, result, *lines])
    return table(["promise", "tests", "draws", "result", *others], rows)


def titled(c: dict[str, Any]) -> str:
    return c["check"] if c["job"] in c["check"] else f"{c['job']}: {c['check']}"


def checks(record: dict[str, Any]) -> str:
    rows = [
        [titled(c), c["source"], number(c["draws"]), f"{c['statistic']:.4g} ({c['law']})",
         probability(c["p"], c["rate"]), f"{c['rate']:.0e}" if c["rate"] else "0", c["verdict"], c["detail"]]
        for c in record["checks"] if not c["bug"]
    ]  # fmt: skip
    return table(["check", "of", "draws", "statistic (law)", "p", "false alarms", "verdict", "found"], rows)


def cited(text: str) -> str:
    """owner/name#number as a link."""
    return re.sub(r"([\w.-]+/[\w.-]+)#(\d+)", r"[\1#\2](https://github.com/\1/issues/\2)", text)


def bugs(record: dict[str, Any]) -> str:
    """Of the quick tier, with the library beside them; then those that take long runs."""
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for b in json.loads(BUGS.read_text()):
        grouped.setdefault((b["of"], b["bug"]), []).append(b)
    rows = []
    for group in grouped.values():
        first, joined = group[0], [[b["check"] for b in group]]
        joined += [[probability(b[key], b["rate"] or key == "bug_p") for b in group] for key in ("p", "bug_p")]
        verdict = "rejected" if all(b["rejected"] for b in group) else "NOT REJECTED"
        cells = [", ".join(cell) for cell in joined]
        rows.append([cited(first["model"]), cells[0], number(first["draws"]), *cells[1:], verdict])
    for c in record["checks"]:
        if c["bug"]:
            rows.append([c["source"], c["check"], number(c["draws"]), "", probability(c["p"], 1), c["verdict"]])
    return table(["planted bug", "check", "draws", "the library's p", "the bug's p", "verdict"], rows)


def same(answer: bool) -> str:
    return "the same" if answer else "another sample"


def libraries(record: dict[str, Any]) -> str:
    found = record["libraries"]
    rows: list[list[str]] = [["version", *(f["version"] for f in found.values())]]
    for dtype in ("float32", "float16"):
        rows.append([f"{dtype} values drawn", *(number(f[dtype]["draws"]) for f in found.values())])
        rows.append(["largest of them", *(f"{f[dtype]['largest']:.2f}" for f in found.values())])
        rows.append(["infinite or NaN", *(f"{f[dtype]['not_finite']:,}" for f in found.values())])
        for t in (14, 16, 18, 20) if dtype == "float32" else (8, 14):
            cells = []
            for f in found.values():
                i = f[dtype]["beyond"].index(t)
                cells.append(f"{f[dtype]['counts'][i]:,} of {f[dtype]['expected'][i]:,.1f}")
            rows.append([f"beyond {t}, of as many expected", *cells])
    lawful = [f"{min(f['law'].values()):.2g}" for f in found.values()]
    rows.append(["law of the noise, smallest p of three", *lawful])
    equal = [f"{f['equal']['pairs']:,.0f} (p = {f['equal']['p']:.2g})" for f in found.values()]
    rows.append(["values beyond 11.1 equal to another", *equal])
    for key, label in (("threads", "with 1 thread and with 2"), ("longer_batch", "in a batch, and in a longer one"),
                       ("parts", "whole, and in two parts (torch: in turn)")):  # fmt: skip
        rows.append([label, *(same(f["same"][key]) for f in found.values())])
    return table(["", *found], rows)


def filled() -> str:
    """The page with every marked part made anew."""
    record = json.loads(RECORD.read_text())
    parts = {part.__name__: part(record) for part in (promises, run, checks, bugs, libraries)}
    return MARKED.sub(lambda m: m[1] + parts[m[2]] + m[3], PAGE.read_text())


def interval(count: int) -> tuple[float, float]:
    """Garwood's exact 95% interval of a Poisson mean."""
    low = float(stats.chi2.ppf(0.025, 2 * count) / 2) if count else 0.0
    return low, float(stats.chi2.ppf(0.975, 2 * count + 2) / 2)


def picture() -> None:
    """Observed over expected counts beyond each threshold, with Poisson intervals, for each library."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = json.loads(RECORD.read_text())["libraries"]
    figure, axes = plt.subplots(figsize=(8, 4.2), dpi=150)
    axes.axhline(1, color="0.6", linewidth=1, zorder=0)
    for i, (name, f) in enumerate(found.items()):
        beyond, counts, expected = (f["float32"][key] for key in ("beyond", "counts", "expected"))
        # Where less than 3 are expected, none says nothing.
        points = [(t, c, e) for t, c, e in zip(beyond, counts, expected, strict=True) if e >= 3]
        xs, ratios = [t + 0.2 * (i - 1.5) for t, _, _ in points], [c / e for _, c, e in points]
        spans = [[r - interval(c)[0] / e, interval(c)[1] / e - r]
                 for r, (_, c, e) in zip(ratios, points, strict=True)]  # fmt: skip
        axes.errorbar(xs, ratios, list(zip(*spans, strict=True)), fmt="o", markersize=5, capsize=3, color=COLOURS[name],
                      label=f"{name} {f['version']}: {number(f['float32']['draws'])} values")  # fmt: skip
    axes.set_xticks(beyond[: 1 + max(i for i, e in enumerate(expected) if e >= 3)])
    axes.set_xlabel("threshold t")
    axes.set_ylabel("values beyond t: observed / expected")
    axes.set_title("Float32 Gumbel noise: how often the tail comes (bars: 95% Poisson intervals)", fontsize=10)
    axes.legend(frameon=False, loc="lower left", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(PICTURE)


def write() -> None:
    picture()
    PAGE.write_text(filled())


if __name__ == "__main__":
    write()
