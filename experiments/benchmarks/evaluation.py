"""Evaluation of the two-tower net beside PyTorch and plain Flax, by one view and by ten: ratios of median times.

  pip install -e . && pip install torch --index-url https://download.pytorch.org/whl/cpu
  python experiments/benchmarks/evaluation.py [--batch_size=128] [--output=FILE]

As train_step.py. Ours begins with uint8 images, and ten views are one program; PyTorch's are ten runs of its net.
"""

import argparse
import json
import pathlib
import statistics

from experiments.benchmarks import contestants


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", help="a JSON file for the numbers")
    args = parser.parse_args()
    center = contestants.compare(list(contestants.NAMES), "center", args.batch_size, args.repeats, times=5)
    with_ten_views = [name for name in contestants.NAMES if name != "flax"]
    ten_crop = contestants.compare(with_ten_views, "ten_crop", args.batch_size, args.repeats, times=1)
    print(f"{contestants.machine()}\nbatch {args.batch_size}, {args.repeats} repeats; speed of PyTorch at its best = 1")
    medians = [{name: statistics.median(values) for name, values in seconds.items()} for seconds in (center, ten_crop)]
    for what, times in zip(("centre", "ten views"), medians, strict=True):
        best = min(times[name] for name in contestants.PYTORCH)
        for name in (name for name in contestants.NAMES if name in times):
            print(f"{what:10} {contestants.NAMES[name]:48} {best / times[name]:5.2f}")
    for name in ("alexnet_jax", "alexnet_jax_2"):
        print(f"{contestants.NAMES[name]}: ten views take {medians[1][name] / medians[0][name]:.2f} times one")
    if args.output:
        result = {"machine": contestants.machine(), "batch_size": args.batch_size}
        pathlib.Path(args.output).write_text(
            json.dumps(result | {"center": center, "ten_crop": ten_crop}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
