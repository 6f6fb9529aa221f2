"""What the GPU or TPU of this machine can show, in one call: tests, speeds beside PyTorch and Flax, bits, a training.

  python -m pip install -e ".[test]" torch
  python experiments/benchmarks/measured.py [--minutes=10] [--batch_size=1024] [--root=imagenette256] [--output=FILE]

Every part is a process of its own. Its numbers are printed and written to FILE as soon as it ends; the parts for which
no time is left are named. --part=NAME[,NAME] chooses among them:

  tests       tests/model/test_on_accelerator.py: the step's loss and gradients beside those of a CPU
  rates       operations per second of a matrix product in each dtype, and bytes per second of a copy
  speed       images per second of training and evaluation by one view, at an eighth, half and all of the batch size
  roofline    the least time of a training step by these rates, from the bytes and products of the program of a single
              step; it is shown beside the time of a step of several in a call
  bits        parameters after some steps, in two processes, each with two ways to divide the steps into calls; without
              and with --xla_gpu_deterministic_ops
  training    configs/imagenette.py in bfloat16 with dataset.cache=device, on the prepared set --root
  float32     as speed and roofline
"""

import argparse
import collections
import functools
import hashlib
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from experiments.benchmarks import contestants, harness

REPOSITORY = pathlib.Path(__file__).parents[2]
FRACTIONS = (8, 2, 1)  # of --batch_size
NAMES = (contestants.CACHED, "pytorch_compiled_last", "flax", "alexnet_jax")
SPLITS = ((12,), (5, 7))  # the same steps, by calls
MOST_SECONDS = 180  # of one job; the tests and the training take what is left
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"

PARTS = ("tests", "rates", "speed", "roofline", "bits", "training", "float32")  # the most important ones first

Job = tuple[str, Callable[[float], dict[str, Any]]]


def run(command: list[str], seconds: float, **variables: str) -> subprocess.CompletedProcess:
    """Runs a command in the repository. Raises subprocess.SubprocessError if it fails or takes longer."""
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=seconds, cwd=REPOSITORY, env=os.environ | variables
    )


def child(kind: str, *arguments: object, **variables: str) -> Callable[[float], dict[str, Any]]:
    """A job that runs a function of CHILDREN in a new process."""
    command = [sys.executable, "-m", "experiments.benchmarks.measured", f"--child={kind}", *map(str, arguments)]
    return lambda seconds: json.loads(run(command, seconds, **variables).stdout.splitlines()[-1])


def tests(seconds: float) -> dict[str, Any]:
    """What pytest prints at its end; skipped tests are shown with their reasons."""
    flags = ["-q", "-s", "-n", "0", "-rs", "-m", ""]
    output = run([sys.executable, "-m", "pytest", *flags, "tests/model/test_on_accelerator.py"], seconds).stdout
    return {"pytest": [line for line in output.splitlines() if re.search(r"passed|SKIPPED|error of", line)]}


def speed(name: str, dtype: str, batch_size: int) -> Callable[[float], dict[str, Any]]:
    def job(seconds):
        with contestants.Contestant(name, batch_size, dtype=dtype, accelerator=True) as contestant:
            timer = threading.Timer(seconds, contestant.kill)
            timer.start()
            rates = {}
            try:
                for way in ("train", "center"):
                    contestant.seconds(way)  # compiles
                    rates[way] = batch_size / contestant.seconds(way, 3)
            finally:
                timer.cancel()
        return {"images_per_second": rates}

    return job


def training(root: str | None) -> Callable[[float], dict[str, Any]]:
    def job(seconds):
        if not root:
            return {"left_out": "no --root"}
        with tempfile.TemporaryDirectory() as directory:
            workdir = pathlib.Path(directory)
            began = time.monotonic()
            command = [sys.executable, "-m", "alexnet_jax.main", "--config=configs/imagenette.py"]
            command += [f"--workdir={workdir}", "--config.dataset.name=prepared", f"--config.dataset.root={root}"]
            run([*command, "--config.dataset.cache=device", "--config.model.dtype=bfloat16"], seconds)
            lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
            rates = [line["images_per_second"] for line in lines if line["split"] == "train"]
            return {
                "seconds": time.monotonic() - began,
                "images_per_second": statistics.median(rates),
                "result": json.loads((workdir / "result.json").read_text()),
            }

    return job


def parts(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(PARTS)}")
    return names


def jobs(args: argparse.Namespace) -> Iterator[Job]:
    """All jobs of the parts, in their order."""
    sizes = [args.batch_size // fraction for fraction in FRACTIONS]
    found: dict[str, list[Job]] = {
        "tests": [("tests", tests)],
        "rates": [("rates", child("rates"))],
        "speed": [],
        "roofline": [],
        "bits": [
            (f"bits, {kind}, process {process}", child("bits", sizes[0], XLA_FLAGS=flags))
            for kind, flags in (("as trained", ""), ("deterministic", DETERMINISTIC))
            for process in (1, 2)
        ],
        "training": [("training", training(args.root))],
        "float32": [],
    }
    for part, dtype in (("speed", "bfloat16"), ("float32", "float32")):
        for name in NAMES:
            for size in reversed(sizes):
                found[part].append((f"speed, {name}, {dtype}, batch {size}", speed(name, dtype, size)))
        roofline = [(f"roofline, {dtype}, batch {size}", child("roofline", dtype, size)) for size in reversed(sizes)]
        found["roofline" if part == "speed" else part] += roofline
    for part in args.part or PARTS:
        yield from found[part]


def best_seconds(function: Callable[[], Any], calls: int) -> float:
    """The fastest of five times of a call, of which `calls` are started before the first has ended."""
    import jax

    jax.block_until_ready(function())

    def all_calls():
        for _ in range(calls):
            result = function()
        jax.block_until_ready(result)

    return min(harness.median_seconds(all_calls, 1) for _ in range(5)) / calls


def measure_rates() -> dict[str, Any]:
    """Of products of square matrices, in the precision that JAX takes for each dtype, and of an array's sum with 1."""
    import jax
    import jax.numpy as jnp

    device = jax.devices()[0]
    side, numbers = (512, 2**20) if device.platform == "cpu" else (8192, 2**29)
    product = jax.jit(jnp.matmul)
    rates = {}
    for dtype in ("bfloat16", "float32"):
        square = jnp.ones((side, side), dtype)
        rates[dtype] = 2 * side**3 / best_seconds(functools.partial(product, square, square), 10)
    increment, x = jax.jit(lambda x: x + 1), jnp.ones(numbers, jnp.bfloat16)
    return {
        "device": device.device_kind,
        "operations": rates,
        "bandwidth": 2 * x.nbytes / best_seconds(functools.partial(increment, x), 10),
    }


def measure_roofline(dtype: str, batch_size: str) -> dict[str, Any]:
    """The bytes and the products of the step that is compiled for this machine, and the memory that it holds."""
    from alexnet_jax.model import nets
    from alexnet_jax.runtime import sharding
    from experiments.benchmarks import compiled, kernels, two_gpu_step

    config = two_gpu_step.load_config(int(batch_size))
    config.model.dtype = dtype
    net = nets.from_config(config.model)
    program = two_gpu_step.lower_step(config, net, sharding.create_mesh(1, 1, net.towers)).compile()
    found = list(kernels.kernels(kernels.parse(program.as_text() or "")))
    return {
        "bytes": sum(kernel.bytes for kernel in found),
        "kernels": len(found),
        "targets": collections.Counter(kernel.target for kernel in found if kernel.target),
        "operations": two_gpu_step.operations() * config.batch_size,
        "memory": compiled.memory(program),
    }


def measure_bits(batch_size: str) -> dict[str, Any]:
    """A checksum of the parameters after the steps of SPLITS, for each of these."""
    import jax

    from alexnet_jax.model import nets
    from alexnet_jax.runtime import sharding
    from experiments.benchmarks import two_gpu_step

    config = two_gpu_step.load_config(int(batch_size))
    config.model.dtype = "bfloat16"
    net = nets.from_config(config.model)
    mesh, most = sharding.create_mesh(1, 1, net.towers), max(sum(split) for split in SPLITS)
    take, rates = two_gpu_step.make_steps(config, net, mesh, most)
    rng, B = np.random.default_rng(0), config.batch_size
    images = rng.integers(0, 256, (B, net.stored_size, net.stored_size, 3), np.uint8)
    labels, indices = rng.integers(0, 1000, B, np.int32), rng.integers(0, B, (B, most), np.int32)
    everywhere = jax.NamedSharding(mesh, jax.P())
    held = jax.device_put({sharding.WHOLE + "image": images, sharding.WHOLE + "label": labels}, everywhere)
    checksums = []
    for split in SPLITS:
        state = two_gpu_step.first_state(config, net, mesh)
        trees, step = (state.params, state.opt_state), 0
        for count in split:
            padded = np.roll(indices, -step, axis=1)
            batch = sharding.put_batch(mesh, {"index": padded}) | held
            *trees, _ = take(*trees, batch, step, [rates] * count, [True] * count)
            step += count
        checksums.append(hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(trees))).hexdigest())
    return {"steps": SPLITS, "checksums": checksums}


CHILDREN: dict[str, Callable[..., dict[str, Any]]] = {
    "rates": measure_rates,
    "roofline": measure_roofline,
    "bits": measure_bits,
}


def conclude(results: dict[str, Any]) -> Iterator[str]:
    """Lines: the measured steps beside their least time, and whether bits are equal."""
    rates = results.get("rates", {})
    for name, roofline in results.items():
        found = re.fullmatch(r"roofline, (\w+), batch (\d+)", name)
        speeds = results.get(f"speed, {contestants.CACHED}, {found[1]}, batch {found[2]}", {}) if found else {}
        if found and "bytes" in roofline and "bandwidth" in rates and "images_per_second" in speeds:
            seconds = int(found[2]) / speeds["images_per_second"]["train"]
            memory = roofline["bytes"] / rates["bandwidth"]
            products = roofline["operations"] / rates["operations"][found[1]]
            yield (
                f"{found[1]}, batch {found[2]}: {1e3 * seconds:.2f} ms a step; memory {1e3 * memory:.2f}, products "
                f"{1e3 * products:.2f} ms: {products / seconds:.0%} of the rate of matrix products"
            )
    for kind in ("as trained", "deterministic"):
        checksums = [results.get(f"bits, {kind}, process {process}", {}).get("checksums") for process in (1, 2)]
        if all(checksums):
            same_calls = all(len(set(each)) == 1 for each in checksums)
            answers = "the same" if same_calls else "DIFFER", "the same" if checksums[0] == checksums[1] else "DIFFER"
            yield "bits, {}: divided into other calls {}; in another process {}".format(kind, *answers)


def main():
    parser = harness.Parser("measured", __doc__, pytorch=False, minutes=10, batch_size=1024)
    parser.add_argument("--root", type=os.path.abspath, help="a prepared set for the training")
    parser.add_argument("--part", type=parts, help="default all")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse()
    if args.child:
        print(json.dumps(CHILDREN[args.child](*args.arguments)))
        return
    ends, results = time.monotonic() + 60 * args.minutes, {}
    for name, job in jobs(args):
        left = ends - time.monotonic()
        try:
            limit = left if name in ("tests", "training") else min(left, MOST_SECONDS)
            results[name] = job(limit) if left > 0 else {"left_out": f"{args.minutes} minutes were over"}
        except (Exception, SystemExit) as error:  # whatever it is, the other parts are measured
            lines = (getattr(error, "stdout", "") or "", getattr(error, "stderr", "") or "")
            results[name] = {"failed": repr(error), "output": [str(text)[-3000:] for text in lines]}
        print(f"{name}: {json.dumps(results[name])[:2000]}", flush=True)
        harness.write(args.output, results=results)
    conclusions = list(conclude(results))
    print("\n".join(conclusions))
    harness.write(args.output, results=results, conclusions=conclusions)


if __name__ == "__main__":
    main()
