"""Evaluate a checkpoint: loss, top-1 and top-5 accuracy over every validation image, each counted once.

Of a training state the raw and the averaged weights are evaluated, one after the other, unless --use_ema chooses.
"""

from __future__ import annotations

from src.model_utils import checkpoint, device_adapter, moxing_adapter, program
from src.model_utils.checkpoint import EMA_PREFIX
from src.model_utils.classification.evaluation import evaluate, load_for_evaluation
from src.model_utils.config import Config
from src.model_utils.device_adapter import Device
from src.model_utils.logger import init_logger
from src.recipe import MODEL
from src.report import documented_metrics

SHOWN = (  # sections and keys of the recipe in --help
    "Data", "Network", "Weights", "batch_size", "use_label_smooth", "smoothing", "seed", "run_dir", "Device",
    "Several devices", "ModelArts"
)  # fmt: skip


def evaluate_checkpoint(config: Config, device: Device, use_ema: bool) -> dict[str, float] | None:
    """Loss and accuracies by their documented names, or None for a dry run."""
    config, network, dataset = load_for_evaluation(MODEL, config, device, config.ckpt, use_ema=use_ema)
    if config.dry_run:
        return None
    smoothing = config.smoothing * config.use_label_smooth
    totals = evaluate(network, dataset, config.batch_size, MODEL.count_images(config, "val"), device, smoothing)
    return documented_metrics(totals.metrics())


def main(argv: list[str] | None = None) -> None:
    with moxing_adapter.job(MODEL.read_config(argv, __doc__, SHOWN), adapt_paths) as config:
        device = device_adapter.init(config, config.distributed)
        logger = init_logger(config.run_dir, "eval.log", device.rank)
        is_state = any(name.startswith(EMA_PREFIX) for name in checkpoint.load(config.ckpt)[0])
        is_both = is_state and "use_ema" not in config.given
        kinds = {False: "Model Accuracy: ", True: "EMA-Model Accuracy: "} if is_both else {config.use_ema: ""}
        for use_ema, title in kinds.items():
            metrics = evaluate_checkpoint(config, device, use_ema)
            if metrics is None:
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
    program.run(main)
