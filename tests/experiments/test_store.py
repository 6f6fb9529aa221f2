"""Stored runs and measurements: which ones count for a claim, and damaged files."""

import copy
import json

import pytest

from alexnet_jax import UserError
from alexnet_jax.training import fidelity, run_directory
from experiments import results_page, store
from experiments.claims import comparisons
from experiments.claims.dropout import DROPOUT
from experiments.claims.groups import with_seed
from experiments.claims.ten_views import TEN_VIEWS


def stored_run(config, **fields):
    """The content of the file of a run with a config and other settings."""
    config = copy.deepcopy(config)
    config.update_from_flattened_dict(fields)
    config = fidelity.resolve(config)
    errors = {"top1_error": 0.4, "top5_error": 0.1}
    return {
        "commit": "abc",
        "settings": fields,
        "config": json.loads(config.to_json()),
        "net": run_directory.record(config),
        "result": {"step": 9, "num_examples": 3925, "center": errors, "ten_crop": errors},
        "metrics": [{"split": split, "epoch": 1.0, "top1_error": 0.5} for split in ("train", "eval")],
    }


@pytest.fixture
def write_run(tmp_path):
    """Writes the content of a run's file where TEN_VIEWS has its runs, and returns the runs there."""
    directory = TEN_VIEWS.runs_directory("laptop", tmp_path / "results")
    directory.mkdir(parents=True)

    def write(stored):
        (directory / "a.json").write_text(json.dumps(stored))
        return store.load_runs(directory)

    return write


def test_runs_of_another_config_net_or_data_set_do_not_count(write_run, tmp_path, capsys):
    def seeds(claim, stored):
        write_run(stored)
        return [run.seed for run in claim.finished_runs("laptop", tmp_path / "results")]

    stored = stored_run(TEN_VIEWS.sweep.config("laptop"), seed=1)
    assert seeds(TEN_VIEWS, stored) == [1]
    stored["config"]["batch_size"] = 64
    assert seeds(TEN_VIEWS, stored) == []
    results_page.write(tmp_path)
    path = TEN_VIEWS.runs_directory("laptop", tmp_path / "results") / "a.json"
    assert f"1 runs are not used, for example {path}: " in capsys.readouterr().err
    stored = stored_run(TEN_VIEWS.sweep.config("laptop"), seed=1)
    stored["result"]["num_examples"] = 10_000
    assert seeds(TEN_VIEWS, stored) == []

    claim = comparisons.PRETRAINING
    (fields,) = [member for member in claim.sweep.members("laptop") if "init_from" in member and member["seed"] == 1]
    stored = stored_run(claim.sweep.config("laptop"), **fields)
    start = stored_run(claim.start.config("laptop"), **with_seed(comparisons.SIXTH, 1))
    stored["start"] = copy.deepcopy(start)
    assert seeds(claim, stored) == [1]
    text = results_page.provenance(write_run(stored), "laptop", None)
    assert "1 of them started from nets with a top-1 error of 40.0 % on their own data, of commit `abc`." in text
    stored["start"]["config"]["num_epochs"] = 1.0
    assert seeds(claim, stored) == []
    stored["start"] = start | {"net": {}}  # from before net 146 was corrected
    assert seeds(claim, stored) == []

    claim = comparisons.TWO_GPUS
    stored = stored_run(claim.sweep.config("laptop"), **with_seed({"model.net": "separate"}, 1))
    assert seeds(claim, stored) == [1]
    stored["net"]["layers"]["fc7"]["features"] = 1024
    assert seeds(claim, stored) == []


@pytest.mark.parametrize(
    "damage",
    [
        {"more": 1},
        {"settings": {}},
        {"metrics": []},
        {"start": {"commit": "abc", "config": {}}},
        {"start": {"commit": 5, "config": {}, "result": {}}},
        {"start": {"commit": "abc", "config": {}, "result": "x"}},
        {"result": {"step": 9, "num_examples": 3925, "center": {"top1_error": 0.4, "top5_error": 0.1}}},
    ],
)
def test_a_damaged_file_is_named(damage, write_run):
    with pytest.raises(UserError, match=r"a.json: is not what this program wrote( \(.*\))?; restore or remove it"):
        write_run(stored_run(TEN_VIEWS.sweep.config("laptop"), seed=1) | damage)


@pytest.mark.parametrize("measured", ["x", {}, {"center": 5}])
def test_a_measurement_that_its_claim_cannot_use_is_named(measured, write_run, tmp_path):
    runs = write_run(stored_run(DROPOUT.sweep.config("laptop"), **with_seed({}, 1)))
    path = DROPOUT.measurement_path("laptop", tmp_path / "results")
    store.store_measurement({run.name: measured for run in runs}, runs, path)
    with pytest.raises(UserError, match=r"dropout_laptop.json: is not what this program wrote \(\w+Error: .*:\d+\); r"):
        results_page.summarise(DROPOUT, "laptop", tmp_path / "results")


def test_a_measurement_of_runs_that_changed_since_does_not_count(write_run, tmp_path):
    results = tmp_path / "results"
    stored = stored_run(DROPOUT.sweep.config("laptop"), seed=1)
    runs = write_run(stored)
    store.store_measurement({"a": 7}, runs, DROPOUT.measurement_path("laptop", results))
    assert DROPOUT.measurement("laptop", results)["a"] == 7
    write_run(stored | {"commit": "def"})
    assert DROPOUT.measurement("laptop", results) == {}
    runs[0].path.unlink()
    assert DROPOUT.measurement("laptop", results) == {}
