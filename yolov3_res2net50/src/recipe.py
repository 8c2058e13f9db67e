"""What the zoo needs to know of YOLOv3-Res2Net50; see model_utils/model.py."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindspore import nn

from .dataset import count_images, create_dataset, find_classes, input_spec
from .detect.evaluation import METRIC, validate
from .model_utils.checkpoint import CheckpointFolder
from .model_utils.config import Config, get_config
from .model_utils.device_adapter import Device
from .model_utils.errors import UsageError
from .model_utils.model import Lines, Model
from .res2net import BLOCKS
from .yolo import yolov3_res2net50

FOLDER = Path(__file__).resolve().parents[1]
NETWORK = "yolov3_res2net50"
# Documented log lines beyond those that every folder has.
STEP_LINE = (
    "{time}:INFO:epoch[{before}], iter[{iteration}], loss:{loss:.6f}, {speed:.2f} imgs/sec, lr:{learning_rate}, "
    "per step time:{milliseconds}ms"
)
# Names that all folders of the zoo understand -> the documented keys of this folder.
ALIASES = {
    "batch_size": "per_batch_size",
    "epoch_size": "max_epoch",
    "lr_init": "lr",
    "use_label_smooth": "label_smooth",
    "train_data_dir": "data_dir",
    "val_data_dir": "data_dir",
    "checkpoint_path": "pretrained",
    "save_checkpoint_steps": "ckpt_interval",
    "ckpt_save_dir": "ckpt_path",
    "run_dir": "log_path",
    "enable_profiling": "need_profiler",
}
RUN_FOLDER = "%Y-%m-%d_time_%H_%M_%S"
RUN_FOLDER_PATTERN = re.compile(r"\d{4}-\d\d-\d\d_time_\d\d_\d\d_\d\d")


def read_config(argv: list[str] | None, description: str, shown: Sequence[str] | None = None) -> Config:
    """The configuration of a program: default_config.yaml, a second recipe over it, the command line over both.

    Raises:
        UsageError: ckpt_interval or resize_rate is no number, the anchors are not nine pairs, the processes are others
            than rank and group_size say.
    """
    config = get_config(FOLDER / "default_config.yaml", argv, aliases=ALIASES, description=description, shown=shown)
    for key in ("ckpt_interval", "resize_rate"):
        value = None if config[key] == "None" else config[key]
        if value is not None and (type(value) is not int or value < 0):
            raise UsageError(f"{key}={value}: a number of batches, or None, is accepted")
        config = config.replace(**{key: value or None})
    pairs = config.anchor_scales
    if len(pairs) != 9 or any(len(pair) != 2 or min(pair) <= 0 for pair in pairs):
        raise UsageError(
            f"anchor_scales={pairs}: nine pairs of width and height in pixels, above 0, are accepted, from small to large"
        )
    if not config.need_modelarts_dataset_unzip:
        config = config.replace(modelarts_dataset_unzip_name="")
    return config


def require_agreement(config: Config, device: Device) -> None:
    """Raise UsageError where --rank or --group_size differ from what the launcher started."""
    for key, value in (("rank", device.rank), ("group_size", device.size)):
        if key in config.given and config[key] != value:
            raise UsageError(
                f"{key}={config[key]}: this process is rank {device.rank} of {device.size}, as the launcher's environment "
                "has it; leave the option out"
            )


def describe_network(config: Config) -> dict[str, Any]:
    """What builds the network of a recipe; stored with the weights."""
    return {
        "name": NETWORK,
        "num_classes": config.num_classes,
        "anchor_scales": config.anchor_scales,
        "shortcut": config.shortcut,
        "width_multiplier": config.width_multiplier,
        "stage_blocks": config.stage_blocks,
    }


def build_network(network: dict[str, Any]) -> nn.Cell:
    """The network of a description, with random weights.

    Raises:
        UsageError: a number of classes or a width that cannot be.
    """
    try:
        return yolov3_res2net50(
            network["num_classes"],
            network["anchor_scales"],
            network["shortcut"],
            network["width_multiplier"],
            network.get("stage_blocks", BLOCKS),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def is_head(parameter_name: str) -> bool:
    """Whether a parameter belongs to the output layers, whose shape follows from the number of classes."""
    return ".output." in parameter_name


def checkpoint_folder(config: Config, device: Device) -> CheckpointFolder:
    """Where this rank reads and writes training states: ckpt_<rank> in a folder named by the time of the run's start.

    A run that is resumed goes on in the folder of the checkpoint; `auto` is the newest run that left one.
    """
    rank = 0 if config.is_save_on_master else device.rank
    return CheckpointFolder(
        _run_folder(config, device, rank) / f"ckpt_{rank}", str(rank), config.keep_checkpoint_max, counts_all_steps=True
    )


def _run_folder(config: Config, device: Device, rank: int) -> Path:
    parent = Path(config.ckpt_path)
    if config.resume and config.resume != "auto":
        folder = Path(config.resume).parent.parent
        if RUN_FOLDER_PATTERN.fullmatch(folder.name):
            return folder
    runs = sorted(path for path in parent.glob("*_time_*") if RUN_FOLDER_PATTERN.fullmatch(path.name))
    left = [run for run in runs if any((run / f"ckpt_{rank}").glob(f"{rank}-*.ckpt"))]
    if config.resume == "auto" and left:
        return left[-1]
    name = _common_time(device)
    while (parent / name).exists():  # two runs within a second
        time.sleep(1.0)
        name = _common_time(device)
    return parent / name


def _common_time(device: Device) -> str:
    """The first rank's time, in the form of a run's folder."""
    now = [float(value) * device.is_main for value in time.localtime()[:6]]
    fields = (*(int(value) for value in device.sum(now)), 0, 1, -1)
    return time.strftime(RUN_FOLDER, fields)


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
    head_layout=(3, 5),  # for each anchor its box and objectness, then the classes
    lines=Lines(step=STEP_LINE),
)
