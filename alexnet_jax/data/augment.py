"""Crops, flips, mean subtraction and colour noise: sections 2 and 4.1 of the paper, on the device, inside jit.

Stored images are square, uint8, and larger than the net's input: 256 for 224, which leaves 33 offsets in a direction.
"""

import jax
import jax.numpy as jnp
from jax import lax

COLOUR_SCALES = ("standard_deviation", "eigenvalue")


def colour_scale(kind, colour_std_3):
    """The λ of section 4.1, from the standard deviations of RGB (0–255) along its principal axes.

    The 2012 code takes these themselves. The paper's text says eigenvalues, which are their squares, and of a size that
    makes sense if RGB goes from 0 to 1: there they are taken, and brought back to 0–255.
    """
    return colour_std_3 if kind == "standard_deviation" else 255 * (colour_std_3 / 255) ** 2


def random_views(
    images_BxSxSx3,
    crop_keys_B,
    colour_keys_B,
    image_size,
    mean,
    colour_scale_3,
    colour_axes_3x3,
    colour_noise,
    divisor,
    flip=True,
):
    """A random crop and flip of every example, less the mean, plus colour noise, divided.

    Args:
      images_BxSxSx3: uint8.
      crop_keys_B, colour_keys_B: PRNG keys that decide each example's crop and flip, and its colours.
      image_size: height and width of the crops, in pixels.
      mean: float32, the training set's mean image [S, S, 3] or channel means [3].
      colour_scale_3, colour_axes_3x3: the section's λ, as `colour_scale` gives them, and the principal axes of the
        training set's RGB values, as columns.
      colour_noise: standard deviation of the α that section 4.1 multiplies λ with (0.1 there; 0: no noise).
      divisor: of the result; 1 in the paper, 1.1 in the 2012 code.
      flip: whether one half of the crops, at random, is mirrored.

    Returns:
      float32 [B, image_size, image_size, 3], about −128 … 127.
    """
    offsets = images_BxSxSx3.shape[1] - image_size + 1  # 33 in each direction for 224 of 256: 0 … 32

    def view(image, crop_key, colour_key):
        offset_key, flip_key, _ = jax.random.split(crop_key, 3)
        x = lax.dynamic_slice(
            image, (*jax.random.randint(offset_key, (2,), 0, offsets), 0), (image_size, image_size, 3)
        )
        x = jnp.where(flip & jax.random.bernoulli(flip_key), x[:, ::-1], x).astype(jnp.float32)
        alpha = colour_noise * jax.random.normal(jax.random.split(colour_key, 3)[2], (3,))
        return x + colour_axes_3x3 @ (alpha * colour_scale_3)

    x = jax.vmap(view)(images_BxSxSx3, crop_keys_B, colour_keys_B)
    return (x - centre_crop(mean, image_size)) / divisor


def fixed_view(images_MxBxSxSx3, view, image_size, mean):
    """View number `view` (a traced int) of every image: the centre, its mirror image, then the four corners and theirs.

    Section 4.1. `images_MxBxSxSx3` holds the images, uint8, and then their mirror images, which view 0 alone does not
    need: reversing every crop would cost more. Returns float32 [B, image_size, image_size, 3].
    """
    border, mirrored = images_MxBxSxSx3.shape[2] - image_size, view % 2
    centre, end = border // 2, border
    top, left = jnp.array([(centre, centre), (0, 0), (0, end), (end, 0), (end, end)])[view // 2]
    left = jnp.where(mirrored, border - left, left)
    size = (1, images_MxBxSxSx3.shape[1], image_size, image_size, 3)
    x = lax.dynamic_slice(images_MxBxSxSx3, (mirrored, 0, top, left, 0), size)[0]
    return x.astype(jnp.float32) - centre_crop(mean, image_size)


def centre_crop(mean, image_size):
    """The part of a mean image that is subtracted from every crop; channel means are used as they are."""
    if mean.ndim == 1:
        return mean
    start = (mean.shape[0] - image_size) // 2
    return mean[start : start + image_size, start : start + image_size]
