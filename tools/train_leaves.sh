#!/bin/bash
# The colour models on whatever this machine has: one GPU, several, or (slowly) a CPU. Arguments are those of tools/leaves_series.py.
#   tools/train_leaves.sh --stage 1        AsyncPatch and baseline, 4 minutes each
#   tools/train_leaves.sh --dry            the plan and its price
#   tools/train_leaves.sh bench            images per second and utilisation instead (tools/gpu_bench.py)
set -eu
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
script=tools/leaves_series.py
[ "${1:-}" = bench ] && { script=tools/gpu_bench.py; shift; }
gpus=$(python3 -c 'import torch; print(torch.cuda.device_count())')
if [ "$gpus" -gt 1 ] && [ "$script" = tools/leaves_series.py ]; then
  exec python3 -m torch.distributed.run --standalone --nproc-per-node "$gpus" "$script" "$@"
fi
exec python3 "$script" "$@"
