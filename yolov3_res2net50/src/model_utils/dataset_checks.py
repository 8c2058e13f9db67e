# Shared file: source utils/model_utils/dataset_checks.py; copy with: python scripts/sync_model_utils.py --write
"""Is this folder the data set that a job needs: what is expected, what was found, which files are wrong.

MindData itself takes hidden and empty folders for classes and every file for an image, and names a damaged one only
when training reaches it. Give `image_folder_options` to ImageFolderDataset: then it reads what was checked here.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from .errors import DataError, require_range
from .files import read_text

FORMATS = ("JPEG", "PNG", "BMP", "TIFF")  # MindData decodes these; it refuses GIF, WebP and JPEG 2000
_ENDINGS = ("jpg", "jpeg", "png", "bmp", "tif", "tiff")
ENDINGS = tuple(f".{spelling}" for end in _ENDINGS for spelling in (end, end.upper(), end.capitalize()))
IGNORED = ("Thumbs.db", "desktop.ini")
IMAGE_TREE = "<class name>/\n        <any name>.jpg   (.jpeg .png .bmp .tif .tiff)\n    <class name>/\n        ..."
CIFAR10_TREE = "data_batch_1.bin ... data_batch_5.bin   (training)\n    test_batch.bin   (test)\n    batches.meta.txt"
CIFAR10_FILES = {"train": "data_batch_*.bin", "test": "test_batch.bin"}
CIFAR10_RECORD = 1 + 3 * 32 * 32  # label, then the red, green and blue plane
HEAD, TAIL, CHUNK, READERS = 4096, 12, 1000, 16


def image_folder_options(classes: list[str]) -> dict[str, Any]:
    """Arguments with which ImageFolderDataset reads exactly the folders and files that check_image_folder checked."""
    return {"class_indexing": {name: index for index, name in enumerate(classes)}, "extensions": list(ENDINGS)}


def check_image_folder(
    path: str | Path, num_classes: int | None, *, check_images: bool = True, shard: tuple[int, int] = (0, 1)
) -> list[str]:
    """The sorted class names of a folder that holds one folder of images for each class.

    Args:
        path: data set folder; hidden files and folders in it are ignored.
        num_classes: width of the network's output, of which the folder may have fewer; None: any number.
        check_images: open every file to see that it is a complete JPEG, PNG, BMP or TIFF.
        shard: (rank, size): this process opens every size-th file.

    Raises:
        DataError: the folder is something else; the message shows the expected and the found tree.
    """
    root = Path(path)
    if not root.is_dir():
        raise _error(root, f"{root} {'is a file, not a folder' if root.exists() else 'does not exist'}")
    entries = [entry for entry in os.scandir(root) if not entry.name.startswith(".")]
    classes = sorted(entry.name for entry in entries if entry.is_dir())
    loose = sorted(entry.name for entry in entries if entry.name.endswith(ENDINGS) and not entry.is_dir())
    if loose:
        advice = "move each into the folder of its class (ImageNet's validation images: the script valprep.sh does it)"
        raise _error(root, f"{len(loose):,} images, first {loose[0]}, lie in {root} outside any class folder; {advice}")
    if not classes:
        raise _error(root, f"{root} holds no class folders")
    images = {name: _images_of(root, name) for name in classes}
    if num_classes is not None and len(classes) > num_classes:
        advice = f"give --num_classes {len(classes)}, or another folder"
        raise _error(root, f"{root} holds {len(classes)} classes, more than num_classes={num_classes}; {advice}")
    if check_images:
        paths = [os.path.join(root, name, file) for name in classes for file in images[name]]
        check_image_files(root, paths[shard[0] :: shard[1]])
    return classes


def cifar10_files(path: str | Path, usage: str) -> list[Path]:
    """The CIFAR-10 binary files of `usage` 'train' or 'test' in a folder, sorted by name."""
    return sorted(Path(path).glob(CIFAR10_FILES[usage]))


def check_cifar10(path: str | Path, usage: str) -> list[str]:
    """The ten class names ('0' to '9' without batches.meta.txt) of a folder of CIFAR-10 binary files.

    A file may hold any number of records; read `cifar10_files` with numpy, because Cifar10Dataset takes 10,000 of each
    file, neither more nor fewer, and hidden files too.

    Raises:
        DataError: the files of `usage` ('train' or 'test') are missing, truncated or of another format.
    """
    root, files = Path(path), cifar10_files(path, usage)
    if not files:
        raise _error(root, f"no {CIFAR10_FILES[usage]} in {root}{_cifar10_hint(root, usage)}", CIFAR10_TREE)
    for file in files:
        size = file.stat().st_size
        if size == 0 or size % CIFAR10_RECORD:
            raise DataError(f"{file} is truncated: {size} bytes, expected a multiple of {CIFAR10_RECORD}; get it again")
        labels = np.memmap(file, np.uint8, "r").reshape(-1, CIFAR10_RECORD)[:, 0]
        if labels.max() > 9:
            record = int(np.argmax(labels > 9))
            raise DataError(f"{file} is no CIFAR-10 file: record {record} has label {labels[record]}, 0-9 are expected")
    meta = root / "batches.meta.txt"
    names = read_text(meta).splitlines() if meta.is_file() else [str(label) for label in range(10)]
    names = [name.strip() for name in names if name.strip()]
    if len(names) != 10:
        raise DataError(f"{meta} holds {len(names)} class names, 10 lines are expected; get it again or remove it")
    return names


def require_steps(images: int, batch_size: int, devices: int) -> int:
    """Whole batches of an epoch on each device, which get as many images each.

    Raises:
        DataError: none, instead of a training that ends at once and looks like a success.
        UsageError: batch_size below 1.
    """
    require_range(low=1, batch_size=batch_size)
    share = images // devices
    if share < batch_size:
        advice = f"lower --batch_size to {share} or less, use fewer devices or more images" if share else "give images"
        have = f"{images} images on {devices} device(s)"
        raise DataError(f"0 steps per epoch: {have} do not fill one batch of {batch_size} on each; {advice}")
    return share // batch_size


def data_error(error: Exception, path: str | Path) -> Exception:
    """MindData's long RuntimeError as a one-line DataError that names the file; other errors are returned unchanged.

    `path` is the data set, empty where it is not known.
    """
    text = str(error)
    if not isinstance(error, RuntimeError) or "Dataset Pipeline Error Message" not in text:
        return error
    found = re.search(r"data file is: (.+?\.\w+)\. (.+?)(?: and dump the| Dump the|\n\n|$)", text, re.DOTALL)
    line = re.search(r"\[ERROR\] (.+)", text)
    if line is None or ("user Python code" in line[1] and not (found and "decode" in found[2])):
        return error  # a bug rather than bad data: its traceback is wanted
    if found is None:
        return DataError(f"data set{f' {path}' if path else ''}: {line[1]}")
    reason = " ".join(found[2].replace("Error description:", "").split())
    return DataError(f"{found[1]} cannot be used: {reason.rstrip('.')}; mend it or remove it from the data set")


@contextlib.contextmanager
def data_errors(path: str | Path) -> Iterator[None]:
    """Inside, what MindData reports about the data set at `path` is a DataError."""
    try:
        yield
    except RuntimeError as error:
        raise data_error(error, path) from None


def _images_of(root: Path, name: str) -> list[str]:
    """The image files of one class, sorted; DataError where there are none, or other things among them."""
    images, others = [], []
    for entry in os.scandir(root / name):
        hidden, image = entry.name.startswith("."), entry.name.endswith(ENDINGS)
        if image and not hidden and not entry.is_dir():
            images.append(entry.name)
        elif image or not (hidden or entry.name in IGNORED):
            others.append(entry.name + "/" * entry.is_dir())
    if others:
        advice = "convert or remove them (if these are the class folders, give their parent as the data set)"
        raise _error(root, f"{root / name} holds more than images: {_some(sorted(others), ', ')}; {advice}")
    if not images:
        raise _error(root, f"class folder {root / name} holds no images; fill it or remove it")
    return sorted(images)


def check_image_files(root: str | Path, paths: list[str], tree: str = IMAGE_TREE) -> None:
    """Open each file to see that it is a complete JPEG, PNG, BMP or TIFF.

    Args:
        root: of the data set, for messages.
        paths: files.
        tree: what is expected below `root`; empty where the paths come from a list.

    Raises:
        DataError: the files of the data set `root` that are not.
    """
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    pool = ThreadPoolExecutor(READERS)
    try:
        faults = [fault for found in pool.map(_faults, chunks) for fault in found]
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the remaining files
    if faults:
        problem = f"{len(faults):,} of {len(paths):,} files are not readable images; mend or remove them"
        text = f"{root}: {problem}:\n    {_some(faults)}"
        raise _error(Path(root), text, tree) if tree else DataError(text)


def _faults(paths: list[str]) -> list[str]:
    return [fault for fault in map(_fault, paths) if fault]


def _fault(path: str) -> str:
    """The path and what is wrong with it; empty text for a sound image."""
    try:
        with open(path, "rb", buffering=0) as file:
            if _looks_complete(file):
                return ""
        with Image.open(path, formats=FORMATS) as image:
            image.load()
    except UnidentifiedImageError:
        return f"{path}: {'not one of ' + ', '.join(FORMATS) if os.path.getsize(path) else 'empty file'}"
    except Exception as error:  # Pillow's readers raise errors of many kinds on damaged files
        return f"{path}: {error}"
    return ""


def _looks_complete(file) -> bool:
    """Quick test: the signature, and the end-of-image marker at the very end. False only asks for a full decode."""
    head = file.read(HEAD)
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL))
    tail = file.read(TAIL)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return tail == b"\0\0\0\0IEND\xaeB`\x82"
    if head.startswith(b"BM"):
        return int.from_bytes(head[2:6], "little") == size
    return head.startswith(b"\xff\xd8\xff") and tail.endswith(b"\xff\xd9") and _reaches_scan(file, head)


def _reaches_scan(file, head: bytes) -> bool:
    """Whether a JPEG's header segments are whole: a file cut just after its thumbnail has that one's end marker."""
    position, start = 2, 0  # in the file: of the segment, of `head`
    while True:
        marker = head[position - start : position - start + 4]
        if len(marker) == 4 and marker[0] == 0xFF:
            if marker[1] == 0xDA:  # start of scan
                return True
            position += 2 + int.from_bytes(marker[2:], "big")
        elif len(marker) == 4 or position == start:
            return False
        else:
            file.seek(position)
            head, start = file.read(HEAD), position


def _some(items: list[str], separator: str = "\n    ", limit: int = 10) -> str:
    more = [f"... and {len(items) - limit:,} more"] if len(items) > limit else []
    return separator.join(items[:limit] + more)


def _error(root: Path, problem: str, expected: str = IMAGE_TREE) -> DataError:
    """`problem` with the expected and the found tree; for a missing folder that of the nearest one above it."""
    folder = next(folder for folder in (root, *root.absolute().parents) if folder.is_dir())
    found = sorted(entry.name + "/" * entry.is_dir() for entry in os.scandir(folder))
    found_tree = _some(found, limit=8) or "(empty)"
    return DataError(f"{problem}\nexpected:\n{root}/\n    {expected}\nfound:\n{folder}/\n    {found_tree}")


def _cifar10_hint(root: Path, usage: str) -> str:
    """What lies there instead, where it is one of the usual mistakes."""
    if cifar10_files(root / "cifar-10-batches-bin", usage):
        return f"; it is in the sub-folder, give {root / 'cifar-10-batches-bin'}"
    if any((root / name).exists() for name in ("data_batch_1", "test_batch", "cifar-10-batches-py")):
        return "; this is the Python version, the binary version is needed (cifar-10-binary.tar.gz)"
    return "" if root.is_dir() else ", which is not a folder"
