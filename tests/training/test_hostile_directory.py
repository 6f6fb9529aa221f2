"""Working directories from somebody else: links that lead elsewhere, and JSON of another shape."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import UserError, train
from alexnet_jax.training import checkpoint, image_list, metrics, run_directory, run_state
from tests.support import METADATA

REPLACED = ("mean.npy", "images.tsv.gz", "curves.png", "conv1.png")
REPLACED_WHEN_CONTINUED = ("config.json", "net.json", "metrics.jsonl", "result.json")
OF_THE_USER = ("metrics.jsonl.tmp", "result.json.tmp", "config.json.tmp", "lock.tmp")
# What a run wrote, by its file, and the function that reads it.
READERS = {
    "config.json": lambda workdir, config: run_directory.check(config, workdir),
    "net.json": lambda workdir, config: run_directory.read_record(workdir),
    "metrics.jsonl": lambda workdir, config: metrics.read(workdir / "metrics.jsonl"),
    "result.json": lambda workdir, config: train.files.read_json(workdir / "result.json", train.RESULT),
}


def test_a_run_writes_through_no_link(config, tmp_path):
    workdir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    workdir.mkdir()
    elsewhere.mkdir()
    for name in (*REPLACED, *OF_THE_USER):
        (elsewhere / name).write_text("mine\n")
        (workdir / name).symlink_to(elsewhere / name)
    config.num_epochs = 0.3
    train.train_and_evaluate(config, workdir)
    for name in REPLACED_WHEN_CONTINUED:
        (workdir / name).rename(elsewhere / name)
        (workdir / name).symlink_to(elsewhere / name)
    before = {path.name: path.read_bytes() for path in elsewhere.iterdir()}
    config.num_epochs = 0.6
    train.train_and_evaluate(config, workdir)
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == before
    assert {path.name for path in workdir.iterdir() if path.is_symlink()} == set(OF_THE_USER)
    assert not [path for path in workdir.iterdir() if path.name.startswith(train.files.UNFINISHED)]


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "directory"])
def test_a_lock_that_is_something_else_is_refused(kind, config, tmp_path):
    (tmp_path / "run").mkdir()
    victim, lock = tmp_path / "victim", tmp_path / "run" / "lock"
    victim.write_text("mine")
    {"link": lock.symlink_to, "hard link": lock.hardlink_to, "pipe": lambda _: os.mkfifo(lock)}.get(
        kind, lambda _: lock.mkdir()
    )(victim)
    with pytest.raises(UserError, match=r"run/lock: (cannot be written|is a link|is a pipe)"):
        train.train_and_evaluate(config, tmp_path / "run")
    assert victim.read_text() == "mine"


def test_checkpoints_of_another_run_are_not_touched_through_a_link(config, tmp_path):
    config.num_epochs = 0.3
    train.train_and_evaluate(config, tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "checkpoints").symlink_to(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match="other/checkpoints: is a link; remove it"):
        train.train_and_evaluate(config, tmp_path / "other")
    (tmp_path / "third" / "checkpoints").mkdir(parents=True)
    (tmp_path / "third" / "checkpoints" / "1").symlink_to(tmp_path / "run" / "checkpoints" / "1")
    with pytest.raises(UserError, match="third/checkpoints/1: is a link"):
        train.train_and_evaluate(config, tmp_path / "third")
    (tmp_path / "link").symlink_to(tmp_path / "run")  # a user's own link to a whole run
    assert train.train_and_evaluate(config, tmp_path / "link")["step"] == 1


def others(value):
    """Values in place of one of a JSON file, and files that lack a key or hold something else."""
    yield from (None, 3, "text", [], {}, [[3]], True, {"a": {"b": []}}, float("nan"))
    if isinstance(value, dict):
        for key, inner in value.items():
            yield {name: x for name, x in value.items() if name != key}
            for other in (None, "text", [1], {"x": 1}, True):
                if type(other) is not type(inner):
                    yield value | {key: other}


def message_of(read, workdir, config):
    """The message of a UserError; the directory's name if nothing that the run reads is of another shape."""
    try:
        read(workdir, config)
    except UserError as error:
        return str(error)
    return str(workdir)


def test_json_of_another_shape_is_one_line_that_names_the_file(config, tmp_path):
    config.num_epochs, config.dataset.orientation = 0.3, "upright"
    workdir = tmp_path / "run"
    train.train_and_evaluate(config, workdir)
    messages = []
    for name, read in READERS.items():
        whole = (workdir / name).read_text()
        value = json.loads(whole.splitlines()[0] if name == "metrics.jsonl" else whole)
        read(workdir, config)
        texts = [json.dumps(other) + "\n" for other in others(value)]
        for text in [*texts, "[" * 100_000 + "\n", '{"step": ' + "9" * 5000 + "}\n", "\0\n", '{"a": 1}}\n']:
            (workdir / name).write_text(text)
            message = message_of(read, workdir, config)
            assert "\n" not in message and (name in message or str(workdir) in message), (text[:200], message)
            messages.append(message)
        (workdir / name).write_bytes(b"\xff\xfe")
        with pytest.raises(UserError, match=f"{name}: cannot be read .not text in UTF-8"):
            read(workdir, config)
        (workdir / name).write_text(whole)
    assert len(messages) > 200


@pytest.mark.parametrize(
    "damage",
    [
        {"schedule": {"drops": "x"}},
        {"schedule": {}},
        {"schedule": {"evaluated": "x", "drops": 1}},
        {"window": {"loss": "x"}},
        {"window": []},
        {"window": {"loss": 1.0}},
        {"window": {"loss": 1.0, "steps": -5}},
        {"window": {"loss": float("nan"), "steps": 3}},
        {"evaluated": "x"},
        {"data": {"class_names": "abc", "train_images": 3}},
        {"data": {"class_names": [1], "train_images": 3}},
        {"checksums": {"params": 3}},
    ],
)
def test_metadata_of_a_checkpoint_of_another_shape_is_one_line(damage, tmp_path):
    state = run_state.RunState({"a": jnp.ones(3)}, {"b": jnp.ones(2)}, {"drops": 2}, step=7)
    checkpoints = checkpoint.Checkpoints(tmp_path)
    whole = METADATA | {"schedule": {"drops": 2}}
    checkpoints._checkpointer.save(7, state.trees, custom_metadata=whole | damage)
    with pytest.raises(UserError, match=r"(7: cannot be read|step 7: its metadata)") as error:
        state.restored(checkpoints, METADATA["data"])
    assert "\n" not in str(error.value)


def test_a_mean_that_promises_terabytes_is_named(config, tmp_path):
    np.save(tmp_path / "mean.npy", np.ones(3, np.float32))
    data = (tmp_path / "mean.npy").read_bytes()
    (tmp_path / "mean.npy").write_bytes(data.replace(b"(3,)", b"(3000000000000,)").replace(b" " * 13, b"", 1))
    with pytest.raises(
        UserError, match=r"mean.npy: is not a whole array .*; remove it, and the same command writes it"
    ):
        run_directory.keep(config, "", np.ones(3, np.float32), 1, tmp_path)


def test_metrics_whose_ends_of_lines_were_changed_are_not_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": i, "epoch": i, "split": "train", "loss": 1, "top1_error": 0}) for i in range(3)]
    path.write_bytes("\n".join(lines).encode())  # the last is cut short
    assert [line["step"] for line in metrics.read(path)] == [0, 1]
    path.write_bytes("\r\n".join([*lines, ""]).encode())
    assert [line["step"] for line in metrics.read(path)] == [0, 1, 2]
    path.write_bytes("\r".join([*lines, ""]).encode())
    with pytest.raises(UserError, match="metrics.jsonl: cannot be read .line 1: Extra data"):
        metrics.read(path)


def test_a_list_of_images_that_is_a_pipe_is_named(tmp_path):
    os.mkfifo(tmp_path / image_list.NAME)
    with pytest.raises(UserError, match=r"images.tsv.gz: is a pipe or a device"):
        image_list.check_changes("train\ta\tb\t1\n", tmp_path)
