"""The program's training and evaluation with several versions of JAX: ratios of median times.

  python experiments/benchmarks/versions.py PYTHON PYTHON … [--batch_size=128] [--repeats=5] [--output=FILE]

PYTHON is the interpreter of a virtual environment in which this project is installed; the speed of the first one is 1.
As in train_step.py and evaluation.py, every contestant is a separate process, and they take turns.
"""

import argparse
import subprocess

from experiments.benchmarks import contestants, evaluation, harness

NAMES = ("alexnet_jax", "alexnet_jax_2")
REPEATS = {"train": 2} | {way: max(1, 5 // views) for way, views in evaluation.WAYS.items()}  # in a turn
MACHINE = "from experiments.benchmarks import harness; print(harness.machine())"


def interpreter(python: str) -> tuple[str, str]:
    """A path, and the machine and versions there."""
    try:
        ran = subprocess.run([python, "-c", MACHINE], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise argparse.ArgumentTypeError(f"{python} does not run this project; install it there") from error
    return python, ran.stdout.strip()


def main():
    parser = harness.Parser("versions", __doc__, pytorch=False, batch_size=128, repeats=5)
    parser.add_argument("pythons", metavar="PYTHON", nargs="+", type=interpreter)
    args = parser.parse()
    pythons = dict(args.pythons)
    if len(pythons) < max(2, len(args.pythons)):
        parser.error("name two or more PYTHONs, each once")
    names = [f"{name}@{python}" for name in NAMES for python in pythons]
    seconds = {
        way: contestants.compare(names, way, args.batch_size, args.repeats, repeats) for way, repeats in REPEATS.items()
    }
    medians = {way: harness.medians(of_way) for way, of_way in seconds.items()}
    print(f"batch {args.batch_size}, {args.repeats} repeats; speed with the first = 1")
    for python, machine in pythons.items():
        print(f"{python}: {machine}")
        for name in NAMES:
            first = f"{name}@{next(iter(pythons))}"
            ratios = [f"{way} {of_way[first] / of_way[f'{name}@{python}']:4.2f}" for way, of_way in medians.items()]
            print(f"  {contestants.NAMES[name]:34} {'   '.join(ratios)}")
    harness.write(args.output, pythons=pythons, batch_size=args.batch_size, **seconds)


if __name__ == "__main__":
    main()
