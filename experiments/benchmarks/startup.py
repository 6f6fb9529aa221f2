"""The time until the end of the first training step, with and without a compilation cache, compared with PyTorch.

  python -m pip install torch --index-url https://download.pytorch.org/whl/cpu
  python experiments/benchmarks/startup.py [--repeats=3] [--output=FILE]

The contestants are processes that take turns, with batches of 32. The unit is PyTorch, compiled with an empty cache.
`import` is the time before the first step: start, imports and construction of the net. `compile` is how much longer the
first step takes than a later one, `step`; ours initialises its parameters in it. The caches, of JAX
(JAX_COMPILATION_CACHE_DIR) and of PyTorch's compiler (TORCHINDUCTOR_CACHE_DIR), are empty or filled by a previous run.
"""

import statistics
import tempfile
import time

from tqdm import tqdm

from experiments.benchmarks import contestants, harness

NAMES = ("alexnet_jax", "alexnet_jax_2", "pytorch", "pytorch_compiled_last", "flax")
CACHES = ("JAX_COMPILATION_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
BATCH_SIZE = 32


def main():
    args = harness.Parser("startup", __doc__, pytorch=True, repeats=3).parse()
    seconds: dict[str, dict[str, list[tuple[float, float, float]]]] = {
        name: {"empty": [], "filled": []} for name in NAMES
    }
    for _ in tqdm(range(args.repeats), unit="turn"):
        for name in NAMES:
            with tempfile.TemporaryDirectory() as directory:
                for cache in ("empty", "filled"):
                    seconds[name][cache].append(start(name, directory))
    print(f"{harness.machine()}\nmedians of {args.repeats}; PyTorch, compiled with an empty cache, = 1")
    print(f"{'':33} cache   import  compile    step   until the first step is done")
    unit = statistics.median(map(sum, seconds["pytorch_compiled_last"]["empty"]))
    for name, by_cache in seconds.items():
        for cache, values in by_cache.items():
            columns = [*zip(*values, strict=True), list(map(sum, values))]
            numbers = "".join(f"{statistics.median(column) / unit:9.3f}" for column in columns)
            print(f"{contestants.NAMES[name]:33} {cache:6}{numbers}")
    harness.write(args.output, batch_size=BATCH_SIZE, seconds=seconds)


def start(name: str, cache: str) -> tuple[float, float, float]:
    """Seconds of import, compile and step."""
    start_time = time.perf_counter()
    with contestants.Contestant(name, BATCH_SIZE, dict.fromkeys(CACHES, cache)) as contestant:
        first = contestant.seconds("train")
        imported = time.perf_counter() - start_time - first
        later = contestant.seconds("train", 3)
        return imported, first - later, later


if __name__ == "__main__":
    main()
