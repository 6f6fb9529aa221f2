"""Order, resuming and slices of the batches."""

import itertools

import grain
import numpy as np
import pytest

from alexnet_jax import UserError
from alexnet_jax.data import pipeline


class Numbered:
    """Image i is full of i, and so is its label."""

    image_size = 4

    def __init__(self, count, broken=None):
        self.count, self.broken = count, broken

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        if i == self.broken:
            raise UserError(f"image {i} is broken")
        return np.full((4, 4, 3), i, np.uint8), i


def labels(batches, count):
    return np.stack([batch["label"] for batch in itertools.islice(batches, count)])


def test_an_epoch_is_a_permutation_and_each_another():
    order = labels(pipeline.train_batches(Numbered(20), 5, slice(0, 5), 7, 0), 12).reshape(3, 20)
    assert (np.sort(order) == np.arange(20)).all()
    assert len({tuple(epoch) for epoch in order}) == 3
    other = labels(pipeline.train_batches(Numbered(20), 5, slice(0, 5), 8, 0), 4).ravel()
    assert (order[0] != other).any()


def test_batches_run_on_over_the_end_of_an_epoch():
    order = labels(pipeline.train_batches(Numbered(10), 4, slice(0, 4), 7, 0), 5).reshape(2, 10)
    assert (np.sort(order) == np.arange(10)).all()


def test_the_order_is_that_of_grain():
    expected = list(itertools.islice(grain.MapDataset.range(20).seed(7).shuffle().repeat(None), 60))
    found = labels(pipeline.train_batches(Numbered(20), 6, slice(0, 6), 7, 0), 10)
    assert found.ravel().tolist() == expected  # the order of all runs so far


def test_images_come_with_their_labels():
    batch = next(pipeline.train_batches(Numbered(20), 5, slice(0, 5), 7, 0))
    assert batch["image"].shape == (5, 4, 4, 3) and batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    assert (batch["image"][:, 0, 0, 0] == batch["label"]).all()


def test_any_step_can_be_the_first():
    whole = labels(pipeline.train_batches(Numbered(20), 6, slice(0, 6), 7, 0), 12)
    assert (labels(pipeline.train_batches(Numbered(20), 6, slice(0, 6), 7, 9), 3) == whole[9:]).all()


def test_parts_of_the_processes_make_up_the_global_batch():
    whole = labels(pipeline.train_batches(Numbered(20), 8, slice(0, 8), 7, 0), 6)
    parts = [labels(pipeline.train_batches(Numbered(20), 8, rows, 7, 0), 6) for rows in (slice(0, 4), slice(4, 8))]
    assert (np.concatenate(parts, 1) == whole).all()


@pytest.mark.parametrize("batch_size", [1, 3, 8, 20, 32])
def test_evaluation_sees_every_example_once(batch_size):
    batches = list(pipeline.eval_batches(Numbered(20), batch_size, slice(0, batch_size)))
    seen = np.concatenate([batch["label"] for batch in batches])
    assert {len(batch["image"]) for batch in batches} == {batch_size}
    assert seen[:20].tolist() == list(range(20))


def test_processes_share_an_evaluation():
    parts = [list(pipeline.eval_batches(Numbered(10), 8, rows)) for rows in (slice(0, 4), slice(4, 8))]
    assert len(parts[0]) == len(parts[1]) == 2
    seen = [label for together in zip(*parts, strict=True) for batch in together for label in batch["label"]][:10]
    assert seen == list(range(10))


def test_a_broken_image_is_reported_when_its_batch_is_due():
    batches = pipeline.train_batches(Numbered(20, broken=11), 1, slice(0, 1), 7, 0)
    position = labels(pipeline.train_batches(Numbered(20), 1, slice(0, 1), 7, 0), 20).ravel().tolist().index(11)
    assert position > 0
    labels(batches, position)
    with pytest.raises(UserError, match="image 11 is broken"):
        next(batches)
