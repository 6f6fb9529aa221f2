"""The nets of 2012 beside their own definition and parameter files.

They are in the directory alexnet2012 of `ALEXNET_DATA`, whose folders layers, layers-cifar and example-layers are those
of the code of 2012 (github.com/computerhistory/AlexNet-Source-Code).
"""

import re
from typing import NamedTuple

import jax
import numpy as np
import pytest

from alexnet_jax.model import counts, nets, structure
from alexnet_jax.training import fidelity, lab_notes, optimizer
from configs import cifar10, net145
from tests.references import original_files, witnesses
from tests.support import rates_of

pytestmark = pytest.mark.skipif(
    not original_files.DIRECTORY.exists(), reason="needs the 2012 nets' own files in the directory ALEXNET_DATA"
)


class Case(NamedTuple):
    """A net and its files.

    The size of its images in pixels, and whether they are mirrored, are published, and not in the files. `rates_at` is
    the moment of which the parameter file has the rates; None where no config has its schedule.
    """

    net: str
    definition: str
    parameters: str
    overrides: dict = {}
    image_size: int = 224
    flip: bool = True
    rates_at: str | None = "end"


CASES = {
    "145": Case("two_gpu", "layers/layers-145.cfg", "layers/layer-params-145.cfg"),
    "145-2010": Case(
        "two_gpu", "layers/layers-145.cfg", "layers/layer-params-145-2010.cfg", {"schedule.notes": "145-2010"}
    ),
    "145-half": Case("one_gpu", "layers/layers-145-half.cfg", "layers/layer-params-145-half.cfg"),
    "146-2009": Case("sixth_conv", "layers/layers-146-2009.cfg", "layers/layer-params-146-2009.cfg", rates_at=None),
    "146-2012-2009": Case(
        "sixth_conv",
        "layers/layers-146-2012-2011.cfg",
        "layers/layer-params-146-2012-2009.cfg",
        {"schedule.notes": "146-2012-2009"},
    ),
    "146-2012-2011": Case(
        "sixth_conv", "layers/layers-146-2012-2011.cfg", "layers/layer-params-146-2012-2011.cfg", rates_at=None
    ),
    "147": Case("no_overlap", "layers/layers-147.cfg", "layers/layer-params-147.cfg"),
    "148": Case("no_norm", "layers/layers-148.cfg", "layers/layer-params-148.cfg"),
    "150": Case("separate", "layers/layers-150.cfg", "layers/layer-params-150.cfg"),
    "170": Case(
        "two_gpu",
        "layers/layers-153.cfg",
        "layers/layer-params-170.cfg",
        {"schedule.name": "automatic"},
        rates_at="start",
    ),
    "80sec": Case(
        "cifar10_80sec",
        "example-layers/layers-80sec.cfg",
        "example-layers/layer-params-80sec.cfg",
        image_size=32,
        flip=False,
        rates_at="start",
    ),
    "18pct": Case(
        "cifar10_18pct",
        "layers-cifar/layers-18pct.cfg",
        "layers-cifar/layer-params-18pct-noisylr.cfg",
        image_size=32,
        flip=False,
        rates_at="start",
    ),
    "13pct at first": Case(
        "cifar10_13pct",
        "example-layers/layers-conv-local-13pct.cfg",
        "example-layers/layer-params-conv-local-13pct.cfg",
        image_size=24,
        rates_at="start",
    ),
    "13pct": Case(
        "cifar10_13pct",
        "layers-cifar/layers-conv-local-13pct.cfg",
        "layers-cifar/layer-params-conv-local-13pct-noisylr.cfg",
        image_size=24,
    ),
}
# Of these no file is left, or there never was one.
WITHOUT_FILES = {"no_dropout", "no_towers", "one_weird_trick", "caffe", "caffenet", "cifar10_figure1"}
WITHOUT_FILES |= {"cifar10_11pct", "cifar10_11pct_no_norm"}
# What the files say and is not compared: the only values it may have. Those that are None are of how the old code
# computed, or of weights from another net.
NOT_COMPARED = {
    **dict.fromkeys(("partialSum", "gpu", "initWFunc", "initBFunc", "coeff", "topk")),
    **{"sharedBiases": {"1"}, "start": {"0"}, "outputsX": {"0"}, "randSparse": {"0"}, "groups": {"1"}},
    **{"enable": {"true"}, "wball": {"0", "0.00", "0,0"}},
}
COMPARED = {"type", "inputs", "channels", "filters", "outputs", "filterSize", "stride", "padding", "initW", "initB"}
COMPARED |= {"neuron", "pool", "sizeX", "size", "keep", "scale", "pow", "minDiv"}
COMPARED |= {"epsW", "epsB", "momW", "momB", "wc", "schedW", "schedB"}
all_nets = pytest.mark.parametrize("name", CASES)


def test_every_net_and_all_notes_have_a_file():
    assert {case.net for case in CASES.values()} == set(nets.NETS) - WITHOUT_FILES
    assert set(lab_notes.NOTES) <= set(CASES)


@all_nets
def test_nothing_in_the_files_is_overlooked(name):
    sections, read = original_files.parse(CASES[name].definition), original_files.read(CASES[name].definition)
    assert {sections[each]["type"] for each in sections if each not in read} == {"data", "softmax", "cost.logreg"}
    fields = [field for each in read for field in sections[each].items()]
    fields += [field for section in original_files.parse(CASES[name].parameters).values() for field in section.items()]
    for field, value in fields:
        if field not in COMPARED:
            assert NOT_COMPARED[field] is None or value in NOT_COMPARED[field], (field, value)


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
    config, net, original = our_config(name), our_net(name), original_files.read(CASES[name].definition)
    columns = original_files.columns(original)
    assert (net.towers, net.image_size) == (len(columns), CASES[name].image_size)
    assert config.augment.flip == CASES[name].flip
    for column in columns:
        chain, seen = original_files.chain(original, column), original_files.seen(original, column)
        for layer, (file_name, following), sees in zip(net.layers, chain, seen, strict=True):
            section = original[file_name]
            found = {
                "type": type(layer).__name__.lower().replace("dense", "fc"),
                "then": " ".join(op for op, _ in structure.operations(net, layer)),
                "initW": layer.stddev,
                "initB": layer.bias,
            }
            expected = {
                "type": section["type"],
                "then": original_files.words(original, file_name, following),
                "initW": original_files.number(section["initW"]),
                "initB": original_files.number(section.get("initB", "0")),
            }
            if layer is not net.layers[-1]:  # which has the classes of the data
                found["outputs"], expected["outputs"] = layer.features, section["outputs"]
            if section["type"] != "fc":
                found |= {
                    "filterSize": layer.size,
                    "stride": layer.stride,
                    "padding": layer.pad,
                    "groups": layer.groups,
                }
                expected |= {
                    field: int(original_files.number(section.get(field, "1")))
                    for field in ("filterSize", "stride", "padding", "groups")
                }
            if sees and len(columns) == 2:
                found["sees"] = {"a", "b"} if layer.cross_tower else {column}
                expected["sees"] = set(sees)
            assert found == expected, file_name


@all_nets
def test_pools_norms_and_dropout(name):
    net, original = our_net(name), original_files.read(CASES[name].definition)
    settings = original_files.parse(CASES[name].parameters)
    for each, section in original.items():
        if section["type"] == "pool":
            assert net.pool == (int(section["sizeX"]), int(section["stride"])), each
        elif section["type"] in ("cmrnorm", "rnorm"):  # with the power, which no net of ours can change
            ours = net.norm if section["type"] == "cmrnorm" else net.same_map_norm
            expected = original_files.norm(section, settings[each])
            found = {"size": ours.size, "k": ours.k, "alpha": ours.alpha, "beta": 0.75}
            assert found == pytest.approx(expected), each
        elif section["type"] == "hs":
            assert float(section["keep"]) == 0.5, each  # ours drops and halves


@all_nets
def test_parameters(name):
    original = original_files.read(CASES[name].definition)
    *_, last = original.values()
    rows = counts.layer_table(our_net(name).with_classes(last["outputs"]))
    assert counts.total(rows).parameters == original_files.count(original, CASES[name].image_size)


@all_nets
def test_weight_decays_momentum_and_rates(name):
    config, net, case = our_config(name), our_net(name), CASES[name]
    settings, original = original_files.parse(case.parameters), original_files.read(case.definition)
    decays = optimizer.weight_decays(config.optimizer, net)
    at = rates_of(config, net, 0 if case.rates_at == "start" else config.num_epochs - 1e-6)
    ones = jax.tree.map(lambda _: np.ones(1, np.float32), decays)
    still = jax.tree.map(np.zeros_like, ones)
    some_rate = jax.tree.map(lambda _: 0.01, decays)
    moved, _ = optimizer.from_config(config.optimizer, net).update(still, ones, still, learning_rates=some_rate)
    for column in original_files.columns(original):
        for layer, (file_name, _) in zip(net.layers, original_files.chain(original, column), strict=True):
            section = settings[file_name]
            found = {"wc": decays[layer.name]["kernel"]}
            found |= {"momW": float(moved[layer.name]["kernel"][0]), "momB": float(moved[layer.name]["bias"][0])}
            if case.rates_at:
                found |= {"epsW": at[layer.name]["kernel"], "epsB": at[layer.name]["bias"]}
            expected = {field: original_files.number(section[field]) for field in found}
            if (name, layer.name) == ("145-half", "conv1"):  # by the notes 0 since epoch 72: the file was not changed
                assert (found.pop("epsW"), expected.pop("epsW")) == (0, 1e-5)
            assert found == pytest.approx(expected, rel=1e-6), file_name
            assert decays[layer.name]["bias"] == 0  # the files have none for biases


@pytest.mark.parametrize("name", lab_notes.NOTES)
def test_changes_by_hand(name):
    config, net, case = our_config(name), our_net(name), CASES[name]
    first, changes, noise_off, end = original_files.changes(case.parameters)
    assert (config.augment.noise_off_at, noise_off is None) == (noise_off or 0, name == "147")
    if name == "170":
        assert (changes, end) == ([(74, "conv1", 0)], None)
        freezes = [rates_of(config, net, epoch)["conv1"] == {"kernel": 0, "bias": 0} for epoch in (0, 73.99, 74, 94)]
        assert freezes == [False, False, True, True]
        return
    assert config.num_epochs == end
    if name == "145-half":  # the file ends with 1e-5, and nobody noted since when
        changes.append((79, "", 1e-5))
    last_fall = max(epoch for epoch, layer, _ in changes if not layer)
    settings, original = original_files.parse(case.parameters), original_files.read(case.definition)
    chain = original_files.chain(original, original_files.columns(original)[0])
    final = {
        layer.name: original_files.number(settings[file_name]["epsB"])
        for layer, (file_name, _) in zip(net.layers, chain, strict=True)
    }
    weights = {layer.name: first.get(layer.name, first[""]) for layer in net.layers}
    for epoch in range(int(config.num_epochs)):
        for _, layer, rate in [change for change in changes if change[0] == epoch]:
            # What is done to all leaves alone what is slower, or frozen.
            others = {each: min(rate, before) for each, before in weights.items()}
            weights = weights | {layer: rate} if layer else others
        # As the page of the nets has it: biases are at their last rate when the weights are at theirs.
        biases = dict.fromkeys(weights, 0.02)
        for each, rate in final.items():
            if rate == 0 == weights[each] or rate == 0.002 and (epoch >= last_fall or each == "conv6"):
                biases[each] = rate
        for moment in (epoch, epoch + 0.99):
            found = rates_of(config, net, moment)
            assert {each: of["kernel"] for each, of in found.items()} == pytest.approx(weights, rel=1e-6), moment
            assert {each: of["bias"] for each, of in found.items()} == pytest.approx(biases, rel=1e-6), moment


@pytest.mark.parametrize(("leaf", "field"), [("kernel", "schedW"), ("bias", "schedB")])
def test_the_automatic_schedule_of_net_170(leaf, field):
    config, net = our_config("170"), our_net("170")
    schedule = original_files.parse(CASES["170"].parameters)["conv2a"][field]
    factor, noise, steps = map(int, re.fullmatch(r"dexp\[\w+=(\d+),\w+=(\d+),\w+=(\d+)\]", schedule).groups())
    assert noise == 0
    first = rates_of(config, net, 0)["conv2"][leaf]
    for i in range(steps):  # at the end of each part its rate is still in force
        for progress in (i / steps + 1e-6, (i + 1) / steps):
            found = rates_of(config, net, progress * config.num_epochs)["conv2"][leaf]
            assert first / found == pytest.approx(factor ** (i / (steps - 1))), progress


def test_the_length_of_net_170():
    # Its first epochs are those of net 169, which was run again "for 80 epochs instead of" so many.
    text = (original_files.DIRECTORY / "layers" / "layer-params-169.cfg").read_text()
    assert float(re.search(r"80 epochs instead of (\d+)", text)[1]) == our_config("170").num_epochs


def test_the_schedule_of_18pct():
    text = (original_files.DIRECTORY / CASES["18pct"].parameters).read_text()
    first, more = map(float, re.search(r"10 after (\d+) epochs.\n# .* after (\d+) more", text).groups())
    config, net = our_config("18pct"), our_net("18pct")
    for epoch, factor in ((first - 0.1, 1), (first, 0.1), (first + more - 0.1, 0.1), (first + more, 0.01)):
        expected = {"kernel": 0.001 * factor, "bias": 0.002 * factor}
        assert rates_of(config, net, epoch)["fc10"] == pytest.approx(expected)


def columns_weights(net, params, original):
    """Our parameters as the file's: for each of its layers (a kernel for each input, the biases)."""
    columns = original_files.columns(original)
    sides = original_files.sides(original, net.image_size)
    found = {}
    for column in columns:
        seen = original_files.seen(original, column)
        for layer, (name, _), sees in zip(net.layers, original_files.chain(original, column), seen, strict=True):
            kernel, bias = params[layer.name]["kernel"].astype(float), params[layer.name]["bias"].astype(float)
            if original[name]["column"]:
                tower = columns.index(column)
                kernel, bias = (np.split(w, len(columns), axis=-1)[tower] for w in (kernel, bias))
            if original[name]["type"] == "fc":  # of the units of a row all maps follow each other
                side = sides[original[name]["inputs"][0]]
                kernel = kernel.reshape(side, side, -1, kernel.shape[-1])
            parts = dict(zip(columns, np.split(kernel, len(columns), axis=-2), strict=True)) if len(sees) > 1 else {}
            kernels = [parts[each] for each in sees] if parts else [kernel]
            if original[name]["type"] == "fc":
                kernels = [part.reshape(-1, part.shape[-1]) for part in kernels]
            found[name] = kernels, bias
    return found


ON_DEVICES = [
    (name, devices)
    for name in CASES
    for devices in (1, 2)[: our_net(name).towers]
    if CASES[name].rates_at and name != "145-2010"
]


@pytest.mark.parametrize("shrink", [16, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "devices"), ON_DEVICES)
def test_forward_values(name, devices, shrink):
    case, config = CASES[name], our_config(name)
    small = case.net.startswith("cifar10_")
    shrink = min(shrink, 4) if small else shrink
    config.model.width = 1 / shrink
    if shrink > 1 and not small:
        config.model.image_size = 94  # where windows hang over edges
    net = nets.from_config(config.model)
    original, settings = original_files.read(case.definition, shrink), original_files.parse(case.parameters)
    params, (x, _) = witnesses.random_params(net), witnesses.random_batch(net, 2 if shrink > 1 else 1)
    theirs = original_files.forward(original, settings, columns_weights(net, params, original), x)
    ours = witnesses.forward(net, params, x, devices)
    for i, layer in enumerate(net.layers):
        ends = {}
        for column in original_files.columns(original):
            end, following = original_files.chain(original, column)[i]
            ends[(following or [end])[-1]] = None
        expected = np.concatenate([theirs[end] for end in ends], axis=-1)
        last = [end for end, of in structure.outputs(net).items() if of is layer]
        found = ours[last[-1] if last else "logits"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.max(abs(expected)), err_msg=layer.name)
