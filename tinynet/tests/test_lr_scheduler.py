"""The learning rates of the recipe, which fall from epoch to epoch in steps, after a warm-up in steps."""

from __future__ import annotations

from src.lr_scheduler import get_lr
from src.model_utils.dataset_checks import require_steps
from src.recipe import read_config

import numpy as np
import pytest


def rates(text: str = "", steps: int = 4) -> np.ndarray:
    return get_lr(read_config(text.split(), ""), steps)


def test_rates_of_the_documented_recipe():
    """Warm-up in three steps; then a factor of 0.97 for every 2.4 epochs, those of the warm-up counted too."""
    found = rates()
    assert found.shape == (1800,) and found.dtype == np.float32
    assert found[: 4 * 6 : 4] == pytest.approx([1e-6, 0.0160007, 0.0320003, 0.04656, 0.04656, 0.0451632], rel=3e-6)
    assert found[-1] == pytest.approx(1.6127e-4, rel=1e-5)
    assert np.all(found.reshape(450, 4) == found[::4, None]), "all steps of an epoch are alike"
    assert require_steps(1281167, 128, 8) == 1251, "steps of an epoch on eight devices, as documented"


def test_options_of_the_rates():
    """A rate of decay above 1 divides; without a warm-up the first epoch has the whole rate."""
    np.testing.assert_allclose(rates(f"--decay-rate {1 / 0.97!r}"), rates(), rtol=1e-5)
    assert rates("--warmup-epochs 0 --epochs 3", steps=1) == pytest.approx([0.048] * 3)
    halved = rates("--warmup-epochs 2 --warmup-lr 0.1 --lr 0.3 --epochs 6 --decay-epochs 2 --dr 0.5", steps=1)
    assert halved == pytest.approx([0.1, 0.2, 0.15, 0.15, 0.075, 0.075])
