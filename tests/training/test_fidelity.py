"""What the fidelity decides, and what it leaves alone."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import UserError, settings
from alexnet_jax.data import base
from alexnet_jax.data.base import IMAGENET
from alexnet_jax.model import counts, nets, operations
from alexnet_jax.runtime import sharding
from alexnet_jax.training import fidelity, lab_notes, schedules
from configs import cifar10, imagenette, net145, one_gpu, quickstart, two_gpu
from tests.references import net_numbers, numpy_net
from tests.support import compiled_step, first_state, mesh, rates_of

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "nets.md"


def value(config, field):
    for name in field.split("."):
        config = config[name]
    return config


@pytest.mark.parametrize("kind", ["paper", "code"])
def test_a_fidelity_decides_every_difference(kind):
    config = two_gpu.get_config()
    preset = [difference.field for difference in fidelity.DIFFERENCES if value(config, difference.field) is not None]
    assert preset == ["augment.colour_scale"]
    config.fidelity, config.augment.colour_scale = kind, None
    config = fidelity.resolve(config)
    for difference in fidelity.DIFFERENCES:
        assert value(config, difference.field) == getattr(difference, kind), difference.field
    undecided = {name for name, of in settings.flatten(config.to_dict()) if of is None}
    assert undecided == {"dataset.orientation", "model.image_size", "schedule.notes"}


def test_fields_that_are_set_stay():
    config = net145.get_config()
    config.model.conv3to5_stddev, config.augment.crop_group = 0.01, 1
    config = fidelity.resolve(config)
    assert (config.model.conv3to5_stddev, config.augment.crop_group) == (0.01, 1)
    assert config.model.block1 == "norm pool relu"
    assert nets.from_config(config.model).layers[2].stddev == 0.01


def test_the_2012_code_as_a_net():
    net = nets.from_config(fidelity.resolve(net145.get_config()).model)
    then = {layer.name: layer.then for layer in net.layers}
    assert (then["conv1"], then["conv2"]) == ("norm pool relu", "relu norm same_map_norm pool")
    assert (then["conv3"], then["conv4"], then["conv5"]) == ("relu", "relu", "pool relu")
    assert (net.norm.k, net.norm.alpha, net.norm.size) == (2, 2e-5, 5)
    assert (net.same_map_norm.k, net.same_map_norm.alpha, net.same_map_norm.size) == (1, 0.001 / 25, 5)
    assert [layer.stddev for layer in net.layers] == [0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01]


def test_nets_of_others_have_one_architecture_and_both_recipes():
    configs = [one_gpu.get_config(), one_gpu.get_config()]
    for config, kind in zip(configs, ("paper", "code"), strict=True):
        config.model.net, config.fidelity = "caffenet", kind
    paper, code = map(fidelity.resolve, configs)
    assert nets.from_config(paper.model) == nets.from_config(code.model) == nets.NETS["caffenet"]
    assert (paper.optimizer.bias_rate, code.optimizer.bias_rate) == (1, 2)


def test_two_of_cifar10s_nets_see_whole_images_that_are_not_mirrored():
    for name in cifar10.RECIPES:
        config = fidelity.resolve(cifar10.get_config(name))
        net = nets.from_config(config.model)
        whole = name in ("80sec", "18pct")
        assert (net.stored_size, net.image_size, config.augment.flip) == (32, 32 if whole else 24, not whole)
        rates = rates_of(config, net, config.num_epochs)["fc10"]
        assert rates["bias"] == pytest.approx(0.002 * {"80sec": 0.1, "18pct": 0.01}.get(name, 1))


@pytest.mark.parametrize(
    ("net", "num_epochs", "noise_off_at"),
    [("one_gpu", 96, 66), ("no_overlap", 90, 0), ("no_norm", 97, 69), ("separate", 92, 66), ("no_towers", 91, 67)],
)
def test_the_code_trains_each_net_as_its_own_notes_have_it(net, num_epochs, noise_off_at):
    config = net145.get_config()
    config.model.net = net
    config = fidelity.resolve(config)
    assert (config.num_epochs, config.augment.noise_off_at) == (num_epochs, noise_off_at)


@pytest.mark.parametrize("kind", ["paper", "code"])
@pytest.mark.parametrize(
    ("name", "whose", "message"),
    [
        ("hand", "144", "notes: no notes '144' of a schedule by hand; there are 145, 145-2010,"),
        ("hand", "170", "notes: no notes '170'"),
        ("steps", "145", "notes=145: needs config.schedule.name=hand"),
    ],
)
def test_impossible_notes_are_refused(kind, name, whose, message):
    config = two_gpu.get_config()
    config.fidelity, config.schedule.name, config.schedule.notes = kind, name, whose
    with pytest.raises(UserError, match=f"config.schedule.{message}"):
        schedules.from_config(fidelity.resolve(config))


def test_another_fidelity_is_refused():
    config = two_gpu.get_config()
    config.fidelity = "book"
    with pytest.raises(UserError, match="config.fidelity='book': must be paper or code"):
        fidelity.resolve(config)


CONFIGS = [config.get_config for config in (two_gpu, one_gpu, quickstart, imagenette, net145)]
CONFIGS += [functools.partial(cifar10.get_config, net) for net in cifar10.RECIPES]


@pytest.mark.parametrize("get_config", CONFIGS)
def test_every_config_is_whole(get_config):
    config = fidelity.resolve(get_config())
    settings.check(config)
    nets.from_config(config.model)


def test_the_page_of_the_nets_lists_every_difference_and_every_net():
    text = PAGE.read_text()
    for difference in fidelity.DIFFERENCES:
        row = f"| `{difference.field}` | " + " | ".join(map(str, difference[1:])) + " |"
        assert row in text, row
    for name in nets.NETS:
        assert f"`{name}`" in text or f"`…{name.removeprefix('cifar10')}`" in text, name
        assert f"\n| {name} | " in text, name  # beside its witnesses


def test_the_page_of_the_nets_has_the_notes_and_the_layers():
    text = PAGE.read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    for name, found in lab_notes.NOTES.items():
        general = {factor: epoch for epoch, layer, factor in found.weights if not layer}
        conv1 = {factor: epoch for epoch, layer, factor in found.weights if layer == "conv1"}
        slower = " ".join(layer or "all but conv1" for _, layer, factor in found.biases if factor == 0.1)
        cells = [general.get(factor, "") for factor in (1e-1, 1e-2, 1e-3)] + [conv1.get(1e-3, ""), conv1[0]]
        assert [name, *map(str, cells), str(found.noise_off or ""), str(found.end), slower] in rows, name
    assert counts.format_table(nets.NETS["two_gpu"]) in text


@pytest.mark.parametrize("width", [1 / 16, pytest.param(1.0, marks=pytest.mark.slow)])
def test_a_step_of_the_2012_code_equals_numpy(width):
    config = net145.get_config()
    config.model.width = width
    config = fidelity.resolve(config)
    net, on_mesh, B, rate = nets.from_config(config.model), mesh(1, 2), 2, 0.01
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (B, 256, 256, 3), dtype=np.uint8), np.array([3, 700], np.int32)
    statistics = base.Statistics(
        mean=rng.uniform(0, 255, (256, 256, 3)).astype(np.float32),
        colour_std=IMAGENET.colour_std,
        colour_axes=IMAGENET.colour_axes,
    )
    state = first_state(config, net, on_mesh)
    params = jax.tree.map(np.asarray, state["params"])
    velocity = jax.tree.map(lambda w: 1e-4 * rng.standard_normal(w.shape, np.float32), params)
    state["opt_state"] = jax.tree.map(lambda v, w: jax.device_put(v, w.sharding), velocity, state["params"])
    rates = rates_of(config, net, 0)
    batch = sharding.put_batch(on_mesh, {"image": images, "label": labels})
    state, values = compiled_step(config, net, on_mesh, statistics)(state, batch, 5, rates, True)

    # The same draws: both images share a crop and a flip, each has its own colours and masks.
    keys = [jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 5), place) for place in range(B)]
    view_keys, dropout_keys = zip(*(jax.random.split(key) for key in keys), strict=True)
    offset_key, flip_key, _ = jax.random.split(view_keys[0], 3)
    offset, flip = jax.random.randint(offset_key, (2,), 0, 33), jax.random.bernoulli(flip_key)
    z = np.stack([jax.random.normal(jax.random.split(key, 3)[2], (3,)) for key in view_keys])
    noise = 0.1 * (z * statistics.colour_std) @ statistics.colour_axes.T
    x = numpy_net.views(images, [offset] * B, [flip] * B, statistics.mean, noise, 1.1)
    tower_keys = jnp.stack([jnp.stack([jax.random.fold_in(key, tower) for tower in (0, 1)]) for key in dropout_keys])
    masks = {
        layer.name: operations.dropout(tower_keys, layer.seed, jnp.ones((B, int(4096 * width))))
        for layer in net.layers[5:7]
    }

    loss, grads = numpy_net.loss_and_grads(
        net_numbers.describe("two_gpu", "code", width=width), params, x, labels, masks
    )
    rates = {name: {"kernel": rate, "bias": 2 * rate} for name in params}
    decays = {name: {"kernel": 0.0005, "bias": 0.0} for name in params}
    expected, expected_velocity = numpy_net.sgd(params, velocity, grads, rates, decays)
    assert float(values["loss"]) == pytest.approx(loss, rel=1e-5)
    for name, layer in expected.items():
        for leaf, w in layer.items():
            moved, v = w - params[name][leaf], expected_velocity[name][leaf]
            found = np.asarray(state["params"][name][leaf]), np.asarray(state["opt_state"][name][leaf])
            assert abs(moved).max() > 0
            np.testing.assert_allclose(found[0], w, rtol=1e-6, atol=1e-4 * abs(moved).max(), err_msg=f"{name} {leaf}")
            np.testing.assert_allclose(found[1], v, rtol=0, atol=1e-4 * abs(v).max(), err_msg=f"{name} {leaf}")
