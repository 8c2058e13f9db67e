"""Learning-rate schedules: pure functions from the recipe to one learning rate for each step of the run.

All start with `warmup_epochs` of linear warm-up: step i of W warm-up steps has base * (i + 1) / W.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .model_utils.config import Config, UsageError


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
    """Multiply by gamma at the first step of each milestone epoch (counted from 0); float32 (epochs * steps_per_epoch,)."""
    warmup_steps = warmup_epochs * steps_per_epoch
    rates = []
    for step in range(epochs * steps_per_epoch):
        if step < warmup_steps:
            rates.append(linear_warmup(step, warmup_steps, base_lr))
        else:
            passed = sum(1 for milestone in milestones if step >= milestone * steps_per_epoch)
            rates.append(base_lr * gamma**passed)
    return np.array(rates, np.float32)


def warmup_cosine_annealing_lr(
    base_lr: float,
    steps_per_epoch: int,
    epochs: int,
    t_max: int,
    eta_min: float = 0.0,
    warmup_epochs: int = 0,
) -> np.ndarray:
    """eta_min + (base_lr - eta_min) (1 + cos(pi e / t_max)) / 2 in epoch e (from 0); float32 (epochs * steps_per_epoch,).

    Source: Loshchilov and Hutter, SGDR, 2017, equation 5, without restarts and with one value for each epoch.
    """
    warmup_steps = warmup_epochs * steps_per_epoch
    rates = []
    for step in range(epochs * steps_per_epoch):
        if step < warmup_steps:
            rates.append(linear_warmup(step, warmup_steps, base_lr))
        else:
            cosine = math.cos(math.pi * (step // steps_per_epoch) / t_max)
            rates.append(eta_min + (base_lr - eta_min) * (1 + cosine) / 2)
    return np.array(rates, np.float32)


def get_lr(config: Config, steps_per_epoch: int) -> np.ndarray:
    """The schedule of a recipe: one float32 learning rate for each step of the run; T_max is max_epoch at least.

    Raises:
        UsageError: a number of epochs or a learning rate that cannot be.
    """
    for key in ("max_epoch", "T_max"):
        if config[key] < 1:
            raise UsageError(f"{key}={config[key]}: 1 or more is accepted")
    if config.warmup_epochs < 0 or config.lr < 0:
        raise UsageError(f"lr={config.lr} warmup_epochs={config.warmup_epochs}: 0 or more is accepted")
    common = (config.lr, steps_per_epoch, config.max_epoch)
    if config.lr_scheduler == "cosine_annealing":
        period = max(config.T_max, config.max_epoch)
        return warmup_cosine_annealing_lr(*common, period, config.eta_min, config.warmup_epochs)
    return warmup_step_lr(*common, config.lr_epochs, config.lr_gamma, config.warmup_epochs)
