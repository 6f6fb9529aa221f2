"""From archives to the test protocol by the commands alone, without TensorFlow: prepare, train, evaluate, predict."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from alexnet_jax import UserError, evaluate, predict
from alexnet_jax.analysis import ensemble, inference, prediction
from alexnet_jax.data import datasets
from alexnet_jax.data.class_names import imagenet_names, imagenet_words
from configs import two_gpu
from tests.fixtures import imagenet_archives, miniature_sets

SMALL = [
    "dataset.root=prepared",
    "model.width=0.0625",
    "model.image_size=112",
    "batch_size=8",
    "log_every=1",
    "num_epochs=0.67",
    "schedule.learning_rate=0.001",
]


def environment(directory):
    """The program's own number of devices, two, and no TensorFlow: whoever imports it fails."""
    (directory / "without" / "tensorflow").mkdir(parents=True, exist_ok=True)
    (directory / "without" / "tensorflow" / "__init__.py").write_text("raise RuntimeError('TensorFlow was imported')")
    path = os.pathsep.join([str(directory / "without"), os.getcwd()])
    inherited = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    return inherited | {"PYTHONPATH": path}


def run_process(module, *flags, directory, ok=True):
    """A command in a process of its own, in `directory` and its `environment`: what it prints, and its stderr."""
    command = [sys.executable, "-m", f"alexnet_jax.{module}", *map(str, flags)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=directory, env=environment(directory))
    assert (process.returncode == 0) == ok, process.stderr
    assert "Traceback" not in process.stderr
    return process.stdout, process.stderr.strip()


def train(directory, workdir, *fields):
    overrides = [f"--config.{field}" for field in (*SMALL, *fields)]
    return run_process("main", f"--config={two_gpu.__file__}", f"--workdir={workdir}", *overrides, directory=directory)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Archives, prepared, and two trained nets."""
    directory = tmp_path_factory.mktemp("protocol")
    imagenet_archives.write_archives(directory / "archives")
    run_process(
        "prepare", "--dataset=imagenet", "--root=archives", "--output=prepared", "--size=128", directory=directory
    )
    train(directory, "first")
    train(directory, "second", "seed=1", "augment.crop_group=32", "augment.divisor=1.1", "mesh.model=1")
    return directory


@pytest.fixture
def run(directory, run_command, monkeypatch):
    """A command in this process and in `directory`: what it prints, and its stderr."""
    monkeypatch.chdir(directory)

    def run(command, *flags, ok=True):
        status, out, error = run_command(command.main, *flags)
        assert (status == 0) == ok, error
        return out, error.strip()

    return run


def test_archives_are_prepared_trained_on_and_evaluated(directory):
    lines = [json.loads(line) for line in (directory / "first" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2]
    result = json.loads((directory / "first" / "result.json").read_text())
    assert result["num_examples"] == 18 and np.log(900) < result["loss"] < np.log(1100)
    mean = np.load(directory / "first" / "mean.npy")
    np.testing.assert_allclose(mean, np.load(directory / "prepared" / "mean_image.npy"), rtol=1e-6)

    out, error = run_process("evaluate", "--workdir=first", directory=directory)
    evaluation = json.loads((directory / "first" / "evaluation.json").read_text())
    assert error == "" and "18 validation images" in out and "ten views" in out
    for way in ("center", "ten_crop"):
        assert evaluation[way] == pytest.approx(result[way], rel=1e-5)
    assert evaluation["loss"] == pytest.approx(result["loss"], rel=1e-5)
    assert (evaluation["steps"], evaluation["split"], evaluation["num_examples"]) == ([2], "validation", 18)


def test_an_ensemble_averages_probabilities(directory, run):
    first, second = (ensemble.load([directory / name]) for name in ("first", "second"))
    both = ensemble.load([directory / "first", directory / "second"])
    assert [member.net.towers for member in both.members] == [2, 2]
    source, _ = datasets.find("prepared", str(directory / "prepared")).load("validation", 128)
    one, two, together = (
        inference.classify_all(inference.make_classify(n.nets, n.mesh, n.means, 10), n.params, n.mesh, source, 8)
        for n in (first, second, both)
    )
    for way in ("center", "ten_crop"):
        one_N, two_N, together_N = (np.exp(-outputs[way]["loss"].astype(float)) for outputs in (one, two, together))
        assert (abs(one_N - two_N) > 1e-5).all()
        np.testing.assert_allclose(together_N, (one_N + two_N) / 2, rtol=1e-4)
    out, _ = run(evaluate, "--workdir=first", "--workdir=second", "--json=both.json")
    assert "2 nets" in out
    assert json.loads((directory / "both.json").read_text())["loss"] == pytest.approx(
        together["center"]["loss"].mean(), rel=1e-4
    )


def test_other_data_with_a_part_of_the_classes_by_name(directory, tmp_path, run):
    for class_name in imagenet_archives.CHANNELS:
        (tmp_path / "images" / "val" / class_name).mkdir(parents=True)
        for number in range(3):
            path = tmp_path / "images" / "val" / class_name / f"{number}.png"
            path.write_bytes(imagenet_archives.encode(imagenet_archives.picture(class_name, 100 + number), "PNG"))
    flags = "--dataset=folder", f"--root={tmp_path / 'images'}", "--split=val", "--per_class", "--wrong"
    out, _ = run(evaluate, "--workdir=first", *flags, "--json=other.json")
    result = json.loads((directory / "other.json").read_text())
    assert [(row["class"], row["num_examples"]) for row in result["classes"]] == [
        (name, 3) for name in imagenet_archives.CHANNELS
    ]
    assert "n02102040 English springer" in out
    errors = [row["ten_crop"]["top1_error"] for row in result["classes"]]
    assert len(result["wrong"]) == round(9 * result["ten_crop"]["top1_error"]) == round(3 * sum(errors))
    assert result["wrong"][0]["image"] == "n01440764/0.png" and len(result["wrong"][0]["predictions"]) == 5
    (tmp_path / "images" / "val" / "n01440764").rename(tmp_path / "images" / "val" / "dragons")
    _, error = run(evaluate, "--workdir=first", *flags, ok=False)
    assert error.startswith("alexnet_jax: ") and "1 of its classes (dragons)" in error and "\n" not in error


def test_several_data_sets_are_a_table(directory, tmp_path, run):
    """The same images as class folders, by the numbers of their classes, and in Parquet under Hugging Face's names."""
    numbers, words = list(imagenet_names()), imagenet_words()
    for class_name, number, pixels in miniature_sets.IMAGES["validation"]:
        for place in (f"synsets/{class_name}", f"numbers/{numbers.index(class_name)}"):
            miniature_sets.write_file(tmp_path / place / f"{number}.png", miniature_sets.png(pixels))
    schema = miniature_sets.hugging_face_schema([words[name] for name in miniature_sets.CLASSES])
    (tmp_path / "parquet").mkdir()
    pq.write_table(
        pa.Table.from_pylist(miniature_sets.rows("validation"), schema), tmp_path / "parquet" / "validation.parquet"
    )
    roots = [f"--root={tmp_path / name}" for name in ("synsets", "numbers", "parquet")]
    flags = "--workdir=first", "--dataset=auto", *roots
    for more, chosen in (((), "all 1000 classes"), (("--among=present",), "those of the images")):
        out, _ = run(evaluate, *flags, *more, "--json=several.json")
        assert f"\nerrors are among {chosen} (--among)" in out
        results = json.loads((directory / "several.json").read_text())["datasets"]
        assert [(r["dataset"], r["split"]) for r in results] == [
            ("folder", "all"),
            ("folder", "all"),
            ("huggingface", "validation"),
        ]
        assert results[0]["center"] == results[1]["center"] == results[2]["center"]
        rows = [line for line in out.splitlines() if line.startswith(("folder ", "huggingface "))]
        assert len(rows) == 3 and all(f"{results[0]['ten_crop']['top1_error']:.2%}" in row for row in rows)
    assert results[0]["center"]["top5_error"] == 0  # among three classes
    _, error = run(evaluate, *flags, "--dataset=folder", ok=False)
    assert error == "alexnet_jax: 2 times --dataset, 3 times --root: use one of them once, or both equally; see --help"


def test_training_images_are_evaluated_too(directory, run):
    run(evaluate, "--workdir=first", "--split=train", "--batch_size=7", "--json=train.json")
    assert json.loads((directory / "train.json").read_text())["num_examples"] == 24
    run(evaluate, "--workdir=first", "--split=train[:5]", "--json=train.json")
    assert json.loads((directory / "train.json").read_text())["num_examples"] == 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workdir=nowhere"], "nowhere: holds no trained net"),
        (["--workdir=prepared"], "prepared: holds no trained net"),
        (["--workdir=first", "--split=dev"], "prepared has no split 'dev', but train, validation"),
        (["--workdir=first", "--dataset=folder", "--root=/nowhere"], "dataset root '/nowhere': no such directory"),
        (
            ["--workdir=first", "--json=/nowhere/x.json"],
            "--json=/nowhere/x.json: must be a file in a writable directory",
        ),
        (["--workdir=first", "--split=train[:0]"], "the split 'train[:0]' is empty or no such slice"),
        (["--workdir=first", "--split="], "--split= has no value"),
        (["--workdir=first", "--batch_size=0"], "--batch_size must be above 0"),
        ([], "the following arguments are required: --workdir"),
    ],
)
def test_a_mistake_in_evaluation_ends_with_one_line(directory, flags, message, run):
    _, error = run(evaluate, *flags, ok=False)
    assert error.startswith("alexnet_jax: ") and message in error and "\n" not in error


def test_a_reader_that_has_enough_loses_nothing(directory):
    code = f"{sys.executable} -m alexnet_jax.evaluate --workdir=first --wrong --json=piped.json | head -1"
    options = {"capture_output": True, "text": True, "cwd": directory, "env": environment(directory)}
    process = subprocess.run(["bash", "-c", code], **options)
    assert process.stderr == "" and "step 2" in process.stdout
    assert json.loads((directory / "piped.json").read_text())["num_examples"] == 18


def test_a_config_of_something_else_is_named(directory, tmp_path, run):
    damaged = shutil.copytree(directory / "first", tmp_path / "damaged")
    config = json.loads((damaged / "config.json").read_text())
    for field in ("mesh", "model", "dataset"):
        (damaged / "config.json").write_text(json.dumps(config | {field: 3}))
        _, error = run(evaluate, f"--workdir={damaged}", ok=False)
        assert "config.json: is not what training wrote" in error and "\n" not in error


def test_a_mean_of_something_else_is_named(directory, tmp_path):
    damaged = shutil.copytree(directory / "first", tmp_path / "damaged")
    for mean, why in (
        (np.zeros((7, 7)), r"of shape \(7, 7\), float64"),
        (np.full(3, np.nan, np.float32), "not finite"),
        (np.array(["a", "b", "c"]), ".*"),
    ):
        np.save(damaged / "mean.npy", mean)
        with pytest.raises(UserError, match=rf"mean.npy: is not a valid mean \({why}\); remove it"):
            ensemble.read(damaged)


def test_a_net_is_evaluated_from_any_directory(directory, tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(evaluate, f"--workdir={directory / 'first'}", f"--json={tmp_path / 'result.json'}")
    assert json.loads((tmp_path / "result.json").read_text())["num_examples"] == 18


def test_a_damaged_checkpoint_is_named(directory, tmp_path):
    for path in (directory / "first").rglob("*"):
        if path.is_file():
            copy = tmp_path / "damaged" / path.relative_to(directory / "first")
            copy.parent.mkdir(parents=True, exist_ok=True)
            data = path.read_bytes()
            copy.write_bytes(data[: len(data) // 2] if "ocdbt.process" in str(path) else data)
    _, error = run_process("predict", f"--workdir={tmp_path / 'damaged'}", "x.png", directory=directory, ok=False)
    assert error.startswith("alexnet_jax: ") and "checkpoints/2: cannot be read" in error and "\n" not in error


def test_evaluation_leaves_a_running_training_alone(directory, run):
    unfinished = directory / "first" / "checkpoints" / "3.orbax-checkpoint-tmp"
    unfinished.mkdir()
    run(evaluate, "--workdir=first", "--json=running.json")
    assert unfinished.exists()
    unfinished.rmdir()


def test_prediction_of_files_of_every_kind(directory, tmp_path, run):
    picture = imagenet_archives.picture("n02102040", 50, (300, 200))
    paths = []
    for kind in ("JPEG RGB", "PNG RGBA", "JPEG CMYK", "GIF P", "TIFF RGB", "BMP RGB", "WEBP RGB"):
        paths.append(tmp_path / f"a {kind}")  # without a suffix
        picture.convert(kind.split()[1]).save(paths[-1], kind.split()[0])
    Image.new("L", (1, 1)).save(tmp_path / "tiny.png")
    (tmp_path / "broken.jpg").write_bytes(paths[0].read_bytes()[:3000])
    (tmp_path / "page.jpg").write_text("<html>")
    bad = [tmp_path / "broken.jpg", tmp_path / "page.jpg", tmp_path / "missing.jpg", tmp_path]
    flags = "--workdir=first", *bad, *paths, tmp_path / "tiny.png"
    out, error = run_process("predict", *flags, directory=directory, ok=False)
    lines = error.splitlines()
    assert [line.startswith(f"alexnet_jax: {path}: ") for line, path in zip(lines, bad, strict=True)] == [True] * 4
    blocks = [block.splitlines() for block in out.split(str(tmp_path))[1:]]
    assert len(blocks) == len(paths) + 1
    for block in blocks:
        assert len(block) == 6
        values = [float(line.split("%")[0]) for line in block[1:]]
        assert values == sorted(values, reverse=True) and values[0] > 0

    out, error = run(predict, "--workdir=first", "--json", *paths)
    answers = [json.loads(line) for line in out.splitlines()]
    assert error == "" and [answer["image"] for answer in answers] == [str(path) for path in paths]
    assert all(set(answer["predictions"][0]) == {"class", "name", "probability"} for answer in answers)


def test_prediction_is_the_evaluations(directory, run):
    nets = ensemble.load([directory / "first"])
    data, _ = datasets.find("prepared", str(directory / "prepared")).load("validation", 128)
    (directory / "one.jpg").write_bytes(data.read(4)[0])
    answer = next(prediction.predict(nets, [directory / "one.jpg"]))
    run(evaluate, "--workdir=first", "--wrong", "--json=wrong.json")
    wrong = {row["image"]: row for row in json.loads((directory / "wrong.json").read_text())["wrong"]}
    expected = wrong[data.name(4)]["predictions"]
    for mine, theirs in zip(answer["predictions"], expected, strict=True):
        assert (mine["class"], mine["name"]) == (theirs["class"], theirs["name"])
        assert mine["probability"] == pytest.approx(theirs["probability"], abs=2e-6)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="needs the tfds-build extra")
def test_stock_imagenet2012_is_built_with_tensorflow_and_trained_on_without(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    # TFDS counts along the names: there must be no gap.
    answers = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt").read_text().split()[:18]
    imagenet_archives.write_archives(manual, validation={name: [number] for number, name in enumerate(answers, 1)})
    code = f"""
import tensorflow_datasets as tfds
builder = tfds.builder('imagenet2012', file_format='array_record', data_dir='{tmp_path}')
builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir='{manual}'))
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    train(tmp_path, "run", "dataset.name=tfds:imagenet2012", f"dataset.root={tmp_path}")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["step"], result["num_examples"]) == (2, 18)
    for split, count in (("train", 24), ("validation", 18)):
        source, class_names = datasets.find("tfds:imagenet2012", str(tmp_path)).load(split, 64)
        images = [source[i] for i in range(len(source)) if not source.name(i).endswith("_2.JPEG")]
        assert len(source) == count
        assert [image.mean((0, 1)).argmax() for image, _ in images] == [
            imagenet_archives.channel(class_names[label]) for _, label in images
        ]
    run_process("prepare", "--dataset=tfds:imagenet2012", f"--root={tmp_path}", "--output=set", directory=tmp_path)
    assert datasets.find("prepared", str(tmp_path / "set")).splits == ("train", "validation")
