"""Views of images: where crops lie, what is subtracted, and how colours vary."""

import jax
import numpy as np

from alexnet_jax import augment, datasets

MEAN = datasets.IMAGENET_MEAN
STD, AXES = datasets.IMAGENET_COLOUR_STD, datasets.IMAGENET_COLOUR_AXES


def position_images(count, size):
    """Images whose pixels tell their row and column."""
    rows, columns = np.mgrid[:size, :size]
    return np.broadcast_to(np.stack([rows, columns, 0 * rows], -1).astype(np.uint8), (count, size, size, 3))


def random_views(images, size, mean, noise, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(images))
    return np.asarray(augment.random_views(images, keys, size, mean, STD, AXES, noise))


def test_stored_size_is_the_papers():
    assert augment.stored_size(224) == 256


def test_crops_are_whole_anywhere_and_flipped_half_of_the_time():
    x = random_views(position_images(1000, 72), 63, np.zeros(3, np.float32), 0)
    top, left = x[:, 0, 0, 0], x[:, :, :, 1].min((1, 2))
    assert set(top) == set(left) == set(range(10))
    flipped = x[:, 0, 0, 1] > x[:, 0, -1, 1]
    assert abs(flipped.mean() - 0.5) < 0.08
    for i in range(20):
        columns = left[i] + np.arange(63)
        np.testing.assert_array_equal(x[i, 5, :, 1], columns[::-1] if flipped[i] else columns)
        np.testing.assert_array_equal(x[i, :, 5, 0], top[i] + np.arange(63))


def test_a_view_depends_on_its_key_alone():
    images = position_images(6, 72)
    keys = jax.random.split(jax.random.key(0), 6)
    together = augment.random_views(images, keys, 63, MEAN, STD, AXES, 0.1)
    apart = augment.random_views(images[3:4], keys[3:4], 63, MEAN, STD, AXES, 0.1)
    np.testing.assert_allclose(together[3:4], apart, atol=1e-5)


def test_colour_noise_has_a_hundredth_of_the_covariance():
    grey = np.full((4000, 16, 16, 3), 100, np.uint8)
    shifts = random_views(grey, 14, np.float32([100, 100, 100]), 0.1)
    assert (np.ptp(shifts, axis=(1, 2)) < 1e-4).all()  # one colour for a whole image
    expected = 0.01 * (AXES * STD**2) @ AXES.T
    assert abs(np.cov(shifts[:, 0, 0].T) - expected).max() < 0.08 * expected.max()
    assert (random_views(grey, 14, np.float32([100, 100, 100]), 0) == 0).all()


def test_mean_image_is_subtracted_from_its_centre():
    images = position_images(50, 72)
    mean = np.random.default_rng(0).uniform(0, 255, (72, 72, 3)).astype(np.float32)
    without = random_views(images, 63, np.zeros(3, np.float32), 0)
    np.testing.assert_allclose(random_views(images, 63, mean, 0), without - mean[4:67, 4:67], atol=1e-4)


def test_ten_views_are_the_centre_and_the_corners_with_their_mirror_images():
    images = np.random.default_rng(0).integers(0, 256, (3, 256, 256, 3), dtype=np.uint8)
    corners = [(16, 16), (0, 0), (0, 32), (32, 0), (32, 32)]
    for number, (top, left) in enumerate(corners):
        crop = images[:, top : top + 224, left : left + 224] - MEAN
        np.testing.assert_allclose(augment.fixed_view(images, 2 * number, 224, MEAN), crop, atol=1e-4)
        np.testing.assert_allclose(augment.fixed_view(images, 2 * number + 1, 224, MEAN), crop[:, :, ::-1], atol=1e-4)
