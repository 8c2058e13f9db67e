"""Export a checkpoint as MINDIR, ONNX or AIR, with a JSON description of its input and classes beside it."""

from __future__ import annotations

from pathlib import Path

from src.model_utils import moxing_adapter, program
from src.model_utils.config import Config
from src.model_utils.exporting import export_checkpoint
from src.model_utils.logger import init_logger
from src.recipe import FOLDER, MODEL

SHOWN = (  # sections and keys of the recipe in --help
    "dataset_name", "num_classes", "image_height", "image_width", "crop_ratio", "interpolation", "mean", "std",
    "batch_size", "Weights", "Export", "Device", "ModelArts"
)  # fmt: skip


def output_name(config: Config) -> str:
    """The file to write: file_name, or the name that the recipe has for ONNX and AIR."""
    if "file_name" not in config.given and config.file_format != "MINDIR":
        return config.onnx_filename if config.file_format == "ONNX" else config.air_filename
    return config.file_name


def main(argv: list[str] | None = None) -> None:
    config = MODEL.read_config(argv, __doc__, SHOWN)
    with moxing_adapter.job(config, adapt_paths) as config:
        init_logger(None, "export.log")
        batch_size = config.batch_size if "batch_size" in config.given else 1
        export_checkpoint(MODEL, config, config.checkpoint_path, output_name(config), batch_size)


def adapt_paths(config: Config) -> Config:
    """Where a ModelArts job leaves its results; without checkpoint_url, checkpoint_path is relative to this file."""
    names = {key: str(Path(config.output_path) / config[key]) for key in ("file_name", "onnx_filename", "air_filename")}
    path = moxing_adapter.checkpoint_file(config) if config.checkpoint_url else str(FOLDER / config.checkpoint_path)
    return config.replace(checkpoint_path=path, **names)


if __name__ == "__main__":
    program.run(main)
