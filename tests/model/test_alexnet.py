"""The nets: sizes from the paper, and every layer of every net beside its witnesses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import UserError
from alexnet_jax.model import alexnet, counts, nets, operations
from alexnet_jax.runtime import sharding
from configs import one_gpu
from tests.references import net_numbers, onnx_nets, witnesses
from tests.support import describe, narrow

TWO_GPU = [
    ("conv1", (55, 55, 96), 290_400, 34_944, 105_415_200),
    ("conv2", (27, 27, 256), 186_624, 307_456, 223_948_800),
    ("conv3", (13, 13, 384), 64_896, 885_120, 149_520_384),
    ("conv4", (13, 13, 384), 64_896, 663_936, 112_140_288),
    ("conv5", (13, 13, 256), 43_264, 442_624, 74_760_192),
    ("fc6", (4096,), 4096, 37_752_832, 37_748_736),
    ("fc7", (4096,), 4096, 16_781_312, 16_777_216),
    ("fc8", (1000,), 1000, 4_097_000, 4_096_000),
]


# Parameters and multiply-accumulates of every net; by hand where the 2012 sources have no figure.
COUNTS = {
    "two_gpu": (60_965_224, 724_406_816),
    "one_gpu": (59_798_312, 391_514_384),
    "no_overlap": (60_965_224, 686_891_552),
    "no_norm": (60_965_224, 724_406_816),
    "no_dropout": (60_965_224, 724_406_816),
    "separate": (60_714_408, 724_323_872),
    "sixth_conv": (61_555_304, 745_640_480),
    "no_towers": (62_378_344, 1_135_256_096),
    "one_weird_trick": (61_100_840, 714_188_480),
    "caffe": (60_965_224, 724_406_816),
    "caffenet": (60_965_224, 724_406_816),
    "cifar10_figure1": (89_578, 12_298_240),
    "cifar10_80sec": (145_578, 12_354_176),
    "cifar10_18pct": (89_578, 12_298_240),
    "cifar10_13pct": (1_116_490, 18_517_248),
    "cifar10_11pct": (2_112_970, 19_512_576),
    "cifar10_11pct_no_norm": (2_112_970, 19_512_576),
}


def test_sizes_of_the_two_gpu_net():
    net = describe("two_gpu")
    rows = counts.layer_table(net)
    assert rows == TWO_GPU
    # The paper speaks of 650,000 neurons.
    assert counts.format_table(net).splitlines()[-1].split() == ["total", "659,272", "60,965,224", "724,406,816"]


@pytest.mark.parametrize("name", nets.NETS)
def test_parameters_and_multiply_accumulates(name):
    total = counts.total(counts.layer_table(nets.NETS[name]))
    assert (total.parameters, total.macs) == COUNTS[name]
    assert net_numbers.count(net_numbers.describe(name)) == COUNTS[name]


def test_the_sixth_layer_with_the_classes_of_2009():
    rows = counts.layer_table(nets.NETS["sixth_conv"].with_classes(10_184))
    assert counts.total(rows).parameters == 99_182_152


def test_the_one_gpu_config():
    config = one_gpu.get_config()
    assert (config.model.net, config.mesh.model) == ("one_gpu", 1)
    rows = counts.layer_table(nets.NETS["one_gpu"])
    assert [row[1][-1] for row in rows] == [48, 128, 192, 192, 256, 4096, 4096, 1000]


def test_sizes_without_overlap():
    rows = counts.layer_table(nets.NETS["no_overlap"])
    assert [row[1][0] for row in rows[:5]] == [55, 26, 13, 13, 11]


def test_shapes_between_the_layers():
    net = nets.NETS["two_gpu"]
    params = jax.eval_shape(functools.partial(alexnet.init, net), jax.random.key(0))
    image = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    one_row = jax.sharding.AbstractMesh((1, 2), **sharding.AXES)
    logits, out = jax.eval_shape(functools.partial(alexnet.forward, net, one_row), params, image)
    assert logits.shape == (2, 1000)
    assert [out[name].shape[1:] for name in ("pool1", "pool2", "pool5")] == [(27, 27, 96), (13, 13, 256), (6, 6, 256)]
    assert params["conv2"]["kernel"].shape == (5, 5, 48, 256)
    assert params["fc6"]["kernel"].shape == (9216, 4096)


def test_width_classes_and_image_size():
    net = describe("two_gpu", width=0.125, image_size=112).with_classes(20)
    rows = counts.layer_table(net)
    assert [row[1] for row in rows[:2]] == [(27, 27, 12), (13, 13, 32)]
    assert rows[-1][1] == (20,)
    assert net.stored_size == 128


@pytest.mark.parametrize(("name", "stored"), [("two_gpu", 256), ("caffe", 256), ("cifar10_80sec", 32)])
def test_images_are_cropped_from(name, stored):
    assert describe(name).stored_size == stored


@pytest.mark.parametrize(
    ("net", "fields", "message"),
    [
        ("vgg", {}, "no net 'vgg'; there are two_gpu"),
        ("two_gpu", {"image_size": 51}, "image_size=51: too small for this net, which needs 52 at least"),
        ("two_gpu", {"activation": "softmax"}, "config.model.activation: no activation 'softmax'"),
        ("two_gpu", {"dtype": "float16"}, "config.model.dtype: no type 'float16'; there are float32, bfloat16"),
        ("two_gpu", {"without": "fc8"}, "config.model.without: no layer 'fc8'"),
        ("two_gpu", {"block1": "relu batch_norm"}, "config.model.block1: no 'batch_norm'"),
        ("two_gpu", {"input_std": (1.0, 0.0, 1.0)}, "config.model.input_std"),
        ("caffe", {"width": 1 / 48, "image_size": 94}, "config.model.width"),
        ("two_gpu", {"norm_alpha": float("nan")}, "config.model.norm_alpha=nan"),
        ("two_gpu", {"conv3to5_stddev": -1.0}, "config.model.conv3to5_stddev=-1"),
        ("two_gpu", {"width": 0.0}, "config.model.width=0.0"),
        ("caffe", {"block1": "relu pool"}, "config.model.block1: net 'caffe' has no such choice"),
    ],
)
def test_impossible_nets_are_refused(net, fields, message):
    with pytest.raises(UserError, match=message):
        describe(net, **fields)


@pytest.mark.parametrize("width", [0.25, pytest.param(1.0, marks=pytest.mark.slow)])
def test_initial_parameters(width):
    params = alexnet.init(describe("two_gpu", width=width), jax.random.key(1))
    for name, layer in params.items():
        assert_normal(layer["kernel"], 0.01 / np.sqrt(width))
        assert (layer["bias"] == (name in ("conv2", "conv4", "conv5", "fc6", "fc7"))).all()
    assert not np.allclose(params["conv4"]["kernel"][..., :32], params["conv5"]["kernel"][..., :32])


def test_initial_parameters_of_the_2012_code():
    params = alexnet.init(narrow("two_gpu", "code"), jax.random.key(1))
    for name, layer in params.items():
        assert_normal(layer["kernel"], 4 * (0.03 if name in ("conv3", "conv4", "conv5") else 0.01))


def assert_normal(kernel, stddev):
    kernel = np.asarray(kernel, np.float64)
    assert abs(kernel.mean()) < 5 * stddev / np.sqrt(kernel.size)
    assert abs(kernel.std() - stddev) < 5 * stddev / np.sqrt(kernel.size)
    if kernel.size > 10_000:  # a normal distribution, not a truncated one
        assert abs((np.abs(kernel) < stddev).mean() - 0.6827) < 0.02


def case(name, kind, devices=None, **fields):
    return name, kind, devices or nets.NETS[name].towers, fields


# In the default tests every kind of layer, and of connection between towers; with -m slow every net, and the variants.
QUICK = [
    case("two_gpu", "paper"),
    case("two_gpu", "code"),
    case("separate", "paper"),
    case("no_overlap", "code"),
    case("one_weird_trick", "paper"),
    case("caffenet", "paper"),
    case("cifar10_18pct", "paper"),
    case("cifar10_11pct", "paper"),
    case("two_gpu", "paper", activation="tanh", image_size=63),
    case("two_gpu", "code", devices=1, without="conv2"),  # of which two norms and two pools follow conv1
]
ALL = [case(*each) for each in witnesses.CASES] + [
    case("separate", "paper", devices=1),
    case("two_gpu", "code", devices=1),
    case("two_gpu", "paper", image_size=63),  # odd and even pools, in conv1 14, 15, 18 and 27 pixels
    case("two_gpu", "paper", devices=1, image_size=67),
    case("two_gpu", "paper", image_size=78),
    case("two_gpu", "paper", devices=1, image_size=112),
    case("two_gpu", "paper", activation="tanh"),
    case("two_gpu", "code", without="conv3"),
    case("two_gpu", "paper", devices=1, without="conv4"),
    case("two_gpu", "code", devices=1, without="conv5"),
    case("two_gpu", "paper", without="fc7"),
    case("one_weird_trick", "paper", without="conv5"),  # whose dropout belongs to the pool
]


@pytest.mark.parametrize(
    ("name", "kind", "devices", "fields"),
    QUICK + [pytest.param(*each, marks=pytest.mark.slow) for each in ALL if each not in QUICK],
)
def test_every_layer_equals_numpy_forward_and_backward(name, kind, devices, fields):
    ahead, back = witnesses.beside_numpy(name, kind, devices, **fields)
    for output, (ours, expected) in (ahead | back).items():
        assert np.any(expected), output
        np.testing.assert_allclose(ours, expected, rtol=0, atol=3e-5 * np.max(abs(expected)), err_msg=output)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"), [("two_gpu", "code"), ("one_weird_trick", "paper"), ("cifar10_18pct", "paper")]
)
def test_bfloat16_stays_near_numpy(name, kind):
    ahead, back = witnesses.beside_numpy(name, kind, nets.NETS[name].towers, dtype="bfloat16")
    for output, (ours, expected) in (ahead | back).items():
        error = np.linalg.norm(np.asarray(ours, np.float64) - expected) / np.linalg.norm(expected)
        # Rounding turns some units on and others off, and sends gradients to a neighbour of a pool's maximum.
        assert error < (0.015 if output in ahead or output == "loss" else 0.35), output
        assert 0.9 < np.linalg.norm(np.asarray(ours, np.float64)) / np.linalg.norm(expected) < 1.1, output
    assert {name: str(ours.dtype) for name, (ours, _) in ahead.items()} == dict.fromkeys(ahead, "bfloat16") | {
        "logits": "float32"
    }


# At full size this one; the others, which differ in a few words of the same layers, at a quarter of the width.
AT_FULL_SIZE = [("two_gpu", "paper")]
ONNX_CASES = [case for case in witnesses.CASES if case[0] in onnx_nets.NETS]


@pytest.mark.parametrize(
    ("name", "kind", "width"),
    [(*case, 1.0 if case in AT_FULL_SIZE else 0.25) for case in ONNX_CASES]
    + [pytest.param(*case, 1.0, marks=pytest.mark.slow) for case in ONNX_CASES if case not in AT_FULL_SIZE],
)
def test_every_layer_equals_onnx_runtime(name, kind, width):
    for output, (ours, expected) in witnesses.beside_onnx(name, kind, describe(name, kind, width=width)).items():
        np.testing.assert_allclose(ours, expected, rtol=0, atol=3e-5 * np.max(abs(expected)), err_msg=output)


@pytest.mark.slow
def test_torchvisions_net_equals_pytorch_forward_and_backward():
    pytest.importorskip("torch", reason="needs the extra torch")
    ahead, back = witnesses.beside_torch()
    for output, (ours, expected) in (ahead | back).items():
        np.testing.assert_allclose(ours, expected, rtol=0, atol=3e-5 * np.max(abs(expected)), err_msg=output)


def test_channels_are_divided_by_their_deviations():
    net = narrow("two_gpu", image_size=67)
    params, (x, _) = witnesses.random_params(net), witnesses.random_batch(net, 2)
    divided = narrow("two_gpu", image_size=67, input_std=(2.0, 3.0, 4.0))
    expected = witnesses.forward(net, params, x / np.float32([2, 3, 4]))
    found = witnesses.forward(divided, params, x)["logits"]
    np.testing.assert_allclose(found, expected["logits"], rtol=0, atol=1e-5 * abs(found).max())


FC6, FC7 = nets.NETS["two_gpu"].layers[5:7]


def test_dropout_zeroes_half_and_rescales_nothing():
    x = jnp.ones((64, 512))
    keys = jax.random.split(jax.random.key(0), (64, 2))
    kept = operations.dropout(keys, FC6.seed, x)
    assert set(np.unique(kept)) == {0.0, 1.0}
    assert abs(kept.mean() - 0.5) < 5 * 0.5 / np.sqrt(kept.size)
    assert (kept[:, :256] != kept[:, 256:]).any(1).all()  # the towers' masks differ
    assert (kept != operations.dropout(keys, FC7.seed, x)).any(1).all()


def test_dropout_of_a_tower_does_not_depend_on_the_others():
    x = jnp.ones((8, 64))
    keys = jax.random.split(jax.random.key(0), (8, 2))
    both = operations.dropout(keys, FC6.seed, x)
    assert (both[:, 32:] == operations.dropout(keys[:, 1:], FC6.seed, x[:, 32:])).all()
