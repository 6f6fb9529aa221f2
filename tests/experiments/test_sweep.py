"""Sweeps: every member exactly once, whatever interrupts them, and the table."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from alexnet_jax import UserError
from alexnet_jax.runtime import files
from experiments import sweep, sweep_members
from tests.support import write_images

CONFIG = """
from configs import two_gpu

def get_config():
    config = two_gpu.get_config()
    config.dataset.name, config.dataset.root = "folder", {root!r}
    config.model.width, config.model.image_size = 0.0625, 63
    config.batch_size, config.num_epochs, config.schedule.learning_rate = 8, 1.0, 0.001
    return config

def sweep():
    for divisor in (1.0, 1.1):
        for seed in range(3):
            yield {{"augment.divisor": divisor, "seed": seed}}
"""


ERRORS = {"top1_error": 0.5, "top5_error": 0.1}
RESULT = {"center": ERRORS, "ten_crop": ERRORS}

# In place of a training: two seconds, with its lock, its last lines, its exit statuses and its two JSON files.
MEMBER = """
import json, pathlib, re, sys, time
from alexnet_jax import UserError
from alexnet_jax.runtime import command_line, files, interruption

flags = dict(re.fullmatch("--(.*?)=(.*)", flag).groups() for flag in sys.argv[1:])
workdir, seed = pathlib.Path(flags["workdir"]), int(flags.get("config.seed", 0))
with command_line.one_line_errors("the same command goes on"), interruption.held(), files.locked(workdir / "lock"):
    if flags.get("config.batch_size") == "7":
        raise UserError("config.batch_size=7: use a multiple of the mesh's 2 data rows, above 0")
    print("starting at step 0", flush=True)
    for _ in range(20):
        time.sleep(0.1)
        interruption.check()
    errors = {"top1_error": 0.1 + 0.02 * seed**2, "top5_error": 0.01 * seed}
    files.write_json(workdir / "config.json", {"model": {"net": "two_gpu"}, "schedule": {"name": "plateau"}})
    files.write_json(workdir / "result.json", {"center": errors, "ten_crop": errors})
    print(workdir / "result.json")
"""
TRAINING_TOO = pytest.mark.parametrize(
    "command", ["stand-in", pytest.param("training", marks=pytest.mark.slow)], indirect=True
)


@pytest.fixture
def command(request, tmp_path):
    """The command line of a sweep with these arguments, whose members are trainings or stand-ins for them."""
    program = [sweep.__file__]
    if getattr(request, "param", "") != "training":
        member = tmp_path / "member.py"
        member.write_text(MEMBER)
        program = [
            "-c",
            f"from experiments import sweep, sweep_members; sweep_members.PROGRAM = ({str(member)!r},); sweep.main()",
        ]
    return lambda *arguments: [sys.executable, *program, *map(str, arguments)]


def write_config(path, text=CONFIG):
    root = write_images(path / "images", {"train": (13, 13), "val": (25, 26)})
    (path / "sweep.py").write_text(text.format(root=str(root)))
    return f"--config={path / 'sweep.py'}"


@pytest.mark.slow
@TRAINING_TOO
def test_an_interrupted_sweep_does_every_member_once_and_makes_the_table(command, tmp_path):
    flags = [write_config(tmp_path), f"--workdir={tmp_path / 'runs'}"]
    listed = subprocess.run(command("list", *flags), capture_output=True, text=True, check=True).stdout
    assert listed.splitlines()[0].split() == ["0", "waiting", "augment.divisor=1.0,seed=0"]
    assert listed.count("waiting") == 6

    with subprocess.Popen(command("local", *flags), stdout=subprocess.PIPE, text=True) as process:
        assert "0 finished before" in process.stdout.readline()
        first = process.stdout.readline().partition(":")[0]
        lock = tmp_path / "runs" / first / "lock"
        while not lock.exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()  # which ends its member, too, but not at once

    with subprocess.Popen(command("local", *flags, "--at_once=2"), stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            assert "failed" not in line
            if ": finished (1 of 6)" in line:
                break
        time.sleep(1)  # the next ones have begun
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130
    results = {path: path.read_bytes() for path in (tmp_path / "runs").glob("*/result.json")}
    assert 1 <= len(results) <= 3 and "interrupted" in rest
    times = {path: path.stat().st_mtime_ns for path in results}

    done = subprocess.run(command("local", *flags, "--at_once=2"), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"6 members, {len(results)} finished before" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in results} == times
    assert "SIGTERM: ending" in (tmp_path / "runs" / first / "log.txt").read_text()
    logs = [path.read_text() for path in (tmp_path / "runs").glob("*/log.txt")]
    assert len(logs) == 6
    assert all(log.count("/result.json") == 1 for log in logs)  # the last line of a run that ends

    with (tmp_path / "runs" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["augment.divisor"], row["finished"], row["members"]) for row in rows] == [
        ("1.0", "3", "3"),
        ("1.1", "3", "3"),
    ]
    markdown = (tmp_path / "runs" / "sweep.md").read_text()
    for row in rows:
        names = [f"augment.divisor={row['augment.divisor']},seed={seed}" for seed in range(3)]
        results = [json.loads((tmp_path / "runs" / name / "result.json").read_text()) for name in names]
        for way in ("center", "ten_crop"):
            errors = [result[way]["top1_error"] for result in results]
            mean, deviation = np.mean(errors), np.std(errors, ddof=1)
            assert float(row[f"{way}_top1_error_mean"]) == pytest.approx(mean)
            assert float(row[f"{way}_top1_error_std"]) == pytest.approx(deviation)
            assert f"| {100 * mean:.2f} ± {100 * deviation:.2f} |" in markdown

    changed = subprocess.run(command("local", *flags, "--config.batch_size=4"), capture_output=True, text=True)
    assert changed.returncode == 1 and "holds a run of other settings" in changed.stderr


@pytest.mark.slow
@TRAINING_TOO
def test_a_failed_member_is_reported_and_stops_no_other(command, tmp_path):
    text = (
        CONFIG.partition("def sweep")[0]
        + "def sweep():\n    yield {{'batch_size': 7}}\n    yield {{'batch_size': 8}}\n"
    )
    flags = [write_config(tmp_path, text), f"--workdir={tmp_path / 'runs'}"]
    done = subprocess.run(command("local", *flags), capture_output=True, text=True)
    assert done.returncode == 1
    assert "batch_size=7: failed (alexnet_jax: config.batch_size=7: use a multiple" in done.stdout
    assert done.stderr == "alexnet_jax: 1 of 2 members failed; see above\n"
    listed = subprocess.run(command("list", *flags), capture_output=True, text=True, check=True).stdout
    assert [line.split()[:2] for line in listed.splitlines()[:2]] == [["0", "failed"], ["1", "finished"]]
    # Again, one at a time by its number, as an array of jobs does.
    assert subprocess.run(command("local", *flags, "--member=1")).returncode == 0
    assert (tmp_path / "runs" / "batch_size=8" / "log.txt").read_text().count("starting at step 0") == 1


def test_a_member_is_a_training(tmp_path):
    text = CONFIG.partition("def sweep")[0] + "def sweep():\n    yield {{'batch_size': 7}}\n"
    flags = [write_config(tmp_path, text), f"--workdir={tmp_path / 'runs'}"]
    done = subprocess.run([sys.executable, sweep.__file__, "local", *flags], capture_output=True, text=True)
    assert "batch_size=7: failed (alexnet_jax: config.batch_size=7: use a multiple" in done.stdout


def test_a_member_that_an_earlier_version_finished_does_not_count(tmp_path, run_command):
    text = CONFIG.partition("def sweep")[0] + "def sweep():\n    yield {{'model.net': 'separate'}}\n"
    flags = [write_config(tmp_path, text), f"--workdir={tmp_path / 'runs'}"]
    (member,) = sweep_members.read_members(flags[0].removeprefix("--config="), tmp_path / "runs", [])
    config = {"model": {"net": "separate"}, "schedule": {"name": "plateau"}}
    member.workdir.mkdir(parents=True)
    for name, fields in {"run": member.description, "config": config, "result": RESULT}.items():
        files.write_json(member.workdir / f"{name}.json", fields)
    status, _, error = run_command(sweep.main, "local", *flags)
    assert status == 1 and "was finished with another version of this net or schedule" in error


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["result.json", "config.json"])
def test_a_damaged_member_is_reported_and_stops_no_other(damage, command, tmp_path):
    text = CONFIG.partition("def sweep")[0] + "def sweep():\n    yield {{'seed': 0}}\n    yield {{'seed': 1}}\n"
    flags = [write_config(tmp_path, text), f"--workdir={tmp_path / 'runs'}"]
    member, _ = sweep_members.read_members(flags[0].removeprefix("--config="), tmp_path / "runs", [])
    member.workdir.mkdir(parents=True)
    files.write_json(member.workdir / "run.json", member.description)
    files.write_json(member.workdir / "result.json", {"center": ERRORS} if damage == "result.json" else RESULT)
    done = subprocess.run(command("local", *flags), capture_output=True, text=True)
    assert done.returncode == 1 and "seed=1: finished (1 of 2)" in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"alexnet_jax: {member.workdir / damage}: ") and "restore or remove it" in line
    assert "1 of 2" in (tmp_path / "runs" / "sweep.md").read_text()
    listed = subprocess.run(command("list", *flags), capture_output=True, text=True, check=True).stdout
    assert [line.split()[1] for line in listed.splitlines()[:2]] == ["damaged", "finished"]


def test_a_spreadsheet_executes_nothing_and_reads_numbers(tmp_path, capsys):
    values = ["=cmd()", "+1", "-x", "@a", "a|b", "[a](javascript:x)", -1.5]
    for i, value in enumerate(values):
        workdir = tmp_path / str(i)
        workdir.mkdir()
        files.write_json(workdir / "run.json", {})
        sweep.write_table([sweep_members.Member("c.py", {}, (), {"field": value}, workdir)], tmp_path)
        with (tmp_path / "sweep.csv").open() as file:
            (row,) = csv.DictReader(file)
        assert row["field"] == (f"'{value}" if str(value)[0] in "=+-@" and isinstance(value, str) else str(value))
        assert "](" not in (tmp_path / "sweep.md").read_text() and "a|b" not in (tmp_path / "sweep.md").read_text()


@TRAINING_TOO
def test_a_member_that_is_killed_has_failed(command, tmp_path):
    text = CONFIG.partition("def sweep")[0] + "def sweep():\n    yield {{'seed': 0}}\n"
    flags = [write_config(tmp_path, text), f"--workdir={tmp_path / 'runs'}"]
    with subprocess.Popen(command("local", *flags), stdout=subprocess.PIPE, text=True) as process:
        lock = tmp_path / "runs" / "seed=0" / "lock"
        while not lock.exists() or not lock.read_text():
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(int(lock.read_text().split()[1]), signal.SIGKILL)
        assert "seed=0: failed" in process.stdout.read()
    assert process.returncode == 1


def test_a_member_in_use_lets_others_start(command, tmp_path):
    text = CONFIG.partition("def sweep")[0] + "def sweep():\n    yield {{'seed': 0}}\n    yield {{'seed': 1}}\n"
    flags = [write_config(tmp_path, text), f"--workdir={tmp_path / 'runs'}"]
    (tmp_path / "runs" / "seed=0").mkdir(parents=True)
    with (
        files.locked(tmp_path / "runs" / "seed=0" / "lock"),
        subprocess.Popen(command("local", *flags), stdout=subprocess.PIPE, text=True) as process,
    ):
        guard = threading.Timer(60, process.kill)  # a sweep that waits prints no third line
        guard.start()
        lines = [process.stdout.readline() for _ in range(3)]
        guard.cancel()
        process.send_signal(signal.SIGINT)
    assert lines[1:] == ["seed=0: waits for the process that uses its directory\n", "seed=1: started\n"]


def test_the_script_lists_the_projects_own_sweep(tmp_path):
    flags = ["--config=configs/quickstart_sweep.py", f"--workdir={tmp_path}"]
    done = subprocess.run([sys.executable, sweep.__file__, "list", *flags], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("waiting") == 6, done.stderr


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ("yield {{'seed': {{0}}}}", "Object of type set is not JSON serializable; use plain numbers and text"),
        ("yield {{'sed': 0}}", "sweep() sets 'sed', which the config does not have"),
        ("yield {{'seed': 0}}\n    yield {{'seed': 0}}", "yields {'seed': 0} twice"),
        ("yield from ()", "sweep() yields no member"),
        ("yield {{'seed': 1 / 0}}", "sweep.py, line 12: ZeroDivisionError: division by zero"),
        (None, "has no sweep()"),
    ],
)
def test_a_mistake_in_a_sweep_ends_with_one_line(members, message, tmp_path, run_command):
    text = CONFIG.partition("def sweep")[0] + (f"def sweep():\n    {members}\n" if members else "")
    status, _, error = run_command(sweep.main, "list", write_config(tmp_path, text), f"--workdir={tmp_path}")
    assert status == 1
    assert error.startswith("alexnet_jax: --config=") and message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=nope.py"], "--config=nope.py: no such file"),
        (["--config=setup.cfg"], "--config=setup.cfg: is not a Python file"),
        (["--config=nope.py", "--at_once=0"], "--at_once must be above 0"),
        (["--config=nope.py", "--confg.seed=1"], "unexpected argument '--confg.seed=1'"),
        (["--config="], "--config= has no value"),
        (["--config=nope.py", "--sbatch=--time=1"], "--sbatch: is a flag of `slurm`, not of `local`"),
    ],
)
def test_a_mistake_in_the_flags_ends_with_one_line(arguments, message, tmp_path, run_command):
    status, _, error = run_command(sweep.main, "local", *arguments, f"--workdir={tmp_path}")
    assert status == 1
    assert message in error and error.count("\n") == 1


def test_a_member_that_was_begun_before_a_setting_was_added_is_recognised(tmp_path):
    member = sweep_members.read_members("configs/quickstart_sweep.py", tmp_path, [])[0]
    member.workdir.mkdir()
    stored = member.description
    del stored["config"]["augment.flip"]
    files.write_json(member.workdir / "run.json", stored)
    assert member.state == "started"
    stored["config"]["augment.colour_noise"] = 0.5
    files.write_json(member.workdir / "run.json", stored)
    with pytest.raises(UserError, match="config.augment.colour_noise is 0.5 there and 0.1 here"):
        _ = member.state
    files.write_json(member.workdir / "run.json", stored | {"config": 3})
    with pytest.raises(UserError, match="holds a run of other settings"):
        _ = member.state
