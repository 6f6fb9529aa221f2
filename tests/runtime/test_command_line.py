"""What all commands share: signals while they start, output that cannot be written, and text from elsewhere."""

import logging
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import pytest

from alexnet_jax import UserError
from alexnet_jax.runtime import command_line, interruption, progress, sharding, text

ODD = "a\nalexnet_jax: forged\r\x1b[31m\x00\u202e\udcff"
ESCAPED = "a\\nalexnet_jax: forged\\r\\x1b[31m\\x00\\u202e\\udcff"
SWEEP = str(pathlib.Path(__file__).parents[2] / "experiments" / "sweep.py")

# A command that prints, and then writes a file, whose number must not be that of a closed stream.
PRINTS = """
import os, sys
from alexnet_jax import UserError
from alexnet_jax.runtime import command_line
command_line.start()
@command_line.one_line_errors("nothing")
def main():
    command_line.Parser("test", "\\u03bb").parse()
    print("\\xe9", end="" if {end!r} else None)
    with open({path!r}, "w") as file:
        print("message", file=sys.stderr)
        os.write(2, b"more")
        file.write("whole")
    {last}
main()
"""


def run(path, redirection, last="pass", end="", arguments="", **environment):
    code = PRINTS.format(path=str(path), last=last, end=end)
    command = ["bash", "-c", f'exec "$0" -c "$1" {arguments} {redirection}', sys.executable, code]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


@pytest.mark.parametrize("arguments", ["", "--help"])
@pytest.mark.parametrize(
    ("redirection", "cause"), [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")]
)
def test_output_that_cannot_be_written_is_an_error_of_one_line(redirection, cause, arguments, tmp_path):
    done = run(tmp_path / "file", redirection, arguments=arguments)
    last = done.stderr.splitlines()[-1].removeprefix("more")
    assert (done.returncode, last) == (1, f"alexnet_jax: standard output: cannot be written ({cause})"), done.stderr
    assert "Traceback" not in done.stderr and "ignored" not in done.stderr


def test_an_error_is_shown_where_output_cannot_be_written_either(tmp_path):
    done = run(tmp_path / "file", ">/dev/full", last="raise UserError('first')", end="x")
    assert done.returncode == 1 and done.stderr.endswith("alexnet_jax: first\n") and "ignored" not in done.stderr


@pytest.mark.parametrize("redirection", ["2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_leave_files_alone(redirection, tmp_path):
    done = run(tmp_path / "file", redirection)
    assert (tmp_path / "file").read_text() == "whole"
    assert done.returncode == (">&-" in redirection.split())
    assert done.stdout == ("" if done.returncode else "é\n")


def test_a_terminal_without_unicode_gets_escapes(tmp_path):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    assert run(tmp_path / "file", "", **ascii_only).stdout == "\\xe9\n"
    assert "\\u03bb" in run(tmp_path / "file", "", arguments="--help", **ascii_only).stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "command",
    [
        *([f"-m alexnet_jax.{name}"] for name in ("main", "prepare", "evaluate", "predict", "report", "pretrained")),
        ["-m experiments"],
        [SWEEP],
    ],
    ids=lambda command: command[0].split()[-1],
)
def test_a_signal_while_a_command_imports_ends_it_with_one_line(command, number, tmp_path):
    for name in ("jax", "absl", "cv2"):  # as if they took long to import
        (tmp_path / f"{name}.py").write_text("import time\nopen('importing', 'w')\ntime.sleep(30)")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])}
    arguments = [sys.executable, *command[0].split()]
    with subprocess.Popen(arguments, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "importing").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(number)
        assert process.stderr.read() == "alexnet_jax: interrupted\n"
    assert process.returncode == 128 + number


def test_a_signal_removes_what_is_half_written(tmp_path):
    code = (
        "import os, signal\n"
        "from alexnet_jax.runtime import command_line, files\n"
        "with command_line.one_line_errors('nothing was written'), files.whole('a.txt') as file:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (143, "alexnet_jax: interrupted; nothing was written\n")
    assert not list(tmp_path.iterdir())


def test_handlers_are_restored():
    before = [signal.getsignal(number) for number in interruption.SIGNALS]
    with command_line.one_line_errors("nothing"):
        assert [signal.getsignal(number) for number in interruption.SIGNALS] != before
    assert [signal.getsignal(number) for number in interruption.SIGNALS] == before


def test_text_from_elsewhere_stays_in_its_line(capsys, monkeypatch):
    with pytest.raises(SystemExit), command_line.one_line_errors("nothing"):
        raise UserError(ODD)
    assert capsys.readouterr().err == f"alexnet_jax: {ESCAPED}\n"
    text.print_line(ODD)
    assert capsys.readouterr().out == f"{ESCAPED}\n"
    monkeypatch.setattr(sys, "argv", ["command", ODD])
    with pytest.raises(SystemExit) as ended:
        command_line.Parser("test", "").parse()
    assert "forged" in ended.value.code and text.printable(ended.value.code) == ended.value.code
    record = logging.LogRecord("alexnet_jax", logging.INFO, "", 0, "%s", (ODD,), None)
    assert command_line._OneLine("%(message)s").format(record) == ESCAPED
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.Progress(1, "image", ODD, print):
        pass
    assert "\x1b[31m" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"), [("JAX_NUM_CPU_DEVICES", "abc"), ("JAX_ENABLE_X64", "maybe"), ("JAX_DEFAULT_PRNG_IMPL", "nope")]
)
def test_a_variable_that_jax_cannot_read_is_named(name, value):
    command = [sys.executable, "-m", "alexnet_jax.evaluate", "--workdir=nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {name: value})
    assert done.returncode == 1 and done.stderr.startswith("alexnet_jax: cannot start: "), done.stderr
    assert f"{name}={value}" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["main", "prepare", "evaluate", "predict", "report", "pretrained"])
def test_a_python_without_the_libraries_is_named(name):
    code = f"import runpy; runpy.run_module('alexnet_jax.{name}', run_name='__main__')"
    bare = [sys.executable, "-S", "-c", code]  # without site-packages
    done = subprocess.run(bare, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.getcwd()})
    assert done.returncode == 1 and re.fullmatch(
        rf"alexnet_jax: cannot start: No module named '\w+' for {re.escape(sys.executable)}; use the Python of the "
        r"environment that the project is installed in\n",
        done.stderr,
    ), done.stderr


def test_files_in_the_current_directory_hide_no_module(tmp_path):
    for module in ("random", "queue", "jax", "numpy", "PIL"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('imported')")
    command = [sys.executable, "-m", "alexnet_jax.predict", f"--workdir={tmp_path}/no_run", "photo.jpg"]
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "no_run" in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("number", ["0", "-1", "100000", "x"])
def test_an_impossible_number_of_devices_is_named(number, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", number)
    with pytest.raises(UserError, match=f"JAX_NUM_CPU_DEVICES={number}: must be from 1 to 1024"):
        sharding.provide_cpu_devices(2)


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Unable to initialize\nmore")])
def test_a_platform_that_does_not_start_is_named(error, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: (_ for _ in ()).throw(error))
    monkeypatch.setenv("JAX_PLATFORMS", "nosuch")
    with pytest.raises(UserError, match=r"^JAX has no devices \(.*\); check the environment: JAX_PLATFORMS=nosuch"):
        sharding.devices()


def test_warnings_are_no_errors_and_the_backend_of_matplotlib_does_not_matter():
    code = (
        "from alexnet_jax.runtime import command_line; command_line.start()\n"
        "import warnings, matplotlib; warnings.warn('odd'); print(matplotlib.get_backend())"
    )
    environment = os.environ | {"PYTHONWARNINGS": "error", "MPLBACKEND": "nosuch"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout == "agg\n" and "odd" in done.stderr, done.stderr


def test_a_program_on_one_device_of_a_cpu_has_ended_when_its_call_returns():
    # Otherwise the memory of two steps is taken at once.
    code = (
        "from alexnet_jax.runtime import command_line; command_line.set_up_jax(1)\n"
        "import jax, numpy as np\n"
        "turns = jax.jit(lambda x: jax.lax.fori_loop(0, 3000, lambda i, x: x @ x, x))\n"
        "print([turns(np.zeros((128, 128))).is_ready() for _ in range(2)])"
    )
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "[True, True]\n"
