"""Weights in and out: every net and format there and back, and others' files beside NumPy."""

import functools
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from alexnet_jax import UserError, evaluate, pretrained, train
from alexnet_jax.analysis import ensemble, prediction
from alexnet_jax.data import class_names
from alexnet_jax.training import checkpoint
from configs import two_gpu
from tests.fixtures.weight_files import (
    TORCHVISION_NAMES,
    blue_first,
    caffe_params,
    some_weights,
    write_caffe_onnx,
    write_npy,
    write_onnx,
)
from tests.references import net_numbers, numpy_net, witnesses
from tests.support import describe, mesh, on

NO_TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the extra torch")
SUFFIXES = [".safetensors", ".onnx", pytest.param(".pth", marks=[pytest.mark.slow, NO_TORCH])]
LOCALLY_CONNECTED = ("cifar10_13pct", "cifar10_11pct", "cifar10_11pct_no_norm")


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
    if suffix == ".onnx" and name in LOCALLY_CONNECTED:
        with pytest.raises(UserError, match="local3 is locally connected, for which ONNX has no operator"):
            pretrained.write(path, weights)
        assert not path.exists()
        return
    pretrained.write(path, weights)
    assert_same(pretrained.read(path), weights)
    pretrained.write(tmp_path / f"again{suffix}", weights)
    assert (tmp_path / f"again{suffix}").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "fields",
    [
        {"activation": "tanh"},
        {"without": "conv4"},
        {"input_std": (58.0, 57.0, 57.5), "stretch": True, "dtype": "bfloat16"},
    ],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_variants_there_and_back(fields, suffix, tmp_path):
    weights = some_weights("two_gpu", **fields)
    pretrained.write(tmp_path / f"net{suffix}", weights)
    assert_same(pretrained.read(tmp_path / f"net{suffix}"), weights)


@pytest.mark.parametrize(
    ("name", "kind", "fields"),
    [(*case, {}) for case in witnesses.CASES if case[0] not in LOCALLY_CONNECTED]
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


# Others' files at full size, made here as their authors make them.


@pytest.mark.parametrize(
    ("write", "name", "net"),
    [
        (write_npy, "bvlc_alexnet.npy", "caffe"),
        pytest.param(write_caffe_onnx, "bvlcalexnet-12.onnx", "caffe", marks=pytest.mark.slow),
        pytest.param(
            functools.partial(write_caffe_onnx, norm_and_pool=("MaxPool", "LRN"), constants=True),
            "caffenet-12.onnx",
            "caffenet",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_caffes_weights_are_read(write, name, net, tmp_path):
    write(tmp_path / name, caffe_params())
    weights = pretrained.read(tmp_path / name)
    assert weights.model["net"] == net
    for layer, expected in caffe_params().items():
        for leaf, x in expected.items():
            np.testing.assert_array_equal(weights.params[layer][leaf], x, err_msg=f"{layer}.{leaf}")
    assert weights.class_names == tuple(class_names.imagenet_names())
    assert (weights.net.image_size, weights.net.stretch) == (227, True)
    np.testing.assert_allclose(weights.mean, [122.68, 116.67, 104.01], atol=0.01)


@pytest.mark.slow
def test_torchvisions_weights_in_an_onnx_file_are_read(tmp_path):
    params = witnesses.random_params(describe("one_weird_trick"))
    write_onnx(tmp_path / "alexnet.onnx", params, norm_and_pool=("MaxPool",))
    weights = pretrained.read(tmp_path / "alexnet.onnx")
    assert (weights.model["net"], weights.net.stretch) == ("one_weird_trick", False)
    assert weights.net.input_std == (58.395, 57.12, 57.375)
    np.testing.assert_allclose(weights.mean, [123.675, 116.28, 103.53], rtol=1e-6)
    for layer, expected in params.items():
        for leaf, x in expected.items():
            np.testing.assert_array_equal(weights.params[layer][leaf], x, err_msg=f"{layer}.{leaf}")


@pytest.mark.slow
def test_predictions_by_caffes_weights_need_no_settings(tmp_path):
    write_npy(tmp_path / "bvlc_alexnet.npy", caffe_params())
    pretrained.to_workdir(pretrained.read(tmp_path / "bvlc_alexnet.npy"), tmp_path / "caffe")
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(pixels.repeat(2, axis=1)).save(tmp_path / "image.png")
    (answer,) = prediction.predict(ensemble.load([tmp_path / "caffe"]), [tmp_path / "image.png"])

    # As Caffe does: all of the image, stretched to 256×256; blue first, less the mean of blue, green and red; windows
    # of 227.
    blue_green_red = pixels[:, :, ::-1].astype(float) - [104.00698793, 116.66876762, 122.67891434]
    crops = [(14, 14), (0, 0), (0, 29), (29, 0), (29, 29)]
    crops = [blue_green_red[y : y + 227, x : x + 227] for y, x in crops]
    views = np.stack(crops + [crop[:, ::-1] for crop in crops])
    logits = numpy_net.forward(net_numbers.describe("caffe"), blue_first(caffe_params()), views)[0]
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = (probabilities / probabilities.sum(1, keepdims=True)).mean(0)
    best = np.argsort(-probabilities)[:5]
    names = list(class_names.imagenet_names())
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
    (answer,) = prediction.predict(ensemble.load([tmp_path / "torchvision"]), [tmp_path / "image.png"])

    standardised = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    crops = [standardised[y : y + 224, x : x + 224] for y, x in [(16, 16), (0, 0), (0, 32), (32, 0), (32, 32)]]
    views = np.stack(crops + [crop[:, ::-1] for crop in crops]).transpose(0, 3, 1, 2)
    with torch.no_grad():
        probabilities = torch.softmax(model(torch.from_numpy(views.astype(np.float32))), 1).mean(0).numpy()
    found = {row["class"]: row["probability"] for row in answer["predictions"]}
    names = list(class_names.imagenet_names())
    assert list(found) == [names[i] for i in np.argsort(-probabilities)[:5]]
    np.testing.assert_allclose(list(found.values()), np.sort(probabilities)[:-6:-1], atol=2e-6)


# Runs.


@pytest.mark.slow
def test_a_net_sees_stretched_images_in_training_and_after(config, tmp_path, run_command):
    config.num_epochs, config.mesh.model = 0.35, 1
    config.model = two_gpu.get_config().model
    config.model.update({"net": "caffe", "width": 1 / 16, "image_size": 64, "stretch": True})
    square = train.train_and_evaluate(config, tmp_path / "square")
    for path in pathlib.Path(config.dataset.root).rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)).repeat(2, axis=1)).save(path)
    assert train.train_and_evaluate(config, tmp_path / "wide") == square
    evaluation = tmp_path / "evaluation.json"
    assert run_command(evaluate.main, f"--workdir={tmp_path / 'wide'}", f"--json={evaluation}")[0] == 0
    assert json.loads(evaluation.read_text())["ten_crop"] == pytest.approx(square["ten_crop"])


def test_nets_that_take_images_otherwise_are_no_ensemble(tmp_path):
    for name, stretch in (("cropped", False), ("stretched", True)):
        pretrained.to_workdir(some_weights("two_gpu", stretch=stretch), tmp_path / name)
    message = f"stretched: its net has other classes or another image size, .* than the net in {tmp_path}/cropped"
    with pytest.raises(UserError, match=message):
        ensemble.load([tmp_path / "cropped", tmp_path / "stretched"])


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx"])
def test_checkpoints_of_two_devices_and_of_one_give_the_same_file(suffix, tmp_path):
    weights = some_weights("two_gpu")
    pretrained.to_workdir(weights, tmp_path / "one")
    pretrained.to_workdir(weights, tmp_path / "two")
    for path in (tmp_path / "two" / "checkpoints").iterdir():
        shutil.rmtree(path)
    with checkpoint.Checkpoints(tmp_path / "one" / "checkpoints") as checkpoints:
        metadata = checkpoints.metadata(checkpoints.latest_step)
    params = on(mesh(1, 2), weights.net, weights.params)
    with checkpoint.Checkpoints(tmp_path / "two" / "checkpoints") as checkpoints:
        checkpoints.save(12, {"params": params, "opt_state": jax.tree.map(jax.numpy.zeros_like, params)}, metadata)
    for name in ("one", "two"):
        pretrained.write(tmp_path / f"{name}{suffix}", pretrained.from_workdir(tmp_path / name))
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
    assert_same(pretrained.read(tmp_path / f"two{suffix}"), weights)


def test_the_commands(config, tmp_path, run_command):
    config.num_epochs = 0.7
    train.train_and_evaluate(config, tmp_path / "run")

    def run(command, *flags, ok=True):
        status, out, error = run_command(command.main, *flags)
        assert (status == 0) == ok, error
        assert ok or len(error.strip().splitlines()) == 1, error
        return out if ok else error

    file, there, back = tmp_path / "net.safetensors", tmp_path / "run", tmp_path / "back"
    assert f"two_gpu, written to {file}" in run(pretrained, f"--workdir={there}", f"--write={file}")
    command = [sys.executable, "-m", "alexnet_jax.pretrained", f"--workdir={back}", f"--read={file}"]
    two_devices = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=two_devices)
    assert f"two_gpu, written to {back}" in done.stdout
    records = [json.loads((directory / "net.json").read_text()) for directory in (there, back)]
    assert records[0]["layers"] == records[1]["layers"]
    root = f"--root={config.dataset.root}"
    run(evaluate, f"--workdir={there}")
    assert "--dataset: the net in" in run(evaluate, f"--workdir={back}", ok=False)
    run(evaluate, f"--workdir={back}", "--dataset=folder", root)
    first, second = (json.loads((d / "evaluation.json").read_text()) for d in (there, back))
    assert first["loss"] == second["loss"] and first["ten_crop"] == second["ten_crop"] and second["steps"] == [2]
    assert "needs either --read=FILE or --write=FILE" in run(pretrained, f"--workdir={back}", ok=False)
    assert "exists already" in run(pretrained, f"--workdir={back}", f"--read={file}", ok=False)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    file, there = tmp_path / "net.safetensors", tmp_path / "there"
    pretrained.write(file, some_weights("two_gpu"))
    command = [sys.executable, "-m", "alexnet_jax.pretrained", f"--read={file}", f"--workdir={there}"]
    limited = ["bash", "-c", 'ulimit -f 200 && exec "$@"', "bash"]  # KB in a file, above config.json's and mean.npy's
    process = subprocess.run(limited + command, capture_output=True, text=True)
    reason = r".*: no checkpoint can be written \(File too large\); mend that and start again"
    said = rf"alexnet_jax: --workdir={there}: cannot be written \({reason}\)\n"
    assert process.returncode == 1 and re.fullmatch(said, process.stderr), process.stderr
    assert not there.exists()
