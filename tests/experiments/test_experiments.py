"""`python -m experiments`: a claim from training to measurements and pages, and mistakes on the command line."""

import base64
import dataclasses
import importlib.util
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from alexnet_jax.analysis import ensemble, retrieval
from alexnet_jax.data import datasets
from alexnet_jax.runtime import files
from experiments import __main__ as experiments_main
from experiments import claims, estimates, results_page, store, sweep, sweep_members
from experiments.claims import dropout, fig3_kernels, fig4_retrieval, table2
from experiments.claims.claim import DATA_SETS, DataSet, Sweep
from tests.support import write_images

EXPERIMENTS = pathlib.Path(results_page.__file__).parent

# A claim, which is also a config with a sweep.
TINY = """
import functools

from configs import two_gpu
from experiments.claims.claim import Claim, Sweep
from experiments.claims.groups import compare


def get_config(scale="laptop"):
    config = two_gpu.get_config()
    config.dataset.name, config.dataset.root = "folder", {root!r}
    config.model.width, config.model.image_size = 0.0625, 63
    config.batch_size, config.num_epochs, config.schedule.learning_rate = 8, 1.0, 0.001
    return config


def sweep(scale="laptop"):
    return [{{"seed": 0}}, {{"schedule.learning_rate": 0.0001, "seed": 0}}]


def measure(members):
    return {{member.workdir.name: len(list(member.workdir.glob("*.png"))) for member in members}}


def summary(runs, measured):
    assert all(measured[run.name] == 2 for run in runs)
    return compare(runs, nets={{"0.001": {{}}, "0.0001": {{"schedule.learning_rate": 0.0001}}}})


CLAIM = Claim(
    name="tiny",
    title="Smaller steps learn more slowly",
    section="section 0",
    figure="nothing",
    paper="",
    log="nothing.",
    data={{"full": "none", "laptop": "noise"}},
    sweep=Sweep(sweep, get_config),
    summary=summary,
    measure=measure,
)
"""


@pytest.fixture
def tiny_config(tmp_path, monkeypatch):
    """The path of the claim above, which replaces all others."""
    root = write_images(tmp_path / "images", {"train": (13, 13), "val": (25, 26)})
    path = tmp_path / "tiny.py"
    path.write_text(TINY.format(root=str(root)))
    spec = importlib.util.spec_from_file_location("tiny", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(claims, "CLAIMS", {"tiny": module.CLAIM})
    monkeypatch.setitem(DATA_SETS, "none", DataSet(2, 51, ""))
    monkeypatch.setitem(DATA_SETS, "noise", DataSet(2, 51, ""))
    monkeypatch.setattr(experiments_main.command_line, "set_up_jax", lambda: None)
    return path


def run_main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["experiments", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        experiments_main.main()
    return ended.value.code


@pytest.mark.slow
def test_a_claim_from_training_to_the_pages(tiny_config, tmp_path, monkeypatch, capfd):
    # The training is a process of its own, because this one runs JAX and must not fork. Its config is another file with
    # the same fields, as that of an older version.
    train = [sys.executable, sweep.__file__, "local", f"--config={tiny_config}:laptop", "--at_once=2"]
    work = tmp_path / "work"
    train += [f"--workdir={work / 'laptop' / 'noise'}"]
    assert "2 members, 0 finished before" in subprocess.run(train, capture_output=True, text=True, check=True).stdout
    flags = "tiny", "--scale=laptop", f"--workdir={work}", "--at_once=2"
    assert run_main(monkeypatch, *flags) == 0
    out = capfd.readouterr().out
    assert "2 members, 2 finished before" in out
    assert out.splitlines()[-1].startswith(
        'Top-1 error by ten views minus that of the first net, "0.001", in percentage points: "0.0001" '
    )
    paths = sorted((work / "results" / "runs" / "laptop" / "noise").glob("*.json"))
    assert [path.stem for path in paths] == ["schedule.learning_rate=0.0001,seed=0", "seed=0"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=EXPERIMENTS, capture_output=True, text=True).stdout.strip()
    claim = claims.CLAIMS["tiny"]
    runs = store.load_runs(claim.runs_directory("laptop", work / "results"))
    run = runs[-1]
    assert run.commit.rstrip("+") == (head or "unknown")
    dataset = {"name": "folder", "root": "images", "orientation": "upright", "cache": "auto"}  # not the path
    assert run.config["dataset"] == dataset
    assert run.result == files.read_json(work / "laptop" / "noise" / "seed=0" / "result.json")
    assert str(tmp_path) not in "".join(path.read_text() for path in paths)

    measured = claim.measurement("laptop", work / "results")
    assert set(measured.pop("runs")) == {path.stem for path in paths}
    assert measured == {"commit": run.commit, **{path.stem: 2 for path in paths}}

    before = {path: path.read_bytes() for path in paths}
    assert run_main(monkeypatch, *flags) == 0
    assert "2 members, 2 finished before" in capfd.readouterr().out
    assert {path: path.read_bytes() for path in paths} == before

    monkeypatch.setattr(sys, "argv", ["experiments", "report", f"--workdir={work}"])
    experiments_main.main()
    markdown, page = ((work / name).read_text() for name in ("RESULTS.md", "report.html"))
    for text in (markdown, page):
        assert "Smaller steps learn more slowly (section 0)" in text
        assert estimates.percent(run.result["center"]["top1_error"]) in text
        assert "Not run yet: scale" in text
    pictures = {path.name: path.read_bytes() for path in (work / results_page.PICTURES).iterdir()}
    assert set(pictures) == {"two_gpu.png", "tiny_laptop_curves.png"}
    results_page.write(work)
    assert (markdown, page) == tuple((work / name).read_text() for name in ("RESULTS.md", "report.html"))
    assert pictures == {path.name: path.read_bytes() for path in (work / results_page.PICTURES).iterdir()}

    members = sweep_members.read_members(f"{tiny_config}:laptop", work / "laptop" / "noise", [])
    check_measurements(members, {run.name: run for run in runs}, monkeypatch)

    # Other data are refused, and so are nets to start from that do not exist or are outdated.
    monkeypatch.setitem(DATA_SETS, "noise", DataSet(2, 52, ""))
    refused = "has 2 classes and 51 validation images; at this scale tiny needs noise, which has 2 and 52"
    assert run_main(monkeypatch, *flags) == 1 and refused in capfd.readouterr().err
    monkeypatch.setitem(DATA_SETS, "noise", DataSet(2, 51, ""))

    def start_from(directory):
        starting = Sweep(lambda scale: [{"init_from": str(directory), "seed": 0}], claim.sweep.config)
        monkeypatch.setitem(claims.CLAIMS, "tiny", dataclasses.replace(claim, sweep=starting))
        assert run_main(monkeypatch, *flags) == 1
        return capfd.readouterr().err

    assert "nope: no such directory" in start_from(tmp_path / "nope")
    (tmp_path / "old").mkdir()
    old = {"model": {"net": "sixth_conv"}, "schedule": {"name": "plateau"}}
    files.write_json(tmp_path / "old" / "config.json", old)
    refused = "old: was finished with another version of this net or schedule (there is no net.json"
    assert refused in start_from(tmp_path / "old")


def check_measurements(members, runs_by_name, monkeypatch):
    """Compares what each `measure` returns for finished members."""
    runs = [runs_by_name[member.workdir.name] for member in members]
    names = [member.workdir.name for member in members]
    train, validation = (
        datasets.find("folder", members[0].defaults["dataset.root"]).load(split, 72)[0]
        for split in ("train", "validation")
    )

    of_training = dropout.measure(members)
    assert [of_training[name]["num_examples"] for name in names] == [len(train)] * 2 == [26] * 2

    together = table2.measure(members)
    assert together["members"] == names and together["together"]["num_examples"] == len(validation)
    assert table2.summary(runs, together).table[1][0] == "each of 2 nets"

    kernels = json.loads(json.dumps(fig3_kernels.measure(members)))
    for member in members:
        params = ensemble.load([member.workdir]).params[0]
        stored = np.frombuffer(base64.b64decode(kernels[member.workdir.name]["kernels"]), np.float16)
        np.testing.assert_array_equal(stored, np.asarray(params["conv1"]["kernel"], np.float16).ravel())
    # These learning rates are tiny: little is left when the initial kernels are subtracted.
    assert max(kernels[names[0]]["energy"]) < 0.1 * (stored.astype(float) ** 2).sum() / len(kernels[names[0]]["energy"])
    assert len(fig3_kernels.summary(runs, kernels).table) == 3

    monkeypatch.setattr(fig4_retrieval, "SHOWN", (0, 23))
    near = fig4_retrieval.measure(members)
    pixels = [fig4_retrieval.thumbnails(split).astype(float) for split in (validation, train)]
    nearest = np.argsort(((pixels[0][:, None] - pixels[1][None]) ** 2).sum(2), 1)[:, :6]
    labels = [np.array([split[i][1] for i in range(len(split))]) for split in (validation, train)]
    same = (labels[1][nearest] == labels[0][:, None]).mean()
    assert near[names[0]]["same_class"]["pixels"] == pytest.approx(same)
    features = [retrieval.features(ensemble.load([members[0].workdir]), split) for split in (validation, train)]
    by_features = retrieval.nearest(*features, 6)
    both = [len({*a} & {*b}) / 6 for a, b in zip(nearest.tolist(), np.asarray(by_features).tolist(), strict=True)]
    assert near[names[0]]["both"] == pytest.approx(np.mean(both))
    assert fig4_retrieval.summary(runs, near).table[1][0] == str(runs[0].seed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no claim 'nothing'; the claims are fig1_relu_vs_tanh, "),
        (["lrn"], "lrn needs --scale and --workdir"),
        (["lrn", "--scale=laptop", "--workdir=/tmp/x", "--at_once=0"], "--at_once must be above 0"),
        (["lrn", "--scale=small", "--workdir=/tmp/x"], "invalid choice: 'small'"),
        (
            ["lrn", "--scale=laptop", "--workdir=/tmp/x", "--root=nope"],
            "nope: no (finished) prepared set; at this scale lrn needs imagenette, prepared as ",
        ),
        (
            ["fig4_retrieval", "--scale=laptop", "--workdir=/tmp/x", "--root=a"],
            "--root=a: at this scale fig4_retrieval",
        ),
        (["report", "--workdir=/tmp/nope"], "/tmp/nope: has no results"),
        (["report", "--scale=full"], "report takes no flag but --workdir"),
    ],
)
def test_a_mistake_ends_with_one_line(arguments, message, run_command):
    status, _, error = run_command(experiments_main.main, *arguments)
    assert status == 1
    assert message in error and error.count("\n") == 1


def test_a_directory_that_cannot_be_written_ends_with_one_line(run_command, monkeypatch):
    monkeypatch.setattr(experiments_main, "check_inputs", lambda *_: None)  # it would draw the textures
    flags = "--scale=laptop", "--workdir=/proc/nope"
    status, _, error = run_command(experiments_main.main, "fig4_retrieval", *flags)
    assert status == 1 and "/proc/nope/laptop/textures: cannot be written" in error and error.count("\n") == 1


def test_the_command_starts():
    done = subprocess.run([sys.executable, "-m", "experiments", "nothing"], capture_output=True, text=True)
    assert done.returncode == 1 and "no claim 'nothing'; the claims are fig1_relu_vs_tanh, " in done.stderr
    assert done.stderr.count("\n") == 1
