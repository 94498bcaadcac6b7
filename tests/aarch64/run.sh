#!/usr/bin/env bash
# The library on aarch64, cross-compiled against torch's wheel and executed by qemu's user mode: the C++ tests; the
# checksums of tests/cpp/checksums.cpp on each instruction set, which have to be this machine's; and instructions a logit.
#
#   tests/aarch64/run.sh [TORCH]         as in: tests/aarch64/run.sh 2.13.0
#
# Torch has no CPU build of its own for aarch64 on the package index: its CUDA build names CUDA's runtime and profiler,
# which are fetched beside it. It reads /proc/cpuinfo, where an ARM's has to stand: in a mount namespace of its own.
set -euo pipefail
cd "$(dirname "$0")/../.."
torch=${1:-2.13.0} folder=$PWD/out/aarch64
python=${PYTHON:-python3}
for tool in qemu-aarch64 aarch64-linux-gnu-g++ unshare unzip cmake ninja gcc; do
  command -v "$tool" >/dev/null || {
    echo "aarch64: expected $tool (Debian: apt install qemu-user g++-aarch64-linux-gnu unzip; pip install cmake ninja)" >&2
    exit 1
  }
done
mkdir -p "$folder"

fetch() {
  local platforms=()
  for glibc in 17 24 25 26 27 28 31 34; do platforms+=(--platform "manylinux_2_${glibc}_aarch64"); done
  "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 311 "${platforms[@]}" \
    --platform manylinux2014_aarch64 --dest "$folder/wheels" "$@"
}
if [ ! -e "$folder/torch-$torch/torch/version.py" ]; then
  echo "aarch64: fetching torch $torch, half a gigabyte" >&2
  fetch "torch==$torch" "nvidia-cuda-runtime>=13.0,<13.1" "nvidia-cuda-cupti>=13.0,<13.1"
  for wheel in "$folder"/wheels/*.whl; do
    unzip -q -o "$wheel" 'torch/include/*' 'torch/share/*' 'torch/lib/lib*' 'nvidia/*/lib/*' 'torch/version.py' \
      -d "$folder/torch-$torch" 2>/dev/null || [ $? = 11 ] # a pattern that has no match
  done
  rm -r "$folder/wheels"
fi
arm_torch=$folder/torch-$torch/torch cuda=$folder/torch-$torch/nvidia/cu13/lib

cat >"$folder/cpuinfo" <<END
processor	: 0
Features	: fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x3
CPU part	: 0xd0c
CPU revision	: 1

END
cat >"$folder/toolchain.cmake" <<END
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_EXE_LINKER_FLAGS_INIT "-Wl,-rpath-link,$cuda")
set(CMAKE_CROSSCOMPILING_EMULATOR "qemu-aarch64;-L;/usr/aarch64-linux-gnu;-E;LD_LIBRARY_PATH=$cuda:$arm_torch/lib")
END
on_arm() {
  unshare --map-root-user --mount bash -c 'mount --bind "$0" /proc/cpuinfo && exec "$@"' "$folder/cpuinfo" "$@"
}
build() {
  local to=$folder/$1
  shift
  cmake -S . -B "$to" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGUMBEL_EXT_FORCE_CPU=ON -DGUMBEL_EXT_WERROR=ON \
    -DGUMBEL_EXT_TESTS=ON "$@" >"$to.log" 2>&1 && cmake --build "$to" >>"$to.log" 2>&1 || { tail -40 "$to.log"; exit 1; }
}

echo "aarch64: compiling for it, and for this machine" >&2
build arm -DCMAKE_TOOLCHAIN_FILE="$folder/toolchain.cmake" -DCMAKE_PREFIX_PATH="$arm_torch"
build here -DGUMBEL_EXT_CPU_ISAS= -DGUMBEL_EXT_OPTIMIZATION=-O1 \
  -DCMAKE_PREFIX_PATH="$("$python" -c 'import torch; print(torch.utils.cmake_prefix_path)')"
aarch64-linux-gnu-g++ -static -O1 -std=c++20 -ffp-contract=off -Wno-psabi -DGUMBEL_EXT_ISA=neon -DGUMBEL_EXT_NEON \
  -o "$folder/elementary" tests/aarch64/elementary.cpp
qemu-aarch64 "$folder/elementary"
on_arm ctest --test-dir "$folder/arm" --output-on-failure

sums() { # ISA PLUGIN-OPTIONS ARGUMENTS of checksums
  local isa=$1 options=$2
  shift 2
  # shellcheck disable=SC2086
  on_arm qemu-aarch64 $options -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH="$cuda:$arm_torch/lib" \
    -E GUMBEL_EXT_CPU_ISA="$isa" -E OMP_NUM_THREADS=1 "$folder/arm/tests/cpp/checksums" "$@"
}
"$folder/here/tests/cpp/checksums" >"$folder/here.txt"
for isa in neon plain; do
  sums $isa "" >"$folder/$isa.txt" 2>"$folder/$isa.log" || { cat "$folder/$isa.log"; exit 1; }
  cmp "$folder/here.txt" "$folder/$isa.txt"
  echo "aarch64, $isa: $(wc -l <"$folder/$isa.txt") checksums are those of $(uname -m)"
done

gcc -shared -fPIC -O1 -o "$folder/count.so" tests/aarch64/count_instructions.c
count() { # what 512 rows of 1024 classes more cost
  local few many
  few=$(sums neon "-plugin $folder/count.so" "$1" 128 2>&1 | sed -n 's/^instructions //p')
  many=$(sums neon "-plugin $folder/count.so" "$1" 640 2>&1 | sed -n 's/^instructions //p')
  echo $((many - few))
}
inputs=$(count inputs)
relaxed=$(count relaxed)
for operation in noise index hard relaxed backward softmax; do
  besides=$inputs
  [ $operation != backward ] || besides=$relaxed
  "$python" tests/aarch64/row.py $operation $(($(count $operation) - besides))
done
