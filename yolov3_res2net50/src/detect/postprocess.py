"""COCO's measures of the result files (*.bin) that infer.py and the Ascend 310 application write.

    python postprocess.py --result_path infer_result/result_Files --data_dir dataset/coco2017

How the pictures were resized is told by detections.json of infer.py, where it lies beside result_path; else by the options
below: give --keep_ratio False for an application that resizes both sides. Written, in log_path: what eval.py writes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ..data.coco import CocoData, data_paths, read_coco
from ..dataset import input_size
from ..model_utils.config import Config
from ..model_utils.errors import DataError, UsageError
from ..model_utils.logger import init_logger
from ..model_utils.model import Model
from ..model_utils.picture_files import result_names
from .boxes import detect, place
from .coco_eval import import_pycocotools, to_results
from .evaluation import detection_options, report, select_classes

SHOWN = (  # sections and keys of the recipe in --help
    "Evaluation", "result_path", "data_dir", "img_path", "annFile", "testing_shape", "test_img_shape", "keep_ratio",
    "category_ids", "log_path", "debug",
)  # fmt: skip
STRIDES = (32, 16, 8)  # pixels of the input for a cell of the maps big, medium and small
LISTED = 10


def read_input(result_path: Path, config: Config) -> dict[str, Any]:
    """What the network was fed: that which infer.py has noted beside the results, else that of the recipe.

    Raises:
        UsageError: the command line contradicts the note.
        DataError: the note cannot be read.
    """
    file, (height, width) = result_path.absolute().parent / "detections.json", input_size(config)
    spec = {"height": height, "width": width, "keep_ratio": config.keep_ratio, "category_ids": config.category_ids}
    if not file.is_file():
        return spec
    try:
        noted = json.loads(file.read_text(encoding="utf-8"))["input"]
        category_ids = noted.get("category_ids") or []
        noted = {key: noted[key] for key in ("height", "width", "keep_ratio")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file}, which infer.py has written, cannot be read ({error!r}); remove it or run infer.py again"
        ) from error
    keys = {"testing_shape": ("height", "width"), "test_img_shape": ("height", "width"), "keep_ratio": ("keep_ratio",)}
    for option in set(keys) & config.given:
        if any(noted[key] != spec[key] for key in keys[option]):
            raise UsageError(f"--{option} {config[option]} contradicts {file}, which has {noted}; leave the option out")
    return {**spec, **noted, "category_ids": category_ids}


def find_results(result_path: Path, coco: CocoData, images: Path) -> list[list[Path]]:
    """The three result files of each image.

    The image a/b.jpg has b_0.bin, b_1.bin and b_2.bin: the decoded maps big, medium and small. Where several images have the
    name b, those of this one are a__b_0.bin and so on.

    Raises:
        DataError: the folder or some of the files do not exist.
    """
    if not result_path.is_dir():
        raise DataError(f"result_path={result_path} is not a folder; give the folder of .bin files that infer.py wrote")
    names = result_names([PurePath(os.path.relpath(path, images)) for path in coco.paths])
    files = [[result_path / f"{name}_{number}.bin" for number in range(len(STRIDES))] for name in names]
    present = {entry.name for entry in result_path.iterdir()}
    missing = [file.name for group in files for file in group if file.name not in present]
    if missing:
        inner = result_path / "result_Files"
        hint = f"; is {inner} meant?" if inner.is_dir() else "; write the results of all images of the annotation file"
        more = f"\n    ... and {len(missing) - LISTED:,} more" if len(missing) > LISTED else ""
        listed = "\n    ".join(missing[:LISTED])
        raise DataError(f"{len(missing):,} result files are missing in {result_path}{hint}\n    {listed}{more}")
    return files


def count_classes(file: Path, input_size: tuple[int, int]) -> int:
    """Classes of the model that wrote the file of the map big.

    Raises:
        DataError: the size of the file is that of no such map.
    """
    size, cells = file.stat().st_size, 3 * input_size[0] // STRIDES[0] * input_size[1] // STRIDES[0]
    values, rest = divmod(size, 4 * cells)
    if rest or values < 6:
        raise DataError(
            f"{file} has {size} bytes; a multiple of {4 * cells}, at least six times that, is expected: float32 maps of "
            f"{cells} boxes with 5 + classes values each for an input of {input_size[0]}x{input_size[1]}; give the "
            "--testing_shape of the model"
        )
    return values - 5


def match_categories(coco: CocoData, model_ids: Sequence[int], classes: int, annotations: Path) -> list[int]:
    """For each category of the annotations the index of the model's class.

    Args:
        coco: annotations.
        model_ids: the category of each class of the model; empty: those of the annotations.
        classes: of the model.
        annotations: their file, for messages.

    Raises:
        DataError: categories that the model does not have.
    """
    model_ids = list(model_ids) or coco.category_ids
    unknown = sorted(set(coco.category_ids) - set(model_ids))
    if len(model_ids) != classes or unknown:
        problem = f"does not know the categories {unknown[:LISTED]}" if unknown else f"has {len(model_ids)} categories"
        who = "the model" if unknown else str(annotations)
        raise DataError(
            f"the results are of {classes} classes, {who} {problem}; give the annotations that the model was trained for"
        )
    return [model_ids.index(category) for category in coco.category_ids]


def read_maps(files: Sequence[Path], input_size: tuple[int, int], classes: int) -> list[np.ndarray]:
    """The decoded maps (h, w, 3, 5 + classes) float32 of an image.

    Args:
        files: of the maps big, medium and small.
        input_size: height and width of the network's input in pixels.
        classes: of the model.

    Raises:
        DataError: files of other sizes, or other values than decoded maps have.
    """
    maps = []
    for file, stride in zip(files, STRIDES):
        shape = (input_size[0] // stride, input_size[1] // stride, 3, 5 + classes)
        size, expected = file.stat().st_size, 4 * int(np.prod(shape))
        if size != expected:
            raise DataError(
                f"{file} has {size} bytes, {expected} are expected: float32 {shape} for an input of "
                f"{input_size[0]}x{input_size[1]} and {classes} classes; write the results again, with one model"
            )
        values = np.fromfile(file, "<f4").reshape(shape)
        # A comparison with what is not a number is false.
        if not (np.isfinite(values[..., :4]).all() and ((values[..., 4:] >= 0) & (values[..., 4:] <= 1)).all()):
            raise DataError(
                f"{file} holds what decoded boxes cannot have, probabilities outside 0-1 or values that are not finite; raw "
                "maps are not accepted: export the model with --keep_detect True"
            )
        maps.append(values)
    return maps


def run(model: Model, argv: list[str] | None = None) -> None:
    """The program postprocess.py."""
    config = model.read_config(argv, __doc__, SHOWN)
    if not config.result_path:
        raise UsageError("--result_path is missing; give the folder of .bin files that infer.py wrote")
    options = detection_options(config)
    import_pycocotools()
    result_path = Path(config.result_path)
    spec = read_input(result_path, config)
    images, annotations = data_paths(config, "val")
    coco = read_coco(images, annotations, check_images=False)
    groups, sides = find_results(result_path, coco, images), (spec["height"], spec["width"])
    classes = count_classes(groups[0][0], sides)
    outputs = match_categories(coco, spec["category_ids"], classes, annotations)
    logger = init_logger(config.log_path, "postprocess.log")
    logger.info("%d images of %s at %dx%d, keep_ratio=%s", len(groups), annotations, *sides, spec["keep_ratio"])
    results: list[dict[str, Any]] = []
    for files, image_id, size in zip(groups, coco.image_ids, coco.sizes.tolist()):
        maps = [select_classes(values, outputs) for values in read_maps(files, sides, classes)]
        found = detect(maps, place(size, sides, spec["keep_ratio"]), size, sides, **options)
        results += to_results(found, image_id, coco.category_ids)
    report(results, annotations, config)
