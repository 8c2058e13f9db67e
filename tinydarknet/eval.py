"""Evaluate a checkpoint: top-1 and top-5 accuracy over every validation image, each counted once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

from src.dataset import count_images, create_dataset, find_classes
from src.inference import load_network, predict, with_input
from src.model_utils import config as configuration
from src.model_utils import device_adapter, moxing_adapter
from src.model_utils.config import Config, DataError
from src.model_utils.device_adapter import Device
from src.model_utils.logger import get_logger, init_logger
from src.recipe import FOLDER, read_config

import numpy as np


def evaluate(network: Callable, dataset: Any, batch_size: int, expected: int, device: Device) -> dict[str, float]:
    """Accuracies in 0-1 over all ranks; `expected` is the number of images of the data set.

    The prediction is the class of the highest logit, of equal ones that of the lowest index. Top-5 is top-k with
    k = min(5, classes).

    Raises:
        DataError: logits that are not finite, or another number of images than expected.
    """
    counts = np.zeros(3, np.int64)  # images, top-1, top-5
    for images, labels in dataset.create_tuple_iterator(num_epochs=1, output_numpy=True):
        logits = predict(network, images, batch_size)
        if not np.isfinite(logits).all():
            raise DataError("the network's outputs are not finite; give another checkpoint")
        order = np.argsort(-logits, axis=1, kind="stable")[:, :5]  # (n, min(5, classes))
        hits = order == labels[:, None]
        counts += (len(labels), hits[:, 0].sum(), hits.any(axis=1).sum())
    images, top_1, top_5 = (int(count) for count in device.sum(counts.tolist()))
    if images != expected:
        raise DataError(
            f"{images} images were evaluated, the data set has {expected}; this is a fault of the data pipeline"
        )
    return {"top_1_accuracy": top_1 / images, "top_5_accuracy": top_5 / images}


def match_classes(names: list[str], about: dict[str, Any], config: Config) -> list[str]:
    """Names in the order of the network's outputs: those stored with the weights, else those of the data set.

    Raises:
        DataError: the data set has classes that the checkpoint does not know.
    """
    stored, outputs = about["class_names"], about["network"]["num_classes"]
    is_fixed = config.dataset_name == "cifar10"
    if len(names) > outputs or (is_fixed and (outputs != len(names) or stored not in (None, names))):
        raise DataError(
            f"the checkpoint has {outputs} classes ({', '.join(stored[:3]) if stored else 'unnamed'} ...), val_data_dir="
            f"{config.val_data_dir} has {len(names)} ({', '.join(names[:3])} ...); evaluate on the data that it was trained for"
        )
    if stored is None:
        get_logger().info(
            "the checkpoint of %d classes names none: class i is taken to be folder i of the %d in %s",
            outputs, len(names), config.val_data_dir,
        )  # fmt: skip
        return names
    unknown = [name for name in names if name not in stored]
    if unknown:
        raise DataError(
            f"val_data_dir={config.val_data_dir} has the class '{unknown[0]}' ({len(unknown)} such), "
            f"which the checkpoint of {len(stored)} classes does not know; evaluate on the data that it was trained for"
        )
    return stored


def main(argv: list[str] | None = None) -> None:
    config = read_config(argv, __doc__)
    with moxing_adapter.job(config, adapt_paths) as config:
        device = device_adapter.init(config)
        logger = init_logger(config.run_dir, "eval.log", device.rank)
        network, about = load_network(config.checkpoint_path, config, use_ema=config.use_ema)
        names = match_classes(find_classes(config, False, device), about, config)
        config = with_input(config, about)
        dataset = create_dataset(config, False, device, names)
        if config.dry_run:
            logger.info("dry run: everything was built, nothing was evaluated")
            return
        metrics = evaluate(network, dataset, config.batch_size, count_images(config, False), device)
        logger.info("accuracy:  %s", metrics)


def adapt_paths(config: Config) -> Config:
    """Where a ModelArts job finds its data; the checkpoint is given relative to this file."""
    data = Path(moxing_adapter.data_dir(config))
    return config.replace(
        val_data_dir=str(data / "val" if (data / "val").is_dir() else data),
        checkpoint_path=str(FOLDER / config.checkpoint_path),
        run_dir=config.output_path,
    )


if __name__ == "__main__":
    configuration.run(main)
