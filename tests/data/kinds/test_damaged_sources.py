"""Files damaged anywhere: read, or one line."""

import numpy as np
import pytest

from alexnet_jax import UserError
from alexnet_jax.data import datasets
from tests.fixtures import miniature_sets as mini
from tests.fixtures.miniature_sets import SIZE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow_datasets|etils")


DAMAGED = {  # source: its files to damage, and how often
    "parquet": ("data/train-00000*", 150),
    "arrow": ("train/*.arrow", 150),
    "kaggle_zip": ("*.zip", 150),
    "webdataset": ("mini-train-000000.tar", 150),
    "tiny_imagenet": ("val/*.txt", 50),
    "cifar10_python": ("*/data_batch_1", 10),
    "cifar10_archive": ("*.gz", 10),
    "imagenet2010": ("*devkit*", 10),
}


SLOW = ["cifar10_python", "cifar10_archive", "imagenet2010"]  # each try starts a process


@pytest.mark.parametrize(
    "source", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in DAMAGED]
)
def test_damaged_files_are_read_or_refused(tmp_path, source):
    pattern, tries = DAMAGED[source]
    name, build = mini.SOURCES[source]
    root = build(tmp_path / "set")
    (path,) = (tmp_path / "set").glob(pattern)
    whole, rng, messages = path.read_bytes(), np.random.default_rng(0), []
    for _ in range(tries):
        data = bytearray(whole)
        if rng.random() < 0.3:
            del data[rng.integers(len(data)) :]
        else:
            data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data)
        try:
            for images, _ in (
                datasets.find(name, str(root)).load(split, SIZE) for split in ("train", mini.held_out(name))
            ):
                for i in range(len(images)):
                    images[i]
        except UserError as error:
            messages.append(str(error))
    assert tries / 6 < len(messages) and not any("\n" in message for message in messages)
