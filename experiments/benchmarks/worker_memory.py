"""Peak memory of a worker of alexnet_jax.prepare for large images of each kind.

  python experiments/benchmarks/worker_memory.py

Makes an image of each kind, prepares it, and reads the memory of the worker that the program reports. Two minutes.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

from alexnet_jax.runtime import command_line

Image.MAX_IMAGE_PIXELS = None
KINDS: dict[str, tuple[tuple[int, int], str, str, dict]] = {  # name: height and width, mode, format and its options
    "photograph, JPEG": ((333, 500), "RGB", "JPEG", {}),
    "JPEG": ((5000, 8000), "RGB", "JPEG", {}),
    "progressive JPEG": ((5000, 8000), "RGB", "JPEG", {"progressive": True, "subsampling": 0}),
    "CMYK JPEG": ((5000, 8000), "CMYK", "JPEG", {}),
    "RGBA PNG": ((5000, 8000), "RGBA", "PNG", {"compress_level": 1}),
    "lossless WebP": ((5000, 8000), "RGB", "WEBP", {"lossless": True, "quality": 0, "method": 0}),
    "WebP": ((5000, 8000), "RGBA", "WEBP", {"method": 0}),
    "RGBA JPEG 2000": ((5000, 8000), "RGBA", "JPEG2000", {}),
    "the largest PNG": ((13300, 13400), "RGBA", "PNG", {"compress_level": 1}),
}


def memory(shape: tuple[int, int], mode: str, kind: str, options: dict) -> int:
    """Megabytes for an image of a height and width."""
    tile = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    pixels = np.tile(tile, (-(-shape[0] // 100), -(-shape[1] // 100), 1))[: shape[0], : shape[1]]
    with tempfile.TemporaryDirectory() as directory:
        folders = [pathlib.Path(directory, "images", split, "large") for split in ("train", "val")]
        for folder in folders:
            folder.mkdir(parents=True)
        Image.fromarray(pixels).convert(mode).save(folders[0] / f"image.{kind.lower()}", kind, **options)
        del pixels
        Image.new("RGB", (256, 256)).save(folders[1] / "small.png")
        command = [sys.executable, "-m", "alexnet_jax.prepare", "--dataset=folder", f"--root={directory}/images"]
        output = subprocess.run([*command, f"--output={directory}/set"], check=True, capture_output=True, text=True)
    match = re.search(r"a worker took at most (\d+) MB", output.stdout)
    assert match, output.stdout
    return int(match[1])


def main():
    command_line.Parser("experiments.benchmarks.worker_memory", __doc__).parse()
    print(f"{'kind':18} {'megapixels':>10} {'MB':>6} {'bytes a pixel':>13}")
    small = None
    for name, (shape, mode, kind, options) in KINDS.items():
        megabytes = memory(shape, mode, kind, options)
        small = small or megabytes
        per_pixel = (megabytes - small) * 1e6 / np.prod(shape)
        print(f"{name:18} {np.prod(shape) / 1e6:10.1f} {megabytes:6} {per_pixel:13.1f}", flush=True)


if __name__ == "__main__":
    main()
