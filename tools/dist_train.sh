#!/usr/bin/env bash
# Train in several processes: tools/dist_train.sh CONFIG PROCESSES [options of segrobust train]
# PYTHON, PORT, NNODES, NODE_RANK and MASTER_ADDR may be set for more than one machine.
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: $0 CONFIG PROCESSES [options of segrobust train]" >&2
  exit 2
fi
config=$1 processes=$2
shift 2
exec "${PYTHON:-python}" -m torch.distributed.run --nnodes "${NNODES:-1}" --node_rank "${NODE_RANK:-0}" --master_addr "${MASTER_ADDR:-127.0.0.1}" \
  --master_port "${PORT:-29500}" --nproc_per_node "$processes" \
  "$(dirname "${BASH_SOURCE[0]}")/train.py" "$config" --launcher pytorch "$@"
