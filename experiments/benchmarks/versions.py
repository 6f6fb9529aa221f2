"""The program's training and evaluation with several versions of JAX: ratios of median times.

  python experiments/benchmarks/versions.py PYTHON PYTHON … [--batch_size=128] [--repeats=5] [--output=FILE]

PYTHON is the interpreter of a virtual environment in which this project is installed; the first one's speed = 1. As in
train_step.py and evaluation.py, every contestant is a process of its own, and they take turns.
"""

import argparse
import statistics
import subprocess

from experiments.benchmarks import contestants, evaluation

NAMES = ("alexnet_jax", "alexnet_jax_2")
TIMES = {"train": 2} | {way: max(1, 5 // views) for way, views in evaluation.WAYS.items()}  # in a turn
MACHINE = "from experiments.benchmarks import contestants; print(contestants.machine())"


def interpreter(python):
    """A path and what it has installed."""
    try:
        ran = subprocess.run([python, "-c", MACHINE], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise argparse.ArgumentTypeError(f"{python} does not run this project; install it there") from error
    return python, ran.stdout.strip()


def main():
    parser = contestants.Parser("versions", __doc__, pytorch=False, batch_size=128, repeats=5)
    parser.add_argument("pythons", metavar="PYTHON", nargs="+", type=interpreter)
    args = parser.parse_args()
    pythons = dict(args.pythons)
    if len(pythons) < max(2, len(args.pythons)):
        parser.error("name two or more PYTHONs, each once")
    names = [f"{name}@{python}" for name in NAMES for python in pythons]
    seconds = {
        what: contestants.compare(names, what, args.batch_size, args.repeats, times) for what, times in TIMES.items()
    }
    print(f"batch {args.batch_size}, {args.repeats} repeats; speed with the first = 1")
    for python, machine in pythons.items():
        print(f"{python}: {machine}")
        for name in NAMES:
            medians = {
                what: [statistics.median(measured[f"{name}@{one}"]) for one in (next(iter(pythons)), python)]
                for what, measured in seconds.items()
            }
            ratios = "   ".join(f"{what} {first / this:4.2f}" for what, (first, this) in medians.items())
            print(f"  {contestants.NAMES[name]:34} {ratios}")
    contestants.write(args.output, pythons=pythons, batch_size=args.batch_size, **seconds)


if __name__ == "__main__":
    main()
