"""Data sets given as a text file of lines `RELATIVE_PATH LABEL`: the path of an image below a folder, its class index."""

from __future__ import annotations

import os
import re
from pathlib import Path

import mindspore.dataset as ds
import numpy as np

from .model_utils.errors import DataError, in_short
from .model_utils.files import plain_path, read_text
from .model_utils.image_folder import ENDINGS
from .model_utils.near_names import near_name
from .model_utils.picture_check import MAX_PIXELS, check_image_files


def read_image_list(list_file: str | Path, *, allow_outside: bool = False) -> list[tuple[str, int]]:
    """Relative paths and labels of a list file; blank lines do not count, a path may hold blanks.

    Args:
        list_file: text file.
        allow_outside: whether a path may lead out of the folder of the images.

    Raises:
        DataError: the file cannot be read, is empty, or has a line of another form, a path twice or one that leads out.
    """
    expected = "a text file of lines RELATIVE_PATH LABEL"
    text = read_text(list_file, f"list_file={list_file}", expected=expected, errors="surrogateescape")
    rows: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        path, _, label = line.strip().replace("\t", " ").rpartition(" ")
        path, is_outside = plain_path(path.strip())
        if not re.fullmatch("[0-9]{1,9}", label) or not path.endswith(ENDINGS):
            raise DataError(
                f"{list_file}:{number}: {in_short(line.strip())} is not a line RELATIVE_PATH LABEL, "
                "for example n01440764/n01440764_10026.JPEG 0"
            )
        if is_outside and not allow_outside:
            raise DataError(
                f"{list_file}:{number}: {in_short(path)} leads out of the folder of the images; give paths below it, or "
                "--allow_outside_paths true where you trust the file"
            )
        if path in rows:
            raise DataError(f"{list_file}:{number}: '{path}' stands on an earlier line already; keep one of the two")
        rows[path] = int(label)
    if not rows:
        raise DataError(f"list_file={list_file} holds no line; lines RELATIVE_PATH LABEL are expected")
    return list(rows.items())


def check_image_list(
    folder: str | Path,
    list_file: str | Path,
    num_classes: int | None,
    *,
    check_images: str | bool = "full",
    max_pixels: int = MAX_PIXELS,
    shard: tuple[int, int] = (0, 1),
    allow_outside: bool = False,
) -> list[str]:
    """The class names of a list: the folder of a class's images where each class has one of its own, else its number.

    Args:
        folder: the paths of the list are below it.
        list_file: see `read_image_list`.
        num_classes: width of the network's output, and labels are below it; None: any number.
        check_images: how thoroughly files are checked, see `check_level`.
        max_pixels: see `require_pixels`.
        shard: (rank, size): this process opens every size-th file.
        allow_outside: see `read_image_list`.

    Raises:
        DataError: a fault of the list, a label that is too large, a path that is no file, a damaged image.
    """
    rows = read_image_list(list_file, allow_outside=allow_outside)
    if not os.path.isdir(folder):
        raise DataError(f"data_dir={folder} is not a folder; give the one that the paths of {list_file} start from")
    count = 1 + max(label for _, label in rows)
    if num_classes is not None and count > num_classes:
        path = next(path for path, label in rows if label == count - 1)
        raise DataError(
            f"{list_file}: {path} has the label {count - 1}, num_classes={num_classes}; give --num_classes {count}"
        )
    missing = [path for path, _ in rows if not os.path.isfile(os.path.join(folder, path))]
    if missing:
        hint = near_name(missing[0], _files_below(folder))
        problem = f"{len(missing)} of {len(rows)} paths of {list_file} are no files in {folder}"
        raise DataError(f"{problem}, the first is {missing[0]}{hint}")
    paths = [os.path.join(folder, path) for path, _ in rows]
    check_image_files(folder, paths, level=check_images, max_pixels=max_pixels, shard=shard)
    return _class_names(rows, count)


def _files_below(folder: str | Path) -> list[str]:
    """Relative paths of all files of a folder."""
    return [
        os.path.relpath(os.path.join(parent, name), folder) for parent, _, names in os.walk(folder) for name in names
    ]


def _class_names(rows: list[tuple[str, int]], count: int) -> list[str]:
    folders: dict[int, set[str]] = {}
    for path, label in rows:
        folders.setdefault(label, set()).add(os.path.dirname(path).rpartition("/")[2])
    names = {label: names.pop() for label, names in folders.items() if len(names) == 1}
    if len(names) < count or len(set(names.values())) < count or "" in names.values():
        return [str(label) for label in range(count)]
    return [names[label] for label in range(count)]


class _Files:
    """Random access to the bytes and labels of the images of a list."""

    def __init__(self, folder: str, rows: list[tuple[str, int]]):
        self.folder, self.rows = folder, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        path, label = self.rows[index]
        return np.fromfile(os.path.join(self.folder, path), np.uint8), np.array(label, np.int32)


def image_list(folder: str, rows: list[tuple[str, int]], **options) -> ds.Dataset:
    """The images (file bytes) and labels of a list, in the order of the sampler among `options`."""
    source = _Files(folder, rows)
    return ds.GeneratorDataset(source, ["image", "label"], python_multiprocessing=False, **options)
