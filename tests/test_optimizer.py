"""The update rule beside NumPy, and the two schedules."""

import jax
import numpy as np
import optax
import pytest

from alexnet_jax import optimizer
from configs import two_gpu


def test_update_is_the_papers_rule_with_a_changing_rate():
    rng = np.random.default_rng(0)
    w = {"kernel": rng.normal(size=(4, 3)), "bias": rng.normal(size=3)}
    v = {name: np.zeros_like(value) for name, value in w.items()}
    params, sgd = jax.tree.map(np.float32, w), optimizer.sgd()
    state = sgd.init(params)
    for rate in (0.01, 0.01, 0.5, 0.001, 0.0):
        gradient = {name: rng.normal(size=value.shape) for name, value in w.items()}
        for name in w:
            v[name] = 0.9 * v[name] - 0.0005 * rate * w[name] - rate * gradient[name]
            w[name] = w[name] + v[name]
        updates, state = sgd.update(jax.tree.map(np.float32, gradient), state, params, learning_rate=rate)
        params = optax.apply_updates(params, updates)
        for name in w:
            np.testing.assert_allclose(params[name], w[name], rtol=1e-5, atol=1e-7)


def test_steps_divide_at_the_given_epochs():
    config = two_gpu.get_config().schedule
    config.name, config.epochs = "steps", (2.0, 5.0)
    rates = [optimizer.learning_rate(config, optimizer.init_schedule(), epoch) for epoch in (0, 1.99, 2, 4.9, 5, 80)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])


def test_plateau_divides_three_times_when_the_error_stops_improving():
    config = two_gpu.get_config().schedule
    config.name, config.patience = "plateau", 2
    schedule, rates = optimizer.init_schedule(), []
    for error in (0.9, 0.8, 0.8, 0.79, 0.8, 0.79, 0.78, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9):
        schedule = optimizer.observe(config, schedule, error)
        rates.append(optimizer.learning_rate(config, schedule, epoch=0))
    assert rates == pytest.approx([0.01] * 5 + [0.001] * 3 + [0.0001] * 2 + [0.00001] * 5)
    assert schedule["best_error"] == 0.78
