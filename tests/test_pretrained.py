"""Weights in and out: every net and format there and back, others' files beside NumPy, and broken ones."""

import functools
import json
import os
import pickle
import subprocess
import sys

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
import reference
import witnesses
from conftest import describe, mesh, on
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from alexnet_jax import UserError, checkpoint, datasets, ensemble, fidelity, formats, nets, predict, pretrained, train
from configs import two_gpu

SUFFIXES = [".safetensors", ".onnx", pytest.param(".pth", marks=pytest.mark.slow)]  # .pth needs torch


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


def assert_same(a, b):
    assert (a.model, a.class_names, a.step, a.net) == (b.model, b.class_names, b.step, b.net)
    np.testing.assert_array_equal(a.mean, b.mean)
    assert jax.tree.structure(a.params) == jax.tree.structure(b.params)
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        assert x.dtype == y.dtype == np.float32
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("name", "kind"), witnesses.CASES)
def test_there_and_back(name, kind, suffix, tmp_path):
    weights = some_weights(name, kind)
    path = tmp_path / f"net{suffix}"
    if suffix == ".onnx" and name in ("cifar10_13pct", "cifar10_11pct"):
        with pytest.raises(UserError, match="local3 is locally connected, for which ONNX has no operator"):
            pretrained.write(path, weights)
        assert not path.exists()
        return
    pretrained.write(path, weights)
    assert_same(pretrained.read(path), weights)
    pretrained.write(tmp_path / f"again{suffix}", weights)
    assert (tmp_path / f"again{suffix}").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("fields", [{"activation": "tanh"}, {"without": "conv4"}, {"input_std": (58.0, 57.0, 57.5)}])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_variants_there_and_back(fields, suffix, tmp_path):
    weights = some_weights("two_gpu", **fields)
    pretrained.write(tmp_path / f"net{suffix}", weights)
    assert_same(pretrained.read(tmp_path / f"net{suffix}"), weights)


@pytest.mark.parametrize(
    ("name", "kind", "fields"),
    [(*case, {}) for case in witnesses.CASES if case[0] not in ("cifar10_13pct", "cifar10_11pct")]
    + [("two_gpu", "code", {"activation": "tanh", "without": "conv5", "input_std": (58.0, 57.0, 57.5)})],
)
def test_written_onnx_gives_the_same_logits_in_onnx_runtime(name, kind, fields, tmp_path):
    weights = some_weights(name, kind, **fields)
    net, path = weights.net, tmp_path / "net.onnx"
    pretrained.write(path, weights)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    images = np.random.default_rng(1).integers(0, 256, (3, net.image_size, net.image_size, 3)).astype(np.float32)
    start = (net.stored_size - net.image_size) // 2
    window = slice(start, start + net.image_size)
    ours = witnesses.forward(net, weights.params, images - weights.mean[window, window])["logits"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"image": images.transpose(0, 3, 1, 2).copy()})
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * abs(theirs).max())


@pytest.mark.slow
def test_torchvisions_module_loads_what_is_written(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra torch")
    weights = some_weights("one_weird_trick", classes=1000, width=1.0, image_size=224)
    pretrained.write(tmp_path / "net.pth", weights)
    state = torch.load(tmp_path / "net.pth", weights_only=True)
    assert list(state) == [f"{name}.{leaf}" for name in TORCHVISION_NAMES for leaf in ("weight", "bias")]
    module = witnesses.torchvisions_alexnet()
    weighted = [number for number, part in enumerate(module) if hasattr(part, "weight")]
    numbers = dict(zip(TORCHVISION_NAMES, weighted, strict=True))
    module.load_state_dict({f"{numbers[k.rpartition('.')[0]]}.{k.rpartition('.')[2]}": x for k, x in state.items()})
    x, _ = witnesses.random_batch(weights.net, 2)
    with torch.no_grad():
        theirs = module(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(
        witnesses.forward(weights.net, weights.params, x)["logits"], theirs, atol=1e-5 * abs(theirs).max()
    )


TORCHVISION_NAMES = [f"features.{i}" for i in (0, 3, 6, 8, 10)] + [f"classifier.{i}" for i in (1, 4, 6)]

# Others' files at full size, made here as their authors make them.


@pytest.fixture(scope="module")
def caffe_params():
    return witnesses.random_params(describe("caffe"))


def blue_first(params):
    return params | {"conv1": params["conv1"] | {"kernel": params["conv1"]["kernel"][:, :, ::-1]}}


def write_npy(path, params):
    layers = {name: [layer["kernel"], layer["bias"]] for name, layer in blue_first(params).items()}
    np.save(path, np.array(layers, dtype=object), allow_pickle=True)


def write_zoo_onnx(path, params, norm_first=True, constants=False):
    """The zoo's graph: channels and then blue first, a Reshape before fc6, Dropout nodes, numbered names."""
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

    for name, layer in blue_first(params).items():
        kernel, bias = layer["kernel"], layer["bias"]
        if kernel.ndim == 4:
            group = 1 if name in ("conv1", "conv3") else 2
            x = add("Conv", tensor(kernel.transpose(3, 2, 0, 1)), tensor(bias), group=group)
            x = add("Relu")
            if name in ("conv1", "conv2"):
                for operator in ("LRN", "MaxPool") if norm_first else ("MaxPool", "LRN"):
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


@pytest.mark.parametrize(
    ("write", "name", "net"),
    [
        (write_npy, "bvlc_alexnet.npy", "caffe"),
        (write_zoo_onnx, "bvlcalexnet-12.onnx", "caffe"),
        (functools.partial(write_zoo_onnx, norm_first=False, constants=True), "caffenet-12.onnx", "caffenet"),
    ],
)
def test_caffes_weights_are_read(write, name, net, caffe_params, tmp_path):
    write(tmp_path / name, caffe_params)
    weights = pretrained.read(tmp_path / name)
    assert weights.model["net"] == net
    for layer, expected in caffe_params.items():
        for leaf, x in expected.items():
            np.testing.assert_array_equal(weights.params[layer][leaf], x, err_msg=f"{layer}.{leaf}")
    assert weights.class_names == tuple(datasets.imagenet_names())
    assert weights.net.image_size == 227


def test_predictions_by_caffes_weights_need_no_settings(caffe_params, tmp_path):
    write_npy(tmp_path / "bvlc_alexnet.npy", caffe_params)
    pretrained.to_workdir(pretrained.read(tmp_path / "bvlc_alexnet.npy"), tmp_path / "caffe")
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    (answer,) = predict.predict(ensemble.load([tmp_path / "caffe"]), [tmp_path / "image.png"])

    # As Caffe does: blue first, less the mean of blue, green and red; windows of 227.
    blue_green_red = pixels[:, :, ::-1].astype(float) - [104.00698793, 116.66876762, 122.67891434]
    crops = [(14, 14), (0, 0), (0, 29), (29, 0), (29, 29)]
    crops = [blue_green_red[y : y + 227, x : x + 227] for y, x in crops]
    views = np.stack(crops + [crop[:, ::-1] for crop in crops])
    logits = reference.forward(reference.describe("caffe"), blue_first(caffe_params), views)[0]
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = (probabilities / probabilities.sum(1, keepdims=True)).mean(0)
    best = np.argsort(-probabilities)[:5]
    names = list(datasets.imagenet_names())
    assert [row["class"] for row in answer["predictions"]] == [names[i] for i in best]
    found = [row["probability"] for row in answer["predictions"]]
    np.testing.assert_allclose(found, probabilities[best], atol=2e-6)


@pytest.mark.slow
def test_predictions_by_torchvisions_weights_need_no_settings(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra torch")
    model = witnesses.torchvisions_alexnet()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 2
    weighted = [module for module in model if hasattr(module, "weight")]
    state = {
        f"{n}.{leaf}": getattr(m, leaf).data
        for n, m in zip(TORCHVISION_NAMES, weighted, strict=True)
        for leaf in ("weight", "bias")
    }
    torch.save(state, tmp_path / "alexnet.pth")
    pretrained.to_workdir(pretrained.read(tmp_path / "alexnet.pth"), tmp_path / "torchvision")
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    (answer,) = predict.predict(ensemble.load([tmp_path / "torchvision"]), [tmp_path / "image.png"])

    standardised = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    crops = [standardised[y : y + 224, x : x + 224] for y, x in [(16, 16), (0, 0), (0, 32), (32, 0), (32, 32)]]
    views = np.stack(crops + [crop[:, ::-1] for crop in crops]).transpose(0, 3, 1, 2)
    with torch.no_grad():
        probabilities = torch.softmax(model(torch.from_numpy(views.astype(np.float32))), 1).mean(0).numpy()
    found = {row["class"]: row["probability"] for row in answer["predictions"]}
    names = list(datasets.imagenet_names())
    assert list(found) == [names[i] for i in np.argsort(-probabilities)[:5]]
    np.testing.assert_allclose(list(found.values()), np.sort(probabilities)[:-6:-1], atol=2e-6)


# Files that are something else.


class Harmful:
    """Unpickled without care, it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Dangling:
    """Unpickled by NumPy itself, it would be an array whose values lie at addresses from the file."""

    def __reduce__(self):
        return np.ndarray, ((2,), "O", b"A" * 16)


def test_a_pickle_is_never_run(tmp_path):
    trap = tmp_path / "trap"
    contents = [Harmful(trap), {"conv1": [Harmful(trap), 0]}, {"conv1": Dangling()}, [1], {"conv1": [0, 0]}, {1: 2}]
    for content in contents:
        np.save(tmp_path / "net.npy", np.array(content, dtype=object), allow_pickle=True)
        with pytest.raises(UserError, match=r"net.npy: no .npy file of weights") as error:
            pretrained.read(tmp_path / "net.npy")
        assert ("asks for posix.mkdir" in str(error.value)) == (contents.index(content) < 2)
    assert not trap.exists()


@pytest.mark.slow
def test_a_torch_pickle_is_never_run(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra torch")
    trap = tmp_path / "trap"
    torch.save({"features.0.weight": Harmful(trap)}, tmp_path / "new.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Harmful(trap)))
    (tmp_path / "short.pth").write_bytes(b"\x80\x02.")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    torch.save({"classifier.6.bias": torch.tensor(1.0)}, tmp_path / "scalar.pth")
    torch.save({"a": torch.zeros(2, 2).to_sparse()}, tmp_path / "sparse.pth")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "empty.pth").write_bytes(b"")
    for name in ("new", "plain", "short", "list", "epoch", "scalar", "sparse", "text", "empty"):
        with pytest.raises(UserError, match=rf"{name}.pth: (no .pth file|not a state dict|has no)") as error:
            pretrained.read(tmp_path / f"{name}.pth")
        assert "\n" not in str(error.value)
    assert not trap.exists()


@pytest.mark.slow
def test_state_dicts_of_parameters_and_of_half_precision_are_read(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra torch")
    state = dict(
        zip(TORCHVISION_NAMES, (m for m in witnesses.torchvisions_alexnet() if hasattr(m, "weight")), strict=True)
    )
    state = {f"{name}.{leaf}": getattr(m, leaf) for name, m in state.items() for leaf in ("weight", "bias")}
    torch.save({name: torch.nn.Parameter(x.to(torch.bfloat16)) for name, x in state.items()}, tmp_path / "net.pth")
    kernel = pretrained.read(tmp_path / "net.pth").params["conv2"]["kernel"]
    expected = state["features.3.weight"].detach().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_allclose(kernel, expected, rtol=1e-2)


def tensors(weights):
    return {f"{layer}.{leaf}": x for layer, leaf, x in weights.arrays(formats._unchanged)} | {"mean": weights.mean}


def test_arrays_that_are_not_the_nets_are_named(tmp_path):
    from safetensors.numpy import save_file

    weights, path = some_weights("two_gpu"), tmp_path / "net.safetensors"
    whole, about = tensors(weights), {formats.KEY: weights.description}
    not_finite = dict(whole, **{"conv1.bias": whole["conv1.bias"] * np.nan})
    cut = dict(whole, **{"fc7.kernel": whole["fc7.kernel"][:5]})
    integers = dict(whole, **{"fc8.bias": whole["fc8.bias"].astype(np.int32)})
    damages = [
        (dict(whole, extra=whole["mean"]), about, "holds extra too"),
        ({k: v for k, v in whole.items() if k != "conv3.bias"}, about, "has no conv3.bias"),
        (cut, about, r"fc7.kernel is \(5, 256\), and the net's \(256, 256\)"),
        (integers, about, "fc8.bias holds int32"),
        (not_finite, about, "conv1.bias holds numbers that are not finite"),
        (dict(whole, mean=whole["mean"][:9]), about, "its mean is no mean image"),
        (dict(whole, mean=whole["mean"] * np.nan), about, "its mean is no mean image"),
        (whole, {formats.KEY: "{}"}, "or a damaged one .'model'"),
        (whole, {formats.KEY: "[" * 100_000}, "or a damaged one"),
        (whole, {formats.KEY: "no JSON"}, "or a damaged one"),
        (whole, None, "not written by this program"),
    ]
    changes = [
        ("two_gpu", "vgg", "no net 'vgg'"),
        ('"step": 12', '"step": 0', "its step is 0"),
        ('"width": 0.0625', '"width": 0', "config.model.width=0"),
        ('"width": 0.0625', '"width": 1e400', "config.model.width=inf"),
        ('"norm_alpha": 0.0001', '"norm_alpha": "x"', "or a damaged one"),
        ('"norm_alpha": 0.0001', '"norm_alpha": NaN', "config.model.norm_alpha=nan"),
    ]
    damages += [(whole, {formats.KEY: weights.description.replace(a, b)}, message) for a, b, message in changes]
    for arrays, metadata, message in damages:
        save_file({name: np.ascontiguousarray(x) for name, x in arrays.items()}, path, metadata)
        with pytest.raises(UserError, match=f"net.safetensors: .*{message}") as error:
            pretrained.read(path)
        assert "\n" not in str(error.value)


def test_damaged_onnx_of_our_own_is_refused(tmp_path):
    pretrained.write(tmp_path / "net.onnx", some_weights("two_gpu"))
    for damage in (lambda model: model.graph.initializer.pop(0), lambda model: model.graph.initializer[0].dims.pop()):
        model = onnx.load(tmp_path / "net.onnx")
        assert model.graph.initializer[0].name == "mean"
        damage(model)
        (tmp_path / "damaged.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(UserError, match="damaged.onnx: no .onnx file of weights, or a damaged one"):
            pretrained.read(tmp_path / "damaged.onnx")


def test_another_architecture_is_named(caffe_params, tmp_path):
    path = tmp_path / "net.npy"
    for params, message in [
        ({name: layer for name, layer in caffe_params.items() if name != "fc7"}, "has no fc7.bias, fc7.kernel"),
        (caffe_params | {"conv6": caffe_params["conv5"]}, "holds conv6.bias, conv6.kernel too"),
        (caffe_params | {"conv4": caffe_params["conv3"]}, r"conv4.kernel is \(3, 3, 256, 384\)"),
    ]:
        write_npy(path, params)
        with pytest.raises(UserError, match=message):
            pretrained.read(path)
    write_zoo_onnx(tmp_path / "net.onnx", {name: caffe_params[name] for name in ("conv1", "conv2", "fc8")})
    with pytest.raises(UserError, match="has 3 layers with weights and not AlexNet's 8"):
        pretrained.read(tmp_path / "net.onnx")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY\x01\x00", b"\x00" * 100])
@pytest.mark.parametrize("suffix", [".npy", ".onnx", ".safetensors"])
def test_other_files_are_refused(suffix, content, tmp_path):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"net{suffix}: ") as error:
        pretrained.read(path)
    assert "\n" not in str(error.value)


def test_arrays_without_layers_are_refused(tmp_path):
    np.save(tmp_path / "mean.npy", np.zeros((256, 256, 3)))
    with pytest.raises(UserError, match="mean.npy: .*an array of float64 and not a dict"):
        pretrained.read(tmp_path / "mean.npy")


def test_places_that_do_not_work_are_named(tmp_path):
    weights = some_weights("one_gpu")
    with pytest.raises(UserError, match="no such format; there are .pth, .onnx, .npy, .safetensors"):
        pretrained.read(tmp_path / "net.caffemodel")
    with pytest.raises(UserError, match="cannot be read .No such file"):
        pretrained.read(tmp_path / "net.npy")
    with pytest.raises(UserError, match="no such format to write"):
        pretrained.write(tmp_path / "net.npy", weights)
    with pytest.raises(UserError, match="cannot be written"):
        pretrained.write(tmp_path / "nowhere" / "net.safetensors", weights)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("")
    with pytest.raises(UserError, match="is there already"):
        pretrained.to_workdir(weights, tmp_path / "used")


def test_pytorch_is_asked_for_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "net.pth").write_text("x")
    with pytest.raises(UserError, match=r"needs torch; pip install '.\[torch\]'"):
        pretrained.read(tmp_path / "net.pth")


# Runs.


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx"])
def test_checkpoints_of_two_devices_and_of_one_give_the_same_file(suffix, tmp_path):
    weights = some_weights("two_gpu")
    pretrained.to_workdir(weights, tmp_path / "one")
    pretrained.to_workdir(weights, tmp_path / "two")
    for path in (tmp_path / "two" / "checkpoints").iterdir():
        subprocess.run(["rm", "-r", path], check=True)
    with checkpoint.Checkpoints(tmp_path / "one" / "checkpoints") as checkpoints:
        notes = checkpoints.notes()
    params = on(mesh(1, 2), weights.params)
    with checkpoint.Checkpoints(tmp_path / "two" / "checkpoints") as checkpoints:
        checkpoints.save(12, {"params": params, "velocity": jax.tree.map(jax.numpy.zeros_like, params)}, notes)
    for name in ("one", "two"):
        pretrained.write(tmp_path / f"{name}{suffix}", pretrained.from_workdir(tmp_path / name))
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
    assert_same(pretrained.read(tmp_path / f"two{suffix}"), weights)


def test_the_commands(config, tmp_path):
    config.num_epochs = 0.7
    train.train_and_evaluate(config, tmp_path / "run")

    def run(module, *flags, ok=True):
        command = [sys.executable, "-m", f"alexnet_jax.{module}", *flags]
        process = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"JAX_NUM_CPU_DEVICES": "2"})
        assert (process.returncode == 0) == ok, process.stderr
        assert ok or len(process.stderr.strip().splitlines()) == 1, process.stderr
        return process.stdout if ok else process.stderr

    file, there, back = tmp_path / "net.safetensors", tmp_path / "run", tmp_path / "back"
    assert f"two_gpu, written to {file}" in run("pretrained", f"--workdir={there}", f"--write={file}")
    run("pretrained", f"--workdir={back}", f"--read={file}")
    root = f"--root={config.dataset.root}"
    run("evaluate", f"--workdir={there}")
    run("evaluate", f"--workdir={back}", "--dataset=folder", root)
    first, second = (json.loads((d / "evaluation.json").read_text()) for d in (there, back))
    assert first["loss"] == second["loss"] and first["ten_crop"] == second["ten_crop"] and second["steps"] == [2]
    assert "needs --read=FILE or --write=FILE, one of them" in run("pretrained", f"--workdir={back}", ok=False)
    assert "is there already" in run("pretrained", f"--workdir={back}", f"--read={file}", ok=False)
