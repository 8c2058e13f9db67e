"""COCO data sets: where they are, their images, and the boxes of these as arrays.

Class index = position of the category in the order of the category ids, which may have gaps; two categories may have the
same name. Crowd boxes are kept and marked: they are no training targets, and pycocotools treats them in its own way.
"""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from ..model_utils.config import Config
from ..model_utils.errors import DataError, UsageError
from ..model_utils.files import plain_path
from ..model_utils.logger import get_logger
from ..model_utils.near_names import near_name
from ..model_utils.picture_check import MAX_PIXELS, check_image_files, check_level
from .annotations import Annotations, read_annotations, short, version
from .pictures import picture_size
from .sizes import EXPECTED, FORMS, fit_files, other_form, require_same_aspect, scale_boxes

KEYS = {"train": ("train_img_dir", "train_annFile"), "val": ("img_path", "annFile")}
FOLDERS = {"train": ("train2017", "train2014", "train"), "val": ("val2017", "val2014", "val")}
ROBOFLOW = {"train": "train", "val": "valid"}
ROBOFLOW_FILE = "_annotations.coco.json"
LISTED = 10
READERS = 16  # threads that open files
MOST_FILES = 200_000  # looked at for a near name
OVERHANG = 0.5  # pixels; less is a matter of rounding


@dataclass(frozen=True, eq=False)
class CocoData:
    """The images of an annotation file, sorted by image id, and their boxes.

    Attributes:
        annotations: content of the file.
        image_ids: as in the file, integers or texts.
        paths: the image files.
        sizes: (images, 2) int32, height and width in pixels, as in the annotation file.
        boxes: of each image (k, 4) float32 x1, y1, x2, y2 in pixels of `sizes`, inside the image, of more than zero area.
        classes: of each image (k,) int32 indices into `class_names`.
        crowd: of each image (k,) bool, whether a box stands for a crowd.
        class_names: in the order of the category ids.
        category_ids: ascending.
        clipped, dropped: boxes that reached over the border of their image, and those without an area in it.
    """

    annotations: Annotations
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
    _real: dict[int, tuple[int, int]] = field(default_factory=dict, repr=False)
    _notices: set[str] = field(default_factory=set, repr=False)

    def stated_size(self, position: int) -> tuple[int, int]:
        """Height and width of an image as in the annotation file."""
        height, width = self.sizes[position].tolist()
        return height, width

    def size(self, position: int) -> tuple[int, int]:
        """Height and width of the image file, which is opened once; ValueError where it is not the stated size resized."""
        if position not in self._real:
            stated = self.stated_size(position)
            self._real[position] = require_same_aspect(picture_size(self.paths[position], stated), stated)
        return self._real[position]

    def in_picture(self, position: int, boxes: np.ndarray) -> np.ndarray:
        """Boxes (k, 4) of the annotation file as boxes of the image file."""
        self.note_resized(position, self.size(position))
        return scale_boxes(boxes, self.stated_size(position), self.size(position))

    def note_resized(self, position: int, size: tuple[int, int]) -> None:
        """Say once that there are image files of another size than stated, where no check has counted them."""
        if tuple(size) != self.stated_size(position):
            place = self.paths[position], self.annotations.source
            self.note("%s has another size than %s states; the boxes of such pictures are scaled", *place)

    def note(self, text: str, *values: object) -> None:
        """A warning about the sizes, once."""
        if not self._notices:
            self._notices.add(text)
            get_logger().warning(text, *values)


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
    root = Path(config.data_dir) if config.data_dir else Path(images).parent
    pairs = _layouts(root, images, annotations, split)
    found = [pair for pair in pairs if pair[0].is_dir()]
    if not found:
        names = " or ".join(f"{name}/" for name in FOLDERS[split])
        what = f"{image_key}={images} is not a folder" if images else f"no folder {names} in {root}"
        raise _layout_error(what, root, Path(images).parent if images else root, *pairs[0])
    complete = [pair for pair in found if pair[1].is_file()]
    if not complete:
        file = found[0][1]
        what = f"{annotation_key}={file} is not a file" if annotations else f"there is no annotation file {file}"
        raise _layout_error(f"{what}; give one with --{annotation_key}", root, file.parent, *found[0])
    return complete[0]


def _layouts(root: Path, images: str, annotations: str, split: str) -> list[tuple[Path, Path]]:
    """Folders of images and their annotation files in the order in which they are looked for, the documented ones first."""
    folders = [Path(images)] if images else [root / name for name in FOLDERS[split]]
    inner = [] if images else [root / "images" / name for name in FOLDERS[split]]
    exported = [Path(images)] if images else [root / ROBOFLOW[split]]
    if annotations:
        return [(folder, Path(annotations)) for folder in dict.fromkeys([*folders, *inner, *exported])]
    name = "instances_{}.json".format
    beside = [(folder, root / "annotations" / name(folder.absolute().name)) for folder in [*folders, *inner]]
    if images:
        above = folders[0].absolute().parent.parent
        beside.append((folders[0], above / "annotations" / name(folders[0].absolute().name)))
    return [*beside, *((folder, folder / ROBOFLOW_FILE) for folder in exported)]


def _layout_error(problem: str, root: Path, place: Path, folder: Path, file: Path) -> DataError:
    """`problem` with the expected tree and what lies at `place`, or in the nearest folder above it."""
    expected = [f"{folder}/", "    <any name>.jpg", str(file)]
    place = next(near for near in (place, *place.absolute().parents) if near.is_dir())
    names = sorted(entry.name + "/" * entry.is_dir() for entry in os.scandir(place))
    found = "\n    ".join(names[:8] + [f"... and {len(names) - 8:,} more"] * (len(names) > 8)) or "(empty)"
    tree = "\n    ".join(expected)
    return DataError(f"{problem}\nexpected, below {root}:\n    {tree}\nfound:\n{place}/\n    {found}")


def read_split(
    config: Config, split: str, *, check_images: str | bool = "off", shard: tuple[int, int] = (0, 1)
) -> CocoData:
    """The training or the evaluation data of a recipe; see `data_paths` and `read_coco`."""
    images, annotations = data_paths(config, split)
    limits = {"max_pixels": config.max_pixels, "allow_outside": config.allow_outside_paths}
    return read_coco(images, annotations, check_images=check_images, shard=shard, **limits)


def read_coco(
    images: Path,
    annotations: Path,
    *,
    check_images: str | bool,
    max_pixels: int = MAX_PIXELS,
    shard: tuple[int, int] = (0, 1),
    allow_outside: bool = False,
) -> CocoData:
    """Read and check an annotation file; it is read once in a process, as long as it does not change.

    Args:
        images: folder that the file names are relative to.
        annotations: annotation file.
        check_images: how thoroughly files are checked, see `check_level`; also whether they have the stated sizes.
        max_pixels: see `require_pixels`.
        shard: (rank, size): this process opens every size-th file.
        allow_outside: file names may lead out of the folder.

    Raises:
        DataError: what is wrong with the annotation file, which image files are missing, damaged or of another size.
    """
    key = Path(images), Path(annotations), version(annotations), bool(allow_outside)
    data = _read(*key)
    level = check_level(check_images)
    if level != "off":
        _check_images(*key, level, max_pixels, shard)
    return data


@functools.lru_cache(maxsize=4)
def _read(images: Path, file: Path, version: tuple[int, int], allow_outside: bool) -> CocoData:
    content = read_annotations(file)
    names = [_inside(row["file_name"], number, content, allow_outside) for number, row in enumerate(content.images)]
    paths = [images / name for name in names]
    _require_files(images, file, paths)
    sizes = np.array([_size(content.source, row, path) for row, path in zip(content.images, paths)], np.int32)
    form = other_form(content.bbox, sizes[content.image])
    if form:
        raise DataError(f"{file}: {FORMS[form]}; {EXPECTED[form]}")
    boxes, usable, clipped = _corners(content.bbox, sizes[content.image])
    order = np.argsort(content.image, kind="stable")  # by image, and in the file's order
    order = order[usable[order]]
    ends = np.searchsorted(content.image[order], np.arange(1, len(paths)))
    boxes, labels, crowds = (np.split(column[order], ends) for column in (boxes, content.label, content.crowd))
    counts = int(clipped.sum()), int((~usable).sum())
    names, ids = content.class_names, content.category_ids
    return CocoData(content, content.image_ids, paths, sizes, boxes, labels, crowds, names, ids, *counts)


def _inside(name: str, number: int, content: Annotations, allow_outside: bool) -> str:
    """A file name without `.` and `..`; DataError where it leads out of the folder of the images."""
    plain, is_outside = plain_path(name)
    if is_outside and not allow_outside:
        problem = f"{content.source}: image {short(content.images[number]['id'])} has the file_name {short(name)}"
        advice = "give names below it, or --allow_outside_paths true where you trust the file"
        raise DataError(f"{problem}, which leads out of the folder of the images; {advice}")
    return plain


def _require_files(images: Path, annotations: Path, paths: list[Path]) -> None:
    """Raise DataError where image files are missing. Folders are listed: far quicker than one look for each file."""
    listed = {folder: _names(folder) for folder in {path.parent for path in paths}}
    missing = [path for path in paths if path.name not in listed[path.parent]]
    if missing:
        present = _files_below(images)
        hints = [near_name(os.path.relpath(path, images), present) for path in missing[:LISTED]]
        names = "\n    ".join(f"{path}{hint}" for path, hint in zip(missing, hints))
        more = f"\n    ... and {len(missing) - LISTED:,} more" if len(missing) > LISTED else ""
        advice = f"give their folder, {images} was looked in, or remove them from the annotations"
        problem = f"{len(missing):,} of {len(paths):,} images of {annotations} are missing; {advice}"
        raise DataError(f"{problem}:\n    {names}{more}".encode("utf-8", "backslashreplace").decode("utf-8"))


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def _files_below(folder: Path) -> list[str]:
    """Paths of the files below a folder, relative to it; not more than MOST_FILES."""
    files = (os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return [os.path.relpath(file, folder) for file in islice(files, MOST_FILES)]


def _size(source: str, row: dict, path: Path) -> tuple[int, int]:
    """Height and width of an image in pixels; of the picture itself where the file does not say."""
    size = row.get("height"), row.get("width")
    if None in size:
        try:
            return picture_size(path)
        except (ValueError, OSError) as error:
            raise DataError(f"{path} cannot be used: {error}; mend it or remove it from {source}") from error
    if not all(isinstance(side, (int, float)) and 1 <= side < 2**31 for side in size):
        found = f'image {short(row["id"])} has "height": {short(size[0])}, "width": {short(size[1])}'
        raise DataError(f"{source}: {found}; pixels, 1 or more, are accepted")
    return int(size[0]), int(size[1])


def _corners(bbox: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (n, 4) float32 x1, y1, x2, y2 clipped to their images; which have an area, which were clipped, (n,) bool."""
    with np.errstate(invalid="ignore", over="ignore"):
        corners = np.concatenate([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]], axis=1)
        clipped = np.clip(corners, 0, sizes[:, [1, 0, 1, 0]])
        usable = np.isfinite(corners).all(axis=1) & (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
        outside = usable & (np.abs(clipped - corners) > OVERHANG).any(axis=1)
    return clipped.astype(np.float32), usable, outside


@functools.lru_cache(maxsize=4)
def _check_images(
    images: Path,
    file: Path,
    version: tuple[int, int],
    allow_outside: bool,
    level: str,
    max_pixels: int,
    shard: tuple[int, int],
) -> None:
    data = _read(images, file, version, allow_outside)
    check_image_files(images, list(map(str, data.paths)), level=level, max_pixels=max_pixels, shard=shard)
    _check_sizes(data, range(len(data.paths))[shard[0] :: shard[1]])


def _check_sizes(data: CocoData, positions: range) -> None:
    """Compare the sizes of image files with the stated ones, and say how many differ.

    Raises:
        DataError: other aspect ratios, or boxes that fit the files rather than the stated sizes.
    """
    with ThreadPoolExecutor(READERS) as pool:
        faults = [fault for fault in pool.map(functools.partial(_size_fault, data), positions) if fault]
    if faults:
        raise DataError(_size_problem(data, faults, len(positions)))
    resized = [position for position in positions if data.size(position) != data.stated_size(position)]
    if resized:
        _require_stated_boxes(data, resized)
        text = "%d of %d pictures have another size than %s states; their boxes are scaled"
        data.note(text, len(resized), len(positions), data.annotations.source)


def _size_fault(data: CocoData, position: int) -> str:
    """The path of an image file and what is wrong with its size; empty text for a sound one."""
    try:
        data.size(position)
    except (ValueError, OSError) as error:
        return f"{data.paths[position]}: {error}"
    return ""


def _size_problem(data: CocoData, faults: list[str], looked_at: int) -> str:
    problem = (
        f"{len(faults):,} of {looked_at:,} pictures have another aspect ratio than {data.annotations.source} states"
    )
    exchanged = sum(fault.endswith("exchanged") for fault in faults)
    advice = (
        "exchange width and height in the file" if exchanged == len(faults) else "give the pictures that belong to it"
    )
    more = f"\n    ... and {len(faults) - LISTED:,} more" if len(faults) > LISTED else ""
    return f"{problem}; {advice}:\n    " + "\n    ".join(faults[:LISTED]) + more


def _require_stated_boxes(data: CocoData, resized: list[int]) -> None:
    """Raise DataError where the boxes of pictures of another size belong to the files: then they are not to be scaled."""
    content = data.annotations
    chosen = np.isin(content.image, resized)
    real = np.array([data.size(position) for position in content.image[chosen].tolist()]).reshape(-1, 2)
    if fit_files(content.bbox[chosen], data.sizes[content.image[chosen]], real):
        raise DataError(
            f"{content.source}: {len(resized):,} pictures, the first of them {data.paths[resized[0]]}, have another size than "
            "stated, and the boxes fit these pictures, not the stated sizes; write the pictures' width and height into the file"
        )
