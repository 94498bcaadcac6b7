# The two commands: `make demo` and `make test`. Both need Python 3.10 or newer, g++ and make; they set up a
# virtual environment of their own, in .venv.
#
#   make docs                           the documentation, into out/docs
#   make lint                           formats, lint and types, mended where that can be done
#   make test-aarch64                   the C++ tests and checksums on aarch64, by qemu; part of test-long
#   make wheels                         a repaired wheel for each Python of WHEEL_PYTHONS and TORCH, into dist
#   make test-long                      what takes half an hour or more, the statistics of docs/proofs.md among it
#   make demo TORCH="torch==2.11.0"     another torch, in any form that pip takes
#   make demo PYTHON=python3.12         another Python
#
# Apart from them, `make fuzz` searches for inputs that break a promise, FUZZ_SECONDS (half an hour) for each fuzzer;
# it needs clang++ besides. The first such input ends it and lies in out/fuzz/crashes then; FUZZ_FLAGS are libFuzzer's.

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
WHEEL_PYTHONS ?= $(PYTHON)
OUT ?= out
FUZZ_SECONDS ?= 1800
FUZZ_FLAGS ?=

# A pipe fails where any part of it does.
SHELL := bash
.SHELLFLAGS := -o pipefail -c

# Where ccache is installed, what was compiled once is not compiled again.
export CMAKE_CXX_COMPILER_LAUNCHER ?= $(shell command -v ccache)

BIN := $(VENV)/bin
TOOLS := "setuptools>=77,<90" "cmake>=3.24,<5" "ninja>=1.11" "pybind11>=2.13,<4" wheel
# Everything a build depends on, but what it writes itself.
SOURCES := $(shell find csrc cmake gumbel_ext -type f -not -path '*/__pycache__/*' -not -path 'gumbel_ext/lib/*' \
             -not -path 'gumbel_ext/include/*' -not -name '*.so') CMakeLists.txt setup.py pyproject.toml
# A change of TORCH or PYTHON means another environment.
STAMP := $(VENV)/.$(shell printf '%s' "$(PYTHON) $(TORCH)" | cksum | cut -d' ' -f1)

.PHONY: demo test test-long test-aarch64 build docs lint fuzz wheels clean

demo: build
	$(BIN)/python examples/discrete_vae.py --out $(OUT)
	$(BIN)/python examples/simplex.py --out $(OUT)/simplex.png

test: build
	$(BIN)/python -m pytest

# Tests marked `long`, those of other people's models among them, then aarch64, then the statistics of docs/proofs.md (with
# `dieharder` where it is installed).
test-long: build
	$(BIN)/python -m pip install --quiet --group models --group sass
	$(BIN)/python -m pytest -m long
	$(MAKE) test-aarch64
	cd tests && $(abspath $(BIN))/python -m randomness

build: $(STAMP)-built

docs: build
	$(BIN)/python -m pip install --quiet --group docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs $(OUT)/docs
	@echo "$(OUT)/docs/index.html"

lint: $(STAMP)-torch
	$(BIN)/python -m pip install --quiet --group lint
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pre-commit run --all-files --show-diff-on-failure

test-aarch64: build
	PATH="$(abspath $(BIN)):$$PATH" PYTHON="$(abspath $(BIN))/python" tests/aarch64/run.sh

wheels:
	for python in $(WHEEL_PYTHONS); do tools/make_wheel.sh $$python "$(TORCH)" dist || exit 1; done

fuzz: $(STAMP)-torch
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B build/fuzz -G Ninja -DCMAKE_CXX_COMPILER=clang++ \
	  -DGUMBEL_EXT_FUZZ=ON -DGUMBEL_EXT_FORCE_CPU=ON \
	  -DCMAKE_PREFIX_PATH="$$($(BIN)/python -c 'import torch; print(torch.utils.cmake_prefix_path)')"
	$(BIN)/cmake --build build/fuzz
	$(BIN)/python tests/fuzz/seeds.py $(OUT)/fuzz/corpus
	mkdir -p $(OUT)/fuzz/crashes
	for name in frames api; do build/fuzz/tests/fuzz/$${name}_fuzzer -max_total_time=$(FUZZ_SECONDS) -max_len=1024 \
	  -malloc_limit_mb=64 -artifact_prefix=$(OUT)/fuzz/crashes/$$name- $(FUZZ_FLAGS) $(OUT)/fuzz/corpus/$$name \
	  || exit 1; done

$(STAMP)-torch:
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install $(TORCH)
	$(BIN)/python -m pip install $(TOOLS)
	touch $@

$(STAMP)-built: $(STAMP)-torch $(SOURCES)
	@mkdir -p $(OUT)
	@echo "Compiling: on two cores some five minutes. All that the build says goes to $(OUT)/build.log."
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install -v --no-build-isolation -e ".[demo,test]" 2>&1 \
	  | tee $(OUT)/build.log | sed -un 's/^ *\(\[[0-9]*\/[0-9]*\] \)/\1/p; /^ *\(error\|ERROR\|CMake Error\)/p' \
	  || { tail -40 $(OUT)/build.log; exit 1; }
	touch $@

clean:
	rm -rf $(VENV) $(OUT) build dist *.egg-info gumbel_ext/lib gumbel_ext/include gumbel_ext/*.so
