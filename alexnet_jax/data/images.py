"""Image files of any kind as the paper's square arrays of pixels (section 2)."""

import contextlib
import io
import struct
import warnings
import zlib

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from alexnet_jax import UserError

# What Pillow's formats raise for a broken file, each in its own way.
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


def ignore_warnings():
    """Silences Pillow about files that it reads nevertheless."""
    warnings.filterwarnings("ignore", module="PIL")


def decode(data, origin, size, stretch=False):
    """An encoded image of any format and mode as the paper's: shorter side to `size`, then the centre (section 2).

    With `stretch`, the whole image instead, both sides to `size`. Areas are averaged when it shrinks and cubics fitted
    when it grows, both by OpenCV, as the authors' own tools did. Pixels are taken as they are stored: a tag that says
    how a camera was held is left aside, as it always was with ImageNet.

    Returns:
      uint8 [size, size, 3].

    Raises:
      UserError: the bytes are no complete image; names `origin`.
    """
    pixels = _decode_jpeg(data)
    return square(open_image(data, origin) if pixels is None else pixels, size, stretch)


def encode(data, origin, size, quality):
    """What `decode` gives, as JPEG. Raises as `decode`."""
    encoded = io.BytesIO()
    Image.fromarray(decode(data, origin, size)).save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def _decode_jpeg(data):
    # libjpeg without Pillow around it gives the same pixels sooner. Whatever is not a plain JPEG, or makes
    # libjpeg warn, is left to Pillow, which takes what can be read or says what is missing.
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours in ("YCbCr", "Gray") and height * width <= Image.MAX_IMAGE_PIXELS:
            return simplejpeg.decode_jpeg(data)
    except ValueError:
        pass
    return None


def open_image(data, origin, upright=False):
    """Encoded bytes as RGB, uint8 [height, width, 3]; `upright` turns them as the camera says. Raises as `decode`."""
    try:
        image = Image.open(io.BytesIO(data))
        if image.mode == "F":
            raise ValueError("its pixels are floating-point numbers")
        image.load()
        if upright:
            with contextlib.suppress(struct.error, SyntaxError, TypeError, ValueError):  # a broken tag says nothing
                image = ImageOps.exif_transpose(image)
        if image.mode[0] == "I":  # 16 bits, which Pillow's own conversion would clip instead of scaling
            image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
        if image.mode == "P":  # a palette may hold transparent colours
            image = image.convert("RGBA")
        return np.asarray(image.convert("RGB"))
    except Image.DecompressionBombError as error:
        raise UserError(f"{origin}: too large an image ({error}); shrink or remove the file") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{origin}: not an image; replace or remove the file") from error
    except BROKEN as error:
        raise UserError(f"{origin}: not a complete image ({error}); replace or remove the file") from error


def square(pixels, size, stretch=False):
    """The centre, [size, size, 3], of uint8 pixels [height, width, 3] whose shorter side was brought to `size`.

    With `stretch`, the whole, each side brought to `size`.
    """
    if stretch:
        smaller = _resize(pixels, *(min(side, size) for side in pixels.shape[:2]))
        return _resize(smaller, size, size)
    shorter = min(pixels.shape[:2])
    pixels = _centre(pixels, *(min(side, 4 * shorter) for side in pixels.shape[:2]))  # most of a strip never shows
    height, width = (max(size, round(side * size / shorter)) for side in pixels.shape[:2])
    return _centre(_resize(pixels, height, width), size, size)


def _resize(pixels, height, width):
    # Both sides shrink, or both grow.
    if pixels.shape[:2] == (height, width):
        return pixels
    method = cv2.INTER_AREA if height * width < pixels.shape[0] * pixels.shape[1] else cv2.INTER_CUBIC
    return cv2.resize(pixels, (width, height), interpolation=method)


def _centre(pixels, height, width):
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]
