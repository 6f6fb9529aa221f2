"""Files of weights: safetensors, ONNX, PyTorch state dicts, and Caffe's nets as a dict in a .npy file.

Whatever the file, our description of the net goes with it where we wrote it; others' files are known by their arrays.
"""

import collections
import dataclasses
import functools
import importlib
import io
import json
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from google.protobuf.message import DecodeError
from ml_collections import ConfigDict

from alexnet_jax import UserError
from alexnet_jax.data import datasets
from alexnet_jax.model import alexnet, nets, spec
from alexnet_jax.runtime import files
from alexnet_jax.training import fidelity
from alexnet_jax.weights import pickled
from configs import two_gpu

# Red, green and blue, 0–255. Caffe's is the mean of its ilsvrc_2012_mean file; its nets see blue first.
CAFFE_MEAN = np.array([122.67891434, 116.66876762, 104.00698793], np.float32)
TORCHVISION_MEAN = 255 * np.array([0.485, 0.456, 0.406], np.float32)
TORCHVISION_STD = (58.395, 57.12, 57.375)

# torchvision's names for the layers of one_weird_trick.
TORCHVISION_NAMES = {
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3": "features.6",
    "conv4": "features.8",
    "conv5": "features.10",
    "fc6": "classifier.1",
    "fc7": "classifier.4",
    "fc8": "classifier.6",
}
NO_STATE_DICT = "not a state dict, or damaged; nothing in it was run; torch.save(module.state_dict(), FILE) makes one"
KEY = "alexnet_jax"  # of our description in files of others' formats


@dataclasses.dataclass(frozen=True)
class Weights:
    """A trained net, apart from any directory.

    Attributes:
      model: the fields of `config.model`, as a dict.
      params: float32 NumPy arrays, as `alexnet.init` has them.
      mean: float32, what is subtracted from images: a mean image or channel means [3], RGB, 0–255.
      class_names: a name for each output.
      step: of training, 1 where nobody knows.
    """

    model: dict
    params: dict
    mean: np.ndarray
    class_names: tuple[str, ...]
    step: int = 1

    @property
    def net(self):
        return _net(self.model, len(self.class_names))

    @property
    def description(self):
        """All but the arrays, as JSON."""
        return json.dumps({"model": self.model, "class_names": self.class_names, "step": self.step}, sort_keys=True)

    def arrays(self, convert):
        """(layer, 'kernel' or 'bias', array) of all parameters, in another layout."""
        for layer in self.net.layers:
            for leaf in ("kernel", "bias"):
                x = convert(self.net, layer.name, leaf, self.params[layer.name][leaf])
                yield layer.name, leaf, np.ascontiguousarray(x)


def to_channels_first(net, name, leaf, x):
    """An array of our layout in that of PyTorch and ONNX: OIHW and out × in, maps flattened channels first."""
    axes, seen, side = _layout(net, name, leaf)
    if seen is None:
        return x.transpose(axes)
    return x.reshape(side, side, seen, -1).transpose(axes).reshape(-1, seen * side * side)


def from_channels_first(net, name, leaf, x):
    """The inverse of `to_channels_first`."""
    axes, seen, side = _layout(net, name, leaf)
    back = [axes.index(axis) for axis in range(len(axes))]
    if seen is None:
        return x.transpose(back)
    return x.reshape(-1, seen, side, side).transpose(back).reshape(side * side * seen, -1)


def _layout(net, name, leaf):
    # Where our axes go; for kernels of dense layers also the maps that they see, and their side.
    layer, seen, side, _ = next(size for size in spec.sizes(net) if size[0].name == name)
    if isinstance(layer, spec.Local):
        return ((5, 4, 2, 3, 0, 1) if leaf == "kernel" else (2, 0, 1)), None, None
    if leaf == "bias":
        return (0,), None, None
    return (3, 2, 0, 1), *((seen, side) if isinstance(layer, spec.Dense) else (None, None))


def _unchanged(net, name, leaf, x):
    return x


def _net(model, classes):
    return nets.from_config(ConfigDict(model)).with_classes(classes)


def _model(net, **fields):
    """`config.model` of a net by its name, resolved."""
    config = two_gpu.get_config()
    config.model.update({"net": net} | fields)
    return fidelity.resolve(config).model.to_dict()


def _params(net, arrays, names, convert):
    """Parameters from `arrays`, a dict. Raises UserError if these are not exactly the net's.

    Args:
      names: from a layer and 'kernel' or 'bias' to the key in the dict.
      convert: from the layout of the file to ours.
    """
    back = to_channels_first if convert is from_channels_first else _unchanged
    shapes = jax.eval_shape(functools.partial(alexnet.init, net), jax.random.key(0))
    keys = {names(layer, leaf): (layer, leaf) for layer in shapes for leaf in ("kernel", "bias")}
    if missing := keys.keys() - arrays.keys():
        raise UserError(f"has no {', '.join(sorted(missing))}; is it of another net?")
    if extra := arrays.keys() - keys.keys():
        raise UserError(f"holds {', '.join(sorted(extra))} too, which the net has not; is it of another net?")
    params = {layer: {} for layer in shapes}
    for key, (layer, leaf) in keys.items():
        x = np.asarray(arrays[key])
        wanted = jax.eval_shape(functools.partial(back, net, layer, leaf), shapes[layer][leaf]).shape
        if x.shape != wanted:
            raise UserError(f"{key} is {x.shape}, and the net's {wanted}; is it of another net?")
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise UserError(f"{key} holds {x.dtype}, not floating-point numbers")
        x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise UserError(f"{key} holds numbers that are not finite; the net is unusable")
        params[layer][leaf] = np.ascontiguousarray(convert(net, layer, leaf, x))
    return params


def _class_names(number):
    """ImageNet's, in the order that all these files have them."""
    names = tuple(datasets.imagenet_names())
    return names if number == len(names) else tuple(f"class {i}" for i in range(number))


def _described(description, mean, arrays, names, convert):
    """`Weights` from a file that we wrote. Raises UserError, TypeError or ValueError if its description is damaged."""
    fields = json.loads(description)
    if unknown := fields["model"].keys() - two_gpu.get_config().model.keys():
        raise UserError(f"is of another version of this program: its net has {', '.join(sorted(unknown))}")
    if not isinstance(fields["class_names"], list):
        raise TypeError("its class names are no list")
    model = _model(**fields["model"] | {"input_std": tuple(fields["model"]["input_std"])})  # JSON has no tuples
    class_names, step = tuple(map(str, fields["class_names"])), int(fields["step"])
    net, mean = _net(model, len(class_names)), np.asarray(mean, np.float32)
    if mean.shape not in ((3,), (net.stored_size, net.stored_size, 3)) or not np.isfinite(mean).all():
        raise ValueError(f"its mean is no mean image, but {mean.shape}")
    if step < 1:
        raise ValueError(f"its step is {step}")
    return Weights(model, _params(net, arrays, names, convert), mean, class_names, step)


def _read_caffe(name, arrays, names, convert):
    """`Weights` of Caffe's nets, whose first layer sees blue first, in images that were stretched."""
    net = nets.NETS[name].with_classes(_classes(arrays, names("fc8", "bias")))
    params = _params(net, arrays, names, convert)
    params["conv1"]["kernel"] = np.ascontiguousarray(params["conv1"]["kernel"][:, :, ::-1])
    return Weights(_model(name, stretch=True), params, CAFFE_MEAN, _class_names(net.num_classes))


def _read_torchvision(arrays):
    """`Weights` of torchvision's AlexNet, which sees standardised pixels."""
    names = _torch_name("one_weird_trick")
    model = _model("one_weird_trick", input_std=TORCHVISION_STD)
    net = _net(model, _classes(arrays, names("fc8", "bias")))
    params = _params(net, arrays, names, from_channels_first)
    return Weights(model, params, TORCHVISION_MEAN, _class_names(net.num_classes))


def _classes(arrays, key):
    return len(arrays[key]) if np.ndim(arrays.get(key)) == 1 else 1000


def _dotted(layer, leaf):
    return f"{layer}.{leaf}"


def _torch_name(net):
    names = TORCHVISION_NAMES if net == "one_weird_trick" else {}
    return lambda layer, leaf: f"{names.get(layer, layer)}.{'weight' if leaf == 'kernel' else leaf}"


def _read_safetensors(path):
    with safetensors.safe_open(path, "numpy") as file:
        description = (file.metadata() or {}).get(KEY)
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict
    if description is None:
        raise UserError("not written by this program; of others' formats it reads .pth, .onnx and .npy")
    return _described(description, arrays.pop("mean", ()), arrays, _dotted, _unchanged)


def _write_safetensors(path, weights):
    arrays = {_dotted(layer, leaf): x for layer, leaf, x in weights.arrays(_unchanged)} | {"mean": weights.mean}
    with files.whole(path, "wb") as file:
        file.write(safetensors.numpy.save(arrays, {KEY: weights.description}))


def _read_torch(path):
    torch = _import("torch")
    try:
        with warnings.catch_warnings(action="ignore"):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:  # with advice to run what is in it
        raise UserError(NO_STATE_DICT) from error
    if isinstance(state, dict):
        state = state.get("state_dict", state)  # as PyTorch's own ImageNet example saves it
    if not isinstance(state, dict) or not all(isinstance(x, torch.Tensor) for x in state.values()):
        raise UserError(NO_STATE_DICT)
    arrays = {
        key.replace("module.", ""): (x.float() if x.is_floating_point() else x).detach().numpy()  # of DataParallel
        for key, x in state.items()
    }
    ours = getattr(state, "_metadata", None) or {}
    if KEY not in ours:
        return _read_torchvision(arrays)
    name = _torch_name("one_weird_trick" if "features.0.weight" in arrays else None)
    return _described(ours[KEY], ours[f"{KEY}.mean"].numpy(), arrays, name, from_channels_first)


def _write_torch(path, weights):
    torch = _import("torch")
    name = _torch_name(weights.model["net"])
    arrays = {name(layer, leaf): torch.tensor(x) for layer, leaf, x in weights.arrays(to_channels_first)}
    state = collections.OrderedDict(arrays)
    # Where modules keep their versions: PyTorch passes over what it does not know.
    state._metadata = {KEY: weights.description, f"{KEY}.mean": torch.tensor(weights.mean)}
    buffer = io.BytesIO()  # a full disk would be a RuntimeError, and a name would get into the file
    torch.save(state, buffer)
    with files.whole(path, "wb") as file:
        file.write(buffer.getbuffer())


def _read_onnx(path):
    onnx = _import("onnx")
    try:
        model = onnx.load(path)
    except onnx.checker.ValidationError as error:  # of weights in files beside it
        raise UserError(_first_line(error)) from error
    arrays = {name: onnx.numpy_helper.to_array(tensor) for name, tensor in _onnx_tensors(model.graph).items()}
    for prop in model.metadata_props:
        if prop.key == KEY:
            mean = arrays.get("mean", np.zeros(0))
            mean = mean.transpose(1, 2, 0) if mean.size > 3 else mean.reshape(-1)
            arrays = {key: x for key, x in arrays.items() if key.endswith((".weight", ".bias"))}
            return _described(prop.value, mean, arrays, _torch_name(None), from_channels_first)
    return _read_others_onnx(model.graph, arrays)


def _onnx_tensors(graph):
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:  # where simplifiers leave weights
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    return tensors


def _read_others_onnx(graph, arrays):
    # Names are numbers there: layers are known by their order, and the net by what follows its first layers.
    weighted = [node for node in graph.node if node.op_type in ("Conv", "Gemm") and len(node.input) == 3]
    alexnet = nets.NETS["caffe"]
    if len(weighted) != len(alexnet.layers):
        raise UserError(f"has {len(weighted)} layers with weights and not AlexNet's {len(alexnet.layers)}")
    operators = [node.op_type for node in graph.node]
    norm, pool = (operators.index(op) if op in operators else None for op in ("LRN", "MaxPool"))
    names = _torch_name("one_weird_trick") if norm is None else _dotted
    found = {
        names(layer.name, leaf): arrays[name]
        for layer, node in zip(alexnet.layers, weighted, strict=True)
        for leaf, name in zip(("kernel", "bias"), node.input[1:], strict=True)
        if name in arrays
    }
    if norm is None:
        return _read_torchvision(found)
    return _read_caffe("caffenet" if pool is not None and pool < norm else "caffe", found, names, from_channels_first)


def _write_onnx(path, weights):
    onnx = _import("onnx")
    from alexnet_jax.weights import onnx_graph

    name = _torch_name(None)
    arrays = {name(layer, leaf): x for layer, leaf, x in weights.arrays(to_channels_first)}
    model = onnx_graph.build(weights.net, arrays, weights.mean)
    onnx.helper.set_model_props(model, {KEY: weights.description})
    with files.whole(path, "wb") as file:
        file.write(model.SerializeToString(deterministic=True))


def _read_npy(path):
    arrays = {}
    for layer, (weights, biases) in pickled.read_dict(path).items():
        arrays |= {_dotted(layer, "kernel"): weights.array(), _dotted(layer, "bias"): biases.array()}
    return _read_caffe("caffe", arrays, _dotted, _unchanged)


def _import(module):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"needs {module}; pip install '.[{module}]'") from error


def _first_line(error):
    return str(error).partition("\n")[0][:200]


# What the readers of others' formats raise for a broken file, each in its own way.
BROKEN = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
BROKEN += (DecodeError, pickle.UnpicklingError, safetensors.SafetensorError)


READERS = {".pth": _read_torch, ".onnx": _read_onnx, ".npy": _read_npy, ".safetensors": _read_safetensors}
WRITERS = {".pth": _write_torch, ".onnx": _write_onnx, ".safetensors": _write_safetensors}
