"""The most memory that training and evaluation of the two-tower net take, by batch size, beside PyTorch and plain Flax.

  python -m pip install torch --index-url https://download.pytorch.org/whl/cpu
  python experiments/benchmarks/memory.py [--output=FILE]

Of a process of its own for every number (VmHWM in /proc/PID/status), with its libraries and, for JAX, the compiler. As
ratios: to PyTorch (compiled, channels_last) doing the same, and in the last lines of ten views to one.
"""

from tqdm import tqdm

from experiments.benchmarks import contestants

NAMES = ("alexnet_jax", "alexnet_jax_2", "pytorch_compiled_last", "pytorch_compiled_last_kept", "flax")
TIMES = {"train": 4, "center": 4, "ten_crop": 2}
BATCH_SIZES = (32, 64, 128)


def main():
    args = contestants.Parser("memory", __doc__, pytorch=True).parse_args()
    peaks = {what: {name: {} for name in NAMES if (what, name) != ("ten_crop", "flax")} for what in TIMES}
    for what, names in peaks.items():
        for name in tqdm(names, what, unit="contestant"):
            for batch_size in BATCH_SIZES:
                with contestants.Contestant(name, batch_size) as contestant:
                    contestant.seconds(what, TIMES[what])
                    names[name][batch_size] = contestant.peak_memory()
    print(f"{contestants.machine()}\npeak memory, PyTorch (compiled, channels_last) = 1")
    print(f"{'batch':57}" + "".join(f"{size:8}" for size in BATCH_SIZES))
    for what, names in peaks.items():
        for name, peak in names.items():
            show(f"{what:8} {contestants.NAMES[name]}", peak, names["pytorch_compiled_last"])
    print("ten views, one view = 1")
    for name in ("alexnet_jax", "alexnet_jax_2"):
        show(f"{'':8} {contestants.NAMES[name]}", peaks["ten_crop"][name], peaks["center"][name])
    contestants.write(args.output, bytes=peaks)


def show(title, peak, other):
    print(f"{title:57}" + "".join(f"{peak[size] / other[size]:8.2f}" for size in BATCH_SIZES))


if __name__ == "__main__":
    main()
