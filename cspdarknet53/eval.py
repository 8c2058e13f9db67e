"""Evaluate a checkpoint: top-1 and top-5 accuracy over every validation image, each counted once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from src.dataset import count_images, create_dataset, find_classes
from src.evaluation import evaluate, match_classes
from src.inference import load_network, with_input
from src.model_utils import config as configuration
from src.model_utils import device_adapter, moxing_adapter
from src.model_utils.config import Config, DataError
from src.model_utils.device_adapter import Device
from src.model_utils.logger import init_logger
from src.recipe import read_config


def classes_of(config: Config, about: dict[str, Any], device: Device) -> list[str]:
    """Names in the order of the network's outputs.

    Raises:
        DataError: the data set does not belong to the checkpoint.
    """
    names, stored = find_classes(config, False, device), about["class_names"]
    if not config.val_list_file:
        return match_classes(names, about, config)
    is_named = names != [str(label) for label in range(len(names))]
    if stored is not None and is_named and names != stored[: len(names)]:
        label = next(label for label, name in enumerate(names) if name != stored[label])
        raise DataError(
            f"list_file={config.val_list_file} gives label {label} to '{names[label]}', the checkpoint to '{stored[label]}'; "
            "give a list with the labels of the training"
        )
    return stored or names


def main(argv: list[str] | None = None) -> None:
    config = with_validation_data(read_config(argv, __doc__))
    with moxing_adapter.job(config, adapt_paths) as config:
        device = device_adapter.init(config, config.is_distributed)
        logger = init_logger(config.log_path, "eval.log", device.rank)
        network, about = load_network(config.pretrained, config, use_ema=config.use_ema)
        config = with_input(config, about)
        dataset = create_dataset(config, False, device, classes_of(config, about, device))
        if config.dry_run:
            logger.info("dry run: everything was built, nothing was evaluated")
            return
        start = time.monotonic()
        expected = count_images(config, False)
        images, top_1, top_5, _ = evaluate(network, dataset, config.per_batch_size, expected, device)
        logger.info("Inference Performance: %.2f img/sec", images / (time.monotonic() - start))
        for k, count in ((1, top_1), (5, top_5)):
            logger.info("top%d_correct=%d, tot=%d, acc=%.2f%%(TOP%d)", k, count, images, 100 * count / images, k)


def with_validation_data(config: Config) -> Config:
    """The recipe with data_dir and list_file as the validation data, unless it names others."""
    if config.val_data_dir:
        return config
    return config.replace(val_data_dir=config.data_dir, val_list_file=config.list_file)


def adapt_paths(config: Config) -> Config:
    """Where a ModelArts job finds its data and its checkpoint; data_dir and pretrained go first where they are given."""
    data = Path(moxing_adapter.data_dir(config))
    return config.replace(
        val_data_dir=config.val_data_dir or str(data / "val" if (data / "val").is_dir() else data),
        pretrained=config.pretrained or (moxing_adapter.checkpoint_file(config) if config.checkpoint_url else ""),
        log_path=config.output_path,
    )


if __name__ == "__main__":
    configuration.run(main)
