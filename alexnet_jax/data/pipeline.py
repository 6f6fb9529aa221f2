"""Batches of a data set (grain): shuffled every epoch, resumable at any step, loading only this process's rows."""

from collections.abc import Iterable, Iterator

import grain
import numpy as np

from alexnet_jax.data import cache
from alexnet_jax.data.sources import Source

BATCHES_AHEAD = 4  # one thread prepares each; grain's default of 500 would hold 12 GB of 256×256 images
INDICES_AHEAD = 256  # batches of a source whose images lie on the devices; a program may take many of them at once
MOST_STEPS = 2**31

Batch = dict[str, np.ndarray]


def train_batches(source: Source, batch_size: int, rows: slice, seed: int, start_step: int) -> Iterator[Batch]:
    """An endless iterator over training batches from step `start_step` on.

    The order depends on `seed` alone. Epochs are concatenated: a batch may hold the end of one and the start of the
    next.

    Args:
      batch_size: examples in a global batch.
      rows: the part of every global batch that this process loads (`sharding.owned_rows`).

    Yields:
      {'image': uint8 [rows, S, S, 3], 'label': int32 [rows]}, or {'index': int32 [rows]} of a source whose images lie
      on the devices.
    """
    order = grain.MapDataset.range(len(source)).seed(seed).shuffle()  # in every epoch another

    def load(step):
        first = step * batch_size
        return _load(source, np.array([order[i] for i in range(first + rows.start, first + rows.stop)]))

    # Indices by one thread: Python computes one at a time, and several threads would wait for each other.
    ahead = (1, INDICES_AHEAD) if isinstance(source, cache.DeviceCache) else (BATCHES_AHEAD, BATCHES_AHEAD)
    return _iterate(grain.MapDataset.range(MOST_STEPS).map(load), start_step, *ahead)


def joined(batches: Iterator[Batch], counts: Iterable[int], most: int) -> Iterator[Batch]:
    """Joins batches of indices for programs that take several steps, as many as `counts` yields, at most `most`.

    Yields:
      {'index': int32 [rows, most]}; after those of the batches there are zeros.
    """
    for count in counts:
        indices = np.stack([next(batches)["index"] for _ in range(count)], axis=1)
        yield {"index": np.pad(indices, [(0, 0), (0, most - count)])}


def eval_batches(source: Source, batch_size: int, rows: slice) -> Iterator[Batch]:
    """An iterator over every example once, in order; the last batch is padded with zeros.

    Yields:
      as `train_batches`.
    """

    def load(first):
        indices = np.arange(first, first + batch_size)[rows]
        real = _load(source, indices[indices < len(source)])
        padding = len(indices) - len(next(iter(real.values())))
        return {name: np.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1)) for name, x in real.items()}

    return _iterate(grain.MapDataset.range(0, len(source), batch_size).map(load), 0, BATCHES_AHEAD, BATCHES_AHEAD)


def _load(source, indices):
    if isinstance(source, cache.DeviceCache):
        return {"index": indices.astype(np.int32)}
    size = source.image_size
    images = np.empty((len(indices), size, size, 3), np.uint8)
    labels = np.empty(len(indices), np.int32)
    for i, index in enumerate(indices):
        images[i], labels[i] = source[int(index)]
    return {"image": images, "label": labels}


def _iterate(batches, start, threads, ahead):
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    iterator = iter(batches.to_iter_dataset(options))
    iterator.set_state({"next_index": start})  # the state is nothing but the number of batches taken
    return iterator
