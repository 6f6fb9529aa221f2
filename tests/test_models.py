"""The nets: sizes from the paper, and every layer beside the NumPy reference."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from conftest import mesh, on

from alexnet_jax import UserError, models, sharding
from configs import one_gpu, two_gpu

TWO_GPU = [
    ("conv1", (55, 55, 96), 34_944, 105_415_200),
    ("conv2", (27, 27, 256), 307_456, 223_948_800),
    ("conv3", (13, 13, 384), 885_120, 149_520_384),
    ("conv4", (13, 13, 384), 663_936, 112_140_288),
    ("conv5", (13, 13, 256), 442_624, 74_760_192),
    ("fc6", (4096,), 37_752_832, 37_748_736),
    ("fc7", (4096,), 16_781_312, 16_777_216),
    ("fc8", (1000,), 4_097_000, 4_096_000),
]


def test_sizes_of_the_two_gpu_net():
    net = models.from_config(two_gpu.get_config().model, 1000)
    rows = models.layer_table(net)
    assert rows == TWO_GPU
    assert sum(row[2] for row in rows) == 60_965_224
    assert sum(row[3] for row in rows) == 724_406_816
    assert "60,965,224" in models.format_table(net) and "724,406,816" in models.format_table(net)
    assert sum(np.prod(row[1]) for row in rows) == 659_272  # the paper's "650,000 neurons"


def test_sizes_of_the_one_gpu_net():
    rows = models.layer_table(models.from_config(one_gpu.get_config().model, 1000))
    assert [row[1][-1] for row in rows] == [48, 128, 192, 192, 256, 4096, 4096, 1000]
    assert sum(row[2] for row in rows) == 59_798_312
    assert sum(row[3] for row in rows) == 391_514_384


def test_shapes_between_the_layers():
    net = models.NETS["two_gpu"]
    params = jax.eval_shape(functools.partial(models.init, net), jax.random.key(0))
    image = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    one_row = jax.sharding.AbstractMesh((1, 2), ("data", "model"))
    logits, out = jax.eval_shape(functools.partial(models.forward, net, one_row), params, image)
    assert logits.shape == (2, 1000)
    assert set(out) == set(models.INTERMEDIATES)
    assert [out[name].shape[1:] for name in ("pool1", "pool2", "pool5")] == [(27, 27, 96), (13, 13, 256), (6, 6, 256)]
    assert params["conv2"]["kernel"].shape == (5, 5, 48, 256)
    assert params["fc6"]["kernel"].shape == (9216, 4096)


def test_width_classes_and_image_size():
    model = two_gpu.get_config().model
    model.width, model.image_size = 0.125, 112
    rows = models.layer_table(models.from_config(model, 20))
    assert [row[1] for row in rows[:2]] == [(27, 27, 12), (13, 13, 32)]
    assert rows[-1][1] == (20,)


@pytest.mark.parametrize(("field", "value"), [("net", "vgg"), ("image_size", 51)])
def test_impossible_sizes_are_refused(field, value):
    model = two_gpu.get_config().model
    model[field] = value
    with pytest.raises(UserError, match=field):
        models.from_config(model, 10)


def test_initial_parameters():
    params = models.init(models.Net(towers=2, maps=(48, 128, 192, 192, 128), units=256), jax.random.key(1))
    for name, layer in params.items():
        kernel = np.asarray(layer["kernel"], np.float64)
        error = 0.01 / np.sqrt(kernel.size)
        assert abs(kernel.mean()) < 5 * error
        assert abs(kernel.std() - 0.01) < 5 * error
        assert abs((np.abs(kernel) < 0.01).mean() - 0.6827) < 0.01  # a normal distribution, not a truncated one
        assert (layer["bias"] == (name in ("conv2", "conv4", "conv5", "fc6", "fc7"))).all()
    assert not np.allclose(params["conv4"]["kernel"][..., :128], params["conv5"]["kernel"][..., :128])


def random_input(net, count):
    rng = np.random.default_rng(3)
    return rng.normal(0, 60, (count, net.image_size, net.image_size, 3)), rng.integers(0, net.num_classes, count)


@pytest.mark.parametrize("image_size", [63, 67, 78, 112])  # conv1: 14, 15, 18 and 27 pixels; odd and even pools
@pytest.mark.parametrize("devices", [1, 2])
def test_every_layer_equals_the_reference(small_net, image_size, devices):
    net = dataclasses.replace(small_net, image_size=image_size)
    params = models.init(net, jax.random.key(0))
    x, _ = random_input(net, 2)
    forward = jax.jit(functools.partial(models.forward, net, mesh(1, devices)))
    logits, out = forward(on(mesh(1, devices), params), sharding.put_batch(mesh(1, devices), np.float32(x)))
    expected_logits, expected = reference.forward(params, x)
    for name, value in expected.items():
        np.testing.assert_allclose(out[name], value, rtol=1e-4, atol=1e-4 * abs(value).max(), err_msg=name)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-4, atol=1e-4 * abs(expected_logits).max())


def test_gradients_equal_differences_of_the_reference(small_net):
    params = models.init(small_net, jax.random.key(0))
    x, labels = random_input(small_net, 3)

    def loss(params):
        logits, _ = models.forward(small_net, mesh(1, 1), params, sharding.put_batch(mesh(1, 1), np.float32(x)))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    grads = jax.jit(jax.grad(loss))(on(mesh(1, 1), params))
    rng = np.random.default_rng(5)
    for name, layer in params.items():
        for kind, value in layer.items():
            direction = rng.normal(size=value.shape)
            h = 1e-7

            def moved(sign, name=name, kind=kind, step=h * direction):
                leaf = np.asarray(params[name][kind], np.float64) + sign * step
                return reference.loss(params | {name: params[name] | {kind: leaf}}, x, labels)

            expected = (moved(1) - moved(-1)) / (2 * h)
            scale = np.linalg.norm(grads[name][kind])
            assert abs((grads[name][kind] * direction).sum() - expected) < 1e-3 * scale, (name, kind)


def test_dropout_zeroes_half_and_rescales_nothing(small_net):
    x = jnp.ones((64, 512))
    keys = jax.random.split(jax.random.key(0), (64, 2))
    kept = models.dropout(x, keys, layer=6)
    assert set(np.unique(kept)) == {0.0, 1.0}
    assert abs(kept.mean() - 0.5) < 5 * 0.5 / np.sqrt(kept.size)
    assert (kept[:, :256] != kept[:, 256:]).any(1).all()  # the towers' masks differ
    assert (kept != models.dropout(x, keys, layer=7)).any(1).all()
    assert (models.dropout(x, None, layer=6) == 0.5).all()


def test_dropout_of_a_tower_does_not_depend_on_the_others():
    x = jnp.ones((8, 64))
    keys = jax.random.split(jax.random.key(0), (8, 2))
    both = models.dropout(x, keys, layer=6)
    assert (both[:, 32:] == models.dropout(x[:, 32:], keys[:, 1:], layer=6)).all()
