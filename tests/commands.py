"""Commands that the tests run as a user's shell would: with the programs that lie beside this Python found first."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {"PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"}

needs_build_tools = pytest.mark.skipif(
    not all(shutil.which(tool, path=ENVIRONMENT["PATH"]) for tool in ("cmake", "ninja", "g++")),
    reason="needs cmake, ninja and g++",
)


def attempt(
    *command: object, cwd: Path | None = None, stdin: bytes = b"", **variables: str
) -> subprocess.CompletedProcess[str]:
    """The command's end, whatever it is; `variables` are of its environment."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=ENVIRONMENT | variables, input=stdin, capture_output=True)
    return subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(), done.stderr.decode())


def run(*command: object, cwd: Path | None = None, stdin: bytes = b"", **variables: str) -> str:
    """What the command printed; it has to succeed."""
    done = attempt(*command, cwd=cwd, stdin=stdin, **variables)
    assert done.returncode == 0, f"{' '.join(done.args)}\n{done.stdout[-20000:]}\n{done.stderr[-20000:]}"
    return done.stdout


def configure_command(source: Path, build: Path, **cache: object) -> list[object]:
    """The command that configures a CMake project with these cache variables."""
    return ["cmake", "-S", source, "-B", build, "-G", "Ninja", *(f"-D{key}={value}" for key, value in cache.items())]
