"""Training that begins with the weights of another run, and what stands in its way."""

import json

import jax
import numpy as np
import pytest

from alexnet_jax import UserError, pretrained, train
from alexnet_jax.model import structure
from alexnet_jax.runtime import files
from alexnet_jax.training import run_directory
from configs import two_gpu
from tests.fixtures.weight_files import some_weights
from tests.support import describe


def test_fine_tuning_takes_all_layers_but_the_last(config, tmp_path):
    config.num_epochs = 0.7
    train.train_and_evaluate(config, tmp_path / "first")
    before = pretrained.from_workdir(tmp_path / "first").params
    (tmp_path / "images" / "train" / "class_1").rename(tmp_path / "images" / "train" / "class_9")
    (tmp_path / "images" / "val" / "class_1").rename(tmp_path / "images" / "val" / "class_9")
    config.init_from, config.seed = str(tmp_path / "first"), 1
    config.optimizer.layer_rates = "conv1=0 conv2=0 fc6=0.5"
    train.train_and_evaluate(config, tmp_path / "second")
    after = pretrained.from_workdir(tmp_path / "second").params
    for layer in after:
        same = np.array_equal(after[layer]["kernel"], before[layer]["kernel"])
        assert same == (layer in ("conv1", "conv2"))
        distance = abs(after[layer]["kernel"] - before[layer]["kernel"]).max() / abs(before[layer]["kernel"]).max()
        assert (distance < 0.1) == (layer != "fc8"), layer

    config.init_from = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="config.init_from: .*nowhere: holds no trained net"):
        train.train_and_evaluate(config, tmp_path / "third")
    assert not (tmp_path / "third" / "checkpoints").exists()


def test_a_checkpoint_of_another_net_is_not_taken_for_a_damaged_one(config, tmp_path):
    config.num_epochs = 0.35
    train.train_and_evaluate(config, tmp_path / "run")
    fields = files.read_json(tmp_path / "run" / "config.json")
    fields["model"]["net"] = "separate"
    files.write_json(tmp_path / "run" / "config.json", fields)
    with pytest.raises(UserError, match="its net differs from that of this version .*layers.conv2.features is 8 there"):
        pretrained.from_workdir(tmp_path / "run")
    (tmp_path / "run" / "net.json").unlink()
    with pytest.raises(UserError, match=r"is of another net \(conv2.bias has the shape \(16,\) there and \(20,\) here"):
        pretrained.from_workdir(tmp_path / "run")
    config.model.net = "separate"
    (tmp_path / "run" / "net.json").write_text(json.dumps(run_directory.record(config)))
    with pytest.raises(UserError, match="is of another net"):
        train.train_and_evaluate(config, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "1").exists()


@pytest.mark.slow
def test_fine_tuning_goes_on_from_the_same_net_where_the_classes_are_the_same(config, tmp_path):
    config.num_epochs, config.init_from = 0.7, ""
    train.train_and_evaluate(config, tmp_path / "first")
    config.init_from, config.schedule.learning_rate = str(tmp_path / "first"), 0.0
    (tmp_path / "second" / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir(parents=True)  # killed in its first save
    train.train_and_evaluate(config, tmp_path / "second")
    first, second = (pretrained.from_workdir(tmp_path / name).params for name in ("first", "second"))
    for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_fine_tuning_begins_with_weights_from_a_file(config, tmp_path):
    model = {"input_std": (58.395, 57.12, 57.375)}
    model |= {name: config.model[name] for name in ("image_size", "width")}
    weights = some_weights("one_weird_trick", **model)
    pretrained.write(tmp_path / "net.safetensors", weights)
    pretrained.to_workdir(pretrained.read(tmp_path / "net.safetensors"), tmp_path / "theirs")
    config.model, config.mesh.model, config.num_epochs = two_gpu.get_config().model, 1, 0.35
    config.model.update({"net": "one_weird_trick"} | model)
    config.init_from, config.schedule.learning_rate = str(tmp_path / "theirs"), 0.0
    train.train_and_evaluate(config, tmp_path / "ours")
    ours = pretrained.from_workdir(tmp_path / "ours")
    for layer in ("conv1", "conv5", "fc7"):
        np.testing.assert_array_equal(ours.params[layer]["kernel"], weights.params[layer]["kernel"])
    assert ours.params["fc8"]["kernel"].shape[1] == 2


@pytest.mark.parametrize(
    ("net", "fields"),
    [
        ("sixth_conv", {}),
        ("no_norm", {}),
        ("caffe", {}),
        ("two_gpu", {"activation": "tanh"}),
        ("two_gpu", {"block5": "pool relu"}),
        ("two_gpu", {"input_std": (2.0, 2.0, 2.0)}),
        ("two_gpu", {"norm_alpha": 2e-5}),
        ("two_gpu", {"width": 0.5}),
        ("two_gpu", {"image_size": 112}),
    ],
)
def test_nets_that_compute_otherwise_are_told_apart(net, fields):
    assert not structure.compute_alike(describe("two_gpu"), describe(net, **fields))


def test_nets_of_other_classes_initial_weights_types_and_shapes_of_images_compute_alike():
    other = describe("two_gpu", conv3to5_stddev=0.03, stretch=True, dtype="bfloat16")
    assert structure.compute_alike(describe("two_gpu").with_classes(7), other)


def test_fine_tuning_another_net_is_refused(config, tmp_path):
    config.num_epochs = 0.35
    train.train_and_evaluate(config, tmp_path / "first")
    config.init_from, config.model.activation, config.model.norm_alpha = str(tmp_path / "first"), "tanh", 2e-5
    config.model.block2 = "relu pool"
    settings = "--config.model.activation=relu '--config.model.block2=relu norm pool' --config.model.norm_alpha=0.0001"
    message = f"config.init_from=.*first: its net was trained with {settings}; add that$"
    with pytest.raises(UserError, match=message):
        train.train_and_evaluate(config, tmp_path / "second")
