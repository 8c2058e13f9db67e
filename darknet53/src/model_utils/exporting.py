# Shared file: source utils/model_utils/exporting.py; copy with: python scripts/sync_model_utils.py --write
"""From a checkpoint to a MINDIR, ONNX or AIR file with a JSON description of its input and classes beside it."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn

from . import device_adapter
from .config import Config
from .errors import DataError, UsageError, require_range
from .files import move, require_text_name
from .folding import fold_batch_norm
from .inference import digest, load_network
from .layers import portable_operators
from .logger import get_logger
from .model import Model

PLAIN = re.compile(r"[0-9a-zA-Z@_.:/\\-]+")  # paths that MindSpore exports to
ENDINGS = {"MINDIR": ".mindir", "ONNX": ".onnx", "AIR": ".air"}


def export_checkpoint(
    model: Model,
    config: Config,
    checkpoint_path: str,
    name: str,
    batch_size: int,
    prepare: Callable[[nn.Cell, dict[str, Any]], nn.Cell] | None = None,
) -> Path | None:
    """Write the network of a checkpoint to the file `name`, whose ending may be left out.

    Args:
        model: whose checkpoint it is.
        config: `file_format`, `fold_bn`, `use_ema`, `dry_run` and what `load_network` reads of it.
        checkpoint_path: a .ckpt file.
        name: file to write.
        batch_size: images of a call, 1 or more.
        prepare: from the network, in evaluation mode, and its description to what is exported; may change the description.

    Returns:
        The file that was written; none of a dry run.

    Raises:
        UsageError: a format that the device does not write, a batch size that cannot be.
        DataError: a file that cannot be read or written.
    """
    refuse_bad_request(config, batch_size)
    device_adapter.init(config, distributed=False)
    ending = ENDINGS[config.file_format]
    path = Path(name if name.endswith(ending) else name + ending).absolute()
    refuse_bad_target(path)
    with portable_operators():
        network, about = load_network(model, checkpoint_path, config, use_ema=config.use_ema)
        if config.fold_bn:
            network = fold_batch_norm(network)
        if prepare is not None:
            network = prepare(network, about).set_train(False)
    if config.dry_run:
        get_logger().info("dry run: everything was built, nothing was exported")
        return None
    export(network, about, path, batch_size, config.file_format)
    get_logger().info("exported: %s", path)
    return path


def refuse_bad_request(config: Config, batch_size: int) -> None:
    """Raise UsageError for what cannot be, before the device is touched."""
    if config.file_format == "AIR" and config.device_target != "Ascend":
        raise UsageError(
            f"file_format=AIR device_target={config.device_target}: AIR is written on Ascend only; give MINDIR or ONNX"
        )
    require_range(low=1, batch_size=batch_size)


def refuse_bad_target(path: Path) -> None:
    """Raise DataError before the work where the file could not be written after it."""
    require_text_name(path, "file_name")
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        reason = "is a folder" if path.is_dir() else f"cannot be written in {folder}"
        raise DataError(f"file_name={path} {reason}; give a file name in an existing folder that may be written")


def export(network: nn.Cell, about: dict[str, Any], path: Path, batch_size: int, file_format: str) -> None:
    """Write the model and its description; each appears under its name only when it is complete.

    Args:
        network: in evaluation mode; (batch_size, 3, H, W) float32 to float32 outputs.
        about: its description, see `inference.description`.
        path: model file; the description has the same name and the ending .json.
        batch_size: images of a call.
        file_format: MINDIR, ONNX or AIR.
    """
    spec = about["input"]
    images = ms.Tensor(np.zeros((batch_size, 3, spec["height"], spec["width"]), np.float32))
    try:
        with tempfile.TemporaryDirectory(prefix="export_", dir=_plain_folder(path.parent)) as private:
            written = Path(private, "model" + ENDINGS[file_format])
            if file_format == "ONNX":
                from .onnx_graph import simplify  # the other formats need no onnx

                _export_onnx(network, images, str(written.with_suffix("")))
                simplify(written)
            else:
                ms.export(network, images, file_name=str(written.with_suffix("")), file_format=file_format)
            notes = {**about, "sha256": digest(written), "batch_size": batch_size, "file_format": file_format}
            described = Path(private, "model.json")
            described.write_text(json.dumps(notes, indent=2), encoding="utf-8")
            move(written, path)
            move(described, path.with_name(path.name + ".json"))
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        raise DataError(f"{path} cannot be written: {str(error).splitlines()[0]}") from error


def _plain_folder(folder: Path) -> Path:
    """Where the framework exports to before the file is moved: it takes only plain letters, also in the folders' names.

    It changes the modes of the folder and the file, too.
    """
    places = (folder, Path(tempfile.gettempdir()))
    plain = [place for place in places if PLAIN.fullmatch(str(place)) and os.access(place, os.W_OK)]
    if not plain:
        raise OSError(f"neither {places[0]} nor {places[1]} is a path of plain letters; set TMPDIR to one")
    return plain[0]


def _export_onnx(network: nn.Cell, images: ms.Tensor, name: str) -> None:
    """Write `name`.onnx. The function of its own came with MindSpore 2.7.1; `export` will lose the format."""
    if hasattr(ms, "onnx"):
        ms.onnx.export(network, images, file_name=name)
    else:
        ms.export(network, images, file_name=name, file_format="ONNX")
