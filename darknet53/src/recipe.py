"""What the shared modules of this folder ask about its model: recipe file, network, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindspore import nn

from .darknet53 import darknet53
from .model_utils import device_adapter
from .model_utils.checkpoint import CheckpointFolder
from .model_utils.config import Config, UsageError, get_config
from .model_utils.device_adapter import Device

FOLDER = Path(__file__).resolve().parents[1]
NETWORK = "darknet53"
# Further documented lines than those that every folder has: of training, of postprocess.py.
EPOCH_LINE = STEP_LINE = RESULT_LINE = ""
# Names that all image classifiers of the zoo understand -> the documented keys of this folder.
ALIASES = {
    "num_classes": "class_num",
    "epoch_size": "epoch_num",
    "lr_init": "lr",
    "dataset_name": "dataset",
    "data_dir": "dataset_path",
    "pretrained": "pre_trained",
    "ckpt_file": "checkpoint_path",
    "ckpt_save_dir": "save_checkpoint_path",
    "run_distribute": "run_distributed",
    "is_distributed": "run_distributed",
    "height": "image_height",
    "width": "image_width",
}


def read_config(argv: list[str] | None, description: str) -> Config:
    """The configuration of a program: imagenet_config.yaml, a second recipe over it, the command line over both.

    Empty train_data_dir and val_data_dir become the folders train and val of dataset_path.
    """
    config = get_config(FOLDER / "imagenet_config.yaml", argv, aliases=ALIASES, description=description)
    root = Path(config.dataset_path)
    return config.replace(
        train_data_dir=config.train_data_dir or str(root / "train"),
        val_data_dir=config.val_data_dir or str(root / "val"),
    )


def init_device(config: Config) -> Device:
    """The device of this process, joined with those that run_distributed and device_num ask for.

    Raises:
        UsageError: another number of processes than device_num.
    """
    device = device_adapter.init(config, config.run_distributed)
    if config.device_num not in ("", str(device.size)):
        raise UsageError(
            f"device_num={config.device_num}, but {device.size} process(es) run: start as many with "
            "run_distribute_train_gpu.sh, or leave the option out"
        )
    return device


def network_description(config: Config) -> dict[str, Any]:
    """What builds the network of a recipe; stored with the weights."""
    return {
        "name": NETWORK,
        "num_classes": config.class_num,
        "activation": config.activation,
        "negative_slope": config.negative_slope,
        "bn_eps": 1e-5,
    }


def build_network(about: dict[str, Any]) -> nn.Cell:
    """The network of a description, with random weights."""
    return darknet53(**{key: value for key, value in about["network"].items() if key != "name"})


def is_head(parameter_name: str) -> bool:
    """Whether a parameter belongs to the classifier."""
    return parameter_name.startswith("fc.")


def checkpoint_folder(config: Config, device: Device) -> CheckpointFolder:
    """Where the training states of a run are: save_checkpoint_path, with several devices its folder ckpt_0."""
    folder = Path(config.save_checkpoint_path)
    return CheckpointFolder(folder / "ckpt_0" if device.size > 1 else folder, NETWORK, config.keep_checkpoint_max)


def saves_checkpoints(config: Config, device: Device) -> bool:
    """Whether this rank writes checkpoints."""
    return config.save_checkpoint and device.is_main
