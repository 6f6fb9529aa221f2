"""Preparation that is killed, interrupted, out of space or in the way of another: the same bytes, and nothing lost."""

import csv
import os
import re
import shutil
import signal
import time

import pytest
import tensorflow_datasets as tfds
from PIL import Image

from alexnet_jax import UserError
from alexnet_jax.data import datasets, preparation
from tests.fixtures.prepare_runs import SMALL_SHARDS, assert_one_line, checksums, examples, flags, run, start
from tests.support import write_images

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow_datasets|etils")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """240 training images in 30 shards of eight, and ten that are no images."""
    root = write_images(tmp_path_factory.mktemp("folder") / "images", {"train": (80, 80, 80), "val": (12, 12, 12)})
    for i in range(10):
        (root / "train" / "class_1" / f"bad_{i}.png").write_text("<html>not found</html>")
    return root


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("uninterrupted") / "set"
    code, out, error = run(*flags(folder, output, "--workers=2"))
    assert (code, error) == (0, ""), error
    assert "250 train, 36 validation images of 3 classes" in out and "MB free" in out.replace("GB", "MB"), out
    assert "10 images left out" in out
    return output


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_killed_several_times_gives_the_same_bytes(folder, uninterrupted, workers, tmp_path):
    output, done = tmp_path / "set", []
    for part in (0.2, 0.5, 0.7):
        process = start(*flags(folder, output, f"--workers={workers}"))
        while process.poll() is None and len(list(output.glob(".prepare/*.npz"))) < part * 37:
            time.sleep(0.005)
        process.kill()
        process.communicate()
        done.append(len(list(output.glob(".prepare/*.npz"))))
        assert not (output / "statistics.json").exists()
    assert 0 < done[0] < done[1] < done[2] < 37, done
    code, out, error = run(*flags(folder, output, f"--workers={workers}"))
    assert code == 0 and f"{done[2]} of 37 shards done" in out, (out, error)
    assert checksums(output) == checksums(uninterrupted)
    code, out, _ = run(*flags(folder, output))
    assert code == 0 and "complete already" in out


def test_interrupted_by_the_user(folder, uninterrupted, tmp_path):
    # Whoever runs the tests in the background may ignore SIGINT, which a child would inherit.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = flags(folder, tmp_path / "set", "--workers=1")
    process = start(*command, code=heeding + SMALL_SHARDS, start_new_session=True)
    while not list((tmp_path / "set").glob(".prepare/*.npz")):
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130 and error.endswith(
        "alexnet_jax: interrupted; run the same command again to continue\n"
    )
    assert run(*flags(folder, tmp_path / "set"))[0] == 0
    assert checksums(tmp_path / "set") == checksums(uninterrupted)


def test_undecodable_images_are_listed(uninterrupted):
    with (uninterrupted / "undecodable.tsv").open() as file:
        rows = list(csv.DictReader(file, dialect="excel-tab"))
    assert [row["file_name"] for row in rows] == [f"class_1/bad_{i}.png" for i in range(10)]
    assert {(row["split"], row["reason"]) for row in rows} == {("train", "not an image that can be read (a web page)")}
    assert len(examples(uninterrupted, "train")) == 240
    assert tfds.builder_from_directory(uninterrupted).info.splits["train"].num_examples == 240


def test_too_many_undecodable_images_stop_the_run_and_nothing_is_lost(folder, uninterrupted, tmp_path):
    output = tmp_path / "set"
    assert_one_line(run(*flags(folder, output, "--max_undecodable=0.02")), "more than --max_undecodable=0.02")
    text = (output / "undecodable.tsv").read_text()
    assert re.search(r"class_1/bad_\d.png\tnot an image", text)  # those of the shard that was first
    assert not (output / "statistics.json").exists()
    assert run(*flags(folder, output))[0] == 0
    assert checksums(output) == checksums(uninterrupted)


def files_up_to(size):
    return f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size})); {SMALL_SHARDS}"


def test_a_full_disk_ends_with_one_line_and_nothing_is_lost(folder, uninterrupted, tmp_path):
    output = tmp_path / "set"
    result = run(*flags(folder, output, "--workers=1"), code=files_up_to(8192))
    assert_one_line(result, f"--output={output}: cannot be written (write() failed: File too large)")
    assert not list(output.glob("*.array_record*")) and not list(output.glob(".prepare/.alexnet_jax-*"))
    assert run(*flags(folder, output))[0] == 0
    assert checksums(output) == checksums(uninterrupted)


@pytest.mark.slow
def test_a_disk_that_is_full_at_the_end(folder, tmp_path):
    large = flags(folder, tmp_path / "set", "--size=128")
    result = run(*large, code=files_up_to(300_000))  # the mean image takes 393 kB
    assert_one_line(result, f"{tmp_path / 'set' / 'mean_image.npy'}: cannot be written (")
    assert (
        "run the same command again" in result[2]
        and "None" not in result[2]
        and not (tmp_path / "set" / "statistics.json").exists()
    )
    code, out, error = run(*large)
    assert code == 0 and "37 of 37 shards done" in out, error
    assert datasets.load("prepared", str(tmp_path / "set"), 128).statistics.mean.shape == (128, 128, 3)


def test_too_little_space_is_said_before_anything_is_written(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 10**5))
    with pytest.raises(UserError, match=r"needs about .* MB and has 0.1 MB; free some space"):
        preparation.prepare("folder", str(folder), tmp_path / "set", size=48)
    assert not list((tmp_path / "set").glob("*.array_record*"))


@pytest.mark.parametrize("output", ["/proc/prepared", "file", "file/below"])
def test_an_output_that_cannot_be_written(folder, tmp_path, output):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output=.*: cannot be written"):
        preparation.prepare("folder", str(folder), tmp_path / output, size=48)


def test_an_output_of_something_else_is_left_alone(folder, uninterrupted, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="is not empty; use another directory"):
        preparation.prepare("folder", str(folder), tmp_path, size=48)
    with pytest.raises(UserError, match="holds a set from other images"):
        preparation.prepare("folder", str(folder), uninterrupted, size=49)


@pytest.mark.slow
def test_lost_shards_are_made_again(folder, uninterrupted, tmp_path):
    process = start(*flags(folder, tmp_path / "set", "--workers=1"))
    while len(list((tmp_path / "set").glob(".prepare/*.npz"))) < 5:
        time.sleep(0.005)
    process.kill()
    process.communicate()
    first, second, *_ = sorted((tmp_path / "set").glob("*.array_record-*"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:1000])
    min((tmp_path / "set").glob(".prepare/train-00002.npz")).write_bytes(b"")
    assert run(*flags(folder, tmp_path / "set"))[0] == 0
    assert checksums(tmp_path / "set") == checksums(uninterrupted)


@pytest.mark.slow
def test_the_limit_holds_when_all_shards_are_there(tmp_path):
    root = write_images(tmp_path / "images", {"train": (8, 8), "val": (2, 2)})
    for image in sorted((root / "train" / "class_1").iterdir())[-3:]:
        image.write_text("<html>")
    for _ in range(3):
        assert_one_line(run(*flags(root, tmp_path / "set")), "3 of 20 images cannot be decoded, more than")


def test_other_images_under_the_same_names_are_noticed(uninterrupted, folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    Image.new("RGB", (90, 90)).save(other / "val" / "class_0" / "000.png")
    with pytest.raises(UserError, match="holds a set from other images"):
        preparation.prepare("folder", str(other), uninterrupted, size=48)


@pytest.mark.parametrize("damage", ["lost", "truncated", "empty"])
def test_a_finished_set_that_is_damaged_is_named(folder, uninterrupted, tmp_path, damage):
    shard = next(uninterrupted.glob("*-train.*")).name
    for name in (shard, "dataset_info.json", "features.json", "label.labels.txt", "mean_image.npy", "undecodable.tsv"):
        output = shutil.copytree(uninterrupted, tmp_path / name)
        if damage == "lost":
            (output / name).unlink()
        else:
            data = (output / name).read_bytes()
            (output / name).write_bytes(data[: len(data) // 2] if damage == "truncated" else b"")
        with pytest.raises(UserError, match=f"{name}: is .*; prepare the set again in another directory"):
            datasets.load("prepared", str(output), 48)
        with pytest.raises(UserError, match=f"{name}: is .*; prepare the set again in another directory"):
            preparation.prepare("folder", str(folder), output, size=48)


def test_an_output_inside_the_source_is_refused(folder):
    with pytest.raises(UserError, match=f"--output=.*: is inside --root={folder}; use another directory"):
        preparation.prepare("folder", str(folder), folder / "train" / "set", size=48)
    assert not (folder / "train" / "set").exists()


def test_two_processes_on_one_output(folder, uninterrupted, tmp_path):
    first = start(*flags(folder, tmp_path / "set", "--workers=1"))
    while not list((tmp_path / "set").glob(".prepare/*.npz")):
        time.sleep(0.005)
    assert_one_line(run(*flags(folder, tmp_path / "set")), f"--output={tmp_path / 'set'}: in use by process")
    _, error = first.communicate()
    assert first.returncode == 0, error
    assert checksums(tmp_path / "set") == checksums(uninterrupted)


def test_what_would_be_left_out_is_said(folder, tmp_path, caplog):
    shutil.copytree(folder / "train", tmp_path / "images" / "train")
    shutil.copytree(folder / "val", tmp_path / "images" / "others")
    count = len(list((folder / "val").glob("*/*")))
    with pytest.raises(UserError, match=r"no validation or test images to measure with, only train; a folder .* val/"):
        preparation.prepare("folder", str(tmp_path / "images"), tmp_path / "set", size=48)
    assert not (tmp_path / "set").exists()
    (record,) = caplog.records
    assert record.getMessage().endswith(f"{count} files beside the splits are not used: others ({count})")


@pytest.mark.slow
def test_a_workers_memory_is_not_its_parents(folder, tmp_path):
    great_parent = "memory = bytearray(10**9); memory[:] = bytes([1]) * 10**9; del memory; "
    code, out, _ = run(*flags(folder, tmp_path / "set"), code=great_parent + SMALL_SHARDS)
    assert code == 0
    assert 30 < int(re.search(r"a worker took at most (\d+) MB", out)[1]) < 500


def test_a_split_without_any_image(folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "images")
    for image in (root / "val").glob("*/*.png"):
        image.write_bytes(b"")
    with pytest.raises(UserError, match="not one validation image can be decoded"):
        preparation.prepare("folder", str(root), tmp_path / "set", size=48, max_undecodable=1)
