"""Random weights of our own nets, and files of weights as others make them."""

import functools

import numpy as np
import witnesses
from conftest import describe
from onnx import TensorProto, helper, numpy_helper

from alexnet_jax import fidelity, formats, nets
from configs import two_gpu

TORCHVISION_NAMES = [f"features.{i}" for i in (0, 3, 6, 8, 10)] + [f"classifier.{i}" for i in (1, 4, 6)]


def some_weights(name, kind="paper", classes=7, **fields):
    """Random weights of a narrow net, with a mean image."""
    config = two_gpu.get_config()
    config.fidelity = kind
    narrow = {"width": 1 / 4} if name.startswith("cifar10") else {"width": 1 / 16, "image_size": 94}
    config.model.update({"net": name} | narrow | fields)
    model = fidelity.resolve(config).model
    net = nets.from_config(model).with_classes(classes)
    mean = np.random.default_rng(2).uniform(0, 255, (net.stored_size, net.stored_size, 3)).astype(np.float32)
    class_names = tuple(f"class é {i}" for i in range(classes))
    return formats.Weights(model.to_dict(), witnesses.random_params(net), mean, class_names, step=12)


@functools.cache
def caffe_params():
    """At full size."""
    return witnesses.random_params(describe("caffe"))


def blue_first(params):
    return params | {"conv1": params["conv1"] | {"kernel": params["conv1"]["kernel"][:, :, ::-1]}}


def write_npy(path, params):
    layers = {name: [layer["kernel"], layer["bias"]] for name, layer in blue_first(params).items()}
    np.save(path, np.array(layers, dtype=object), allow_pickle=True)


def write_caffe_onnx(path, params, **options):
    """As the model zoo's files of Caffe's nets: blue first."""
    write_onnx(path, blue_first(params), **options)


def write_onnx(path, params, norm_and_pool=("LRN", "MaxPool"), constants=False):
    """A graph as in the model zoo: channels first, a Reshape before fc6, Dropout nodes, numbered names."""
    nodes, tensors, x, number = [], [], "data_0", iter(range(100))

    def add(operator, *inputs, **attributes):
        nodes.append(helper.make_node(operator, [x, *inputs], [f"out_{next(number)}"], **attributes))
        return nodes[-1].output[0]

    def tensor(array):
        x = numpy_helper.from_array(np.ascontiguousarray(array), f"weight_{next(number)}")
        if constants:
            nodes.append(helper.make_node("Constant", [], [x.name], value=x))
        else:
            tensors.append(x)
        return x.name

    for name, layer in params.items():
        kernel, bias = layer["kernel"], layer["bias"]
        if kernel.ndim == 4:
            group = 2 if name in ("conv2", "conv4", "conv5") and "LRN" in norm_and_pool else 1
            x = add("Conv", tensor(kernel.transpose(3, 2, 0, 1)), tensor(bias), group=group)
            x = add("Relu")
            if name in ("conv1", "conv2"):
                for operator in norm_and_pool:
                    x = add(operator, **({"size": 5} if operator == "LRN" else {"kernel_shape": [3, 3]}))
        else:
            if name == "fc6":
                x = add("Reshape", tensor(np.array([1, 9216])))
                kernel = kernel.reshape(6, 6, 256, 4096).transpose(2, 0, 1, 3).reshape(9216, 4096)
            x = add("Gemm", tensor(kernel.T), tensor(bias), transB=1)
            x = add("Dropout") if name != "fc8" else add("Softmax")
    image = helper.make_tensor_value_info("data_0", TensorProto.FLOAT, [1, 3, 224, 224])
    out = helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, 1000])
    path.write_bytes(helper.make_model(helper.make_graph(nodes, "zoo", [image], [out], tensors)).SerializeToString())
