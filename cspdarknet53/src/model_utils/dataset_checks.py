# Shared file: source utils/model_utils/dataset_checks.py; copy with: python scripts/sync_model_utils.py --write
"""Is this folder the data set that a job needs: what is expected, what was found, which files are wrong.

MindData itself takes hidden and empty folders for classes and every file for an image, and names a damaged one only
when training reaches it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from .errors import DataError, require_range
from .files import read_text, reason
from .image_folder import ImageFolder, list_image_folder, some
from .logger import get_logger
from .picture_check import MAX_PIXELS, check_image_files, check_level, remove_dump

IMAGE_TREE = "<class name>/\n        <any name>.jpg   (.jpeg .png .bmp .tif .tiff)\n    <class name>/\n        ..."
CIFAR10_TREE = "data_batch_1.bin ... data_batch_5.bin   (training)\n    test_batch.bin   (test)\n    batches.meta.txt"
CIFAR10_FILES = {"train": "data_batch_*.bin", "test": "test_batch.bin"}
CIFAR10_RECORD = 1 + 3 * 32 * 32  # label, then the red, green and blue plane


def check_image_folder(
    path: str | Path,
    num_classes: int | None,
    *,
    check_images: str | bool = "full",
    max_pixels: int = MAX_PIXELS,
    shard: tuple[int, int] = (0, 1),
    counterpart: str | Path = "",
) -> list[str]:
    """The sorted class names of a folder that holds one folder of images for each class.

    Args:
        path: data set folder; what `image_folder.is_skipped` names is ignored.
        num_classes: width of the network's output, of which the folder may have fewer; None: any number.
        check_images: how thoroughly files are checked, see `check_level`.
        max_pixels: see `require_pixels`.
        shard: (rank, size): this process opens every size-th file.
        counterpart: folder of the validation data, for messages: a class that it lacks may be one too many.

    Raises:
        DataError: the folder is something else; the message shows the expected and the found tree.
        UsageError: an option that cannot be.
    """
    root, level = Path(path), check_level(check_images)
    folder = _listing(root)
    _require_layout(root, folder)
    names = list(folder.images)
    if num_classes is not None and len(names) > num_classes:
        advice = f"give --num_classes {len(names)}, or another folder{_only_here(names, counterpart)}"
        raise _error(root, f"{root} holds {len(names)} classes, more than num_classes={num_classes}; {advice}")
    paths = [os.path.join(root, file) for file in folder.files]
    check_image_files(root, paths, level=level, max_pixels=max_pixels, shard=shard)
    return names


def _listing(root: Path) -> ImageFolder:
    """What lies in the folder of a data set; a line names what is skipped."""
    if not root.is_dir():
        raise _error(root, f"{root} {'is a file, not a folder' if root.exists() else 'does not exist'}")
    try:
        folder = list_image_folder(root)
    except OSError as error:
        raise DataError(f"{error.filename or root} {reason(error)}; mend that or remove it") from error
    if folder.skipped:
        names = some(map(_printable, folder.skipped), limit=5)
        get_logger().info(
            "notice: skipped %d hidden or system files and folders in %s: %s", len(folder.skipped), root, names
        )
    return folder


def _require_layout(root: Path, folder: ImageFolder) -> None:
    """Raise DataError for what is no folder of class folders; all that is wrong is named at once."""
    if folder.loose:
        advice = "move each into the folder of its class (ImageNet's validation images: the script valprep.sh does it)"
        what = f"{len(folder.loose):,} images, first {folder.loose[0]}, lie in {root} outside any class folder"
        raise _error(root, f"{what}; {advice}")
    if not folder.images:
        raise _error(root, f"{root} holds no class folders")
    if folder.faults:
        lead = f"{len(folder.faults)} class folders cannot be used:\n    " if len(folder.faults) > 1 else ""
        raise _error(root, lead + some(folder.faults.values(), "\n    ", limit=50))


def _only_here(names: Sequence[str], counterpart: str | Path) -> str:
    """Which of the classes another folder of the same data set lacks, for messages."""
    try:
        others = list_image_folder(counterpart).images if counterpart else {}
    except OSError:
        others = {}
    extra = [name for name in names if name not in others] if others else []
    return f"; {counterpart} lacks the class {some(map(repr, extra))}" if extra else ""


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


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
    remove_dump(text)
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


def _error(root: Path, problem: str, expected: str = IMAGE_TREE) -> DataError:
    """`problem` with the expected and the found tree; for a missing folder that of the nearest one above it."""
    folder = next(folder for folder in (root, *root.absolute().parents) if folder.is_dir())
    found = sorted(entry.name + "/" * entry.is_dir() for entry in os.scandir(folder))
    found_tree = some(found, "\n    ", limit=8) or "(empty)"
    return DataError(f"{problem}\nexpected:\n{root}/\n    {expected}\nfound:\n{folder}/\n    {found_tree}")


def _cifar10_hint(root: Path, usage: str) -> str:
    """What lies there instead, where it is one of the usual mistakes."""
    if cifar10_files(root / "cifar-10-batches-bin", usage):
        return f"; it is in the sub-folder, give {root / 'cifar-10-batches-bin'}"
    if any((root / name).exists() for name in ("data_batch_1", "test_batch", "cifar-10-batches-py")):
        return "; this is the Python version, the binary version is needed (cifar-10-binary.tar.gz)"
    return "" if root.is_dir() else ", which is not a folder"
