#!/usr/bin/env bash
# All that only a GPU can show, in one command of less than 8 minutes: the tests on CUDA (equality
# with the operators, capture of a whole step, mixed precision, NCCL where there are two), the speed
# beside the peer, launches and host waits, and the floor that the memory's bandwidth sets.
# Writes benchmarks/results/speed-cuda.json, with the device's name in it, and gpu.log beside it.
#
#   bash benchmarks/gpu.sh             # needs torch for CUDA, triton, and the extras test, benchmarks
#   bash benchmarks/gpu.sh --dry       # without a GPU: the same commands in miniature, on the CPU;
#                                      # they show that this script works, and nothing of a GPU
#
# Every part runs, whatever the one before it said; the exit status is 1 if any has failed.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
results=benchmarks/results
device=cuda
seconds=${SECONDS_PER_CELL:-8}
[[ ${1:-} != --dry ]] || device=cpu
[[ $device == cuda ]] || results=$(mktemp -d)
mkdir -p "$results"
log=$results/gpu.log
json=$results/speed-$device.json
: >"$log"
failed=()
export PAUC_TRITON=1
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

# part NAME SECONDS COMMAND...: run it, show it, and remember whether it failed.
part() {
  local name=$1 limit=$2
  shift 2
  echo "== $name" | tee -a "$log"
  timeout "$limit" "$@" 2>&1 | tee -a "$log"
  local status=${PIPESTATUS[0]}
  [[ $status == 0 ]] || { failed+=("$name"); echo "== $name failed ($status)" | tee -a "$log"; }
}

if [[ $device == cuda ]]; then
  "$python" -c 'import torch; assert torch.cuda.is_available(), "torch sees no GPU"' || exit 2
  "$python" -c 'import triton' || exit 2
  part "device" 60 "$python" -c 'import torch, triton
print(torch.cuda.get_device_name(), torch.cuda.device_count(), torch.__version__, triton.__version__)'
  part "tests of the kernels" 110 "$python" -m pytest -q tests/triton/test_cuda.py
  part "speed" 240 "$python" benchmarks/speed.py --device cuda --seconds "$seconds" \
    --markdown --json "$json"
  part "launches" 60 "$python" benchmarks/launches.py "$json"
else
  echo "A dry run on a CPU: its figures are none of a GPU, and are thrown away." | tee -a "$log"
  part "tests of the kernels" 110 "$python" -m pytest -q tests/triton/test_cuda.py
  part "speed" 240 "$python" benchmarks/speed.py --device cpu --cells binary-16k --seconds 1 \
    --markdown --json "$json"
fi

echo "== results: $json"
if ((${#failed[@]})); then
  printf '== failed: %s\n' "${failed[@]}" | tee -a "$log"
  exit 1
fi
