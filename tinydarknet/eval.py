"""Evaluate a checkpoint: top-1 and top-5 accuracy over every validation image, each counted once."""

from __future__ import annotations

from pathlib import Path

from src.dataset import count_images, create_dataset, find_classes
from src.evaluation import evaluate, match_classes
from src.inference import load_network, with_input
from src.model_utils import config as configuration
from src.model_utils import device_adapter, moxing_adapter
from src.model_utils.config import Config
from src.model_utils.logger import init_logger
from src.recipe import FOLDER, read_config


def main(argv: list[str] | None = None) -> None:
    config = read_config(argv, __doc__)
    with moxing_adapter.job(config, adapt_paths) as config:
        device = device_adapter.init(config)
        logger = init_logger(config.run_dir, "eval.log", device.rank)
        network, about = load_network(config.checkpoint_path, config, use_ema=config.use_ema)
        is_fixed = config.dataset_name == "cifar10"
        names = match_classes(find_classes(config, False, device), about, config, is_fixed)
        config = with_input(config, about)
        dataset = create_dataset(config, False, device, names)
        if config.dry_run:
            logger.info("dry run: everything was built, nothing was evaluated")
            return
        totals = evaluate(network, dataset, config.batch_size, count_images(config, False), device)
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
    configuration.run(main)
