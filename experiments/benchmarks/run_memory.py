"""The memory of a training process over 2,000 steps and ten evaluations, which must not grow.

  python experiments/benchmarks/run_memory.py --workdir=/tmp/run_memory

Prints the resident memory (MB, /proc/PID/status) at each evaluation of a narrow net on the embedded textures.
"""

import json
import pathlib
import re
import subprocess
import sys
import time

from alexnet_jax import commands

FIELDS = {"num_epochs": 16.0, "eval_every": 1.6, "log_every": 200, "save_every": 200, "model.width": 0.125}


def main():
    parser = commands.Parser("experiments.benchmarks.run_memory", __doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="a new directory")
    args = parser.parse_args()
    command = [sys.executable, "-m", "alexnet_jax.main", "--config=configs/quickstart.py", f"--workdir={args.workdir}"]
    process = subprocess.Popen(command + [f"--config.{name}={value}" for name, value in FIELDS.items()])
    metrics, seen = args.workdir / "metrics.jsonl", 0
    while process.poll() is None:
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        evaluated = [line["step"] for line in map(json.loads, lines) if line["split"] == "eval"]
        if len(evaluated) > seen:
            seen = len(evaluated)
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            megabytes = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024
            print(f"step {evaluated[-1]}: {megabytes:.0f} MB", flush=True)
        time.sleep(0.05)
    sys.exit(process.returncode)


if __name__ == "__main__":
    main()
