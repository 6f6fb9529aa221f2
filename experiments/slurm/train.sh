#!/usr/bin/env bash
# One run on several nodes, a process for each GPU. DIR and the data must be where all nodes see them.
#
#   sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 --cpus-per-task=8 experiments/slurm/train.sh \
#       --config=CONFIG --workdir=DIR
#
# From the repository's directory; PYTHON=.venv/bin/python names another Python than that of the PATH. Submitted again, it
# goes on from the last checkpoint.
#
#SBATCH --job-name=alexnet_jax
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail
exec srun --kill-on-bad-exit=1 "${PYTHON:-python}" -m alexnet_jax.main --distributed "$@"
