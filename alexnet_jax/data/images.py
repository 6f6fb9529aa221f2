"""Decodes image files of any format to the paper's square arrays of pixels (section 2)."""

import contextlib
import io
import os
import struct
import warnings
import zlib

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from alexnet_jax import UserError

# The exceptions that Pillow's decoders raise for a broken file; they differ from format to format.
BROKEN = (
    ArithmeticError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)

cv2.setNumThreads(1)  # images are decoded in parallel, each by one thread


def ignore_warnings() -> None:
    """Silences Pillow's warnings about irregular files that it reads nevertheless."""
    warnings.filterwarnings("ignore", module="PIL")


def decode(data: bytes, origin: str, size: int, stretch: bool = False) -> np.ndarray:
    """Decodes an image, scales its shorter side to `size` and crops the centre (section 2).

    With `stretch`, scales both sides to `size` instead. OpenCV shrinks images by averaging areas and enlarges them by
    cubic interpolation, as the authors' tools did. The orientation tag of cameras is ignored, as is usual for ImageNet.

    Args:
      data: an encoded image of any format and mode.
      origin: the image's name in messages.

    Returns:
      uint8 [size, size, 3].

    Raises:
      UserError: the bytes are not a complete image.
    """
    pixels = _decode_jpeg(data)
    return square(open_image(data, origin) if pixels is None else pixels, size, stretch)


def encode(data: bytes, origin: str, size: int, quality: int) -> bytes:
    """The result of `decode` as a JPEG. Raises as `decode`."""
    encoded = io.BytesIO()
    Image.fromarray(decode(data, origin, size)).save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def _decode_jpeg(data):
    # libjpeg alone decodes the same pixels faster than Pillow does. Pillow decodes everything else, and JPEGs that make
    # libjpeg warn: it recovers the readable part or raises an informative error.
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours in ("YCbCr", "Gray") and height * width <= Image.MAX_IMAGE_PIXELS:
            return simplejpeg.decode_jpeg(data)
    except ValueError:
        pass
    return None


def open_image(data: bytes, origin: str | os.PathLike, upright: bool = False) -> np.ndarray:
    """Decodes to RGB, uint8 [height, width, 3]; `upright` applies the orientation tag. Raises as `decode`."""
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        if image.mode == "F":
            raise ValueError("its pixels are floating-point numbers")
        image.load()
        if upright:
            with contextlib.suppress(struct.error, SyntaxError, TypeError, ValueError):  # a broken tag
                image = ImageOps.exif_transpose(image)
        if image.mode[0] == "I":  # 16 bits, which Pillow's conversion would clip instead of scaling
            image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
        if image.mode == "P":  # a palette may hold transparent colours
            image = image.convert("RGBA")
        return np.asarray(image.convert("RGB"))
    except Image.DecompressionBombError as error:
        raise UserError(f"{origin}: image too large ({error}); shrink or remove the file") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{origin}: not an image; replace or remove the file") from error
    except BROKEN as error:
        raise UserError(f"{origin}: not a complete image ({error}); replace or remove the file") from error


def square(pixels: np.ndarray, size: int, stretch: bool = False) -> np.ndarray:
    """Scales the shorter side of uint8 pixels [height, width, 3] to `size` and crops the centre, [size, size, 3].

    With `stretch`, scales both sides to `size` instead.
    """
    if stretch:
        smaller = _resize(pixels, *(min(side, size) for side in pixels.shape[:2]))
        return _resize(smaller, size, size)
    shorter = min(pixels.shape[:2])
    pixels = _centre(
        pixels, *(min(side, 4 * shorter) for side in pixels.shape[:2])
    )  # the crop excludes the ends of a long strip
    height, width = (max(size, round(side * size / shorter)) for side in pixels.shape[:2])
    return _centre(_resize(pixels, height, width), size, size)


def _resize(pixels, height, width):
    # The caller shrinks both sides or enlarges both.
    if pixels.shape[:2] == (height, width):
        return pixels
    method = cv2.INTER_AREA if height * width < pixels.shape[0] * pixels.shape[1] else cv2.INTER_CUBIC
    return cv2.resize(pixels, (width, height), interpolation=method)


def _centre(pixels, height, width):
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]
