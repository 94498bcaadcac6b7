"""The library without Python: its C++ tests, its CMake package, and the programs of examples/cpp.

The programs are built along every way a C++ project may take: within the source tree (FetchContent), against what
`cmake --install` leaves, and against the installed Python package.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from commands import ROOT, attempt, configure_command, needs_build_tools, run

import gumbel_ext

PROGRAMS = ROOT / "tests" / "cpp" / "examples"
DIGIT = ROOT / "examples" / "cpp" / "digit.pgm"
TORCH = torch.utils.cmake_prefix_path

pytestmark = needs_build_tools


def configure(source: Path, build: Path, prefixes: list[str], **variables: object) -> str:
    cache = {"CMAKE_BUILD_TYPE": "Release", "CMAKE_PREFIX_PATH": ";".join(prefixes)} | variables
    return run(*configure_command(source, build, **cache))


@pytest.fixture(scope="session")
def source_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one build of the library, within a project that fetches its source; with the C++ tests. Its CPU
    kernels are the plain ones, compiled in a fraction of the time, to the same bits."""
    build = tmp_path_factory.mktemp("source")
    options = {"GUMBEL_EXT_SOURCE": ROOT, "GUMBEL_EXT_TESTS": "ON", "GUMBEL_EXT_OPTIMIZATION": "-O1"}
    options["GUMBEL_EXT_CPU_ISAS"] = ""
    configure(PROGRAMS, build, [TORCH], **options, EXAMPLES="direct")
    run("cmake", "--build", build)
    return build


@pytest.fixture(scope="session")
def installed(source_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `cmake --install` leaves, moved, for nothing in it may say where it was."""
    folder = tmp_path_factory.mktemp("installed")
    run("cmake", "--install", source_build, "--prefix", folder / "first")
    return (folder / "first").rename(folder / "moved")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's digits model after a short training, for TorchScript and for AOTInductor."""
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("models")
    examples = ROOT / "examples"
    run(sys.executable, examples / "discrete_vae.py", "--quick", "--out", folder, "--save", folder / "model.pt")
    run(sys.executable, examples / "cpp" / "aotinductor" / "export.py", folder / "model.pt", folder / "model.pt2")
    return folder


@pytest.fixture(scope="session")
def programs(installed: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All programs, against the install tree."""
    build = tmp_path_factory.mktemp("programs")
    configure(PROGRAMS, build, [str(installed), TORCH], MODELS=models)
    run("cmake", "--build", build)
    return build


@pytest.fixture(scope="session")
def package_programs(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of them against the Python package, editable or not."""
    build = tmp_path_factory.mktemp("package")
    configure(PROGRAMS, build, [gumbel_ext.cmake_prefix_path], EXAMPLES="direct;aotinductor", MODELS=models)
    run("cmake", "--build", build)
    return build


def test_the_cpp_tests_pass(source_build: Path) -> None:
    run("ctest", "--test-dir", source_build / "_deps" / "gumbel_ext-build", "--output-on-failure")


@pytest.mark.parametrize("way", ["source_build", "programs", "package_programs"])
def test_the_programs_run(way: str, request: pytest.FixtureRequest) -> None:
    run("ctest", "--test-dir", request.getfixturevalue(way), "--output-on-failure", "--no-tests=error")


@pytest.mark.parametrize("way", ["source_build", "programs", "package_programs"])
def test_the_indices_are_those_of_python(way: str, request: pytest.FixtureRequest) -> None:
    printed = run(request.getfixturevalue(way) / "direct" / "direct")
    logits = (torch.arange(20.0).view(4, 5) * 0.7).sin() * 2
    temperatures = torch.tensor([0.0, 0.5, 1.0, 2.0])[:, None]
    for line, indices in {
        "gumbel_max": gumbel_ext.gumbel_max(logits, seed=42),
        "three draws": gumbel_ext.gumbel_max(logits, num_samples=3, seed=42).flatten(),
        "per row": gumbel_ext.gumbel_max(logits, temperatures, seed=torch.arange(4)),
    }.items():
        assert f"{line} {indices.tolist()}\n" in printed


def read_pgm(path: Path) -> torch.Tensor:
    _, width, height, largest, *pixels = path.read_text().split()
    return torch.tensor([int(pixel) for pixel in pixels]).view(int(height), int(width)) / int(largest)


@pytest.mark.parametrize("program", ["torchscript", "aotinductor"])
@pytest.mark.parametrize("seed", [0, 7, -(2**63)])
def test_the_digits_model_gives_the_codes_of_python(
    program: str, seed: int, programs: Path, models: Path, tmp_path: Path
) -> None:
    suffix = {"torchscript": "pt", "aotinductor": "pt2"}[program]
    printed = run(programs / program / program, models / f"model.{suffix}", DIGIT, seed, tmp_path / "out.pgm")
    image = read_pgm(DIGIT).view(1, -1)
    with torch.inference_mode():
        if program == "torchscript":
            model = torch.jit.load(models / "model.pt")
            codes = model.encode(image, seed)
            pixels = model.decode(codes)
        else:
            codes, pixels = torch._inductor.aoti_load_package(str(models / "model.pt2"))(image, torch.tensor(seed))
    assert printed == f"codes {' '.join(map(str, codes[0].tolist()))}\n"
    assert (read_pgm(tmp_path / "out.pgm").flatten() - pixels[0]).abs().max() <= 0.51 / 255


def test_no_python_in_the_process(programs: Path) -> None:
    for program in ("direct", "sample_server", "torchscript", "aotinductor"):
        assert not re.search(r"lib(torch_)?python\S*\.so", run("ldd", programs / program / program))


def test_an_unreadable_model_is_an_error_and_not_a_crash(programs: Path, tmp_path: Path) -> None:
    for arguments in ([tmp_path / "none", DIGIT], [DIGIT, DIGIT]):
        for program in ("torchscript", "aotinductor"):
            done = attempt(programs / program / program, *arguments, "0", tmp_path / "out.pgm")
            assert done.returncode == 1 and done.stderr


def test_only_the_documented_symbols_are_exported(installed: Path) -> None:
    listing = run("nm", "--dynamic", "--defined-only", "--demangle", next(installed.glob("lib*/libgumbel_ext.so")))
    names = {re.sub(r"[\[(].*", "", line.split(maxsplit=2)[2]) for line in listing.splitlines()}
    header = (ROOT / "csrc" / "gumbel_ext.h").read_text()
    documented = set(re.findall(r"^GUMBEL_EXT_API [\w:]+ (\w+)\(", header, flags=re.MULTILINE))
    assert names == {f"gumbel_ext::{name}" for name in documented}
    assert documented >= {"softmax", "straight_through", "gumbel_softmax", "gumbel_max", "gumbel_noise", "version"}


def test_nothing_installed_points_into_this_machine(installed: Path) -> None:
    files = [file for file in installed.rglob("*") if file.is_file()]
    assert {"gumbel_ext.h", "gumbel_extConfig.cmake", "libgumbel_ext.so"} <= {file.name for file in files}
    for file in files:
        content = file.read_bytes()
        for place in (ROOT, installed.parent, Path(TORCH).parents[1], sys.prefix):
            assert str(place).encode() not in content, f"{file} names {place}"


def user_project(folder: Path, lines: str) -> Path:
    (folder / "CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.24)\nproject(app LANGUAGES CXX)\n{lines}\n"
    )
    return folder


def refusal(*arguments: object) -> str:
    with pytest.raises(AssertionError) as error:
        configure(*arguments)
    return " ".join(str(error.value).split())


@pytest.mark.parametrize("wanted, fits", [("0.1", True), ("0.1.0", True), ("0.2", False), ("1.0", False)])
def test_a_version_may_be_asked_for(wanted: str, fits: bool, installed: Path, tmp_path: Path) -> None:
    project = user_project(tmp_path, f"find_package(gumbel_ext {wanted} REQUIRED)")
    if fits:
        configure(project, tmp_path / "build", [str(installed), TORCH])
    else:
        assert f'version "{wanted}"' in refusal(project, tmp_path / "build", [str(installed), TORCH])


def test_another_torch_is_refused(installed: Path, tmp_path: Path) -> None:
    other = tmp_path / "torch"
    for file in ("share/cmake/Torch/TorchConfig.cmake", "lib/libtorch_cpu.so", "lib/libc10.so"):
        (other / file).parent.mkdir(parents=True, exist_ok=True)
        (other / file).touch()
    (other / "share/cmake/Torch/TorchConfigVersion.cmake").write_text('set(PACKAGE_VERSION "1.13.1")\n')
    project = user_project(tmp_path, "find_package(gumbel_ext REQUIRED)")
    message = refusal(project, tmp_path / "build", [str(installed), str(other)])
    assert re.search(r"gumbel_ext \S+ was built for torch 2\.\d+ and cannot be linked with torch 1\.13\.1 in ", message)


def test_without_torch_the_error_says_what_to_set(installed: Path, tmp_path: Path) -> None:
    project = user_project(tmp_path, "find_package(gumbel_ext REQUIRED)")
    assert "torch.utils.cmake_prefix_path" in refusal(project, tmp_path / "build", [str(installed)])


@pytest.mark.parametrize("order", ["gumbel_ext Torch", "Torch gumbel_ext"])
def test_it_stands_beside_torchs_own_package(order: str, installed: Path, tmp_path: Path) -> None:
    if torch.version.cuda is not None:
        pytest.skip("find_package(Torch) of a CUDA build asks for a CUDA toolkit")
    lines = [f"find_package({package} REQUIRED)" for package in order.split()]
    link = "add_executable(app app.cpp)\ntarget_link_libraries(app PRIVATE gumbel_ext::gumbel_ext ${TORCH_LIBRARIES})"
    (tmp_path / "app.cpp").write_text("int main() {}")
    configure(user_project(tmp_path, "\n".join([*lines, link])), tmp_path / "build", [str(installed), TORCH])
