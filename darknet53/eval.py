"""Evaluate a checkpoint: top-1 and top-5 accuracy over every validation image, each counted once."""

from __future__ import annotations

from pathlib import Path

from src.model_utils import moxing_adapter, program
from src.model_utils.classification.evaluation import evaluate, load_for_evaluation
from src.model_utils.config import Config
from src.model_utils.logger import init_logger
from src.recipe import MODEL, init_device

SHOWN = (  # sections and keys of the recipe in --help
    "Data", "Network", "Weights", "batch_size", "seed", "run_dir", "Device", "Several devices", "ModelArts"
)  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    config = MODEL.read_config(argv, __doc__, SHOWN)
    with moxing_adapter.job(config, adapt_paths) as config:
        device = init_device(config)
        logger = init_logger(config.run_dir, "eval.log", device.rank)
        config, network, dataset = load_for_evaluation(
            MODEL, config, device, config.checkpoint_path, use_ema=config.use_ema
        )
        if not config.dry_run:
            images = MODEL.count_images(config, "val")
            accuracies = evaluate(network, dataset, config.batch_size, images, device).accuracies()
            result = {name: accuracies[name] for name in ("top_5_accuracy", "top_1_accuracy")}
            logger.info("result: %s ckpt= %s", result, config.checkpoint_path)


def adapt_paths(config: Config) -> Config:
    """Where a ModelArts job finds its data and its checkpoint."""
    data = Path(moxing_adapter.data_dir(config))
    return config.replace(
        val_data_dir=str(data / "val" if (data / "val").is_dir() else data),
        checkpoint_path=moxing_adapter.checkpoint_file(config),
        run_dir=config.output_path,
    )


if __name__ == "__main__":
    program.run(main)
