"""What the claims say of finished trainings, made-up ones: differences over seeds, and each claim's own rule."""

import base64
import pathlib

import numpy as np
import pytest
import scipy.stats

from experiments import (
    claims,
    depth,
    dropout,
    fig1_relu_vs_tanh,
    fig3_kernels,
    fig4_retrieval,
    lrn,
    lrn_cifar10,
    pretraining,
    runs,
    table1,
    table2,
    ten_views,
    two_gpus,
)

METRICS = [{"split": split, "epoch": 1.0, "top1_error": 0.5} for split in ("train", "eval")]


def a_run(seed, centre, ten, data="imagenette", **settings):
    result = {"step": 10, "num_examples": 200}
    result |= {
        way: {"top1_error": error, "top5_error": error / 4}
        for way, error in {"center": centre, "ten_crop": ten}.items()
    }
    settings |= {"seed": seed}
    return runs.Run(pathlib.Path(data, f"{settings}.json"), "abc", settings, {"num_epochs": 1.0}, result, METRICS)


@pytest.mark.parametrize(
    ("without", "verdict"),
    [
        ((0.45, 0.46, 0.47), claims.SUPPORTED),
        ((0.35, 0.36, 0.37), claims.CONTRADICTED),
        ((0.38, 0.41, 0.46), claims.OPEN),
    ],
)
def test_what_a_difference_over_seeds_says(without, verdict):
    norms, no_norms = (0.40, 0.41, 0.42), without
    found = [a_run(seed, error + 0.02, error) for seed, error in enumerate(norms)]
    found += [a_run(seed, error + 0.02, error, **{"model.net": "no_norm"}) for seed, error in enumerate(no_norms)]
    summary = lrn.summary(found)
    # Welch's interval, written out.
    variances = [np.var(errors, ddof=1) / 3 for errors in (norms, no_norms)]
    freedom = sum(variances) ** 2 / sum(v**2 / 2 for v in variances)
    half = scipy.stats.t.ppf(0.975, freedom) * np.sqrt(sum(variances))
    difference = np.mean(no_norms) - np.mean(norms)
    assert summary.verdict == verdict
    assert summary.ours == f"{claims.interval(difference, difference - half, difference + half)} points"
    assert summary.table[1][:3] == ["with norms", "3", "43.0 ± 1.0"]
    assert summary.table[2][-1] == summary.ours.removesuffix(" points")


def test_without_runs_or_with_one_nothing_is_decided():
    assert lrn.summary([]).verdict == claims.NOT_RUN
    assert lrn.summary([a_run(0, 0.4, 0.3)]).verdict == claims.NOT_RUN
    one_each = lrn.summary([a_run(0, 0.4, 0.3), a_run(0, 0.5, 0.4, **{"model.net": "no_norm"})])
    assert (one_each.verdict, one_each.ours) == (claims.OPEN, "+10.0 (no interval) points")
    assert ten_views.summary([a_run(seed, 0.4, 0.38 + 0.001 * seed) for seed in range(3)]).verdict == claims.SUPPORTED


def figure_1_run(activation, rate, seed, errors):
    settings = {"model.activation": activation, "num_epochs": 1.0, "schedule.learning_rate": rate, "seed": seed}
    metrics = [{"split": "train", "epoch": (i + 1) / 2, "top1_error": error} for i, error in enumerate(errors)]
    return runs.Run(pathlib.Path("a.json"), "abc", settings, {}, {}, metrics)


def test_epochs_to_a_training_error_of_25_percent():
    # Means of half epochs, so of their middles: 0.75 epochs at 30 %, 1.25 at 20 %.
    run = figure_1_run("relu", 0.002, 0, [0.5, 0.3, 0.2, 0.22])
    assert fig1_relu_vs_tanh.epochs_to_target(run) == pytest.approx(1.0)
    assert fig1_relu_vs_tanh.epochs_to_target(figure_1_run("tanh", 0.002, 0, [0.5, 0.4])) == np.inf
    assert fig1_relu_vs_tanh.epochs_to_target(figure_1_run("relu", 0.002, 0, [0.2])) == 0.25
    run.metrics.append({"split": "train", "epoch": 2.1, "top1_error": 0.1})  # of a few steps at the end
    assert list(run.errors("train")) == [(0.5, 1.0, 1.5, 2.0), (0.5, 0.3, 0.2, 0.22)]


def test_figure_1_takes_the_best_rates_and_wants_several_times():
    relu = [figure_1_run("relu", 0.002, seed, [0.5, 0.3, 0.2 + 0.01 * seed]) for seed in range(3)]
    slow_relu = [figure_1_run("relu", 0.001, 0, [0.5, 0.4, 0.3, 0.2])]

    def tanh(logs):
        return [figure_1_run("tanh", 0.004, seed, [0.5, *[0.3] * logs, 0.2 + 0.01 * seed]) for seed in range(3)]

    five = fig1_relu_vs_tanh.summary(slow_relu + relu + tanh(9))
    assert five.verdict == claims.SUPPORTED and five.ours.startswith("4.9 times (")
    # Over the last epoch that both rates have, the third and second half epochs: 25 and 35 %.
    assert {row[1]: row[4] for row in five.table[1:3]} == {
        "0.002": "25.5 ± 0.5 (to epoch 2)",
        "0.001": "35.0 (to epoch 2)",
    }
    # A rate that is behind after as many epochs is not the best, though it is trained for longer and gets there.
    longer = [figure_1_run("tanh", 0.001, 0, [0.5, 0.45, *[0.4] * 20, 0.1])]
    assert fig1_relu_vs_tanh.summary(relu + longer + tanh(9)).ours == five.ours
    assert fig1_relu_vs_tanh.summary(slow_relu + relu + tanh(1)).verdict == claims.CONTRADICTED
    one_never = fig1_relu_vs_tanh.summary(relu + tanh(9)[:2] + [figure_1_run("tanh", 0.004, 2, [0.5] * 11)])
    assert one_never.verdict == claims.SUPPORTED and one_never.ours.startswith("more than 4.")
    one_never = fig1_relu_vs_tanh.summary(relu + tanh(1)[:2] + [figure_1_run("tanh", 0.004, 2, [0.5] * 3)])
    assert (one_never.verdict, one_never.ours) == (claims.OPEN, "3 of 3 ReLU nets and 2 of 3 tanh nets")
    no_relu = fig1_relu_vs_tanh.summary([figure_1_run("relu", 0.002, 0, [0.5, 0.4]), *tanh(1)])
    assert (no_relu.verdict, no_relu.ours) == (claims.OPEN, "0 of 1 ReLU nets and 3 of 3 tanh nets")
    assert fig1_relu_vs_tanh.summary(relu).verdict == claims.NOT_RUN


def test_depth_must_hold_for_every_layer():
    def summary(*errors):
        found = [a_run(seed, 0.4, 0.40 + 0.001 * seed) for seed in range(3)]
        for layer, error in zip(depth.LAYERS, errors, strict=True):
            found += [a_run(seed, 0.5, error + 0.001 * seed, **{"model.without": layer}) for seed in range(3)]
        return depth.summary(found)

    assert (summary(0.42, 0.45, 0.5, 0.43).verdict, summary(0.42, 0.45, 0.5, 0.43).ours) == (
        claims.SUPPORTED,
        "without conv2 +2.0, without conv3 +5.0, without conv4 +10.0, without conv5 +3.0 points",
    )
    assert summary(0.42, 0.45, 0.5, 0.38).verdict == claims.CONTRADICTED
    assert summary(0.42, 0.45, 0.5, 0.4002).verdict == claims.OPEN


@pytest.mark.parametrize("rate", [{}, dropout.HALF])
def test_overfitting_counts_if_the_error_is_not_lower_for_all_that(rate):
    def summary(error_without):
        found = [a_run(seed, 0.40 + 0.01 * seed, 0.38, **rate) for seed in range(3)]
        found += [a_run(seed, 0.45, error_without, **dropout.WITHOUT, **rate) for seed in range(3)]
        training = [0.35, 0.365, 0.37, 0.10, 0.11, 0.12]
        measured = {run.path.stem: {"center": {"top1_error": err}} for run, err in zip(found, training, strict=True)}
        assert dropout.summary(found, {}).verdict == claims.NOT_RUN
        return dropout.summary(found, measured)

    assert summary(0.43).verdict == claims.SUPPORTED
    assert [row[4] for row in summary(0.43).table[1:]] == ["4.8 ± 0.3", "34.0 ± 1.0"]
    assert summary(0.36).verdict == claims.OPEN
    assert summary(0.36).ours.endswith(" points more overfitting, but an error 2.0 points lower")


def test_ensembles():
    singles = [a_run(seed, 0.40, 0.38) for seed in range(3)]
    together = {"ten_crop": {"top1_error": 0.36, "top5_error": 0.1}}
    measured = {"members": [run.path.stem for run in singles], "together": together}
    assert table2.summary(singles, measured).verdict == claims.SUPPORTED
    together["ten_crop"]["top1_error"] = 0.38
    assert table2.summary(singles, measured).verdict == claims.OPEN
    together["ten_crop"]["top1_error"] = 0.39
    assert table2.summary(singles, measured).verdict == claims.CONTRADICTED
    assert table2.summary(singles[:2], measured).verdict == claims.NOT_RUN


def test_a_grey_and_a_coloured_tower_differ_and_towers_of_noise_do_not():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(11, 11, 3, 48))
    noise[..., :24] = rng.normal(size=(11, 11, 1, 24))
    shares, chance = fig3_kernels.by_tower(*fig3_kernels.colour(noise))
    assert shares == pytest.approx([0, 2 / 3], abs=0.01)
    assert chance < 0.001
    _, chance = fig3_kernels.by_tower(*fig3_kernels.colour(rng.normal(size=(11, 11, 3, 48))))
    assert chance > 0.05


def measured_kernels(share_of_tower_1):
    """What fig3_kernels measures of 2 × 48 kernels of one energy, the first tower's with a third of colour."""
    share = np.repeat([1 / 3, share_of_tower_1], 48) + np.linspace(-0.01, 0.01, 96)
    kernels = base64.b64encode(np.ones((11, 11, 3, 96), np.float16).tobytes()).decode()
    return {"share": share.tolist(), "energy": [1.0] * 96, "kernels": kernels}


@pytest.mark.parametrize(
    ("shares", "verdict", "ours"),
    [
        ([0.1, 0.7, 0.15], claims.SUPPORTED, "3 of 3 runs"),
        # a gap that is not by chance, but less than twice
        pytest.param([0.1, 0.25, 0.15], claims.OPEN, "2 of 3 runs", marks=pytest.mark.slow),
        pytest.param([0.3, 0.3, 0.3], claims.OPEN, "0 of 3 runs", marks=pytest.mark.slow),
    ],
)
def test_towers_must_have_parted_in_every_run(shares, verdict, ours):
    found = [a_run(seed, 0.4, 0.4) for seed in range(3)]
    measured = {run.path.stem: measured_kernels(share) for run, share in zip(found, shares, strict=True)}
    summary = fig3_kernels.summary(found, measured)
    assert (summary.verdict, summary.ours) == (verdict, ours)
    assert [row[2] for row in summary.table[1:]] == [claims.percent(share + 0.005) for share in shares]
    assert set(summary.pictures) == {"seed_0", "seed_1", "seed_2"}


def test_a_gap_between_towers_as_between_random_halves_decides_nothing():
    found, measured = [a_run(0, 0.4, 0.4)], measured_kernels(0.3)
    # Two kernels have most of the energy, and in half of all ways to draw they are not together.
    measured["energy"] = ([1.0] + [0.001] * 47) * 2
    measured["share"] = [0.6] + [0.4] * 47 + [0.2] + [0.4] * 47
    summary = fig3_kernels.summary(found, {found[0].path.stem: measured})
    assert summary.table[1][1:3] == ["59.1", "20.9"] and float(summary.table[1][3]) > 0.05
    assert summary.verdict == claims.OPEN


def test_table_1_compares_only_on_the_images_of_the_others():
    assert table1.summary([a_run(0, 0.3, 0.3)]).verdict == claims.OPEN
    assert table1.summary([a_run(0, 0.4, 0.375, data="imagenet2010")]).verdict == claims.SUPPORTED
    worse = [a_run(0, 0.4, 0.375, data="imagenet2010"), a_run(1, 0.5, 0.47, data="imagenet2010")]
    assert table1.summary(worse).verdict == claims.CONTRADICTED
    assert table1.summary([]).verdict == claims.NOT_RUN


@pytest.mark.parametrize(
    ("claim", "first", "other", "third"),
    [
        (two_gpus, {}, two_gpus.ONE_GPU, {"model.net": "separate"}),
        (
            lrn_cifar10,
            {"model.net": "cifar10_11pct"},
            {"model.net": "cifar10_11pct_no_norm"},
            {"model.net": "cifar10_13pct"},
        ),
        (pretraining, pretraining.PRETRAINED, pretraining.SIXTH, {}),
    ],
)
def test_a_third_net_is_shown_and_decides_nothing(claim, first, other, third):
    def found(of_first, of_other, of_third):
        nets = zip((first, other, third), (of_first, of_other, of_third), strict=True)
        return [made(fields, seed, error) for fields, error in nets for seed in range(3)]

    def made(fields, seed, error):
        settings = claims.of_seed(fields, seed)
        return a_run(settings.pop("seed"), error, error + 0.001 * seed, **settings)

    members = {frozenset(member.items()) for member in claim.sweep("laptop")}
    assert {frozenset(run.settings.items()) for run in found(0, 0, 0)} == members
    assert claim.summary(found(0.3, 0.4, 0.2)).verdict == claims.SUPPORTED
    assert claim.summary(found(0.4, 0.3, 0.5)).verdict == claims.CONTRADICTED
    assert claim.summary(found(0.3, 0.4, 0.2)).ours.startswith("+10.0 (+9.8 to +10.2)")
    assert len(claim.summary(found(0.3, 0.4, 0.2)).table) == 4
    assert claim.summary(found(0.3, 0.4, 0.2)[:6]).verdict == claims.SUPPORTED
    assert claim.summary(found(0.3, 0.4, 0.2)[:3]).verdict == claims.NOT_RUN


def test_figure_4_compares_features_with_pixels():
    found = [a_run(seed, 0.4, 0.4, data="textures") for seed in range(2)]
    shown = {"query": 0, "class": "a", "neighbours": [3, 4, 5, 6, 7, 8]}
    shown["predictions"] = [{"class": name, "name": name, "probability": 0.2} for name in "abcde"]
    features = (0.9, 0.92)
    measured = {
        run.path.stem: {"same_class": {"features": share, "pixels": 0.3}, "both": 0.1, "shown": [shown]}
        for run, share in zip(found, features, strict=True)
    }
    summary = fig4_retrieval.summary(found, measured)
    assert (summary.verdict, summary.ours) == (claims.SUPPORTED, "91.0 % by features, 30.0 % by pixels")
    assert "By chance it would be 5.0 %." in summary.statement and list(summary.pictures) == ["neighbours"]
    for run, share in zip(found, (0.1, 0.12), strict=True):
        measured[run.path.stem]["same_class"]["features"] = share
    assert fig4_retrieval.summary(found, measured).verdict == claims.CONTRADICTED
