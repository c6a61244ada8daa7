#!/usr/bin/env bash
#SBATCH --job-name=certify
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@120
# Makes one log on several nodes under SLURM, with the arguments of code/certify.py:
#   sbatch scripts/certify_slurm.sh cifar10 CHECKPOINT 0.25 OUTFILE --precision bf16 --compile
# Submitted again, it resumes after the rows that are done.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"

first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# srun takes no --cpus-per-task from sbatch (Slurm 22.05 and newer), and one node that fails is to end the whole job
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 \
    torchrun --nnodes="$SLURM_NNODES" --nproc_per_node="${SLURM_GPUS_ON_NODE:-8}" --rdzv_id="$SLURM_JOB_ID" \
    --rdzv_backend=c10d --rdzv_endpoint="$first_node:29500" -- code/certify.py "$@"
