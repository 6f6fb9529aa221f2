"""The changes on the page about extending apply, alone and together, and what they add works."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
DIFFS = re.findall(r"```diff\n(.*?)```", PAGE, re.DOTALL)
NEW_FILES = dict(re.findall(r"`([\w/]+\.py)`, a new file:\n\n```python\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def copy(tmp_path):
    """A copy of the repository."""
    for name in ("alexnet_jax", "configs", "experiments"):
        shutil.copytree(ROOT / name, tmp_path / "copy" / name, ignore=shutil.ignore_patterns("results", "__pycache__"))
    return tmp_path / "copy"


def extend(copy):
    """Makes all changes of the page in a copy of the repository."""
    for diff in DIFFS:
        subprocess.run(["git", "apply", "-"], input=diff, text=True, check=True, cwd=copy)
    for path, text in NEW_FILES.items():
        assert not (copy / path).exists()
        (copy / path).write_text(text)


def run(copy, *command, **options):
    environment = os.environ | {"PYTHONPATH": str(copy)}
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, **options)


USE = pathlib.Path(__file__).parent / "fixtures" / "extensions.py"


def test_the_changes_work_together(copy, config, tmp_path):
    extend(copy)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "config.json").write_text(config.to_json())
    done = run(copy, sys.executable, str(USE), str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["contrast"] == 1.0
    assert found["cross_tower"] == ["conv2", "conv3", "fc6", "fc7", "fc8"]
    assert found["operations"] == ["gelu", "norm", "pool"]
    assert found["gelu"] == pytest.approx([-0.1588, 0.0, 0.8412], abs=1e-4)  # the tanh approximation, by hand
    assert found["rates"] == pytest.approx([0.001, 0.0005, 0.0])
    # Kingma and Ba: both steps by hand, with β₁ = 0.9, β₂ = 0.999 and rate 0.1.
    m, v = 0.9 * 0.1 + 0.1 * 3, 0.999 * 0.001 + 0.001 * 9
    second = m / (1 - 0.81) / (v / (1 - 0.998001)) ** 0.5
    assert found["adam"] == pytest.approx([1 - 0.1 - 0.1 * second] * 2, rel=1e-4)
    assert found["pixel"] == pytest.approx(200)
    assert (found["classes"], found["labels"]) == (["a", "b"], [1, 0, 1])
    assert found["same"]
    assert found["runs"] == [0, 0, 1, 1, 2, 2]
    assert found["onnx"].endswith("net.onnx: conv1 is followed by gelu, which ONNX cannot express; write .safetensors")


@pytest.mark.slow
def test_the_pages_commands(copy, tmp_path):
    extend(copy)
    for command in COMMANDS:
        command = re.sub(
            r"\bpython (?=-|experiments)", f"{sys.executable} ", command.replace("/tmp/", f"{tmp_path}/runs/")
        )
        done = run(copy, "bash", "-euc", f"mkdir -p {tmp_path}/runs; {command}")
        assert done.returncode == 0, (command, done.stderr)


@pytest.mark.slow
def test_a_version_with_another_setting_continues_a_run(copy, config, tmp_path):
    flags = ["--config=configs/imagenette.py", f"--workdir={tmp_path / 'run'}"]
    flags += [f"--config.dataset.root={config.dataset.root}", "--config.batch_size=8", "--config.model.width=0.0625"]
    flags += ["--config.model.image_size=63", "--config.mesh.data=1"]
    command = [sys.executable, "-m", "alexnet_jax.main", *flags]
    assert run(copy, *command, "--config.num_epochs=1.0").returncode == 0
    extend(copy)
    done = run(copy, *command, "--config.num_epochs=2.0")
    assert done.returncode == 0 and "continuing at step 3 of 6" in done.stderr, done.stderr
    done = run(copy, *command, "--config.num_epochs=3.0", "--config.augment.contrast=1.5")
    assert done.returncode == 1 and "augment.contrast is 1.0 there and 1.5 here" in done.stderr
    shutil.rmtree(copy / "alexnet_jax")
    shutil.copytree(ROOT / "alexnet_jax", copy / "alexnet_jax")
    done = run(copy, *command, "--config.num_epochs=3.0")
    assert done.returncode == 1 and "has no setting augment.contrast; use the version that wrote it" in done.stderr
