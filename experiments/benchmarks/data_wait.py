"""Training steps on images that are read and decoded meanwhile, beside steps whose batches are already on the devices.

  python -m alexnet_jax.prepare --dataset=folder --root=imagenette2-160 --output=imagenette256
  python experiments/benchmarks/data_wait.py --root=imagenette256 [--repeats=7] [--output=FILE]

The steps are those of a run of the paper's net, batch 128, with its augmentation, metrics and their bookkeeping, on the
devices that there are (on CPU two virtual ones). Both kinds take turns. A run on a CPU shares its cores with the
decoding, and that is in it.
"""

import itertools
import statistics
import time

import jax

from alexnet_jax import train
from alexnet_jax.data import datasets, pipeline
from alexnet_jax.model import nets
from alexnet_jax.runtime import command_line, processes, sharding
from alexnet_jax.training import fidelity, metrics, optimizer
from configs import two_gpu
from experiments.benchmarks import contestants

STEPS, UNTIMED = 8, pipeline.BATCHES_AHEAD + 1  # the latter use up what was loaded during the other kind


def main():
    parser = contestants.Parser("data_wait", __doc__, pytorch=False, repeats=7)
    parser.add_argument("--root", required=True, help="a prepared set")
    args = parser.parse_args()
    command_line.set_up_jax()
    with command_line.one_line_errors("run it again"):
        seconds = measure(args.root, args.repeats)
    loaded, ready = map(statistics.median, seconds.values())
    pairs = sorted(a / b for a, b in zip(*seconds.values(), strict=True))
    print(f"{contestants.machine()}\n{args.repeats} repeats of {STEPS} steps, batch 128")
    print(f"a step with its data takes {loaded / ready:.3f} times one whose batch is ready")
    print(f"pairs of neighbours {pairs[0]:.3f} to {pairs[-1]:.3f}, their median {statistics.median(pairs):.3f}")
    contestants.write(args.output, steps=STEPS, seconds=seconds)


def measure(root, repeats):
    """{'loaded' and 'ready': seconds of STEPS steps, `repeats` times}."""
    config = fidelity.resolve(two_gpu.get_config())
    net = nets.from_config(config.model)
    dataset = datasets.load("prepared", root, net.stored_size)
    net = net.with_classes(len(dataset.class_names))
    mesh = sharding.create_mesh(config.mesh.data, config.mesh.model, net.towers)
    rows = sharding.owned_rows(mesh, config.batch_size)
    batches = pipeline.train_batches(dataset.train, config.batch_size, rows, config.seed, 0)
    loaded = processes.in_agreement(mesh, batches)
    kinds = {"loaded": loaded, "ready": itertools.cycle([next(loaded), next(loaded)])}
    train_step = train.make_train_step(config, net, mesh, dataset)
    rates = optimizer.learning_rates(config, net, optimizer.init_schedule(), 0)
    state, seconds = train.init_state(config, net, mesh), {kind: [] for kind in kinds}
    total = repeats * len(kinds) * (UNTIMED + STEPS)
    with metrics.Progress(0, total, config.batch_size, {}) as progress:
        for step in range(total):
            turn, i = divmod(step, UNTIMED + STEPS)
            kind = list(kinds)[turn % len(kinds)]
            if i == UNTIMED:
                jax.block_until_ready(state)
                began = time.perf_counter()
            state, values = train_step(state, next(kinds[kind]), step, rates, True)
            progress.add(step + 1, values)
            if i == UNTIMED + STEPS - 1:
                jax.block_until_ready(state)
                seconds[kind].append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    main()
