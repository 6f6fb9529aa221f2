"""The notebooks, from top to bottom, at a small size."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import flax
import jax
import jaxlib
import nbclient
import nbformat
import numpy
import pytest

NOTEBOOKS = pathlib.Path(__file__).parents[2] / "experiments" / "notebooks"


def run(name, parameters):
    """The text that a notebook printed and how many pictures it showed, with other values in its cell of parameters."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    for variable, value in parameters.items():
        cell.source, found = re.subn(rf"^{variable} = [^#\n]*", f"{variable} = {value!r}  ", cell.source, flags=re.M)
        assert found == 1
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": NOTEBOOKS}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    return text, sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("name", ["two_towers", "reproduce_and_ablate"])
def test_the_install_cell_keeps_the_versions_that_the_runtime_imports(name, monkeypatch, tmp_path):
    install = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4).cells[1].source
    shadowed = tmp_path / "numpy-1.0.dist-info"
    shadowed.mkdir()
    (shadowed / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0\n")
    monkeypatch.setattr(sys, "path", [*filter(None, sys.path), str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    find_spec, commands = importlib.util.find_spec, []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name != "alexnet_jax" and find_spec(name))
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: commands.append(command) or subprocess.CompletedProcess(command, 0)
    )
    exec(install.replace('REPOSITORY = ""', 'REPOSITORY = "address"'), {})
    clone, pip = commands
    assert clone[:2] == ["git", "clone"] and clone[-2] == "address"
    assert pip[:4] == [sys.executable, "-m", "pip", "install"] and pip[-5] == str(clone[-1])
    assert pip[-4:] == [f"{module.__name__}=={module.__version__}" for module in (jax, jaxlib, flax, numpy)]


@pytest.mark.slow
def test_the_two_towers():
    text, pictures = run("two_towers", {"WIDTH": 0.125, "STEPS": 3})
    assert pictures == 3
    assert re.findall("all-gather|reduce-scatter|all-reduce", text) == [
        *["all-gather"] * 4,  # forward
        *["all-gather"] * 4,  # forward and back
        *["reduce-scatter"] * 3,
        "all-gather",  # towers that never communicate
    ]
    differences = [float(number) for number in re.findall(r"largest difference (\S+)", text)]
    assert len(differences) == 3 and max(differences) < 1e-4


@pytest.mark.slow
def test_reproduce_and_ablate(tmp_path):
    text, pictures = run("reproduce_and_ablate", {"EPOCHS": 0.08, "WORKDIR": str(tmp_path)})
    assert pictures == 5
    assert re.search(r"ten_crop top-1 error \d+\.\d%", text)
    assert len(list(tmp_path.glob("*/*/result.json"))) == 5 and len(list(tmp_path.glob("*/sweep/sweep.md"))) == 1
