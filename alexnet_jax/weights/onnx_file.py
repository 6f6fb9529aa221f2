"""ONNX files: our own, those of the ONNX model zoo, and exports of torchvision's AlexNet."""

import pathlib

import numpy as np

from alexnet_jax import UserError
from alexnet_jax.model import nets
from alexnet_jax.runtime import files
from alexnet_jax.weights import others, weights
from alexnet_jax.weights.weights import KEY, Weights


def read(path: pathlib.Path) -> Weights:
    """The weights in an .onnx file. Raises UserError if it is of another net; see also `formats.read`."""
    onnx = weights.import_module("onnx")
    try:
        model = onnx.load(path)
    except onnx.checker.ValidationError as error:  # the weights are in separate files
        raise UserError(str(error).partition("\n")[0][:200]) from error
    arrays = {name: onnx.numpy_helper.to_array(tensor) for name, tensor in _tensors(model.graph).items()}
    for prop in model.metadata_props:
        if prop.key == KEY:
            mean = arrays.get("mean", np.zeros(0))
            mean = mean.transpose(1, 2, 0) if mean.size > 3 else mean.reshape(-1)
            arrays = {key: x for key, x in arrays.items() if key.endswith((".weight", ".bias"))}
            names = weights.weight_names
            return weights.from_description(prop.value, mean, arrays, names, weights.from_channels_first)
    return _read_others(model.graph, arrays)


def _tensors(graph):
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:  # simplifiers turn weights into constants
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    return tensors


def _read_others(graph, arrays):
    # The tensors of other programs have numbers as names. The order of the nodes identifies the layers, and the first
    # norm and pool identify the net.
    weighted = [node for node in graph.node if node.op_type in ("Conv", "Gemm") and len(node.input) == 3]
    alexnet = nets.NETS["caffe"]
    if len(weighted) != len(alexnet.layers):
        raise UserError(f"has {len(weighted)} layers with weights instead of AlexNet's {len(alexnet.layers)}")
    operators = [node.op_type for node in graph.node]
    norm, pool = (operators.index(op) if op in operators else None for op in ("LRN", "MaxPool"))
    names = others.torchvision_names if norm is None else weights.dotted
    named = {
        names(layer.name, leaf): arrays[name]
        for layer, node in zip(alexnet.layers, weighted, strict=True)
        for leaf, name in zip(("kernel", "bias"), node.input[1:], strict=True)
        if name in arrays
    }
    if norm is None:
        return others.read_torchvision(named)
    net = "caffenet" if pool is not None and pool < norm else "caffe"
    return others.read_caffe(net, named, names, weights.from_channels_first)


def write(path: pathlib.Path, net_weights: Weights) -> None:
    """Writes the net as a graph. Raises OSError, or UserError if ONNX cannot express the net or is not installed."""
    onnx = weights.import_module("onnx")
    from alexnet_jax.weights import onnx_graph

    arrays = net_weights.arrays(weights.to_channels_first, weights.weight_names)
    model = onnx_graph.build(net_weights.net, arrays, net_weights.mean)
    onnx.helper.set_model_props(model, {KEY: net_weights.description})
    with files.whole(path, "wb") as file:
        file.write(model.SerializeToString(deterministic=True))
