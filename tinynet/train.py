"""Train TinyNet: configuration -> device -> data -> network -> loss -> learning rates -> optimizer -> training."""

from __future__ import annotations

import eval as evaluation
from src.lr_scheduler import get_lr
from src.model_utils import device_adapter, moxing_adapter, program
from src.model_utils.classification.loss import smoothed_cross_entropy
from src.model_utils.config import Config
from src.model_utils.logger import get_logger, init_logger
from src.model_utils.pretrained import create_network
from src.model_utils.training import find_data, train
from src.optimizer import create_optimizer
from src.recipe import MODEL
from src.report import report_accuracies

SHOWN = (  # sections and keys of the recipe in --help
    "Data", "Augmentation", "Network", "Training", "Weights", "Fine-tuning", "Checkpoints and logs", "Device",
    "Several devices", "ModelArts"
)  # fmt: skip


def main(argv: list[str] | None = None) -> int | None:
    config = MODEL.read_config(argv, __doc__, SHOWN)
    if not config.train:
        return evaluation.main(argv)
    with moxing_adapter.job(config, adapt_paths) as config:
        device = device_adapter.init(config, config.distributed)
        init_logger(config.run_dir, "train.log", device.rank)
        data = find_data(MODEL, config, device)
        config, about, network = create_network(MODEL, config, data.class_names, config.ckpt)
        # Dropout and drop-connect have other masks on each rank.
        network.regularize(config.drop, config.drop_connect, seed=config.seed * 65536 + device.rank)
        loss_fn = smoothed_cross_entropy(config.num_classes, config.smoothing if config.use_label_smooth else 0.0)
        learning_rates = get_lr(config, data.steps_per_epoch)
        optimizer = create_optimizer(config, network, learning_rates, MODEL.is_head)
        total = sum(parameter.size for parameter in network.trainable_params())
        get_logger().info("Total number of parameters: %d", total)
        return train(
            MODEL, config, device, data, network=network, about=about, loss_fn=loss_fn,
            learning_rates=learning_rates, optimizer=optimizer, report=report_accuracies,
        )  # fmt: skip


def adapt_paths(config: Config) -> Config:
    """Where a ModelArts job finds its data and leaves its results."""
    data = moxing_adapter.data_dir(config)
    return config.replace(
        train_data_dir=f"{data}/train",
        val_data_dir=f"{data}/val",
        ckpt=config.ckpt or (moxing_adapter.checkpoint_file(config) if config.checkpoint_url else ""),
        ckpt_save_dir=config.output_path,
        run_dir=config.output_path,
    )


if __name__ == "__main__":
    program.run(main)
