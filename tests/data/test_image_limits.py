"""Formats that are refused by name, and the limits of those that are read."""

import pathlib
import re
import struct

import numpy as np
import pytest
from PIL import Image

from alexnet_jax import UserError
from alexnet_jax.data import images
from tests.data.test_images import SIDE, STORED, encode, full, plain, pnm
from tests.fixtures import hostile_files, odd_images
from tests.fixtures.odd_images import png, tiff


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
        (b"\xc5\xd0\xd3\xc6", "PostScript"),
        (b"%PDF-1.7", "PDF"),
        (b"8BPS\0\1", "Photoshop"),
        (b"gimp xcf v011\0", "GIMP"),
        (b"\0\0\0\x20ftypisom", "a video"),
        (b"\0\0\0\x14ftypqt  ", "a video"),
        (b"\x1aE\xdf\xa3", "a video"),
        (b"\0\0\0\x18ftypcrx ", "a camera's raw file"),
        (b"II*\0\x10\0\0\0CR\2\0", "a camera's raw file"),
        (b"<svg xmlns=", "SVG"),
        (b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg', "SVG"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\n<HTML>", "a web page"),
        (b"PK\3\4", "an archive"),
        (b"\x1f\x8b\x08", "an archive"),
        (b"SIMPLE  =                    T", "FITS"),
        (b"\xd7\xcd\xc6\x9a", "a Windows metafile"),
        (b"\0" * 128 + b"DICM", "DICOM"),
        (b"v/1\1", "an image of floating-point numbers"),
        (b"MM\0*\0\0\0\x08\0\0", "a TIFF of a kind"),
    ],
)
def test_other_files_are_named(start, name):
    with pytest.raises(
        UserError, match=rf"^cats/7.JPEG: not an image that can be read \({name}.*\); (save|extract|download)"
    ):
        images.decode(start + b"\0" * 100, "cats/7.JPEG", SIDE)


def box(kind, body):
    return struct.pack(">I", len(body) + 8) + kind + body


def avif(brand, width, height):
    """The first boxes of an AVIF or HEIC of this size; there are no pixels."""
    size = box(b"ispe", struct.pack(">III", 0, width, height))
    return box(b"ftyp", brand + b"\0\0\0\0mif1") + box(b"meta", b"\0" * 4 + box(b"iprp", box(b"ipco", size)))


def jxl(width, height):
    """The first bytes of a JPEG XL of this size: of each side two bits that select 18 bits, and these."""
    bits = 0 | 2 << 1 | (height - 1) << 3 | 0 << 21 | 2 << 24 | (width - 1) << 26
    return b"\xff\x0a" + bits.to_bytes(12, "little")


@pytest.mark.parametrize(
    "data",
    [
        avif(b"avif", 17000, 17000),
        avif(b"heic", 17000, 17000),
        jxl(17000, 17000),
        b"\0\0\0\x0cJXL \r\n\x87\n" + box(b"ftyp", b"jxl \0\0\0\0jxl ") + box(b"jxlc", jxl(17000, 17000)),
        hostile_files.png(17000, 17000),
        encode(plain(1, 2, 3, mode="RGB"), "JPEG").replace(b"\0\x10\0\x10\3", b"\x42\x68\x42\x68\3"),
        encode(plain(1, 2, 3, mode="RGB"), "BMP").replace(b"\x10\0\0\0\x10\0\0\0", b"\x68\x42\0\0" * 2),
        tiff(full(1, 2, 3), photometric=2, t256=17000, t257=17000),
        pnm("P6", 255, 1, 2, 3).replace(b"16 16", b"17000 17000"),
    ],
)
def test_images_of_289_megapixels_are_too_large(data, monkeypatch):
    monkeypatch.setattr(Image.core, "new", None)  # nothing is decoded
    with pytest.raises(UserError, match=r"^cats/7.JPEG: image too large \(.*289000000 pixels.*\); shrink or remove"):
        images.decode(data, "cats/7.JPEG", SIDE)


def test_a_jpeg_has_a_limited_number_of_scans():
    progressive = encode(Image.fromarray(STORED), "JPEG", progressive=True, quality=95)
    images.decode(progressive, "image", SIDE)
    start = progressive.rindex(b"\xff\xda")
    many = progressive[:start] + progressive[start:-2] * 51 + b"\xff\xd9"
    with pytest.raises(UserError, match="not a complete image .more than 50 scans."):
        images.decode(many, "image", SIDE)


def test_what_only_looks_like_scans_is_not_counted():
    jpeg = encode(Image.fromarray(STORED), "JPEG", quality=95)
    expected = images.decode(jpeg, "image", SIDE)
    scans = b"\xff\xda\0\x0c\3" * 100  # in a segment of an editor, in a second image or a video after the end
    for data in (odd_images.with_segment(jpeg, 0xED, scans), jpeg + scans, jpeg + b"\0\0\0\x18ftypmp42" + scans):
        np.testing.assert_array_equal(images.decode(data, "image", SIDE), expected)


def test_a_jpeg_has_a_limited_number_of_segments():
    jpeg = encode(Image.fromarray(STORED), "JPEG", quality=95)
    many = jpeg[:2] + b"\xff\xfe\0\2" * 100_001 + jpeg[2:]
    with pytest.raises(UserError, match="not a complete image .more than 100,000 segments."):
        images.decode(many, "image", SIDE)


def test_a_png_wider_than_opencv_reads_is_too_large():
    wide = png(np.zeros((1, 1_100_000, 3), np.uint16), 16, 2, (b"tRNS", bytes(6)))
    with pytest.raises(UserError, match="image too large .a side of 1100000 pixels."):
        images.decode(wide, "image", SIDE)


def test_a_jpeg_may_have_many_segments_of_xmp():
    jpeg = data = encode(Image.fromarray(STORED), "JPEG", quality=95)
    for _ in range(200):
        data = odd_images.with_segment(data, 0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"x" * 100)
    np.testing.assert_array_equal(images.decode(data, "image", SIDE), images.decode(jpeg, "image", SIDE))


@pytest.mark.parametrize("kind", ["P1", "P2 255", "P5 1000", "P6 100"])
def test_a_ppm_that_is_decoded_slowly_has_a_smaller_limit(kind):
    kind, _, maximum = kind.partition(" ")
    with pytest.raises(UserError, match=r"image too large \(16000000 pixels of a slow kind of PPM\)"):
        images.decode(f"{kind} 4000 4000 {maximum} ".encode(), "image", SIDE)


def test_photographs_name_the_extra_that_reads_them(monkeypatch):
    monkeypatch.setattr(images, "FORMATS", [name for name in images.FORMATS if name not in ("HEIF", "JXL")])
    for data, name in (
        (avif(b"heic", 100, 100), "HEIC"),
        (avif(b"mif1", 100, 100), "HEIC"),
        (jxl(100, 100), "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    ):
        with pytest.raises(
            UserError, match=rf"^7: not an image that can be read \({name}\); pip install -e '.\[photos\]', or"
        ):
            images.decode(data + b"\0" * 100, "7", SIDE)


def test_only_a_fixed_list_of_formats_is_opened():
    assert not {"EPS", "WMF", "FITS", "PSD", "PDF", "MPEG", "GRIB", "HDF5", "BUFR", "FPX", "MIC"} & set(images.FORMATS)
    calls = [
        line.strip()
        for path in pathlib.Path("alexnet_jax").rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"\bImage\.open\(", line)
    ]
    assert calls and all("formats=FORMATS" in line for line in calls)
