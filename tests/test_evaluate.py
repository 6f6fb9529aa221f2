"""Errors and probabilities beside NumPy, whatever the batch size and the devices."""

import functools

import jax
import numpy as np
import pytest
import reference
from conftest import mesh, on

from alexnet_jax import datasets, evaluate, metrics, models


class Source:
    """23 noisy images, labels of five classes."""

    image_size = 76

    def __len__(self):
        return 23

    def __getitem__(self, i):
        rng = np.random.default_rng(i)
        return rng.integers(0, 256, (76, 76, 3), dtype=np.uint8), i % 7


@pytest.fixture
def params(small_net):
    params = jax.tree.map(lambda p: 2 * p, models.init(small_net, jax.random.key(0)))
    return jax.tree.map(np.asarray, params)


@pytest.fixture
def small_net():
    return models.Net(towers=2, maps=(3, 8, 12, 12, 8), units=32, num_classes=7, image_size=67, init_stddev=0.04)


def top_errors(scores, labels):
    ranks = (scores > scores[np.arange(len(labels)), labels][:, None]).sum(1)
    return {"top1_error": (ranks >= 1).mean(), "top5_error": (ranks >= 5).mean()}


@pytest.mark.parametrize(("data", "model", "batch_size"), [(1, 1, 23), (1, 2, 5), (2, 1, 8), (2, 2, 32), (4, 1, 4)])
def test_errors_and_loss_equal_numpy(small_net, params, data, model, batch_size):
    images, labels = (np.stack(x) for x in zip(*(Source()[i] for i in range(23)), strict=True))
    probabilities = []
    for top, left in ((4, 4), (0, 0), (0, 9), (9, 0), (9, 9)):
        crop = images[:, top : top + 67, left : left + 67] - datasets.IMAGENET_MEAN
        for view in (crop, crop[:, :, ::-1]):
            logits, _ = reference.forward(params, view)
            exponentials = np.exp(logits - logits.max(1, keepdims=True))
            probabilities.append(exponentials / exponentials.sum(1, keepdims=True))

    some_mesh = mesh(data, model)
    make_evaluate = functools.partial(evaluate.make_evaluate, small_net, some_mesh, datasets.IMAGENET_MEAN, Source())
    result = make_evaluate(batch_size, views=10)(on(some_mesh, params))
    assert result["num_examples"] == 23
    assert result["loss"] == pytest.approx(-np.log(probabilities[0][np.arange(23), labels]).mean(), rel=1e-4)
    assert result["center"] == pytest.approx(top_errors(probabilities[0], labels))
    assert result["ten_crop"] == pytest.approx(top_errors(np.mean(probabilities, 0), labels))
    assert 0 < result["center"]["top5_error"] < result["center"]["top1_error"] < 1

    one_view = make_evaluate(batch_size)(on(some_mesh, params))
    assert "ten_crop" not in one_view
    assert one_view["center"] == result["center"]
    assert one_view["loss"] == pytest.approx(result["loss"], rel=1e-5)


def test_a_net_without_an_opinion_is_not_right():
    labels = np.arange(10)
    assert metrics.correct(np.zeros((10, 10), np.float32), labels, 1).sum() == 1
    assert metrics.correct(np.zeros((10, 10), np.float32), labels, 5).sum() == 5


def test_top5_of_three_classes():
    assert metrics.correct(np.float32([[1, 2, 3]]), np.array([0]), 5).tolist() == [1.0]
