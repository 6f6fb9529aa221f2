"""The embedded textures: drawn once, whole, and refused if they are others."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from alexnet_jax import UserError
from alexnet_jax.data import datasets
from alexnet_jax.data.kinds import textures


def test_textures_are_made_once_whole_and_always_the_same(few_textures, tmp_path, monkeypatch):
    first = datasets.load("textures", str(tmp_path / "a"), 128)
    assert [len(s) for s in (first.train, first.validation, first.test)] == [40, 20, 20]
    assert sorted(os.listdir(tmp_path)) == ["a"]  # nothing temporary is left
    with monkeypatch.context() as patch:
        patch.setattr(textures, "draw", None)  # a second look must not draw
        again = datasets.load("textures", str(tmp_path / "a"), 128)
    image, label = again.train[25]
    assert label == 25 % 20 and again.class_names[label] == first.class_names[label]
    assert (image == textures.draw("train", 25)).all() and image.std() > 20
    assert not (textures.draw("train", 0) == textures.draw("test", 0)).all()
    assert again.train[0][0].shape == (128, 128, 3)
    assert datasets.load("textures", str(tmp_path / "a"), 72).train[0][0].shape == (72, 72, 3)


def test_statistics_of_the_textures_are_those_of_their_training_images(few_textures, tmp_path):
    dataset = datasets.load("textures", str(tmp_path / "a"), 128)
    pixels = np.stack([image for image, _ in dataset.train]).reshape(-1, 3).astype(np.float64)
    statistics = dataset.statistics
    np.testing.assert_allclose(statistics.mean, pixels.mean(0), rtol=1e-5)
    covariance = (statistics.colour_axes * statistics.colour_std**2) @ statistics.colour_axes.T
    np.testing.assert_allclose(covariance, np.cov(pixels.T, bias=True), rtol=1e-3)


def test_interrupted_drawing_leaves_nothing(few_textures, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(textures, "draw", fail)
    with pytest.raises(UserError, match="No space left"):
        datasets.load("textures", str(tmp_path / "a"), 128)
    assert os.listdir(tmp_path) == []


def test_a_directory_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError,
        match="train.npy: cannot be read .No such file or directory.; set config.dataset.root to a new directory",
    ):
        datasets.load("textures", str(tmp_path), 128)


WHOLE = np.zeros((20, 128, 128, 3), np.uint8)


@pytest.mark.parametrize(
    "content",
    [
        WHOLE.astype(float),
        WHOLE.view(np.int8),
        np.asfortranarray(WHOLE),
        WHOLE[:, :8, :8],
        WHOLE[:, :0, :0],
        WHOLE[:3],
        WHOLE[:0],
        WHOLE.ravel(),
        np.zeros((20, 128, 128, 1), "u1,u1,u1"),
    ],
)
def test_textures_of_another_kind_are_named(content, few_textures, tmp_path):
    datasets.load("textures", str(tmp_path / "a"), 128)
    np.save(tmp_path / "a" / "test.npy", content)
    with pytest.raises(UserError, match=r"a/test.npy: is not a whole array.*; set config.dataset.root to a new"):
        datasets.load("textures", str(tmp_path / "a"), 128)


def test_textures_with_more_at_the_end_are_named(few_textures, tmp_path):
    datasets.load("textures", str(tmp_path / "a"), 128)
    with (tmp_path / "a" / "test.npy").open("ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match=r"a/test.npy: is not a whole array.*; set config.dataset.root to a new"):
        datasets.load("textures", str(tmp_path / "a"), 128)


def with_mean(*values):
    return json.dumps({"mean": values, "colour_std": [1, 2, 3], "colour_axes": np.eye(3).tolist()})


@pytest.mark.parametrize(
    "text",
    [
        *("{}", "[]", '{"mean": 3}', "[" * 10**5, '{"mean": [1, 2]}', '{"mean": [[1], 2, 3]}'),
        *(with_mean(1, 2, x) for x in (np.nan, np.inf, 1e300, 10**400, "a", "3", True, None, {}, [3])),
        with_mean(1, 2),
        with_mean(1, 2, 3).replace("[1.0, 0.0, 0.0]", "[1.0, 0.0]"),
        with_mean(1, 2, 3).replace("[1.0, 0.0, 0.0], ", ""),
    ],
)
def test_statistics_of_textures_of_another_shape_are_named(text, few_textures, tmp_path):
    datasets.load("textures", str(tmp_path / "a"), 128)
    (tmp_path / "a" / "statistics.json").write_text(text)
    message = "(is not what this program wrote .*|holds no statistics of three colours)"
    with pytest.raises(UserError, match=rf"a/statistics.json: {message}; set config.dataset.root to a new"):
        datasets.load("textures", str(tmp_path / "a"), 128)


@pytest.mark.parametrize("name", ["dangling", "loop", "file/below", "x" * 300, "~nosuchuser/x", "/proc/nosuch/x"])
def test_a_directory_that_cannot_hold_textures_is_named(name, few_textures, tmp_path, monkeypatch):
    (tmp_path / "dangling").symlink_to(tmp_path / "nosuch")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("")
    place = name if name[0] in "~/" else str(tmp_path / name)
    for root in (place, ""):
        monkeypatch.setenv("XDG_CACHE_HOME", place)
        with pytest.raises(UserError, match=f"^{place}"):
            datasets.load("textures", root, 128)


def test_the_directory_of_textures_may_be_a_link(few_textures, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "a")
    expected = datasets.load("textures", str(tmp_path / "a"), 128).train[5][0]
    assert (datasets.load("textures", str(tmp_path / "link"), 128).train[5][0] == expected).all()


@pytest.mark.slow
def test_a_full_disk_ends_the_drawing_with_one_line(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        code = f"from alexnet_jax.data import datasets\ndatasets.load('textures', '{tmp_path / 'a'}', 128)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        expected = f"{tmp_path / 'a'}: cannot make the textures here (No space left on device); set --config.dataset"
        assert done.returncode == 1 and expected in done.stderr.splitlines()[-1]
        assert os.listdir(tmp_path) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)
