"""Training steps of the two-tower net compared with PyTorch and plain Flax: ratios of median times.

  python -m pip install torch --index-url https://download.pytorch.org/whl/cpu
  python experiments/benchmarks/train_step.py [--batch_size=128] [--repeats=5] [--output=FILE]

Every contestant is a separate process, and they take turns. Ours runs the program's training step, with augmentation
of uint8 images and metrics; the others get float32 images in the shape that the net takes. PyTorch's best result
counts, of eager and compiled, with both memory formats; its result with the program's settings of malloc is shown too.
"""

from experiments.benchmarks import contestants, harness, two_gpu_step


def main():
    args = harness.Parser("train_step", __doc__, pytorch=True, batch_size=128, repeats=5).parse()
    seconds = contestants.compare(list(contestants.NAMES), "train", args.batch_size, args.repeats, repeats=2)
    print(f"{harness.machine()}\nbatch {args.batch_size}, {args.repeats} repeats; speed of PyTorch at its best = 1")
    medians = contestants.print_speeds(seconds, two_gpu_step.operations() * args.batch_size)
    two, grouped = (medians[name] / medians["alexnet_jax"] for name in ("alexnet_jax_2", "flax"))
    print(f"two virtual devices: {1 / two:.2f} of one; plain Flax takes {grouped:.1f} times as long")
    harness.write(args.output, batch_size=args.batch_size, seconds=seconds)


if __name__ == "__main__":
    main()
