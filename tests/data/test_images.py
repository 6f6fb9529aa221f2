"""Images of every kind and shape, whole and broken."""

import io

import numpy as np
import pytest
from PIL import Image

from alexnet_jax import UserError
from alexnet_jax.data import images

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
        ("transparent palette PNG", encode(Image.fromarray(RAMP).convert("P"), "PNG", transparency=b"\x80" * 256)),
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
