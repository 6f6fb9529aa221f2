"""Images kept in memory are the same, and are kept where they fit."""

import itertools
import types

import jax
import numpy as np
import pytest

from alexnet_jax import UserError
from alexnet_jax.data import cache, pipeline
from alexnet_jax.runtime import interruption, sharding
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
    assert all(array.sharding.is_fully_replicated for array in kept.arrays.values())

    @jax.jit
    def fetch(batch):
        specs = sharding.batch_specs(batch)
        return jax.shard_map(cache.fetch, mesh=on_mesh, in_specs=(specs,), out_specs=sharding.BATCH)(batch)

    ways = (pipeline.train_batches, 7, start), (pipeline.eval_batches,)
    for make, *arguments in ways:
        expected, indices = (
            list(itertools.islice(make(each, 4, slice(0, 4), *arguments), 3)) for each in (source, kept)
        )
        assert len(expected) == 3
        for images, batch in zip(expected, indices, strict=True):
            assert batch.keys() == {"index"}
            found = fetch(sharding.put_batch(on_mesh, batch) | cache.resident(kept))
            # The last batch of an evaluation is padded, by images of which nothing is used.
            real = 2 if make is pipeline.eval_batches and images is expected[-1] else 4
            for name, values in images.items():
                np.testing.assert_array_equal(np.asarray(found[name])[:real], values[:real])
                assert found[name].dtype == values.dtype


def test_an_image_from_a_device_is_that_of_the_source():
    image, label = cache.DeviceCache(Numbered(10), mesh(1, 2))[7]
    assert label == 14 and (image == 7).all()


def test_a_broken_image_is_named_before_the_first_step():
    with pytest.raises(UserError, match="image 5 is broken"):
        cache.DeviceCache(Numbered(10, broken=5), mesh(1, 1))


def test_a_signal_ends_the_reading(monkeypatch):
    monkeypatch.setattr(interruption, "_received", 15)
    source = Numbered(5000)
    with pytest.raises(interruption.Interrupted):
        cache.DeviceCache(source, mesh(1, 1))
    assert sum(source.read) < 5000


def on(platform, gigabytes=None, devices=1):
    stats = {"bytes_limit": gigabytes * 10**9} if gigabytes else None
    device = types.SimpleNamespace(platform=platform, memory_stats=lambda: stats)
    return types.SimpleNamespace(local_devices=[device] * devices)


@pytest.mark.parametrize(
    ("platform", "device", "host", "needed", "place"),
    [
        ("gpu", 80, 128, 40, "device"),
        ("gpu", 80, 128, 41, "host"),
        ("gpu", 80, 128, 65, "none"),
        ("tpu", 16, 12, 7, "none"),  # it is read into the host's memory first
        ("gpu", None, 128, 40, "host"),  # a device that does not tell its memory
        ("cpu", None, 128, 1, "none"),
    ],
)
def test_images_are_kept_where_they_fit(platform, device, host, needed, place, monkeypatch):
    monkeypatch.setattr(cache.memory, "of_host", lambda: host * 10**9)
    assert cache.choose("auto", needed * 10**9, on(platform, device))[0] == place
    assert cache.choose("none", needed * 10**9, on(platform, device))[0] == "none"


def test_images_that_do_not_fit_where_they_shall_be_are_refused(monkeypatch):
    monkeypatch.setattr(cache.memory, "of_host", lambda: 10**11)
    assert cache.choose("device", 79 * 10**9, on("gpu", 80))[0] == "device"
    with pytest.raises(UserError, match=r"config.dataset.cache=device: .* take 81.00 GB and there are 80.00; use auto"):
        cache.choose("device", 81 * 10**9, on("gpu", 80))
    with pytest.raises(UserError, match=r"config.dataset.cache=host: .* take 101.00 GB and there are 100.00; use auto"):
        cache.choose("host", 101 * 10**9, on("gpu", 80))
    with pytest.raises(UserError, match=r"take 34.00 GB and there are 33.33; use auto"):  # read once, put twice
        cache.choose("device", 34 * 10**9, on("cpu", devices=2))


def test_processes_share_the_memory_of_their_host(monkeypatch):
    monkeypatch.setattr(cache.memory, "of_host", lambda: 128 * 10**9)
    monkeypatch.setattr(cache.memory, "processes_on_host", lambda: 3)
    assert cache.choose("auto", 21 * 10**9, on("gpu", 80))[0] == "device"
    assert cache.choose("auto", 22 * 10**9, on("gpu", 30))[0] == "none"
