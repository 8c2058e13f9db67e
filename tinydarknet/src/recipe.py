"""What the zoo needs to know of TinyDarkNet; see model_utils/model.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindspore import nn

from .dataset import count_images, create_dataset, find_classes, input_spec
from .model_utils.checkpoint import CheckpointFolder
from .model_utils.classification.evaluation import METRIC, evaluate
from .model_utils.config import Config, get_config
from .model_utils.device_adapter import Device
from .model_utils.model import Model
from .tinydarknet import tinydarknet

FOLDER = Path(__file__).resolve().parents[1]
NETWORK = "tinydarknet"


def read_config(argv: list[str] | None, description: str, shown: Sequence[str] | None = None) -> Config:
    """The configuration of a program: imagenet_config.yaml, the chosen recipe over it, the command line over both."""
    return get_config(
        FOLDER / "imagenet_config.yaml",
        argv,
        recipe_key="dataset_name",
        aliases={"dataset": "dataset_name"},
        description=description,
        shown=shown,
    )


def describe_network(config: Config) -> dict[str, Any]:
    """What builds the network of a recipe; stored with the weights."""
    return {"name": NETWORK, "num_classes": config.num_classes, "negative_slope": 0.1, "bn_eps": 1e-5}


def build_network(network: dict[str, Any]) -> nn.Cell:
    """The network of a description, with random weights."""
    return tinydarknet(**{key: value for key, value in network.items() if key != "name"})


def is_head(parameter_name: str) -> bool:
    """Whether a parameter belongs to the classifier."""
    return parameter_name.startswith("conv16.")


def validate(config: Config, network: nn.Cell, device: Device, class_names: list[str]) -> dict[str, float]:
    """Accuracies and loss over the validation data, on all ranks."""
    dataset = create_dataset(config, "val", device, class_names)
    smoothing = config.label_smooth_factor * config.use_label_smooth
    totals = evaluate(network, dataset, config.batch_size, count_images(config, "val"), device, smoothing)
    return totals.metrics()


def checkpoint_folder(config: Config, device: Device) -> CheckpointFolder:
    """Where the training states of a run are."""
    prefix = f"train_tinydarknet_{config.dataset_name}"
    return CheckpointFolder(Path(config.ckpt_save_dir) / "0", prefix, config.keep_checkpoint_max)


def saves_checkpoints(config: Config, device: Device) -> bool:
    """Whether this rank writes checkpoints."""
    return device.is_main


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
