"""Train TinyDarkNet: configuration -> device -> data -> network -> loss -> learning rates -> optimizer -> training."""

from __future__ import annotations

from pathlib import Path

from src.fine_tuning import scale_features
from src.lr_scheduler import get_lr
from src.model_utils import device_adapter, moxing_adapter, program
from src.model_utils.classification.loss import smoothed_cross_entropy
from src.model_utils.config import Config
from src.model_utils.logger import init_logger
from src.model_utils.optimizers import momentum_sgd
from src.model_utils.pretrained import create_network
from src.model_utils.training import find_data, train
from src.recipe import MODEL

SHOWN = (  # sections and keys of the recipe in --help
    "Data", "Augmentation", "Training", "Weights", "Fine-tuning", "Checkpoints and logs", "Device", "ModelArts"
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    config = MODEL.read_config(argv, __doc__, SHOWN)
    with moxing_adapter.job(config, adapt_paths) as config:
        device = device_adapter.init(config)
        init_logger(config.run_dir, "train.log", device.rank)
        data = find_data(MODEL, config, device)
        pretrained_path = config.checkpoint_path if config.pre_trained else ""
        config, about, network = create_network(MODEL, config, data.class_names, pretrained_path)
        if pretrained_path:
            (images, _) = next(
                MODEL.create_dataset(config, "train", device, data.class_names).create_tuple_iterator(
                    num_epochs=1, output_numpy=True
                )
            )
            scale_features(network, images, device, has_new_head=config.reset_head)
        smoothing = config.label_smooth_factor if config.use_label_smooth else 0.0
        loss_fn = smoothed_cross_entropy(config.num_classes, smoothing)
        learning_rates = get_lr(config, data.steps_per_epoch)
        optimizer = momentum_sgd(
            network, learning_rates, momentum=config.momentum, weight_decay=config.weight_decay,
            head=MODEL.is_head, head_lr_factor=config.head_lr_factor,
        )  # fmt: skip
        return train(
            MODEL, config, device, data, network=network, about=about, loss_fn=loss_fn,
            learning_rates=learning_rates, optimizer=optimizer,
        )  # fmt: skip


def adapt_paths(config: Config) -> Config:
    """Where a ModelArts job finds its data and leaves its results; a data set may hold the folders train and val."""
    data = Path(moxing_adapter.data_dir(config))
    return config.replace(
        train_data_dir=str(data / "train" if (data / "train").is_dir() else data),
        val_data_dir=str(data / "val" if (data / "val").is_dir() else data),
        checkpoint_path=moxing_adapter.checkpoint_file(config),
        ckpt_save_dir=str(Path(config.output_path) / config.ckpt_save_dir),
        run_dir=config.output_path,
    )


if __name__ == "__main__":
    program.run(main)
