"""A net as an ONNX graph: from crops of 0–255, float32 [N, 3, H, W], to logits, as in testing."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from alexnet_jax import UserError
from alexnet_jax.model import spec

OPSET = 17


def build(net, arrays, mean):
    """The graph of a net.

    Args:
      net: a `spec.Net`.
      arrays: its parameters with channels first, from names like conv1.weight and conv1.bias.
      mean: what is subtracted: a mean image, of which the centre is taken, or channel means [3].

    Returns:
      an onnx.ModelProto with the arrays and `mean` as initializers under these names.

    Raises:
      UserError: ONNX has no operator for one of the net's layers.
    """
    graph = _Graph(net)
    x = graph.prepared("image", mean)
    for layer, _, side, out_side in spec.sizes(net):
        own = 1 if layer.both or layer is net.layers[0] else net.towers
        if isinstance(layer, spec.Local):
            raise UserError(f"{layer.name} is locally connected, for which ONNX has no operator; write .safetensors")
        x = graph.dense(x, layer, own) if isinstance(layer, spec.Dense) else graph.conv(x, layer, own, side, out_side)
        side = out_side
        for op, _ in spec.operations(net, layer):
            x, side = graph.operation(x, op, side)
    for name, array in arrays.items():
        graph.constant(name, array)
    graph.add("Identity", [x], output="logits")
    return graph.model()


class _Graph:
    """Nodes and constants of a graph that grows from the image to the logits."""

    def __init__(self, net):
        self.net, self.nodes, self.constants = net, [], []

    def add(self, operator, inputs, output=None, **attributes):
        """Adds a node and returns the name of its output."""
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, name, array):
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def number(self, value):
        return self.constant(f"number_{len(self.constants)}", np.float32(value))

    def prepared(self, x, mean):
        """The image less its mean, divided."""
        array = mean.reshape(3, 1, 1) if mean.ndim == 1 else mean.transpose(2, 0, 1)
        name = self.constant("mean", array)
        if mean.ndim == 3:
            start = (len(mean) - self.net.image_size) // 2
            bounds = [(start, start), (start + self.net.image_size,) * 2, (1, 2)]
            bounds = [self.constant(f"centre_{i}", np.array(b)) for i, b in enumerate(bounds)]
            name = self.add("Slice", [name, *bounds])
        x = self.add("Sub", [x, name])
        std = self.constant("input_std", np.float32(self.net.input_std).reshape(3, 1, 1))
        return self.add("Div", [x, std])

    def conv(self, x, layer, own, side, out_side):
        end = spec.overhang(side, layer.size, layer.stride, out_side, layer.pad)
        return self.add(
            "Conv",
            [x, f"{layer.name}.weight", f"{layer.name}.bias"],
            kernel_shape=[layer.size] * 2,
            strides=[layer.stride] * 2,
            pads=[layer.pad, layer.pad, end, end],
            group=own * layer.groups,
        )

    def dense(self, x, layer, own):
        """A product for each tower that sees only itself, or one for all."""
        weight, bias = f"{layer.name}.weight", f"{layer.name}.bias"
        x = self.add("Flatten", [x])  # the maps of a tower follow each other, so its units do
        if own == 1:
            return self.add("Gemm", [x, weight, bias], transB=1)
        x, weight, bias = (self.split(name, own, axis) for name, axis in ((x, 1), (weight, 0), (bias, 0)))
        towers = [self.add("Gemm", list(inputs), transB=1) for inputs in zip(x, weight, bias, strict=True)]
        return self.add("Concat", towers, axis=1)

    def split(self, x, parts, axis):
        outputs = [f"split_{len(self.nodes)}_{i}" for i in range(parts)]
        self.nodes.append(helper.make_node("Split", [x], outputs, axis=axis))
        return outputs

    def operation(self, x, op, side):
        """What a word of `Layer.then` means, and the side of its output."""
        net = self.net
        match op:
            case "relu" | "tanh":
                x = self.add(op.capitalize(), [x])
            case "norm":
                towers = self.split(x, net.towers, 1) if net.towers > 1 else [x]
                # ONNX divides alpha by the number of values summed.
                constants = {"alpha": net.norm.alpha * net.norm.size, "beta": 0.75, "bias": float(net.norm.k)}
                towers = [self.add("LRN", [tower], size=net.norm.size, **constants) for tower in towers]
                x = self.add("Concat", towers, axis=1) if net.towers > 1 else towers[0]
            case "same_map_norm":
                x = self.same_map_norm(x, net.same_map_norm)
            case "pool" | "average_pool":
                (size, stride), count = net.pool, spec.window_count(net, side, *net.pool)
                end = spec.overhang(side, size, stride, count)
                operator = "MaxPool" if op == "pool" else "AveragePool"
                window = {"kernel_shape": [size] * 2, "strides": [stride] * 2, "pads": [0, 0, end, end]}
                x, side = self.add(operator, [x], **window), count
            case "dropout":
                x = self.add("Mul", [x, self.number(0.5)])
        return x, side

    def same_map_norm(self, x, norm):
        """b = a / (k + α · Σ a²)^0.75 over size × size places of a map."""
        squares, pad = self.add("Mul", [x, x]), norm.size // 2
        window = {"kernel_shape": [norm.size] * 2, "pads": [pad] * 4, "count_include_pad": 1}
        means = self.add("AveragePool", [squares], **window)
        scaled = self.add("Mul", [means, self.number(norm.alpha * norm.size**2)])
        base = self.add("Add", [scaled, self.number(norm.k)])
        return self.add("Div", [x, self.add("Pow", [base, self.number(0.75)])])

    def model(self):
        size = self.net.image_size
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, size, size])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", self.net.num_classes])
        graph = helper.make_graph(self.nodes, "alexnet", [image], [logits], self.constants)
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=8, producer_name="alexnet_jax")
