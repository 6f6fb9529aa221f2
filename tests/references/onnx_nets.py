"""The nets written out by hand as ONNX graphs, for ONNX Runtime to run: a second opinion on their arithmetic."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


class Graph:
    """A chain of ONNX nodes; an operation appends to it and returns the graph.

    `shape` is the newest tensor's: [N, C, H, W] of maps (N stays a letter), [N, units] after `flatten`.
    What an operation with a label yields is an output of the graph, in the state that the operations without a label
    (relu, half) leave it in.
    """

    def __init__(self, params, image_size, code):
        self.params, self.code = dict(params), code
        self.tensor, self.shape = "image", ["N", 3, image_size, image_size]
        self.label, self.outputs = None, {}
        self.nodes, self.weights = [], []
        # Torch leaves out a last window that would hang over the edge.
        self.floor = False

    def constant(self, value):
        self.weights.append(numpy_helper.from_array(np.asarray(value, np.float32), f"constant{len(self.weights)}"))
        return self.weights[-1].name

    def node(self, op, *inputs, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [f"{op}{len(self.nodes)}"], **attributes))
        return self.nodes[-1].output[0]

    def then(self, tensor, label=None):
        self.tensor, self.label = tensor, label or self.label
        self.outputs[self.label] = tensor, list(self.shape)
        return self

    def each(self, towers, apply):
        """apply(i, part) for the part of each tower in the newest tensor, tower 0 first; joined along axis 1."""
        parts = [f"{self.tensor}_tower{i}" for i in range(towers)]
        self.nodes.append(helper.make_node("Split", [self.tensor], parts, axis=1))
        return self.node("Concat", *map(apply, range(towers), parts), axis=1)

    def slide(self, window, stride, pad=0):
        """Shrink `shape` to the number of windows; the attributes of a node, with the pads top, left, bottom, right."""
        room = 2 * pad + self.shape[2] - window
        steps = room // stride if self.floor else -(-room // stride)
        end = pad + max(0, steps * stride - room)
        self.shape[2:] = [1 + steps] * 2
        return {"kernel_shape": [window] * 2, "strides": [stride] * 2, "pads": [pad, pad, end, end]}

    def conv(self, label, stride=1, pad=0, groups=1):
        """Kernel H×W×I×O, with tower 0's first among O as ONNX has its groups."""
        layer = self.params.pop(label)
        windows = self.slide(len(layer["kernel"]), stride, pad)
        self.shape[1] = len(layer["bias"])
        weights = self.constant(layer["kernel"].transpose(3, 2, 0, 1)), self.constant(layer["bias"])
        return self.then(self.node("Conv", self.tensor, *weights, group=groups, **windows), label)

    def max_pool(self, label, window):
        return self.then(self.node("MaxPool", self.tensor, **self.slide(window, 2)), label)

    def average_pool(self, label, window):
        """Means over the pixels inside of the image."""
        windows = self.slide(window, 2)
        return self.then(self.node("AveragePool", self.tensor, count_include_pad=0, **windows), label)

    def lrn(self, label, k, alpha, towers=1):
        """Over five maps of one tower; ONNX divides `alpha` by five."""
        constants = {"size": 5, "bias": float(k), "alpha": alpha, "beta": 0.75}
        return self.then(self.each(towers, lambda _, tower: self.node("LRN", tower, **constants)), label)

    def same_map_norm(self, label, window, scale):
        """a / (1 + scale/window² · Σ a²)^0.75; a mean that counts the zeros outside divides by window² everywhere."""
        square = self.node("Mul", self.tensor, self.tensor)
        windows = {"kernel_shape": [window] * 2, "pads": [window // 2] * 4}
        mean = self.node("AveragePool", square, count_include_pad=1, **windows)
        base = self.node("Add", self.node("Mul", mean, self.constant(scale)), self.constant(1))
        return self.then(self.node("Div", self.tensor, self.node("Pow", base, self.constant(0.75))), label)

    def relu(self):
        return self.then(self.node("Relu", self.tensor))

    def half(self):
        """Dropout of 2012 at test time."""
        return self.then(self.node("Mul", self.tensor, self.constant(0.5)))

    def flatten(self, towers=1):
        """In the order h, w, c with the maps of both towers in c; or so for each tower, one after the other."""
        self.tensor = self.each(
            towers, lambda _, tower: self.node("Flatten", self.node("Transpose", tower, perm=[0, 2, 3, 1]), axis=1)
        )
        self.shape = ["N", int(np.prod(self.shape[1:]))]
        return self

    def dense(self, label, towers=1):
        """Kernel inputs×units; with two towers inputs of one tower × units of both."""
        layer = self.params.pop(label)
        self.shape[1] = len(layer["bias"])
        kernels, biases = ([self.constant(w) for w in np.split(layer[k], towers, -1)] for k in ("kernel", "bias"))
        return self.then(self.each(towers, lambda i, tower: self.node("Gemm", tower, kernels[i], biases[i])), label)


def blocks_1_and_2(net, towers, window=3, conv2_pad=2):
    # The code divides alpha by five as ONNX does; the paper does not.
    if net.code:
        net.conv("conv1", stride=4).lrn("norm1", 2, 1e-4, towers).max_pool("pool1", window).relu()
        net.conv("conv2", pad=conv2_pad, groups=towers).relu().lrn("norm2", 2, 1e-4, towers)
        net.same_map_norm("same_map_norm2", 5, 0.001).max_pool("pool2", window)
    else:
        net.conv("conv1", stride=4).relu().lrn("norm1", 2, 5e-4, towers).max_pool("pool1", window)
        net.conv("conv2", pad=conv2_pad, groups=towers).relu().lrn("norm2", 2, 5e-4, towers).max_pool("pool2", window)


def block_5(net, towers, window=3, pad=1):
    net.conv("conv5", pad=pad, groups=towers)
    if net.code:
        net.max_pool("pool5", window).relu()
    else:
        net.relu().max_pool("pool5", window)


def two_gpu(net):
    blocks_1_and_2(net, towers=2)
    net.conv("conv3", pad=1).relu().conv("conv4", pad=1, groups=2).relu()
    block_5(net, towers=2)
    net.flatten().dense("fc6").relu().half().dense("fc7").relu().half().dense("fc8")


def one_gpu(net):
    blocks_1_and_2(net, towers=1)
    net.conv("conv3", pad=1).relu().conv("conv4", pad=1).relu()
    block_5(net, towers=1)
    net.flatten().dense("fc6").relu().half().dense("fc7").relu().half().dense("fc8")


def no_overlap(net):
    blocks_1_and_2(net, towers=2, window=2, conv2_pad=1)
    net.conv("conv3", pad=1).relu().conv("conv4", pad=1, groups=2).relu()
    block_5(net, towers=2, window=2, pad=0)
    net.flatten().dense("fc6").relu().half().dense("fc7").relu().half().dense("fc8")


def no_norm(net):
    if net.code:
        net.conv("conv1", stride=4).max_pool("pool1", 3).relu()
    else:
        net.conv("conv1", stride=4).relu().max_pool("pool1", 3)
    net.conv("conv2", pad=2, groups=2).relu().max_pool("pool2", 3)
    net.conv("conv3", pad=1).relu().conv("conv4", pad=1, groups=2).relu()
    block_5(net, towers=2)
    net.flatten().dense("fc6").relu().half().dense("fc7").relu().half().dense("fc8")


def no_dropout(net):
    blocks_1_and_2(net, towers=2)
    net.conv("conv3", pad=1).relu().conv("conv4", pad=1, groups=2).relu()
    block_5(net, towers=2)
    net.flatten().dense("fc6").relu().dense("fc7").relu().dense("fc8")


def separate(net):
    blocks_1_and_2(net, towers=2)
    net.conv("conv3", pad=1, groups=2).relu().conv("conv4", pad=1, groups=2).relu()
    block_5(net, towers=2)
    net.flatten(towers=2).dense("fc6", towers=2).relu().half().dense("fc7", towers=2).relu().half().dense("fc8")


def sixth_conv(net):
    blocks_1_and_2(net, towers=2)
    net.conv("conv3", pad=1).relu().conv("conv4", pad=1, groups=2).relu()
    block_5(net, towers=2)
    net.conv("conv6", pad=1).relu()
    net.flatten().dense("fc6").relu().half().dense("fc7").relu().half().dense("fc8")


def no_towers(net):
    net.conv("conv1", stride=4).relu().lrn("norm1", 2, 5e-4).max_pool("pool1", 3)
    net.conv("conv2", pad=2).relu().lrn("norm2", 2, 5e-4).max_pool("pool2", 3)
    net.conv("conv3", pad=1).relu().conv("conv4", pad=1).relu().conv("conv5", pad=1).relu().max_pool("pool5", 3)
    net.flatten().dense("fc6").relu().half().dense("fc7").relu().half().dense("fc8")


def one_weird_trick(net):
    net.floor = True
    net.conv("conv1", stride=4, pad=2).relu().max_pool("pool1", 3)
    net.conv("conv2", pad=2).relu().max_pool("pool2", 3)
    net.conv("conv3", pad=1).relu().conv("conv4", pad=1).relu().conv("conv5", pad=1).relu().max_pool("pool5", 3)
    net.flatten().dense("fc6").relu().dense("fc7").relu().dense("fc8")


def caffe(net):
    net.conv("conv1", stride=4).relu().lrn("norm1", 1, 1e-4).max_pool("pool1", 3)
    net.conv("conv2", pad=2, groups=2).relu().lrn("norm2", 1, 1e-4).max_pool("pool2", 3)
    net.conv("conv3", pad=1).relu().conv("conv4", pad=1, groups=2).relu()
    net.conv("conv5", pad=1, groups=2).relu().max_pool("pool5", 3)
    net.flatten().dense("fc6").relu().dense("fc7").relu().dense("fc8")


def caffenet(net):
    net.conv("conv1", stride=4).relu().max_pool("pool1", 3).lrn("norm1", 1, 1e-4)
    net.conv("conv2", pad=2, groups=2).relu().max_pool("pool2", 3).lrn("norm2", 1, 1e-4)
    net.conv("conv3", pad=1).relu().conv("conv4", pad=1, groups=2).relu()
    net.conv("conv5", pad=1, groups=2).relu().max_pool("pool5", 3)
    net.flatten().dense("fc6").relu().dense("fc7").relu().dense("fc8")


def cifar10_figure1(net):
    net.conv("conv1", pad=2).max_pool("pool1", 3).relu()
    net.conv("conv2", pad=2).relu().average_pool("pool2", 3)
    net.conv("conv3", pad=2).relu().average_pool("pool3", 3)
    net.flatten().dense("fc10")


def cifar10_80sec(net):
    net.conv("conv1", pad=2).relu().max_pool("pool1", 3)
    net.conv("conv2", pad=2).relu().average_pool("pool2", 3)
    net.conv("conv3", pad=2).relu().average_pool("pool3", 3)
    net.flatten().dense("fc64").relu().dense("fc10")


def cifar10_18pct(net):
    net.conv("conv1", pad=2).max_pool("pool1", 3).relu().same_map_norm("same_map_norm1", 3, 5e-5)
    net.conv("conv2", pad=2).relu().average_pool("pool2", 3).same_map_norm("same_map_norm2", 3, 5e-5)
    net.conv("conv3", pad=2).relu().average_pool("pool3", 3)
    net.flatten().dense("fc10")


NETS = (two_gpu, one_gpu, no_overlap, no_norm, no_dropout, separate, sixth_conv, no_towers)
NETS += (one_weird_trick, caffe, caffenet, cifar10_figure1, cifar10_80sec, cifar10_18pct)
NETS = {net.__name__: net for net in NETS}


def build(name, fidelity, params, image_size):
    """A model from "image" N×3×H×W to "logits" N×classes and all that has a label, maps N×C×H×W and layers N×units.

    `fidelity` ("paper" or "code") is of the first seven nets. `params` has a "kernel" (H×W×I×O with I of one group, or
    inputs×units) and a "bias" of each layer; their sizes are the net's.
    """
    net = Graph(params, image_size, fidelity == "code")
    NETS[name](net)
    assert not net.params, f"not in {name}: {list(net.params)}"
    net.outputs["logits"] = net.outputs.pop(net.label)
    net.nodes += [helper.make_node("Identity", [tensor], [label]) for label, (tensor, _) in net.outputs.items()]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, image_size, image_size])
    outputs = [helper.make_tensor_value_info(k, TensorProto.FLOAT, shape) for k, (_, shape) in net.outputs.items()]
    graph = helper.make_graph(net.nodes, name, [image], outputs, net.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model, x):
    """What the model yields by its names, maps B×H×W×C, for images B×H×W×3."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"image": np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32)})
    maps = (y.transpose(0, 2, 3, 1) if y.ndim == 4 else y for y in outputs)
    return dict(zip([output.name for output in session.get_outputs()], maps, strict=True))
