"""The update rule beside NumPy, and the schedules."""

import jax
import numpy as np
import optax
import pytest

from alexnet_jax import UserError
from alexnet_jax.model import nets
from alexnet_jax.training import fidelity, optimizer, schedules
from configs import large_batch, two_gpu
from tests.references import numpy_net
from tests.support import rates_of

NET = nets.NETS["two_gpu"]


def settings(kind="paper", name="steps", **fields):
    config = two_gpu.get_config()
    config.fidelity, config.schedule.name = kind, name
    config.schedule.update(fields)
    return fidelity.resolve(config)


def rates(config, epochs, layer="fc6", leaf="kernel"):
    """A parameter's rates at these epochs."""
    return [rates_of(config, NET, epoch)[layer][leaf] for epoch in epochs]


def test_update_is_the_rule_of_2012_with_rates_that_change_and_freeze():
    rng = np.random.default_rng(0)
    w = {"conv1": {"kernel": rng.normal(size=(4, 3)), "bias": rng.normal(size=3)}}
    decays = {"conv1": {"kernel": 0.0005, "bias": 0.0}}
    v = jax.tree.map(np.zeros_like, w)
    params, sgd = jax.tree.map(np.float32, w), optimizer.sgd(decays)
    state = sgd.init(params)
    for kernel, bias in ((0.01, 0.02), (0.01, 0.02), (0.5, 0.02), (0.0, 0.02), (0.001, 0.0), (0.0, 0.0)):
        epsilon = {"conv1": {"kernel": kernel, "bias": bias}}
        gradient = jax.tree.map(lambda x: rng.normal(size=x.shape), w)
        w, v = numpy_net.sgd(w, v, gradient, epsilon, decays)
        updates, state = sgd.update(jax.tree.map(np.float32, gradient), state, params, learning_rates=epsilon)
        params = optax.apply_updates(params, updates)
        for ours, expected in zip(jax.tree.leaves((params, state)), jax.tree.leaves((w, v)), strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-7)


def test_lars_is_that_of_optax_for_kernels():
    rng = np.random.default_rng(0)
    params = {"conv1": {"kernel": rng.normal(size=(4, 3)), "bias": np.zeros(3)}}  # where optax's ratio would be 1
    params = jax.tree.map(np.float32, params)
    ours = optimizer.lars({"conv1": {"kernel": 0.0005, "bias": 0.1}})
    kernels = {"conv1": {"kernel": True, "bias": False}}
    decays = optax.add_decayed_weights(0.1, {"conv1": {"kernel": False, "bias": True}})
    theirs = optax.chain(decays, optax.lars(10.0, 0.0005, kernels, 0.001, 0.0, kernels, 0.9))
    state, their_state, their_params = ours.init(params), theirs.init(params), params
    for _ in range(3):
        gradient = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)
        rates = {"conv1": {"kernel": 10.0, "bias": 10.0}}
        updates, state = ours.update(gradient, state, params, learning_rates=rates)
        params = optax.apply_updates(params, updates)
        updates, their_state = theirs.update(gradient, their_state, their_params)
        their_params = optax.apply_updates(their_params, updates)
        for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(their_params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_biases_decay_as_the_fidelity_says():
    assert optimizer.weight_decays(settings("paper").optimizer, NET)["conv2"] == {"kernel": 0.0005, "bias": 0.0005}
    assert optimizer.weight_decays(settings("code").optimizer, NET)["conv2"] == {"kernel": 0.0005, "bias": 0.0}
    decays = optimizer.weight_decays(settings("code").optimizer, nets.NETS["cifar10_18pct"])
    assert [layer["kernel"] for layer in decays.values()] == [0.004, 0.004, 0.004, 1.0]


def test_steps_divide_at_the_given_epochs():
    config, epochs = settings("paper", "steps", epochs=(2.0, 5.0)), (0, 1.99, 2, 4.9, 5, 80)
    for leaf in ("kernel", "bias"):
        assert rates(config, epochs, leaf=leaf) == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])
    assert rates(settings("code", "steps", epochs=(2.0, 5.0)), epochs, leaf="bias") == pytest.approx([0.02] * 6)


def test_plateau_divides_three_times_when_the_error_stops_improving():
    config = settings("paper", "plateau", patience=2)
    rates, found = schedules.LearningRates(config, NET), []
    state = rates.schedule.init
    for error in (0.9, 0.8, 0.8, 0.79, 0.8, 0.79, 0.78, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9):
        state = rates.schedule.observe(state, error)
        found.append(rates(state, 0)["fc8"]["bias"])
    assert found == pytest.approx([0.01] * 5 + [0.001] * 3 + [0.0001] * 2 + [0.00001] * 5)
    assert state["best_error"] == 0.78


def test_the_schedule_of_net_145():
    config = settings("code", None)
    assert (config.schedule.name, config.num_epochs, config.augment.noise_off_at) == ("hand", 91, 67)
    epochs = (0, 24.9, 25, 51, 66.9, 67, 72, 79, 90.9)
    expected = [0.01, 0.01, 0.001, 0.0001, 0.0001, 0.0001, 0.0001, 0.00001, 0.00001]
    assert rates(config, epochs) == pytest.approx(expected)
    assert rates(config, epochs, "conv1") == pytest.approx([0.01, 0.01, 0.001, 0.0001, 0.0001, 0.00001, 0, 0, 0])
    assert rates(config, epochs, leaf="bias") == pytest.approx([0.02] * 9)
    assert rates(config, epochs, "conv1", "bias") == pytest.approx([0.02] * 6 + [0] * 3)


def test_the_automatic_schedule_of_net_170():
    config = settings("code", "automatic")
    assert (config.num_epochs, config.augment.noise_off_at) == (95, 68)
    expected = [0.01 / 250 ** (i / 3) for i in (0, 0, 1, 1, 2, 2, 3, 3)]
    assert rates(config, (0, 23.75, 23.8, 47.5, 47.6, 71.25, 71.3, 95)) == pytest.approx(expected)  # the ends: still
    assert rates(config, (0, 47.5, 47.6, 95), leaf="bias") == pytest.approx([0.02, 0.02, 0.002, 0.002])
    assert rates(config, (73.9, 74, 95), "conv1") == pytest.approx([0.01 / 250, 0, 0])
    assert rates(config, (73.9, 74, 95), "conv1", "bias") == pytest.approx([0.002, 0, 0])


@pytest.mark.parametrize(("steps", "per_epoch"), [(12, 7), (396, 30), (1000, 11)])
def test_equal_steps_are_equal_for_any_length(steps, per_epoch):
    parts = [schedules.equal_steps(4, (step / per_epoch) / (steps / per_epoch)) for step in range(steps)]
    assert [parts.count(part) for part in range(4)] == [steps // 4 + 1, steps // 4, steps // 4, steps // 4 - 1]


def test_polynomial_decay_after_a_warm_up():
    config = fidelity.resolve(large_batch.get_config())
    epochs = (0, 2.5, 5, 50, 100)
    assert rates(config, epochs) == pytest.approx([0, 5 * 0.975**2, 10 * 0.95**2, 2.5, 0])
    assert rates(config, epochs, leaf="bias") == pytest.approx([0, 0.005 * 0.975**2, 0.01 * 0.95**2, 0.0025, 0])


def test_layers_have_rates_of_their_own():
    config = settings("code", "steps", epochs=())
    config.optimizer.layer_rates = "conv1=0 fc8=10"
    found = rates_of(config, NET, 3)
    assert found["conv1"] == {"kernel": 0, "bias": 0}
    assert found["conv2"] == {"kernel": 0.01, "bias": 0.02}
    assert found["fc8"] == pytest.approx({"kernel": 0.1, "bias": 0.2})


@pytest.mark.parametrize("text", ["fc9=1", "fc8", "fc8=1 conv1=1 fc8=2", "fc8=fast", "fc8=-1", "fc8=inf"])
def test_impossible_layer_rates_are_refused(text):
    with pytest.raises(UserError, match="config.optimizer.layer_rates"):
        schedules.layer_factors(text, NET)
