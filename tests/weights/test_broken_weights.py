"""Files of weights that are broken, of another net, or something else: one line each, and nothing in them is run."""

import os
import pickle
import sys

import numpy as np
import onnx
import pytest

from alexnet_jax import UserError, pretrained
from alexnet_jax.weights.weights import KEY, dotted, unchanged
from tests.fixtures.weight_files import TORCHVISION_NAMES, caffe_params, some_weights, write_caffe_onnx, write_npy
from tests.references import witnesses


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
        with pytest.raises(UserError, match=r"net.npy: not an intact .npy file of weights") as error:
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
        message = rf"{name}.pth: (not an intact .pth file|its content is in none of the formats|has no)"
        with pytest.raises(UserError, match=message) as error:
            pretrained.read(tmp_path / f"{name}.pth")
        assert "\n" not in str(error.value)
    assert not trap.exists()


@pytest.mark.slow
def test_state_dicts_of_parameters_of_half_precision_and_of_the_imagenet_example_are_read(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra torch")
    state = dict(
        zip(TORCHVISION_NAMES, (m for m in witnesses.torchvisions_alexnet() if hasattr(m, "weight")), strict=True)
    )
    state = {f"{name}.{leaf}": getattr(m, leaf) for name, m in state.items() for leaf in ("weight", "bias")}
    torch.save({name: torch.nn.Parameter(x.to(torch.bfloat16)) for name, x in state.items()}, tmp_path / "net.pth")
    parallel = {name.replace("features", "features.module"): x.detach() for name, x in state.items()}
    torch.save({"epoch": 90, "arch": "alexnet", "state_dict": parallel}, tmp_path / "example.pth")
    expected = state["features.3.weight"].detach().numpy().transpose(2, 3, 1, 0)
    for name, accuracy in (("net", 1e-2), ("example", 0)):
        kernel = pretrained.read(tmp_path / f"{name}.pth").params["conv2"]["kernel"]
        np.testing.assert_allclose(kernel, expected, rtol=accuracy)


def tensors(weights):
    return weights.arrays(unchanged, dotted) | {"mean": weights.mean}


def test_arrays_that_are_not_the_nets_are_named(tmp_path):
    from safetensors.numpy import save_file

    weights, path = some_weights("two_gpu"), tmp_path / "net.safetensors"
    whole, about = tensors(weights), {KEY: weights.description}
    not_finite = dict(whole, **{"conv1.bias": whole["conv1.bias"] * np.nan})
    cut = dict(whole, **{"fc7.kernel": whole["fc7.kernel"][:5]})
    integers = dict(whole, **{"fc8.bias": whole["fc8.bias"].astype(np.int32)})
    damages = [
        (dict(whole, extra=whole["mean"]), about, "also holds extra"),
        ({k: v for k, v in whole.items() if k != "conv3.bias"}, about, "has no conv3.bias"),
        (cut, about, r"fc7.kernel has the shape \(5, 256\) instead of \(256, 256\)"),
        (integers, about, "fc8.bias holds int32"),
        (not_finite, about, "conv1.bias holds numbers that are not finite"),
        (
            dict(whole, mean=whole["mean"][:9]),
            about,
            r"its mean, of shape \(9, 107, 3\), is not that of the net's images",
        ),
        (dict(whole, mean=whole["mean"] * np.nan), about, "mean holds numbers that are not finite"),
        (whole, {KEY: "{}"}, "not an intact .safetensors file of weights .the whole has no 'model'"),
        (whole, {KEY: "[" * 100_000}, "not an intact .safetensors file of weights"),
        (whole, {KEY: "no JSON"}, "not an intact .safetensors file of weights"),
        (whole, None, "not written by this program"),
    ]
    changes = [
        ("two_gpu", "vgg", "no net 'vgg'"),
        ('"step": 12', '"step": 0', "its step is 0"),
        ('"width": 0.0625', '"width": 0', "config.model.width=0"),
        ('"width": 0.0625', '"width": 1e400', "config.model.width=inf"),
        ('"norm_alpha": 0.0001', '"norm_alpha": "x"', "not an intact .safetensors file of weights"),
        ('"norm_alpha": 0.0001', '"norm_alpha": NaN', "config.model.norm_alpha=nan"),
        (
            '"norm_alpha": 0.0001',
            '"norm_beta": 0.5',
            "was written by another version of this program: its net has norm_beta",
        ),
        ('"class_names": [', '"class_names": "abc", "x": [', "class_names is str instead of list"),
    ]
    damages += [(whole, {KEY: weights.description.replace(a, b)}, message) for a, b, message in changes]
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
        with pytest.raises(UserError, match="damaged.onnx: not an intact .onnx file of weights"):
            pretrained.read(tmp_path / "damaged.onnx")


def test_another_architecture_is_named(tmp_path):
    path = tmp_path / "net.npy"
    for params, message in [
        ({name: layer for name, layer in caffe_params().items() if name != "fc7"}, "has no fc7.bias, fc7.kernel"),
        (caffe_params() | {"conv6": caffe_params()["conv5"]}, "also holds conv6.bias, conv6.kernel"),
        (caffe_params() | {"conv4": caffe_params()["conv3"]}, r"conv4.kernel has the shape \(3, 3, 256, 384\)"),
    ]:
        write_npy(path, params)
        with pytest.raises(UserError, match=message):
            pretrained.read(path)
    write_caffe_onnx(tmp_path / "net.onnx", {name: caffe_params()[name] for name in ("conv1", "conv2", "fc8")})
    with pytest.raises(UserError, match="has 3 layers with weights instead of AlexNet's 8"):
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
    with pytest.raises(UserError, match="mean.npy: .*an array of float64 instead of a dict"):
        pretrained.read(tmp_path / "mean.npy")


def test_places_that_do_not_work_are_named(tmp_path):
    weights = some_weights("one_gpu")
    (tmp_path / "net.caffemodel").write_bytes(b"\n\x07AlexNet")
    with pytest.raises(UserError, match="none of the formats .* can be read: .safetensors, .onnx, .pth, .npy"):
        pretrained.read(tmp_path / "net.caffemodel")
    with pytest.raises(UserError, match="cannot be read .No such file"):
        pretrained.read(tmp_path / "net.npy")
    with pytest.raises(UserError, match="no such format to write"):
        pretrained.write(tmp_path / "net.npy", weights)
    with pytest.raises(UserError, match="cannot be written"):
        pretrained.write(tmp_path / "nowhere" / "net.safetensors", weights)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("")
    with pytest.raises(UserError, match="exists already"):
        pretrained.to_workdir(weights, tmp_path / "used")


def test_pytorch_is_asked_for_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "net.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=r"needs torch; pip install -e '.\[torch\]'"):
        pretrained.read(tmp_path / "net.pth")
