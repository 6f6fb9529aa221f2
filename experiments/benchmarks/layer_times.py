"""Convolutions and matrix products of the two-tower net by layer, compared with the machine's rate of matrix products.

  python experiments/benchmarks/layer_times.py [--batch_size=128] [--repeats=9] [--output=FILE]

Forward, the gradient of the input and that of the kernel, for both towers on one device, compiled as in the program.
The unit of the median times is the time of a whole step if all its operations ran at the machine's rate. The remainder
of a step goes into norms, pooling, activations, augmentation, the optimiser, and copies between layouts.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from alexnet_jax.model import alexnet, counts, spec, structure
from alexnet_jax.runtime import command_line, sharding
from experiments.benchmarks import contestants, harness, two_gpu_step

NET = two_gpu_step.NET


def main():
    args = harness.Parser("layer_times", __doc__, pytorch=False, batch_size=128, repeats=9).parse()
    command_line.set_up_jax(1)
    jax.config.update("jax_platforms", "cpu")
    compile_ = functools.partial(jax.jit, compiler_options=sharding.compiler_options(sharding.create_mesh(1, 1, 2)))
    model = alexnet.AlexNet(NET, rngs=nnx.Rngs(0))
    square = jax.random.normal(jax.random.key(0), (contestants.SQUARE, contestants.SQUARE))
    product_seconds = seconds_of(compile_(jnp.matmul), args.repeats, square, square)
    whole_step = two_gpu_step.operations() * args.batch_size / (2 * contestants.SQUARE**3) * product_seconds
    print(f"{harness.machine()}\nbatch {args.batch_size}; a step at the rate of matrix products = 100 %\n")
    print(f"{'':8}{'at that rate':>14}{'forward':>12}{'input':>12}{'kernel':>12}{'all':>12}")
    rows = {}
    for (layer, in_channels, side, _), numbers in zip(structure.sizes(NET), counts.layer_table(NET), strict=True):
        weights, shared = getattr(model, layer.name), layer.cross_tower or layer is NET.layers[0]
        kernels = jnp.split(weights.kernel[...], 1 if shared else NET.towers, axis=-1)
        shape = (in_channels * side * side,) if isinstance(layer, spec.Dense) else (side, side, in_channels)
        inputs = [jax.random.normal(jax.random.key(1), (args.batch_size, *shape)) for _ in kernels]

        def forward(inputs, kernels, product=weights.product):
            return [product(x, kernel) for x, kernel in zip(inputs, kernels, strict=True)]

        def input_gradient(inputs, kernels, grads, forward=forward):
            return jax.vjp(lambda inputs: forward(inputs, kernels), inputs)[1](grads)

        def kernel_gradient(inputs, kernels, grads, forward=forward):
            return jax.vjp(lambda kernels: forward(inputs, kernels), kernels)[1](grads)

        grads = forward(inputs, kernels)
        seconds = {"forward": seconds_of(compile_(forward), args.repeats, inputs, kernels)}
        if layer is not NET.layers[0]:  # its input needs none
            seconds["input"] = seconds_of(compile_(input_gradient), args.repeats, inputs, kernels, grads)
        seconds["kernel"] = seconds_of(compile_(kernel_gradient), args.repeats, inputs, kernels, grads)
        rows[layer.name] = {part: value / whole_step for part, value in seconds.items()}
        row = rows[layer.name]
        cells = "".join(f"{row[part]:12.1%}" if part in row else f"{'':12}" for part in ("forward", "input", "kernel"))
        at_rate = len(row) * 2 * numbers.macs / two_gpu_step.operations()
        print(f"{layer.name:8}{at_rate:14.1%}{cells}{sum(row.values()):12.1%}", flush=True)
    print(f"{'all':8}{1:14.1%}{sum(sum(row.values()) for row in rows.values()):48.1%}")
    harness.write(args.output, batch_size=args.batch_size, shares=rows)


def seconds_of(function, repeats, *inputs):
    """The median time of a call, after one that compiles."""
    jax.block_until_ready(function(*inputs))
    return harness.median_seconds(lambda: jax.block_until_ready(function(*inputs)), repeats)


if __name__ == "__main__":
    main()
