"""The two-tower net compiled for accelerators that this machine does not have: memory, bytes, collectives, least time.

  python -m pip install 'jax[cuda13]' 'jax[tpu]'
  python experiments/benchmarks/compiled.py [--target=h100,tpu-v5e] [--mesh=1x1,1x2] [--batch_size=128]
      [--dtype=bfloat16] [--way=train] [--output=FILE]

The vendors' compilers compile the program's own step for each target and mesh ('data' × 'model'). NOTHING IS RUN: the
numbers are counted in the compiled text, and the times are the least that a data sheet allows.

  memory      bytes of a device's parameters, inputs and intermediates; for meshes of one row also the largest batch
              that fits, by the line through four and eight times this batch, which are compiled, too
  kernels     their number, and the bytes of all operands and results (see kernels.py)
  products    convolutions and matrix products of the net. A convolution's zeros at the border count.
  least time  the bytes at the memory's bandwidth or the products at the peak, whichever takes longer, and what the
              links take, if nothing else is done meanwhile; without what several slices of TPUs exchange

--way is train, center (evaluation by one view) or ten_crop. --batch_size is that of a row of the mesh.
"""

import argparse
import re
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from alexnet_jax import UserError
from alexnet_jax.analysis import inference
from alexnet_jax.data.base import IMAGENET
from alexnet_jax.model import nets, spec
from alexnet_jax.runtime import command_line
from experiments.benchmarks import accelerators, communication, harness, kernels, two_gpu_step

WAYS = ("train", *inference.WAYS)
LARGER = (4, 8)  # times the batch: memory grows evenly only with large ones
COLUMNS = ("forward products", "forward others", "backward products", "backward others")


def compile_(
    accelerator: accelerators.Accelerator, data: int, model: int, config: ConfigDict, way: str = "train"
) -> jax.stages.Compiled:
    """The program of a way to use the net, for a mesh of `data` × `model` devices."""
    net, mesh = nets.from_config(config.model), accelerator.mesh(data, model)
    if way == "train":
        lowered = two_gpu_step.lower_step(config, net, mesh)
    else:
        params, batch = two_gpu_step.arguments(net, mesh, config.batch_size)
        classify = inference.make_classify([net], mesh, [IMAGENET.mean], inference.WAYS[way])
        lowered = classify.lower([params], batch)
    return lowered.compile(accelerator.compiler_options)


def memory(program: jax.stages.Compiled) -> int:
    """The bytes that a program holds on a device at once, by the compiler's analysis."""
    stats = program.memory_analysis()
    assert stats
    return (
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        - stats.alias_size_in_bytes  # results that take the place of arguments
        + stats.temp_size_in_bytes
        + stats.generated_code_size_in_bytes
    )


def exchanged(program: kernels.Program, data: int, model: int) -> dict[str, Any]:
    """How often collectives of each kind run, and the bytes that a device receives from each side of the mesh.

    What several slices of TPUs exchange is not counted: their programs hand it to the network.

    Raises:
      ValueError: there is a collective that the net does not have.
    """
    numbers: dict[str, int] = {}
    received = {"towers": 0, "rows": 0}
    towers = {tuple(range(row * model, (row + 1) * model)) for row in range(data)}
    for instruction, _, turns, _ in kernels.executed(program):
        for op, size, groups in communication.read_collectives(instruction.text):
            if op not in ("all-gather", "all-reduce", "reduce-scatter"):
                raise ValueError(f"the compiled program has the collective {op}")
            if len(groups[0]) > 1:
                side = "towers" if set(groups) <= towers else "rows"  # a TPU's program is that of one slice
                numbers[op] = numbers.get(op, 0) + turns
                received[side] += turns * communication.received(op, size, len(groups[0]))
    return {"collectives": numbers, "received": received}


def least_exchanged(net: spec.Net, data: int, model: int, batch_size: int) -> dict[str, int]:
    """The bytes that a device must receive in a training step; see communication.py."""
    between = sum(communication.least_between_towers(net).values()) * batch_size if model > 1 else 0
    summed = communication.gradient_bytes(net, model) + communication.METRICS
    return {"towers": between, "rows": communication.received("all-reduce", summed, data)}


def place(kernel: kernels.Kernel, net: spec.Net) -> tuple[str, str]:
    """The layer, or the part of a step, that a kernel belongs to, and its column of COLUMNS."""
    names = "|".join([*(layer.name for layer in net.layers), "augmentation", "optimizer"])
    found = (match[0] for name in kernel.operations if (match := re.search(rf"\b({names})\b", name)))
    direction = "backward" if any("transpose(" in name for name in kernel.operations[:1]) else "forward"
    return next(found, "others"), f"{direction} {'products' if kernel.product else 'others'}"


def by_layer(found: list[kernels.Kernel], net: spec.Net) -> dict[str, dict[str, int]]:
    """{layer: {column: bytes}}"""
    names = ["augmentation", *(layer.name for layer in net.layers), "optimizer", "others"]
    table = {name: dict.fromkeys(COLUMNS, 0) for name in names}
    for kernel in found:
        layer, column = place(kernel, net)
        table[layer][column] += kernel.bytes
    return table


def measure(
    accelerator: accelerators.Accelerator, data: int, model: int, batch_size: int, dtype: str, way: str
) -> dict[str, Any]:
    """Compiles a program for a mesh, with `batch_size` images in each row, and counts what it holds and moves."""
    config = two_gpu_step.load_config(batch_size * data)
    config.model.dtype = dtype
    net = nets.from_config(config.model)
    start = time.perf_counter()
    program = compile_(accelerator, data, model, config, way)
    seconds = time.perf_counter() - start
    parsed = kernels.parse(program.as_text() or "")
    found = list(kernels.kernels(parsed))
    moved = sum(kernel.bytes for kernel in found)
    result = {
        "target": accelerator.name,
        "data": data,
        "model": model,
        "batch_size": batch_size,
        "dtype": dtype,
        "way": way,
        "compiled_in": seconds,
        "memory": memory(program),
        "kernels": len(found),
        "bytes": moved,
        "operations": two_gpu_step.operations(model, inference.WAYS.get(way, 0)) * batch_size,
        "by_layer": by_layer(found, net),
        "largest": [[kernel.name, kernel.bytes, *kernel.operations[:1]] for kernel in largest(found)],
        **exchanged(parsed, data, model),
    }
    if way == "train":
        result["least_received"] = least_exchanged(net, data, model, batch_size)
    links = accelerator.link if data * model <= accelerator.box else accelerator.outside
    result["seconds"] = {
        "memory": moved / accelerator.bandwidth,
        "products": result["operations"] / accelerator.operations[dtype],
        "towers": result["received"]["towers"] / accelerator.link,
        "rows": result["received"]["rows"] / links,
    }
    return result


def largest(found: list[kernels.Kernel]) -> list[kernels.Kernel]:
    """The ten kernels that move the most bytes."""
    return sorted(found, key=lambda kernel: -kernel.bytes)[:10]


def largest_batch(accelerator: accelerators.Accelerator, smaller: dict[str, Any], larger: dict[str, Any]) -> int | None:
    """About how many images of a row fit into a device's memory, by the line through two results of `measure`.

    None if the memory does not grow.
    """
    per_image = (larger["memory"] - smaller["memory"]) / (larger["batch_size"] - smaller["batch_size"])
    return int(larger["batch_size"] + (accelerator.memory - larger["memory"]) / per_image) if per_image > 0 else None


def least_seconds(result: dict[str, Any]) -> float:
    seconds = result["seconds"]
    return max(seconds["memory"], seconds["products"]) + seconds["towers"] + seconds["rows"]


def show(accelerator: accelerators.Accelerator, result: dict[str, Any]) -> None:
    """Prints all numbers of one program."""
    size, seconds = result["batch_size"], result["seconds"]
    title = "{way}, {dtype}, {batch_size} images a row, mesh {data} × {model}".format_map(result)
    print(f"\n{accelerator.name}: {title}; compiled, not run")
    fits = f"; the largest batch is about {result['largest_batch']:,} a row" if result.get("largest_batch") else ""
    print(f"  memory      {result['memory'] / 1e9:.2f} of {accelerator.memory / 1e9:.1f} GB{fits}")
    moved = result["bytes"]
    print(f"  kernels     {result['kernels']}; {moved / 1e9:.2f} GB, {moved / size / 1e6:.2f} MB an image")
    print(f"  products    {result['operations'] / 1e12:.3f} TFLOP")
    binding = max(seconds, key=seconds.get)
    print(f"  least time  {1e3 * seconds['memory']:.2f} ms memory, {1e3 * seconds['products']:.2f} ms products", end="")
    print(f", {1e3 * seconds['towers']:.2f} ms towers, {1e3 * seconds['rows']:.2f} ms rows: {binding} binds")
    for op, number in result["collectives"].items():
        print(f"  {number} × {op}")
    if "least_received" in result:
        for side, least in result["least_received"].items():
            print(f"  received from the other {side}: {result['received'][side]:,} bytes, least {least:,}")
    print(f"\n  {'MB an image':14}" + "".join(f"{column:>19}" for column in COLUMNS) + f"{'all':>8}")
    for layer, row in result["by_layer"].items():
        cells = "".join(f"{row[column] / size / 1e6:19.2f}" for column in COLUMNS)
        print(f"  {layer:14}{cells}{sum(row.values()) / size / 1e6:8.2f}")
    print("\n  largest kernels, MB an image")
    for name, moved, *operation in result["largest"]:
        print(f"  {moved / size / 1e6:6.2f}  {name:40} {operation[0] if operation else ''}")


def show_summary(results: list[dict[str, Any]]) -> None:
    print(f"\n{'compiled, not run':24}{'mesh':>8}{'row':>6}{'GB held':>9}{'MB/image':>10}", end="")
    print(f"{'ms':>8}{'binds':>10}{'images/s':>12}")
    for result in results:
        seconds = least_seconds(result)
        binding = max(result["seconds"], key=result["seconds"].get)
        rate = result["batch_size"] * result["data"] / seconds
        print(
            f"{result['target']:24}{result['data']:5}×{result['model']:<2}{result['batch_size']:6}"
            f"{result['memory'] / 1e9:9.2f}{result['bytes'] / result['batch_size'] / 1e6:10.2f}{1e3 * seconds:8.2f}"
            f"{binding:>10}{rate:12,.0f}"
        )


def measure_with_largest(
    accelerator: accelerators.Accelerator, data: int, model: int, args: argparse.Namespace
) -> dict[str, Any]:
    """`measure`, and `largest_batch` for one row: more rows leave a device as much memory.

    Raises:
      UserError: there is no compiler, or the compiled program is written in an unknown way.
    """
    try:
        result = measure(accelerator, data, model, args.batch_size, args.dtype, args.way)
        if data == 1:
            larger = [measure(accelerator, 1, model, n * args.batch_size, args.dtype, args.way) for n in LARGER]
            result["largest_batch"] = largest_batch(accelerator, *larger)
    except ValueError as error:
        raise UserError(f"the program for {accelerator.name} cannot be read: {error}") from error
    return result


def targets(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in accelerators.ACCELERATORS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(accelerators.ACCELERATORS)}")
    return names


def meshes(text: str) -> list[tuple[int, int]]:
    found = [re.fullmatch(r"([1-9]\d{0,3})x([12])", mesh) for mesh in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of meshes like 1x1,1x2: rows × 1 or 2 devices for the towers"
        )
    return [(int(match[1]), int(match[2])) for match in found if match]


def main():
    parser = harness.Parser("compiled", __doc__, pytorch=False, batch_size=128)
    parser.add_argument("--target", type=targets, default=["h100"], help=f"of {', '.join(accelerators.ACCELERATORS)}")
    parser.add_argument("--mesh", type=meshes, default=[(1, 2)], help="default 1x2: a row, a device for each tower")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="default bfloat16")
    parser.add_argument("--way", choices=WAYS, default="train", help="default train")
    args = parser.parse()
    accelerators.set_up()
    command_line.set_up_jax(1)
    results = []
    with command_line.one_line_errors("run it again"):
        for target in args.target:
            for data, model in args.mesh:
                result = measure_with_largest(accelerators.ACCELERATORS[target], data, model, args)
                show(accelerators.ACCELERATORS[target], result)
                results.append(result)
                harness.write(args.output, programs=results)
    show_summary(results)


if __name__ == "__main__":
    main()
