#!/usr/bin/env bash
# One run on several nodes, with a process for each GPU. DIR and the data must be on a shared file system.
#
#   sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 --cpus-per-task=8 experiments/slurm/train.sh \
#       --config=CONFIG --workdir=DIR
#
# Submit it in the repository's directory; PYTHON=.venv/bin/python selects a Python other than that of the PATH. Submitted
# again, it continues from the last checkpoint.
#
#SBATCH --job-name=alexnet_jax
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail
exec srun --kill-on-bad-exit=1 "${PYTHON:-python}" -m alexnet_jax.main --distributed "$@"
