"""Kills runs at random moments, restarts them until they finish, and compares them with a run that was not killed.

  python experiments/kills.py --workdir=/tmp/kills

A run is 125 steps of a narrow net on the embedded textures, with a checkpoint every 10 steps and an evaluation every
25. Unless it finishes earlier, it is killed (kill -9) at any moment, while it writes a checkpoint and while it
evaluates, and ended by SIGTERM while it evaluates, in random order. The exit status is 1 if the bits of the parameters
and velocities, the result or the metrics of a run differ from those of the undisturbed run.
"""

import collections
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

from alexnet_jax.runtime import command_line

if __name__ == "__main__":
    command_line.start()

import jax
import numpy as np

from alexnet_jax import UserError, settings
from alexnet_jax.analysis import ensemble
from alexnet_jax.runtime import files, sharding
from alexnet_jax.training import checkpoint, optimizer, run_state
from experiments import store

FIELDS = {
    "num_epochs": 1.0,
    "model.width": 0.0625,
    "model.image_size": 63,
    "log_every": 25,
    "eval_every": 0.2,
    "save_every": 10,
}
KINDS = ("any moment", "saving", "evaluating", "evaluating, by SIGTERM")


def start(workdir: pathlib.Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "alexnet_jax.main", "--config=configs/quickstart.py", f"--workdir={workdir}"]
    command += [f"--config.{name}={value}" for name, value in FIELDS.items()]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    with workdir.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def kill(kind: str, process: subprocess.Popen, workdir: pathlib.Path, rng: random.Random, seconds: float) -> str:
    """Kills a process at a random moment of this kind; returns the kind, or 'finished before'.

    `seconds` is how long an undisturbed run takes.
    """
    start_time, delay = time.monotonic(), rng.uniform(0, seconds)
    saves, evaluations = rng.randint(1, 5), count_logs(workdir) + rng.randint(1, 3)
    temporary = set()
    while process.poll() is None:
        if kind == "saving":
            temporary |= {path.name for path in (workdir / "checkpoints").glob("*tmp*")}
            now = len(temporary) >= saves
        elif kind.startswith("evaluating"):  # an evaluation follows the training metrics of its step
            now = count_logs(workdir) >= evaluations
        else:
            now = time.monotonic() - start_time > delay
        if now:
            time.sleep(rng.uniform(0, 0.2) if kind.startswith("evaluating") else rng.uniform(0, 0.02))
            process.send_signal(signal.SIGTERM if kind.endswith("SIGTERM") else signal.SIGKILL)
            process.wait()
            return kind
        time.sleep(0.002)
    return "finished before"


def count_logs(workdir: pathlib.Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_text().count('"train"') if path.exists() else 0


def outcome(workdir: pathlib.Path) -> tuple:
    """Step and arrays of the newest checkpoint, the result, and the metrics without the speed."""
    net, config = ensemble.read(workdir).net, settings.read(workdir / "config.json")
    chosen = optimizer.from_config(config.optimizer, net)
    like = run_state.init(net, sharding.create_mesh(1, 1, net.towers), chosen, config.seed, {})
    with checkpoint.Checkpoints(workdir / "checkpoints") as checkpoints:
        step, _, trees = checkpoints.restore(like.trees)
    arrays = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(trees)]
    return step, arrays, (workdir / "result.json").read_text(), store.read_metrics(workdir)


@command_line.one_line_errors("remove --workdir to begin again")
def main():
    parser = command_line.Parser("experiments.kills", __doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="for the runs; new or empty")
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    args = parser.parse()
    args.workdir = files.absolute(args.workdir)
    files.make_directory(args.workdir)
    if any(args.workdir.iterdir()):
        parser.error(f"--workdir={args.workdir}: must be empty")
    command_line.set_up_jax()
    rng = random.Random(args.seed)
    for name in ("first", "alone"):  # the first one compiles
        start_time = time.monotonic()
        if start(args.workdir / name).wait():
            raise UserError(f"the undisturbed run failed: see {args.workdir / name}.log")
        seconds = time.monotonic() - start_time
    first, expected = (outcome(args.workdir / name) for name in ("first", "alone"))
    if first != expected:
        raise UserError("two undisturbed runs differ")
    kinds: collections.Counter[str] = collections.Counter()
    same = 0
    for i in range(args.runs):
        workdir = args.workdir / f"run_{i}"
        order = rng.sample(KINDS, len(KINDS))
        kinds.update(kill(kind, start(workdir), workdir, rng, seconds) for kind in order)
        status = start(workdir).wait()
        same += status == 0 and outcome(workdir) == expected
        print(f"{same} of {i + 1} ended with the same bits; killed: {dict(kinds)}", flush=True)
    sys.exit(same < args.runs)


if __name__ == "__main__":
    main()
