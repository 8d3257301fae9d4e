#!/usr/bin/env bash
# The operators of the CPU under sanitizers, which end the run with a report of what they find first:
#
#     dev/sanitize_operators.sh asan [PYTHON]
#     dev/sanitize_operators.sh tsan
#
# asan: addresses and undefined behaviour. The kernels are built once more in build/asan, with checks
# instead of optimisations, and dev/fuzz_operators.py runs on them; then the kernels for CUDA run so in
# their emulation, where there are headers of CUDA. The library in the checkout is not touched.
# LITE_FOCUS_PORTABLE leaves out AVX2 and AVX-512: the templates are the same, compiling them takes
# minutes each.
#
# tsan: races. dev/thread_sanitizer/run.cpp calls the operators from threads that start threads. It
# has no PyTorch, because the sanitizer knows nothing of the threads of an OpenMP library that was
# compiled without it.
#
# Both need GCC.
set -euo pipefail
cd "$(dirname "$0")/.."
MODE=${1:-}
PYTHON=${2:-.venv/bin/python}
folder=$PWD/build/$MODE

if [ "$MODE" = tsan ]; then
  rm -rf "$folder"
  mkdir -p "$folder"
  g++ -O0 -g1 -w -std=c++17 -fsanitize=thread -DLITE_FOCUS_PORTABLE -Ikernels \
    dev/thread_sanitizer/{run,threads}.cpp kernels/cpu/{portable,avx2,avx512,schedule,phases}.cpp -o "$folder/run"
  # Where the system places memory at random, the sanitizer may not find the places that it needs.
  TSAN_OPTIONS=halt_on_error=1 setarch --addr-no-randomize "$folder/run"
  exit
elif [ "$MODE" != asan ]; then
  echo "usage: $0 asan [PYTHON] | tsan" >&2
  exit 2
fi

flags="-fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=all"
preload=
for name in asan ubsan; do
  file=$(gcc -print-file-name="lib$name.so")
  test -e "$file" || { echo "GCC has no lib$name.so: install its sanitizers" >&2; exit 1; }
  preload+="$file "
done

# With -O1 compiling takes several times as long as without optimisations.
# -w: the compiler warns of every loop that it was asked to unroll and cannot.
rm -rf "$folder"
FORCE_CUDA=0 ONNXRUNTIME_INCLUDE=none CUDA_VISIBLE_DEVICES='' LDFLAGS="$flags" \
  LITE_FOCUS_DETR_CXXFLAGS="-DLITE_FOCUS_PORTABLE -O0 -g1 -w $flags" \
  "$PYTHON" setup.py --quiet build --build-lib "$folder/lib" --build-temp "$folder/temp"

# What Python and PyTorch never free is no finding. Python's own memory is checked as well.
export ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export PYTHONPATH=$folder/lib PYTHONMALLOC=malloc CUDA_VISIBLE_DEVICES='' OMP_NUM_THREADS=2

# Without the kernels the reference would be compared with itself.
LD_PRELOAD=$preload "$PYTHON" - "$folder" <<'CHECK'
import sys
from pathlib import Path

from lite_focus_detr import ops

library = Path(ops.__file__).with_name("_cpu.so")
assert library.is_relative_to(sys.argv[1]), f"{library} was not built here"
assert ops.backend("cpu") == "cpu", ops.unavailable_reason("cpu")
assert b"__ubsan_handle" in library.read_bytes(), f"{library} has no checks"
CHECK

LD_PRELOAD=$preload "$PYTHON" dev/fuzz_operators.py --problems "${PROBLEMS:-2000}"

# What takes longest has no code of its own.
LITE_FOCUS_DETR_EMULATION_FLAGS="-O0 -g1 -w $flags" OMP_NUM_THREADS=1 LD_PRELOAD=$preload \
  "$PYTHON" -m pytest -q -x -p no:cacheprovider tests/ops/test_cuda_emulation.py \
  -k "${EMULATION_TESTS:-not (100_orders or half_precision or not_finite or pixels_of or other_numbers)}"
