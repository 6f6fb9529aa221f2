"""Kills runs with `kill -9` at random moments, restarts them until they are done, and compares with a run left alone.

  python experiments/kills.py --workdir=/tmp/kills

A run is 125 steps of a narrow net on the embedded textures, with a checkpoint every 10 steps and an evaluation every
25. Unless it ends before, it is killed at any moment, while a checkpoint is written and while it evaluates, and ended
by SIGTERM while it evaluates, in any order. Exit status 1 if the bits of its parameters and velocities, its result or
its metrics are not those of the run left alone.
"""

import collections
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import train
from alexnet_jax.analysis import ensemble
from alexnet_jax.runtime import command_line, files, sharding
from alexnet_jax.training import checkpoint

STEPS_PER_EVALUATION = 25
FIELDS = {
    "num_epochs": 1.0,
    "model.width": 0.0625,
    "model.image_size": 63,
    "log_every": STEPS_PER_EVALUATION,
    "eval_every": 0.2,
    "save_every": 10,
}
KINDS = ("any moment", "saving", "evaluating", "evaluating, by SIGTERM")


def start(workdir):
    command = [sys.executable, "-m", "alexnet_jax.main", "--config=configs/quickstart.py", f"--workdir={workdir}"]
    command += [f"--config.{name}={value}" for name, value in FIELDS.items()]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    with workdir.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def kill_somewhere(kind, process, workdir, rng, seconds):
    """Kills it at a random moment of this kind; returns the kind, or 'ended before'."""
    began, wanted = time.monotonic(), rng.uniform(0, seconds)
    saves, evaluations = rng.randint(1, 5), count_logged(workdir) + rng.randint(1, 3)
    seen = set()
    while process.poll() is None:
        if kind == "saving":
            seen |= {path.name for path in (workdir / "checkpoints").glob("*tmp*")}
            now = len(seen) >= saves
        elif kind.startswith("evaluating"):  # which the metrics of its step come just before
            now = count_logged(workdir) >= evaluations
        else:
            now = time.monotonic() - began > wanted
        if now:
            time.sleep(rng.uniform(0, 0.2) if kind.startswith("evaluating") else rng.uniform(0, 0.02))
            process.send_signal(signal.SIGTERM if kind.endswith("SIGTERM") else signal.SIGKILL)
            process.wait()
            return kind
        time.sleep(0.002)
    return "ended before"


def count_logged(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_text().count('"train"') if path.exists() else 0


def outcome(workdir):
    """What no kill may change: the newest checkpoint's arrays, the result, and the metrics but for their speed."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("images_per_second", None)
    net = ensemble.read(workdir).net
    config = ConfigDict(files.read_json(workdir / "config.json"))
    like = train.init_state(config, net, sharding.create_mesh(1, 1, net.towers))
    with checkpoint.Checkpoints(workdir / "checkpoints") as checkpoints:
        step, _, state = checkpoints.restore(like)
    return (
        step,
        [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)],
        (workdir / "result.json").read_text(),
        lines,
    )


def main():
    parser = command_line.Parser("experiments.kills", __doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="where the runs go; must be empty or new")
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    args.workdir.mkdir(parents=True, exist_ok=True)
    if any(args.workdir.iterdir()):
        parser.error(f"--workdir={args.workdir}: must be empty")
    command_line.set_up_jax()
    rng = random.Random(args.seed)
    for name in ("first", "alone"):  # the first compiles
        began = time.monotonic()
        if start(args.workdir / name).wait():
            sys.exit(f"the run that was left alone failed: see {args.workdir / name}.log")
        seconds = time.monotonic() - began
    first, expected = (outcome(args.workdir / name) for name in ("first", "alone"))
    if first != expected:
        sys.exit("two runs that were left alone differ")
    kinds, same = collections.Counter(), 0
    for i in range(args.runs):
        workdir = args.workdir / f"run_{i}"
        order = rng.sample(KINDS, len(KINDS))
        kinds.update(kill_somewhere(kind, start(workdir), workdir, rng, seconds) for kind in order)
        status = start(workdir).wait()
        same += status == 0 and outcome(workdir) == expected
        print(f"{same} of {i + 1} ended with the same bits; killed: {dict(kinds)}", flush=True)
    sys.exit(same < args.runs)


if __name__ == "__main__":
    main()
