"""The schedules against golden values."""

from src.lr_scheduler import get_lr, warmup_cosine_annealing_lr, warmup_step_lr
from src.model_utils.config import UsageError
from src.recipe import read_config

import numpy as np
import pytest


def test_documented_step_schedule():
    rates = get_lr(read_config([], ""), 3)
    assert rates.dtype == np.float32 and rates.shape == (1500,)
    for epoch, expected in [
        (0, 0.1),
        (69, 0.1),
        (70, 0.03),
        (140, 0.009),
        (210, 0.0027),
        (280, 0.00081),
        (499, 0.00081),
    ]:
        np.testing.assert_allclose(rates[3 * epoch : 3 * epoch + 3], expected, rtol=1e-6)


def test_cosine_golden_values():
    rates = warmup_cosine_annealing_lr(0.1, 2, 150, 150, 0.0, warmup_epochs=5)
    np.testing.assert_allclose(rates[:10], 0.1 * np.arange(1, 11) / 10, rtol=1e-6)
    np.testing.assert_allclose(rates[10:12], 0.0997261, rtol=1e-6)
    np.testing.assert_allclose(rates[298:], 1.09658e-5, rtol=1e-5)
    assert warmup_cosine_annealing_lr(0.001, 1, 320, 320, 0.0, 4)[319] == pytest.approx(2.4095520e-08, rel=1e-5)


def test_cosine_ends_at_eta_min():
    assert warmup_cosine_annealing_lr(0.1, 1, 11, 10, 0.01)[-1] == pytest.approx(0.01)


def test_step_warmup():
    np.testing.assert_allclose(
        warmup_step_lr(0.4, 2, 4, [3], 0.5, warmup_epochs=2), [0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.2, 0.2]
    )


@pytest.mark.parametrize(
    "option", [["--epoch_size", "0"], ["--T_max", "0"], ["--warmup_epochs", "-1"], ["--lr_init=-1"]]
)
def test_impossible_values(option):
    with pytest.raises(UsageError, match=option[0].lstrip("-").split("=")[0]):
        get_lr(read_config(option, ""), 1)
