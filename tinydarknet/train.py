"""Train TinyDarkNet: recipe -> device -> data -> network -> loss -> schedule -> optimizer -> training, resumable."""

from __future__ import annotations

from pathlib import Path

from src.finetuning import parameter_groups
from src.model_utils import config as configuration
from src.model_utils import device_adapter, moxing_adapter
from src.model_utils.config import Config, UsageError
from src.recipe import is_head, read_config
from src.training import Training

import mindspore as ms
import numpy as np
from mindspore import nn


def create_loss(config: Config) -> nn.Cell:
    """Cross entropy. Smoothing gives 1 - f to the true class and f / (classes - 1) to each other one.

    The framework's own smoothing gives e / classes to all classes, so e = f * classes / (classes - 1).
    """
    if not config.use_label_smooth or config.num_classes == 1:
        return nn.CrossEntropyLoss()
    smoothing = config.label_smooth_factor * config.num_classes / (config.num_classes - 1)
    if not 0 <= smoothing <= 1:
        raise UsageError(f"label_smooth_factor={config.label_smooth_factor}: 0 to (classes - 1) / classes is accepted")
    return nn.CrossEntropyLoss(label_smoothing=smoothing)


def create_optimizer(config: Config, network: nn.Cell, learning_rates: np.ndarray) -> nn.Optimizer:
    """Momentum SGD; biases, gamma and beta have no weight decay, the head has its own factor of the learning rate."""
    parameters = network.trainable_params()
    groups = parameter_groups(parameters, learning_rates, config.weight_decay, is_head, config.head_lr_factor)
    return nn.Momentum(groups, ms.Tensor(learning_rates), config.momentum)


def main(argv: list[str] | None = None) -> int:
    config = read_config(argv, __doc__)
    with moxing_adapter.job(config, adapt_paths) as config:
        device = device_adapter.init(config)
        pretrained_path = config.checkpoint_path if config.pre_trained else ""
        training = Training(config, device, create_loss, create_optimizer, pretrained_path)
        training.logger.info("%s\nPlease check the above information for the configurations", config.to_yaml())
        if config.dry_run:
            training.logger.info("dry run: everything was built, nothing was trained")
            return 0
        training.resume()
        return training.run()


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
    configuration.run(main)
