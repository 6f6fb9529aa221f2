"""Evaluation of the two-tower net beside PyTorch and plain Flax, by one view and by ten: ratios of median times.

  python -m pip install torch --index-url https://download.pytorch.org/whl/cpu
  python experiments/benchmarks/evaluation.py [--repeats=5] [--output=FILE]

As train_step.py, batch 128. Ours begins with uint8 images, and ten views are one program; PyTorch's are ten runs of its
net.
"""

import statistics

from alexnet_jax.model import alexnet
from experiments.benchmarks import contestants

BATCH_SIZE = 128
WAYS = {"center": 1, "ten_crop": 10}  # views


def main():
    args = contestants.Parser("evaluation", __doc__, pytorch=True, repeats=5).parse_args()
    operations = 2 * BATCH_SIZE * alexnet.total(alexnet.layer_table(alexnet.NETS["two_gpu"])).macs  # of a view
    seconds = {}
    for way, views in WAYS.items():
        names = [name for name in contestants.NAMES if views == 1 or name != "flax"]
        seconds[way] = contestants.compare(names, way, BATCH_SIZE, args.repeats, times=max(1, 5 // views))
    print(f"{contestants.machine()}\nbatch {BATCH_SIZE}, {args.repeats} repeats; speed of PyTorch at its best = 1")
    medians = {way: {name: statistics.median(values) for name, values in seconds[way].items()} for way in WAYS}
    for way, times in medians.items():
        best = min(times[name] for name in contestants.PYTORCH)
        rate = 2 * contestants.SQUARE**3 / times["matmul"]
        for name in (name for name in contestants.NAMES if name in times):
            share = operations * WAYS[way] / times[name] / rate
            text = f"{way:8} {contestants.NAMES[name]:48} {best / times[name]:5.2f}"
            print(f"{text}   {share:4.0%} of the machine's matrix products")
    for name in ("alexnet_jax", "alexnet_jax_2"):
        ratio = medians["ten_crop"][name] / medians["center"][name]
        print(f"{contestants.NAMES[name]}: ten views take {ratio:.2f} times one")
    contestants.write(args.output, batch_size=BATCH_SIZE, **seconds)


if __name__ == "__main__":
    main()
