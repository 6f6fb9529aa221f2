"""Exports a net as an ONNX graph: from crops, float32 [N, 3, H, W], 0–255, to logits, as in testing."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from alexnet_jax import UserError
from alexnet_jax.model import spec, structure
from alexnet_jax.model.operations import OPERATIONS

OPSET = 17


def build(net: spec.Net, arrays: Mapping[str, np.ndarray], mean: np.ndarray) -> onnx.ModelProto:
    """The graph of a net.

    Args:
      arrays: the parameters with channels first, under names like conv1.weight and conv1.bias.
      mean: the mean to subtract: a mean image, which the graph crops to its centre, or channel means [3].

    Returns:
      a model with the arrays and `mean` as initializers of the same names.

    Raises:
      UserError: ONNX cannot express a layer or an operation of the net.
    """
    graph = Graph(net)
    x = graph.prepared("image", mean)
    for layer, _, side, out_side in structure.sizes(net):
        towers = 1 if layer.cross_tower or layer is net.layers[0] else net.towers
        if isinstance(layer, spec.Local):
            raise UserError(f"{layer.name} is locally connected, for which ONNX has no operator; write .safetensors")
        if isinstance(layer, spec.Conv):
            x = graph.conv(x, layer, towers, side, out_side)
        else:
            x = graph.dense(x, layer.name, towers)
        side = out_side
        for name, _ in structure.operations(net, layer):
            operation = OPERATIONS[name]
            if not operation.to_onnx:
                raise UserError(f"{layer.name} is followed by {name}, which ONNX cannot express; write .safetensors")
            x = operation.to_onnx(graph, x, net, side)
            if operation.kind == "pool":
                side = spec.window_count(net, side, *net.pool)
    for name, array in arrays.items():
        graph.constant(name, array)
    graph.add("Identity", [x], output="logits")
    return graph.model()


class Graph:
    """The nodes and constants of a graph under construction, from the image to the logits."""

    def __init__(self, net: spec.Net):
        self.net = net
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: Sequence[str], output: str | None = None, **attributes) -> str:
        """Adds a node and returns the name of its output."""
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, name: str, array: np.ndarray) -> str:
        """Adds an array and returns its name."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def number(self, value: float) -> str:
        """Adds a float32 number and returns its name."""
        return self.constant(f"number_{len(self.constants)}", np.array(value, np.float32))

    def prepared(self, x: str, mean: np.ndarray) -> str:
        """Subtracts the mean from the image and divides it by `Net.input_std`."""
        array = mean.reshape(3, 1, 1) if mean.ndim == 1 else mean.transpose(2, 0, 1)
        name = self.constant("mean", array)
        if mean.ndim == 3:
            start = (len(mean) - self.net.image_size) // 2
            bounds = [(start, start), (start + self.net.image_size,) * 2, (1, 2)]  # starts, ends and axes
            name = self.add("Slice", [name, *(self.constant(f"centre_{i}", np.array(b)) for i, b in enumerate(bounds))])
        x = self.add("Sub", [x, name])
        std = self.constant("input_std", np.array(self.net.input_std, np.float32).reshape(3, 1, 1))
        return self.add("Div", [x, std])

    def conv(self, x: str, layer: spec.Conv, towers: int, side: int, out_side: int) -> str:
        """A convolution of `towers` towers, as groups."""
        end = spec.overhang(side, layer.size, layer.stride, out_side, layer.pad)
        return self.add(
            "Conv",
            [x, f"{layer.name}.weight", f"{layer.name}.bias"],
            kernel_shape=[layer.size] * 2,
            strides=[layer.stride] * 2,
            pads=[layer.pad, layer.pad, end, end],
            group=towers * layer.groups,
        )

    def dense(self, x: str, layer: str, towers: int) -> str:
        """The matrix products of a fully connected layer, one for each of `towers` towers."""
        weight, bias = f"{layer}.weight", f"{layer}.bias"
        x = self.add("Flatten", [x])  # the maps of a tower are adjacent, and so are its units
        if towers == 1:
            return self.add("Gemm", [x, weight, bias], transB=1)
        shares = (self.split(name, towers, axis) for name, axis in ((x, 1), (weight, 0), (bias, 0)))
        products = [self.add("Gemm", list(inputs), transB=1) for inputs in zip(*shares, strict=True)]
        return self.concat(products, axis=1)

    def concat(self, parts: Sequence[str], axis: int) -> str:
        """Joins arrays on an axis."""
        return self.add("Concat", parts, axis=axis) if len(parts) > 1 else parts[0]

    def split(self, x: str, parts: int, axis: int) -> list[str]:
        """Splits an array into equal parts on an axis."""
        if parts == 1:
            return [x]
        outputs = [f"split_{len(self.nodes)}_{i}" for i in range(parts)]
        self.nodes.append(helper.make_node("Split", [x], outputs, axis=axis))
        return outputs

    def model(self) -> onnx.ModelProto:
        """The complete model."""
        size = self.net.image_size
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, size, size])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", self.net.num_classes])
        graph = helper.make_graph(self.nodes, "alexnet", [image], [logits], self.constants)
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=8, producer_name="alexnet_jax")
