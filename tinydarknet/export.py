"""Export a checkpoint as MINDIR, ONNX or AIR, with a JSON description of its input and classes beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from src.inference import load_network
from src.model_utils import config as configuration
from src.model_utils import device_adapter, moxing_adapter
from src.model_utils.config import Config, DataError, UsageError
from src.model_utils.logger import init_logger
from src.recipe import FOLDER, read_config

import mindspore as ms
import numpy as np
from mindspore import nn

ENDINGS = {"MINDIR": ".mindir", "ONNX": ".onnx", "AIR": ".air"}


def output_path(config: Config) -> Path:
    """The file to write: file_name, or the name that the recipe has for ONNX and AIR; its ending is that of the format."""
    name = config.file_name
    if "file_name" not in config.given and config.file_format != "MINDIR":
        name = config.onnx_filename if config.file_format == "ONNX" else config.air_filename
    ending = ENDINGS[config.file_format]
    return Path(name if name.endswith(ending) else name + ending).absolute()


def refuse_bad_target(path: Path) -> None:
    """Raise DataError before the work where the file could not be written after it."""
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        reason = "is a folder" if path.is_dir() else f"cannot be written in {folder}"
        raise DataError(f"file_name={path} {reason}; give a file name in an existing folder that may be written")


def export(network: nn.Cell, about: dict[str, Any], path: Path, batch_size: int, file_format: str) -> None:
    """Write the model and its description; each appears under its name only when it is complete.

    Args:
        network: in evaluation mode; (batch_size, 3, H, W) float32 to (batch_size, classes) float32.
        about: its description, see `src.inference.description`.
        path: model file; the description has the same name and the ending .json.
        batch_size: images of a call.
        file_format: MINDIR, ONNX or AIR.
    """
    spec = about["input"]
    images = ms.Tensor(np.zeros((batch_size, 3, spec["height"], spec["width"]), np.float32))
    temporary = path.with_name(f"tmp_{os.getpid()}_{path.stem}")
    written = Path(f"{temporary}{ENDINGS[file_format]}")
    try:
        ms.export(network, images, file_name=str(temporary), file_format=file_format)
        os.replace(written, path)
        temporary.write_text(
            json.dumps({**about, "batch_size": batch_size, "file_format": file_format}, indent=2), encoding="utf-8"
        )
        os.replace(temporary, path.with_name(path.name + ".json"))
    except (RuntimeError, ValueError, OSError) as error:
        raise DataError(f"{path} cannot be written: {str(error).splitlines()[0]}") from error
    finally:
        for leftover in (temporary, written):
            leftover.unlink(missing_ok=True)


def main(argv: list[str] | None = None) -> None:
    config = read_config(argv, __doc__)
    with moxing_adapter.job(config, adapt_paths) as config:
        if config.file_format == "AIR" and config.device_target != "Ascend":
            raise UsageError(
                f"file_format=AIR device_target={config.device_target}: AIR is written on Ascend only; give MINDIR or ONNX"
            )
        batch_size = config.batch_size if "batch_size" in config.given else 1
        if batch_size < 1:
            raise UsageError(f"batch_size={batch_size}: 1 or more is accepted")
        device_adapter.init(config)
        logger = init_logger(None, "export.log")
        path = output_path(config)
        refuse_bad_target(path)
        with device_adapter.portable_operators():
            network, about = load_network(config.checkpoint_path, config, use_ema=config.use_ema)
        if config.dry_run:
            logger.info("dry run: everything was built, nothing was exported")
            return
        export(network, about, path, batch_size, config.file_format)
        logger.info("exported: %s", path)


def adapt_paths(config: Config) -> Config:
    """Where a ModelArts job leaves its results; the checkpoint is given relative to this file."""
    names = {key: str(Path(config.output_path) / config[key]) for key in ("file_name", "onnx_filename", "air_filename")}
    return config.replace(checkpoint_path=str(FOLDER / config.checkpoint_path), **names)


if __name__ == "__main__":
    configuration.run(main)
