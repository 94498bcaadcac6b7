"""Every shell command of the README and of the documentation runs: page by page, in the order of the table of contents,
from an empty folder, as a reader would type them."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch
from commands import ROOT, run

#: Commands that are not run here, and why.
NOT_RUN = {
    "make test": "would run this file again",
    "make test-long": "would run this test again",
    "make test-aarch64": "a part of `make test-long`, which fetches half a gigabyte and compiles for another processor",
    "make fuzz": "half an hour a fuzzer, by clang++",
    'cmake -B build/cuda -G Ninja -DCMAKE_PREFIX_PATH=FOLDER_OF_A_CUDA_TORCH -DCMAKE_CUDA_FLAGS="-Xptxas -v"': (
        "needs nvcc and a CUDA build of torch; test_cuda_build.py does the same"
    ),
    "cmake --build build/cuda -v 2>&1 | python tools/ptxas_table.py": "as above",
    "python tools/sass_table.py": "needs nvcc and nvdisasm; test_cuda_build.py does the same",
}

#: What a reader fills in.
STANDS_FOR = {"<this repository>": str(ROOT)}


def pages() -> dict[str, str]:
    """The README and the pages in the order of the table of contents, each with what it includes."""
    index = (ROOT / "docs" / "index.md").read_text()
    trees = "\n".join(block for language, block in blocks(index) if language == "{toctree}")
    paths = [ROOT / "docs" / f"{name}.md" for name in re.findall(r"^\w+$", trees, re.MULTILINE)]
    include = re.compile(r"^```\{include\} (\S+)\n```", re.MULTILINE)
    return {
        path.name: include.sub(lambda found, path=path: (path.parent / found[1]).read_text(), path.read_text())
        for path in (ROOT / "README.md", ROOT / "docs/index.md", *paths)
    }


def blocks(page: str) -> list[tuple[str, str]]:
    return re.findall(r"^```([^\n]*)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def files(page: str) -> list[tuple[str, str]]:
    """Each block whose name stands before it, as in: `main.cpp`."""
    return re.findall(r"`(\w+\.\w+)`[,:]\n\n```\w+\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[tuple[str, str | None]]:
    """The lines of the blocks that are a shell's, without comments; where a block has prompts, a command is what stands
    behind one, and goes with what it prints."""
    found: list[tuple[str, str | None]] = []
    for language, block in blocks(page):
        if language not in ("", "sh", "bash", "console"):
            continue
        if block.startswith("$ "):
            found += re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
        else:
            found += [(re.sub(r"\s+#.*", "", line), None) for line in block.splitlines() if line]
    return found


def script(page: str) -> str:
    lines = ["set -exo pipefail"]
    for command, printed in commands(page):
        for words, filled in STANDS_FOR.items():
            command = command.replace(words, filled)
        if printed is not None:
            command = f"diff <({command}) - <<'END'\n{printed}END"
        if command not in NOT_RUN:
            lines.append(command)
    return "\n".join(lines)


def test_what_is_not_run_stands_in_the_documentation() -> None:
    assert NOT_RUN.keys() <= {command for page in pages().values() for command, _ in commands(page)}


@pytest.mark.long
@pytest.mark.skipif(
    not (ROOT / ".git").exists() or not all(map(shutil.which, ("git", "make", "g++", "valgrind"))),
    reason="needs a clone of the repository, make, g++ and valgrind",
)
def test_commands_run_in_the_order_of_reading(tmp_path: Path) -> None:
    """The code is that of the last commit. A page is one shell; but for the README's, which begins with nothing, it
    stands in the clone, in the environment that the README has made. Beside the clone, the files that a page shows."""
    home, app = tmp_path / "home", tmp_path / "app"
    for folder in (home, app):
        folder.mkdir()
    (home / "libtorch").symlink_to(Path(torch.__file__).parent)
    own = sysconfig.get_path("scripts")
    environment = {name: os.environ[name] for name in os.environ if name not in ("PYTHONPATH", "VIRTUAL_ENV")} | {
        "HOME": str(home),
        "PATH": os.pathsep.join(folder for folder in os.environ["PATH"].split(os.pathsep) if folder != own),
        # What was fetched or compiled once is not again.
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
        "CCACHE_NOHASHDIR": "1",
        **({"CMAKE_CXX_COMPILER_LAUNCHER": "ccache"} if shutil.which("ccache") else {}),
    }
    for name, page in pages().items():
        for file, content in files(page):
            (app / file).write_text(content)
        begin = "" if name == "README.md" else "cd gumbel_ext && . .venv/bin/activate\n"
        done = subprocess.run(
            ["bash", "-c", begin + script(page)],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{name}:\n{done.stdout[-20000:]}"
    assert "??" not in run("git", "status", "--short", cwd=tmp_path / "gumbel_ext").split(), "no command leaves files"
