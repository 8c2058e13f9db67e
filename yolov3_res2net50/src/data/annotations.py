"""The one reader of COCO's annotation files: what trains, evaluates, or only checks, sees the same content of a file."""

from __future__ import annotations

import functools
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np

from ..model_utils.errors import DataError
from ..model_utils.files import read_text

COCO = "a COCO file holds an object with the lists images, annotations and categories"
SHOWN = 120  # characters of a value in a message


@dataclass(frozen=True, eq=False)
class Annotations:
    """The checked content of an annotation file.

    Attributes:
        source: the file, for messages.
        images: rows with "id", "file_name" and perhaps "height" and "width", sorted by id: integers before texts.
        categories: rows with "id" and "name", sorted by id.
        image: of each annotation the position in `images`, (n,) int64.
        label: of each annotation the position in `categories`, (n,) int32.
        bbox: (n, 4) float64 x, y, width, height in pixels of the stated sizes; any numbers, also such as are not finite.
        area: (n,) float64 in square pixels; that of the box where the file has no number of 0 or more.
        crowd: (n,) bool, whether a box stands for a crowd.
        odd_areas: annotations whose area is something else than a number of 0 or more.
    """

    source: str
    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    image: np.ndarray
    label: np.ndarray
    bbox: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    odd_areas: int

    @property
    def image_ids(self) -> list[int | str]:
        return [row["id"] for row in self.images]

    @property
    def category_ids(self) -> list[int]:
        return [row["id"] for row in self.categories]

    @property
    def class_names(self) -> list[str]:
        return [row["name"] for row in self.categories]


def read_annotations(file: str | Path) -> Annotations:
    """Read and check an annotation file; it is read once in a process, as long as it does not change.

    Raises:
        DataError: what is wrong with it.
    """
    return _read(Path(file), version(file))


def version(file: str | Path) -> tuple[int, int]:
    """What changes when a file changes: time and size; DataError where it cannot be looked at."""
    try:
        state = os.stat(file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{file} cannot be read: {reason}; give an annotation file of COCO") from error
    return state.st_mtime_ns, state.st_size


@functools.lru_cache(maxsize=4)
def _read(file: Path, version: tuple[int, int]) -> Annotations:
    text = read_text(file, expected="an annotation file of COCO", largest=version[1])
    try:
        content = json.loads(text, object_hook=_without_outline)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON: {str(error) or type(error).__name__}; {COCO}") from error
    return parse(content, str(file))


def _without_outline(content: dict) -> dict:
    """The outlines of the objects are most of a file, and are not used."""
    content.pop("segmentation", None)
    return content


def parse(content: Any, source: str) -> Annotations:
    """Check the content of an annotation file.

    Args:
        content: as JSON has it.
        source: of it, for messages.

    Raises:
        DataError: what is wrong with it.
    """
    _require_lists(content, source)
    categories = _by_id(source, content, "categories", "name", is_integer)
    images = _by_id(source, content, "images", "file_name", lambda key: is_integer(key) or isinstance(key, str))
    if not content["annotations"]:
        raise DataError(f"{source} holds no annotations; give a file with boxes, such as instances_train2017.json")
    image, label, bbox, crowd = _columns(source, content["annotations"], images, categories)
    area, odd_areas = _areas(content["annotations"], bbox)
    return Annotations(source, images, categories, image, label, bbox, area, crowd, odd_areas)


def _require_lists(content: Any, source: str) -> None:
    if not isinstance(content, dict):
        raise DataError(f"{source} holds a {type(content).__name__}; {COCO}")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            found = f"'{key}' is a {type(content[key]).__name__}" if key in content else f"there is no '{key}'"
            keys = short(", ".join(content)).strip('"') if content else "nothing"
            raise DataError(f"{source} is not a COCO file: {found} (found: {keys}); {COCO}")


def _by_id(source: str, content: dict, key: str, name: str, accepts: Callable[[Any], bool]) -> list[dict]:
    """The rows of a list, sorted by their id: integers before texts."""
    rows, seen = content[key], set()
    if not rows:
        raise DataError(f"{source}: the list '{key}' is empty; {COCO}, with at least one entry in each")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not accepts(row.get("id")) or not isinstance(row.get(name), str):
            accepted = f'an object with "id" and "{name}" is accepted'
            raise DataError(f"{source}: {key}[{number}] is {short(row)}; {accepted}")
        fault = _name_fault(row[name], key)
        if fault:
            raise DataError(f"{source}: {key}[{number}] has {fault}")
        if row["id"] in seen:
            raise DataError(
                f"{source}: {key}[{number}] has the id {short(row['id'])} of an earlier one; ids must differ"
            )
        seen.add(row["id"])
    return sorted(rows, key=lambda row: (isinstance(row["id"], str), row["id"]))


def _name_fault(name: str, key: str) -> str:
    """What is wrong with the name of a category or of an image file; empty text for a sound one.

    A file name may hold single surrogates: so Python spells bytes that are no UTF-8. What has the name of a category is
    written as UTF-8.
    """
    if key == "images" and not name:
        return "an empty file_name; give the path below the folder of the images"
    if "\0" in name:
        return f"the name {short(name)}, which holds a zero byte; give it without"
    if key == "categories" and any("\ud800" <= character <= "\udfff" for character in name):
        return f"the name {short(name)}, which holds half a character (a surrogate alone); save the file as UTF-8"
    return ""


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def short(value: Any) -> str:
    """A value in a message: its beginning, as JSON."""
    try:
        text = json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")
    except (RecursionError, ValueError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _columns(
    source: str, annotations: list, images: list[dict], categories: list[dict]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`image`, `label`, `bbox` and `crowd` of Annotations."""
    image_of = {row["id"]: position for position, row in enumerate(images)}
    label_of = {row["id"]: position for position, row in enumerate(categories)}
    image, label, crowd = [], [], []
    bbox = np.empty((len(annotations), 4))
    for number, row in enumerate(annotations):
        try:
            image.append(image_of[row["image_id"]])
            label.append(label_of[row["category_id"]])
            crowd.append({0: False, 1: True}[row.get("iscrowd", 0)])
            left, top, width, height = row["bbox"]
            bbox[number] = (left + 0.0, top + 0.0, width + 0.0, height + 0.0)  # a text is a TypeError
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            fault = _annotation_fault(row, image_of, label_of)
            raise DataError(f"{source}: annotations[{number}] {fault}; found {short(row)}") from None
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


def _areas(annotations: list[dict], bbox: np.ndarray) -> tuple[np.ndarray, int]:
    """`area` and `odd_areas` of Annotations."""
    given = [row.get("area") for row in annotations]
    numbers = np.array([_area(value) for value in given])
    odd = sum(value is not None for value, number in zip(given, numbers) if math.isnan(number))
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(np.isnan(numbers), bbox[:, 2] * bbox[:, 3], numbers), odd


def _area(value: Any) -> float:
    """A number of 0 or more, or else not a number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return math.nan
    try:
        return float(value) if 0 <= value < math.inf else math.nan
    except OverflowError:
        return math.nan
