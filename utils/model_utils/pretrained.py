# Shared file: source utils/model_utils/pretrained.py; copy with: python scripts/sync_model_utils.py --write
"""The network at the start of a training: random weights, or those of a checkpoint with all that they were made for."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import nn

from . import checkpoint
from .class_order import head_rows, reorder_heads
from .config import Config
from .errors import UsageError, require_seed
from .freezing import freeze
from .inference import description, require_own, stored_classes
from .logger import get_logger
from .model import Model

INPUT_KEYS = ("mean", "std")  # of pretrained weights, which a recipe takes over


def create_network(
    model: Model, config: Config, class_names: list[str], pretrained_path: str
) -> tuple[Config, dict[str, Any], nn.Cell]:
    """The network in training mode; `freeze` of the recipe is obeyed.

    Args:
        model: whose network it is.
        config: recipe.
        class_names: of the training data.
        pretrained_path: checkpoint to start from; empty: random weights, which follow from the seed.

    Returns:
        The recipe, with the mean, the std and the form of the network (activation and the like) that pretrained weights
        were made for; the description that is stored with the weights; the network.

    Raises:
        DataError: a checkpoint that cannot be read, one of another network, or one that has no class in common with
            the data, of which the rows of the head would be of no use.
        UsageError: the command line asks for another activation, or the like, than that of the weights; a seed that
            cannot be; `freeze` matches nothing.
    """
    parameters, metadata = checkpoint.load(pretrained_path) if pretrained_path else ({}, {})
    config = _with_input(config, metadata, pretrained_path)
    about = description(model, config, class_names)
    if "network" in metadata:
        about["network"] = _network_of(model, config, about["network"], metadata, pretrained_path)
        config = config.replace(**{key: value for key, value in about["network"].items() if key in config})
    require_seed(config.seed)
    ms.set_seed(config.seed)
    network = model.build_network(about["network"])
    if pretrained_path:
        heads = {name: value for name, value in network.parameters_dict().items() if model.is_head(name)}
        if not config.reset_head:
            parameters = _in_order_of(class_names, model, config, parameters, heads, about, metadata, pretrained_path)
        checkpoint.load_weights(
            network,
            parameters,
            pretrained_path,
            allow_partial=config.allow_partial_load,
            reset_head=heads if config.reset_head else (),
        )
    freeze(network, config.freeze)
    return config, about, network.set_train()


def _in_order_of(class_names, model, config, parameters, heads, about, metadata, path) -> dict[str, Any]:
    """The parameters of a file, those of its head in the order of these classes; a line says what was changed."""
    outputs = about["network"]["num_classes"]
    if metadata.get("network", about["network"])["num_classes"] != outputs:
        return parameters  # their shapes will be refused
    stored = stored_classes(config, {**about, "class_names": metadata.get("class_names")}, path)
    rows, line = head_rows(stored, class_names, outputs, path)
    if line:
        get_logger().info("%s", line)
    return parameters if rows is None else reorder_heads(parameters, heads, rows, model.head_layout)


def _with_input(config: Config, metadata: dict[str, Any], path: str) -> Config:
    """The recipe with the mean and std that the pretrained weights expect, unless the command line gives others."""
    changes = {
        key: metadata["input"][key]
        for key in INPUT_KEYS
        if "input" in metadata and key not in config.given and metadata["input"][key] != config[key]
    }
    for key, value in changes.items():
        get_logger().info("%s is %s, as the weights of %s expect, not %s", key, value, path, config[key])
    return config.replace(**changes)


def _network_of(
    model: Model, config: Config, network: dict[str, Any], metadata: dict[str, Any], path: str
) -> dict[str, Any]:
    """The description of the network of pretrained weights, with the recipe's number of classes.

    Raises:
        DataError: weights of another network.
        UsageError: the command line asks for another activation, or the like, than that of the weights.
    """
    require_own(model, {"input": model.input_spec(config), **metadata}, f"checkpoint {path}")
    for key, value in metadata["network"].items():
        if key != "num_classes" and key in config.given and config[key] != value:
            raise UsageError(f"--{key} {config[key]} contradicts {path}, which has {value}; leave the option out")
    return {**network, **metadata["network"], "num_classes": config.num_classes}
