"""What the zoo needs to know of TinyNet; see model_utils/model.py."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mindspore import nn

from .dataset import count_images, create_dataset, find_classes, input_spec
from .model_utils import checkpoint
from .model_utils.checkpoint import EMA_PREFIX, CheckpointFolder
from .model_utils.classification.evaluation import METRIC, evaluate
from .model_utils.config import Config, get_config
from .model_utils.device_adapter import Device
from .model_utils.errors import UsageError
from .model_utils.model import Lines, Model
from .tinynet import input_side, tinynet

FOLDER = Path(__file__).resolve().parents[1]
NETWORK = "tinynet"
# Documented log lines beyond those that every folder has.
STEP_LINE = "epoch: {before}/{epochs}, step: {step}/{steps}, loss is {loss:.6g}, learning rate: {learning_rate:.6g}"
# Further spellings -> keys: the documented short ones, and names that all image classifiers of the zoo understand.
ALIASES = {
    "b": "batch_size",
    "j": "workers",
    "dr": "decay_rate",
    "epoch_size": "epochs",
    "lr_init": "lr",
    "label_smooth_factor": "smoothing",
    "checkpoint_path": "ckpt",
    "pretrained": "ckpt",
    "ckpt_file": "ckpt",
    "save_checkpoint_epochs": "ckpt_save_epoch",
    "num_parallel_workers": "workers",
    "log_interval": "per_print_times",
    "is_distributed": "distributed",
    "dataset_sink_mode": "dataset_sink",
    "label_path": "label_file",
}
TENSORFLOW_NORM = {"bn_momentum": 0.01, "bn_eps": 1e-3}


def read_config(argv: list[str] | None, description: str, shown: Sequence[str] | None = None) -> Config:
    """The configuration of a program: default_config.yaml, then the model's own recipe if there is one, the command line.

    Empty paths and sizes get the values that they stand for.

    Raises:
        UsageError: options that contradict each other.
    """
    config = get_config(
        FOLDER / "default_config.yaml", argv, "model", aliases=ALIASES, description=description, shown=shown
    )
    changes: dict[str, Any] = {}
    if config.GPU:
        if "device_target" in config.given and config.device_target != "GPU":
            raise UsageError(f"--GPU contradicts --device_target {config.device_target}; give one of the two")
        changes["device_target"] = "GPU"
    if config.enable_modelarts and not config.data_path:
        changes["data_path"] = "/cache/data"
    for key, folder in (("train_data_dir", "train"), ("val_data_dir", "val")):
        if config.data_path and not config[key]:
            changes[key] = str(Path(config.data_path) / folder)
    for key in ("image_height", "image_width"):
        if config[key] == 0:
            changes[key] = input_side(config.model)
    given = config.given
    if config.bn_tf:
        changes.update({key: value for key, value in TENSORFLOW_NORM.items() if key not in given})
        if "bn_tf" in given:  # as if both had been named: a checkpoint may contradict them
            given |= TENSORFLOW_NORM.keys()
    config = config.replace(**changes, ckpt_save_dir=config.ckpt_save_dir or config.run_dir)
    return Config(config.to_dict(), given, ALIASES)


def describe_network(config: Config) -> dict[str, Any]:
    """What builds the network of a recipe; stored with the weights."""
    keys = ("model", "num_classes", "bn_momentum", "bn_eps", "stage_blocks")
    return {"name": NETWORK, **{key: config[key] for key in keys}}


def build_network(network: dict[str, Any]) -> nn.Cell:
    """The network of a description, with random weights.

    Raises:
        UsageError: a description that is none.
    """
    try:
        return tinynet(**{key: value for key, value in network.items() if key != "name"})
    except ValueError as error:
        raise UsageError(str(error)) from error


def is_head(parameter_name: str) -> bool:
    """Whether a parameter belongs to the classifier."""
    return parameter_name.startswith("classifier.")


class TinyNetCheckpoints(CheckpointFolder):
    """Training states `<model>-<epoch>_<step>.ckpt`, and beside them the documented files.

    last.ckpt       the newest training state, under one more name
    ema-<e>.ckpt    averaged weights after each saved epoch e, counted from 0; as many stay as training states
    ema_last.ckpt   the newest of them
    ema_best.ckpt   those of the best evaluation (best.ckpt, where no average is kept)
    """

    def __init__(self, folder: str | Path, prefix: str, keep: int, has_average: bool):
        super().__init__(folder, prefix, keep)
        self.has_average = has_average

    @property
    def best(self) -> Path:
        return self.folder / ("ema_best.ckpt" if self.has_average else "best.ckpt")

    def averages(self) -> list[Path]:
        """The files ema-<e>.ckpt, oldest first."""
        found = {path: re.fullmatch(r"ema-(\d+)\.ckpt", path.name) for path in self.folder.glob("ema-*.ckpt")}
        return sorted((path for path in found if found[path]), key=lambda path: int(found[path][1]))

    def save(self, epoch: int, step: int, parameters: Mapping[str, Any], metadata: Mapping[str, Any]) -> Path:
        path = super().save(epoch, step, parameters, metadata)
        _name_also(path, self.folder / "last.ckpt")
        if self.has_average and step == metadata["steps_per_epoch"]:
            about = {key: metadata[key] for key in ("network", "input", "class_names")}
            start = len(EMA_PREFIX)
            weights = {name[start:]: value for name, value in parameters.items() if name.startswith(EMA_PREFIX)}
            numbered = self.folder / f"ema-{epoch - 1}.ckpt"
            checkpoint.save(numbered, weights, {**about, "trained_epochs": epoch})
            _name_also(numbered, self.folder / "ema_last.ckpt")
            for old in self.averages()[: -self.keep]:
                old.unlink()
        return path

    def start_fresh(self) -> None:
        # The earlier run may have kept an average where this one keeps none, or the other way round.
        others = [self.folder / f"{name}.ckpt" for name in ("last", "ema_last", "ema_best", "best")]
        self._set_aside([*self.files(), *self.averages(), *others], "checkpoints of an earlier run")

    def set_aside_after(self, metadata: Mapping[str, Any]) -> None:
        super().set_aside_after(metadata)
        later = [path for path in self.averages() if int(path.stem.partition("-")[2]) >= metadata["epoch"]]
        self._set_aside(later, "later averages")


def _name_also(path: Path, name: Path) -> None:
    """Give a file a second name, which an earlier file may have had; copies it where the file system has no links."""
    temporary = name.with_name(f".{name.name}.{os.getpid()}.tmp")
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copyfile(path, temporary)
    os.replace(temporary, name)


def validate(config: Config, network: nn.Cell, device: Device, class_names: list[str]) -> dict[str, float]:
    """Accuracies and loss over the validation data, on all ranks."""
    dataset = create_dataset(config, "val", device, class_names)
    smoothing = config.smoothing * config.use_label_smooth
    totals = evaluate(network, dataset, config.batch_size, count_images(config, "val"), device, smoothing)
    return totals.metrics()


def checkpoint_folder(config: Config, device: Device) -> CheckpointFolder:
    """Where all ranks read training states and the first one writes them."""
    return TinyNetCheckpoints(config.ckpt_save_dir, config.model, config.keep_checkpoint_max, config.ema_decay > 0)


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
    lines=Lines(step=STEP_LINE),
)
