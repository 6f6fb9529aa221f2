"""Every net beside what was written or made independently of it, layer by layer; prints the table of the documentation.

  python -m tests.references.witnesses

NumPy in float64 at a sixteenth of the width, forward and backward, in training with dropout; ONNX Runtime and, where
it is installed, PyTorch at full width.
"""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import optax

from alexnet_jax.model import alexnet, counts, nets, operations, spec, structure
from alexnet_jax.runtime import sharding
from tests.references import net_numbers, numpy_net, onnx_nets
from tests.support import describe, mesh, on

# Every net, by the paper and by the 2012 code where that differs.
CASES = [(name, kind) for name, net in nets.NETS.items() for kind in ("paper", "code")[: 1 + net.two_fidelities]]


def random_params(net, seed=0):
    """Parameters that keep values near ±60 from layer to layer, where the norms matter, and make logits near ±1."""
    rng = np.random.default_rng(seed)
    params = jax.eval_shape(functools.partial(alexnet.init, net), jax.random.key(0))
    for layer in net.layers:
        kernel, bias = params[layer.name]["kernel"].shape, params[layer.name]["bias"].shape
        fan_in = np.prod(kernel[2:-1] if isinstance(layer, spec.Local) else kernel[:-1])
        scale = float(np.sqrt(2 / fan_in)) / (60 if layer is net.layers[-1] else 1)
        params[layer.name] = {
            "kernel": scale * rng.standard_normal(kernel, np.float32),
            "bias": rng.standard_normal(bias, np.float32),
        }
    return params


def random_batch(net, count, seed=1, stddev=60):
    """Pixels less their mean, float32 [count, H, W, 3], and labels."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, stddev, (count, net.image_size, net.image_size, 3)).clip(-128, 127)
    return x.astype(np.float32), rng.integers(0, net.num_classes, count)


def forward(net, params, x, devices=1):
    """Logits and named outputs of our net, as in testing."""
    params = on(mesh(1, devices), net, params)
    x = sharding.put_batch(mesh(1, devices), x)
    logits, outputs = jax.jit(functools.partial(alexnet.forward, net, mesh(1, devices)))(params, x)
    return {"logits": np.asarray(logits)} | {name: np.asarray(x) for name, x in outputs.items()}


def dropout_masks(net, keys_BxT):
    """What our dropout keeps of a whole net's outputs: {name: 0 or 1}."""
    masks = {}
    one_device = jax.sharding.AbstractMesh((1, 1), **sharding.AXES)
    _, shapes = jax.eval_shape(functools.partial(alexnet.forward, net, one_device), *abstract(net, len(keys_BxT)))
    last_names = {layer: name for name, layer in structure.outputs(net).items()}
    for layer, name in last_names.items():
        if any(operations.OPERATIONS[op].kind == "dropout" for op, _ in structure.operations(net, layer)):
            masks[name] = np.asarray(operations.dropout(keys_BxT, layer.seed, jnp.ones(shapes[name].shape)))
    return masks


def abstract(net, count):
    params = jax.eval_shape(functools.partial(alexnet.init, net), jax.random.key(0))
    return params, jax.ShapeDtypeStruct((count, net.image_size, net.image_size, 3), jnp.float32)


def loss_and_grads(net, params, x, labels, keys_BxT, devices=1):
    """Our loss and gradients, in training."""
    spec, keys_spec = sharding.param_specs(net, params), jax.P(None, "model")
    apply = jax.shard_map(
        lambda p, x, keys: alexnet.apply(net, devices, p, x, keys)[0],
        mesh=mesh(1, devices),
        in_specs=(spec, jax.P(), keys_spec),
        out_specs=jax.P(),
    )

    def loss(params):
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, x, keys_BxT), labels).mean()

    params = on(mesh(1, devices), net, params)
    keys_BxT = jax.device_put(keys_BxT, jax.NamedSharding(mesh(1, devices), keys_spec))
    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    return float(value), jax.tree.map(np.asarray, grads)


def beside_numpy(name, kind, devices=1, count=3, dtype="float32", **fields):
    """Pairs (ours, NumPy's) of all outputs in testing, and of the loss and all gradients in training."""
    # A size at which windows hang over edges, and no fewer units than a few.
    fields = ({"width": 1 / 4} if name.startswith("cifar10") else {"width": 1 / 16, "image_size": 94}) | fields
    net, described = describe(name, kind, dtype=dtype, **fields), net_numbers.describe(name, kind, **fields)
    stddev = 1 if "activation" in fields else 60  # tanh would saturate
    params, (x, labels) = random_params(net), random_batch(net, count, stddev=stddev)
    ours = forward(net, params, x, devices)
    logits, outputs = numpy_net.forward(described, params, x)
    assert ours.keys() == outputs.keys() | {"logits"}
    ahead = {name: (ours[name], value) for name, value in ({"logits": logits} | outputs).items()}

    keys = jax.random.split(jax.random.key(7), (count, net.towers))
    loss, grads = loss_and_grads(net, params, x, labels, keys, devices)
    masks = dropout_masks(net, keys)
    expected_loss, expected = numpy_net.loss_and_grads(described, params, x, labels, masks)
    back = {"loss": (loss, expected_loss)}
    for name, layer in expected.items():
        back |= {f"{name}.{leaf}": (grads[name][leaf], value) for leaf, value in layer.items()}
    return ahead, back


def beside_onnx(name, kind, net, count=1):
    """Pairs (ours, ONNX Runtime's) of all outputs in testing."""
    params, (x, _) = random_params(net), random_batch(net, count)
    theirs = onnx_nets.run(onnx_nets.build(name, kind, params, net.image_size), x)
    ours = forward(net, params, x)
    assert ours.keys() == theirs.keys()
    return {output: (ours[output], theirs[output]) for output in ours}


def torchvisions_alexnet():
    """As torchvision.models.AlexNet, in testing; its average pool to 6×6 does nothing at 224 pixels."""
    from torch import nn

    conv, relu, pool = nn.Conv2d, nn.ReLU, functools.partial(nn.MaxPool2d, 3, 2)
    return nn.Sequential(
        *[conv(3, 64, 11, 4, 2), relu(), pool(), conv(64, 192, 5, padding=2), relu(), pool()],
        *[conv(192, 384, 3, padding=1), relu(), conv(384, 256, 3, padding=1), relu()],
        *[conv(256, 256, 3, padding=1), relu(), pool(), nn.Flatten(), nn.Dropout(), nn.Linear(9216, 4096), relu()],
        *[nn.Dropout(), nn.Linear(4096, 4096), relu(), nn.Linear(4096, 1000)],
    ).eval()


def beside_torch(count=2):
    """Pairs (ours, PyTorch's) of logits, loss and gradients of torchvision's AlexNet, in testing."""
    import torch
    from torch import nn

    net = describe("one_weird_trick")
    params, (x, labels) = random_params(net), random_batch(net, count)
    theirs = torchvisions_alexnet()
    weighted = [module for module in theirs if hasattr(module, "weight")]
    with torch.no_grad():
        for layer, module in zip(net.layers, weighted, strict=True):
            module.weight.copy_(torch.from_numpy(to_torch(params[layer.name]["kernel"], layer.name)))
            module.bias.copy_(torch.from_numpy(params[layer.name]["bias"]))
    logits = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels))
    loss.backward()

    def our_loss(params):
        logits, _ = alexnet.forward(net, mesh(1, 1), params, sharding.put_batch(mesh(1, 1), x))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    our_value, grads = jax.jit(jax.value_and_grad(our_loss))(on(mesh(1, 1), net, params))
    ahead = {"logits": (forward(net, params, x)["logits"], logits.detach().numpy())}
    back = {"loss": (float(our_value), loss.item())}
    for layer, module in zip(net.layers, weighted, strict=True):
        ours = grads[layer.name]
        back[f"{layer.name}.kernel"] = to_torch(np.asarray(ours["kernel"]), layer.name), module.weight.grad.numpy()
        back[f"{layer.name}.bias"] = np.asarray(ours["bias"]), module.bias.grad.numpy()
    return ahead, back


def to_torch(kernel, name):
    """OIHW, and out × in, where the units of pool5 follow each other as channels, rows, columns."""
    if kernel.ndim == 4:
        return kernel.transpose(3, 2, 0, 1)
    if name == "fc6":
        return kernel.reshape(6, 6, 256, -1).transpose(3, 2, 0, 1).reshape(-1, 9216).copy()
    return kernel.T.copy()


def largest(pairs):
    """The largest absolute difference of all pairs, and the largest relative to its array's largest value."""
    differences = [(float(np.max(abs(a - b))), float(np.max(abs(b)))) for a, b in pairs.values()]
    return max(d for d, _ in differences), max(d / scale for d, scale in differences if d)


def main():
    print(
        "| net | as in | neurons | parameters | MACs | NumPy, forward | backward | ONNX Runtime | PyTorch, forward "
        "| backward |"
    )
    print("|---" * 10 + "|")
    for name, kind in CASES:
        full = describe(name, kind)
        pairs = beside_numpy(name, kind)
        cells = [f"{largest(pairs[0])[0]:.1e}", f"{largest(pairs[1])[0]:.1e}"]
        cells += [f"{largest(beside_onnx(name, kind, full))[0]:.1e}" if name in onnx_nets.NETS else ""]
        if name == "one_weird_trick" and importlib.util.find_spec("torch"):
            cells += [f"{largest(pairs)[0]:.1e}" for pairs in beside_torch()]
        numbers = [f"{number:,}" for number in counts.total(counts.layer_table(full))[2:]]
        source = kind if full.two_fidelities else ""
        print("| " + " | ".join([name, source, *numbers, *cells, *[""] * (5 - len(cells))]) + " |", flush=True)


if __name__ == "__main__":
    main()
