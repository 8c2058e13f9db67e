"""Evaluate a checkpoint: top-1 and top-5 accuracy over every validation image, each counted once."""

from __future__ import annotations

import functools
from pathlib import Path

from src.model_utils import device_adapter, moxing_adapter, program
from src.model_utils.classification.evaluation import evaluate, load_for_evaluation, match_classes
from src.model_utils.config import Config
from src.model_utils.logger import init_logger
from src.recipe import FOLDER, MODEL

SHOWN = (  # sections and keys of the recipe in --help
    "Data", "Weights", "batch_size", "seed", "run_dir", "Device", "ModelArts"
)  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    config = MODEL.read_config(argv, __doc__, SHOWN)
    with moxing_adapter.job(config, adapt_paths) as config:
        device = device_adapter.init(config)
        logger = init_logger(config.run_dir, "eval.log", device.rank)
        match = functools.partial(match_classes, is_fixed=config.dataset_name == "cifar10")
        config, network, dataset = load_for_evaluation(
            MODEL, config, device, config.checkpoint_path, use_ema=config.use_ema, match=match
        )
        if not config.dry_run:
            images = MODEL.count_images(config, "val")
            totals = evaluate(network, dataset, config.batch_size, images, device)
            logger.info("accuracy:  %s", totals.accuracies())


def adapt_paths(config: Config) -> Config:
    """Where a ModelArts job finds its data; without checkpoint_url, checkpoint_path is relative to this file."""
    data, path = Path(moxing_adapter.data_dir(config)), str(FOLDER / config.checkpoint_path)
    return config.replace(
        val_data_dir=str(data / "val" if (data / "val").is_dir() else data),
        checkpoint_path=moxing_adapter.checkpoint_file(config) if config.checkpoint_url else path,
        run_dir=config.output_path,
    )


if __name__ == "__main__":
    program.run(main)
