"""Train YOLOv3-Res2Net50: configuration -> device -> data -> network -> loss -> learning rates -> optimizer -> training."""

from __future__ import annotations

from pathlib import Path

from src.backbone import load_backbone
from src.data.coco import read_split
from src.data.visualize import write_batches
from src.detect.evaluation import require_evaluation, validation_classes
from src.loss import create_loss
from src.lr_scheduler import get_lr
from src.model_utils import device_adapter, moxing_adapter, program
from src.model_utils.config import Config
from src.model_utils.device_adapter import Device
from src.model_utils.errors import UsageError, require_range
from src.model_utils.logger import get_logger, init_logger
from src.model_utils.optimizers import momentum_sgd
from src.model_utils.pretrained import create_network
from src.model_utils.progress import Position
from src.model_utils.training import find_data, train
from src.recipe import MODEL, require_agreement

from mindspore.train import Callback, RunContext

SHOWN = (  # sections and keys of the recipe in --help
    "Data", "Augmentation", "Network", "Training", "Weights", "Fine-tuning", "Checkpoints and logs", "Evaluation",
    "Device", "Several devices", "ModelArts"
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    config = MODEL.read_config(argv, __doc__, SHOWN)
    with moxing_adapter.job(config, adapt_paths) as config:
        device = device_adapter.init(config, config.is_distributed)
        require_agreement(config, device)
        init_logger(config.log_path, "train.log", device.rank)
        config = with_classes(config)
        if config.visualize_batches:
            return show_batches(config, device)
        if config.pretrained_backbone and config.resume_yolov3:
            given = "pretrained_backbone and resume_yolov3 are both given"
            raise UsageError(f"{given}; the second holds a backbone, give one")
        if config.eval_interval:
            require_evaluation(config)
        data = find_data(MODEL, config, device)
        if config.eval_interval:
            validation_classes(config, data.class_names)
        config, about, network = create_network(MODEL, config, data.class_names, config.resume_yolov3)
        load_backbone(config, network)
        loss_fn = create_loss(config)
        learning_rates = get_lr(config, data.steps_per_epoch)
        optimizer = momentum_sgd(
            network, learning_rates, momentum=config.momentum, weight_decay=config.weight_decay,
            head=MODEL.is_head, head_lr_factor=config.head_lr_factor,
        )  # fmt: skip
        status = train(
            MODEL, config, device, data, network=network, about=about, loss_fn=loss_fn,
            learning_rates=learning_rates, optimizer=optimizer, callbacks=lambda position: [ShapeLine(position)],
        )  # fmt: skip
        if status == 0 and not config.dry_run:
            get_logger().info("==========end training===============")
        return status


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


def with_classes(config: Config) -> Config:
    """The recipe with the classes of the training annotations; a larger number of the command line leaves outputs free.

    Raises:
        UsageError: a number of classes that cannot be.
        DataError: annotations that cannot be read.
    """
    require_range(low=1, num_classes=config.num_classes)
    data = read_split(config, "train")
    if "num_classes" not in config.given:
        config = config.replace(num_classes=len(data.class_names))
    return config.replace(category_ids=data.category_ids)


def show_batches(config: Config, device: Device) -> int:
    """Write pictures of the first training batches instead of a training."""
    require_range(low=1, visualize_batches=config.visualize_batches)
    names = MODEL.find_classes(config, "train", device)
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
    program.run(main)
