"""Predictions for image files, from the same pixels as in the training."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from alexnet_jax import UserError, train
from alexnet_jax.analysis import ensemble, inference, prediction
from alexnet_jax.data import images
from alexnet_jax.runtime import files
from tests.fixtures import odd_images


def test_predict_evaluate_and_training_turn_images_alike(config, tmp_path):
    """Images on their side: red above green as stored; red right of green as EXIF has them shown."""
    pixels = np.zeros((72, 72, 3), np.uint8)
    pixels[:36, :, 0] = pixels[36:, :, 1] = 200
    path = tmp_path / "side.png"
    path.write_bytes(odd_images.png(pixels, 8, 2, (b"eXIf", odd_images.exif(6))))
    turned = tmp_path / "turned.png"
    turned.write_bytes(odd_images.png(pixels[::-1].swapaxes(0, 1), 8, 2))
    plain = tmp_path / "plain.png"
    plain.write_bytes(odd_images.png(pixels, 8, 2))
    for picture in pathlib.Path(config.dataset.root).rglob("*.png"):
        picture.write_bytes(path.read_bytes())
    config.num_epochs, config.dataset.orientation, workdir = 0.3, "stored", tmp_path / "stored"
    train.train_and_evaluate(config, workdir)
    fields = json.loads((workdir / "config.json").read_text())
    assert fields["dataset"].pop("orientation") == "stored"
    shutil.copytree(workdir, tmp_path / "upright")
    upright = fields | {"dataset": fields["dataset"] | {"orientation": "upright"}}
    files.write_json(tmp_path / "upright" / "config.json", upright)
    files.write_json(workdir / "config.json", fields)  # as of an earlier version
    for orientation, same in (("stored", plain), ("upright", turned)):
        trained = ensemble.load([tmp_path / orientation])
        *_, source = inference.load_split(trained)
        np.testing.assert_array_equal(source[0][0], images.decode(same.read_bytes(), "", trained.nets[0].stored_size))
        first, second = prediction.predict(trained, [path, same])
        assert first["predictions"] == second["predictions"]
    with pytest.raises(UserError, match="crop, stretch or orientation than the net in"):
        ensemble.load([tmp_path / "stored", tmp_path / "upright"])
    config.num_epochs, config.dataset.orientation = 0.6, None
    train.train_and_evaluate(config, workdir)  # the run of an earlier version goes on as it began
    assert json.loads((workdir / "config.json").read_text())["dataset"]["orientation"] == "stored"
    config.dataset.orientation = "upright"
    with pytest.raises(UserError, match="dataset.orientation is 'stored' there and 'upright' here"):
        train.train_and_evaluate(config, workdir)
