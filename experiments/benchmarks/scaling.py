"""A model of the time of a training step, fitted to this machine, and its predictions for many devices and ImageNet.

  python experiments/benchmarks/scaling.py [--repeats=3] [--output=FILE]

  seconds of a step = fixed + per_image · images of a row       compute on a tower's device
                    + input bytes / host_bandwidth
                    + 7 latencies + bytes / tower_bandwidth     collectives between the towers
                    + 2 (rows - 1) latencies + bytes / row_bandwidth    one ring all-reduce of the gradients

`fixed` and `per_image` are fitted to steps on one device with four batch sizes, latency and bandwidth to gathers of
many sizes between two virtual devices, including the call of their program. The resulting prediction for steps on two
virtual devices, which the fit does not use, is compared with measurements. Bytes are counted (communication.py), and
also read from the program compiled for each number of devices.

Predictions: `machines like this one` have a tower each, at half of this machine's time for two, links with the named
bandwidth and a latency of 50 µs. The GTX 580, of which the paper had two, computes at the share of its peak that
follows from the paper's five to six days, and reads or writes weights, gradients and velocities five times a step at
its memory bandwidth. Memory and links are as in the data sheets, with a latency of 10 µs. Augmentation and the last
layer, which both devices of a row compute, count as divided. Nothing overlaps: a program that computes while it
communicates or loads is faster. compiled.py has the least times of today's accelerators.
"""

import concurrent.futures
import dataclasses
import functools
import json
import multiprocessing
import os
import pathlib

import numpy as np

from alexnet_jax.runtime import command_line, sharding
from experiments.benchmarks import communication, contestants, harness, two_gpu_step

TRAIN_IMAGES, EPOCHS, STORED_BYTES = 1_281_167, 90, 256 * 256 * 3
DEVICES = {2: 128, 8: 512, 64: 4096, 512: 8192}  # batch: the paper's in a row, up to that of configs/large_batch.py
FITTED, SIZES = (16, 32, 64, 128), [2**n for n in range(12, 27, 2)]
RATES = pathlib.Path(__file__).parents[1] / "results" / "input_pipeline.json"
NET = two_gpu_step.NET
GTX_580 = 1.581e12  # operations per second in float32, by data sheet


@dataclasses.dataclass(frozen=True)
class Machine:
    """A kind of device, a tower each, and its links: seconds, bytes per second."""

    name: str
    fixed: float
    per_image: float
    latency: float
    host_bandwidth: float
    tower_bandwidth: float
    row_bandwidth: float

    def step(self, rows: int, batch_size: int) -> dict[str, float]:
        """The seconds of each part of a step, with two towers in each row."""
        images = batch_size / rows
        collectives = 2 * sum(layer.cross_tower for layer in NET.layers) - 1
        between_towers = sum(communication.least_between_towers(NET).values())
        return {
            "compute": self.fixed + self.per_image * images,
            "input": STORED_BYTES * images / self.host_bandwidth,
            "towers": collectives * self.latency + between_towers * images / self.tower_bandwidth,
            "gradients": 2 * (rows - 1) * self.latency + summed_bytes(rows) / self.row_bandwidth,
        }


def summed_bytes(rows: int) -> int:
    """What a device receives in the sum of gradients and metrics over the rows."""
    return communication.received("all-reduce", communication.gradient_bytes(NET) + communication.METRICS, rows)


def gpu(name: str, operations: float, memory_bandwidth: float, **links) -> Machine:
    """A GPU from the operations and bytes per second in its data sheet."""
    per_image = two_gpu_step.operations() / 2 / (utilisation_of_2012() * operations)
    return Machine(name, 5 * communication.gradient_bytes(NET) / memory_bandwidth, per_image, latency=10e-6, **links)


def utilisation_of_2012() -> float:
    """The share of their peak that the paper's two GPUs reached: 90 epochs in 5.5 days ("five to six")."""
    return two_gpu_step.operations() * TRAIN_IMAGES * EPOCHS / (5.5 * 86400 * 2 * GTX_580)


def machines(fit: dict[str, float]) -> dict[Machine, list[int]]:
    """{machine: numbers of devices to predict for}"""
    like_this = fit["fixed"] / 2, fit["per_image"] / 2, 50e-6, 1.25e9, 1.25e9, 1.25e9
    pcie_2 = {"host_bandwidth": 8e9, "tower_bandwidth": 8e9, "row_bandwidth": 8e9}
    return {
        Machine("machines like this one, 10 Gbit/s", *like_this): [2, 8, 64, 512],
        gpu("GTX 580, PCIe 2.0", GTX_580, 192e9, **pcie_2): [2],
    }


def fit_line(x, y) -> tuple[float, float]:
    """The constant and the slope of a line through (x, y), by least squares of the relative errors."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    (constant, slope), *_ = np.linalg.lstsq(np.stack([1 / y, x / y], 1), np.ones(len(x)), rcond=None)
    return float(constant), float(slope)


def fit(steps: dict[int, float], gathers: dict[int, float]) -> dict[str, float]:
    """The model's constants, from {batch size: seconds} and {bytes of a result: seconds}."""
    fixed, per_image = fit_line(list(steps), list(steps.values()))
    latency, per_byte = fit_line([size / 2 for size in gathers], list(gathers.values()))
    return {"fixed": fixed, "per_image": per_image, "latency": latency, "bandwidth": 1 / per_byte}


def time_steps(repeats: int) -> dict[str, dict[int, float]]:
    """{contestant: {batch size: seconds of a step}}"""
    steps: dict[str, dict[int, float]] = {"alexnet_jax": {}, "alexnet_jax_2": {}}
    for batch_size in FITTED:
        seconds = contestants.compare(list(steps), "train", batch_size, repeats, repeats=3)
        for name, by_size in steps.items():
            by_size[batch_size] = harness.medians(seconds)[name]
    return steps


def time_gathers() -> dict[int, float]:
    """{bytes of the result: median seconds} of a gather between two virtual devices; each receives half."""
    command_line.set_up_jax(2)
    import jax

    mesh, tower_spec = sharding.create_mesh(1, 2, 2), jax.P("model")

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=tower_spec, out_specs=tower_spec)
    def gather(x):
        return jax.lax.all_gather(x, "model").reshape(-1)

    def seconds(size):
        x = jax.device_put(np.zeros(size // 4, np.float32), jax.NamedSharding(mesh, tower_spec))
        return harness.median_seconds(lambda: jax.block_until_ready(gather(x)), 30)

    return {size: seconds(size) for size in SIZES}


def count_bytes(devices: int, batch_size: int) -> tuple[float, int]:
    """What a device receives in the compiled program: an image from the other tower, and a step from other rows."""
    command_line.set_up_jax(devices)
    rows = devices // 2
    tower_groups = [(2 * row, 2 * row + 1) for row in range(rows)]
    row_groups = [tuple(range(tower, devices, 2)) for tower in (0, 1)]
    between_towers = between_rows = 0
    program = communication.step_program(two_gpu_step.load_config(batch_size), sharding.create_mesh(rows, 2, 2))
    for op, size, groups in communication.collectives(program):
        if groups == tower_groups:
            between_towers += communication.received(op, size, 2)
        else:
            assert groups == row_groups, groups
            between_rows += communication.received(op, size, rows)
    return between_towers * rows / batch_size, between_rows


def in_another_process(function, *args):
    """A process can set its number of virtual devices only once."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def main():
    args = harness.Parser("scaling", __doc__, pytorch=False, repeats=3).parse()
    for variable in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS"):
        os.environ.pop(variable, None)
    os.environ["JAX_PLATFORMS"] = "cpu"  # of the processes that are started below
    steps, gathers = time_steps(args.repeats), in_another_process(time_gathers)
    fitted = fit(steps["alexnet_jax"], gathers)
    counts = {devices: in_another_process(count_bytes, devices, batch) for devices, batch in DEVICES.items()}
    print(harness.machine())
    show_fit(fitted, steps, gathers)
    show_bytes(counts)
    show_predictions(machines(fitted))
    harness.write(args.output, steps=steps, gathers=gathers, fit=fitted, bytes=counts)


def show_fit(fitted, steps, gathers):
    here = Machine("", fitted["fixed"], fitted["per_image"], fitted["latency"], np.inf, *2 * [fitted["bandwidth"]])
    print(f"\na step's fixed time is that of {here.fixed / here.per_image:.1f} images on one device,")
    print(f"a collective's latency that of {here.latency * here.tower_bandwidth / 1e3:.0f} kB between two virtual ones")
    print("model / measured:  batch   one device   two virtual devices")
    for batch_size, one in steps["alexnet_jax"].items():
        parts, two = here.step(1, batch_size), steps["alexnet_jax_2"][batch_size]
        print(f"{batch_size:24} {parts['compute'] / one:12.3f} {sum(parts.values()) / two:21.3f}")
    ratios = [(here.latency + size / 2 / here.tower_bandwidth) / seconds for size, seconds in gathers.items()]
    print(f"gathers of {SIZES[0] / 1e3:.0f} kB to {SIZES[-1] / 1e6:.0f} MB: {min(ratios):.2f} to {max(ratios):.2f}")


def show_bytes(counts):
    print(f"\n{'bytes that a device receives':31}{'towers, an image':>31}{'rows, a step':>31}")
    print(f"{'devices':>16}{'batch':>15}" + f"{'program':>16}{'model':>15}" * 2)
    least = sum(communication.least_between_towers(NET).values())
    for devices, (between_towers, between_rows) in counts.items():
        summed = summed_bytes(devices // 2)
        print(f"{devices:16}{DEVICES[devices]:15}{between_towers:16,.0f}{least:15,}{between_rows:16,}{summed:15,}")


def in_words(minutes):
    if minutes < 60:
        return f"{minutes:.1f} min"
    return f"{minutes / 60:.1f} h" if minutes < 2880 else f"{minutes / 1440:.1f} days"


def show_predictions(predictions):
    rates = json.loads(RATES.read_text())
    decoded = next(row["alexnet_jax"] for row in rates if (row["what"], row["cores"]) == ("train", 1))
    print(f"\n{'':34} devices batch  images/s  compute input towers gradients  90 epochs   GB/s  cores")
    for machine, numbers in predictions.items():
        for devices in numbers:
            parts = machine.step(devices // 2, DEVICES[devices])
            seconds = sum(parts.values())
            rate = DEVICES[devices] / seconds
            length = in_words(TRAIN_IMAGES * EPOCHS / rate / 60)
            compute, loaded, exchanged, gradients = (part / seconds for part in parts.values())
            shares = f"{compute:9.0%}{loaded:6.0%}{exchanged:7.0%}{gradients:10.0%}"
            print(
                f"{machine.name:34} {devices:7}{DEVICES[devices]:6}{rate:10,.0f}{shares}{length:>11}"
                f"{2 * rate * STORED_BYTES / 1e9:7.2f}{rate / decoded:7.1f}"
            )
    print(
        f"GTX 580 at {utilisation_of_2012():.0%} of its peak. GB/s: uint8 images to all devices; both towers see each"
    )
    print("cores: to decode the images of a prepared set, at the rate in experiments/results/input_pipeline.json")


if __name__ == "__main__":
    main()
