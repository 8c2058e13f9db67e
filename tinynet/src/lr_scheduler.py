"""Learning-rate schedule: from the recipe to one learning rate for each step of the run."""

from __future__ import annotations

import math

import numpy as np

from .model_utils.config import Config
from .model_utils.errors import require_range


def exponential_lr(
    base_lr: float,
    steps_per_epoch: int,
    epochs: int,
    decay_epochs: float,
    decay_rate: float,
    warmup_lr: float = 0.0,
    warmup_epochs: int = 0,
) -> np.ndarray:
    """base_lr * decay_rate ** floor(e / decay_epochs) in epoch e (from 0), after a warm-up; float32 (epochs * steps,).

    Epoch e of the warm-up has warmup_lr + e (base_lr - warmup_lr) / warmup_epochs. The decay counts the epochs of the
    warm-up too. A decay_rate above 1 is the factor by which the rate is divided. All steps of an epoch are alike.
    """
    decay_rate = 1 / decay_rate if decay_rate > 1 else decay_rate
    rates = []
    for epoch in range(epochs):
        if epoch < warmup_epochs:
            rates.append(warmup_lr + epoch * (base_lr - warmup_lr) / warmup_epochs)
        else:
            rates.append(base_lr * decay_rate ** math.floor(epoch / decay_epochs))
    return np.repeat(np.array(rates, np.float32), steps_per_epoch)


def get_lr(config: Config, steps_per_epoch: int) -> np.ndarray:
    """The schedule of a recipe: one float32 learning rate for each step of the run.

    Raises:
        UsageError: a number of epochs or a rate that cannot be.
    """
    require_range(low=1, epochs=config.epochs)
    require_range(above=0, decay_epochs=config.decay_epochs, decay_rate=config.decay_rate)
    require_range(low=0, lr=config.lr, warmup_lr=config.warmup_lr, warmup_epochs=config.warmup_epochs)
    return exponential_lr(
        config.lr, steps_per_epoch, config.epochs, config.decay_epochs, config.decay_rate, config.warmup_lr,
        config.warmup_epochs,
    )  # fmt: skip
