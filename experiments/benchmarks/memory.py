"""Peak memory of training and evaluation of the two-tower net by batch size, compared with PyTorch and plain Flax.

  python -m pip install torch --index-url https://download.pytorch.org/whl/cpu
  python experiments/benchmarks/memory.py [--output=FILE]

Every number is that of a new process (VmHWM in /proc/PID/status), with its libraries and, for JAX, the compiler. The
ratios are to PyTorch (compiled, channels_last) for the same task, and in the last lines of ten views to one.
"""

from tqdm import tqdm

from experiments.benchmarks import contestants, harness

NAMES = ("alexnet_jax", "alexnet_jax_2", "pytorch_compiled_last", "pytorch_compiled_last_kept", "flax")
REPEATS = {"train": 4, "center": 4, "ten_crop": 2}
BATCH_SIZES = (32, 64, 128)


def main():
    args = harness.Parser("memory", __doc__, pytorch=True).parse()
    peaks: dict[str, dict[str, dict[int, int]]] = {
        way: {name: {} for name in NAMES if (way, name) != ("ten_crop", "flax")} for way in REPEATS
    }
    for way, names in peaks.items():
        for name in tqdm(names, way, unit="contestant"):
            for batch_size in BATCH_SIZES:
                with contestants.Contestant(name, batch_size) as contestant:
                    contestant.seconds(way, REPEATS[way])
                    names[name][batch_size] = contestant.peak_memory()
    print(f"{harness.machine()}\npeak memory, PyTorch (compiled, channels_last) = 1")
    print(f"{'batch':57}" + "".join(f"{size:8}" for size in BATCH_SIZES))
    for way, names in peaks.items():
        for name, peak in names.items():
            show(f"{way:8} {contestants.NAMES[name]}", peak, names["pytorch_compiled_last"])
    print("ten views, one view = 1")
    for name in ("alexnet_jax", "alexnet_jax_2"):
        show(f"{'':8} {contestants.NAMES[name]}", peaks["ten_crop"][name], peaks["center"][name])
    harness.write(args.output, bytes=peaks)


def show(title, peak, other):
    print(f"{title:57}" + "".join(f"{peak[size] / other[size]:8.2f}" for size in BATCH_SIZES))


if __name__ == "__main__":
    main()
