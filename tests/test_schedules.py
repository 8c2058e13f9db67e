"""Learning-rate schedules against values that were computed by hand, in float64."""

from __future__ import annotations

import math

from model_utils.errors import UsageError
from model_utils.schedules import linear_warmup, warmup_cosine_annealing_lr, warmup_step_lr

import numpy as np
import pytest

HALF = math.sqrt(0.5)  # cos(pi / 4)


def test_linear_warmup():
    """The last step of the warm-up has the whole rate."""
    assert [linear_warmup(step, 4, 0.4) for step in range(4)] == pytest.approx([0.1, 0.2, 0.3, 0.4], rel=1e-15)


@pytest.mark.parametrize(
    "arguments, wanted",
    [
        # rate, steps of an epoch, epochs, milestones, gamma, epochs of warm-up
        ((0.1, 1, 4, [], 0.1), [0.1, 0.1, 0.1, 0.1]),
        ((0.1, 2, 3, [1, 2], 0.5), [0.1, 0.1, 0.05, 0.05, 0.025, 0.025]),
        ((0.1, 1, 4, [2, 1], 0.1), [0.1, 0.01, 0.001, 0.001]),
        ((0.1, 1, 3, [1, 1], 0.1), [0.1, 0.001, 0.001]),
        ((0.1, 1, 3, [0], 0.1), [0.01, 0.01, 0.01]),
        ((0.1, 1, 2, [2, 9], 0.1), [0.1, 0.1]),
        ((0.1, 1, 3, [1], 0.0), [0.1, 0.0, 0.0]),
        ((0.4, 2, 4, [3], 0.5, 2), [0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.2, 0.2]),
        ((0.4, 2, 3, [1], 0.5, 2), [0.1, 0.2, 0.3, 0.4, 0.2, 0.2]),
        ((0.4, 2, 1, [], 0.5, 2), [0.1, 0.2]),
        ((0.0, 1, 2, [1], 0.5), [0.0, 0.0]),
    ],
)
def test_steps(arguments, wanted):
    rates = warmup_step_lr(*arguments)
    assert rates.dtype == np.float32 and rates.shape == (len(wanted),)
    np.testing.assert_allclose(rates, wanted, rtol=1e-7)


def test_steps_of_a_long_run():
    rates = warmup_step_lr(0.1, 3, 500, [70, 140, 210, 280], 0.3)
    assert rates.shape == (1500,)
    values = {0: 0.1, 69: 0.1, 70: 0.03, 139: 0.03, 140: 0.009, 210: 0.0027, 280: 0.00081, 499: 0.00081}
    for epoch, wanted in values.items():
        np.testing.assert_allclose(rates[3 * epoch : 3 * epoch + 3], wanted, rtol=1e-6)
    rates = warmup_step_lr(0.001, 3, 320, [220, 250], 0.1, 1)
    wanted = [0.001 / 3, 0.001, 0.001, 0.001, 1e-4, 1e-4, 1e-5, 1e-5]
    np.testing.assert_allclose(rates[[0, 2, 3, 659, 660, 749, 750, 959]], wanted, rtol=1e-6)


@pytest.mark.parametrize(
    "arguments, wanted",
    [
        # rate, steps of an epoch, epochs, period, smallest rate, epochs of warm-up
        ((0.8, 1, 5, 4), [0.8, 0.4 + 0.4 * HALF, 0.4, 0.4 - 0.4 * HALF, 0.0]),
        ((0.8, 1, 5, 4, 0.2), [0.8, 0.5 + 0.3 * HALF, 0.5, 0.5 - 0.3 * HALF, 0.2]),
        ((0.8, 2, 3, 2), [0.8, 0.8, 0.4, 0.4, 0.0, 0.0]),
        ((0.8, 1, 2, 4), [0.8, 0.4 + 0.4 * HALF]),
        ((0.8, 1, 5, 2), [0.8, 0.4, 0.0, 0.4, 0.8]),
        ((0.8, 2, 3, 4, 0.2, 1), [0.4, 0.8] + [0.5 + 0.3 * HALF] * 2 + [0.5] * 2),
        ((0.1, 1, 3, 3, 0.1), [0.1, 0.1, 0.1]),
        ((0.0, 1, 3, 2, 0.1), [0.0, 0.05, 0.1]),
    ],
)
def test_cosine(arguments, wanted):
    """All steps of an epoch have one rate; the epochs of the warm-up count; beyond the period the rate rises again."""
    rates = warmup_cosine_annealing_lr(*arguments)
    assert rates.dtype == np.float32 and rates.shape == (len(wanted),)
    np.testing.assert_allclose(rates, wanted, rtol=1e-7, atol=1e-17)


def test_cosine_of_a_long_run():
    rates = warmup_cosine_annealing_lr(0.1, 2, 150, 150, 0.0, 5)
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 100, rtol=1e-6)
    np.testing.assert_allclose(rates[10:12], 0.0997261, rtol=1e-6)
    np.testing.assert_allclose(rates[298:], 1.09658e-5, rtol=1e-5)
    rates = warmup_cosine_annealing_lr(0.001, 2, 320, 320, 0.0, 4)
    values = {7: 0.001, 8: 0.001 * 0.999614, 320: 0.0005, 638: 2.409552e-8, 639: 2.409552e-8}
    np.testing.assert_allclose(rates[list(values)], list(values.values()), rtol=1e-5)


STEP = {"base_lr": 0.1, "steps_per_epoch": 2, "epochs": 3, "milestones": [1], "gamma": 0.5, "warmup_epochs": 1}
COSINE = {"base_lr": 0.1, "steps_per_epoch": 2, "epochs": 3, "t_max": 3, "eta_min": 0.0, "warmup_epochs": 1}


@pytest.mark.parametrize(
    "change, text",
    [
        ({"epochs": 0}, "epochs=0: 1 or more is accepted"),
        ({"base_lr": -0.1}, "lr=-0.1: 0 or more is accepted"),
        ({"base_lr": math.nan}, "lr=nan: 0 or more is accepted"),
        ({"gamma": -1}, "lr_gamma=-1"),
        ({"milestones": [1, -2]}, r"lr_epochs=\[1, -2\]"),
        ({"warmup_epochs": -1}, "warmup_epochs=-1"),
    ],
)
def test_steps_that_cannot_be(change, text):
    warmup_step_lr(**STEP)
    with pytest.raises(UsageError, match=text):
        warmup_step_lr(**{**STEP, **change})


@pytest.mark.parametrize(
    "change, text",
    [
        ({"epochs": 0}, "epochs=0: 1 or more is accepted"),
        ({"t_max": 0}, "T_max=0: 1 or more is accepted"),
        ({"base_lr": -0.1}, "lr=-0.1"),
        ({"eta_min": -1e-9}, "eta_min=-1e-09"),
        ({"eta_min": math.inf}, "eta_min=inf"),
        ({"warmup_epochs": -1}, "warmup_epochs=-1"),
    ],
)
def test_cosines_that_cannot_be(change, text):
    warmup_cosine_annealing_lr(**COSINE)
    with pytest.raises(UsageError, match=text):
        warmup_cosine_annealing_lr(**{**COSINE, **change})
