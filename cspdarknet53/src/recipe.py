"""What the zoo needs to know of CSPDarkNet53; see model_utils/model.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindspore import nn

from .cspdarknet53 import cspdarknet53
from .dataset import count_images, create_dataset, find_classes, input_spec
from .model_utils.checkpoint import CheckpointFolder
from .model_utils.classification.evaluation import METRIC, evaluate
from .model_utils.config import Config, get_config
from .model_utils.device_adapter import Device
from .model_utils.errors import UsageError
from .model_utils.model import Lines, Model

FOLDER = Path(__file__).resolve().parents[1]
NETWORK = "cspdarknet53"
# Documented log lines beyond those that every folder has.
RESULT_LINE = "Total data: {total}, top1 accuracy: {top_1}, top5 accuracy: {top_5}"
EPOCH_LINE = (
    "{time}:INFO:epoch[{epoch}], iter[{step}], loss: {loss:.6f}, mean_fps: {speed:.2f} imgs/sec, "
    "per_step_time: {milliseconds:.2f} ms"
)
# Names that all image classifiers of the zoo understand -> the documented keys of this folder.
ALIASES = {
    "batch_size": "per_batch_size",
    "epoch_size": "max_epoch",
    "lr_init": "lr",
    "use_label_smooth": "label_smooth",
    "train_data_dir": "data_dir",
    "checkpoint_path": "pretrained",
    "save_checkpoint_epochs": "ckpt_interval",
    "keep_checkpoint_max": "ckpt_save_max",
    "ckpt_save_dir": "ckpt_path",
    "run_dir": "log_path",
    "image_height": "height",
    "image_width": "width",
    "label_path": "label_file",
}


def read_config(argv: list[str] | None, description: str, shown: Sequence[str] | None = None) -> Config:
    """The configuration of a program: default_config.yaml, a second recipe over it, the command line over both.

    Raises:
        UsageError: image_size is not two numbers, or contradicts height and width.
    """
    config = get_config(FOLDER / "default_config.yaml", argv, aliases=ALIASES, description=description, shown=shown)
    if not config.need_modelarts_dataset_unzip:
        config = config.replace(modelarts_dataset_unzip_name="")
    if len(config.image_size) != 2:
        raise UsageError(f"image_size={config.image_size}: height,width is accepted, for example 224,224")
    sides = [config.height, config.width]
    if config.image_size == sides:
        return config
    if {"height", "width"} & config.given and "image_size" not in config.given:
        return config.replace(image_size=sides)
    if "image_size" in config.given and not {"height", "width"} & config.given:
        return config.replace(height=config.image_size[0], width=config.image_size[1])
    raise UsageError(
        f"image_size={config.image_size} contradicts height={sides[0]} width={sides[1]}; give equal values"
    )


def describe_network(config: Config) -> dict[str, Any]:
    """What builds the network of a recipe; stored with the weights."""
    return {
        "name": NETWORK,
        "num_classes": config.num_classes,
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
        return cspdarknet53(**{key: value for key, value in network.items() if key != "name"})
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
    """Where this rank reads training states: ckpt_0, or its own ckpt_<rank> where each rank writes them."""
    rank = 0 if config.is_save_on_master else device.rank
    return CheckpointFolder(Path(config.ckpt_path) / f"ckpt_{rank}", str(rank), config.ckpt_save_max)


def saves_checkpoints(config: Config, device: Device) -> bool:
    """Whether this rank writes checkpoints."""
    return device.is_main or not config.is_save_on_master


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
    lines=Lines(epoch=EPOCH_LINE, result=RESULT_LINE),
)
