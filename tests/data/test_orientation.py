"""Images are turned by their orientation tag as its specification describes."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from alexnet_jax.data import images
from tests.data.test_images import SIDE, STORED, encode
from tests.fixtures import odd_images
from tests.fixtures.odd_images import png, tiff

# EXIF 2.3, 4.6.4: where row 0 and column 0 are to be shown.
ROW_AND_COLUMN = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def shown(pixels, tag):
    """Stored pixels, each in the place that the specification gives it."""
    row_side, column_side = ROW_AND_COLUMN[tag]
    height, width = pixels.shape[:2]
    upright = np.zeros((height, width, 3) if row_side in ("top", "bottom") else (width, height, 3), np.uint8)
    for row in range(height):
        for column in range(width):
            place = {row_side: row, column_side: column}
            y = place["top"] if "top" in place else upright.shape[0] - 1 - place["bottom"]
            x = place["left"] if "left" in place else upright.shape[1] - 1 - place["right"]
            upright[y, x] = pixels[row, column]
    return upright


def with_orientation(tag):
    """Files of STORED with an orientation: (the kind, its bytes)."""
    jpeg = encode(Image.fromarray(STORED), "JPEG", quality=95, subsampling=0)
    exif = odd_images.exif(tag)
    yield "JPEG", odd_images.with_segment(jpeg, 0xE1, b"Exif\0\0" + exif)
    yield "Intel JPEG", odd_images.with_segment(jpeg, 0xE1, b"Exif\0\0" + odd_images.exif(tag, "<"))
    for element in (False, True):
        body = b"http://ns.adobe.com/xap/1.0/\0" + odd_images.xmp(tag, element)
        yield f"JPEG with XMP {element}", odd_images.with_segment(jpeg, 0xE1, body)
        # EXIF without an orientation
        both = odd_images.with_segment(
            odd_images.with_segment(jpeg, 0xE1, body), 0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"
        )
        yield f"JPEG with XMP {element} and EXIF", both
    gray = encode(Image.fromarray(STORED).convert("L"), "JPEG", quality=95)
    yield "gray JPEG", odd_images.with_segment(gray, 0xE1, b"Exif\0\0" + exif)
    yield "PNG", png(STORED, 8, 2, (b"eXIf", exif))
    yield "PNG with XMP", png(STORED, 8, 2, (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + odd_images.xmp(tag, True)))
    yield "WebP", encode(Image.fromarray(STORED), "WEBP", lossless=True, exif=exif)
    yield "transparent PNG", png(np.dstack([STORED, np.full((40, 24), 255)]), 8, 6, (b"eXIf", exif))
    yield "16-bit PNG", png(STORED.astype(np.uint16) * 257, 16, 2, (b"eXIf", exif))


@pytest.mark.parametrize("tag", ROW_AND_COLUMN)
def test_images_are_turned_as_the_specification_of_exif_says(tag):
    for kind, data in with_orientation(tag):
        expected, size = shown(STORED, tag), 24
        if kind == "gray JPEG":
            expected, unturned = (
                np.asarray(Image.fromarray(x).convert("L").convert("RGB")) for x in (expected, STORED)
            )
        else:
            unturned = STORED
        for orientation, pixels in (("upright", expected), ("stored", unturned)):
            image = images.decode(data, "image", size, orientation=orientation)
            assert abs(image.astype(int) - images.square(pixels, size)).max() <= 6, (kind, orientation)
        theirs = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
        np.testing.assert_array_equal(images.decode(data, "image", size), images.square(theirs, size), err_msg=kind)


@pytest.mark.parametrize("tag", [1, 3, 6])
def test_the_orientation_of_a_tiff_belongs_to_the_format(tag):
    data = tiff(STORED, photometric=2, t274=tag)
    for orientation in images.ORIENTATIONS:
        image = images.decode(data, "image", 24, orientation=orientation)
        np.testing.assert_array_equal(image, images.square(shown(STORED, tag), 24))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # as `images.ignore_warnings` does
@pytest.mark.parametrize(
    "exif",
    [
        odd_images.exif(0),
        odd_images.exif(9),
        odd_images.exif(65535),
        odd_images.exif(8)[:15],
        b"",
        b"nonsense",
        b"MM\0*\xff\xff\xff\xff",
        odd_images.exif(6).replace(b"\0\0\0\1", b"\xff\xff\xff\xff"),
        odd_images.exif(6).replace(b"\x01\x12\0\3", b"\x01\x12\0\2"),  # a text
        odd_images.exif(6).replace(b"\x01\x12\0\3", b"\x01\x12\0\x63"),  # an unknown type
    ],
)
def test_a_broken_orientation_turns_nothing(exif):
    jpeg = encode(Image.fromarray(STORED), "JPEG", quality=95, subsampling=0)
    expected = images.decode(jpeg, "image", 24)
    np.testing.assert_array_equal(
        images.decode(odd_images.with_segment(jpeg, 0xE1, b"Exif\0\0" + exif), "image", 24), expected
    )


@pytest.mark.parametrize(
    ("marker", "body"), [(0xE0, b"JFIF"), (0xEE, b"Adobe\0"), (0xED, b"Photoshop 3.0\0"), (0xE2, b"MPF\0")]
)
def test_a_segment_that_pillow_cannot_read_does_not_hide_the_orientation(marker, body):
    jpeg = encode(Image.fromarray(STORED), "JPEG", quality=95, subsampling=0)
    turned = odd_images.with_segment(jpeg, 0xE1, b"Exif\0\0" + odd_images.exif(6))
    odd = odd_images.with_segment(turned, marker, body)
    np.testing.assert_array_equal(images.decode(odd, "image", SIDE), images.decode(turned, "image", SIDE))
    assert not np.array_equal(images.decode(odd, "image", SIDE), images.decode(jpeg, "image", SIDE))


@pytest.mark.skipif("HEIF" not in images.FORMATS, reason="pillow-heif is not installed")
@pytest.mark.parametrize("tag", ROW_AND_COLUMN)
def test_a_heic_is_turned_once(tag):
    """Its decoder turns it by the format's own property, whatever EXIF says."""
    data = encode(Image.fromarray(STORED), "HEIF", quality=-1, chroma=444, exif=b"Exif\0\0" + odd_images.exif(tag))
    for orientation in images.ORIENTATIONS:
        image = images.decode(data, "image", 24, orientation=orientation)
        assert abs(image.astype(int) - images.square(shown(STORED, tag), 24)).max() <= 4
