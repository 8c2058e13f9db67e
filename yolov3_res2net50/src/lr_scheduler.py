"""Learning rates of YOLOv3-Res2Net50: one for each step of the run, from the recipe."""

from __future__ import annotations

import numpy as np

from .model_utils.config import Config
from .model_utils.errors import require_range
from .model_utils.schedules import warmup_cosine_annealing_lr, warmup_step_lr


def get_lr(config: Config, steps_per_epoch: int) -> np.ndarray:
    """The schedule of a recipe: one float32 learning rate for each step of the run; T_max is max_epoch at least.

    Raises:
        UsageError: a number of epochs or a learning rate that cannot be.
    """
    require_range(low=1, max_epoch=config.max_epoch, T_max=config.T_max)
    require_range(low=0, lr_epochs=config.lr_epochs, lr_gamma=config.lr_gamma, eta_min=config.eta_min)
    common = (config.lr, steps_per_epoch, config.max_epoch)
    if config.lr_scheduler == "cosine_annealing":
        period = max(config.T_max, config.max_epoch)
        return warmup_cosine_annealing_lr(*common, period, config.eta_min, config.warmup_epochs)
    return warmup_step_lr(*common, config.lr_epochs, config.lr_gamma, config.warmup_epochs)
