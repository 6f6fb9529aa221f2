"""Errors and probabilities beside NumPy, whatever the batch size, the devices and the number of nets."""

import itertools
import types

import jax
import numpy as np
import pytest

from alexnet_jax.analysis import inference
from alexnet_jax.data import class_names
from alexnet_jax.data.base import IMAGENET
from alexnet_jax.model import alexnet
from alexnet_jax.runtime import progress
from alexnet_jax.training import metrics
from tests.references import net_numbers, numpy_net
from tests.support import mesh, narrow, on

MEANS = [IMAGENET.mean, np.random.default_rng(0).uniform(0, 255, (76, 76, 3)).astype(np.float32)]
CLASS_NAMES = tuple("abcdefg")


class Source:
    """23 noisy images of seven classes."""

    image_size = 76

    def __len__(self):
        return 23

    def __getitem__(self, i):
        rng = np.random.default_rng(i)
        return rng.integers(0, 256, (76, 76, 3), dtype=np.uint8), i % 7

    def name(self, i):
        return f"image {i}"


IMAGES, LABELS = (np.stack(x) for x in zip(*(Source()[i] for i in range(23)), strict=True))


@pytest.fixture(scope="module")
def net():
    return narrow("two_gpu", image_size=67).with_classes(7)


@pytest.fixture(scope="module")
def all_params(net):
    """Of two nets."""
    return [jax.tree.map(lambda p: np.asarray(2 * p), alexnet.init(net, jax.random.key(seed))) for seed in (0, 1)]


@pytest.fixture(scope="module")
def expected(all_params):
    """float64 probabilities of every net, view and example, by the reference; the centre's views come first."""
    described, views = net_numbers.describe("two_gpu", width=1 / 16, image_size=67, num_classes=7), []
    for top, left in ((4, 4), (0, 0), (0, 9), (9, 0), (9, 9)):
        window = slice(top, top + 67), slice(left, left + 67)
        views += [(window, False), (window, True)]
    probabilities = []
    for params, mean in zip(all_params, MEANS, strict=True):
        centre = mean if mean.ndim == 1 else mean[4:71, 4:71]
        crops = [IMAGES[:, rows, columns] for (rows, columns), _ in views]
        x = [crop[:, :, ::-1] if flip else crop for crop, (_, flip) in zip(crops, views, strict=True)]
        logits = np.stack([numpy_net.forward(described, params, crop - centre)[0] for crop in x])
        exponentials = np.exp(logits - logits.max(-1, keepdims=True))
        probabilities.append(exponentials / exponentials.sum(-1, keepdims=True))
    return np.stack(probabilities)


def errors(probabilities_NxK):
    mine = probabilities_NxK[np.arange(23), LABELS]
    ranks = (probabilities_NxK > mine[:, None]).sum(1)
    return {"top1_error": (ranks >= 1).mean(), "top5_error": (ranks >= 5).mean(), "loss": -np.log(mine).mean()}


@pytest.mark.parametrize(
    ("nets", "data", "model", "batch_size"),
    [(1, 1, 1, 23), (1, 1, 2, 5), (1, 4, 1, 4), (2, 2, 2, 32)]
    + [
        pytest.param(*case, marks=pytest.mark.slow)
        for case in [(1, 2, 1, 8), (1, 2, 2, 32), (2, 1, 1, 23), (2, 1, 2, 5), (2, 2, 1, 8), (2, 4, 1, 4)]
    ],
)
def test_every_example_counts_once_as_in_numpy(net, all_params, expected, nets, data, model, batch_size):
    some_mesh = mesh(data, model)
    params = [on(some_mesh, net, p) for p in all_params[:nets]]
    classify = inference.make_classify([net] * nets, some_mesh, MEANS[:nets], views=10)
    outputs = inference.classify_all(classify, params, some_mesh, Source(), batch_size)
    np.testing.assert_array_equal(outputs["label"], LABELS)
    for way, probabilities in (("center", expected[:nets, 0].mean(0)), ("ten_crop", expected[:nets].mean((0, 1)))):
        np.testing.assert_array_equal(outputs[way]["classes"], (-probabilities).argsort(1)[:, :5])
        np.testing.assert_allclose(outputs[way]["probabilities"], -np.sort(-probabilities)[:, :5], rtol=1e-4)
        result = inference.errors(outputs)
        assert result["num_examples"] == 23
        assert result[way] == pytest.approx(errors(probabilities), rel=1e-5)
        assert 0 < result[way]["top5_error"] < result[way]["top1_error"] < 1
    assert result["loss"] == result["center"]["loss"]


def test_nets_choose_among_some_classes(net, all_params, expected):
    """As if the net had no other classes: in each view, the probabilities of these sum up to one."""
    some_mesh, among = mesh(1, 2), [0, 1, 3, 5, 6]
    rows = np.isin(LABELS, among)
    classify = inference.make_classify([net], some_mesh, MEANS[:1], views=10, among=among)
    outputs = inference.classify_all(classify, [on(some_mesh, net, all_params[0])], some_mesh, Source(), 23)
    probabilities = np.zeros_like(expected[0])
    probabilities[..., among] = expected[0][..., among] / expected[0][..., among].sum(-1, keepdims=True)
    assert rows.sum() == 17
    for way, mean in (("center", probabilities[0]), ("ten_crop", probabilities.mean(0))):
        np.testing.assert_array_equal(outputs[way]["classes"][rows], (-mean[rows]).argsort(1)[:, :5])
        np.testing.assert_allclose(outputs[way]["probabilities"][rows], -np.sort(-mean[rows])[:, :5], rtol=1e-4)
        np.testing.assert_allclose(outputs[way]["loss"][rows], -np.log(mean[rows, LABELS[rows]]), rtol=1e-4)


def test_the_centre_view_alone_gives_the_same(net, all_params):
    some_mesh, source = mesh(1, 2), Source()
    params = [on(some_mesh, net, all_params[0])]
    one, ten = (inference.make_evaluate([net], some_mesh, MEANS[:1], source, 8, views)(params) for views in (1, 10))
    assert "ten_crop" not in one
    assert one["center"] == pytest.approx(ten["center"], rel=1e-5)


def test_a_long_evaluation_says_how_far_it_is(net, all_params, monkeypatch, caplog):
    minutes = itertools.count(0, 60)
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: next(minutes)))
    monkeypatch.setattr(inference.log, "propagate", True)
    caplog.set_level("INFO", "alexnet_jax")
    some_mesh = mesh(1, 1)
    inference.make_evaluate([net], some_mesh, MEANS[:1], Source(), 8)([on(some_mesh, net, all_params[0])])
    assert [record.getMessage() for record in caplog.records] == [
        "evaluating: 8 of 23 images, 0.13 images/s, 01:52 left",
        "evaluating: 16 of 23 images, 0.13 images/s, 00:52 left",
        "evaluating: 23 of 23 images, 0.13 images/s, 00:00 left",
    ]


@pytest.fixture
def outputs():
    """Three examples of class a, right, wrong and wrong, and one of class c, right."""
    classes = np.array([[0, 1, 2], [1, 0, 2], [1, 2, 0], [2, 1, 0]])
    way = {
        "loss": np.array([0.1, 0.2, 0.3, 0.4]),
        "classes": classes,
        "probabilities": np.full((4, 3), [0.5, 0.3, 0.2]),
    }
    return {"label": np.array([0, 0, 0, 2]), "center": way, "ten_crop": way}


def test_errors_by_class(outputs):
    a, c = inference.by_class(outputs, CLASS_NAMES)
    assert (a["class"], a["num_examples"], a["confused_with"]) == ("a", 3, ["b", 2])
    assert a["ten_crop"] == pytest.approx({"top1_error": 2 / 3, "top5_error": 0, "loss": 0.2})
    assert (c["class"], c["num_examples"], c["confused_with"]) == ("c", 1, None)
    assert c["center"]["top1_error"] == 0


def test_wrong_examples_have_names(outputs):
    wrong = inference.wrong_examples(outputs, Source(), CLASS_NAMES)
    assert [(row["image"], row["class"]) for row in wrong] == [("image 1", "a"), ("image 2", "a")]
    assert wrong[1]["predictions"][:2] == [
        {"class": "b", "name": "b", "probability": 0.5},
        {"class": "c", "name": "c", "probability": 0.3},
    ]


def test_classes_of_imagenet_are_readable():
    assert class_names.readable("n02102040") == "n02102040 English springer"
    assert class_names.readable("n12267677") == "n12267677 acorn"
    assert class_names.readable("dogs") == "dogs"


def test_a_net_without_an_opinion_is_not_right():
    labels = np.arange(10)
    assert metrics.correct(np.zeros((10, 10), np.float32), labels, 1).sum() == 1
    assert metrics.correct(np.zeros((10, 10), np.float32), labels, 5).sum() == 5


def test_top5_of_three_classes():
    assert metrics.correct(np.float32([[1, 2, 3]]), np.array([0]), 5).tolist() == [1.0]
