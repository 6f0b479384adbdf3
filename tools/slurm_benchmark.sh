#!/usr/bin/env bash
# A benchmark on several machines of a Slurm cluster, from the root of the checkout:
#   sbatch tools/slurm_benchmark.sh FILE [options of segrobust benchmark]
# Set the lines of #SBATCH for your cluster, and the folder: --work-dir must lie where all machines see it. One task per
# machine starts torchrun, which starts one process per GPU; they meet on the first machine. Sent again, the job goes on
# where it was ended, by the time limit too. PYTHON, PORT and PER_NODE may be set.
#SBATCH --job-name=segrobust
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --output=segrobust-%j.log
set -euo pipefail
if [ $# -lt 1 ]; then
  echo "usage: sbatch $0 FILE [options of segrobust benchmark]" >&2
  exit 2
fi
cd "${SLURM_SUBMIT_DIR:-.}"
nodes=${SLURM_JOB_NUM_NODES:?start it with sbatch, or in an salloc}
read -r main < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
per_node=${PER_NODE:-${SLURM_GPUS_ON_NODE:-1}} # processes of each machine: GPUs or, where there is none, as many as you like
exec srun --kill-on-bad-exit=1 "${PYTHON:-python}" -m torch.distributed.run --nnodes "$nodes" --nproc_per_node "$per_node" \
  --rdzv_backend c10d --rdzv_id "$SLURM_JOB_ID" --rdzv_endpoint "$main:${PORT:-29500}" tools/benchmark.py "$@"
