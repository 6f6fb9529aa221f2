"""ONNX files: our own, those of the ONNX model zoo, and exports of torchvision's AlexNet."""

import math
import os
from typing import IO, Any

import numpy as np

from alexnet_jax import UserError
from alexnet_jax.model import nets
from alexnet_jax.runtime import files
from alexnet_jax.weights import others, weights
from alexnet_jax.weights.weights import KEY, Weights

FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
MOST = 2_000_000_000  # bytes of arrays in a file: a message of protobuf has less than 2 GiB


def read(file: IO[bytes]) -> Weights:
    """The weights in an .onnx file. Raises UserError if it is of another net; see also `formats.read`."""
    onnx = weights.import_module("onnx")
    model = onnx.load_model_from_string(file.read())
    tensors, directory = _tensors(model.graph), os.path.dirname(file.name)
    for prop in model.metadata_props:
        if prop.key == KEY:
            mean = _array(tensors["mean"], directory) if "mean" in tensors else np.zeros(0)
            mean = mean.transpose(1, 2, 0) if mean.size > 3 else mean.reshape(-1)
            arrays = {key: _array(x, directory) for key, x in tensors.items() if key.endswith((".weight", ".bias"))}
            names = weights.weight_names
            return weights.from_description(prop.value, mean, arrays, names, weights.from_channels_first)
    return _read_others(model.graph, tensors, directory)


def _tensors(graph):
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:  # simplifiers turn weights into constants
        if node.op_type == "Constant":
            values = [attribute.t for attribute in node.attribute if attribute.name == "value"]
            tensors |= dict(zip(node.output, values, strict=False))
    return tensors


def _array(tensor: Any, directory: str) -> np.ndarray:
    # Others' files may have the numbers in further files, as PyTorch's exporter writes them.
    import onnx

    kind = onnx.TensorProto.DataType.Name(tensor.data_type)
    if kind not in FLOATS:
        raise UserError(f"{tensor.name} holds {kind}, not floating-point numbers")
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return onnx.numpy_helper.to_array(tensor)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    directory = os.path.realpath(directory)
    path = os.path.normpath(os.path.join(directory, entries["location"]))
    if os.path.realpath(path) != path or os.path.commonpath([path, directory]) != directory:
        raise UserError(f"its weights are in {path}, which is elsewhere or a link; put that file beside it")
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    start, length = int(entries.get("offset", 0)), math.prod(tensor.dims) * dtype.itemsize
    with files.reading(path) as file:
        is_inside = 0 <= start <= start + length <= os.fstat(file.fileno()).st_size
        if not is_inside or length > MOST or int(entries.get("length", length)) != length:
            raise ValueError(f"{tensor.name} does not have its {length} bytes at byte {start} of {path}")
        file.seek(start)
        data = file.read(length)
    return np.frombuffer(data, dtype).reshape(tensor.dims)


def _read_others(graph, tensors, directory):
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
        names(layer.name, leaf): _array(tensors[name], directory)
        for layer, node in zip(alexnet.layers, weighted, strict=True)
        for leaf, name in zip(("kernel", "bias"), node.input[1:], strict=True)
        if name in tensors
    }
    if norm is None:
        return others.read_torchvision(named)
    net = "caffenet" if pool is not None and pool < norm else "caffe"
    return others.read_caffe(net, named, names, weights.from_channels_first)


def write(file: IO[bytes], net_weights: Weights) -> None:
    """Writes the net as a graph. Raises UserError if ONNX cannot express the net, or is not installed."""
    onnx = weights.import_module("onnx")
    from alexnet_jax.weights import onnx_graph

    arrays = net_weights.arrays(weights.to_channels_first, weights.weight_names)
    if sum(x.nbytes for x in arrays.values()) > MOST:
        raise UserError(f"ONNX files hold at most {MOST / 1e9:g} GB; write .safetensors")
    model = onnx_graph.build(net_weights.net, arrays, net_weights.mean)
    onnx.helper.set_model_props(model, {KEY: net_weights.description})
    file.write(model.SerializeToString(deterministic=True))
