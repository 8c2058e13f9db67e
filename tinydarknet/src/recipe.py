"""What the shared modules of this folder ask about its model: recipe files, network, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindspore import nn

from .model_utils.checkpoint import CheckpointFolder
from .model_utils.config import Config, get_config
from .model_utils.device_adapter import Device
from .tinydarknet import tinydarknet

FOLDER = Path(__file__).resolve().parents[1]
NETWORK = "tinydarknet"
# Further documented lines than those that every folder has: of training, of postprocess.py.
EPOCH_LINE = STEP_LINE = RESULT_LINE = ""


def read_config(argv: list[str] | None, description: str) -> Config:
    """The configuration of a program: imagenet_config.yaml, the chosen recipe over it, the command line over both."""
    return get_config(
        FOLDER / "imagenet_config.yaml",
        argv,
        recipe_key="dataset_name",
        aliases={"dataset": "dataset_name"},
        description=description,
    )


def network_description(config: Config) -> dict[str, Any]:
    """What builds the network of a recipe; stored with the weights."""
    return {"name": NETWORK, "num_classes": config.num_classes, "negative_slope": 0.1, "bn_eps": 1e-5}


def build_network(about: dict[str, Any]) -> nn.Cell:
    """The network of a description, with random weights."""
    return tinydarknet(**{key: value for key, value in about["network"].items() if key != "name"})


def is_head(parameter_name: str) -> bool:
    """Whether a parameter belongs to the classifier."""
    return parameter_name.startswith("conv16.")


def checkpoint_folder(config: Config, device: Device) -> CheckpointFolder:
    """Where the training states of a run are."""
    prefix = f"train_tinydarknet_{config.dataset_name}"
    return CheckpointFolder(Path(config.ckpt_save_dir) / "0", prefix, config.keep_checkpoint_max)


def saves_checkpoints(config: Config, device: Device) -> bool:
    """Whether this rank writes checkpoints."""
    return device.is_main
