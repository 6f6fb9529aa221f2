#!/usr/bin/env bash
# One member of a sweep; `python experiments/sweep.py slurm` submits an array of them:
#
#   python experiments/sweep.py slurm --config=configs/quickstart_sweep.py --workdir=DIR --sbatch=--gpus-per-node=2
#
# Run it in the repository's directory; PYTHON=.venv/bin/python selects a Python other than that of the PATH.
#
#SBATCH --job-name=alexnet_jax_sweep
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail
exec srun --ntasks=1 "${PYTHON:-python}" experiments/sweep.py local --member="$SLURM_ARRAY_TASK_ID" "$@"
