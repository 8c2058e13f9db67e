"""Export a checkpoint as MINDIR, ONNX or AIR, with a JSON description of its input and classes beside it."""

from __future__ import annotations

from pathlib import Path

from src.model_utils import moxing_adapter, program
from src.model_utils.config import Config
from src.model_utils.exporting import export_checkpoint
from src.model_utils.logger import init_logger
from src.recipe import MODEL

SHOWN = (  # sections and keys of the recipe in --help
    "num_classes", "height", "width", "image_size", "crop_ratio", "interpolation", "mean", "std", "Network",
    "allow_partial_load", "class_names", "use_ema", "Export", "Device", "ModelArts"
)  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    config = MODEL.read_config(argv, __doc__, SHOWN)
    with moxing_adapter.job(config, adapt_paths) as config:
        init_logger(None, "export.log")
        export_checkpoint(MODEL, config, config.ckpt_file, config.file_name, config.export_batch_size)


def adapt_paths(config: Config) -> Config:
    """Where a ModelArts job finds its checkpoint and leaves its result."""
    return config.replace(
        ckpt_file=moxing_adapter.checkpoint_file(config) if config.checkpoint_url else config.ckpt_file,
        file_name=str(Path(config.output_path) / config.file_name),
    )


if __name__ == "__main__":
    program.run(main)
