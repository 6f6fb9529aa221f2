"""The embedded data set: 20 classes of coloured textures, drawn once into a cache directory.

A class is a texture in a pair of opponent colours. A mirrored image belongs to the same class. The colours, spacing,
phase, outline, background, brightness and noise of an image depend only on (SEED, split, index).
"""

import functools
import json
import os
import pathlib
import shutil
import tempfile

import numpy as np
from tqdm import tqdm

from alexnet_jax import UserError
from alexnet_jax.data import sources
from alexnet_jax.data.base import Dataset, Split, Statistics
from alexnet_jax.runtime import files

VERSION = 1  # of the images that `draw` makes
SIZE = 128
SEED = 2012
COUNTS = {"train": 4000, "validation": 400, "test": 400}
TEXTURES = ("vertical", "horizontal", "diagonal", "checker", "dots")
COLOURS = {
    "red-green": ((200, 60, 60), (60, 170, 60)),
    "blue-yellow": ((60, 70, 200), (210, 200, 60)),
    "black-white": ((40, 40, 40), (215, 215, 215)),
    "purple-orange": ((120, 50, 170), (230, 140, 40)),
}
CLASS_NAMES = tuple(f"{colours} {texture}" for texture in TEXTURES for colours in COLOURS)


class Textures(Dataset):
    """The embedded data set. Its default directory is alexnet_jax/textures-1 in $XDG_CACHE_HOME or ~/.cache."""

    preparable = False
    splits = tuple(COUNTS)

    @property
    def stored_size(self) -> int:
        return SIZE

    def load(self, split: str, image_size: int, stretch: bool = False) -> Split:
        if split not in self.splits:
            raise UserError(f"textures have no split {split!r}, but {', '.join(self.splits)}")
        path, shape = self.drawn / f"{split}.npy", (COUNTS[split], SIZE, SIZE, 3)
        return Split(sources.ArraySource(path, shape, split, len(CLASS_NAMES), image_size), CLASS_NAMES)

    def statistics(self, image_size: int) -> Statistics:
        path = self.drawn / "statistics.json"
        shape = {"mean": [float], "colour_std": [float], "colour_axes": [[float]]}
        values = files.read_json(path, shape, sources.REMEDY)
        rows = [values["mean"], values["colour_std"], *values["colour_axes"]]
        if [len(row) for row in rows] != [3] * 5 or not all(abs(x) <= 255 for row in rows for x in row):
            raise UserError(f"{path}: holds no statistics of three colours; {sources.REMEDY}")
        return Statistics(**{name: np.array(values[name], np.float32) for name in shape})

    @functools.cached_property
    def drawn(self) -> pathlib.Path:
        """The directory with the images, which are drawn if they are missing. Raises UserError if it cannot be made."""
        directory = files.absolute(self.root) if self.root else _cache() / "alexnet_jax" / f"textures-{VERSION}"
        try:
            if not directory.exists():
                _write(directory)
        except OSError as error:
            raise UserError(
                f"{directory}: cannot make the textures here ({error.strerror or error}); set --config.dataset.root to "
                "a new directory"
            ) from error
        return directory


def _cache():
    return files.absolute(os.environ.get("XDG_CACHE_HOME") or "~/.cache")


def draw(split: str, i: int) -> np.ndarray:
    """Image `i` of a split, uint8 [128, 128, 3]; its label is i % 20."""
    rng = np.random.default_rng([SEED, list(COUNTS).index(split), i])
    texture, colours = CLASS_NAMES[i % len(CLASS_NAMES)].split(" ")[::-1]
    first, second = (np.array(c) + rng.normal(0, 15, 3) for c in COLOURS[colours])

    # A wave of the texture's kind: positive values take the first colour, negative ones the second.
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    period = rng.uniform(8, 20)
    phase_x, phase_y = rng.uniform(0, 2 * np.pi, 2)
    tilt = {"vertical": 0, "horizontal": np.pi / 2, "diagonal": rng.choice([-1, 1]) * np.pi / 4}.get(texture, 0)
    tilt += rng.normal(0, 0.06)
    u = 2 * np.pi / period * (x * np.cos(tilt) + y * np.sin(tilt)) + phase_x
    v = 2 * np.pi / period * (y * np.cos(tilt) - x * np.sin(tilt)) + phase_y
    if texture == "checker":
        wave = np.sin(u) * np.sin(v)
    elif texture == "dots":
        wave = np.cos(u) + np.cos(v) - 0.8
    else:
        wave = np.sin(u)
    blend = (np.tanh(rng.uniform(1, 4) * wave)[..., None] + 1) / 2
    painted = blend * first + (1 - blend) * second

    # The texture fills an ellipse in front of coloured clutter, under random brightness.
    centre_y, centre_x = rng.uniform(0.35, 0.65, 2) * SIZE
    radius_y, radius_x = rng.uniform(0.25, 0.6, 2) * SIZE
    inside = ((y - centre_y) / radius_y) ** 2 + ((x - centre_x) / radius_x) ** 2 < 1
    cells = rng.uniform(40, 215, (8, 8, 3)).repeat(SIZE // 8, 0).repeat(SIZE // 8, 1)
    image = np.where(inside[..., None], painted, cells)
    image = image * rng.uniform(0.6, 1.2) + rng.normal(0, rng.uniform(2, 20), image.shape)
    return image.clip(0, 255).astype(np.uint8)


def _write(directory):
    # Drawn into a temporary directory that is then renamed: another process sees the whole set or nothing.
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    temporary.chmod(0o755)
    try:
        with tqdm(total=sum(COUNTS.values()), desc="drawing textures", unit="image", disable=None) as progress:
            for split, count in COUNTS.items():
                header = {"descr": "|u1", "fortran_order": False, "shape": (count, SIZE, SIZE, 3)}
                with (temporary / f"{split}.npy").open("xb") as file:  # mapped to memory, a full disk would be a crash
                    np.lib.format.write_array_header_1_0(file, header)
                    for i in range(count):
                        file.write(draw(split, i).tobytes())
                        progress.update()
                    os.fsync(file.fileno())
            statistics = _statistics(np.load(temporary / "train.npy", mmap_mode="r"))
            (temporary / "statistics.json").write_text(json.dumps(statistics))
        try:
            temporary.rename(directory)
        except OSError:
            if not directory.exists():  # otherwise another process has written the same bytes first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _statistics(images_NxSxSx3):
    total, products = np.zeros(3), np.zeros((3, 3))
    for image in images_NxSxSx3:
        pixels = image.reshape(-1, 3).astype(np.float64)
        total += pixels.sum(0)
        products += pixels.T @ pixels
    count = len(images_NxSxSx3) * SIZE * SIZE
    mean = total / count
    statistics = Statistics.of(mean, products / count - np.outer(mean, mean))
    return {name: values.tolist() for name, values in vars(statistics).items()}
