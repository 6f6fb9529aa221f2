"""The memory of a training process over 2,000 steps and ten evaluations, which must not grow.

  python experiments/benchmarks/run_memory.py --workdir=/tmp/run_memory

Trains a narrow net on the embedded textures. At each evaluation it prints the resident memory of the process
(/proc/self/status), and how much of it is in use (glibc's mallinfo2); the rest is code, stacks, and what malloc keeps
for later. MALLOC_TOP_PAD_=0 in the environment leaves malloc as it is.
"""

import ctypes
import pathlib
import threading
import time

from alexnet_jax import train
from alexnet_jax.runtime import command_line
from alexnet_jax.training import metrics
from configs import quickstart
from experiments.benchmarks import harness

FIELDS = {"num_epochs": 16.0, "eval_every": 1.6, "log_every": 200, "save_every": 200, "model.width": 0.125}


class MallocInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc's malloc.h, bytes."""

    _names = "arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split(", ")]


def watch(path: pathlib.Path) -> None:
    """Prints the memory after each evaluation in a metrics.jsonl."""
    mallinfo2 = ctypes.CDLL("libc.so.6").mallinfo2
    mallinfo2.restype = MallocInfo
    printed = 0
    while True:
        lines = metrics.read(path) if path.exists() else []
        evaluated = [line["step"] for line in lines if line["split"] == "eval"]
        if len(evaluated) > printed:
            printed = len(evaluated)
            info = mallinfo2()
            in_use = info.uordblks + info.hblkhd
            print(
                f"step {evaluated[-1]}: {harness.memory('VmRSS') / 1e6:.0f} MB, {in_use / 1e6:.1f} MB in use",
                flush=True,
            )
        time.sleep(0.05)


def main():
    parser = command_line.Parser("experiments.benchmarks.run_memory", __doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="a new directory")
    args = parser.parse()
    command_line.set_up_jax()
    config = quickstart.get_config()
    config.update_from_flattened_dict(FIELDS)
    threading.Thread(target=watch, args=(args.workdir / "metrics.jsonl",), daemon=True).start()
    with command_line.one_line_errors("use a new --workdir to measure again"):
        train.train_and_evaluate(config, args.workdir)


if __name__ == "__main__":
    main()
