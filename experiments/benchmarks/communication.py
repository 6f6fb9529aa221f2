"""What crosses between the devices in a step of the two-tower net, read from the compiled program, beside the least.

  python experiments/benchmarks/communication.py

Bytes that a device receives, of float32, in `make_train_step` on a mesh of 2 × 2 virtual devices. Over 'model' the
least that Figure 2 of the paper allows: where a layer sees both towers, the other tower's outputs, and on the way back
their gradients, but not those of the last layer, which both devices compute. Over 'data' a sum, once per step, of the
gradients of a device's parameters: it receives a half to add up, and the other half added up. The metrics are 12 bytes.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import train
from alexnet_jax.data import datasets
from alexnet_jax.model import alexnet, nets, spec
from alexnet_jax.runtime import command_line, sharding
from alexnet_jax.training import fidelity, optimizer
from configs import two_gpu

OPERATIONS = "all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute|collective-broadcast|ragged-all-to-all"
COLLECTIVE = re.compile(
    rf" = (?P<results>.*?) (?P<op>{OPERATIONS})(?P<start>-start)?\(.*replica_groups=(?P<groups>.*?)(?:, [a-z_]+=|$)"
)

TOWERS, ROWS = [(0, 1), (2, 3)], [(0, 2), (1, 3)]  # of a mesh of 2 × 2
METRICS = 3 * 4  # bytes of the loss and the two errors of a step


def collectives(compiled):
    """(operation, bytes of its result, groups of devices) of every collective in a compiled program.

    Raises:
      ValueError: one is written in a way that is not known here.
    """
    return read_collectives(compiled.as_text())


def read_collectives(text):
    """`collectives`, of the compiled program's text."""
    found = [match for line in text.splitlines() if (match := COLLECTIVE.search(line))]
    if len(found) != len(re.findall(rf" (?:{OPERATIONS})(?:-start)?\(", text)):
        raise ValueError("a collective of the compiled program is written in a way that is not known here")
    return [
        # Accelerators split a collective in two. The first half returns its operands, too, but for a sum.
        (m["op"], result_bytes(m["results"], m["start"] and m["op"] != "all-reduce"), device_groups(m["groups"]))
        for m in found
    ]


def result_bytes(shapes, with_operands=False):
    """Of XLA's text for one array or a tuple of them, as f32[2,3]{1,0}; perhaps behind as many operands."""
    sizes = [
        int(bits) // 8 * math.prod(int(n) for n in dims.split(",") if n)
        for bits, dims in re.findall(r"[a-z]+(\d+)\[([\d,]*)\]", shapes)
    ]
    return sum(sizes[len(sizes) // 2 :] if with_operands else sizes)


def device_groups(text):
    """The groups of devices in a collective of a compiled program, as tuples of device numbers.

    XLA has three notations for them: {{0,2},{1,3}}, [2,2]<=[2,2]T(1,0), and mesh['data'=2,'model'=2] {'data'}.

    Raises:
      ValueError: it is none of these.
    """
    if re.fullmatch(r"\{\{\d+(,\d+)*\}(,\{\d+(,\d+)*\})*\}", text):
        return [tuple(map(int, group.split(","))) for group in re.findall(r"\d+(?:,\d+)*", text)]
    if tiles := re.fullmatch(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        shape, dims, order = (tuple(map(int, part.split(","))) if part else None for part in tiles.groups(""))
        devices = np.arange(math.prod(dims)).reshape(dims).transpose(order).reshape(shape)
    elif mesh := re.fullmatch(r"mesh\[('\w+'=\d+(?:,'\w+'=\d+)*)\] \{('\w+'(?:,'\w+')*)\}", text):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
        within = re.findall(r"'(\w+)'", mesh[2])
        order = [name for name in sizes if name not in within] + within
        devices = np.arange(math.prod(sizes.values())).reshape(*sizes.values())
        devices = devices.transpose([list(sizes).index(name) for name in order])
        devices = devices.reshape(-1, math.prod(sizes[name] for name in within))
    else:
        raise ValueError(f"groups of devices in a notation that is not known here: {text}")
    return [tuple(map(int, group)) for group in devices]


def received(op, size, devices):
    """The bytes that each of so many devices receives at least in a collective with a result of `size` bytes."""
    return {
        "all-gather": size * (devices - 1) // devices,
        "reduce-scatter": size * (devices - 1),
        "all-reduce": 2 * size * (devices - 1) // devices,
    }[op]


def least_between_towers(net):
    """{'all-gather': bytes, 'reduce-scatter': bytes} that a tower must get from the others for an example."""
    inputs = {
        layer: jnp.dtype(net.dtype).itemsize * seen * side * side * (net.towers - 1) // net.towers
        for layer, seen, side, _ in spec.sizes(net)
        if layer.both
    }
    ahead = sum(inputs.values())
    return {"all-gather": ahead, "reduce-scatter": ahead - inputs[net.layers[-1]]}


def gradient_bytes(net):
    """Of the parameters of a tower's device: its share of the tower layers, and the last layer."""
    *tower_layers, last = (row.parameters for row in alexnet.layer_table(net))
    return 4 * (sum(tower_layers) // net.towers + last)


def step_program(config, mesh):
    """The compiled training step of a config."""
    net = nets.from_config(config.model)
    key = jax.random.key(0)
    shapes = jax.eval_shape(functools.partial(alexnet.init, net), key)
    arrays = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, sharding.param_shardings(mesh, shapes)
    )
    rows, size = jax.NamedSharding(mesh, sharding.BATCH), net.stored_size
    batch = {
        "image": jax.ShapeDtypeStruct((config.batch_size, size, size, 3), np.uint8, sharding=rows),
        "label": jax.ShapeDtypeStruct((config.batch_size,), np.int32, sharding=rows),
    }
    rates = optimizer.learning_rates(config, net, optimizer.init_schedule(), 0)
    dataset = datasets.Dataset(None, None, None, tuple(map(str, range(net.num_classes))))
    step = train.make_train_step(config, net, mesh, dataset)
    return step.lower({"params": arrays, "velocity": arrays}, batch, 0, rates, True).compile()


def main():
    command_line.Parser("experiments.benchmarks.communication", __doc__).parse_args()
    command_line.set_up_jax(4)
    config = fidelity.resolve(two_gpu.get_config())
    config.batch_size = 8
    net, mesh = nets.from_config(config.model), sharding.create_mesh(2, 2, 2)
    found, least = collectives(step_program(config, mesh)), least_between_towers(net)
    print(f"{'bytes received by a device':36} {'program':>13} {'least':>13}")
    for op, direction in {"all-gather": "forward", "reduce-scatter": "backward"}.items():
        between_towers = sum(received(op, size, 2) for o, size, groups in found if (o, groups) == (op, TOWERS)) // 4
        print(f"{f'towers, {direction}, an example':36} {between_towers:13,} {least[op]:13,}")
    rows = sum(received(op, size, 2) for op, size, groups in found if groups == ROWS)
    print(f"{'two rows of the mesh, a step':36} {rows:13,} {gradient_bytes(net) + METRICS:13,}")
    others = [operation for operation in found if operation[2] not in (TOWERS, ROWS)]
    print(f"others: {others or 'none'}")


if __name__ == "__main__":
    main()
