"""Crops, flips, mean subtraction and colour noise: sections 2 and 4.1 of the paper, on the device, inside jit.

Stored images are square, uint8, and larger than the net's input: 256 for 224, which leaves 33 offsets per direction.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from ml_collections import ConfigDict

from alexnet_jax import UserError
from alexnet_jax.data.base import Statistics
from alexnet_jax.runtime import sharding

COLOUR_SCALES = ("standard_deviation", "eigenvalue")


@dataclasses.dataclass(frozen=True, eq=False)
class Augmentation:
    """The random variation of training images.

    Attributes:
      image_size: height and width of the crops, in pixels.
      mean: float32, the training set's mean image [S, S, 3] or channel means [3].
      colour_scale, colour_axes: the λ of section 4.1 [3], see `colour_scale`, and the principal axes of the training
        set's RGB values, the columns of [3, 3].
      colour_noise: the standard deviation of the α of section 4.1, 0.1 in the paper; 0: no noise.
      divisor: divides the result; 1 in the paper, 1.1 in the 2012 code.
      flip: whether a random half of the crops is mirrored.
      crop_group: the number of consecutive examples that share crop and flip.
      noise_off_at: the epoch that ends colour noise and division; 0: they never end.
    """

    image_size: int
    mean: np.ndarray
    colour_scale: np.ndarray
    colour_axes: np.ndarray
    colour_noise: float = 0.1
    divisor: float = 1.0
    flip: bool = True
    crop_group: int = 1
    noise_off_at: float = 0.0

    def has_noise(self, epoch: float) -> bool:
        """Whether colours vary after `epoch` epochs."""
        return not 0 < self.noise_off_at <= epoch

    def random_views(
        self, images_BxSxSx3: jax.Array, crop_keys_B: jax.Array, colour_keys_B: jax.Array, noise: bool | jax.Array
    ) -> jax.Array:
        """A random crop and flip of every example, less the mean, plus colour noise, divided.

        Args:
          images_BxSxSx3: uint8.
          crop_keys_B, colour_keys_B: PRNG keys that decide each example's crop and flip, and its colours.
          noise: as `has_noise` returns it; otherwise the result has no colour noise and is not divided.

        Returns:
          float32 [B, image_size, image_size, 3], about −128 … 127.
        """
        size = self.image_size
        offsets = images_BxSxSx3.shape[1] - size + 1  # 33 in each direction for 224 of 256: 0 … 32
        colour_noise, divisor = jnp.where(noise, self.colour_noise, 0), jnp.where(noise, self.divisor, 1)

        def draw(crop_key, colour_key):
            offset_key, flip_key, _ = jax.random.split(crop_key, 3)
            offset, flip = jax.random.randint(offset_key, (2,), 0, offsets), jax.random.bernoulli(flip_key)
            alpha = colour_noise * jax.random.normal(jax.random.split(colour_key, 3)[2], (3,))
            return offset, self.flip & flip, self.colour_axes @ (alpha * self.colour_scale)

        offsets_Bx2, flips_B, colours_Bx3 = jax.vmap(draw)(crop_keys_B, colour_keys_B)
        crop = crops_by_products if sharding.platform() == "tpu" else crops_by_slices
        x = crop(size, images_BxSxSx3, offsets_Bx2, flips_B) + colours_Bx3[:, None, None]
        return (x - centre_crop(self.mean, size)) / divisor


def crops_by_slices(size: int, images_BxSxSx3: jax.Array, offsets_Bx2: jax.Array, flips_B: jax.Array) -> jax.Array:
    """The part of every image that begins at its offset (top, left), mirrored if its flip says so.

    Args:
      size: height and width of the parts, in pixels.
      images_BxSxSx3: uint8.
      offsets_Bx2: int32, from 0 to S − size.
      flips_B: bool.

    Returns:
      float32 [B, size, size, 3], from 0 to 255.
    """

    def crop(image, offset, flip):
        x = lax.dynamic_slice(image, (*offset, 0), (size, size, 3))
        return jnp.where(flip, x[:, ::-1], x).astype(jnp.float32)

    return jax.vmap(crop)(images_BxSxSx3, offsets_Bx2, flips_B)


def crops_by_products(size: int, images_BxSxSx3: jax.Array, offsets_Bx2: jax.Array, flips_B: jax.Array) -> jax.Array:
    """The same arguments and pixels as those of `crops_by_slices`, chosen by products with matrices of 0 and 1.

    For a TPU: XLA would slice image by image there, and copy the whole batch for each. The products are exact, because
    bfloat16 has all integers up to 256.
    """
    places, pixels = jnp.arange(size), jnp.arange(images_BxSxSx3.shape[1])
    columns_BxK = jnp.where(flips_B[:, None], places[::-1], places) + offsets_Bx2[:, 1:]
    rows_BxKxS, columns_BxKxS = (
        (chosen_BxK[:, :, None] == pixels).astype(jnp.bfloat16)
        for chosen_BxK in (places + offsets_Bx2[:, :1], columns_BxK)
    )
    x = jnp.einsum("bhs,bswc->bhwc", rows_BxKxS, images_BxSxSx3.astype(jnp.bfloat16))
    return jnp.einsum("bws,bhsc->bhwc", columns_BxKxS, x, preferred_element_type=jnp.float32)


def check(config: ConfigDict) -> None:
    """Raises UserError if `config.augment` names no scale of the colours."""
    if config.colour_scale not in COLOUR_SCALES:
        raise UserError(f"config.augment.colour_scale: must be one of {', '.join(COLOUR_SCALES)}")


def from_config(config: ConfigDict, image_size: int, statistics: Statistics) -> Augmentation:
    """The augmentation that `config.augment` describes, after `check`."""
    return Augmentation(
        image_size,
        statistics.mean,
        colour_scale(config.colour_scale, statistics.colour_std),
        statistics.colour_axes,
        config.colour_noise,
        config.divisor,
        config.flip,
        config.crop_group,
        config.noise_off_at,
    )


def colour_scale(kind: str, colour_std_3: np.ndarray) -> np.ndarray:
    """The λ of section 4.1, from the standard deviations of RGB (0–255) along its principal axes.

    The 2012 code uses the standard deviations. The paper's text uses eigenvalues, which are their squares. These have a
    plausible size only for RGB in 0–1, so they are computed at that scale and converted back to 0–255.
    """
    return colour_std_3 if kind == "standard_deviation" else 255 * (colour_std_3 / 255) ** 2


def fixed_view(images_MxBxSxSx3: jax.Array, view: int | jax.Array, image_size: int, mean: np.ndarray) -> jax.Array:
    """One of the ten views of section 4.1: the centre (0), its mirror image (1), then the four corners and theirs.

    Args:
      images_MxBxSxSx3: uint8, the images and their mirror images (M = 2), or only the images if `view` is 0.
        Mirroring the images once is cheaper than mirroring every crop.

    Returns:
      float32 [B, image_size, image_size, 3].
    """
    border, mirrored = images_MxBxSxSx3.shape[2] - image_size, view % 2
    centre, end = border // 2, border
    top, left = jnp.array([(centre, centre), (0, 0), (0, end), (end, 0), (end, end)])[view // 2]
    left = jnp.where(mirrored, border - left, left)
    size = (1, images_MxBxSxSx3.shape[1], image_size, image_size, 3)
    x = lax.dynamic_slice(images_MxBxSxSx3, (mirrored, 0, top, left, 0), size)[0]
    return x.astype(jnp.float32) - centre_crop(mean, image_size)


def centre_crop(mean: np.ndarray, image_size: int) -> np.ndarray:
    """The part of a mean image that is subtracted from every crop; channel means are used as they are."""
    if mean.ndim == 1:
        return mean
    start = (mean.shape[0] - image_size) // 2
    return mean[start : start + image_size, start : start + image_size]
