"""Learning rates of DarkNet53: one for each step of the run, from the recipe."""

from __future__ import annotations

import numpy as np

from .model_utils.config import Config
from .model_utils.errors import UsageError, require_range
from .model_utils.schedules import warmup_cosine_annealing_lr


def get_lr(config: Config, steps_per_epoch: int) -> np.ndarray:
    """The schedule of a recipe: one float32 learning rate for each step, without the first pretrained_epoch_num epochs.

    Raises:
        UsageError: a number of epochs or a learning rate that cannot be.
    """
    require_range(low=1, epoch_num=config.epoch_num)
    done, epochs = config.pretrained_epoch_num, config.epoch_num
    if not 0 <= done < epochs:
        raise UsageError(f"pretrained_epoch_num={done}: 0 or more and below epoch_num={epochs} is accepted")
    rates = warmup_cosine_annealing_lr(
        config.lr, steps_per_epoch, epochs, config.T_max, config.eta_min, config.warmup_epochs
    )
    return rates[done * steps_per_epoch :]
