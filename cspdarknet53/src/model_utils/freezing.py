# Shared file: source utils/model_utils/freezing.py; copy with: python scripts/sync_model_utils.py --write
"""Parts of a pretrained network that training leaves as they are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase

from mindspore import nn

from .errors import UsageError
from .logger import get_logger


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
    patterns = [str(pattern) for pattern in patterns]  # 7 in a recipe is a number
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
