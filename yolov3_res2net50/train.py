"""Train YOLOv3-Res2Net50: recipe -> device -> data -> network -> loss -> schedule -> optimizer -> training, resumable."""

from __future__ import annotations

from pathlib import Path

from src.coco import data_paths, read_coco
from src.dataset import find_classes
from src.finetuning import freeze, parameter_groups
from src.loss import YoloLoss
from src.model_utils import checkpoint, device_adapter, moxing_adapter
from src.model_utils import config as configuration
from src.model_utils.callbacks import Position
from src.model_utils.config import Config, DataError, UsageError
from src.model_utils.device_adapter import Device
from src.model_utils.logger import get_logger, init_logger
from src.recipe import is_head, read_config, require_agreement
from src.training import Training
from src.visualize import write_batches
from src.yolo import scales

import mindspore as ms
import numpy as np
from mindspore import nn
from mindspore.train import Callback, RunContext

FROZEN = ["backbone.stem.*", "backbone.layer1.*"]  # with a pretrained backbone


class ShapeLine(Callback):
    """The documented line `iter[<iteration>], shape<side>` before each step whose images have another size."""

    def __init__(self, position: Position):
        self.position, self.size = position, None

    def on_train_step_begin(self, run_context: RunContext) -> None:
        size = tuple(run_context.original_args().train_dataset_element[0].shape[2:])
        if size != self.size:
            self.size = size
            side = str(size[0]) if size[0] == size[1] else "{}x{}".format(*size)
            get_logger().info("iter[%d], shape%s", self.position.total, side)


def create_loss(config: Config) -> nn.Cell:
    """YOLOv3's loss; label smoothing is part of the targets."""
    if not 0 <= config.ignore_threshold <= 1:
        raise UsageError(f"ignore_threshold={config.ignore_threshold}: 0 to 1 is accepted")
    return YoloLoss(scales(config.anchor_scales), config.ignore_threshold)


def create_optimizer(config: Config, network: nn.Cell, learning_rates: np.ndarray) -> nn.Optimizer:
    """Momentum SGD; biases, gamma and beta have no weight decay, the output layers their own factor of the rate."""
    parameters = network.trainable_params()
    groups = parameter_groups(parameters, learning_rates, config.weight_decay, is_head, config.head_lr_factor)
    return nn.Momentum(groups, ms.Tensor(learning_rates), config.momentum)


def load_backbone(config: Config, network: nn.Cell, _: Device) -> None:
    """Start from a pretrained backbone, whose stem and first layer then stay as they are.

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


def with_classes(config: Config) -> Config:
    """The recipe with the classes of the training annotations; a larger number of the command line leaves outputs free.

    Raises:
        DataError: annotations that cannot be read.
    """
    data = read_coco(*data_paths(config, True), check_images=False)
    if "num_classes" not in config.given:
        config = config.replace(num_classes=len(data.class_names))
    return config.replace(category_ids=data.category_ids)


def main(argv: list[str] | None = None) -> int:
    config = read_config(argv, __doc__)
    with moxing_adapter.job(config, adapt_paths) as config:
        device = device_adapter.init(config, config.is_distributed)
        require_agreement(config, device)
        config = with_classes(config)
        if config.visualize_batches:
            return show_batches(config, device)
        if config.pretrained_backbone and config.resume_yolov3:
            raise UsageError(
                "pretrained_backbone and resume_yolov3 are both given; the second holds a backbone, give one"
            )
        training = Training(
            config, device, create_loss, create_optimizer, config.resume_yolov3,
            prepare=load_backbone, callbacks=lambda position: [ShapeLine(position)],
        )  # fmt: skip
        training.logger.info("%s\nPlease check the above information for the configurations", config.to_yaml())
        if config.dry_run:
            training.logger.info("dry run: everything was built, nothing was trained")
            return 0
        training.resume()
        status = training.run()
        if status == 0:
            training.logger.info("==========end training===============")
        return status


def show_batches(config: Config, device: Device) -> int:
    """Write pictures of the first training batches instead of a training."""
    init_logger(config.log_path, "train.log", device.rank)
    names = find_classes(config, True, device)
    folder = Path(config.log_path) / "visualized"
    for path in write_batches(config, device, names, folder, config.visualize_batches):
        get_logger().info("batch: %s", path)
    return 0


def adapt_paths(config: Config) -> Config:
    """Where a ModelArts job finds its data and leaves its results; data_dir and the weights go first where given."""
    weights = moxing_adapter.checkpoint_file(config) if config.checkpoint_url else ""
    return config.replace(
        data_dir=config.data_dir or moxing_adapter.data_dir(config),
        pretrained_backbone=config.pretrained_backbone or ("" if config.resume_yolov3 else weights),
        ckpt_path=str(Path(config.output_path) / config.ckpt_path),
        log_path=config.output_path,
    )


if __name__ == "__main__":
    configuration.run(main)
