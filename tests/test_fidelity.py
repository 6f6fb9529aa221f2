"""What the fidelity decides, and what it leaves alone."""

import functools
import pathlib

import pytest

from alexnet_jax import UserError, fidelity, nets, train
from configs import cifar10, imagenette, net145, one_gpu, quickstart, two_gpu

README = pathlib.Path(__file__).parent.parent / "README.md"


def value(config, field):
    for name in field.split("."):
        config = config[name]
    return config


@pytest.mark.parametrize("kind", ["paper", "code"])
def test_a_fidelity_decides_every_difference(kind):
    config = two_gpu.get_config()
    assert all(value(config, difference.field) is None for difference in fidelity.DIFFERENCES)
    config.fidelity = kind
    config = fidelity.resolve(config)
    for difference in fidelity.DIFFERENCES:
        assert value(config, difference.field) == getattr(difference, kind), difference.field
    assert not [name for name, of in train.flatten(config.to_dict()) if of is None and name != "model.image_size"]


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


def test_another_fidelity_is_refused():
    config = two_gpu.get_config()
    config.fidelity = "book"
    with pytest.raises(UserError, match="config.fidelity='book': there are paper and code"):
        fidelity.resolve(config)


CONFIGS = [config.get_config for config in (two_gpu, one_gpu, quickstart, imagenette, net145)]
CONFIGS += [functools.partial(cifar10.get_config, net) for net in cifar10.LENGTHS]


@pytest.mark.parametrize("get_config", CONFIGS)
def test_every_config_is_whole(get_config):
    config = fidelity.resolve(get_config())
    train.check(config)
    nets.from_config(config.model)


def test_the_readme_lists_every_difference_and_every_net():
    text = README.read_text()
    for difference in fidelity.DIFFERENCES:
        row = f"| `{difference.field}` | {difference.paper} | {difference.code} | {difference.what} |"
        assert row in text, row
    for name in nets.NETS:
        assert f"`{name}`" in text or f"`…{name.removeprefix('cifar10')}`" in text, name
