"""Evaluation of the two-tower net by one view and by ten, compared with PyTorch and plain Flax: ratios of median times.

  python -m pip install torch --index-url https://download.pytorch.org/whl/cpu
  python experiments/benchmarks/evaluation.py [--repeats=5] [--output=FILE]

Like train_step.py, with batches of 128. Ours starts from uint8 images, and ten views are one program; PyTorch runs its
net ten times.
"""

from alexnet_jax.analysis.inference import WAYS
from experiments.benchmarks import contestants, harness, two_gpu_step

BATCH_SIZE = 128


def main():
    args = harness.Parser("evaluation", __doc__, pytorch=True, repeats=5).parse()
    operations = BATCH_SIZE * two_gpu_step.operations(views=1)
    seconds = {}
    for way, views in WAYS.items():
        names = [name for name in contestants.NAMES if views == 1 or name != "flax"]
        seconds[way] = contestants.compare(names, way, BATCH_SIZE, args.repeats, repeats=max(1, 5 // views))
    print(f"{harness.machine()}\nbatch {BATCH_SIZE}, {args.repeats} repeats; speed of PyTorch at its best = 1")
    medians = {
        way: contestants.print_speeds(seconds[way], operations * views, f"{way:8} ") for way, views in WAYS.items()
    }
    for name in ("alexnet_jax", "alexnet_jax_2"):
        ratio = medians["ten_crop"][name] / medians["center"][name]
        print(f"{contestants.NAMES[name]}: ten views take {ratio:.2f} times one")
    harness.write(args.output, batch_size=BATCH_SIZE, **seconds)


if __name__ == "__main__":
    main()
