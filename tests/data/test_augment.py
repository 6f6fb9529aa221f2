"""Views of images: where crops lie, what is subtracted, and how colours vary."""

import jax
import numpy as np

from alexnet_jax.data import augment
from alexnet_jax.data.base import IMAGENET

MEAN = IMAGENET.mean
STD, AXES = IMAGENET.colour_std, IMAGENET.colour_axes


def position_images(count, size):
    """Images whose pixels tell their row and column."""
    rows, columns = np.mgrid[:size, :size]
    return np.broadcast_to(np.stack([rows, columns, 0 * rows], -1).astype(np.uint8), (count, size, size, 3))


def random_views(images, size, mean, noise, seed=0, crop_keys=None, divisor=1.0):
    keys = jax.random.split(jax.random.key(seed), len(images))
    crop_keys = keys if crop_keys is None else crop_keys
    return np.asarray(augmentation(size, mean, noise, divisor).random_views(images, crop_keys, keys, True))


def augmentation(size, mean, noise=0.0, divisor=1.0, **fields):
    return augment.Augmentation(size, mean, STD, AXES, noise, divisor, **fields)


def offsets_and_flips(x):
    """Top and left offset of crops of `position_images`, and whether they are mirrored."""
    return x[:, 0, 0, 0], x[:, 0, :, 1].min(1), x[:, 0, 0, 1] > x[:, 0, -1, 1]


def test_crops_are_whole_and_mirrored_or_not():
    x = random_views(position_images(30, 256), 224, np.zeros(3, np.float32), 0)
    for image, top, left, flipped in zip(x, *offsets_and_flips(x), strict=True):
        columns = left + np.arange(224)
        np.testing.assert_array_equal(image[5, :, 1], columns[::-1] if flipped else columns)
        np.testing.assert_array_equal(image[:, 5, 0], top + np.arange(224))


def test_a_tpus_crops_have_the_same_pixels():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 72, 72, 3), np.uint8)
    offsets, flips = rng.integers(0, 10, (20, 2)), np.arange(20) % 2 == 1
    x = augment.crops_by_products(63, images, offsets, flips)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, augment.crops_by_slices(63, images, offsets, flips))


def chi_square_per_degree(counts):
    """About 1 for counts of what is equally likely, with a standard deviation of √(2 / degrees of freedom)."""
    expected = counts.sum() / counts.size
    return ((counts - expected) ** 2 / expected).sum() / (counts.size - 1)


def test_offsets_from_0_to_32_and_flips_are_equally_likely_and_independent():
    crop_keys = jax.random.split(jax.random.key(0), 40000)
    one = position_images(1, 256)[0, :, :, :]
    views = jax.jit(
        jax.vmap(
            lambda key: augmentation(224, np.zeros(3, np.float32)).random_views(one[None], key[None], key[None], True)[
                0, :1
            ]
        )
    )
    x = np.concatenate([views(keys) for keys in np.split(crop_keys, 40)])
    top, left, flipped = (values.astype(int) for values in offsets_and_flips(x))
    assert set(top) == set(left) == set(range(33))
    for values in (top, left):
        assert abs(chi_square_per_degree(np.bincount(values)) - 1) < 4 * np.sqrt(2 / 32)
    assert abs(flipped.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(flipped))
    together = np.bincount((top * 33 + left) * 2 + flipped, minlength=33 * 33 * 2)
    assert abs(chi_square_per_degree(together) - 1) < 4 * np.sqrt(2 / (33 * 33 * 2))


def test_without_flips_a_whole_image_stays_as_it_is():
    images = position_images(30, 32)
    keys = jax.random.split(jax.random.key(0), 30)
    x = augmentation(32, np.zeros(3, np.float32), flip=False).random_views(images, keys, keys, True)
    np.testing.assert_array_equal(x, images)


def test_a_view_depends_on_its_key_alone():
    images = position_images(6, 72)
    keys = jax.random.split(jax.random.key(0), 6)[3:4]
    together = random_views(images, 63, MEAN, 0.1)
    apart = augmentation(63, MEAN, noise=0.1).random_views(images[3:4], keys, keys, True)
    np.testing.assert_allclose(together[3:4], apart, atol=1e-5)


def test_colour_noise_has_a_hundredth_of_the_covariance():
    grey = np.full((20000, 8, 8, 3), 100, np.uint8)
    shifts = random_views(grey, 7, np.float32([100, 100, 100]), 0.1)
    assert (np.ptp(shifts, axis=(1, 2)) < 1e-4).all()  # one colour for a whole image
    shifts = shifts[:, 0, 0] @ AXES  # along the components, where they are independent
    np.testing.assert_allclose(
        np.cov(shifts.T) / np.outer(STD, STD), 0.01 * np.eye(3), atol=0.01 * 4 * np.sqrt(2 / 20000)
    )
    assert (abs(shifts.mean(0)) < 4 * 0.1 * STD / np.sqrt(20000)).all()
    assert (random_views(grey, 7, np.float32([100, 100, 100]), 0) == 0).all()


def test_the_papers_eigenvalues_are_those_of_rgb_from_0_to_1():
    pixels = np.random.default_rng(0).multivariate_normal(MEAN, AXES * STD**2 @ AXES.T, 1000)
    values = np.linalg.eigvalsh(np.cov(pixels.T / 255))
    std = np.sqrt(np.linalg.eigvalsh(np.cov(pixels.T)))
    np.testing.assert_allclose(augment.colour_scale("eigenvalue", std), 255 * values)
    assert augment.colour_scale("standard_deviation", std) is std


def test_the_2012_code_divides_what_the_noise_was_added_to():
    images = np.random.default_rng(0).integers(0, 256, (5, 72, 72, 3), dtype=np.uint8)
    paper, code = (random_views(images, 63, MEAN, 0.1, divisor=divisor) for divisor in (1.0, 1.1))
    np.testing.assert_allclose(code, paper / 1.1, rtol=1e-6, atol=1e-5)


def test_shared_crop_keys_share_crop_and_flip_but_not_colours():
    crop_keys = jax.random.split(jax.random.key(5), 10)[np.arange(320) // 32]
    x = random_views(position_images(320, 72), 63, np.zeros(3, np.float32), 0, crop_keys=crop_keys)
    groups = x.reshape(10, 32, *x.shape[1:])
    assert (groups == groups[:, :1]).all()
    assert len({image.tobytes() for image in groups[:, 0]}) == 10
    noisy = random_views(position_images(320, 72), 63, np.zeros(3, np.float32), 0.1, crop_keys=crop_keys)
    shifts = (noisy - x)[:, 0, 0].round(2)
    assert len(np.unique(shifts, axis=0)) == 320


def test_mean_image_is_subtracted_from_its_centre():
    images = position_images(50, 72)
    mean = np.random.default_rng(0).uniform(0, 255, (72, 72, 3)).astype(np.float32)
    without = random_views(images, 63, np.zeros(3, np.float32), 0)
    np.testing.assert_allclose(random_views(images, 63, mean, 0), without - mean[4:67, 4:67], atol=1e-4)


def test_ten_views_are_the_centre_and_the_corners_with_their_mirror_images():
    images = np.random.default_rng(0).integers(0, 256, (3, 256, 256, 3), dtype=np.uint8)
    images_2 = np.stack([images, images[:, :, ::-1]])
    corners = [(16, 16), (0, 0), (0, 32), (32, 0), (32, 32)]
    for number, (top, left) in enumerate(corners):
        crop = images[:, top : top + 224, left : left + 224] - MEAN
        np.testing.assert_allclose(augment.fixed_view(images_2, 2 * number, 224, MEAN), crop, atol=1e-4)
        np.testing.assert_allclose(augment.fixed_view(images_2, 2 * number + 1, 224, MEAN), crop[:, :, ::-1], atol=1e-4)
