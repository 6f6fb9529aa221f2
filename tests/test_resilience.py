"""What a run survives: signals, damaged checkpoints, and another run on its directory."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import final_params

from alexnet_jax import UserError, checkpoint, files, settings, train

KILLS = pathlib.Path(__file__).parent.parent / "experiments" / "kills.py"


def start(workdir, config):
    """The program in a process of its own, and the file of its log."""
    fields = ("batch_size", "num_epochs", "log_every", "save_every", "model.width", "model.image_size")
    flat = dict(settings.flatten(json.loads(config.to_json())))
    command = [sys.executable, "-m", "alexnet_jax.main", "--config=configs/two_gpu.py", f"--workdir={workdir}"]
    command += [f"--config.{field}={flat[field]}" for field in (*fields, "dataset.name", "dataset.root")]
    command += [f"--config.schedule.learning_rate={config.schedule.learning_rate}"]
    log = workdir.with_suffix(".log")
    with log.open("a") as file:
        return subprocess.Popen(command, env=os.environ | {"JAX_NUM_CPU_DEVICES": "2"}, stdout=file, stderr=file), log


def test_a_signal_saves_and_the_run_goes_on(config, tmp_path):
    config.num_epochs, config.save_every = 12.0, 1000
    metrics, saved = tmp_path / "run" / "metrics.jsonl", 0
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process, log = start(tmp_path / "run", config)
        while process.poll() is None and not (metrics.exists() and metrics.read_text().count("train") > saved / 2 + 3):
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(60) == status, log.read_text()
        text = log.read_text()
        assert f"{number.name}: saving" in text
        assert text.endswith("alexnet_jax: interrupted; the same command goes on from the last checkpoint\n")
        assert "Traceback" not in text
        before, (saved, _) = saved, final_params(config, tmp_path / "run")
        assert before < saved < 39
    process, log = start(tmp_path / "run", config)
    assert process.wait(300) == 0, log.read_text()
    assert f"continuing at step {saved} of 39" in log.read_text()
    train.train_and_evaluate(config, tmp_path / "straight")
    (step, found), (_, expected) = (final_params(config, tmp_path / name) for name in ("run", "straight"))
    assert step == 39
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)  # of two devices and of four


def test_a_killed_run_ends_with_the_same_bits(tmp_path):
    command = [sys.executable, str(KILLS), "--runs=1", f"--workdir={tmp_path / 'kills'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(r"1 of 1 ended with the same bits; killed: .*'(saving|evaluating)': 1.*\n", done.stdout)


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    """A directory with checkpoints of steps 1 and 2."""
    directory = tmp_path_factory.mktemp("checkpoints") / "whole"
    with checkpoint.Checkpoints(directory) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"params": {"conv1": jnp.arange(5000.0) + step}}, {"data": "some"})
    return directory


# In a process of its own, to see what its users see: a line of JSON for each directory, and what is on stderr.
RESTORE = """
import json, pathlib, sys
import jax.numpy as jnp
from alexnet_jax import UserError, checkpoint, commands
commands.set_up_jax()
for directory in sys.argv[2:]:
    found = {}
    with checkpoint.Checkpoints(pathlib.Path(directory)) as checkpoints:
        try:
            step, notes, state = checkpoints.restore({"params": {"conv1": jnp.zeros(5000)}}, sys.argv[1])
            right = bool((state["params"]["conv1"] == jnp.arange(5000.0) + step).all())
            found = {"step": step, "right": right and notes == {"data": "some"}, "latest": checkpoints.latest_step}
            checkpoints.save(3, state, notes)  # and the run goes on
        except UserError as error:
            found = {"error": str(error)}
    print(json.dumps(found))
"""


def restore(directories, data="some"):
    command = [sys.executable, "-c", RESTORE, data, *map(str, directories)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr and "never retrieved" not in done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def damage(path, how):
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 if how == "truncated" else 0])


def test_whatever_file_of_a_checkpoint_is_damaged_the_state_is_right(two_checkpoints, tmp_path):
    names = sorted(path.relative_to(two_checkpoints) for path in (two_checkpoints / "2").rglob("*") if path.is_file())
    directories = []
    for how in ("truncated", "emptied", "removed"):
        for i, name in enumerate(names):
            directories.append(tmp_path / how / str(i))
            shutil.copytree(two_checkpoints, directories[-1])
            damage(directories[-1] / name, how)
    found, log = restore(directories)
    for directory, result in zip(directories, found, strict=True):
        assert result["right"] and result["step"] == result["latest"]
        assert (directory / "damaged_2").exists() == (result["step"] == 1)
        assert (directory / "3").exists()
    steps = [result["step"] for result in found]
    assert 9 < steps.count(1) < len(steps)  # some files are not needed
    assert log.count("it is damaged_2 now, and the one before is used") == steps.count(1)


def test_if_no_checkpoint_can_be_read_one_line_says_so_and_all_stay(two_checkpoints, tmp_path):
    directory = tmp_path / "checkpoints"
    shutil.copytree(two_checkpoints, directory)
    for step in ("1", "2"):
        damage(directory / step / "state" / "manifest.ocdbt", "emptied")
    found, log = restore([directory, directory])
    for result in found:
        assert re.fullmatch(r"no checkpoint is left: .*/2: cannot be read .*/1: cannot be read .*", result["error"])
    assert not log
    assert {path.name for path in directory.iterdir()} >= {"1", "2"}


def test_too_little_space_for_a_checkpoint_leaves_those_before(tmp_path, monkeypatch):
    state = {"params": jnp.zeros(5000)}
    with checkpoint.Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, state, {})
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 10**4))
        with pytest.raises(UserError, match=r"no checkpoint can be written \(it takes up to 0.0 MB, and 0.0 MB are"):
            checkpoints.save(2, state, {})
    assert os.listdir(tmp_path / "checkpoints") == ["1"]


def test_many_saves_take_no_more_threads_than_few(tmp_path):
    before = set(threading.enumerate())
    with checkpoint.Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for step in range(1, 7):
            checkpoints.save(step, {"params": jnp.zeros(5000)}, {})
        new = set(threading.enumerate()) - before
    assert sum("_run_loop" in thread.name for thread in new) <= 2, new


def test_checkpoints_of_other_data_are_refused_and_stay(two_checkpoints, tmp_path):
    shutil.copytree(two_checkpoints, tmp_path / "checkpoints")
    found, _ = restore([tmp_path / "checkpoints"], "others")
    assert "was trained on other classes" in found[0]["error"]
    assert (tmp_path / "checkpoints" / "2").exists()


def test_a_second_run_on_one_directory_is_refused(config, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    code = "import pathlib, sys; from alexnet_jax import files\nwith files.locked(pathlib.Path(sys.argv[1])): input()"
    command = [sys.executable, "-c", code, str(workdir / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as other:
        while not (workdir / "lock").exists() or not (workdir / "lock").read_text():
            time.sleep(0.01)
        with pytest.raises(UserError, match=f"{workdir}: in use by process {other.pid} on "):
            train.train_and_evaluate(config, workdir)
        other.kill()
    with files.locked(workdir / "lock"):  # which the kill has freed
        pass
