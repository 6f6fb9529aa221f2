"""Images of every kind and shape, whole and broken."""

import io
import struct

import numpy as np
import PIL
import pytest
from PIL import Image

from alexnet_jax import UserError
from alexnet_jax.data import images
from tests.fixtures import odd_images
from tests.fixtures.odd_images import png, tiff

RAMP = np.broadcast_to(np.linspace(0, 255, 96).astype(np.uint8)[:, None], (96, 96))


def encode(image, name, **options):
    data = io.BytesIO()
    image.save(data, name, **options)
    return data.getvalue()


def sixteen_bits():
    return Image.fromarray(RAMP.astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("gray JPEG", encode(Image.fromarray(RAMP), "JPEG", quality=95)),
        ("RGB JPEG", encode(Image.fromarray(RAMP).convert("RGB"), "JPEG", quality=95)),
        ("CMYK JPEG", encode(Image.fromarray(RAMP).convert("RGB").convert("CMYK"), "JPEG", quality=95)),
        ("PNG", encode(Image.fromarray(RAMP).convert("RGB"), "PNG")),
        ("RGBA PNG", encode(Image.fromarray(RAMP).convert("RGBA"), "PNG")),
        ("palette PNG", encode(Image.fromarray(RAMP).convert("P"), "PNG")),
        ("1-bit PNG", encode(Image.fromarray(RAMP > 127), "PNG")),
        ("16-bit PNG", encode(sixteen_bits(), "PNG")),
        ("16-bit PGM", encode(Image.fromarray(RAMP.astype(np.int32) * 257), "PPM")),
        ("WebP", encode(Image.fromarray(RAMP).convert("RGB"), "WEBP", quality=95)),
    ],
)
def test_every_kind_of_image_is_decoded_to_rgb(kind, data):
    image = images.decode(data, "image", 96)
    assert image.shape == (96, 96, 3) and image.dtype == np.uint8
    expected = np.where(RAMP > 127, 255, 0) if kind == "1-bit PNG" else RAMP
    assert abs(image.astype(int) - expected[..., None]).max() <= 6


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_broken_files_are_named(damage):
    whole = encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)), "JPEG")
    data = {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"<html></html>"}[damage]
    with pytest.raises(UserError, match=r"^cats/7.JPEG: not (a complete|an) image"):
        images.decode(data, "cats/7.JPEG", 96)


def area_average(side, size):
    """[size, side]: the part of every source pixel in every target pixel."""
    edges = np.arange(size + 1) * side / size
    lower, upper = edges[:-1, None], edges[1:, None]
    overlap = np.minimum(upper, np.arange(1, side + 1)) - np.maximum(lower, np.arange(side))
    return overlap.clip(0) * size / side


def cubic(side, size):
    """[size, side]: Keys's cubic convolution with a = -3/4, the outermost pixels repeated beyond the edge."""
    a = -0.75
    places = (np.arange(size) + 0.5) * side / size - 0.5
    weights = np.zeros((size, side))
    for offset in range(-1, 3):
        pixel = np.floor(places).astype(int) + offset
        x = abs(places - pixel)
        near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
        np.add.at(weights, (np.arange(size), pixel.clip(0, side - 1)), np.where(x <= 1, near, far))
    return weights


@pytest.mark.parametrize(
    ("method", "shape"),
    [
        *((area_average, shape) for shape in [(375, 375), (500, 375), (375, 499), (384, 384), (512, 700)]),
        *((cubic, shape) for shape in [(160, 160), (213, 160), (90, 300), (3, 5)]),
    ],
)
def test_images_are_resized_as_in_numpy(method, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    height, width = (round(side * 256 / min(shape)) for side in shape)
    rows, columns = method(shape[0], height), method(shape[1], width)
    expected = np.einsum("ab,bcd,ec->aed", rows, pixels.astype(np.float64), columns, optimize=True).clip(0, 255)
    top, left = (height - 256) // 2, (width - 256) // 2
    image = images.decode(encode(Image.fromarray(pixels), "PNG"), "image", 256)
    assert abs(image - expected[top : top + 256, left : left + 256]).max() <= 1


@pytest.mark.parametrize("shape", [(375, 500), (300, 256), (500, 160), (90, 300), (160, 100)])
def test_images_are_stretched_as_in_numpy(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    rows, columns = ((area_average if side > 256 else cubic)(side, 256) for side in shape)
    expected = np.einsum("ab,bcd,ec->aed", rows, pixels.astype(np.float64), columns, optimize=True).clip(0, 255)
    image = images.decode(encode(Image.fromarray(pixels), "PNG"), "image", 256, stretch=True)
    assert abs(image - expected).max() <= 2  # shrunk first, then enlarged, each rounded


def test_shorter_side_is_scaled_and_the_centre_kept():
    pixels = np.zeros((60, 120, 3), np.uint8)
    pixels[:, 30:90] = 200  # the square in the middle
    image = images.decode(encode(Image.fromarray(pixels), "PNG"), "image", 60)
    assert (image == 200).all()
    checks = np.indices((200, 100)).sum(0) % 2 * np.uint8(200)  # averaging areas turns it into plain grey
    image = images.decode(encode(Image.fromarray(checks.astype(np.uint8)), "PNG"), "image", 50)
    assert image.shape == (50, 50, 3) and (image == 100).all()


@pytest.mark.parametrize("stretch", [False, True])
@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (1, 40_000), (3, 2), (255, 257), (256, 256)])
def test_any_shape_becomes_a_square(shape, stretch):
    image = images.decode(encode(Image.fromarray(np.full(shape, 77, np.uint8)), "PNG"), "image", 256, stretch)
    assert image.shape == (256, 256, 3) and (image == 77).all()


SIDE = 16


def middle(data, orientation="upright"):
    """The colour of the centre of an image."""
    return images.decode(data, "image", SIDE, orientation=orientation)[SIDE // 2, SIDE // 2]


def plain(*colour, mode="RGBA"):
    return Image.new(mode, (SIDE, SIDE), colour)


def full(*numbers, dtype=np.uint8):
    """Pixels of one colour, [SIDE, SIDE] or [SIDE, SIDE, channels]."""
    return np.broadcast_to(np.array(numbers, dtype).squeeze(), (SIDE, SIDE, *([len(numbers)] * (len(numbers) > 1))))


def palette(alphas):
    image = Image.new("P", (SIDE, SIDE), 1)
    image.putpalette([9, 9, 9, 200, 100, 0])
    return encode(image, "PNG", transparency=alphas)


# A colour c of opacity a lies on white as c·a/255 + 255·(1 − a/255).
HALF = (228, 177, 127)  # (200, 100, 0) of opacity 128
HALF_GRAY = (177, 177, 177)  # 100 of opacity 128
WHITE = (255, 255, 255)


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        ("RGBA", encode(plain(200, 100, 0, 128), "PNG"), HALF),
        ("hidden colour", encode(plain(200, 100, 0, 0), "PNG"), WHITE),
        ("opaque", encode(plain(200, 100, 0, 255), "PNG"), (200, 100, 0)),
        ("LA", encode(plain(100, 128, mode="LA"), "PNG"), HALF_GRAY),
        ("RGBA, 16 bits", png(full(51400, 25700, 0, 32896, dtype=np.uint16), 16, 6), HALF),
        ("LA, 16 bits", png(full(25700, 32896, dtype=np.uint16), 16, 4), HALF_GRAY),
        ("palette", palette(b"\xff\x80"), HALF),
        ("palette, an index", palette(1), WHITE),
        ("palette, another index", palette(0), (200, 100, 0)),
        *(
            (f"gray of {depth} bits", png(full(value), depth, 0, (b"tRNS", struct.pack(">H", 1))), expected)
            for depth in (1, 2, 4, 8)
            for value, expected in ((1, WHITE), (0, (0, 0, 0)))
        ),
        ("gray of 16 bits", png(full(0x1234, dtype=np.uint16), 16, 0, (b"tRNS", b"\x12\x34")), WHITE),
        ("gray of 16 bits, nearly", png(full(0x1235, dtype=np.uint16), 16, 0, (b"tRNS", b"\x12\x34")), (18, 18, 18)),
        ("RGB", png(full(1, 2, 3), 8, 2, (b"tRNS", b"\0\1\0\2\0\3")), WHITE),
        ("RGB, nearly", png(full(1, 2, 4), 8, 2, (b"tRNS", b"\0\1\0\2\0\3")), (1, 2, 4)),
        ("RGB of 16 bits", png(full(258, 515, 772, dtype=np.uint16), 16, 2, (b"tRNS", b"\1\2\2\3\3\4")), WHITE),
        (
            "RGB of 16 bits, nearly",
            png(full(258, 515, 773, dtype=np.uint16), 16, 2, (b"tRNS", b"\1\2\2\3\3\4")),
            (1, 2, 3),
        ),
        ("GIF", encode(Image.new("P", (SIDE, SIDE), 0), "GIF", transparency=0), WHITE),
        ("GIF, its picture elsewhere", odd_images.gif((SIDE, SIDE), (0, 0, 4, 4)), WHITE),
        ("GIF, its picture there", odd_images.gif((SIDE, SIDE), (6, 6, 4, 4)), (255, 0, 0)),
        ("WebP", encode(plain(200, 100, 0, 128), "WEBP", lossless=True), HALF),
        ("JPEG 2000", encode(plain(200, 100, 0, 128), "JPEG2000"), HALF),
        ("JPEG 2000, gray", encode(plain(100, 128, mode="LA"), "JPEG2000"), HALF_GRAY),
        ("ICO", encode(plain(200, 100, 0, 128), "ICO", sizes=[(16, 16)]), HALF),
        ("TGA", odd_images.tga(full(0, 100, 200, 128), 8), HALF),
        ("TGA without alpha", odd_images.tga(full(0, 100, 200, 0), 0), (200, 100, 0)),
        ("TIFF", tiff(full(200, 100, 0, 128), photometric=2, t338=2), HALF),
        ("TIFF, premultiplied", tiff(full(100, 50, 0, 128), photometric=2, t338=1), HALF),
        ("TIFF, no alpha", tiff(full(200, 100, 0, 128), photometric=2, t338=0), (200, 100, 0)),
        ("TIFF, gray", tiff(full(100, 128), photometric=1, t338=2), HALF_GRAY),
        pytest.param(
            *("TIFF, gray, premultiplied", tiff(full(50, 128), photometric=1, t338=1), HALF_GRAY),
            marks=pytest.mark.skipif(PIL.__version__ < "13", reason="an earlier Pillow refuses it"),
        ),
        ("TIFF, 16 bits", tiff(full(51400, 25700, 0, 32896, dtype=np.uint16), photometric=2, t338=2), HALF),
        ("TIFF, palette", encode(plain(200, 100, 0, 128).convert("PA"), "TIFF"), HALF),
        ("BMP, bits not used", odd_images.bmp(full(0, 100, 200, 0)), (200, 100, 0)),
    ],
)
def test_transparent_images_lie_on_white(kind, data, expected):
    assert abs(middle(data) - np.array(expected)).max() <= 1


def test_a_transparent_avif_lies_on_white():
    assert abs(middle(encode(plain(200, 100, 0, 128), "AVIF", quality=100)) - np.array(HALF)).max() <= 4


def pnm(kind, maximum, *values):
    head = f"{kind} {SIDE} {SIDE} {maximum} ".encode()
    if kind in ("P2", "P3"):
        return head + " ".join(map(str, values * SIDE**2)).encode() + b"\n"
    return head + np.array(values * SIDE**2, ">u2" if maximum > 255 else np.uint8).tobytes()


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        ("PNG", png(full(40000, dtype=np.uint16), 16, 0), 156),  # 40000 / 256
        ("RGB PNG", png(full(40000, 0, 0, dtype=np.uint16), 16, 2), (156, 0, 0)),
        ("PGM", pnm("P5", 65535, 40000), 156),
        ("PGM to 1000", pnm("P5", 1000, 600), 153),  # 600 / 1000 · 255
        ("PGM to 100", pnm("P5", 100, 60), 153),
        ("plain PGM to 4095", pnm("P2", 4095, 2048), 128),
        ("PPM to 1000", pnm("P6", 1000, 600, 0, 1000), (153, 0, 255)),
        ("plain PPM to 1000", pnm("P3", 1000, 600, 0, 1000), (153, 0, 255)),
        ("JPEG 2000", encode(Image.fromarray(full(40000, dtype=np.uint16)), "JPEG2000"), 156),
        *(
            case
            for order in "<>"
            for case in [
                ("TIFF", tiff(full(40000, dtype=np.uint16), order, photometric=1), 156),
                ("compressed TIFF", tiff(full(40000, dtype=np.uint16), order, compress=True, photometric=1), 156),
                ("RGB TIFF", tiff(full(40000, 0, 0, dtype=np.uint16), order, photometric=2), (156, 0, 0)),
                (
                    "RGB TIFF, compressed planes",
                    tiff(full(40000, 0, 0, dtype=np.uint16), order, compress=True, planes=3, photometric=2),
                    (156, 0, 0),
                ),
                ("int32", tiff(full(500, dtype=np.int32), order, photometric=1, t340=-1500.0, t341=3500.0), 102),
                ("int16", tiff(full(-500, dtype=np.int16), order, photometric=1, t340=-1500.0, t341=3500.0), 51),
                ("uint16", tiff(full(819, dtype=np.uint16), order, photometric=1, t340=0.0, t341=4095.0), 51),
            ]
        ),
        ("uint32", tiff(full(3 * 2**30, dtype=np.uint32), photometric=1, t340=0.0, t341=2.0**32), 191),
        ("white is 0", tiff(full(40000, dtype=np.uint16), photometric=0), 99),
        ("white is 0, 8 bits", tiff(full(156), photometric=0), 99),
        ("int32 beyond its range", tiff(full(9999, dtype=np.int32), photometric=1, t340=0.0, t341=100.0), 255),
        (
            "12 bits",  # 0x9C4 / 16, two in three bytes
            tiff(np.tile(np.array([0x9C, 0x49, 0xC4], np.uint8), (SIDE, SIDE // 2)), photometric=1, bits=12, t256=SIDE),
            156,
        ),
    ],
)
def test_numbers_of_many_bits_are_scaled_by_what_the_format_says(kind, data, expected):
    assert abs(middle(data) - np.array(expected)).max() <= 1


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        *(
            (
                name,
                tiff(full(1000, dtype=name), photometric=1),
                "integers of 32 bits, or with a sign, of an unknown range",
            )
            for name in ("int32", "uint32", "int16")
        ),
        ("float32", tiff(full(0.5, dtype=np.float32), photometric=1), "are floating-point numbers of an unknown range"),
        ("PFM", b"Pf 16 16 -1.0\n" + full(0.5, dtype=np.float32).tobytes(), "are floating-point numbers"),
        ("float64", tiff(full(0.5, dtype=np.float64), photometric=1), "a TIFF of a kind"),
        ("int8", tiff(full(5, dtype=np.int8), photometric=1), "a TIFF of a kind"),
        ("planes of 16 bits", tiff(full(1, 2, 3, dtype=np.uint16), planes=3, photometric=2), "a TIFF of a kind"),
        ("> planes of 16 bits", tiff(full(1, 2, 3, dtype=np.uint16), ">", planes=3, photometric=2), "a TIFF of a kind"),
        ("subsampled", tiff(full(1, 2, 3), photometric=6, t530=(2, 2)), "a TIFF of a kind"),
        ("subsampled by default", tiff(full(1, 2, 3), photometric=6), "a TIFF of a kind"),
        (
            "> compressed int32",
            tiff(full(500, dtype=np.int32), ">", compress=True, photometric=1, t340=0.0, t341=1000.0),
            "a TIFF of a kind",
        ),
        ("no range", tiff(full(5, dtype=np.int32), photometric=1, t340=7.0, t341=7.0), "samples are from 7.0 to 7.0"),
        ("preview of a raw file", tiff(full(1, 2, 3), photometric=2, t254=1), "a camera's raw file"),
    ],
)
def test_pixels_that_would_be_wrong_are_refused(kind, data, message):
    with pytest.raises(UserError, match=f"^cats/7.tif: .*{message}.*; (save|replace)"):
        images.decode(data, "cats/7.tif", SIDE)


def test_colours_of_other_spaces():
    red = encode(Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)), "JPEG", quality=100)  # inverted, as Adobe does
    assert abs(middle(red) - np.array([255, 0, 0])).max() <= 3
    assert abs(middle(tiff(full(0, 255, 255, 0), photometric=5)) - np.array([255, 0, 0])).max() <= 1
    # BT.601: R = Y + 1.402 (Cr − 128), G = Y − 0.344 (Cb − 128) − 0.714 (Cr − 128), B = Y + 1.772 (Cb − 128)
    assert (
        abs(middle(tiff(full(100, 90, 160), compress=True, photometric=6, t530=(1, 1))) - np.array([145, 90, 33])).max()
        <= 1
    )
    # sRGB's red in CIE L*a*b* is (54.3, 80.8, 69.9) for the white D50
    lab = np.array([54.3 * 2.55, 80.8, 69.9]).round().astype(np.uint8)
    assert abs(middle(tiff(full(*lab), photometric=8)) - np.array([255, 0, 0])).max() <= 12


STORED = np.kron(np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [90, 90, 90]]]), np.ones((20, 12, 1))).astype(
    np.uint8
)


@pytest.mark.skipif("HEIF" not in images.FORMATS, reason="pillow-heif is not installed")
def test_a_transparent_heic_lies_on_white():
    assert abs(middle(encode(plain(200, 100, 0, 128), "HEIF", quality=-1, chroma=444)) - np.array(HALF)).max() <= 3


@pytest.mark.skipif("JXL" not in images.FORMATS, reason="pillow-jxl-plugin is not installed")
def test_jpeg_xl():
    data = encode(Image.fromarray(STORED), "JXL", lossless=True, exif=odd_images.exif(6))
    # As in viewers, the tag in EXIF has no effect: the format has an orientation of its own.
    np.testing.assert_array_equal(images.decode(data, "image", 24), images.square(STORED, 24))
    assert abs(middle(encode(plain(200, 100, 0, 128), "JXL", lossless=True)) - np.array(HALF)).max() <= 1
    deep = Image.fromarray(full(40000, dtype=np.uint16))
    assert abs(middle(encode(deep, "JXL", lossless=True)) - np.array(156)).max() <= 1
    with pytest.raises(UserError, match="^7: not a"):
        images.decode(data[: len(data) // 2], "7", SIDE)
