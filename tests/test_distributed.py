"""Rows whose classes lie on several processes, and DTensors: what processes find together is what one finds alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import ranks
from commands import ROOT, run

WORLDS = [pytest.param(1, marks=pytest.mark.long), 2, 3, pytest.param(4, marks=pytest.mark.long)]
FAILS = """
import datetime, sys, time, torch, torch.distributed as dist
from gumbel_ext import distributed
rank, file = int(sys.argv[1]), sys.argv[2]
dist.init_process_group(
    "gloo", rank=rank, world_size=2, init_method=file, timeout=datetime.timedelta(seconds=3)
)
try:
    distributed.gumbel_max(torch.zeros(2, 3), -1.0 if rank else 1.0, class_offset=3 * rank, seed=1)
except ValueError as error:
    print(error, flush=True)
    time.sleep(8)  # alive, but it never sends anything
except RuntimeError as error:
    print("gave up", flush=True)
"""


def outputs(*commands: list[str], timeout: float) -> list[str]:
    """The last line of each, all running at once."""
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    try:
        return [run.communicate(timeout=timeout)[0].strip().splitlines()[-1] for run in runs]
    finally:
        for run in runs:
            run.kill()


@pytest.fixture(scope="module", params=WORLDS, ids=lambda world: f"{world} processes")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str | None]]:
    """What each process says of each case."""
    world, file = request.param, tmp_path_factory.mktemp("ranks") / "store"
    commands = [[sys.executable, ranks.__file__, str(rank), str(world), str(file)] for rank in range(world)]
    return [json.loads(line) for line in outputs(*commands, timeout=900)]


@pytest.mark.parametrize("case", [case.__name__ for case in ranks.CASES])
def test_processes_agree_with_one(outcomes: list[dict[str, str | None]], case: str) -> None:
    for rank, outcome in enumerate(outcomes):
        assert case in outcome, f"process {rank} did not come to this case"
        assert outcome[case] is None, f"process {rank}: {outcome[case]}"


def test_a_process_that_fails_leaves_none_waiting(tmp_path: Path) -> None:
    """Beyond the group's timeout, that is."""
    commands = [[sys.executable, "-c", FAILS, str(rank), (tmp_path / "store").as_uri()] for rank in range(2)]
    other, failed = outputs(*commands, timeout=60)
    assert "temperature: expected a finite number that is not negative, got -1" in failed
    assert other == "gave up"


@pytest.mark.long
def test_a_served_model_says_the_same_on_any_number_of_processes() -> None:
    """The example, as its command: its tokens, and a table of what is sent."""
    example = ROOT / "examples" / "vocabulary_parallel.py"
    arguments = ["--tokens", "6", "--vocabulary", "5003", "--repeats", "1"]

    def printed(processes: int) -> list[str]:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        return [line for line in run(*launcher, example, *arguments).splitlines() if line]

    one, two = printed(1), printed(2)
    tokens = [line for line in one if line.startswith("request")]
    assert len(tokens) == 4 and tokens == [line for line in two if line.startswith("request")]
    assert any(line.startswith("| 64 | 8 | 10004 |") or line.startswith("| 64 | 8 | 10008 |") for line in two)


@pytest.mark.parametrize("imports", ["gumbel_ext, torch.distributed.tensor", "torch.distributed.tensor, gumbel_ext"])
def test_dtensors_are_known_whichever_is_imported_first(imports: str) -> None:
    """And `import gumbel_ext` alone does not import them, which takes a second."""
    program = f"import {imports}, sys; print('gumbel_ext._dtensor' in sys.modules)"
    assert run(sys.executable, "-c", program) == "True\n"
    program = "import gumbel_ext, sys; print('torch.distributed.tensor' in sys.modules)"
    assert run(sys.executable, "-c", program) == "False\n"
