"""Images kept in memory are the same, and are kept where they fit."""

import types

import jax
import numpy as np
import pytest

from alexnet_jax import UserError
from alexnet_jax.data import cache, pipeline
from alexnet_jax.runtime import sharding
from tests.support import mesh


class Numbered:
    """Image i is full of i, and its label is 2 i. Counts how often it is read."""

    image_size, origin, listing = 4, "numbered", ()

    def __init__(self, count, broken=None):
        self.count, self.broken, self.read = count, broken, [0] * count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        if i == self.broken:
            raise UserError(f"image {i} is broken")
        self.read[i] += 1
        return np.full((4, 4, 3), i, np.uint8), 2 * i

    def name(self, i):
        return f"number {i}"


def test_an_image_is_read_once_and_stays_the_same():
    source = Numbered(10)
    kept = cache.HostCache(source)
    for _ in range(2):
        for i in (3, 9):
            image, label = kept[i]
            np.testing.assert_array_equal(image, np.full((4, 4, 3), i))
            assert image.dtype == np.uint8 and label == 2 * i
    assert [i for i, times in enumerate(source.read) if times] == [3, 9] and max(source.read) == 1
    assert (len(kept), kept.image_size, kept.origin, kept.name(3)) == (10, 4, "numbered", "number 3")


@pytest.mark.parametrize("shape", [(1, 1), (2, 2)])
@pytest.mark.parametrize("start", [0, 3])
def test_batches_from_the_devices_are_those_from_the_source(shape, start):
    source, on_mesh = Numbered(10), mesh(*shape)
    kept = cache.DeviceCache(source, on_mesh)
    assert source.read == [1] * 10
    assert kept.arrays["images"].sharding.is_fully_replicated and kept.arrays["images"].dtype == np.uint8

    @jax.jit
    def fetch(batch):
        specs = sharding.batch_specs(batch)
        return jax.shard_map(cache.fetch, mesh=on_mesh, in_specs=(specs,), out_specs=sharding.BATCH)(batch)

    for batches in (
        lambda s: pipeline.train_batches(s, 4, slice(0, 4), 7, start),
        lambda s: pipeline.eval_batches(s, 4, slice(0, 4)),
    ):
        # The last batch of an evaluation is padded, by images of which nothing is used.
        for expected, batch, real in zip(batches(source), batches(kept), (4, 4, 2), strict=False):
            assert batch.keys() == {"index"}
            found = fetch(sharding.put_batch(on_mesh, batch) | cache.resident(kept))
            for name, values in expected.items():
                np.testing.assert_array_equal(np.asarray(found[name])[:real], values[:real])
                assert found[name].dtype == values.dtype


def test_an_image_from_a_device_is_that_of_the_source():
    image, label = cache.DeviceCache(Numbered(10), mesh(1, 2))[7]
    assert label == 14 and (image == 7).all()


def test_a_broken_image_is_named_before_the_first_step():
    with pytest.raises(UserError, match="image 5 is broken"):
        cache.DeviceCache(Numbered(10, broken=5), mesh(1, 1))


def on(platform, gigabytes=None):
    stats = {"bytes_limit": gigabytes * 10**9} if gigabytes else None
    device = types.SimpleNamespace(platform=platform, memory_stats=lambda: stats)
    return types.SimpleNamespace(local_devices=[device])


@pytest.mark.parametrize(
    ("platform", "device", "host", "needed", "place"),
    [
        ("gpu", 80, 128, 40, "device"),
        ("gpu", 80, 128, 41, "host"),
        ("gpu", 80, 128, 65, "none"),
        ("tpu", 16, 12, 7, "none"),  # it is read into the host's memory first
        ("cpu", None, 128, 1, "none"),
    ],
)
def test_images_are_kept_where_they_fit(platform, device, host, needed, place, monkeypatch):
    monkeypatch.setattr(cache, "host_memory", lambda: host * 10**9)
    assert cache.choose("auto", needed * 10**9, on(platform, device))[0] == place
    assert cache.choose("none", needed * 10**9, on(platform, device))[0] == "none"


def test_images_that_do_not_fit_where_they_shall_be_are_refused(monkeypatch):
    monkeypatch.setattr(cache, "host_memory", lambda: 10**11)
    assert cache.choose("device", 79 * 10**9, on("gpu", 80))[0] == "device"
    with pytest.raises(UserError, match=r"config.dataset.cache=device: .* take 81.0 GB and there are 80.0; use auto"):
        cache.choose("device", 81 * 10**9, on("gpu", 80))
    with pytest.raises(UserError, match=r"config.dataset.cache=host: .* take 101.0 GB and there are 100.0; use auto"):
        cache.choose("host", 101 * 10**9, on("gpu", 80))
