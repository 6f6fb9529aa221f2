"""The paper's claims: every file of them, from training to what is found in trained nets, and the pages."""

import base64
import copy
import importlib.util
import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from alexnet_jax import UserError
from alexnet_jax.analysis import ensemble, figures, retrieval
from alexnet_jax.data import datasets
from alexnet_jax.model import nets
from alexnet_jax.runtime import files
from alexnet_jax.training import fidelity, run_directory
from experiments import __main__ as experiments_main
from experiments import (
    claims,
    dropout,
    fig3_kernels,
    fig4_retrieval,
    pretraining,
    report,
    runs,
    sweep,
    table2,
    ten_views,
    two_gpus,
)
from tests.support import write_images

EXPERIMENTS = pathlib.Path(report.__file__).parent


@pytest.mark.parametrize("scale", claims.SCALES)
@pytest.mark.parametrize("name", claims.NAMES)
def test_a_claim_says_what_the_paper_does_and_its_sweep_describes_nets(name, scale, tmp_path):
    claim = claims.load(name)
    said = report.described(claim)
    assert all(said[key] for key in ("title", "paper", "log")) and "Cost: " in claim.__doc__
    assert f"python -m experiments {name} --scale={scale} " in said["commands"]
    members = sweep.read_members(f"{claim.__file__}:{scale}", tmp_path, [])
    for member in members:
        config = claim.get_config(scale)
        config.update_from_flattened_dict(member.settings)
        assert nets.from_config(fidelity.resolve(config).model)
    assert {claim.DATA[scale]} <= claims.CLASSES.keys() & claims.TEST_IMAGES.keys()


def test_there_is_no_claim_that_no_one_can_run():
    others = {"__init__", "__main__", "claims", "fidelity", "kills", "report", "runs", "sweep"}
    assert {path.stem for path in EXPERIMENTS.glob("*.py")} - others == set(claims.NAMES)


def kept_run(config, **fields):
    """The content of the file of a training with a config and other settings."""
    config = copy.deepcopy(config)
    config.update_from_flattened_dict(fields)
    config = fidelity.resolve(config)
    errors = {"top1_error": 0.4, "top5_error": 0.1}
    return {
        "commit": "abc",
        "settings": fields,
        "config": json.loads(config.to_json()),
        "net": run_directory.record(config),
        "result": {"step": 9, "num_examples": 3925, "center": errors, "ten_crop": errors},
        "metrics": [{"split": split, "epoch": 1.0, "top1_error": 0.5} for split in ("train", "eval")],
    }


def test_what_was_kept_of_another_config_net_or_images_does_not_count(tmp_path, capsys):
    directory = runs.directory(tmp_path / "results", "laptop", "imagenette")
    directory.mkdir(parents=True)

    def finished(claim, kept):
        (directory / "a.json").write_text(json.dumps(kept))
        return [run.seed for run in claims.finished(claim, "laptop", tmp_path / "results")]

    kept = kept_run(ten_views.get_config(), seed=1)
    assert finished(ten_views, kept) == [1]
    kept["config"]["batch_size"] = 64
    assert finished(ten_views, kept) == []
    report.write(tmp_path)
    assert f"of no claim as it is now, or too few: 1, as {directory / 'a.json'}\n" in capsys.readouterr().err
    kept = kept_run(ten_views.get_config(), seed=1)
    kept["result"]["num_examples"] = 10_000
    assert finished(ten_views, kept) == []

    kept = kept_run(pretraining.get_config(), **claims.of_seed(pretraining.PRETRAINED, 1))
    kept["start"] = kept_run(pretraining.get_config("more_laptop"), **claims.of_seed(pretraining.SIXTH, 1))
    assert finished(pretraining, kept) == [1]
    (run,) = runs.load(tmp_path / "results", "laptop", "imagenette")
    said = report.provenance([run], "laptop", None)
    assert "1 of them started from nets with a top-1 error of 40.0 % on their own data, of commit `abc`." in said
    kept["start"]["config"]["num_epochs"] = 1.0
    assert finished(pretraining, kept) == []
    kept["start"] = kept_run(pretraining.get_config("more_laptop"), **claims.of_seed(pretraining.SIXTH, 1))
    kept["start"]["net"] = {}  # from before net 146 was corrected
    assert finished(pretraining, kept) == []

    kept = kept_run(two_gpus.get_config(), **claims.of_seed({"model.net": "separate"}, 1))
    assert finished(two_gpus, kept) == [1]
    kept["net"]["layers"]["fc7"]["features"] = 1024
    assert finished(two_gpus, kept) == []


@pytest.mark.parametrize(
    "damage",
    [
        {"more": 1},
        {"settings": {}},
        {"metrics": []},
        {"result": {"step": 9, "num_examples": 3925, "center": {"top1_error": 0.4, "top5_error": 0.1}}},
    ],
)
def test_a_file_that_is_no_training_is_named(damage, tmp_path):
    directory = runs.directory(tmp_path, "laptop", "imagenette")
    directory.mkdir(parents=True)
    (directory / "a.json").write_text(json.dumps(kept_run(ten_views.get_config(), seed=1) | damage))
    with pytest.raises(UserError, match="a.json: is not what this program wrote; restore or remove it"):
        runs.load(tmp_path, "laptop", "imagenette")


def test_what_was_measured_in_other_trainings_does_not_count(tmp_path):
    directory = runs.directory(tmp_path, "laptop", "imagenette")
    directory.mkdir(parents=True)
    kept = kept_run(ten_views.get_config(), seed=1)
    (directory / "a.json").write_text(json.dumps(kept))
    found = runs.load(tmp_path, "laptop", "imagenette")
    claims.keep_measured({"a": 7}, found, claims.measured_path("dropout", "laptop", tmp_path))
    assert claims.measured("dropout", "laptop", tmp_path)["a"] == 7
    kept["commit"] = "def"
    (directory / "a.json").write_text(json.dumps(kept))
    assert claims.measured("dropout", "laptop", tmp_path) == {}
    (directory / "a.json").unlink()
    assert claims.measured("dropout", "laptop", tmp_path) == {}


def test_the_diagram_shows_what_crosses_between_the_towers():
    # What the compiled program receives, see test_sharding: 121,344 bytes of float32.
    texts = [text.get_text() for text in figures.diagram(nets.NETS["two_gpu"]).axes[0].texts]
    received = [int(text.split()[1].replace(",", "")) for text in texts if text.startswith("all_gather")]
    assert len(received) == 4 and 4 * sum(received) == 121_344
    assert sum(text.startswith("conv2") for text in texts) == 2
    one = [text.get_text() for text in figures.diagram(nets.NETS["one_gpu"]).axes[0].texts]
    assert not any("all_gather" in text for text in one)


CLAIM = '''"""Smaller steps learn more slowly (section 0).

Paper: nothing.
Log of 2012: nothing.

  python -m experiments tiny --scale=full --workdir=DIR
  python -m experiments tiny --scale=laptop --workdir=DIR

Cost: none.
"""

from configs import two_gpu
from experiments import claims

DATA = {{"full": "none", "laptop": "noise"}}


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


def summary(found, measured):
    nets = {{"0.001": {{}}, "0.0001": {{"schedule.learning_rate": 0.0001}}}}
    assert all(measured[run.path.stem] == 2 for run in found)
    return claims.compare(found, nets)
'''


@pytest.fixture
def tiny_claim(tmp_path, monkeypatch):
    """The claim above, alone."""
    root = write_images(tmp_path / "images", {"train": (13, 13), "val": (25, 26)})
    path = tmp_path / "tiny.py"
    path.write_text(CLAIM.format(root=str(root)))
    spec = importlib.util.spec_from_file_location("experiments.tiny", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "experiments.tiny", module)
    monkeypatch.setattr(claims, "NAMES", ("tiny",))
    monkeypatch.setitem(claims.CLASSES, "noise", 2)
    monkeypatch.setitem(claims.TEST_IMAGES, "noise", 51)
    monkeypatch.setattr(experiments_main.commands, "set_up_jax", lambda: None)
    return path


def run_main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["experiments", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        experiments_main.main()
    return ended.value.code


@pytest.mark.slow
def test_a_claim_from_training_to_the_pages(tiny_claim, tmp_path, monkeypatch, capfd):
    # In a process of its own: this one runs JAX, and must not fork.
    train = [sys.executable, sweep.__file__, "local", f"--config={tiny_claim}:laptop", "--at_once=2"]
    work = tmp_path / "work"
    train += [f"--workdir={work / 'laptop' / 'noise'}"]
    assert "2 members, 0 finished before" in subprocess.run(train, capture_output=True, text=True, check=True).stdout
    flags = "tiny", "--scale=laptop", f"--workdir={work}", "--at_once=2"
    assert run_main(monkeypatch, *flags) == 0
    out = capfd.readouterr().out
    assert "2 members, 2 finished before" in out
    assert out.splitlines()[-1].startswith(
        'Top-1 error by ten views minus that of the first net, "0.001", in points: "0.0001" '
    )
    kept = sorted((work / "results" / "runs" / "laptop" / "noise").glob("*.json"))
    assert [path.stem for path in kept] == ["schedule.learning_rate=0.0001,seed=0", "seed=0"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=EXPERIMENTS, capture_output=True, text=True).stdout.strip()
    all_kept = runs.load(work / "results", "laptop", "noise")
    run = all_kept[-1]
    assert run.commit.rstrip("+") == (head or "unknown")
    assert run.config["dataset"] == {"name": "folder", "root": "images"}  # not where it was
    assert run.result == files.read_json(work / "laptop" / "noise" / "seed=0" / "result.json")
    assert str(tmp_path) not in "".join(path.read_text() for path in kept)

    measured = claims.measured("tiny", "laptop", work / "results")
    assert set(measured.pop("runs")) == {path.stem for path in kept}
    assert measured == {"commit": run.commit, **{path.stem: 2 for path in kept}}

    before = {path: path.read_bytes() for path in kept}
    assert run_main(monkeypatch, *flags) == 0
    assert "2 members, 2 finished before" in capfd.readouterr().out
    assert {path: path.read_bytes() for path in kept} == before

    monkeypatch.setattr(sys, "argv", ["experiments", "report", f"--workdir={work}"])
    experiments_main.main()
    markdown, page = ((work / name).read_text() for name in ("RESULTS.md", "report.html"))
    for text in (markdown, page):
        assert "Smaller steps learn more slowly (section 0)" in text
        assert claims.percent(run.result["center"]["top1_error"]) in text
        assert "Not run yet: scale" in text
    pictures = {path.name: path.read_bytes() for path in (work / report.PICTURES).iterdir()}
    assert set(pictures) == {"two_gpu.png", "tiny_laptop_curves.png"}
    report.write(work)
    assert (markdown, page) == tuple((work / name).read_text() for name in ("RESULTS.md", "report.html"))
    assert pictures == {path.name: path.read_bytes() for path in (work / report.PICTURES).iterdir()}

    members = sweep.read_members(f"{tiny_claim}:laptop", work / "laptop" / "noise", [])
    look_into(members, {run.path.stem: run for run in all_kept}, monkeypatch)

    # Other data are refused, and so are nets to start from that are not there.
    monkeypatch.setitem(claims.TEST_IMAGES, "noise", 52)
    refused = "has 2 classes and 51 validation images; at this scale tiny takes noise, which has 2 and 52"
    assert refused in run_main(monkeypatch, *flags)
    monkeypatch.setitem(claims.TEST_IMAGES, "noise", 51)
    tiny_claim.write_text(tiny_claim.read_text().replace('"schedule.learning_rate": 0.0001', '"init_from": "nope"'))
    assert "nope: no such directory" in run_main(monkeypatch, *flags)
    (tmp_path / "old").mkdir()
    old = {"model": {"net": "sixth_conv"}, "schedule": {"name": "plateau"}}
    files.write_json(tmp_path / "old" / "config.json", old)
    tiny_claim.write_text(tiny_claim.read_text().replace('"nope"', repr(str(tmp_path / "old"))))
    refused = "old: was finished with another version of this net or schedule (there is no net.json"
    assert refused in run_main(monkeypatch, *flags)


def look_into(members, kept, monkeypatch):
    """What the claims that look into trained nets find in those of a claim."""
    found = [kept[member.workdir.name] for member in members]
    names = [member.workdir.name for member in members]
    train, validation = (
        datasets.find("folder", members[0].defaults["dataset.root"]).load(split, 72)[0]
        for split in ("train", "validation")
    )

    of_training = dropout.measure(members)
    assert [of_training[name]["num_examples"] for name in names] == [len(train)] * 2 == [26] * 2

    together = table2.measure(members)
    assert together["members"] == names and together["together"]["num_examples"] == len(validation)
    assert table2.summary(found, together).table[1][0] == "each of 2 nets"

    kernels = json.loads(json.dumps(fig3_kernels.measure(members)))
    for member in members:
        params = ensemble.load([member.workdir]).params[0]
        stored = np.frombuffer(base64.b64decode(kernels[member.workdir.name]["kernels"]), np.float16)
        np.testing.assert_array_equal(stored, np.asarray(params["conv1"]["kernel"], np.float16).ravel())
    # Steps of these rates are tiny, and the rest is not the noise that it began with.
    assert max(kernels[names[0]]["energy"]) < 0.1 * (stored.astype(float) ** 2).sum() / len(kernels[names[0]]["energy"])
    assert len(fig3_kernels.summary(found, kernels).table) == 3

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
    assert fig4_retrieval.summary(found, near).table[1][0] == str(found[0].seed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no claim 'nothing'; there are fig1_relu_vs_tanh, "),
        (["lrn"], "lrn needs --scale and --workdir"),
        (["lrn", "--scale=laptop", "--workdir=/tmp/x", "--at_once=0"], "--at_once must be above 0"),
        (["lrn", "--scale=small", "--workdir=/tmp/x"], "invalid choice: 'small'"),
        (
            ["lrn", "--scale=laptop", "--workdir=/tmp/x", "--root=nope"],
            "--root: dataset root nope: no (finished) prepared set; at this scale lrn takes imagenette, prepared as ",
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
    monkeypatch.setattr(experiments_main, "check_inputs", lambda *_: None)  # which would draw the textures first
    flags = "--scale=laptop", "--workdir=/proc/nope"
    status, _, error = run_command(experiments_main.main, "fig4_retrieval", *flags)
    assert status == 1 and "/proc/nope: cannot be written" in error and error.count("\n") == 1


def test_the_command_starts():
    done = subprocess.run([sys.executable, "-m", "experiments", "nothing"], capture_output=True, text=True)
    assert done.returncode == 1 and "no claim 'nothing'; there are fig1_relu_vs_tanh, " in done.stderr
    assert done.stderr.count("\n") == 1


def without_pictures(page):
    return re.sub(r"data:image/png;base64,[^\"]*", "", page)


@pytest.mark.slow
def test_the_committed_pages_are_those_of_the_committed_results(tmp_path):
    (tmp_path / "results").mkdir()
    for name in ("runs", "measured"):
        shutil.copytree(EXPERIMENTS / "results" / name, tmp_path / "results" / name)
    report.write(tmp_path)
    assert (tmp_path / "RESULTS.md").read_text() == (EXPERIMENTS / "RESULTS.md").read_text()
    # Another version of matplotlib draws other bytes.
    pages = [(path / "report.html").read_text() for path in (tmp_path, EXPERIMENTS)]
    assert without_pictures(pages[0]) == without_pictures(pages[1])
    pictures = [sorted(p.name for p in (path / report.PICTURES).glob("*.png")) for path in (tmp_path, EXPERIMENTS)]
    assert pictures[0] == pictures[1]
    table = re.search(r"^\| claim .*?\n\n", (EXPERIMENTS / "RESULTS.md").read_text(), re.DOTALL | re.MULTILINE)[0]
    assert table in (EXPERIMENTS.parent / "README.md").read_text()
    for path in [
        *(EXPERIMENTS / "results").glob("runs/*/*/*.json"),
        *(EXPERIMENTS / "results").glob("measured/*.json"),
    ]:
        commit = json.loads(path.read_text())["commit"]
        assert re.fullmatch(r"[0-9a-f]{40}(, [0-9a-f]{40})*", commit), path  # without a +: of unchanged files
