#!/usr/bin/env bash
# Evaluate in several processes: tools/dist_evaluate.sh CONFIG CHECKPOINT PROCESSES [options of segrobust evaluate]
# PYTHON, PORT, NNODES, NODE_RANK and MASTER_ADDR may be set for more than one machine. The integers do not depend on PROCESSES.
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: $0 CONFIG CHECKPOINT PROCESSES [options of segrobust evaluate]" >&2
  exit 2
fi
config=$1 checkpoint=$2 processes=$3
shift 3
exec "${PYTHON:-python}" -m torch.distributed.run --nnodes "${NNODES:-1}" --node_rank "${NODE_RANK:-0}" --master_addr "${MASTER_ADDR:-127.0.0.1}" \
  --master_port "${PORT:-29500}" --nproc_per_node "$processes" \
  "$(dirname "${BASH_SOURCE[0]}")/evaluate.py" "$config" "$checkpoint" "$@"
