#!/usr/bin/env bash
# Run the tests of the native code under AddressSanitizer and UBSan, which stop at the first report.
# Needs a C++ compiler with both, and the environment of CONTRIBUTING.md in $PYTHON or .venv.
#     tests/native/sanitize.sh [pytest options]
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$(realpath -s "${PYTHON:-.venv/bin/python}")
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r pauc tests benchmarks pyproject.toml setup.py README.md "$copy"
cd "$copy"
rm -f pauc/native/_ext*.so

sanitizers=address,undefined
c++ -shared -fPIC -std=c++17 -O1 -g1 -fopenmp-simd -fno-omit-frame-pointer -fno-var-tracking \
  -fsanitize=$sanitizers -fno-sanitize-recover=all \
  -I"$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')" \
  pauc/native/csrc/step.cpp -o pauc/native/_ext.abi3.so

# Python itself is not instrumented: its allocator is taken out of the way, and what it leaves
# behind at exit is no report. torch's libraries need the C++ runtime to be there from the start.
export LD_PRELOAD="$(c++ -print-file-name=libasan.so):$(c++ -print-file-name=libubsan.so):$(c++ -print-file-name=libstdc++.so)"
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1
export PYTHONMALLOC=malloc OMP_NUM_THREADS=1
"$python" -c 'from pauc.native import extension; assert extension.ext is not None'
"$python" -m pytest -q -p no:cacheprovider -p no:xdist -o addopts= \
  "${@:-tests/native}"
