"""Calibration data of a post-training quantization, and the configuration with which MindSpore Lite uses it for Ascend."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.pictures import read_picture
from ..dataset import eval_transform
from ..model_utils.errors import DataError
from ..model_utils.logger import get_logger
from ..model_utils.picture_files import find_pictures

PICTURES = 100  # at most; spread over the folder
RESIZE_METHODS = {"nearest": "NEAREST", "bilinear": "LINEAR", "bicubic": "CUBIC", "area": "LINEAR"}  # of the converter
LISTED = 5


def find_calibration_pictures(folder: str) -> list[Path]:
    """Some hundred pictures of a folder and its sub-folders, at even distances in the order of their names.

    Raises:
        DataError: no such folder, or no picture in it.
    """
    if not Path(folder).is_dir():
        raise DataError(f"calibration_data={folder} is not a folder; give a folder of some hundred pictures")
    try:
        root, files = find_pictures(folder)
    except DataError as error:
        raise DataError(str(error).replace("input=", "calibration_data=", 1)) from error
    chosen = np.linspace(0, len(files) - 1, min(len(files), PICTURES)).round().astype(int)
    return [root / files[index] for index in chosen]


def write_batches(files: Sequence[Path], about: dict[str, Any], folder: Path) -> tuple[list[Path], int]:
    """Write pictures as the network is fed them, one file for each call: float32 (batch_size, 3, height, width).

    The pictures go through the very preprocessing of evaluation and inference. The last batch is filled up with the
    first pictures. A damaged file is reported and left out.

    Args:
        files: pictures.
        about: description of the model.
        folder: of the .bin files; it is made.

    Returns:
        The files, and the number of different pictures in them.

    Raises:
        DataError: no picture can be read.
    """
    folder.mkdir()
    images, faults = [], []
    written: list[Path] = []

    def write(batch: Sequence[np.ndarray]) -> None:
        written.append(folder / f"{len(written):05d}.bin")
        np.stack(batch).astype("<f4").tofile(written[-1])

    first: list[np.ndarray] = []  # as many as a batch could lack
    for file in files:
        try:
            images.append(eval_transform(read_picture(file), about["input"]))
        except (ValueError, OSError) as error:
            faults.append(f"{file}: {error}")
            continue
        first += images[-1:] if len(first) < about["batch_size"] else []
        if len(images) == about["batch_size"]:
            write(images)
            images = []
    if faults:
        more = f" and {len(faults) - LISTED} more" if len(faults) > LISTED else ""
        get_logger().info(
            "notice: left out %d damaged calibration picture(s): %s%s", len(faults), "; ".join(faults[:LISTED]), more
        )
    if not first:
        raise DataError(f"none of the {len(files)} calibration pictures can be read; give a folder of sound ones")
    if images:
        write(list(itertools.islice(itertools.chain(images, itertools.cycle(first)), about["batch_size"])))
    return written, len(files) - len(faults)


def read_batch(file: Path, about: dict[str, Any]) -> np.ndarray:
    """A file of `write_batches`: (batch_size, 3, height, width) float32."""
    spec = about["input"]
    return np.fromfile(file, "<f4").reshape((about["batch_size"], 3, spec["height"], spec["width"])).astype(np.float32)


# The keys are those of the documents of MindSpore Lite: "Post Training Quantization" and "Ascend Conversion Tool
# Description", https://www.mindspore.cn/lite. `convert` takes relative paths, so that the files can be moved together.
CONVERTER_TEMPLATE = """\
# MindSpore Lite's converter: {name} quantized to int8 for Ascend. Run it in the folder of this file, which may be moved
# together with the model and the folder {calibration}:
#
#   converter_lite --fmk=MINDIR --modelFile={name}.mindir --outputFile={name}_ascend_int8 --saveType=MINDIR \\
#       --optimize=ascend_oriented --inputDataFormat=NCHW --inputShape="{input}:{shape}" --configFile={name}_converter.cfg
#
# The .mindir file comes from: export.py --file_format MINDIR --fold_bn true, with the same checkpoint, size and batch.
# The .onnx file beside this one is converted alike: --fmk=ONNX --modelFile={name}.onnx

[common_quant_param]
quant_type=FULL_QUANT
bit_num=8
# Operators that stay in floating point, by their names, with commas between them; for a model that loses too much AP:
# skip_quant_node=

[data_preprocess_param]
# The converter cannot letterbox (keep_ratio: resize with the aspect ratio kept, grey borders). Each .bin file therefore
# holds what the network is fed, {shape} float32, and the pictures themselves are not needed.
calibrate_path={input}:./{calibration}
calibrate_size={size}
input_type=BIN
# These are read with input_type=IMAGE only, and calibrate_path={input}:FOLDER that holds nothing but calibrate_size
# pictures: another way to the ranges of the values, with pictures that are stretched where keep_ratio is true.
# Mean and std on the scale 0-255.
image_to_format=RGB
normalize_mean={mean}
normalize_std={std}
resize_width={width}
resize_height={height}
resize_method={method}

[full_quant_param]
activation_quant_method=MAX_MIN
bias_correction=true
per_channel=true
target_device=ASCEND

[ascend_context]
# What is not int8, the decoding of the boxes above all, in float32 where the operators have it: float16 rounds a
# coordinate to a few tenths of a pixel, and exp of a side overflows.
precision_mode=preferred_fp32
"""


def converter_configuration(name: str, calibration: str, size: int, input_name: str, about: dict[str, Any]) -> str:
    """Content of the configuration file of converter_lite.

    Args:
        name: of the model, without ending.
        calibration: name of the folder of .bin files beside the configuration.
        size: number of these files.
        input_name: of the network.
        about: description of the model.
    """
    spec = about["input"]
    return CONVERTER_TEMPLATE.format(
        name=name,
        calibration=calibration,
        size=size,
        input=input_name,
        shape=f"{about['batch_size']},3,{spec['height']},{spec['width']}",
        mean=[round(255 * value, 6) for value in spec["mean"]],
        std=[round(255 * value, 6) for value in spec["std"]],
        width=spec["width"],
        height=spec["height"],
        method=RESIZE_METHODS[spec["interpolation"]],
    )
