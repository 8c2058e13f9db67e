"""What the zoo needs to know of DarkNet53; see model_utils/model.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindspore import nn

from .darknet53 import darknet53
from .dataset import count_images, create_dataset, find_classes, input_spec
from .model_utils import device_adapter
from .model_utils.checkpoint import CheckpointFolder
from .model_utils.classification.evaluation import METRIC, evaluate
from .model_utils.config import Config, get_config
from .model_utils.device_adapter import Device
from .model_utils.errors import UsageError
from .model_utils.model import Model

FOLDER = Path(__file__).resolve().parents[1]
NETWORK = "darknet53"
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


def read_config(argv: list[str] | None, description: str, shown: Sequence[str] | None = None) -> Config:
    """The configuration of a program: imagenet_config.yaml, a second recipe over it, the command line over both.

    Empty train_data_dir and val_data_dir become the folders train and val of dataset_path.
    """
    config = get_config(FOLDER / "imagenet_config.yaml", argv, aliases=ALIASES, description=description, shown=shown)
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


def describe_network(config: Config) -> dict[str, Any]:
    """What builds the network of a recipe; stored with the weights."""
    return {
        "name": NETWORK,
        "num_classes": config.class_num,
        "activation": config.activation,
        "negative_slope": config.negative_slope,
        "bn_eps": 1e-5,
        "stage_blocks": config.stage_blocks,
    }


def build_network(network: dict[str, Any]) -> nn.Cell:
    """The network of a description, with random weights.

    Raises:
        UsageError: a description that is none.
    """
    try:
        return darknet53(**{key: value for key, value in network.items() if key != "name"})
    except ValueError as error:
        raise UsageError(str(error)) from error


def is_head(parameter_name: str) -> bool:
    """Whether a parameter belongs to the classifier."""
    return parameter_name.startswith("fc.")


def validate(config: Config, network: nn.Cell, device: Device, class_names: list[str]) -> dict[str, float]:
    """Accuracies and loss over the validation data, on all ranks."""
    dataset = create_dataset(config, "val", device, class_names)
    smoothing = config.label_smooth_factor * config.use_label_smooth
    totals = evaluate(network, dataset, config.batch_size, count_images(config, "val"), device, smoothing)
    return totals.metrics()


def checkpoint_folder(config: Config, device: Device) -> CheckpointFolder:
    """Where the training states of a run are: save_checkpoint_path, with several devices its folder ckpt_0."""
    folder = Path(config.save_checkpoint_path)
    return CheckpointFolder(folder / "ckpt_0" if device.size > 1 else folder, NETWORK, config.keep_checkpoint_max)


def saves_checkpoints(config: Config, device: Device) -> bool:
    """Whether this rank writes checkpoints."""
    return config.save_checkpoint and device.is_main


MODEL = Model(
    name=NETWORK,
    read_config=read_config,
    describe_network=describe_network,
    build_network=build_network,
    is_head=is_head,
    input_spec=input_spec,
    find_classes=find_classes,
    count_images=count_images,
    create_dataset=create_dataset,
    validate=validate,
    metric=METRIC,
    checkpoint_folder=checkpoint_folder,
    saves_checkpoints=saves_checkpoints,
)
