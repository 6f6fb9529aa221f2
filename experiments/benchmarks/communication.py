"""The data exchanged by the devices in a step of the two-tower net, read from the compiled program, and the minimum.

  python experiments/benchmarks/communication.py

Bytes of float32 that a device receives in `step.train_step` on a mesh of 2 × 2 virtual devices. Over 'model' the
minimum follows from Figure 2 of the paper: the outputs of the other tower for each layer that sees both towers, and in
the backward pass their gradients, except those of the last layer, which both devices compute. Over 'data' it is one sum
a step of the gradients of a device's parameters: a device receives one half to add, and the other half already added.
The metrics are 12 bytes.
"""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax.model import counts, nets, spec, structure
from alexnet_jax.runtime import command_line, sharding
from experiments.benchmarks import two_gpu_step

OPERATIONS = "all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute|collective-broadcast|ragged-all-to-all"
COLLECTIVE = re.compile(
    rf" = (?P<results>.*?) (?P<op>{OPERATIONS})(?P<start>-start)?\(.*replica_groups=(?P<groups>.*?)(?:, [a-z_]+=|$)"
)

TOWERS, ROWS = [(0, 1), (2, 3)], [(0, 2), (1, 3)]  # of a mesh of 2 × 2
METRICS = 3 * 4  # bytes of the loss and the two errors of a step


def collectives(compiled: jax.stages.Compiled) -> list[tuple]:
    """(operation, bytes of its result, groups of devices) for every collective in a compiled program.

    Raises:
      ValueError: a collective has an unknown notation.
    """
    text = compiled.as_text()
    assert text is not None
    return read_collectives(text)


def read_collectives(text: str) -> list[tuple]:
    """`collectives`, from the program's text."""
    matches = [match for line in text.splitlines() if (match := COLLECTIVE.search(line))]
    if len(matches) != len(re.findall(rf" (?:{OPERATIONS})(?:-start)?\(", text)):
        raise ValueError("a collective of the compiled program is written in a way that is not known here")
    return [
        # On accelerators a collective has two halves. The first one also returns its operands, except for a sum.
        (m["op"], result_bytes(m["results"], bool(m["start"]) and m["op"] != "all-reduce"), device_groups(m["groups"]))
        for m in matches
    ]


def result_bytes(shapes: str, with_operands: bool = False) -> int:
    """The size of XLA's text for an array or a tuple, such as f32[2,3]{1,0}; operands come first and are left out."""
    sizes = [
        int(bits) // 8 * math.prod(int(n) for n in dims.split(",") if n)
        for bits, dims in re.findall(r"[a-z]+(\d+)\[([\d,]*)\]", shapes)
    ]
    return sum(sizes[len(sizes) // 2 :] if with_operands else sizes)


def device_groups(text: str) -> list[tuple[int, ...]]:
    """The groups of devices in a collective of a compiled program.

    XLA has three notations for them: {{0,2},{1,3}}, [2,2]<=[2,2]T(1,0), and mesh['data'=2,'model'=2] {'data'}.

    Raises:
      ValueError: the text has none of these notations.
    """
    if re.fullmatch(r"\{\{\d+(,\d+)*\}(,\{\d+(,\d+)*\})*\}", text):
        return [_integers(group) for group in re.findall(r"\d+(?:,\d+)*", text)]
    if tiles := re.fullmatch(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        shape, dims, order = tiles.groups()
        devices = np.arange(math.prod(_integers(dims))).reshape(_integers(dims))
        devices = devices.transpose(_integers(order) if order else None).reshape(_integers(shape))
    elif mesh := re.fullmatch(r"mesh\[('\w+'=\d+(?:,'\w+'=\d+)*)\] \{('\w+'(?:,'\w+')*)\}", text):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
        within = re.findall(r"'(\w+)'", mesh[2])
        names = [name for name in sizes if name not in within] + within
        devices = np.arange(math.prod(sizes.values())).reshape(*sizes.values())
        devices = devices.transpose([list(sizes).index(name) for name in names])
        devices = devices.reshape(-1, math.prod(sizes[name] for name in within))
    else:
        raise ValueError(f"groups of devices in a notation that is not known here: {text}")
    return [tuple(map(int, group)) for group in devices]


def _integers(text):
    return tuple(map(int, text.split(",")))


def received(op: str, size: int, devices: int) -> int:
    """The minimum of bytes that each of the devices receives in a collective with a result of `size` bytes."""
    return {
        "all-gather": size * (devices - 1) // devices,
        "reduce-scatter": size * (devices - 1),
        "all-reduce": 2 * size * (devices - 1) // devices,
    }[op]


def least_between_towers(net: spec.Net) -> dict[str, int]:
    """{'all-gather': bytes, 'reduce-scatter': bytes} that a tower must receive from the others for each example."""
    inputs = {
        layer: jnp.dtype(net.dtype).itemsize * in_channels * side * side * (net.towers - 1) // net.towers
        for layer, in_channels, side, _ in structure.sizes(net)
        if layer.cross_tower
    }
    ahead = sum(inputs.values())
    return {"all-gather": ahead, "reduce-scatter": ahead - inputs[net.last]}


def gradient_bytes(net: spec.Net, devices: int = 2) -> int:
    """The size of the gradients on one of a row's devices: its share of the tower layers, and the last layer."""
    *tower_layers, last = (row.parameters for row in counts.layer_table(net))
    return 4 * (sum(tower_layers) // devices + last)


def step_program(config: ConfigDict, mesh: jax.sharding.Mesh) -> jax.stages.Compiled:
    """The compiled training step of a config."""
    return two_gpu_step.lower_step(config, nets.from_config(config.model), mesh).compile()


def main():
    command_line.Parser("experiments.benchmarks.communication", __doc__).parse()
    command_line.set_up_jax(4)
    net, mesh = two_gpu_step.NET, sharding.create_mesh(2, 2, 2)
    operations, least = (
        collectives(step_program(two_gpu_step.load_config(batch_size=8), mesh)),
        least_between_towers(net),
    )
    print(f"{'bytes received by a device':36} {'program':>13} {'minimum':>13}")
    for op, direction in {"all-gather": "forward", "reduce-scatter": "backward"}.items():
        between_towers = (
            sum(received(op, size, 2) for o, size, groups in operations if (o, groups) == (op, TOWERS)) // 4
        )
        print(f"{f'towers, {direction}, an example':36} {between_towers:13,} {least[op]:13,}")
    rows = sum(received(op, size, 2) for op, size, groups in operations if groups == ROWS)
    print(f"{'two rows of the mesh, a step':36} {rows:13,} {gradient_bytes(net) + METRICS:13,}")
    others = [operation for operation in operations if operation[2] not in (TOWERS, ROWS)]
    print(f"others: {others or 'none'}")


if __name__ == "__main__":
    main()
