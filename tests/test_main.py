"""The command line: help, and one clear line for a mistake."""

import os
import subprocess
import sys

import pytest
from conftest import write_images


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs --config=FILE and --workdir=DIR"),
        (["--config=configs/nope.py"], "--config=configs/nope.py: no such file"),
        (["--config=configs/quickstart.py", "--config.batchsize=3"], '"batch_size"'),
        (["--config=configs/quickstart.py", "--config.mesh.rows=3"], "no such field: 'rows'"),
        (["--config=configs/quickstart.py", "--config.batch_size=many"], "--config.batch_size=many"),
        (["--config=configs/quickstart.py", "--confg.batch_size=1"], "confg.batch_size"),
        (["--config=configs/quickstart.py", "batch_size=1"], "unexpected argument 'batch_size=1'"),
        (["--config=configs/quickstart.py", "--config.fidelity=text"], "config.fidelity"),
        (["--config=configs/imagenette.py", "--config.dataset.root=/nowhere"], "root '/nowhere': no such directory"),
        (["--config=configs/two_gpu.py"], "python -m alexnet_jax.prepare"),
        (["--config=configs/two_gpu.py", "--config.dataset.name=tfds:imagenet2012"], "tfds.builder('imagenet2012'"),
        (["--config=configs/quickstart.py", "--config.augment.crop_group=0"], "config.augment.crop_group=0"),
        (["--config=configs/quickstart.py", "--config.augment.colour_scale=variance"], "config.augment.colour_scale"),
        (["--config=configs/one_gpu.py", "--config.mesh.model=2"], "config.mesh.model=2"),
        (["--config=configs/quickstart.py", "--distributed"], "--distributed: no scheduler started this process"),
        (["--config=configs/quickstart.py", "--num_processes=2"], "use --coordinator_address, --num_processes and"),
        (
            ["--config=configs/quickstart.py", *by_hand("nowhere", 2, 0)],
            "--coordinator_address=nowhere: must be HOST:P",
        ),
        (["--config=configs/quickstart.py", *by_hand("127.0.0.1:9", 2, 2)], "--process_id=2: must be below"),
    ],
)
def test_a_mistake_ends_with_one_line(arguments, message, tmp_path):
    environment = {"TFDS_DATA_DIR": str(tmp_path)}
    if "dataset.root" not in " ".join(arguments) and "two_gpu" not in " ".join(arguments):
        write_images(tmp_path / "images", {"train": (130, 1), "val": (1, 1)}, size=8)
        fields = [f"--config.dataset.root={tmp_path / 'images'}", "--config.dataset.name=folder"]
        arguments = arguments + (fields if arguments else [])
    process = run(*arguments, *([f"--workdir={tmp_path / 'run'}"] if arguments else []), env=environment)
    assert process.returncode != 0
    assert process.stderr.strip().splitlines()[-1].startswith("alexnet_jax: ")
    assert "Traceback" not in process.stderr
    assert len(process.stderr.strip().splitlines()) == 1, process.stderr
    assert message in process.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


def folder_run(images, workdir, *arguments):
    fields = ["dataset.name=folder", f"dataset.root={images}", "model.width=0.0625", "model.image_size=63"]
    fields += ["batch_size=8", "num_epochs=1", *arguments]
    overrides = [f"--config.{field}" for field in fields]
    return run("--config=configs/two_gpu.py", f"--workdir={workdir}", *overrides, env={"JAX_NUM_CPU_DEVICES": "4"})


def assert_one_line_at_the_end(process, message):
    last = process.stderr.strip().splitlines()[-1]
    assert process.returncode != 0 and last.startswith("alexnet_jax: ") and message in last, process.stderr
    assert "Traceback" not in process.stderr


def test_bad_images_and_directories_end_with_one_line(tmp_path):
    images = write_images(tmp_path / "images", {"train": (8, 8), "val": (1, 1)})
    assert_one_line_at_the_end(
        folder_run(images, tmp_path / "a", "batch_size=7"), "config.batch_size=7: use a multiple"
    )
    assert_one_line_at_the_end(folder_run(images, tmp_path / "a", "mesh.data=9"), "config.mesh: data=9")

    good = folder_run(images, tmp_path / "b")
    assert good.returncode == 0 and "60,965,224" not in good.stdout and "conv5" in good.stdout, good.stderr
    assert_one_line_at_the_end(folder_run(images, tmp_path / "b", "seed=1"), "seed is 0 there and 1 here")

    victim = images / "train" / "class_1" / "003.png"
    victim.write_bytes(victim.read_bytes()[:1000])
    assert_one_line_at_the_end(folder_run(images, tmp_path / "c"), "class_1/003.png: not a complete image")
    for image in (images / "val" / "class_0").iterdir():
        image.unlink()
    assert_one_line_at_the_end(folder_run(images, tmp_path / "c"), "val/class_0: no images in this class folder")
