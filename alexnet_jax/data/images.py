"""Decodes image files to the paper's square arrays of pixels (section 2): the one way from a file to pixels."""

import contextlib
import importlib
import io
import logging
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import simplejpeg
from PIL import ExifTags, Image, UnidentifiedImageError

from alexnet_jax import UserError

# The extra `photos` adds HEIF and JXL to Pillow.
for plugin in ("pillow_heif.HeifImagePlugin", "pillow_jxl.JpegXLImagePlugin"):
    with contextlib.suppress(ImportError):
        importlib.import_module(plugin)
Image.init()
# Raster formats that Pillow decodes by itself. EPS, for one, would start another program. The last has no magic number.
RASTER = "JPEG PNG WEBP GIF BMP TIFF PPM JPEG2000 AVIF HEIF JXL ICO ICNS DDS PCX QOI SGI SUN XBM XPM TGA"
FORMATS = [name for name in RASTER.split() if name in Image.OPEN]

# What cannot be read, for messages: (the first bytes, its name, the remedy).
PHOTOS = "pip install -e '.[photos]', or convert it"
CONVERT = "save it as PNG or JPEG"
OTHERS = (
    (rb"....ftyp(hei|hev|mif1|msf1)", "HEIC", PHOTOS),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL", PHOTOS),
    (rb"....ftypavi[fs]", "AVIF", CONVERT),
    (rb"....ftypcrx |II\*\0....CR|FUJIFILMCCD-RAW|IIRO|IIU\0", "a camera's raw file", CONVERT),
    (rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI |\0\0\x01\xba", "a video", "extract its frames"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript", CONVERT),
    (rb"%PDF", "PDF", CONVERT),
    (rb"8BPS", "Photoshop", CONVERT),
    (rb"gimp xcf", "GIMP", CONVERT),
    (rb"v/1\x01|#\?R", "an image of floating-point numbers", CONVERT),
    (rb"SIMPLE  =", "FITS", CONVERT),
    (rb"\x89HDF", "HDF5", CONVERT),
    (rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF", "a Windows metafile", CONVERT),
    (rb".{128}DICM", "DICOM", CONVERT),
    (rb"AT&TFORM", "DjVu", CONVERT),
    (rb"II\xbc", "JPEG XR", CONVERT),
    (rb"PK\x03\x04|\x1f\x8b|Rar!|7z\xbc\xaf|BZh|\xfd7zXZ", "an archive", "extract it"),
    (rb"\s*(<\?xml[^>]*>|<!--.*?-->|\s|<!DOCTYPE svg[^>]*>)*<svg", "SVG", CONVERT),
    (rb"(?i)\s*<(!doctype )?html", "a web page", "download the image itself"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "a TIFF of a kind that is not supported", CONVERT),
)

MOST_SCANS = 50  # of a JPEG; each takes as long as a whole image
MOST_PIXELS = 178_956_970  # Pillow has the same limit
MOST_IN_PYTHON = 10**7  # pixels of a PPM that Pillow decodes in Python
MOST_SEGMENTS = 100_000  # of a JPEG
MOST_WIDE = 2**20  # pixels of a side of a PNG that OpenCV reads
# The next segment of a JPEG, or its end. Compressed pixels hold no such bytes. Segments and what follows the end may.
SEGMENT = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")
SCAN, END, APP1 = b"\xda", b"\xd9", b"\xe1"  # APP1 has EXIF or XMP

# The ways to turn an image by the orientation tag: 'upright', as viewers do, or not at all, 'stored'.
ORIENTATIONS = ("upright", "stored")
# What each value of the tag does to pixels [height, width, 3].
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}

# Tags of TIFF.
SUBFILE, BITS, PHOTOMETRIC, PLANES, SAMPLE_FORMAT, LOWEST, HIGHEST, SUBSAMPLING = 254, 258, 262, 284, 339, 340, 341, 530

# The exceptions that decoders raise for a broken file; they differ from format to format.
BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
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
    """Silences Pillow about irregular files: what it reads nevertheless is right, and the rest is reported."""
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


def decode(
    data: bytes, origin: str | os.PathLike, size: int, stretch: bool = False, orientation: str = "upright"
) -> np.ndarray:
    """Decodes an image, scales its shorter side to `size` and crops the centre (section 2).

    With `stretch`, scales both sides to `size` instead. OpenCV shrinks images by averaging areas and enlarges them by
    cubic interpolation, as the authors' tools did.

    Args:
      data: an encoded image, in any of FORMATS.
      origin: the image's name in messages.
      orientation: 'upright' turns the image by its EXIF orientation, 'stored' does not.

    Returns:
      uint8 [size, size, 3].

    Raises:
      UserError: the bytes are not a complete image in one of FORMATS, or it is too large.
    """
    return square(_decode(data, origin, orientation == "upright"), size, stretch)


def encode(data: bytes, origin: str, size: int, quality: int, orientation: str) -> bytes:
    """The result of `decode` as a JPEG. Raises as `decode`."""
    encoded = io.BytesIO()
    Image.fromarray(decode(data, origin, size, orientation=orientation)).save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def png(pixels: np.ndarray) -> bytes:
    """Pixels, RGB, uint8 [height, width, 3], as a PNG. `decode` returns the same pixels."""
    _, encoded = cv2.imencode(".png", pixels[..., ::-1], (cv2.IMWRITE_PNG_COMPRESSION, 1))
    return encoded.tobytes()


def _decode(data, origin, upright):
    """RGB, uint8 [height, width, 3]."""
    try:
        tag, pixels = 1, None
        if data[:2] == b"\xff\xd8":
            info = _jpeg_info(data)
            pixels = _decode_jpeg(data)
            if pixels is not None and upright and info:
                tag = _orientation(Image.new("RGB", (1, 1)), info)
        if pixels is None:
            _check_size(data)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            pixels = np.asarray(_to_rgb(image, data, origin))
            tag = _orientation(image, image.info) if upright else 1
        return np.ascontiguousarray(TURNS[tag](pixels)) if tag in TURNS else pixels
    except (Image.DecompressionBombError, MemoryError) as error:  # Pillow has a limit on a row's bytes, too
        cause = str(error) or "out of memory"
        raise UserError(f"{origin}: image too large ({cause}); shrink or remove the file") from error
    except UnidentifiedImageError as error:
        for pattern, name, remedy in OTHERS:
            if re.match(pattern, data[:1000], re.DOTALL):
                raise UserError(f"{origin}: not an image that can be read ({name}); {remedy}") from error
        raise UserError(f"{origin}: not an image; replace or remove the file") from error
    except BROKEN as error:
        cause = str(error) or type(error).__name__
        raise UserError(f"{origin}: not a complete image ({cause}); replace or remove the file") from error


def _jpeg_info(data):
    """EXIF and XMP of a JPEG, as Pillow's `Image.info` has them. Raises ValueError if it has too many scans."""
    info: dict[str, bytes] = {}
    scans, place = 0, 2
    for _ in range(MOST_SEGMENTS):
        segment = SEGMENT.search(data, place)
        if not segment or segment[1] == END:
            return info
        start, place = segment.end() + 2, segment.end() + int.from_bytes(data[segment.end() : segment.end() + 2], "big")
        scans += segment[1] == SCAN
        if scans > MOST_SCANS:
            raise ValueError(f"more than {MOST_SCANS} scans")
        if segment[1] == APP1 and data.startswith(b"Exif\0\0", start):
            info["exif"] = info["exif"] + data[start + 6 : place] if "exif" in info else data[start:place]
        elif segment[1] == APP1 and data.startswith(b"http://ns.adobe.com/xap/1.0/\0", start):
            info["xmp"] = data[start:place].split(b"\0", 1)[1]
    raise ValueError(f"more than {MOST_SEGMENTS:,} segments")


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


def _orientation(image, info):
    """The orientation tag of the EXIF in `info` or, if that has none, of the XMP; 1 if it cannot be read."""
    if image.format == "JXL" and not image.jpeg:  # libjxl has turned it already
        return 1
    image.info = info
    with contextlib.suppress(*BROKEN):
        tag = image.getexif().get(ExifTags.Base.Orientation, 1)
        return int(tag) if tag in TURNS else 1
    return 1


def _check_size(data):
    """Raises DecompressionBombError if an AVIF, HEIC or JPEG XL is too large.

    Their decoders report that as damage, or decode the whole before Pillow sees its size.
    """
    sizes = [0]  # height times width
    if data[4:8] == b"ftyp":
        found = re.findall(rb"ispe\0{4}(.{4})(.{4})", data[: 2**20], re.DOTALL)
        sizes += [int.from_bytes(width, "big") * int.from_bytes(height, "big") for width, height in found]
    elif header := re.match(rb"(?:\0{3}\x0cJXL .*?jxl(?:c|p.{4}))?\xff\x0a(.{12})", data[: 2**20], re.DOTALL):
        sizes += [_jxl_pixels(int.from_bytes(header[1], "little"))]
    if max(sizes) > MOST_PIXELS:
        raise Image.DecompressionBombError(f"{max(sizes)} pixels")


def _jxl_pixels(bits: int) -> int:
    """Height times width in the header of a JPEG XL: SizeHeader of ISO/IEC 18181-1."""

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits % 2**count, bits >> count
        return value

    def side() -> int:
        return 8 * (1 + take(5)) if small else 1 + take((9, 13, 18, 30)[take(2)])

    small = take(1)
    height = side()
    ratio = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[take(3)]
    return height * (height * ratio[0] // ratio[1] or side())


def _to_rgb(image, data, origin):
    """An image, as Pillow has opened it, in RGB, on a white ground."""
    frame = image.tile[0][1] if image.format == "GIF" and image.tile else None  # of the first picture
    _check_tiff(image, origin)
    if image.format == "PPM" and image.tile[0][0] != "raw" and image.width * image.height > MOST_IN_PYTHON:
        raise Image.DecompressionBombError(f"{image.width * image.height} pixels of a slow kind of PPM")
    image.load()
    key = image.info.get("transparency")  # of a PNG: the colour that is transparent
    opaque = None
    if image.mode[0] in "IF":
        if key is not None:
            opaque = np.asarray(image) != key
        image = Image.fromarray(_eight_bits(image, origin))
    elif image.format == "PNG" and key is not None:
        depth = data[24]
        if image.mode == "RGB" and depth == 16:  # Pillow has shortened the pixels, not the key
            if max(image.size) > MOST_WIDE:
                raise Image.DecompressionBombError(f"a side of {max(image.size)} pixels")
            flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
            opaque = (cv2.imdecode(np.frombuffer(data, np.uint8), flags) != key[::-1]).any(2)
            del image.info["transparency"]
        elif image.mode == "L" and depth < 8:  # Pillow has scaled the pixels, not the key
            image.info["transparency"] = key * 255 // (2**depth - 1)
    if image.mode == "La":  # premultiplied
        image = image.convert("LA")
    if image.format == "TGA" and not data[17] & 15:  # the fourth channel has no meaning
        return image.convert("RGB")
    if frame and frame != (0, 0, *image.size):
        opaque = np.zeros(image.size[::-1], bool)
        opaque[frame[1] : frame[3], frame[0] : frame[2]] = True
    if not image.has_transparency_data and opaque is None:
        return image.convert("RGB")
    image = image.convert("RGBA")
    alpha = image.getchannel("A")
    if opaque is not None:
        alpha = Image.fromarray(np.where(opaque, np.asarray(alpha), 0).astype(np.uint8))
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=alpha)
    return white


def _check_tiff(image, origin):
    """Raises UserError for kinds of TIFF whose pixels Pillow gets wrong."""
    if image.format != "TIFF":
        return
    tags, bits = image.tag_v2, max(image.tag_v2.get(BITS, (1,)))
    raw, big_endian = image.info.get("compression") == "raw", tags.prefix == b"MM"
    if (
        raw
        and tags.get(PLANES) == 2
        and bits > 8
        or raw
        and tags.get(PHOTOMETRIC) == 6
        and tags.get(SUBSAMPLING, (2, 2)) != (1, 1)
        or not raw
        and big_endian
        and image.mode == "I"
        or bits == 8
        and 2 in tags.get(SAMPLE_FORMAT, ())
    ):
        raise UserError(f"{origin}: not an image that can be read (a TIFF of a kind that is not supported); {CONVERT}")
    if tags.get(SUBFILE, 0) & 1:
        raise UserError(f"{origin}: not an image that can be read (a camera's raw file, or a preview); {CONVERT}")


def _eight_bits(image, origin):
    """Gray pixels of more than 8 bits in 8 bits, uint8 [height, width]."""
    tags = getattr(image, "tag_v2", {})
    low, high = (np.ravel(tags.get(tag, ())) for tag in (LOWEST, HIGHEST))
    numbers = np.asarray(image)
    if image.mode == "F" or not (low.size and high.size) and image.format == "TIFF" and image.mode == "I":
        kind = "floating-point numbers" if image.mode == "F" else "integers of 32 bits, or with a sign,"
        raise UserError(f"{origin}: its pixels are {kind} of an unknown range; save it with 8 or 16 bits")
    if low.size and high.size:
        if tags.get(SAMPLE_FORMAT, (1,))[0] == 1 and image.mode == "I":
            numbers = numbers.view(np.uint32)
        if not low[0] < high[0]:
            raise ValueError(f"its samples are from {low[0]} to {high[0]}")
        gray = np.interp(numbers, (low[0], high[0]), (0, 255)).round().astype(np.uint8)
    else:
        gray = (numbers >> (4 if tags.get(BITS) == (12,) else 8)).astype(np.uint8)
    return 255 - gray if image.format == "TIFF" and tags.get(PHOTOMETRIC, 0) == 0 else gray


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
