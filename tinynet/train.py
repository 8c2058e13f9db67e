"""Train TinyNet: recipe -> device -> data -> network -> loss -> schedule -> optimizer -> training, resumable."""

from __future__ import annotations

import eval as evaluation
from src.finetuning import parameter_groups
from src.model_utils import config as configuration
from src.model_utils import device_adapter, moxing_adapter
from src.model_utils.config import Config, UsageError
from src.model_utils.device_adapter import Device
from src.optimizer import rmsprop
from src.recipe import is_head, read_config
from src.report import report_accuracies
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
    smoothing = config.smoothing * config.num_classes / (config.num_classes - 1)
    if not 0 <= smoothing <= 1:
        raise UsageError(f"smoothing={config.smoothing}: 0 to (classes - 1) / classes is accepted")
    return nn.CrossEntropyLoss(label_smoothing=smoothing)


def create_optimizer(config: Config, network: nn.Cell, learning_rates: np.ndarray) -> nn.Optimizer:
    """RMSProp or momentum SGD; biases, gamma and beta have no weight decay, the head its own factor of the rate."""
    parameters = network.trainable_params()
    groups = parameter_groups(parameters, learning_rates, config.weight_decay, is_head, config.head_lr_factor)
    if config.opt == "sgd":
        return nn.Momentum(groups, ms.Tensor(learning_rates), config.momentum)
    try:
        return rmsprop(groups, ms.Tensor(learning_rates), 0.9, config.momentum, config.opt_eps)
    except ValueError as error:
        raise UsageError(str(error)) from error


def regularize(config: Config, network: nn.Cell, device: Device) -> None:
    """Dropout and drop-connect, with other masks on each rank."""
    try:
        network.regularize(config.drop, config.drop_connect, config.seed * 65536 + device.rank)
    except ValueError as error:
        raise UsageError(str(error)) from error


def main(argv: list[str] | None = None) -> int | None:
    config = read_config(argv, __doc__)
    if not config.train:
        return evaluation.main(argv)
    with moxing_adapter.job(config, adapt_paths) as config:
        device = device_adapter.init(config, config.distributed)
        training = Training(
            config, device, create_loss, create_optimizer, config.ckpt, prepare=regularize, report=report_accuracies
        )
        training.logger.info("%s\nPlease check the above information for the configurations", config.to_yaml())
        total = sum(parameter.size for parameter in training.network.trainable_params())
        training.logger.info("Total number of parameters: %d", total)
        if config.dry_run:
            training.logger.info("dry run: everything was built, nothing was trained")
            return 0
        training.resume()
        return training.run()


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
    configuration.run(main)
