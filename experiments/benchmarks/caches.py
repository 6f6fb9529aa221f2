"""How fast batches come from disk, and from images that are kept decoded: config.dataset.cache=none, host and device.

  python -m alexnet_jax.prepare --dataset=folder --root=imagenette2-160 --output=imagenette256
  python experiments/benchmarks/caches.py --root=imagenette256 [--repeats=3] [--output=FILE]

Images a second of the training split of a prepared set, in batches of 128 on a device, and the peak memory of the
process. Nothing is computed from them. The first epoch, in which `host` reads the images, is not timed; `read in` is
the time in which `device` reads all of them before. Every number is from a new process.
"""

import concurrent.futures
import dataclasses
import itertools
import math
import multiprocessing
import statistics
import time

import jax

from alexnet_jax import settings
from alexnet_jax.data import cache, datasets, pipeline
from alexnet_jax.runtime import command_line, processes, sharding
from experiments.benchmarks import harness

BATCH_SIZE = 128


def measure(root: str, place: str) -> dict[str, float]:
    """Images a second in the second epoch, the seconds until the cache is ready, and the peak memory in bytes."""
    command_line.set_up_jax(1)
    mesh = sharding.create_mesh(1, 1, 1)
    data = datasets.load("prepared", root, 256)
    data = dataclasses.replace(data, validation=data.train, test=data.train)  # nothing else is read
    start = time.perf_counter()
    source = cache.keep(place, data, mesh).train
    ready = time.perf_counter() - start
    batches = processes.in_agreement(mesh, pipeline.train_batches(source, BATCH_SIZE, slice(0, BATCH_SIZE), 0, 0))
    fetch, resident = jax.jit(cache.fetch), cache.resident(source)
    steps = math.ceil(len(source) / BATCH_SIZE)
    for batch in itertools.islice(batches, steps):
        jax.block_until_ready(fetch(batch | resident))
    start = time.perf_counter()
    for batch in itertools.islice(batches, steps):
        jax.block_until_ready(fetch(batch | resident))
    rate = steps * BATCH_SIZE / (time.perf_counter() - start)
    return {"images_per_second": rate, "read_in": ready, "memory": harness.memory("VmHWM")}


def main():
    parser = harness.Parser("caches", __doc__, pytorch=False, repeats=3)
    parser.add_argument("--root", required=True, help="a prepared set")
    args = parser.parse()
    results: dict[str, list[dict[str, float]]] = {place: [] for place in reversed(settings.CACHES)}
    with command_line.one_line_errors("run it again"):
        for _ in range(args.repeats):
            for place, measured in results.items():
                with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                    measured.append(pool.submit(measure, args.root, place).result())
    print(f"{harness.machine()}\nmedians of {args.repeats}\n{'':8}{'images/s':>10}{'read in, s':>12}{'peak, MB':>10}")
    for place, measured in results.items():
        rate, ready, peak = (statistics.median(one[name] for one in measured) for name in measured[0])
        print(f"{place:8}{rate:10,.0f}{ready if place == 'device' else 0:12.1f}{peak / 1e6:10,.0f}")
    harness.write(args.output, results=results)


if __name__ == "__main__":
    main()
