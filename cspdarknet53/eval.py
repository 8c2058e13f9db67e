"""Evaluate a checkpoint: top-1 and top-5 accuracy over every validation image, each counted once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from src.model_utils import device_adapter, moxing_adapter, program
from src.model_utils.classification.evaluation import evaluate, load_for_evaluation, match_classes
from src.model_utils.config import Config
from src.model_utils.errors import DataError
from src.model_utils.logger import init_logger
from src.recipe import MODEL

SHOWN = (  # sections and keys of the recipe in --help
    "Data", "Network", "Weights", "per_batch_size", "seed", "log_path", "Device", "Several devices", "ModelArts"
)  # fmt: skip


def match_labels(names: list[str], about: dict[str, Any], config: Config) -> list[str]:
    """Names in the order of the network's outputs; a list of files numbers its classes itself.

    Raises:
        DataError: the data set does not belong to the checkpoint.
    """
    stored, outputs = about["class_names"], about["network"]["num_classes"]
    if not config.val_list_file:
        return match_classes(names, about, config)
    if len(names) > outputs:
        raise DataError(
            f"list_file={config.val_list_file} has labels up to {len(names) - 1}, the checkpoint has {outputs} classes; "
            "evaluate on the data that it was trained for"
        )
    is_named = names != [str(label) for label in range(len(names))]
    if stored is not None and is_named and names != stored[: len(names)]:
        label = next(label for label, name in enumerate(names) if name != stored[label])
        raise DataError(
            f"list_file={config.val_list_file} gives label {label} to '{names[label]}', the checkpoint to '{stored[label]}'; "
            "give a list with the labels of the training"
        )
    return stored or names


def main(argv: list[str] | None = None) -> None:
    config = with_validation_data(MODEL.read_config(argv, __doc__, SHOWN))
    with moxing_adapter.job(config, adapt_paths) as config:
        device = device_adapter.init(config, config.is_distributed)
        logger = init_logger(config.log_path, "eval.log", device.rank)
        config, network, dataset = load_for_evaluation(
            MODEL, config, device, config.pretrained, use_ema=config.use_ema, match=match_labels
        )
        if not config.dry_run:
            start = time.monotonic()
            expected = MODEL.count_images(config, "val")
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
    program.run(main)
