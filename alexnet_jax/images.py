"""Image files of any kind as the paper's square arrays of pixels (section 2)."""

import io

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from alexnet_jax import UserError


def decode(data, origin, size):
    """An encoded image of any format and mode as the paper's: shorter side to `size`, then the centre (section 2).

    Areas are averaged when it shrinks and cubics fitted when it grows. Pixels are taken as they are stored: a tag that
    says how a camera was held is left aside, as it always was with ImageNet.

    Returns:
      uint8 [size, size, 3].

    Raises:
      UserError: the bytes are no complete image; names `origin`.
    """
    pixels = _decode_jpeg(data)
    if pixels is not None and pixels.shape == (size, size, 3):
        return pixels
    return np.asarray(_square(data, origin, size, pixels))


def encode(data, origin, size, quality):
    """What `decode` gives, as JPEG. Raises as `decode`."""
    encoded = io.BytesIO()
    _square(data, origin, size, _decode_jpeg(data)).save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def _square(data, origin, size, pixels):
    return square(open_image(data, origin) if pixels is None else Image.fromarray(pixels), size)


def _decode_jpeg(data):
    # libjpeg without Pillow around it gives the same pixels in half of the time. Whatever is not a plain and flawless
    # JPEG is left to Pillow, which says what is wrong with it.
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours in ("YCbCr", "Gray") and height * width <= Image.MAX_IMAGE_PIXELS:
            return simplejpeg.decode_jpeg(data)
    except ValueError:
        pass
    return None


def open_image(data, origin, upright=False):
    """Encoded bytes as a Pillow image of mode RGB; `upright` turns it as its camera says. Raises as `decode`."""
    try:
        image = Image.open(io.BytesIO(data))
        if upright:
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):  # Pillow's own conversion clips these instead of scaling them
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.mode == "P":  # a palette may hold transparent colours
            image = image.convert("RGBA")
        return image.convert("RGB")
    except Image.DecompressionBombError as error:
        raise UserError(f"{origin}: too large an image ({error}); shrink or remove the file") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{origin}: not an image; replace or remove the file") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's ways to say that a file is broken
        raise UserError(f"{origin}: not a complete image ({error}); replace or remove the file") from error


def square(image, size):
    """The centre of an RGB Pillow image whose shorter side was brought to `size`, as another one."""
    shorter = min(image.size)
    width, height = (max(size, round(side * size / shorter)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    if image.size == (width, height):
        return image.crop((left, top, left + size, top + size))
    # What falls outside of the centre need not be computed.
    x, y = image.width / width, image.height / height
    box = (left * x, top * y, (left + size) * x, (top + size) * y)
    method = Image.Resampling.BOX if size < shorter else Image.Resampling.BICUBIC
    return image.resize((size, size), method, box)
