"""Four virtual devices, small configs, and folders of images."""

import os
import pathlib
import signal
import sys
import tempfile
import unittest.mock

os.environ["JAX_NUM_CPU_DEVICES"] = "4"
os.environ["JAX_PLATFORMS"] = "cpu"
# Most of the time goes into compiling small programs. Optimised as for a training they take twice as long; what is
# compared with a tolerance holds either way.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# What one test or its child has compiled, the next ones load, also in the next run. JAX keeps versions and flags apart.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "compiled")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Here setup.cfg ignores them, and this is for children, whose stderr the tests look at.
os.environ.setdefault(
    "PYTHONWARNINGS",
    "ignore:Error reading persistent compilation cache entry,"
    "ignore:Error writing persistent compilation cache entry,"
    "ignore:Protobuf gencode version",
)

import pytest

from alexnet_jax.runtime import command_line
from alexnet_jax.training import fidelity
from configs import two_gpu
from tests.support import narrow, write_images


@pytest.fixture(scope="session", autouse=True)
def in_the_repository():
    """Tests name configs as the README does, also where pytest was started elsewhere."""
    os.chdir(pathlib.Path(__file__).parents[1])


@pytest.fixture
def config(tmp_path):
    """The paper's recipe on a narrow net, small images and a folder of 26 training and 11 validation images."""
    config = two_gpu.get_config()
    config.batch_size = 8
    config.num_epochs = 2.0
    config.dataset.name = "folder"
    config.dataset.root = str(write_images(tmp_path / "images", {"train": (13, 13), "val": (5, 6)}))
    config.model.width = 1 / 16
    config.model.image_size = 63
    config.schedule.learning_rate = 0.001
    config.log_every = 2
    config.save_every = 3
    return fidelity.resolve(config)


@pytest.fixture
def reachable_path():
    """A directory like `tmp_path` that other users can reach, for `bound_by_permissions`."""
    with tempfile.TemporaryDirectory() as directory:
        yield pathlib.Path(directory)


@pytest.fixture
def small_net():
    return narrow("two_gpu", image_size=67).with_classes(5)


@pytest.fixture
def run_command(monkeypatch, capfd):
    """Runs a command's `main` in this process: (exit status, stdout, stderr).

    A process of its own would import JAX for four seconds first; each command of the package has a test that starts
    one, too. JAX is set up here already, but a command that ends well must have asked for it.
    """

    def run(main, *flags):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, flags)])
        set_up_jax = unittest.mock.Mock()
        monkeypatch.setattr(command_line, "set_up_jax", set_up_jax)
        capfd.readouterr()
        status, last_line, at_sigterm = 0, "", signal.getsignal(signal.SIGTERM)
        try:
            main()
        except SystemExit as ended:
            status = 1 if isinstance(ended.code, str) else int(ended.code or 0)
            last_line = f"{ended.code}\n" if isinstance(ended.code, str) else ""
        finally:
            signal.signal(signal.SIGTERM, at_sigterm)
        out, error = capfd.readouterr()
        assert set_up_jax.called or status
        return status, out, error + last_line

    return run
