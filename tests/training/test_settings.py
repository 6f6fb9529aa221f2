"""Settings that cannot be, and directories that hold another run."""

import json

import numpy as np
import pytest

from alexnet_jax import UserError, settings, train
from alexnet_jax.runtime import files
from alexnet_jax.training import run_directory


def test_a_directory_of_another_config_is_refused(config, tmp_path):
    run, mean = tmp_path / "run", np.ones(3, np.float32)
    run_directory.check(config, run)
    run_directory.keep(config, "", mean, 0, run)
    (run / "checkpoints" / "3").mkdir(parents=True)
    config.batch_size = 16
    with pytest.raises(UserError, match=r"another config \(batch_size is 8 there and 16 here\); use another --workdir"):
        run_directory.check(config, run)
    config.batch_size = 8
    config.mesh.model, config.num_epochs = 1, 200.0  # these may differ
    run_directory.check(config, run)
    config.schedule.name = "automatic"  # for which the length matters from the start
    files.write_json(run / "config.json", json.loads(config.to_json()))
    config.num_epochs = 300.0
    with pytest.raises(UserError, match="num_epochs is 200.0 there and 300.0 here"):
        run_directory.check(config, run)
    (run / "checkpoints" / "3").rmdir()  # and everything as long as nothing was learned
    config.batch_size = 16
    run_directory.check(config, run)


def test_a_run_of_an_earlier_version_of_its_net_is_not_gone_on_with(config, tmp_path):
    config.model.net = "separate"
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    run_directory.keep(config, "", np.ones(3, np.float32), 0, tmp_path)
    run_directory.check(config, tmp_path)
    recorded = files.read_json(tmp_path / "net.json")
    recorded["layers"]["fc7"]["features"] *= 2
    files.write_json(tmp_path / "net.json", recorded)
    with pytest.raises(
        UserError, match="another version .* \\(layers.fc7.features is 256 there and 128 here\\); use ano"
    ):
        run_directory.check(config, tmp_path)
    recorded["layers"]["fc7"].pop("features")  # as if that field were new
    recorded["old"] = 1
    files.write_json(tmp_path / "net.json", recorded)
    run_directory.check(config, tmp_path)
    recorded["layers"].pop("fc7")
    recorded["order"].remove("fc7")
    files.write_json(tmp_path / "net.json", recorded)
    with pytest.raises(UserError, match="another version .* \\(order is"):
        run_directory.check(config, tmp_path)
    for damaged in ("", "[1]", '{"a": 1}', '{"layers": 3, "order": 3}', '{"layers": {"fc7": 1}, "order": ["fc7"]}'):
        (tmp_path / "net.json").write_text(damaged)
        with pytest.raises(UserError, match="net.json: is not what this program wrote .*; restore it"):
            run_directory.check(config, tmp_path)


def test_a_run_whose_config_is_lost_does_not_go_on_as_another_net(config, tmp_path):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    run_directory.keep(config, "", np.ones(3, np.float32), 0, tmp_path)
    (tmp_path / "config.json").unlink()
    run_directory.check(config, tmp_path)
    config.model.net = "no_norm"
    with pytest.raises(UserError, match=r"another version of this net .*\(norm.size is 5 there and None here"):
        run_directory.check(config, tmp_path)


@pytest.mark.parametrize("net", ["separate", "sixth_conv", "cifar10_80sec", "cifar10_18pct", "two_gpu"])
def test_of_a_run_that_did_not_record_its_net_it_is_known_which_were_corrected(config, tmp_path, net):
    if net.startswith("cifar10"):
        config.model.update(dict.fromkeys(("block1", "block2", "block5", "norm_alpha", "conv3to5_stddev")))
    config.model.net = net
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    run_directory.keep(config, "", np.ones(3, np.float32), 0, tmp_path)
    run_directory.check(config, tmp_path)
    (tmp_path / "net.json").unlink()
    if net == "two_gpu":
        run_directory.check(config, tmp_path)
        return
    with pytest.raises(UserError, match=f"another version .* \\(there is no net.json, and net '{net}' was"):
        run_directory.check(config, tmp_path)


@pytest.mark.parametrize(("name", "net", "same"), [
    ("hand", "two_gpu", True),
    ("hand with falling biases", "two_gpu", False),
    ("hand", "no_norm", False),
    ("automatic", "two_gpu", False),
    ("steps", "no_norm", True),
])  # fmt: skip
def test_a_run_of_an_earlier_schedule_is_not_gone_on_with(config, name, net, same):
    config.schedule.name, config.model.net = name.partition(" ")[0], net
    config.optimizer.bias_rate_falls = "falling" in name
    assert (run_directory.corrections({}, config) == "") == same
    recorded = run_directory.record(config)
    assert run_directory.corrections(recorded, config) == ""
    if "notes" in recorded:
        recorded["notes"]["weights"][0][0] += 1
        assert run_directory.corrections(recorded, config).startswith("notes.weights is [[")


def test_the_mean_of_a_run_never_changes(config, tmp_path):
    run_directory.keep(config, "", np.ones(3, np.float32), 0, tmp_path)
    with pytest.raises(UserError, match="was trained on images with another mean"):
        run_directory.keep(config, "", np.zeros(3, np.float32), 7, tmp_path)
    assert (np.load(tmp_path / "mean.npy") == 1).all()
    run_directory.keep(config, "", np.ones(3, np.float32), 7, tmp_path)


def test_a_directory_that_cannot_be_one_is_refused(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: is not a directory; use another path"):
        train.train_and_evaluate(config, tmp_path / "file")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("fidelity", "text", "config.fidelity='text': must be paper or code"),
        ("batch_size", 7, "multiple of the mesh's 2 data rows"),
        ("batch_size", 64, "only 26 training images"),
        ("batch_size", 0, "batch_size=0"),
        ("num_epochs", 0.0, "config.num_epochs=0.0"),
        ("num_epochs", float("inf"), "config.num_epochs=inf"),
        ("eval_every", float("nan"), "config.eval_every=nan"),
        ("save_every", 0, "config.save_every=0"),
        ("seed", -1, "config.seed=-1"),
    ],
)
def test_impossible_settings_are_refused(config, tmp_path, field, value, message):
    config[field] = value
    with pytest.raises(UserError, match=message):
        train.train_and_evaluate(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("schedule", "name", "random", "there are plateau, steps, hand, automatic, polynomial"),
        ("schedule", "warmup", -1.0, "config.schedule.warmup=-1.0: must be a number, 0 or above"),
        ("optimizer", "name", "newton", "config.optimizer.name: no optimizer 'newton'; there are sgd, lars"),
        ("schedule", "learning_rate", -1.0, "config.schedule.learning_rate=-1.0"),
        ("schedule", "epochs", ("abc",), "config.schedule.epochs"),
        ("schedule", "patience", 0, "config.schedule.patience=0"),
        ("augment", "colour_noise", -0.1, "config.augment.colour_noise=-0.1"),
        ("augment", "noise_off_at", -1.0, "config.augment.noise_off_at=-1.0"),
    ],
)
def test_impossible_settings_of_a_part_are_refused(config, tmp_path, part, field, value, message):
    config[part][field] = value
    with pytest.raises(UserError, match=message):
        train.train_and_evaluate(config, tmp_path / "run")


def test_records_of_earlier_versions_are_compared_under_their_names_then(config, tmp_path):
    run_directory.keep(config, "", np.ones(3, np.float32), 0, tmp_path)
    recorded = json.loads((tmp_path / "net.json").read_text())
    recorded["overhang"] = recorded.pop("ceil_mode")
    for layer in recorded["layers"].values():
        layer["both"] = layer.pop("cross_tower")
    assert run_directory.corrections(recorded, config) == ""
    recorded["layers"]["conv3"]["both"] = False
    assert "layers.conv3.cross_tower is False there and True here" in run_directory.corrections(recorded, config)


def test_a_setting_that_is_not_stored_has_its_default(config, tmp_path):
    stored = json.loads(config.to_json())
    del stored["augment"]["flip"], stored["schedule"]["notes"]
    files.write_json(tmp_path / "config.json", stored)
    assert settings.read(tmp_path / "config.json").to_json() == config.to_json()
    files.write_json(tmp_path / "config.json", stored | {"contrast": 1.0})
    with pytest.raises(UserError, match="config.json: this version of the program has no setting contrast; use"):
        settings.read(tmp_path / "config.json")
    files.write_json(tmp_path / "config.json", stored | {"mesh": 3})
    with pytest.raises(UserError, match="config.json: is not what training wrote"):
        settings.read(tmp_path / "config.json")


def test_earlier_runs_were_trained_on_images_as_they_are_stored(config, tmp_path):
    path = tmp_path / "config.json"
    stored = json.loads(config.to_json())
    for orientation in ("upright", "stored", None):
        stored["dataset"]["orientation"] = orientation
        assert settings.merge(stored, path).dataset.orientation == orientation
    del stored["dataset"]["orientation"]
    assert settings.merge(stored, path).dataset.orientation == "stored"
    stored["dataset"]["name"] = ""  # weights from a file
    assert settings.merge(stored, path).dataset.orientation == "upright"


def test_an_orientation_that_does_not_exist_is_refused(config, tmp_path):
    config.dataset.orientation = "exif"
    with pytest.raises(UserError, match="config.dataset.orientation='exif': must be upright or stored"):
        train.train_and_evaluate(config, tmp_path / "run")
