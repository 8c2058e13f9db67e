# Shared file: source utils/common/src/finetuning.py; copy with: python scripts/sync_model_utils.py --write
"""Fine-tuning of pretrained weights: parts of the network that stay, a learning rate of its own for the head."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, nn

from .model_utils.config import UsageError
from .model_utils.logger import get_logger

NO_WEIGHT_DECAY = (".bias", ".gamma", ".beta")


def freeze(network: nn.Cell, patterns: list[str]) -> None:
    """Take parameters out of training: they get no gradient and are none of the network's trainable parameters.

    A BatchNorm2d whose gamma and beta are both frozen uses its stored statistics in training too and leaves them as
    they are, so that the frozen part computes what it computes in evaluation. Call this before the network is compiled
    and before the optimizer is made.

    Args:
        network: its parameters and batch norms are changed in place.
        patterns: shell patterns (*, ?, [abc]), each matched against whole parameter names, in which capitals count;
            * matches dots as well. Empty: nothing is frozen.

    Raises:
        UsageError: a pattern that matches no name, or nothing left to train; then nothing was changed.
    """
    parameters = network.parameters_dict()
    chosen = {name for pattern in patterns for name in _matches(pattern, parameters)}
    if not chosen:
        return
    trainable = [name for name, parameter in parameters.items() if parameter.requires_grad]
    if chosen.issuperset(trainable):
        raise UsageError(f"freezing {', '.join(patterns)} leaves nothing to train")
    for name in chosen:
        parameters[name].requires_grad = False
    norms = [cell for _, cell in network.cells_and_names() if isinstance(cell, nn.BatchNorm2d)]
    still = [cell for cell in norms if cell.gamma.name in chosen and cell.beta.name in chosen]
    for cell in still:
        cell.use_batch_statistics = False  # unlike `training`, set_train does not touch it
    get_logger().info(
        "frozen: %d of %d trainable parameters; %d of %d batch norms keep and use their stored statistics",
        len(chosen.intersection(trainable)), len(trainable), len(still), len(norms),
    )  # fmt: skip


def _matches(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a pattern matches, one or more."""
    names = list(names)
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        nearest = difflib.get_close_matches(pattern, names, 1, cutoff=0.0)
        raise UsageError(
            f"no parameter matches '{pattern}'; the nearest name is {nearest[0] if nearest else 'none'}, "
            f"the first names are {', '.join(names[:5])}"
        )
    return found


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
        UsageError: a factor that is not above 0 and finite.
    """
    if not (math.isfinite(head_lr_factor) and head_lr_factor > 0):
        raise UsageError(f"head_lr_factor={head_lr_factor}: a finite number above 0 is accepted")
    parameters = list(parameters)
    members: dict[tuple[bool, bool], list[Parameter]] = {}
    for parameter in parameters:
        faster = head_lr_factor != 1 and head(parameter.name)
        members.setdefault((faster, parameter.name.endswith(NO_WEIGHT_DECAY)), []).append(parameter)
    groups = []
    for (faster, plain), group in sorted(members.items()):
        groups.append({"params": group, "weight_decay": 0.0 if plain else weight_decay})
        if faster:
            groups[-1]["lr"] = ms.Tensor((learning_rates * head_lr_factor).astype(np.float32))
    return [*groups, {"order_params": parameters}]
