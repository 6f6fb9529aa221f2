"""Decoded images that are kept in memory: the host's, or that of each device.

Decoding them again in every epoch is what limits a fast accelerator. The order of the examples is the same wherever
they come from.
"""

import concurrent.futures
import dataclasses
import logging
import mmap
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import UserError, settings
from alexnet_jax.data import datasets
from alexnet_jax.data.sources import Source
from alexnet_jax.runtime import interruption, memory, processes, progress, sharding

log = logging.getLogger("alexnet_jax")

SHARE = 0.5  # of a memory that images may take
READERS, AT_ONCE = 4, 1024  # threads, and images that wait for them
UNREAD = -1
PLACES = {"device": "kept on each device", "host": "kept in the host's memory", "none": "not kept"}


class HostCache:
    """A source that keeps the images of another, decoded, from their first use on."""

    def __init__(self, source: Source):
        self._source, shape = source, (len(source), source.image_size, source.image_size, 3)
        # Not from malloc, which keeps freed memory in this program.
        buffer = mmap.mmap(-1, max(1, len(source)) * 3 * source.image_size**2)
        self._images_NxSxSx3 = np.frombuffer(buffer, np.uint8, np.prod(shape)).reshape(shape)
        self._labels_N = np.full(len(source), UNREAD, np.int32)

    @property
    def origin(self) -> str:
        return self._source.origin

    @property
    def image_size(self) -> int:
        return self._source.image_size

    @property
    def listing(self) -> Iterator[tuple[str, int, int]]:
        return self._source.listing

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        if self._labels_N[i] == UNREAD:
            self._images_NxSxSx3[i], label = self._source[i]
            self._labels_N[i] = label  # last: another thread may look
        return self._images_NxSxSx3[i], int(self._labels_N[i])

    def name(self, i: int) -> str:
        return self._source.name(i)


class DeviceCache(HostCache):
    """A source whose images lie on every device of a mesh; `pipeline` yields their indices only.

    Attributes:
      arrays: all images, uint8 [N, S, S, 3], and all labels, int32 [N], the same on all devices.
    """

    def __init__(self, source: Source, mesh: jax.sharding.Mesh):
        """Reads all images. Raises UserError if one is broken, Interrupted if there was a signal."""
        super().__init__(source)
        show = jax.process_index() == 0
        readers = concurrent.futures.ThreadPoolExecutor(READERS)
        with progress.Progress(len(source), "image", f"reading {source.origin}", log.info, show) as bar:
            try:
                for first in range(0, len(source), AT_ONCE):
                    some = range(first, min(first + AT_ONCE, len(source)))
                    for i, _ in zip(some, readers.map(super().__getitem__, some), strict=True):
                        interruption.check()
                        bar.reach(i + 1)
            finally:
                readers.shutdown(cancel_futures=True)
        everywhere, put = jax.NamedSharding(mesh, jax.P()), jax.make_array_from_process_local_data
        images, labels = put(everywhere, self._images_NxSxSx3), put(everywhere, self._labels_N)
        self.arrays = {sharding.WHOLE + "image": images, sharding.WHOLE + "label": labels}
        del self._images_NxSxSx3

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return np.asarray(self.arrays[sharding.WHOLE + "image"][i]), int(self._labels_N[i])


def resident(source: Source) -> dict[str, jax.Array]:
    """The arrays that a batch of a source's indices needs beside it; {} unless they lie on the devices."""
    return source.arrays if isinstance(source, DeviceCache) else {}


def fetch(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The images and labels of a batch on a device; see `pipeline.train_batches` and `resident`."""
    if "index" not in batch:
        return batch
    return {
        name: jnp.take(batch[sharding.WHOLE + name], batch["index"], axis=0, mode="clip") for name in ("image", "label")
    }


def keep(choice: str, data: datasets.Data, mesh: jax.sharding.Mesh) -> datasets.Data:
    """The same data with sources that keep their images as `config.dataset.cache` chooses, which is logged.

    Raises:
      UserError: the images do not fit, or one is broken.
      interruption.Interrupted: there was a signal.
    """
    sources = {id(source): source for source in (data.train, data.validation, data.test)}
    needed = sum(len(source) * 3 * source.image_size**2 for source in sources.values())
    with processes.together():
        best, why = choose(choice, needed, mesh)
    agreed = settings.CACHES[int(processes.highest(settings.CACHES.index(best)))]  # what all processes can do
    why = why if agreed == best else "another process has less memory"
    log.info("decoded images, %.2f GB, are %s: %s", needed / 1e9, PLACES[agreed], why)
    if agreed == "none":
        return data
    with processes.together():
        kept = {
            key: HostCache(source) if agreed == "host" else DeviceCache(source, mesh) for key, source in sources.items()
        }
    train, validation, test = (kept[id(source)] for source in (data.train, data.validation, data.test))
    return dataclasses.replace(data, train=train, validation=validation, test=test)


def choose(choice: str, needed: int, mesh: jax.sharding.Mesh) -> tuple[str, str]:
    """One of settings.CACHES for `needed` bytes of images, and why. Raises UserError if they do not fit as told."""
    device, host = mesh.local_devices[0], memory.of_host() // memory.processes_on_host()
    if device.platform == "cpu":
        on_device = host // (1 + len(mesh.local_devices))  # of the same memory, and what is read at first
    else:
        on_device = (device.memory_stats() or {}).get("bytes_limit", 0)
    limits = {"device": min(on_device, host), "host": host}  # they are read into the host's memory first
    if needed > limits.get(choice, needed):
        raise UserError(
            f"config.dataset.cache={choice}: the decoded images take {needed / 1e9:,.2f} GB and there are "
            f"{limits[choice] / 1e9:,.2f}; use auto"
        )
    if choice != "auto":
        return choice, f"config.dataset.cache={choice}"
    if device.platform == "cpu":
        return "none", "training on a CPU takes longer than decoding"
    for place, limit in limits.items():
        if needed <= SHARE * limit:
            return place, f"there are {limit / 1e9:,.1f} GB"
    return "none", f"they take more than {SHARE:.0%} of {host / 1e9:,.1f} GB"
