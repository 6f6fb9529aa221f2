"""Several devices and several processes: one trajectory, and one end for all."""

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from absl.testing import flagsaver

from alexnet_jax import main, train
from configs import two_gpu
from tests.support import write_images

SLOW = pytest.mark.slow

# 20 steps with crops, colours and dropout on a narrow net, every loss logged.
FIELDS = {
    "dataset.name": "folder",
    "model.width": 0.0625,
    "model.image_size": 63,
    "batch_size": 8,
    "num_epochs": 6.16,
    "schedule.learning_rate": 0.001,
    "log_every": 1,
    "eval_every": 100.0,
    "save_every": 6,
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data"), {"train": (13, 13), "val": (5, 6)})


def run_here(workdir, images, **fields):
    config = two_gpu.get_config()
    config.update_from_flattened_dict(FIELDS | {"dataset.root": str(images)} | fields)
    return train.train_and_evaluate(config, workdir)


@pytest.fixture(scope="module")
def one_device(tmp_path_factory, images):
    """The directory of a run on one device."""
    workdir = tmp_path_factory.mktemp("one_device") / "run"
    run_here(workdir, images, **{"mesh.data": 1, "mesh.model": 1})
    assert len(losses(workdir)) == 20
    return workdir


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["split"] == "train"}


def assert_same_run(workdir, one_device):
    assert losses(workdir) == pytest.approx(losses(one_device), rel=1e-5)
    results = [json.loads((path / "result.json").read_text()) for path in (workdir, one_device)]
    assert results[0]["num_examples"] == results[1]["num_examples"] == 11
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-4)


class Processes:
    """Several processes of one run, started by hand, with so many devices each, and what they print."""

    def __init__(self, workdir, images, number, devices, different=(), silence=30, **fields):
        """`different` are flags of all but process 0."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        code = f"""
import runpy
from alexnet_jax.runtime import processes
from alexnet_jax.training import checkpoint
processes.HEARTBEAT_TIMEOUT, checkpoint.SAVE_TIMEOUT = {silence}, 5
runpy.run_module("alexnet_jax.main", run_name="__main__")
"""
        overrides = [f"--config.{name}={value}" for name, value in (FIELDS | {"dataset.root": images} | fields).items()]
        common = [f"--workdir={workdir}", f"--coordinator_address=127.0.0.1:{port}", f"--num_processes={number}"]
        self._logs = [workdir.with_name(f"{workdir.name}_{i}.log") for i in range(number)]
        self.all = []
        for i, path in enumerate(self._logs):
            own = {flag.partition("=")[0]: flag for flag in [*common, *overrides, *(different if i else ())]}
            command = [sys.executable, "-c", code, "--config=configs/two_gpu.py", *own.values(), f"--process_id={i}"]
            environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
            with path.open("w") as log, path.with_suffix(".out").open("w") as out:
                self.all.append(subprocess.Popen(command, stdout=out, stderr=log, env=environment))

    def logs(self):
        """What they log. On stdout is the table of the layers, amid lines of Gloo, which connects them."""
        return [path.read_text() for path in self._logs]

    def printed(self):
        return [path.with_suffix(".out").read_text() for path in self._logs]

    def wait(self, timeout=200):
        """Their exit statuses; kills them if they hang."""
        try:
            return [process.wait(timeout) for process in self.all]
        finally:
            for process in self.all:
                process.kill()

    def wait_for_step(self, step):
        while f"step {step}/" not in self.logs()[0]:
            assert all(process.poll() is None for process in self.all), self.logs()
            time.sleep(0.01)


@SLOW
@pytest.mark.parametrize("mesh", [(1, 2), (2, 1), (2, 2)])
def test_20_steps_are_the_same_on_every_mesh(mesh, images, one_device, tmp_path):
    run_here(tmp_path / "run", images, **dict(zip(("mesh.data", "mesh.model"), mesh, strict=True)))
    assert_same_run(tmp_path / "run", one_device)


# The paper's machine in the default tests: two processes with a device each.
@pytest.mark.parametrize(
    ("number", "devices"), [pytest.param(1, 8, marks=SLOW), (2, 1), pytest.param(2, 2, marks=SLOW)]
)
def test_20_steps_are_the_same_on_any_number_of_processes(number, devices, images, one_device, tmp_path):
    run = Processes(tmp_path / "run", images, number, devices)
    assert run.wait() == [0] * number, run.logs()
    assert f"{{'data': {number * devices // 2}, 'model': 2}}" in run.logs()[0]  # (4, 2); the paper's machine; (2, 2)
    assert not any(run.logs()[1:])  # only process 0 speaks
    assert ["conv1" in printed for printed in run.printed()] == [True] + [False] * (number - 1)
    assert_same_run(tmp_path / "run", one_device)

    # What any of them saved, four devices of one process continue.
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "20")
    run_here(tmp_path / "run", images, **{"mesh.data": 4, "mesh.model": 1})
    assert_same_run(tmp_path / "run", one_device)


@SLOW
def test_a_signal_to_one_process_saves_in_all_and_others_continue(images, one_device, tmp_path):
    run = Processes(tmp_path / "run", images, 2, 1, **{"mesh.model": 1})
    run.wait_for_step(7)
    run.all[1].send_signal(signal.SIGTERM)
    assert run.wait() == [143, 143], run.logs()
    assert run.logs()[0].endswith("alexnet_jax: interrupted; run the same command again to continue\n")
    checkpoints = tmp_path / "run" / "checkpoints"
    before, newest = sorted(int(path.name) for path in checkpoints.glob("[0-9]*"))
    assert 7 <= newest < 20
    (checkpoints / str(newest) / "state" / "manifest.ocdbt").write_bytes(b"")

    run = Processes(tmp_path / "run", images, 2, 2)
    assert run.wait() == [0, 0], run.logs()
    assert (
        f"moved to damaged_{newest}, using the previous checkpoint" in run.logs()[0]
        and f"continuing at step {before} of 20" in run.logs()[0]
    )
    assert_same_run(tmp_path / "run", one_device)


@SLOW
def test_a_broken_image_of_one_process_ends_all_and_keeps_what_was_learned(images, tmp_path):
    root = shutil.copytree(images, tmp_path / "images")
    victim = root / "train" / "class_1" / "003.png"
    victim.write_bytes(victim.read_bytes()[:1000])
    run = Processes(tmp_path / "run", root, 2, 1, **{"mesh.model": 1})
    assert run.wait() == [1, 1], run.logs()
    named = [f"alexnet_jax: {victim}: not a complete image" in log for log in run.logs()]
    told = ["alexnet_jax: another process has failed; see its message" in log for log in run.logs()]
    assert sorted(named) == sorted(told) == [False, True]
    assert len(os.listdir(tmp_path / "run" / "checkpoints")) == 1


@pytest.mark.parametrize(
    ("number", "different", "fields", "message"),
    [
        pytest.param(
            *(2, ["--config.dataset.root=/nowhere"], {}, "dataset root '/nowhere': no such directory"), marks=SLOW
        ),
        pytest.param(*(3, [], {"mesh.data": 1}, "config.mesh: 2 devices leave process 2 without one"), marks=SLOW),
        (
            2,
            ["--config.seed=1", "--config.num_epochs=1.0"],
            {},
            "config.num_epochs, config.seed: not the same in all processes",
        ),
    ],
)
def test_a_mistake_in_one_process_ends_all(number, different, fields, message, images, tmp_path):
    run = Processes(tmp_path / "run", images, number, 1, different, **fields)
    assert run.wait(120) == [1] * number
    assert message in "".join(run.logs())
    for log in run.logs():
        assert re.fullmatch(r"(.* waiting for .*\n)*alexnet_jax: .*\n", log), run.logs()


@SLOW
def test_a_checkpoint_that_one_process_cannot_write_ends_all(images, tmp_path):
    run = Processes(tmp_path / "run", images, 2, 1, num_epochs=1000)
    checkpoints = tmp_path / "run" / "checkpoints"
    while not (checkpoints / "6").exists():
        assert all(process.poll() is None for process in run.all), run.logs()
        time.sleep(0.01)
    resource.prlimit(run.all[1].pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    assert run.wait(120) == [1, 1], run.logs()
    assert f"alexnet_jax: {checkpoints}: no checkpoint can be written (File too large)" in run.logs()[1]
    assert "Traceback" not in "".join(run.logs())
    assert any(name.isdigit() for name in os.listdir(checkpoints))


@SLOW
def test_directories_that_are_not_shared_are_refused(images, tmp_path):
    run = Processes(tmp_path / "run", images, 2, 1, [f"--workdir={tmp_path / 'other'}"])
    assert run.wait(120) == [1, 1]
    assert f"--workdir={tmp_path / 'other'}: must be one directory, which all processes share" in run.logs()[1]


@SLOW
@pytest.mark.parametrize("victim", [0, 1])
def test_where_one_process_dies_the_others_end(victim, images, tmp_path):
    run = Processes(tmp_path / "run", images, 2, 1, silence=5, num_epochs=1000, save_every=100_000)
    run.wait_for_step(3)
    run.all[victim].kill()
    assert all(run.wait(60))  # 5 s for the others to notice, and their end; JAX itself waits for 100
    if victim == 1:  # JAX may end the others itself when process 0 dies
        assert run.all[0].returncode == 1
        assert re.search(
            r"\nalexnet_jax: another process has died, .* continue from the last checkpoint\n$", run.logs()[0]
        )


@SLOW
def test_processes_at_the_address_of_a_run_leave_it_alone(images, tmp_path):
    run = Processes(tmp_path / "run", images, 2, 1, num_epochs=1000)
    run.wait_for_step(3)
    again = [subprocess.run(process.args, capture_output=True, text=True) for process in run.all]
    for done in again:
        assert done.returncode == 1
        assert re.fullmatch(rf"alexnet_jax: {tmp_path / 'run'}: in use by process .*\n", done.stderr)
    address = next(argument for argument in run.all[0].args if argument.startswith("--coordinator_address"))
    elsewhere = [
        argument.replace(f"--workdir={tmp_path / 'run'}", f"--workdir={tmp_path}") for argument in run.all[0].args
    ]
    done = subprocess.run(elsewhere, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(rf"alexnet_jax: {address}: Address already in use; use another, and .*\n", done.stderr)
    run.all[0].send_signal(signal.SIGTERM)
    assert run.wait() == [143, 143]


def start_alone(*flags, **environment):
    """Starts a process whose companions never come: what it needs to do so, and no more."""
    command = [sys.executable, "-m", "alexnet_jax.main", "--config=configs/quickstart.py", "--workdir=/nowhere", *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment)


SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}


@SLOW
def test_a_process_that_stays_alone_ends():
    alone = start_alone("--distributed", "--start_timeout=1", **SLURM, SLURM_NTASKS="3")
    other = start_alone(*by_hand("127.0.0.1:9", 2, 1), "--start_timeout=1")
    advice = "start all processes with the same flags but --process_id, or raise --start_timeout"
    for process, awaited in ((alone, "the others of the job's 3 processes"), (other, "process 0 at 127.0.0.1:9")):
        _, error = process.communicate(timeout=60)
        assert process.returncode == 1
        assert error == f"alexnet_jax: waited 1 s for {awaited}; {advice}\n"


@SLOW
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("process_id", [0, 1, None])
def test_a_signal_ends_the_wait_for_the_others(process_id, number):
    by_slurm = process_id is None
    flags = ["--distributed"] if by_slurm else by_hand("127.0.0.1:9", 2, process_id)
    waiting = start_alone(*flags, **(SLURM | {"SLURM_NTASKS": "2"} if by_slurm else {}))
    said = waiting.stderr.readline()
    awaited = "the others of the job's 2" if by_slurm else "process 1 of 2" if process_id == 0 else "process 0 at"
    assert f"waiting for {awaited}" in said and said.endswith("; 56 s left\n")
    waiting.send_signal(number)
    began = time.monotonic()
    _, error = waiting.communicate(timeout=20)
    assert waiting.returncode == 128 + number and time.monotonic() - began < 5
    assert error.count("alexnet_jax: interrupted") == 1 and "Traceback" not in error


@SLOW
@pytest.mark.parametrize(
    "environment",
    [
        SLURM | {"SLURM_NTASKS": "two"},
        SLURM | {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "x"},
        SLURM | {"SLURM_NTASKS": "1"},
        {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911"},
        {"OMPI_MCA_orte_hnp_uri": ""},
    ],
)
def test_a_scheduler_that_says_something_else_is_named(environment):
    process = start_alone("--distributed", "--start_timeout=5", **environment)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.fullmatch(
        r"alexnet_jax: the processes did not connect \(.*\); check the scheduler's job for --distributed\n", error
    )


def by_hand(address, number, process):
    return [f"--coordinator_address={address}", f"--num_processes={number}", f"--process_id={process}"]


ADDRESSES = [
    "nowhere",
    ":1",
    "h:",
    "h:0",
    "h:65536",
    "h:²",
    "h:٣",
    "h:1e3",
    "h:-1",
    "::1:9",
    "[::1:9",
    "[]:9",
    "http://h:9",
]
SECONDS = ["0", "-1", "nan", "inf", "1e9", "99999", "soon", "1.5"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_processes=2"], "use --coordinator_address, --num_processes and"),
        (["--distributed", *by_hand("127.0.0.1:9", 2, 0)], "use --coordinator_address, --num_processes and"),
        (by_hand("127.0.0.1:9", 2, 2), "--process_id=2: must be below"),
        (by_hand("127.0.0.1:9", 0, 0), "--num_processes=0: 0 is not a positive integer"),
        (by_hand("127.0.0.1:9", 2, -1), "--process_id=-1: -1 is not a non-negative integer"),
        *((by_hand(address, 2, 0), f"--coordinator_address={address}: must be HOST:PORT") for address in ADDRESSES),
        (by_hand("h:" + "9" * 5000, 2, 0), "must be HOST:PORT"),
        *(
            ([*by_hand("127.0.0.1:9", 2, 0), f"--start_timeout={seconds}"], f"--start_timeout={seconds}: ")
            for seconds in SECONDS
        ),
        (["--start_timeout=60"], "--start_timeout: is for several processes"),
    ],
)
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_flags_of_several_processes_that_do_not_fit(arguments, message, run_command):
    with flagsaver.flagsaver():
        status, _, error = run_command(
            lambda: main.parse_flags(["main", "--config=configs/quickstart.py", "--workdir=/nowhere", *arguments])
        )
    assert status == 1 and message in error
    assert error.startswith("alexnet_jax: ") and error.count("\n") == 1


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize(
    "arguments",
    [
        ["--distributed"],
        *(by_hand(address, 1, 0) for address in ("[::1]:9", "h:65535", "gpu-0.cluster:1", "[fe80::1%eth0]:9")),
    ],
)
def test_flags_of_several_processes(arguments):
    with flagsaver.flagsaver():
        command = ["main", "--config=configs/quickstart.py", "--workdir=/nowhere", *arguments]
        main.parse_flags(command)
        assert main.START_TIMEOUT.value == 60
        main.parse_flags([*command, "--start_timeout=86400"])
        assert main.START_TIMEOUT.value == 86400
