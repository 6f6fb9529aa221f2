"""The command line: help, and one clear line for a mistake."""

import importlib
import os
import re
import subprocess
import sys
import types

import pytest

from alexnet_jax import UserError, main
from alexnet_jax.training import setup
from tests.support import describe, mesh, write_images


def run(*arguments, env=None):
    command = [sys.executable, "-m", "alexnet_jax.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | (env or {}))


def by_hand(address, number, process):
    return [f"--coordinator_address={address}", f"--num_processes={number}", f"--process_id={process}"]


def test_help_does_not_wait_for_jax():
    code = (
        "import runpy, sys; sys.argv = ['main', '--help']\n"
        "try: runpy.run_module('alexnet_jax.main', run_name='__main__')\n"
        "except SystemExit: print('slow' if {'jax', 'flax', 'numpy'} & set(sys.modules) else 'fast')"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "--workdir" in out and out.strip().endswith("fast")


QUICKSTART = "--config=configs/quickstart.py"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs --config=FILE and --workdir=DIR"),
        (["--config=configs/nope.py"], "--config=configs/nope.py: no such file"),
        (
            [QUICKSTART, "--config.batchsize=3"],
            "--config.batchsize: the config has no such field; did you mean batch_size?",
        ),
        (
            [QUICKSTART, "--config.mesh.rows=3"],
            "--config.mesh.rows: the config has no such field; there are mesh.data, mesh.model",
        ),
        ([QUICKSTART, "--config.batch_size=1.5"], "--config.batch_size=1.5: must be a whole number"),
        ([QUICKSTART, "--config.augment.flip=maybe"], "--config.augment.flip=maybe: must be true or false"),
        ([QUICKSTART, "--config.mesh=3"], "--config.mesh: is a section of the config; set its fields: --config.mesh."),
        ([QUICKSTART, "--config.schedule.epochs=(1,"], "--config.schedule.epochs=(1,: must be a tuple, as (30,60)"),
        ([QUICKSTART, "--num_epochs=3"], "--num_epochs: is a field of the config; use --config.num_epochs"),
        ([QUICKSTART, "--dataset.root=x"], "--dataset.root: is a field of the config; use --config.dataset.root"),
        ([QUICKSTART, QUICKSTART], "--config is given twice"),
        (["--config=configs/cifar10.py:12pct"], "cifar10.py:12pct, line 45: ValueError: no net '12pct'; there are 80s"),
        ([QUICKSTART, "--confg.batch_size=1"], "confg.batch_size"),
        ([QUICKSTART, "batch_size=1"], "unexpected argument 'batch_size=1'"),
        (["--config=configs/two_gpu.py"], "python -m alexnet_jax.prepare"),
        ([QUICKSTART, "--distributed"], "--distributed: no scheduler started this process"),
        ([QUICKSTART, "--num_processes=2"], "use --coordinator_address, --num_processes and"),
        ([QUICKSTART, *by_hand("nowhere", 2, 0)], "--coordinator_address=nowhere: must be HOST:P"),
        ([QUICKSTART, *by_hand("127.0.0.1:9", 2, 2)], "--process_id=2: must be below"),
    ],
)
def test_a_mistake_ends_with_one_line(arguments, message, tmp_path):
    flags = [f"--workdir={tmp_path / 'run'}"] if arguments else []
    process = run(*arguments, *flags)
    assert process.returncode != 0
    assert process.stderr.startswith("alexnet_jax: ") and process.stderr.count("\n") == 1, process.stderr
    assert message in process.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.fixture
def run_here(run_command, monkeypatch):
    """The program on a config of the project with some fields set, in this process: status, stdout, stderr."""

    def run_here(config_name, workdir, fields):
        config = importlib.import_module(f"configs.{config_name}").get_config()
        config.update_from_flattened_dict(fields)
        monkeypatch.setattr(main, "CONFIG", types.SimpleNamespace(value=config))
        monkeypatch.setattr(main, "WORKDIR", types.SimpleNamespace(value=str(workdir)))
        for flag in ("DISTRIBUTED", "COORDINATOR"):
            monkeypatch.setattr(main, flag, types.SimpleNamespace(value=None))
        return run_command(lambda: main.main(["main"]))

    return run_here


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        ("quickstart", {"fidelity": "text"}, "config.fidelity"),
        ("imagenette", {"dataset.root": "/nowhere"}, "root '/nowhere': no such directory"),
        ("two_gpu", {"dataset.name": "tfds:imagenet2012", "dataset.root": "."}, "tfds.builder('imagenet2012'"),
        ("quickstart", {"augment.crop_group": 0}, "config.augment.crop_group=0"),
        ("quickstart", {"augment.colour_scale": "variance"}, "config.augment.colour_scale"),
        ("quickstart", {"augment.crop_group": 10**18}, "config.augment.crop_group=1000000000000000000: must be from"),
        (
            "quickstart",
            {"model.width": 1e9},
            "config.model.width=1000000000.0, config.model.image_size=112: give conv1",
        ),
        ("quickstart", {"model.width": 1e300}, "config.model.width=1e+300: must be a number above 0"),
        ("quickstart", {"model.image_size": 10**6}, "config.model.image_size=1000000: must be 8192 at most"),
        ("one_gpu", {"num_epochs": 1e308}, "config.num_epochs=1e+308: these are more than 2³¹ steps"),
        ("one_gpu", {"mesh.model": 2}, "config.mesh.model=2"),
    ],
)
def test_a_setting_that_does_not_work_ends_with_one_line(config, fields, message, tmp_path, run_here):
    if config == "one_gpu":  # whose data are looked at first
        images = write_images(tmp_path / "images", {"train": (130, 1), "val": (1, 1)}, size=8)
        fields = fields | {"dataset.name": "folder", "dataset.root": str(images)}
    assert_one_line(run_here(config, tmp_path / "run", fields), message)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_net_that_memory_cannot_hold_is_not_begun(monkeypatch):
    net, one_device = describe("one_gpu"), mesh(1, 1)
    # 59.8 million parameters of 12 bytes; for each image 224²·3 floats, 256²·3 bytes and 355,864 outputs of 2 bytes:
    # 55²·48 + 27²·128 + 2·13²·192 + 13²·256 + 2·4096 + 1000.
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 10**6}[name])
    setup.check_memory(net, one_device, batch_size=1000)
    with pytest.raises(UserError, match="takes at least 16 GB of memory and there are 4; use a smaller config.model.w"):
        setup.check_memory(net, one_device, batch_size=10_000)


def assert_one_line(result, message):
    status, _, error = result
    assert status != 0
    assert error.startswith("alexnet_jax: ") and error.count("\n") == 1 and message in error, error


def test_bad_images_and_directories_end_with_one_line(tmp_path, run_here):
    images = write_images(tmp_path / "images", {"train": (8, 8), "val": (1, 1)})
    fields = {"dataset.name": "folder", "dataset.root": str(images), "batch_size": 8, "num_epochs": 1.0}
    fields |= {"model.width": 0.0625, "model.image_size": 63}

    def assert_refused(workdir, message, **other):
        assert_one_line(run_here("two_gpu", tmp_path / workdir, fields | other), message)

    assert_refused("a", "config.batch_size=7: use a multiple", batch_size=7)
    assert_refused("a", "config.mesh: data=9", **{"mesh.data": 9})

    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    command = ["--config=configs/two_gpu.py", f"--workdir={tmp_path / 'b'}", *overrides]
    good = run(*command, env={"JAX_NUM_CPU_DEVICES": "4"})
    assert good.returncode == 0 and "60,965,224" not in good.stdout and "conv5" in good.stdout, good.stderr
    assert re.search(r"^\d\d:\d\d:\d\d step 2/2: loss", good.stderr, re.M)
    assert_refused("b", "seed is 0 there and 1 here", seed=1)

    victim = images / "train" / "class_1" / "003.png"
    victim.write_bytes(victim.read_bytes()[:1000])
    assert_refused("c", "class_1/003.png: not a complete image")
    for image in (images / "val" / "class_0").iterdir():
        image.unlink()
    assert_refused("c", "val/class_0: no images in this class folder")
