"""A pretrained backbone at the start of a training."""

from __future__ import annotations

from mindspore import nn

from .model_utils import checkpoint
from .model_utils.config import Config
from .model_utils.errors import DataError
from .model_utils.freezing import freeze

FROZEN = ["backbone.stem.*", "backbone.layer1.*"]  # with a pretrained backbone


def load_backbone(config: Config, network: nn.Cell) -> None:
    """Start from the backbone of `pretrained_backbone`, if there is one; its stem and first layer then stay as they are.

    Raises:
        DataError: a checkpoint that is not one of this backbone.
    """
    path = config.pretrained_backbone
    if not path:
        return
    parameters, metadata = checkpoint.load(path)
    stored = metadata.get("backbone", {}).get("shortcut", config.shortcut)
    if stored != config.shortcut:
        raise DataError(
            f"pretrained_backbone={path} has {stored} shortcuts, the recipe {config.shortcut}; give --shortcut {stored}"
        )
    named = {f"backbone.{name.removeprefix('backbone.')}": value for name, value in parameters.items()}
    checkpoint.load_weights(network.backbone, named, path, allow_partial=config.allow_partial_load)
    freeze(network, FROZEN)
