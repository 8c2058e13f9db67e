"""COCO's measures of the result files (*.bin) that infer.py and the Ascend 310 application write.

    python postprocess.py --result_path infer_result/result_Files --data_dir dataset/coco2017

How the pictures were resized is told by detections.json of infer.py, where it lies beside result_path; else by the options
below: give --keep_ratio False for an application that resizes both sides. Without it results are taken to be those of the
Ascend 310 application, which does not rotate pictures as their EXIF orientation says. Written, in log_path: what eval.py writes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ..data.annotations import is_integer, short
from ..data.coco import CocoData, data_paths, read_split
from ..data.pictures import TRANSPOSED, keeps_orientation, read_header
from ..data.sizes import require_same_aspect
from ..dataset import input_size
from ..model_utils.config import Config
from ..model_utils.errors import DataError, UsageError
from ..model_utils.files import require_regular
from ..model_utils.logger import init_logger
from ..model_utils.model import Model
from ..model_utils.picture_files import result_names
from ..model_utils.schema import LARGEST_SIDE, MOST_CLASSES, read_json, require_like
from .boxes import Detections, detect, place, to_stored
from .coco_eval import import_pycocotools, to_results
from .evaluation import as_stated, detection_options, report, select_classes

SHOWN = (  # sections and keys of the recipe in --help
    "Evaluation", "result_path", "data_dir", "img_path", "annFile", "testing_shape", "test_img_shape", "keep_ratio",
    "category_ids", "max_pixels", "allow_outside_paths", "log_path", "debug",
)  # fmt: skip
STRIDES = (32, 16, 8)  # pixels of the input for a cell of the maps big, medium and small
INVERSE = {6: 8, 8: 6}  # EXIF orientations; the others are their own inverses
LISTED = 10
NOTED = {"height": 0, "width": 0, "keep_ratio": True}  # of the network's input in detections.json, with examples
LARGEST_NOTE = 8 << 30  # bytes; it lists the objects of all pictures


def read_input(result_path: Path, config: Config) -> dict[str, Any]:
    """What the network was fed: that which infer.py has noted beside the results, else that of the recipe.

    Raises:
        UsageError: the command line contradicts the note.
        DataError: the note cannot be read.
    """
    file, (height, width) = result_path.absolute().parent / "detections.json", input_size(config)
    spec = {"height": height, "width": width, "keep_ratio": config.keep_ratio, "category_ids": config.category_ids}
    spec["is_upright"] = file.exists()  # the application for Ascend 310 does not rotate pictures, and leaves no note
    if not file.exists():
        return spec
    try:
        noted = read_note(file)
    except DataError as error:
        raise DataError(
            f"{file}, which infer.py has written, cannot be read ({error}); remove it or run infer.py again"
        ) from error
    category_ids = noted.pop("category_ids")
    keys = {"testing_shape": ("height", "width"), "test_img_shape": ("height", "width"), "keep_ratio": ("keep_ratio",)}
    for option in set(keys) & config.given:
        if any(noted[key] != spec[key] for key in keys[option]):
            raise UsageError(f"--{option} {config[option]} contradicts {file}, which has {noted}; leave the option out")
    return {**spec, **noted, "category_ids": category_ids}


def read_note(file: Path) -> dict[str, Any]:
    """What infer.py has noted of the network's input: height, width, keep_ratio and category_ids, which may be empty.

    Raises:
        DataError: the note is not as infer.py writes it.
    """
    content = read_json(file, "a note", LARGEST_NOTE)
    noted = content.get("input") if isinstance(content, dict) else None
    require_like(noted, {}, "input")
    for key, example in NOTED.items():
        require_like(noted.get(key), example, f"input.{key}")
    for key in ("height", "width"):
        if noted[key] % STRIDES[0] or not STRIDES[0] <= noted[key] <= LARGEST_SIDE:
            raise DataError(f"input.{key} is {noted[key]}; a multiple of {STRIDES[0]} up to {LARGEST_SIDE} is accepted")
    ids = noted.get("category_ids") or []
    require_like(ids, [], "input.category_ids")
    if not all(map(is_integer, ids)) or len(set(ids)) < len(ids):
        raise DataError(f"input.category_ids is {short(ids)}; integers are accepted, each once")
    return {**{key: noted[key] for key in NOTED}, "category_ids": ids}


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
    size, cells = require_regular(file), 3 * input_size[0] // STRIDES[0] * input_size[1] // STRIDES[0]
    values, rest = divmod(size, 4 * cells)
    if rest or not 6 <= values <= 5 + MOST_CLASSES:
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


def map_shapes(input_size: tuple[int, int], classes: int) -> list[tuple[int, int, int, int]]:
    """Shapes (h, w, 3, 5 + classes) of the decoded maps big, medium and small for an input in pixels."""
    return [(input_size[0] // stride, input_size[1] // stride, 3, 5 + classes) for stride in STRIDES]


def require_sizes(files: Sequence[Path], input_size: tuple[int, int], classes: int) -> None:
    """Raise DataError where the three files of an image have not the sizes that the maps of one model have."""
    for file, shape in zip(files, map_shapes(input_size, classes)):
        size, expected = require_regular(file), 4 * math.prod(shape)
        if size != expected:
            raise DataError(
                f"{file} has {size} bytes, {expected} are expected: float32 {shape} for an input of "
                f"{input_size[0]}x{input_size[1]} and {classes} classes; write the results again, with one model"
            )


def read_maps(files: Sequence[Path], input_size: tuple[int, int], classes: int) -> list[np.ndarray]:
    """The decoded maps (h, w, 3, 5 + classes) float32 of an image.

    Args:
        files: of the maps big, medium and small; `require_sizes` has accepted them.
        input_size: height and width of the network's input in pixels.
        classes: of the model.

    Raises:
        DataError: other values than decoded maps have.
    """
    maps = []
    for file, shape in zip(files, map_shapes(input_size, classes)):
        values = np.fromfile(file, "<f4", count=math.prod(shape)).reshape(shape)
        # A comparison with what is not a number is false.
        if not (np.isfinite(values[..., :4]).all() and ((values[..., 4:] >= 0) & (values[..., 4:] <= 1)).all()):
            raise DataError(
                f"{file} holds what decoded boxes cannot have, probabilities outside 0-1 or values that are not finite; raw "
                "maps are not accepted: export the model with --keep_detect True"
            )
        maps.append(values)
    return maps


def orientation_of(path: Path, stated: tuple[int, int], is_upright: bool) -> tuple[tuple[int, int], int]:
    """Height and width of a picture that results are of, and the orientation by which it is turned in the annotations.

    Args:
        path: picture.
        stated: its size in the annotations.
        is_upright: whether the results are of the upright picture, or of the picture as it is stored.

    Raises:
        DataError: the file cannot be read, or is not the stated size resized.
    """
    try:
        stored, orientation = read_header(path)
        upright = stored[::-1] if orientation in TRANSPOSED else stored
        is_stored = keeps_orientation(stored, stated)
        require_same_aspect(stored if is_stored else upright, stated)
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be used: {error}; give the pictures that belong to the annotations") from error
    if is_upright:
        return upright, orientation if is_stored else 1
    return stored, 1 if is_stored else INVERSE.get(orientation, orientation)


def as_annotated(found: Detections, size: tuple[int, int], orientation: int, stated: tuple[int, int]) -> Detections:
    """Detections in a picture of `size` as those of the annotations' picture, see `orientation_of`."""
    turned = size[::-1] if orientation in TRANSPOSED else size
    return as_stated(found._replace(boxes=to_stored(found.boxes, orientation, size)), turned, stated)


def run(model: Model, argv: list[str] | None = None) -> None:
    """The program postprocess.py."""
    config = model.read_config(argv, __doc__, SHOWN)
    if not config.result_path:
        raise UsageError("--result_path is missing; give the folder of .bin files that infer.py wrote")
    options = detection_options(config)
    import_pycocotools()
    result_path = Path(config.result_path)
    spec = read_input(result_path, config)
    coco = read_split(config, "val")
    images, annotations = data_paths(config, "val")
    groups, sides = find_results(result_path, coco, images), (spec["height"], spec["width"])
    classes = count_classes(groups[0][0], sides)
    outputs = match_categories(coco, spec["category_ids"], classes, annotations)
    for files in groups:
        require_sizes(files, sides, classes)
    logger = init_logger(config.log_path, "postprocess.log")
    logger.info("%d images of %s at %dx%d, keep_ratio=%s", len(groups), annotations, *sides, spec["keep_ratio"])
    results: list[dict[str, Any]] = []
    for position, (files, image_id) in enumerate(zip(groups, coco.image_ids)):
        stated = coco.stated_size(position)
        size, orientation = orientation_of(coco.paths[position], stated, spec["is_upright"])
        maps = [select_classes(values, outputs) for values in read_maps(files, sides, classes)]
        found = detect(maps, place(size, sides, spec["keep_ratio"]), size, sides, **options)
        results += to_results(as_annotated(found, size, orientation, stated), image_id, coco.category_ids)
    report(results, coco.annotations, config)
