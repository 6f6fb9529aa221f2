"""Training steps of the two-tower net beside PyTorch and plain Flax: ratios of median times.

  python -m pip install torch --index-url https://download.pytorch.org/whl/cpu
  python experiments/benchmarks/train_step.py [--batch_size=128] [--repeats=5] [--output=FILE]

Every contestant is a process of its own, and they take turns. Ours is the program's own step, with the augmentation of
uint8 images and the metrics; the others get float32 images as the net takes them. PyTorch's best of eager and compiled,
of both memory formats, counts; how it does with the program's settings of malloc is shown as well.
"""

import statistics

from alexnet_jax.model import alexnet
from experiments.benchmarks import contestants


def operations():
    """Floating-point operations of a step for an image: conv1's input needs no gradient."""
    macs = {row.name: row.macs for row in alexnet.layer_table(alexnet.NETS["two_gpu"])}
    return 2 * (3 * sum(macs.values()) - macs["conv1"])


def main():
    args = contestants.Parser("train_step", __doc__, pytorch=True, batch_size=128, repeats=5).parse_args()
    seconds = contestants.compare(list(contestants.NAMES), "train", args.batch_size, args.repeats, times=2)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    best = min(contestants.PYTORCH, key=medians.get)
    rate = 2 * contestants.SQUARE**3 / medians["matmul"]
    print(f"{contestants.machine()}\nbatch {args.batch_size}, {args.repeats} repeats; speed of PyTorch at its best = 1")
    for name, title in contestants.NAMES.items():
        share = operations() * args.batch_size / medians[name] / rate
        print(f"{title:48} {medians[best] / medians[name]:5.2f}   {share:4.0%} of the machine's matrix products")
    two, grouped = (medians[name] / medians["alexnet_jax"] for name in ("alexnet_jax_2", "flax"))
    print(f"two virtual devices: {1 / two:.2f} of one; plain Flax takes {grouped:.1f} times as long")
    contestants.write(args.output, batch_size=args.batch_size, seconds=seconds)


if __name__ == "__main__":
    main()
