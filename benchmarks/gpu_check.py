"""The proof on a GPU, in one command: tests, compute-sanitizer, speeds.

    python benchmarks/gpu_check.py --out DIR                  # the installed package, built with CUDA kernels
    python benchmarks/gpu_check.py --out DIR --library FILE   # a libgumbel_ext.so built elsewhere for this torch
    python benchmarks/gpu_check.py --out DIR --build          # builds it here, with pip

DIR gets tests.txt, sanitizer-*.txt, gpu.json (all figures, with device, driver, torch and commit), gpu.txt (the same
as a table, predictions of tools/sass_table.py beside what was measured) and gpu.png. The exit status is 0 where every
test passed and no kernel was found at fault; a speed that misses its target is reported, and is no failure.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests" / "test_cuda.py"
#: Forward and backward against torch's own, from the smallest call up.
COMPARED = ("hard 1x10", "hard 1024x10", "hard 65536x32", "hard 4096x1024", "hard 256x50257", "hard 16x151936",
            "relaxed 4096x1024", "index 1x10", "index 256x50257", "index 16x151936", "softmax 4096x1024",
            "hard dim=1 64x512x32x32")  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--library", type=Path, metavar="FILE", help="a libgumbel_ext.so for the torch that is here")
    source.add_argument("--build", action="store_true", help="build and install the package first")
    parser.add_argument("--skip", default="", metavar="PARTS", help="of tests,sanitizer,speed: what to leave out")
    parser.add_argument("--quick", action="store_true", help="small tensors and few rounds: to try the command")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the command without a GPU"
    )
    return parser.parse_args()


def _output(*command: str | Path) -> str:
    """What a command prints, or nothing where it cannot be run."""
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    except OSError:
        return ""


def facts(device: str) -> dict[str, Any]:
    """Where the figures come from."""
    import torch

    import gumbel_ext

    return {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gumbel_ext": gumbel_ext.build_info(),
        "commit": _output("git", "rev-parse", "HEAD"),
        "changed": bool(_output("git", "status", "--porcelain")),
    }


def run_logged(log: Path, *command: str | Path) -> bool:
    """Whether the command succeeded; its output goes to the file and to the terminal as it comes."""
    print(f"$ {' '.join(map(str, command))}", flush=True)
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            sys.stdout.write(line)
            sys.stdout.flush()
        return process.wait() == 0


def run_tests(out: Path) -> dict[str, bool]:
    return {
        "tests": run_logged(out / "tests.txt", sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", TESTS)
    }


def run_sanitizer(out: Path) -> dict[str, bool]:
    """Every kernel once under each tool, where they are installed."""
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        print("compute-sanitizer: not found, not run")
        return {}
    os.environ["PYTHONPATH"] = str(ROOT)
    # Tensors in blocks of their own: the caching allocator's segments would hide what lies beyond one.
    os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    return {
        tool: run_logged(
            out / f"sanitizer-{tool}.txt",
            sanitizer,
            "--tool",
            tool,
            "--report-api-errors",
            "no",
            "--error-exitcode",
            "9",
            sys.executable,
            TESTS,
            "smoke",
        )
        for tool in ("memcheck", "racecheck", "synccheck")
    }


def run_speed(out: Path, device: str, quick: bool, about: dict[str, Any]) -> dict[str, Any]:
    """The share of a copy's bandwidth, and the ratios to torch eager, torch.compile and torch.multinomial."""
    from benchmarks import bandwidth, measure, report
    from benchmarks.cases import CASES

    lines = [f"{about['device']}, driver {about['driver']}, torch {about['torch']}, commit {about['commit']}"]
    shares = bandwidth.shares(device, quick)
    lines += [share.line() for share in shares]
    bandwidth.chart(out / "gpu.png", shares, lines[0][:90])
    print("\n".join(lines), flush=True)
    chosen = [case for case in CASES if case.name in COMPARED and (not quick or case.logits < 1e6)]
    rows = []
    for case in chosen:
        rows.append(measure.run(case, measure.QUICK if quick else measure.Effort(seconds=3.0), device))
        lines.append(report.table(rows[-1]))
        print(lines[-1], flush=True)
    (out / "gpu.txt").write_text("\n".join(lines) + "\n")
    recorded = report.record(rows, [], {}, about["date"])["rows"]
    right = not any(row.wrong for row in rows)
    return {"bandwidth": [share.record() for share in shares], "rows": recorded, "results are right": right}


def main() -> int:
    arguments = _arguments()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if arguments.library:
        os.environ["GUMBEL_EXT_LIBRARY"] = str(arguments.library.resolve(strict=True))
    if arguments.build:
        pip = (sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "-e", ROOT)
        os.environ["FORCE_CUDA"] = "1"
        if not run_logged(out / "build.txt", *pip):
            return 1
    sys.path.insert(0, str(ROOT))
    about = facts(arguments.device)
    if arguments.device == "cuda" and not about["gumbel_ext"]["cuda"]:
        print("this gumbel_ext has no CUDA kernels: name a library with --library, or build one with --build")
        return 2
    skipped = set(filter(None, arguments.skip.split(",")))
    passed: dict[str, bool] = {}
    if "tests" not in skipped:
        passed |= run_tests(out)
    if "sanitizer" not in skipped:
        passed |= run_sanitizer(out)
    speed = {} if "speed" in skipped else run_speed(out, arguments.device, arguments.quick, about)
    result = about | {"passed": passed} | speed
    (out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"passed: {passed}; wrote {out}")
    return 0 if all(passed.values()) and speed.get("results are right", True) else 1


if __name__ == "__main__":
    sys.exit(main())
