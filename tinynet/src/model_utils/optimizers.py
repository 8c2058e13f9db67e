# Shared file: source utils/model_utils/optimizers.py; copy with: python scripts/sync_model_utils.py --write
"""What the optimizers of all recipes have in common: parameter groups, and momentum SGD over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, nn

from .errors import require_range
from .schedules import as_float32

NO_WEIGHT_DECAY = (".bias", ".gamma", ".beta")


def momentum_sgd(
    network: nn.Cell,
    learning_rates: np.ndarray,
    *,
    momentum: float,
    weight_decay: float,
    head: Callable[[str], bool],
    head_lr_factor: float = 1.0,
) -> nn.Optimizer:
    """Momentum SGD over the groups of `parameter_groups`; `momentum` is in [0, 1)."""
    require_range(low=0, below=1, momentum=momentum)
    groups = parameter_groups(network.trainable_params(), learning_rates, weight_decay, head, head_lr_factor)
    return nn.Momentum(groups, ms.Tensor(learning_rates), momentum)


def parameter_groups(
    parameters: Iterable[Parameter],
    learning_rates: np.ndarray,
    weight_decay: float,
    head: Callable[[str], bool],
    head_lr_factor: float,
) -> list[dict[str, Any]]:
    """Groups for an optimizer that gets `learning_rates` as its learning rate.

    Biases, gamma and beta have no weight decay. The head's learning rate is `head_lr_factor` times that of the rest;
    with a factor of 1, or where the head has no parameter, no group has a learning rate of its own.

    Args:
        parameters: those to train, in the order in which gradients come.
        learning_rates: (steps,) float32, one for each step.
        weight_decay: of all other parameters, 0 or more.
        head: tells by its name whether a parameter belongs to the head.
        head_lr_factor: above 0.

    Raises:
        UsageError: a factor that is not above 0 or too large for float32, a negative weight decay.
    """
    require_range(above=0, head_lr_factor=head_lr_factor)
    require_range(low=0, weight_decay=weight_decay)
    parameters = list(parameters)
    members: dict[tuple[bool, bool], list[Parameter]] = {}
    for parameter in parameters:
        faster = head_lr_factor != 1 and head(parameter.name)
        members.setdefault((faster, parameter.name.endswith(NO_WEIGHT_DECAY)), []).append(parameter)
    with np.errstate(over="ignore"):
        head_rates = learning_rates * head_lr_factor
    groups = []
    for (faster, plain), group in sorted(members.items()):
        groups.append({"params": group, "weight_decay": 0.0 if plain else weight_decay})
        if faster:
            groups[-1]["lr"] = ms.Tensor(as_float32(head_rates))
    return [*groups, {"order_params": parameters}]
