"""The claims: complete entries, nets that can be built, and the verdict of each on made-up runs."""

import base64
import dataclasses
import pathlib

import numpy as np
import pytest
import scipy.stats

from alexnet_jax import UserError
from alexnet_jax.model import nets
from alexnet_jax.training import fidelity
from experiments import claims, estimates, store, sweep_members
from experiments.claims import dropout, fig1_relu_vs_tanh, fig3_kernels
from experiments.claims.claim import DATA_SETS, SCALES
from experiments.claims.comparisons import SIXTH
from experiments.claims.groups import with_seed

METRICS = [{"split": split, "epoch": 1.0, "top1_error": 0.5} for split in ("train", "eval")]


def a_run(seed, centre, ten, data="imagenette", **settings):
    result = {"step": 10, "num_examples": 200}
    result |= {
        way: {"top1_error": error, "top5_error": error / 4}
        for way, error in {"center": centre, "ten_crop": ten}.items()
    }
    settings |= {"seed": seed}
    return store.Run(pathlib.Path(data, f"{settings}.json"), "abc", settings, {"num_epochs": 1.0}, result, METRICS)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", claims.CLAIMS)
def test_a_claim_is_complete_and_its_members_are_nets(name, scale, tmp_path):
    claim = claims.CLAIMS[name]
    may_be_empty = {"paper", "notes", "measure", "start"}
    assert claim.name == name
    assert all(getattr(claim, field.name) for field in dataclasses.fields(claim) if field.name not in may_be_empty)
    assert claim.cost[scale] and claim.data[scale] in DATA_SETS
    texts = [claim.title, claim.section, claim.figure, claim.paper, claim.log, *claim.cost.values(), *claim.notes]
    assert all(text == " ".join(text.split()) for text in texts)
    assert all(text.endswith(".") for text in [claim.paper, claim.log, *claim.notes] if text)
    assert any(line.startswith(f"python -m experiments {name} --scale={scale} ") for line in claim.command_lines())
    for word, sweep in {"": claim.sweep, ":start": claim.start}.items():
        if sweep:
            members = sweep_members.read_members(f"{claims.CONFIG}:{name}:{scale}{word}", tmp_path, [])
            assert [member.settings for member in members] == [dict(member) for member in sweep.members(scale)]
            for member in members:
                config = sweep.config(scale)
                config.update_from_flattened_dict(member.settings)
                assert nets.from_config(fidelity.resolve(config).model)


def test_the_members_that_start_from_other_runs_find_them():
    (claim,) = [claim for claim in claims.CLAIMS.values() if claim.start]
    for scale in SCALES:
        (first,) = [line for line in claim.command_lines() if f":{scale}:start" in line]
        config, workdir = (word.partition("=")[2] for word in first.split()[-2:])
        trained = sweep_members.read_members(config, pathlib.Path(workdir), [])
        needed = {member["init_from"] for member in claim.sweep.members(scale) if "init_from" in member}
        assert needed == {str(member.workdir) for member in trained}


@pytest.mark.parametrize("words", ["", "lrn", "lrn:small", "nothing:laptop", "lrn:laptop:start", "lrn:laptop:x"])
def test_other_words_than_a_claim_and_a_scale_are_refused(words, tmp_path):
    with pytest.raises(UserError, match=r"is not NAME:SCALE with a SCALE of full or laptop and a NAME of fig1_relu"):
        sweep_members.read_members(f"{claims.CONFIG}:{words}", tmp_path, [])


def summarise(name, *arguments):
    return claims.CLAIMS[name].summary(*arguments)


@pytest.mark.parametrize(
    ("without", "verdict"),
    [
        ((0.45, 0.46, 0.47), estimates.SUPPORTED),
        ((0.35, 0.36, 0.37), estimates.CONTRADICTED),
        ((0.38, 0.41, 0.46), estimates.NOT_DECIDED),
    ],
)
def test_a_difference_over_seeds_has_welchs_interval(without, verdict):
    norms, no_norms = (0.40, 0.41, 0.42), without
    runs = [a_run(seed, error + 0.02, error) for seed, error in enumerate(norms)]
    runs += [a_run(seed, error + 0.02, error, **{"model.net": "no_norm"}) for seed, error in enumerate(no_norms)]
    summary = summarise("lrn", runs)
    # Welch's interval, written out.
    variances = [np.var(errors, ddof=1) / 3 for errors in (norms, no_norms)]
    freedom = sum(variances) ** 2 / sum(v**2 / 2 for v in variances)
    half = scipy.stats.t.ppf(0.975, freedom) * np.sqrt(sum(variances))
    difference = np.mean(no_norms) - np.mean(norms)
    assert summary.verdict == verdict
    assert summary.result == f"{estimates.interval(difference, difference - half, difference + half)} points"
    assert summary.table[1][:3] == ["with norms", "3", "43.0 ± 1.0"]
    assert summary.table[2][-1] == summary.result.removesuffix(" points")


def test_without_runs_or_with_one_nothing_is_decided():
    assert summarise("lrn", []).verdict == estimates.NOT_RUN
    assert summarise("lrn", [a_run(0, 0.4, 0.3)]).verdict == estimates.NOT_RUN
    one_each = summarise("lrn", [a_run(0, 0.4, 0.3), a_run(0, 0.5, 0.4, **{"model.net": "no_norm"})])
    assert (one_each.verdict, one_each.result) == (estimates.NOT_DECIDED, "+10.0 (no interval) points")
    assert (
        summarise("ten_views", [a_run(seed, 0.4, 0.38 + 0.001 * seed) for seed in range(3)]).verdict
        == estimates.SUPPORTED
    )


def figure_1_run(activation, rate, seed, errors):
    settings = {"model.activation": activation, "num_epochs": 1.0, "schedule.learning_rate": rate, "seed": seed}
    metrics = [{"split": "train", "epoch": (i + 1) / 2, "top1_error": error} for i, error in enumerate(errors)]
    return store.Run(pathlib.Path("a.json"), "abc", settings, {}, {}, metrics)


def test_epochs_to_a_training_error_of_25_percent():
    # Means of half epochs, so of their middles: 0.75 epochs at 30 %, 1.25 at 20 %.
    run = figure_1_run("relu", 0.002, 0, [0.5, 0.3, 0.2, 0.22])
    assert fig1_relu_vs_tanh.epochs_to_target(run) == pytest.approx(1.0)
    assert fig1_relu_vs_tanh.epochs_to_target(figure_1_run("tanh", 0.002, 0, [0.5, 0.4])) == np.inf
    assert fig1_relu_vs_tanh.epochs_to_target(figure_1_run("relu", 0.002, 0, [0.2])) == 0.25
    run.metrics.append({"split": "train", "epoch": 2.1, "top1_error": 0.1})  # of a few steps at the end
    assert list(run.errors("train")) == [(0.5, 1.0, 1.5, 2.0), (0.5, 0.3, 0.2, 0.22)]


def test_figure_1_compares_the_best_rates_and_needs_a_ratio_above_two():
    relu = [figure_1_run("relu", 0.002, seed, [0.5, 0.3, 0.2 + 0.01 * seed]) for seed in range(3)]
    slow_relu = [figure_1_run("relu", 0.001, 0, [0.5, 0.4, 0.3, 0.2])]

    def tanh(logs):
        return [figure_1_run("tanh", 0.004, seed, [0.5, *[0.3] * logs, 0.2 + 0.01 * seed]) for seed in range(3)]

    five = summarise("fig1_relu_vs_tanh", slow_relu + relu + tanh(9))
    assert five.verdict == estimates.SUPPORTED and five.result.startswith("4.9 times (")
    # Over the last epoch that both rates have, the third and second half epochs: 25 and 35 %.
    assert {row[1]: row[4] for row in five.table[1:3]} == {
        "0.002": "25.5 ± 0.5 (to epoch 2)",
        "0.001": "35.0 (to epoch 2)",
    }
    # A rate with a higher error after the same epochs is not the best, even if it reaches the target later.
    longer = [figure_1_run("tanh", 0.001, 0, [0.5, 0.45, *[0.4] * 20, 0.1])]
    assert summarise("fig1_relu_vs_tanh", relu + longer + tanh(9)).result == five.result
    assert summarise("fig1_relu_vs_tanh", slow_relu + relu + tanh(1)).verdict == estimates.CONTRADICTED
    one_never = summarise("fig1_relu_vs_tanh", relu + tanh(9)[:2] + [figure_1_run("tanh", 0.004, 2, [0.5] * 11)])
    assert one_never.verdict == estimates.SUPPORTED and one_never.result.startswith("more than 4.")
    one_never = summarise("fig1_relu_vs_tanh", relu + tanh(1)[:2] + [figure_1_run("tanh", 0.004, 2, [0.5] * 3)])
    assert (one_never.verdict, one_never.result) == (estimates.NOT_DECIDED, "3 of 3 ReLU nets and 2 of 3 tanh nets")
    no_relu = summarise("fig1_relu_vs_tanh", [figure_1_run("relu", 0.002, 0, [0.5, 0.4]), *tanh(1)])
    assert (no_relu.verdict, no_relu.result) == (estimates.NOT_DECIDED, "0 of 1 ReLU nets and 3 of 3 tanh nets")
    assert summarise("fig1_relu_vs_tanh", relu).verdict == estimates.NOT_RUN


def test_depth_must_hold_for_every_layer():
    def summary(*errors):
        runs = [a_run(seed, 0.4, 0.40 + 0.001 * seed) for seed in range(3)]
        for layer, error in zip(("conv2", "conv3", "conv4", "conv5"), errors, strict=True):
            runs += [a_run(seed, 0.5, error + 0.001 * seed, **{"model.without": layer}) for seed in range(3)]
        return summarise("depth", runs)

    assert (summary(0.42, 0.45, 0.5, 0.43).verdict, summary(0.42, 0.45, 0.5, 0.43).result) == (
        estimates.SUPPORTED,
        "without conv2 +2.0, without conv3 +5.0, without conv4 +10.0, without conv5 +3.0 points",
    )
    assert summary(0.42, 0.45, 0.5, 0.38).verdict == estimates.CONTRADICTED
    assert summary(0.42, 0.45, 0.5, 0.4002).verdict == estimates.NOT_DECIDED


@pytest.mark.parametrize("rate", [{}, dropout.HALF_RATE])
def test_overfitting_counts_only_if_the_error_is_not_lower(rate):
    def summary(error_without):
        runs = [a_run(seed, 0.40 + 0.01 * seed, 0.38, **rate) for seed in range(3)]
        runs += [a_run(seed, 0.45, error_without, **dropout.WITHOUT, **rate) for seed in range(3)]
        training = [0.35, 0.365, 0.37, 0.10, 0.11, 0.12]
        measured = {run.name: {"center": {"top1_error": err}} for run, err in zip(runs, training, strict=True)}
        assert summarise("dropout", runs, {}).verdict == estimates.NOT_RUN
        return summarise("dropout", runs, measured)

    assert summary(0.43).verdict == estimates.SUPPORTED
    assert [row[4] for row in summary(0.43).table[1:]] == ["4.8 ± 0.3", "34.0 ± 1.0"]
    assert summary(0.36).verdict == estimates.NOT_DECIDED
    assert summary(0.36).result.endswith(" points more overfitting, but an error 2.0 points lower")


def test_an_ensemble_must_beat_each_of_its_nets():
    singles = [a_run(seed, 0.40, 0.38) for seed in range(3)]
    together = {"ten_crop": {"top1_error": 0.36, "top5_error": 0.1}}
    measured = {"members": [run.name for run in singles], "together": together}
    assert summarise("table2", singles, measured).verdict == estimates.SUPPORTED
    together["ten_crop"]["top1_error"] = 0.38
    assert summarise("table2", singles, measured).verdict == estimates.NOT_DECIDED
    together["ten_crop"]["top1_error"] = 0.39
    assert summarise("table2", singles, measured).verdict == estimates.CONTRADICTED
    assert summarise("table2", singles[:2], measured).verdict == estimates.NOT_RUN


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
    """A measurement of 2 × 48 kernels with equal energies; the share of colour in the first tower is a third."""
    share = np.repeat([1 / 3, share_of_tower_1], 48) + np.linspace(-0.01, 0.01, 96)
    kernels = base64.b64encode(np.ones((11, 11, 3, 96), np.float16).tobytes()).decode()
    return {"share": share.tolist(), "energy": [1.0] * 96, "kernels": kernels}


@pytest.mark.parametrize(
    ("shares", "verdict", "result"),
    [
        ([0.1, 0.7, 0.15], estimates.SUPPORTED, "3 of 3 runs"),
        # a significant difference of less than a factor of two
        pytest.param([0.1, 0.25, 0.15], estimates.NOT_DECIDED, "2 of 3 runs", marks=pytest.mark.slow),
        pytest.param([0.3, 0.3, 0.3], estimates.NOT_DECIDED, "0 of 3 runs", marks=pytest.mark.slow),
    ],
)
def test_towers_must_be_specialised_in_every_run(shares, verdict, result):
    runs = [a_run(seed, 0.4, 0.4) for seed in range(3)]
    measured = {run.name: measured_kernels(share) for run, share in zip(runs, shares, strict=True)}
    summary = summarise("fig3_kernels", runs, measured)
    assert (summary.verdict, summary.result) == (verdict, result)
    assert [row[2] for row in summary.table[1:]] == [estimates.percent(share + 0.005) for share in shares]
    assert set(summary.pictures) == {"seed_0", "seed_1", "seed_2"}


def test_a_difference_as_between_random_halves_decides_nothing():
    runs, measured = [a_run(0, 0.4, 0.4)], measured_kernels(0.3)
    # Two kernels have most of the energy; they are in different halves in half of all divisions.
    measured["energy"] = ([1.0] + [0.001] * 47) * 2
    measured["share"] = [0.6] + [0.4] * 47 + [0.2] + [0.4] * 47
    summary = summarise("fig3_kernels", runs, {runs[0].name: measured})
    assert summary.table[1][1:3] == ["59.1", "20.9"] and float(summary.table[1][3]) > 0.05
    assert summary.verdict == estimates.NOT_DECIDED


def test_table_1_compares_only_on_the_images_of_the_other_methods():
    assert summarise("table1", [a_run(0, 0.3, 0.3)]).verdict == estimates.NOT_DECIDED
    assert summarise("table1", [a_run(0, 0.4, 0.375, data="imagenet2010")]).verdict == estimates.SUPPORTED
    worse = [a_run(0, 0.4, 0.375, data="imagenet2010"), a_run(1, 0.5, 0.47, data="imagenet2010")]
    assert summarise("table1", worse).verdict == estimates.CONTRADICTED
    assert summarise("table1", []).verdict == estimates.NOT_RUN


@pytest.mark.parametrize(
    ("name", "first", "other", "third"),
    [
        ("two_gpus", {}, {"model.net": "one_gpu", "mesh.model": 1}, {"model.net": "separate"}),
        (
            "lrn_cifar10",
            {"model.net": "cifar10_11pct"},
            {"model.net": "cifar10_11pct_no_norm"},
            {"model.net": "cifar10_13pct"},
        ),
        (
            "pretraining",
            SIXTH | {"init_from": "pretrained/model.net=sixth_conv,seed=SEED"},
            SIXTH,
            {},
        ),
    ],
)
def test_a_third_net_is_shown_and_decides_nothing(name, first, other, third):
    claim = claims.CLAIMS[name]

    def made_runs(of_first, of_other, of_third):
        nets = zip((first, other, third), (of_first, of_other, of_third), strict=True)
        return [made(fields, seed, error) for fields, error in nets for seed in range(3)]

    def made(fields, seed, error):
        settings = with_seed(fields, seed)
        return a_run(settings.pop("seed"), error, error + 0.001 * seed, **settings)

    members = {frozenset(member.items()) for member in claim.sweep.members("laptop")}
    assert {frozenset(run.settings.items()) for run in made_runs(0, 0, 0)} == members
    assert claim.summary(made_runs(0.3, 0.4, 0.2)).verdict == estimates.SUPPORTED
    assert claim.summary(made_runs(0.4, 0.3, 0.5)).verdict == estimates.CONTRADICTED
    assert claim.summary(made_runs(0.3, 0.4, 0.2)).result.startswith("+10.0 (+9.8 to +10.2)")
    assert len(claim.summary(made_runs(0.3, 0.4, 0.2)).table) == 4
    assert claim.summary(made_runs(0.3, 0.4, 0.2)[:6]).verdict == estimates.SUPPORTED
    assert claim.summary(made_runs(0.3, 0.4, 0.2)[:3]).verdict == estimates.NOT_RUN


def test_figure_4_compares_features_with_pixels():
    runs = [a_run(seed, 0.4, 0.4, data="textures") for seed in range(2)]
    shown = {"query": 0, "class": "a", "neighbours": [3, 4, 5, 6, 7, 8]}
    shown["predictions"] = [{"class": name, "name": name, "probability": 0.2} for name in "abcde"]
    features = (0.9, 0.92)
    measured = {
        run.name: {"same_class": {"features": share, "pixels": 0.3}, "both": 0.1, "shown": [shown]}
        for run, share in zip(runs, features, strict=True)
    }
    summary = summarise("fig4_retrieval", runs, measured)
    assert (summary.verdict, summary.result) == (estimates.SUPPORTED, "91.0 % by features, 30.0 % by pixels")
    assert "; chance is 5.0 %." in summary.statement and list(summary.pictures) == ["neighbours"]
    for run, share in zip(runs, (0.1, 0.12), strict=True):
        measured[run.name]["same_class"]["features"] = share
    assert summarise("fig4_retrieval", runs, measured).verdict == estimates.CONTRADICTED
