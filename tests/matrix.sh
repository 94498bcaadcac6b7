#!/usr/bin/env bash
# Builds and tests the package for several torches and compilers, the newest torch first, each in an environment of its
# own under out/matrix; writes a table of what came out.
#
#   tests/matrix.sh                      the torches of TORCHES by g++, their CPU kernels, and a part of the tests
#   TORCHES="2.13.0 2.12.1" COMPILERS="g++ clang++" tests/matrix.sh
#   CUDA=1 tests/matrix.sh               with the CUDA kernels (needs nvcc)
#   tests/matrix.sh -m ""                what follows goes to pytest, in place of the part: here, all tests
set -euo pipefail
cd "$(dirname "$0")/.."

read -ra torches <<<"${TORCHES:-2.15.0 2.14.1 2.13.0 2.12.1 2.11.0}"
read -ra compilers <<<"${COMPILERS:-g++}"
tests=("$@")
[ $# -gt 0 ] || tests=(test_values.py test_indices.py test_noise.py test_autograd.py test_contexts.py test_compile.py
  test_vmap.py test_drop_in.py test_kinds_of_tensors.py test_distributions.py test_ops.py test_exceptions.py
  test_argument_types.py test_memory.py)
folder=$PWD/out/matrix table=$PWD/out/matrix/table.md
mkdir -p "$folder"
printf '| torch | compiler | kernels | outcome | date |\n|---|---|---|---|---|\n' >"$table"

# attempt NAME COMMAND...: its output goes to a file of that name.
attempt() {
  local name=$1
  shift
  "$@" >"$folder/$name.log" 2>&1
}

row() {
  local torch=$1 compiler=$2 name="torch-$1-$2${CUDA:+-cuda}" outcome
  local bin=$folder/torch-$torch/bin
  echo "torch $torch, $compiler${CUDA:+, CUDA}: see $folder/$name-*.log" >&2
  if [ ! -x "$bin/pytest" ]; then
    python3 -m venv "$folder/torch-$torch"
    attempt "$name-torch" "$bin/pip" install "torch==$torch" "setuptools>=77,<90" "cmake>=3.24,<5" ninja \
      "pybind11>=2.13,<4" wheel "pytest>=8" "hypothesis>=6" "scipy>=1.11" "numpy>=1.26" "mpmath>=1.3" ||
      { echo "cannot be installed here"; return; }
  fi
  local before after
  before=$("$bin/pip" freeze | grep '^torch==')
  PATH="$bin:$PATH" CXX=$compiler FORCE_CPU=$((1 - ${CUDA:-0})) FORCE_CUDA=${CUDA:-0} attempt "$name-build" \
    "$bin/pip" install -v --no-build-isolation . || { echo "does not build"; return; }
  after=$("$bin/pip" freeze | grep '^torch==')
  [ "$before" = "$after" ] || { echo "replaced $before by $after"; return; }
  (cd tests && attempt "$name-tests" "$bin/pytest" -q -p no:cacheprovider "${tests[@]}") || true
  outcome=$(tail -1 "$folder/$name-tests.log")
  echo "${outcome//=/}"
}

for torch in "${torches[@]}"; do
  for compiler in "${compilers[@]}"; do
    outcome=$(row "$torch" "$compiler")
    printf '| %s | %s | %s | %s | %s |\n' "$torch" "$("$compiler" --version | head -1)" "CPU${CUDA:+ and CUDA}" \
      "$outcome" "$(date +%F)" | tee -a "$table"
  done
done
