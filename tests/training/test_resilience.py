"""What a run survives: signals, damaged checkpoints, and another run on its directory."""

import json
import os
import pathlib
import re
import resource
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

from alexnet_jax import UserError, settings, train
from alexnet_jax.runtime import files, interruption
from alexnet_jax.training import checkpoint, metrics
from tests.support import METADATA
from tests.training.test_train import final_params

KILLS = pathlib.Path(__file__).parents[2] / "experiments" / "kills.py"


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


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_saves_and_the_run_ends_with_the_same_bits(number, config, tmp_path, monkeypatch, capfd):
    train.train_and_evaluate(config, tmp_path / "straight")
    write = metrics.Writer.write

    def write_and_signal(writer, step, *values):
        write(writer, step, *values)
        if step == 4:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(metrics.Writer, "write", write_and_signal)
    config.save_every = 1000
    with pytest.raises(interruption.Interrupted) as ended:
        train.train_and_evaluate(config, tmp_path / "run")
    assert ended.value.number == number
    assert f"{number.name}: ending once all is saved" in capfd.readouterr().err
    monkeypatch.undo()
    saved, _ = final_params(config, tmp_path / "run")
    assert 4 <= saved < 6
    train.train_and_evaluate(config, tmp_path / "run")
    (step, found), (_, expected) = (final_params(config, tmp_path / name) for name in ("run", "straight"))
    assert step == 6
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_the_program_saves_at_a_signal_and_goes_on(config, tmp_path):
    config.num_epochs, config.save_every = 24.0, 1000
    metrics, saved = tmp_path / "run" / "metrics.jsonl", 0
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process, log = start(tmp_path / "run", config)
        while process.poll() is None and not (metrics.exists() and metrics.read_text().count("train") > saved / 2 + 3):
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(120) == status, log.read_text()
        text = log.read_text()
        assert f"{number.name}: ending once all is saved" in text
        assert text.endswith("alexnet_jax: interrupted; run the same command again to continue\n")
        assert "Traceback" not in text
        before, (saved, _) = saved, final_params(config, tmp_path / "run")
        assert before < saved < 78
    process, log = start(tmp_path / "run", config)
    assert process.wait(300) == 0, log.read_text()
    assert f"continuing at step {saved} of 78" in log.read_text()
    train.train_and_evaluate(config, tmp_path / "straight")
    (step, found), (_, expected) = (final_params(config, tmp_path / name) for name in ("run", "straight"))
    assert step == 78
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)  # of two devices and of four


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(tmp_path):
    command = [sys.executable, str(KILLS), "--runs=1", f"--workdir={tmp_path / 'kills'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(r"1 of 1 ended with the same bits; killed: .*'evaluating, by SIGTERM': 1.*\n", done.stdout)


@pytest.mark.parametrize(
    ("number", "seconds"), [(signal.SIGINT, 0), pytest.param(signal.SIGTERM, 3, marks=pytest.mark.slow)]
)
def test_a_signal_before_the_first_step_ends_the_run_too(number, seconds, config, tmp_path):
    config.num_epochs = 1000.0  # a fast machine takes the fixture's six steps before the signal comes
    process, log = start(tmp_path / "run", config)
    while not handles_sigterm(process.pid):
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)
    time.sleep(seconds)  # it imports; it compiles what makes the initial weights
    process.send_signal(number)
    assert process.wait(120) == 128 + number, log.read_text()
    text = log.read_text()
    assert re.search(r"alexnet_jax: interrupted(; run the same command again to continue)?\n$", text), text
    assert "Traceback" not in text


def handles_sigterm(pid):
    """Whether a process has a handler of its own, as Python has none."""
    caught = re.search(r"^SigCgt:\s*(\w+)$", pathlib.Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


HANG = """
import ctypes
from alexnet_jax.runtime import interruption
mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
with interruption.held():
    lock(mutex)
    print(flush=True)
    lock(mutex)
"""


def test_a_second_signal_ends_a_process_that_hangs_outside_python():
    with subprocess.Popen([sys.executable, "-c", HANG], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        for seconds in (0.2, 0.2, 1.5):  # the first two are one that came by two ways
            time.sleep(seconds)
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143
        assert process.stderr.read().count(b"SIGTERM: ending once all is saved") == 1


@pytest.mark.slow
def test_metrics_that_cannot_be_written_end_the_run(config, tmp_path):
    config.num_epochs, config.log_every, config.save_every = 1000.0, 1, 5
    process, log = start(tmp_path / "run", config)
    checkpoints = tmp_path / "run" / "checkpoints"
    # Then the metrics are larger than the log, which the limit is of too.
    while max((int(path.name) for path in checkpoints.glob("*") if path.name.isdigit()), default=0) < 30:
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)
    metrics = tmp_path / "run" / "metrics.jsonl"
    # As a full disk; of a limit that both the metrics and a checkpoint exceed, the metrics come first.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (metrics.stat().st_size, -1))
    assert process.wait(120) == 1, log.read_text()
    assert "Traceback" not in log.read_text()
    assert log.read_text().splitlines()[-1].endswith("(File too large)")
    assert any(path.name.isdigit() for path in checkpoints.iterdir())


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    """A directory with checkpoints of steps 1 and 2."""
    directory = tmp_path_factory.mktemp("checkpoints") / "whole"
    with checkpoint.Checkpoints(directory) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"params": {"conv1": jnp.arange(5000.0) + step}}, METADATA)
    return directory


# In a process of its own, to see what its users see: a line of JSON for each directory, and what is on stderr.
RESTORE = """
import json, pathlib, sys
import jax.numpy as jnp
from alexnet_jax import UserError
from alexnet_jax.runtime import command_line
from alexnet_jax.training import checkpoint
command_line.set_up_jax()
for directory in sys.argv[2:]:
    found = {}
    with checkpoint.Checkpoints(pathlib.Path(directory)) as checkpoints:
        try:
            step, notes, state = checkpoints.restore({"params": {"conv1": jnp.zeros(5000)}}, [sys.argv[1]])
            right = bool((state["params"]["conv1"] == jnp.arange(5000.0) + step).all())
            right = right and notes["window"] == {"steps": 1}
            found = {"step": step, "right": right, "latest": checkpoints.latest_step}
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
        content = bytearray(path.read_bytes())
        if how == "one bit changed":
            content[len(content) // 2] ^= 1
        else:
            del content[len(content) // 2 if how == "truncated" else 0 :]
        path.write_bytes(content)


def test_whatever_file_of_a_checkpoint_is_damaged_the_state_is_right(two_checkpoints, tmp_path):
    names = sorted(path.relative_to(two_checkpoints) for path in (two_checkpoints / "2").rglob("*") if path.is_file())
    directories = []
    for how in ("truncated", "emptied", "removed", "one bit changed"):
        for i, name in enumerate(names):
            if how == "one bit changed" and name.parent.name != "d":
                continue  # the arrays' files alone have no checksums of their own
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
    assert log.count("moved to damaged_2, using the previous checkpoint") == steps.count(1)


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


def test_a_directory_that_orbax_cleans_up_is_no_fault(tmp_path, monkeypatch):
    """Orbax removes what killed runs left, in a thread of its own."""
    rmdir = pathlib.Path.rmdir

    def remove_twice(path):
        rmdir(path)
        rmdir(path)

    with checkpoint.Checkpoints(tmp_path / "checkpoints") as checkpoints, monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "rmdir", remove_twice)
        checkpoints.save(1, {"params": jnp.zeros(5)}, {})
    assert (tmp_path / "checkpoints" / "1").is_dir()


def test_too_little_space_for_a_checkpoint_leaves_those_before(tmp_path, monkeypatch):
    state = {"params": jnp.zeros(5000)}
    with checkpoint.Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, state, {})
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 10**4))
        with pytest.raises(UserError, match=r"no checkpoint can be written \(it takes up to 0.0 MB, and 0.0 MB are"):
            checkpoints.save(2, state, {})
    assert os.listdir(tmp_path / "checkpoints") == ["1"]


@pytest.mark.parametrize(("step", "cause"), [(2, "Not a directory"), (10**300, "File name too long")])
def test_where_no_checkpoint_can_be_made_orbax_does_not_begin(step, cause, tmp_path, monkeypatch):
    checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints")
    monkeypatch.setattr(checkpoints._checkpointer, "save_async", lambda *_, **__: pytest.fail("it has begun"))
    if cause == "Not a directory":
        (tmp_path / "checkpoints").rmdir()
        (tmp_path / "checkpoints").write_text("")
    with pytest.raises(UserError, match=rf"no checkpoint can be written \({cause}\); mend that and start again"):
        checkpoints.save(step, {"params": jnp.zeros(10)}, {})


def test_a_run_does_not_begin_without_space_for_a_checkpoint(config, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 10**4))
    monkeypatch.setattr(train.Loop, "run", lambda _: pytest.fail("it has begun"))
    with pytest.raises(UserError, match=r"no checkpoint can be written \(it takes .* are free\); free some space"):
        train.train_and_evaluate(config, tmp_path / "run")


def test_an_array_that_does_not_fit_is_reported_with_the_systems_words(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"mean.npy: cannot be written \(File too large\); free some space"):
            files.write_array(tmp_path / "mean.npy", np.zeros(1000), "free some space")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_a_removed_directory_is_noticed_at_the_next_line(tmp_path):
    with metrics.Writer(tmp_path, 0, evaluated=False) as writer:
        writer.write(1, 0.1, "train", {"loss": 1.0})
        (tmp_path / "metrics.jsonl").unlink()
        with pytest.raises(UserError, match=r"metrics cannot be written \(the directory was removed; start again\)"):
            writer.write(2, 0.2, "train", {"loss": 1.0})


def test_saves_leave_no_threads_behind(tmp_path):
    numbers = []
    with checkpoint.Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for step in range(1, 17):
            checkpoints.save(step, {"params": jnp.zeros(5000)}, {})
            numbers.append(threading.active_count())
    # The libraries' pools grow and shrink by some threads; one thread left by each save would be twelve.
    assert max(numbers[-4:]) - max(numbers[:4]) < 6, numbers


def test_checkpoints_of_other_data_are_refused_and_stay(two_checkpoints, tmp_path):
    shutil.copytree(two_checkpoints, tmp_path / "checkpoints")
    found, _ = restore([tmp_path / "checkpoints"], "others")
    assert "was trained on other classes" in found[0]["error"]
    assert (tmp_path / "checkpoints" / "2").exists()


def test_a_second_run_on_one_directory_is_refused(config, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    code = "import pathlib, sys; from alexnet_jax.runtime import files\n"
    code += "with files.locked(pathlib.Path(sys.argv[1])): input()"
    command = [sys.executable, "-c", code, str(workdir / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as other:
        while not (workdir / "lock").exists() or not (workdir / "lock").read_text():
            assert other.poll() is None
            time.sleep(0.01)
        with pytest.raises(UserError, match=f"{workdir}: in use by process {other.pid} on "):
            train.train_and_evaluate(config, workdir)
        other.kill()
    with files.locked(workdir / "lock"):  # which the kill has freed
        pass
