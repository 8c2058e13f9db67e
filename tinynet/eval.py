"""Evaluate a checkpoint: loss, top-1 and top-5 accuracy over every validation image, each counted once.

Of a training state the raw and the averaged weights are evaluated, one after the other, unless --use_ema chooses.
"""

from __future__ import annotations

from src.dataset import count_images, create_dataset, find_classes
from src.evaluation import evaluate, match_classes
from src.inference import load_network, with_input
from src.model_utils import checkpoint, device_adapter, moxing_adapter
from src.model_utils import config as configuration
from src.model_utils.checkpoint import EMA_PREFIX
from src.model_utils.config import Config
from src.model_utils.device_adapter import Device
from src.model_utils.logger import init_logger
from src.recipe import read_config
from src.report import documented_metrics


def evaluate_checkpoint(config: Config, device: Device, use_ema: bool) -> dict[str, float] | None:
    """Loss and accuracies by their documented names, or None for a dry run."""
    network, about = load_network(config.ckpt, config, use_ema=use_ema)
    config = with_input(config, about)
    names = match_classes(find_classes(config, False, device), about, config)
    dataset = create_dataset(config, False, device, names)
    if config.dry_run:
        return None
    smoothing = config.smoothing * config.use_label_smooth
    totals = evaluate(network, dataset, config.batch_size, count_images(config, False), device, smoothing)
    return documented_metrics({**totals.accuracies(), "validation_loss": totals.loss / totals.images})


def main(argv: list[str] | None = None) -> None:
    with moxing_adapter.job(read_config(argv, __doc__), adapt_paths) as config:
        device = device_adapter.init(config, config.distributed)
        logger = init_logger(config.run_dir, "eval.log", device.rank)
        is_state = any(name.startswith(EMA_PREFIX) for name in checkpoint.load(config.ckpt)[0])
        is_both = is_state and "use_ema" not in config.given
        kinds = {False: "Model Accuracy: ", True: "EMA-Model Accuracy: "} if is_both else {config.use_ema: ""}
        for use_ema, title in kinds.items():
            metrics = evaluate_checkpoint(config, device, use_ema)
            if metrics is None:
                logger.info("dry run: everything was built, nothing was evaluated")
                return
            logger.info("%s%s", title, metrics)


def adapt_paths(config: Config) -> Config:
    """Where a ModelArts job finds its data and its checkpoint."""
    return config.replace(
        val_data_dir=f"{moxing_adapter.data_dir(config)}/val",
        ckpt=moxing_adapter.checkpoint_file(config),
        run_dir=config.output_path,
    )


if __name__ == "__main__":
    configuration.run(main)
