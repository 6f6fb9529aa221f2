"""A net whose layers have other names goes through all that knows nets: training, pages, weights."""

import dataclasses

import numpy as np
import onnxruntime
import pytest

from alexnet_jax import pretrained, train
from alexnet_jax.analysis import ensemble, inference, run_page
from alexnet_jax.model import nets, spec, structure

NAMES = {"conv1": "stem", "conv2": "body", "fc7": "hidden", "fc8": "head"}


@pytest.fixture
def renamed(monkeypatch):
    layers = tuple(dataclasses.replace(layer, name=NAMES.get(layer.name, layer.name)) for layer in nets.TWO_GPU.layers)
    net = dataclasses.replace(nets.TWO_GPU, layers=layers, two_fidelities=False)
    monkeypatch.setitem(nets.NETS, "renamed", net)
    return net


def test_outputs_of_layers_without_a_number(renamed):
    assert list(structure.outputs(renamed))[:6] == ["stem", "norm_stem", "pool_stem", "body", "norm_body", "pool_body"]
    assert len({layer.seed for layer in renamed.layers}) == len(renamed.layers)
    assert [name for _, name in structure.operations(nets.without(renamed, "body"), renamed.layers[0])]


@pytest.mark.slow
def test_a_run_its_page_and_its_weights(renamed, config, tmp_path):
    config.model.net, config.num_epochs = "renamed", 0.7
    for field in ("block1", "block2", "block5", "norm_alpha", "conv3to5_stddev"):
        config.model[field] = None
    config.optimizer.layer_rates = "stem=0.5 head=10"
    train.train_and_evaluate(config, tmp_path / "run")
    assert (tmp_path / "run" / "stem.png").exists()
    trained = ensemble.load([tmp_path / "run"])
    *_, source = inference.load_split(trained)
    assert ("heading", "Kernels of stem") in run_page.blocks(trained, "images", source)

    weights = pretrained.from_workdir(tmp_path / "run")
    pretrained.write(tmp_path / "net.onnx", weights)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    pixels = np.stack([source[i][0] for i in range(4)])[:, 4:67, 4:67].astype(np.float32)
    (logits,) = session.run(None, {"image": pixels.transpose(0, 3, 1, 2)})
    classify = inference.make_classify(trained.nets, trained.mesh, trained.means, views=1)
    outputs = inference.classify_all(classify, trained.params, trained.mesh, source, trained.batch_size(4))
    np.testing.assert_array_equal(logits.argmax(1), outputs["center"]["classes"][:4, 0])


def test_names_that_would_hide_something_are_refused():
    net = nets.TWO_GPU
    with pytest.raises(ValueError, match="the net has no layer conv22"):
        spec.changed(net, {"conv22": {"features": 3}})
    twice = spec.changed(net, {"conv2": {"name": "extra1"}})
    with pytest.raises(ValueError, match="conv1 and extra1 both have an output norm1; number them apart"):
        structure.outputs(twice)
    with pytest.raises(ValueError, match="no operation 'rellu'"):
        structure.outputs(spec.changed(net, {"conv2": {"then": "rellu"}}))
