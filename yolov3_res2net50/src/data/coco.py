"""COCO annotations: where they are, what they must hold, and their boxes as arrays.

Class index = position of the category in the order of the category ids, which may have gaps. Crowd boxes are kept and
marked: they are no training targets, and pycocotools treats them in its own way.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np

from ..model_utils.config import Config
from ..model_utils.errors import DataError, UsageError
from ..model_utils.picture_check import MAX_PIXELS, check_image_files, check_level
from .pictures import picture_size

KEYS = {"train": ("train_img_dir", "train_annFile"), "val": ("img_path", "annFile")}
FOLDERS = {"train": ("train2017", "train2014", "train"), "val": ("val2017", "val2014", "val")}
COCO = "a COCO file holds an object with the lists images, annotations and categories"
LISTED = 10
OVERHANG = 0.5  # pixels; less is a matter of rounding


@dataclass(frozen=True, eq=False)
class CocoData:
    """The images of an annotation file, sorted by image id, and their boxes.

    Attributes:
        image_ids: as in the file, integers or texts.
        paths: the image files.
        sizes: (images, 2) int32, height and width in pixels, as in the annotation file.
        boxes: of each image (k, 4) float32 x1, y1, x2, y2 in pixels, inside the image, of more than zero area.
        classes: of each image (k,) int32 indices into `class_names`.
        crowd: of each image (k,) bool, whether a box stands for a crowd.
        class_names: in the order of the category ids.
        category_ids: ascending.
        clipped, dropped: boxes that reached over the border of their image, and those without an area in it.
    """

    image_ids: list[int | str]
    paths: list[Path]
    sizes: np.ndarray
    boxes: list[np.ndarray]
    classes: list[np.ndarray]
    crowd: list[np.ndarray]
    class_names: list[str]
    category_ids: list[int]
    clipped: int = 0
    dropped: int = 0


def data_paths(config: Config, split: str) -> tuple[Path, Path]:
    """The folder of the images and the annotation file of the training or the evaluation data.

    Raises:
        UsageError: neither data_dir nor the folder of the images is given.
        DataError: a folder or file is missing; the message shows the expected and the found tree.
    """
    image_key, annotation_key = KEYS[split]
    images, annotations = config[image_key], config[annotation_key]
    if not images and not config.data_dir:
        raise UsageError(f"data_dir is empty; give --data_dir FOLDER, or --{image_key} FOLDER --{annotation_key} FILE")
    folders = [Path(images)] if images else [Path(config.data_dir, name) for name in FOLDERS[split]]
    root = Path(config.data_dir) if config.data_dir else folders[0].parent
    pairs = [(folder, _annotations_of(root, folder, annotations)) for folder in folders]
    found = [pair for pair in pairs if pair[0].is_dir()]
    if not found:
        names = ", ".join(f"{folder.name}/" for folder in folders)
        what = (
            f"{image_key}={images} is not a folder" if images else f"no folder {names.replace(', ', ' or ')} in {root}"
        )
        raise _layout_error(what, root, folders[0].parent if images else root, *pairs[0])
    complete = [pair for pair in found if pair[1].is_file()]
    if not complete:
        file = found[0][1]
        what = f"{annotation_key}={file} is not a file" if annotations else f"there is no annotation file {file}"
        raise _layout_error(f"{what}; give one with --{annotation_key}", root, file.parent, *found[0])
    return complete[0]


def _annotations_of(root: Path, folder: Path, given: str) -> Path:
    return Path(given) if given else root / "annotations" / f"instances_{folder.absolute().name}.json"


def _layout_error(problem: str, root: Path, place: Path, folder: Path, file: Path) -> DataError:
    """`problem` with the expected tree and what lies at `place`, or in the nearest folder above it."""
    expected = [f"{folder}/", "    <any name>.jpg", str(file)]
    place = next(near for near in (place, *place.absolute().parents) if near.is_dir())
    names = sorted(entry.name + "/" * entry.is_dir() for entry in os.scandir(place))
    found = "\n    ".join(names[:8] + [f"... and {len(names) - 8:,} more"] * (len(names) > 8)) or "(empty)"
    tree = "\n    ".join(expected)
    return DataError(f"{problem}\nexpected, below {root}:\n    {tree}\nfound:\n{place}/\n    {found}")


def read_coco(
    images: Path,
    annotations: Path,
    *,
    check_images: str | bool,
    max_pixels: int = MAX_PIXELS,
    shard: tuple[int, int] = (0, 1),
) -> CocoData:
    """Read and check an annotation file; it is read once in a process, as long as it does not change.

    Args:
        images: folder that the file names are relative to.
        annotations: annotation file.
        check_images: how thoroughly files are checked, see `check_level`.
        max_pixels: see `require_pixels`.
        shard: (rank, size): this process opens every size-th file.

    Raises:
        DataError: what is wrong with the annotation file, which image files are missing or damaged.
    """
    try:
        state = os.stat(annotations)
    except OSError as error:
        raise DataError(f"{annotations} cannot be read: {error.strerror}; give an annotation file of COCO") from error
    version = (state.st_mtime_ns, state.st_size)
    data = _read(Path(images), Path(annotations), version)
    _check_images(Path(images), Path(annotations), version, (check_level(check_images), max_pixels, shard))
    return data


@functools.lru_cache(maxsize=4)
def _check_images(images: Path, annotations: Path, version: tuple[int, int], how: tuple) -> None:
    level, max_pixels, shard = how
    paths = [str(path) for path in _read(images, annotations, version).paths]
    check_image_files(images, paths, level=level, max_pixels=max_pixels, shard=shard)


@functools.lru_cache(maxsize=4)
def _read(images: Path, annotations: Path, version: tuple[int, int]) -> CocoData:
    content = _load(annotations)
    categories = _by_id(annotations, content, "categories", "name", _is_integer)
    rows = _by_id(annotations, content, "images", "file_name", lambda key: _is_integer(key) or isinstance(key, str))
    if not content["annotations"]:
        raise DataError(f"{annotations} holds no annotations; give a file with boxes, such as instances_train2017.json")
    paths = [images / row["file_name"] for row in rows]
    _require_files(images, annotations, paths)
    sizes = np.array([_size(annotations, row, path) for row, path in zip(rows, paths)], np.int32)
    image_ids, category_ids = [row["id"] for row in rows], [category["id"] for category in categories]
    image, label, bbox, crowd = _columns(annotations, content["annotations"], image_ids, category_ids)
    boxes, usable, clipped = _corners(bbox, sizes[image])
    order = np.argsort(image, kind="stable")  # by image, and in the file's order
    order = order[usable[order]]
    ends = np.searchsorted(image[order], np.arange(1, len(rows)))
    boxes, labels, crowds = (np.split(column[order], ends) for column in (boxes, label, crowd))
    class_names = [category["name"] for category in categories]
    counts = int(clipped.sum()), int((~usable).sum())
    return CocoData(image_ids, paths, sizes, boxes, labels, crowds, class_names, category_ids, *counts)


def _load(file: Path) -> dict[str, Any]:
    """The content of an annotation file, without the outlines of the objects, which are most of it."""

    def without_outline(content: dict) -> dict:
        content.pop("segmentation", None)
        return content

    try:
        content = json.loads(file.read_bytes(), object_hook=without_outline)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}; give an annotation file of COCO") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON: {error}; {COCO}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} holds a {type(content).__name__}; {COCO}")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            found = f"'{key}' is a {type(content[key]).__name__}" if key in content else f"there is no '{key}'"
            raise DataError(f"{file} is not a COCO file: {found} (found: {', '.join(content) or 'nothing'}); {COCO}")
    return content


def _by_id(file: Path, content: dict, key: str, name: str, accepts: Callable[[Any], bool]) -> list[dict]:
    """The rows of a list, sorted by their id: integers before texts."""
    rows, seen = content[key], set()
    if not rows:
        raise DataError(f"{file}: the list '{key}' is empty; {COCO}, with at least one entry in each")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not accepts(row.get("id")) or not isinstance(row.get(name), str):
            accepted = f'an object with "id" and "{name}" is accepted'
            raise DataError(f"{file}: {key}[{number}] is {_short(row)}; {accepted}")
        if not row[name] and key == "images":
            raise DataError(
                f"{file}: {key}[{number}] has an empty file_name; give the path below the folder of the images"
            )
        if row["id"] in seen:
            raise DataError(f"{file}: {key}[{number}] has the id {row['id']!r} of an earlier one; ids must differ")
        seen.add(row["id"])
    return sorted(rows, key=lambda row: (isinstance(row["id"], str), row["id"]))


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."


def _require_files(images: Path, annotations: Path, paths: list[Path]) -> None:
    """Raise DataError where image files are missing. Folders are listed: far quicker than one look for each file."""
    listed = {folder: _names(folder) for folder in {path.parent for path in paths}}
    missing = [path for path in paths if path.name not in listed[path.parent]]
    if missing:
        names = "\n    ".join(map(str, missing[:LISTED]))
        more = f"\n    ... and {len(missing) - LISTED:,} more" if len(missing) > LISTED else ""
        advice = f"give their folder, {images} was looked in, or remove them from the annotations"
        problem = f"{len(missing):,} of {len(paths):,} images of {annotations} are missing; {advice}"
        raise DataError(f"{problem}:\n    {names}{more}")


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def _size(file: Path, row: dict, path: Path) -> tuple[int, int]:
    """Height and width of an image in pixels; of the picture itself where the file does not say."""
    size = row.get("height"), row.get("width")
    if None in size:
        try:
            return picture_size(path)
        except (ValueError, OSError) as error:
            raise DataError(f"{path} cannot be used: {error}; mend it or remove it from {file}") from error
    if not all(isinstance(side, (int, float)) and 1 <= side < 2**31 for side in size):
        found = f'image {row["id"]!r} has "height": {_short(size[0])}, "width": {_short(size[1])}'
        raise DataError(f"{file}: {found}; pixels, 1 or more, are accepted")
    return int(size[0]), int(size[1])


def _columns(file: Path, annotations: list, image_ids: list, category_ids: list) -> Iterator[np.ndarray]:
    """Image position (n,), class (n,) int32, bbox (n, 4) float64 x, y, width, height, crowd (n,) bool of the annotations."""
    images = {image_id: position for position, image_id in enumerate(image_ids)}
    categories = {category_id: index for index, category_id in enumerate(category_ids)}
    image, label, crowd = [], [], []
    bbox = np.empty((len(annotations), 4))
    for number, row in enumerate(annotations):
        try:
            image.append(images[row["image_id"]])
            label.append(categories[row["category_id"]])
            crowd.append({0: False, 1: True}[row.get("iscrowd", 0)])
            left, top, width, height = row["bbox"]
            bbox[number] = (left + 0.0, top + 0.0, width + 0.0, height + 0.0)  # a text is a TypeError
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            fault = _annotation_fault(row, images, categories)
            raise DataError(f"{file}: annotations[{number}] {fault}; found {_short(row)}") from None
    return np.array(image), np.array(label, np.int32), bbox, np.array(crowd)


def _annotation_fault(row: Any, images: dict, categories: dict) -> str:
    """What is wrong with an annotation."""
    needed = ("image_id", "category_id", "bbox")
    if not isinstance(row, dict) or not set(needed) <= set(row):
        return f"is not an object with {', '.join(needed)}, as in an instances_*.json"
    if not isinstance(row["image_id"], (int, str)) or row["image_id"] not in images:
        return "has an image_id that is not among the ids of the images"
    if not isinstance(row["category_id"], int) or row["category_id"] not in categories:
        return f"has a category_id that is not among those of the {len(categories)} categories"
    if row.get("iscrowd", 0) not in (0, 1):
        return "has an iscrowd that is neither 0 nor 1"
    return "has a bbox that is not four numbers x, y, width, height"


def _corners(bbox: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (n, 4) float32 x1, y1, x2, y2 clipped to their images; which have an area, which were clipped, (n,) bool."""
    with np.errstate(invalid="ignore", over="ignore"):
        corners = np.concatenate([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]], axis=1)
        clipped = np.clip(corners, 0, sizes[:, [1, 0, 1, 0]])
        usable = np.isfinite(corners).all(axis=1) & (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
        outside = usable & (np.abs(clipped - corners) > OVERHANG).any(axis=1)
    return clipped.astype(np.float32), usable, outside
