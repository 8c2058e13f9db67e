# Shared file: source utils/model_utils/schedules.py; copy with: python scripts/sync_model_utils.py --write
"""Learning-rate schedules: pure functions to one learning rate for each step of a run, float32 (epochs * steps_per_epoch,).

All start with `warmup_epochs` of linear warm-up: step i of W warm-up steps has base_lr * (i + 1) / W.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .errors import UsageError, require_range


def linear_warmup(step: int, warmup_steps: int, base_lr: float) -> float:
    """Learning rate of warm-up step `step` (from 0)."""
    return base_lr * (step + 1) / warmup_steps


def warmup_step_lr(
    base_lr: float,
    steps_per_epoch: int,
    epochs: int,
    milestones: Sequence[int],
    gamma: float,
    warmup_epochs: int = 0,
) -> np.ndarray:
    """Multiply by gamma at the first step of each milestone epoch (counted from 0).

    Raises:
        UsageError: no epoch, negative rates or numbers, rates that float32 does not hold.
    """
    require_range(low=1, epochs=epochs)
    require_range(low=0, lr=base_lr, lr_gamma=gamma, lr_epochs=list(milestones), warmup_epochs=warmup_epochs)
    warmup_steps = warmup_epochs * steps_per_epoch
    rates = []
    for step in range(epochs * steps_per_epoch):
        if step < warmup_steps:
            rates.append(linear_warmup(step, warmup_steps, base_lr))
        else:
            passed = sum(1 for milestone in milestones if step >= milestone * steps_per_epoch)
            rates.append(base_lr * _power(gamma, passed))
    return as_float32(rates)


def warmup_cosine_annealing_lr(
    base_lr: float,
    steps_per_epoch: int,
    epochs: int,
    t_max: int,
    eta_min: float = 0.0,
    warmup_epochs: int = 0,
) -> np.ndarray:
    """eta_min + (base_lr - eta_min) (1 + cos(pi e / t_max)) / 2 in epoch e (from 0), the same for all its steps.

    Source: Loshchilov and Hutter, SGDR, 2017, equation 5, without restarts.

    Raises:
        UsageError: no epoch, a period below 1, negative rates or numbers, rates that float32 does not hold.
    """
    require_range(low=1, epochs=epochs, T_max=t_max)
    require_range(low=0, lr=base_lr, eta_min=eta_min, warmup_epochs=warmup_epochs)
    warmup_steps = warmup_epochs * steps_per_epoch
    rates = []
    for step in range(epochs * steps_per_epoch):
        if step < warmup_steps:
            rates.append(linear_warmup(step, warmup_steps, base_lr))
        else:
            cosine = math.cos(math.pi * (step // steps_per_epoch) / t_max)
            rates.append(eta_min + (base_lr - eta_min) * (1 + cosine) / 2)
    return as_float32(rates)


def as_float32(rates: Sequence[float] | np.ndarray) -> np.ndarray:
    """Learning rates in float32; UsageError where that does not hold them."""
    with np.errstate(over="ignore"):
        values = np.array(rates, np.float32)
    if not np.isfinite(values).all():
        raise UsageError(
            f"learning rates up to {max(rates):g}: float32 does not hold them; lower lr, eta_min, lr_gamma or head_lr_factor"
        )
    return values


def _power(number: float, exponent: int) -> float:
    """Python's own power, infinite where that would be an OverflowError."""
    try:
        return number**exponent
    except OverflowError:
        return math.inf
