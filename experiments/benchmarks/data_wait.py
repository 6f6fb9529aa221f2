"""Training steps on images that are read and decoded meanwhile, compared with steps on batches that are ready.

  python -m alexnet_jax.prepare --dataset=folder --root=imagenette2-160 --output=imagenette256
  python experiments/benchmarks/data_wait.py --root=imagenette256 [--repeats=7] [--output=FILE]

The steps are those of a run of the paper's net with a batch size of 128, with augmentation, metrics and progress, on
the available devices (on CPU two virtual ones). The two kinds take turns. On a CPU, decoding takes time from the same
cores, which is included.
"""

import itertools
import statistics
import time

import jax

from alexnet_jax.data import datasets, pipeline
from alexnet_jax.runtime import command_line, processes, sharding
from alexnet_jax.training import metrics
from experiments.benchmarks import harness, two_gpu_step

STEPS, UNTIMED = 8, pipeline.BATCHES_AHEAD + 1  # the untimed steps use up what was loaded during the other kind


def main():
    parser = harness.Parser("data_wait", __doc__, pytorch=False, repeats=7)
    parser.add_argument("--root", required=True, help="a prepared set")
    args = parser.parse()
    command_line.set_up_jax()
    with command_line.one_line_errors("run it again"):
        seconds = measure(args.root, args.repeats)
    loaded, ready = map(statistics.median, seconds.values())
    pairs = sorted(a / b for a, b in zip(*seconds.values(), strict=True))
    print(f"{harness.machine()}\n{args.repeats} repeats of {STEPS} steps, batch 128")
    print(f"a step with its data takes {loaded / ready:.3f} times one whose batch is ready")
    print(f"pairs of neighbours {pairs[0]:.3f} to {pairs[-1]:.3f}, their median {statistics.median(pairs):.3f}")
    harness.write(args.output, steps=STEPS, seconds=seconds)


def measure(root: str, repeats: int) -> dict[str, list[float]]:
    """The seconds of STEPS steps, `repeats` times for each of the kinds `loaded` and `ready`."""
    config, net = two_gpu_step.load_config(), two_gpu_step.NET
    dataset = datasets.load("prepared", root, net.stored_size)
    net = net.with_classes(len(dataset.class_names))
    mesh = sharding.create_mesh(config.mesh.data, config.mesh.model, net.towers)
    rows = sharding.owned_rows(mesh, config.batch_size)
    batches = pipeline.train_batches(dataset.train, config.batch_size, rows, config.seed, 0)
    loaded = processes.in_agreement(mesh, batches)
    kinds = {"loaded": loaded, "ready": itertools.cycle([next(loaded), next(loaded)])}
    train_step, rates = two_gpu_step.make_step(config, net, mesh, dataset.statistics)
    state = two_gpu_step.first_state(config, net, mesh)
    trees = (state.params, state.opt_state)
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    total = repeats * len(kinds) * (UNTIMED + STEPS)
    with metrics.TrainingProgress(0, total, config.batch_size, {}) as progress:
        for step in range(total):
            turn, i = divmod(step, UNTIMED + STEPS)
            kind = list(kinds)[turn % len(kinds)]
            if i == UNTIMED:
                jax.block_until_ready(trees)
                start_time = time.perf_counter()
            *trees, values = train_step(*trees, next(kinds[kind]), step, rates, True)
            progress.add(range(step, step + 1), values)
            if i == UNTIMED + STEPS - 1:
                jax.block_until_ready(trees)
                seconds[kind].append(time.perf_counter() - start_time)
    return seconds


if __name__ == "__main__":
    main()
