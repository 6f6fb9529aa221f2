"""Every net of 2012 beside its own definition and parameter files, in all that they say.

They are in the directory alexnet2012 of `ALEXNET_DATA`, whose folders layers, layers-cifar and example-layers are those
of the code of 2012 (github.com/computerhistory/AlexNet-Source-Code).
"""

import re
from typing import NamedTuple

import jax
import numpy as np
import original_nets
import pytest
import witnesses

from alexnet_jax import fidelity, models, nets, notes, optimizer
from configs import cifar10, net145

pytestmark = pytest.mark.skipif(
    not original_nets.DIRECTORY.exists(), reason="needs the 2012 nets' own files in the directory ALEXNET_DATA"
)


class Case(NamedTuple):
    """A net with its files, which have rates of its last or of its first epoch, and its published image size."""

    net: str
    definition: str
    parameters: str
    image_size: int = 224
    parameters_of: str = "the end"
    overrides: dict = {}


CASES = {
    "145": Case("two_gpu", "layers/layers-145.cfg", "layers/layer-params-145.cfg"),
    "145-2010": Case(
        "two_gpu",
        "layers/layers-145.cfg",
        "layers/layer-params-145-2010.cfg",
        overrides={"schedule.notes": "145-2010"},
    ),
    "145-half": Case("one_gpu", "layers/layers-145-half.cfg", "layers/layer-params-145-half.cfg"),
    "146-2012-2009": Case(
        "sixth_conv",
        "layers/layers-146-2012-2011.cfg",
        "layers/layer-params-146-2012-2009.cfg",
        overrides={"schedule.notes": "146-2012-2009"},
    ),
    "147": Case("no_overlap", "layers/layers-147.cfg", "layers/layer-params-147.cfg"),
    "148": Case("no_norm", "layers/layers-148.cfg", "layers/layer-params-148.cfg"),
    "150": Case("separate", "layers/layers-150.cfg", "layers/layer-params-150.cfg"),
    "170": Case(
        "two_gpu",
        "layers/layers-153.cfg",
        "layers/layer-params-170.cfg",
        parameters_of="the start",
        overrides={"schedule.name": "automatic"},
    ),
    "80sec": Case(
        "cifar10_80sec",
        "example-layers/layers-80sec.cfg",
        "example-layers/layer-params-80sec.cfg",
        image_size=32,
        parameters_of="the start",
    ),
    "18pct": Case(
        "cifar10_18pct",
        "layers-cifar/layers-18pct.cfg",
        "layers-cifar/layer-params-18pct-noisylr.cfg",
        image_size=32,
        parameters_of="the start",
    ),
    "13pct": Case(
        "cifar10_13pct",
        "layers-cifar/layers-conv-local-13pct.cfg",
        "layers-cifar/layer-params-conv-local-13pct-noisylr.cfg",
        image_size=24,
    ),
}
BY_HAND = [name for name in CASES if name[0] == "1" and "pct" not in name]
# Of these no file is left, or there never was one.
WITHOUT_FILES = {"no_dropout", "no_towers", "one_weird_trick", "caffe", "caffenet", "cifar10_figure1"}
WITHOUT_FILES |= {"cifar10_11pct", "cifar10_11pct_no_norm"}
all_nets = pytest.mark.parametrize("name", CASES)


def test_every_net_has_a_file_or_is_known_to_have_none():
    assert {case.net for case in CASES.values()} == set(nets.NETS) - WITHOUT_FILES
    assert {name for name in CASES if name in notes.NOTES} == set(notes.NOTES)


def our_config(name):
    """As a user asks for the net of a case."""
    case = CASES[name]
    if case.net.startswith("cifar10_"):
        return fidelity.resolve(cifar10.get_config(case.net.removeprefix("cifar10_")))
    config = net145.get_config()
    config.model.net, config.mesh.model = case.net, 1 if case.net == "one_gpu" else 2
    config.update_from_flattened_dict(case.overrides)
    return fidelity.resolve(config)


def our_net(name):
    return nets.from_config(our_config(name).model)


@all_nets
def test_layers(name):
    net, layers = our_net(name), original_nets.read(CASES[name].definition)
    columns = original_nets.columns(layers)
    assert (net.towers, net.image_size) == (len(columns), CASES[name].image_size)
    for column in columns:
        chain, seen = original_nets.chain(layers, column), original_nets.seen(layers, column)
        for layer, (file_name, following), sees in zip(net.layers, chain, seen, strict=True):
            section = layers[file_name]
            found = {
                "type": type(layer).__name__.lower().replace("dense", "fc"),
                "outputs": layer.features,
                "then": " ".join(op for op, _ in models.layers.operations(net, layer)),
                "initW": layer.stddev,
                "initB": layer.bias,
            }
            expected = {
                "type": section["type"],
                "outputs": section["outputs"],
                "then": original_nets.words(layers, file_name, following),
                "initW": original_nets.number(section["initW"]),
                "initB": original_nets.number(section.get("initB", "0")),
            }
            if section["type"] != "fc":
                found |= {
                    "filterSize": layer.size,
                    "stride": layer.stride,
                    "padding": layer.pad,
                    "groups": layer.groups,
                }
                expected |= {
                    field: int(original_nets.number(section.get(field, "1")))
                    for field in ("filterSize", "stride", "padding", "groups")
                }
            if sees and len(columns) == 2:
                found["sees"] = {"a", "b"} if layer.both else {column}
                expected["sees"] = set(sees)
            assert found == expected, file_name


@all_nets
def test_pools_and_norms(name):
    net, layers = our_net(name), original_nets.read(CASES[name].definition)
    settings = original_nets.parse(CASES[name].parameters)
    for each, section in layers.items():
        if section["type"] == "pool":
            assert net.pool == (int(section["sizeX"]), int(section["stride"])), each
        elif section["type"] in ("cmrnorm", "rnorm"):
            ours = net.norm if section["type"] == "cmrnorm" else net.same_map_norm
            theirs = original_nets.norm(section, settings[each])
            assert (ours.size, ours.k, ours.alpha) == (theirs["size"], theirs["k"], pytest.approx(theirs["alpha"])), (
                each
            )
            assert theirs["beta"] == 0.75


@all_nets
def test_parameters(name):
    net, layers = our_net(name), original_nets.read(CASES[name].definition)
    assert models.total(models.layer_table(net)).parameters == original_nets.count(layers, net.image_size)


def test_parameters_of_net_146_with_the_classes_of_2009():
    layers = original_nets.read("layers/layers-146-2009.cfg")
    net = our_net("146-2012-2009").with_classes(layers["fc1000"]["outputs"])
    assert models.total(models.layer_table(net)).parameters == original_nets.count(layers, 224)


@all_nets
def test_weight_decays_momentum_and_rates(name):
    config, case = our_config(name), CASES[name]
    net, layers = nets.from_config(config.model), original_nets.read(case.definition)
    settings = original_nets.parse(case.parameters)
    decays = optimizer.weight_decays(config, net)
    at = 0 if case.parameters_of == "the start" else config.num_epochs - 1e-6
    rates = optimizer.learning_rates(config, net, optimizer.init_schedule(), at)
    ones = {layer.name: {"kernel": np.ones(1, np.float32), "bias": np.ones(1, np.float32)} for layer in net.layers}
    still = jax.tree.map(np.zeros_like, ones)
    moved, _ = optimizer.from_config(config, net).update(
        still, ones, still, learning_rates=jax.tree.map(lambda _: 0.01, decays)
    )
    for column in original_nets.columns(layers):
        for layer, (file_name, _) in zip(net.layers, original_nets.chain(layers, column), strict=True):
            section = settings[file_name]
            found = {
                "wc": decays[layer.name]["kernel"],
                "momW": float(moved[layer.name]["kernel"][0]),
                "momB": float(moved[layer.name]["bias"][0]),
                "epsW": rates[layer.name]["kernel"],
                "epsB": rates[layer.name]["bias"],
            }
            expected = {field: original_nets.number(section[field]) for field in found}
            if (name, layer.name) == ("145-half", "conv1"):  # by the notes 0 since epoch 72: the file was not changed
                assert (found.pop("epsW"), expected.pop("epsW")) == (0, 1e-5)
            assert found == pytest.approx(expected, rel=1e-6), file_name
            assert decays[layer.name]["bias"] == 0  # the files have none for biases


@pytest.mark.parametrize("name", BY_HAND)
def test_changes_by_hand(name):
    config = our_config(name)
    net = nets.from_config(config.model)
    first, changes, noise_off, end = original_nets.changes(CASES[name].parameters)
    assert config.augment.noise_off_at == (noise_off or 0)
    assert end in (config.num_epochs, None)
    if name == "145-half":  # the file ends with 1e-5, and nobody noted when that began
        changes.append((79, "", 1e-5))
    expected = {layer.name: first.get(layer.name, first[""]) for layer in net.layers}
    changes = [change for change in changes if name != "170" or change[1]]
    for epoch in range(int(config.num_epochs)):
        for at, layer, rate in changes:
            if at == epoch:
                # What is done to all leaves alone what is slower, or frozen.
                others = {each: min(rate, before) for each, before in expected.items()}
                expected = expected | {layer: rate} if layer else others
        for moment in (epoch, epoch + 0.99):
            rates = optimizer.learning_rates(config, net, optimizer.init_schedule(), moment)
            if name == "170":
                assert [each for each, rate in rates.items() if rate["kernel"] == 0] == [
                    each for each, rate in expected.items() if rate == 0
                ], moment
            else:
                found = {each: rate["kernel"] for each, rate in rates.items()}
                assert found == pytest.approx(expected, rel=1e-6), moment


def test_the_automatic_schedule_and_the_length_of_net_170():
    config = our_config("170")
    net = nets.from_config(config.model)
    section = original_nets.parse(CASES["170"].parameters)["conv2a"]
    for leaf, schedule in (("kernel", section["schedW"]), ("bias", section["schedB"])):
        factor, noise, steps = map(int, re.fullmatch(r"dexp\[\w+=(\d+),\w+=(\d+),\w+=(\d+)\]", schedule).groups())
        found = [
            optimizer.learning_rates(config, net, optimizer.init_schedule(), at * config.num_epochs)["conv2"][leaf]
            for at in np.linspace(0.001, 1, 2001)
        ]
        assert found[0] / found[-1] == pytest.approx(factor)
        ratios = [a / b for a, b in zip(found, found[1:], strict=False) if a != b]
        assert (noise, ratios) == (0, pytest.approx([factor ** (1 / (steps - 1))] * (steps - 1)))
    # Its first epochs are those of net 169, which was run again "for 80 epochs instead of" so many.
    text = (original_nets.DIRECTORY / "layers" / "layer-params-169.cfg").read_text()
    assert float(re.search(r"80 epochs instead of (\d+)", text)[1]) == config.num_epochs


def test_the_schedule_of_18pct():
    text = (original_nets.DIRECTORY / CASES["18pct"].parameters).read_text()
    first, more = map(float, re.search(r"10 after (\d+) epochs.\n# .* after (\d+) more", text).groups())
    config, net = our_config("18pct"), our_net("18pct")
    for epoch, expected in ((first - 0.1, 1), (first, 0.1), (first + more - 0.1, 0.1), (first + more, 0.01)):
        rates = optimizer.learning_rates(config, net, optimizer.init_schedule(), epoch)["fc10"]
        assert (rates["kernel"], rates["bias"]) == (pytest.approx(0.001 * expected), pytest.approx(0.002 * expected))


def columns_weights(net, params, layers):
    """Our parameters as the file's: for each of its layers (a kernel for each input, the biases)."""
    columns = original_nets.columns(layers)
    sides = original_nets.sides(layers, net.image_size)
    found = {}
    for column in columns:
        seen = original_nets.seen(layers, column)
        for layer, (name, _), sees in zip(net.layers, original_nets.chain(layers, column), seen, strict=True):
            kernel, bias = params[layer.name]["kernel"].astype(float), params[layer.name]["bias"].astype(float)
            if layers[name]["column"]:
                tower = columns.index(column)
                kernel, bias = (np.split(w, len(columns), axis=-1)[tower] for w in (kernel, bias))
            if layers[name]["type"] == "fc":  # of the units of a row all maps follow each other
                side = sides[layers[name]["inputs"][0]]
                kernel = kernel.reshape(side, side, -1, kernel.shape[-1])
            parts = dict(zip(columns, np.split(kernel, len(columns), axis=-2), strict=True)) if len(sees) > 1 else {}
            kernels = [parts[each] for each in sees] if parts else [kernel]
            if layers[name]["type"] == "fc":
                kernels = [part.reshape(-1, part.shape[-1]) for part in kernels]
            found[name] = kernels, bias
    return found


ON_DEVICES = [(name, devices) for name in CASES for devices in (1, 2)[: our_net(name).towers] if name != "145-2010"]


@pytest.mark.parametrize("shrink", [16, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "devices"), ON_DEVICES)
def test_forward_values(name, devices, shrink):
    case, config = CASES[name], our_config(name)
    fields = dict(config.model)
    if case.net.startswith("cifar10_"):
        shrink //= 4 if shrink > 1 else 1
    elif shrink > 1:
        fields["image_size"] = 94  # where windows hang over edges
    fields["width"] = 1 / shrink
    config.model.update(fields)
    net = nets.from_config(config.model)
    layers, settings = original_nets.read(case.definition, shrink), original_nets.parse(case.parameters)
    params, (x, _) = witnesses.random_params(net), witnesses.random_batch(net, 2 if shrink > 1 else 1)
    theirs = original_nets.forward(layers, settings, columns_weights(net, params, layers), x)
    ours = witnesses.forward(net, params, x, devices)
    for i, layer in enumerate(net.layers):
        ends = {}
        for column in original_nets.columns(layers):
            end, following = original_nets.chain(layers, column)[i]
            ends[(following or [end])[-1]] = None
        expected = np.concatenate([theirs[end] for end in ends], axis=-1)
        last = [end for end, of in models.layers.outputs(net).items() if of is layer]
        found = ours[last[-1] if last else "logits"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.max(abs(expected)), err_msg=layer.name)
