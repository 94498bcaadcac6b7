"""``python -m benchmarks``: gumbel_ext beside its peers, as a table, a JSON record and a chart."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few rows and peers: under a minute")
    parser.add_argument("--rows", nargs="+", metavar="SUBSTRING", help="only rows whose name contains one of these")
    parser.add_argument("--list", action="store_true", help="print the names of the rows and stop")
    parser.add_argument("--threads", type=int, metavar="N", help="use N processor cores (default: all)")
    parser.add_argument("--seconds", type=float, metavar="S", help="timing a row (default: 6, quick: 0.5)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="the record (default: benchmarks/results/DATE-DEVICE.json for a whole run, none for a part)",
    )
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw the chart, a PNG")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="print what changed since then")
    return parser.parse_args()


def _use_threads(count: int) -> None:
    """Before torch and JAX are imported: both ask the system how many cores they may use."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if not 1 <= count <= len(cores):
            sys.exit(f"--threads: expected 1 to {len(cores)}, got {count}")
        os.sched_setaffinity(0, cores[:count])
    os.environ["OMP_NUM_THREADS"] = str(count)


def _chosen(arguments: argparse.Namespace, cases: list[Any]) -> list[Any]:
    """The rows asked for: by exact name, else by a part of it; all of them, or the quick ones."""
    if arguments.rows:
        exact = [case for case in cases if case.name in arguments.rows]
        return exact or [case for case in cases if any(part in case.name for part in arguments.rows)]
    return [case for case in cases if case.quick or not arguments.quick]


def _target(arguments: argparse.Namespace, date: str) -> Path | None:
    """Where the record goes; part of a run does not take the place of a whole one."""
    if arguments.json or arguments.quick or arguments.rows:
        return arguments.json
    return RESULTS / f"{date}-{arguments.device}.json"


def main() -> int:
    arguments = _arguments()
    if arguments.threads is not None:
        _use_threads(arguments.threads)
    warnings.filterwarnings("ignore", module=r"torch\.")

    # Only now, so that the number of threads is heeded.
    from tqdm import tqdm

    from benchmarks import measure, report
    from benchmarks.cases import CASES

    cases = [case for case in CASES if arguments.device == "cpu" or not case.cpu_only]
    chosen = _chosen(arguments, cases)
    if arguments.list or not chosen:
        print("\n".join(case.name for case in (chosen or cases)))
        return 0 if chosen else 2
    old = json.loads(arguments.compare.read_text()) if arguments.compare else None
    effort = measure.QUICK if arguments.quick else measure.Effort()
    if arguments.seconds:
        effort = dataclasses.replace(effort, seconds=arguments.seconds)

    facts, load = report.environment(arguments.device), measure.Load()
    ceilings = measure.ceilings(dataclasses.replace(effort, seconds=min(effort.seconds, 2.0)))
    if arguments.device == "cpu":
        ceilings += measure.part_ceilings()
    print(report.header(facts, ceilings), flush=True)
    rows = []
    progress = tqdm(chosen, unit="row", dynamic_ncols=True, disable=None)
    for case in progress:
        progress.set_postfix_str(case.name)
        rows.append(measure.run(case, effort, arguments.device))
        tqdm.write("\n" + report.table(rows[-1]))
        sys.stdout.flush()
    facts |= {"seconds": round(load.seconds(), 1), "others_share": load.others()}
    print(f"\n{report.summary(rows, facts)}")

    date = datetime.date.today().isoformat()
    if target := _target(arguments, date):
        report.write(target, report.record(rows, ceilings, facts, date))
        print(f"wrote {target}")
    if arguments.chart:
        report.chart(arguments.chart, rows, facts)
        print(f"wrote {arguments.chart}")
    if old:
        print(f"\n{report.compare(rows, old)}")
    return 1 if any(row.wrong for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
