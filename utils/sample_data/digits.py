"""Small real data sets from the handwritten digits that scikit-learn carries, in the layouts that the models read.

The source is `sklearn.datasets.load_digits`: 1,797 pictures of 8 x 8 pixels with values 0 to 16, a part of the UCI
"Optical Recognition of Handwritten Digits" data set. They are enlarged with bicubic resampling to RGB with three equal
channels. Each digit gives 36 held-out pictures, 360 in all; the other 1,437 are for training. The split is fixed.

    python utils/sample_data/digits.py --layout cifar10 --output DIR
    python utils/sample_data/digits.py --layout imagefolder --output DIR --size 64
    python utils/sample_data/digits.py --layout pictures --output DIR --limit 12

Exit status: 0 written or already complete, 1 the data set cannot be written here, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HELD_OUT_PER_CLASS = 36
SPLIT_SEED = 20
CIFAR10_SIZE = 32  # the binary format has no other
DEFAULT_SIZE = 32
DEFAULT_PICTURES = 12
MARKER = "sample_data.json"  # written last; a folder that holds it was made here


class OutputError(Exception):
    """The output folder is not free for this data set."""


class EnvironmentProblem(Exception):
    """Something that the machine should provide is missing."""


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Returns pictures, uint8 (1797, 8, 8) with values 0-255, and labels, int64 (1797,) with values 0-9."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise EnvironmentProblem(
            f"scikit-learn is not installed for {sys.executable}: pip install -r requirements-dev.txt"
        ) from error
    digits = datasets.load_digits()
    return np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target


def split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Splits the data set, the same way on every machine.

    Args:
        labels: class of each picture, (N,).

    Returns:
        Indices of the training pictures and of the held-out ones. Both go round the classes, so that a short
        beginning of either holds every class.
    """
    # RandomState, because NumPy guarantees its stream for all releases.
    order = np.random.RandomState(SPLIT_SEED).permutation(len(labels))
    by_class = [order[labels[order] == label] for label in np.unique(labels)]
    return (
        _round_robin([indices[HELD_OUT_PER_CLASS:] for indices in by_class]),
        _round_robin([indices[:HELD_OUT_PER_CLASS] for indices in by_class]),
    )


def _round_robin(groups: list[np.ndarray]) -> np.ndarray:
    turns = max(len(group) for group in groups)
    return np.array([group[turn] for turn in range(turns) for group in groups if turn < len(group)])


def enlarge(picture: np.ndarray, size: int) -> Image.Image:
    """Enlarges a grey picture, uint8 (H, W), to an RGB picture of size x size pixels."""
    return Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC).convert("RGB")


def write_cifar10(output: str | Path, limit: int | None = None) -> str:
    """Writes the binary version of CIFAR-10: data_batch_1.bin, test_batch.bin and batches.meta.txt.

    A record is 1 byte with the label and 3,072 bytes with the red, the green and the blue plane of 32 x 32 pixels.

    Args:
        output: folder to make.
        limit: at most so many records in each of the two files; None writes all.

    Returns:
        One line that says what was written, or that it was there already.

    Raises:
        OutputError: the folder holds something else.
    """

    def fill(folder: Path) -> dict[str, int]:
        pictures, labels = load_digits()
        counts = {}
        for part, name, indices in zip(("train", "val"), ("data_batch_1.bin", "test_batch.bin"), split(labels)):
            records = [_cifar10_record(pictures[index], labels[index]) for index in indices[:limit]]
            (folder / name).write_bytes(b"".join(records))
            counts[part] = len(records)
        (folder / "batches.meta.txt").write_text("\n".join(CLASS_NAMES) + "\n", encoding="utf-8")
        return counts

    return publish(output, {"layout": "cifar10", "size": CIFAR10_SIZE, "limit": limit}, fill)


def _cifar10_record(picture: np.ndarray, label: int) -> bytes:
    planes = np.asarray(enlarge(picture, CIFAR10_SIZE)).transpose(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    return bytes([label]) + planes.tobytes()


def write_image_folder(output: str | Path, size: int = DEFAULT_SIZE, limit: int | None = None) -> str:
    """Writes train/<class>/*.jpg and val/<class>/*.jpg with the classes "0" to "9", as for ImageNet.

    Args:
        output: folder to make.
        size: width and height of the pictures in pixels.
        limit: at most so many pictures in each of the two parts; None writes all.

    Returns:
        One line that says what was written, or that it was there already.

    Raises:
        OutputError: the folder holds something else.
    """

    def fill(folder: Path) -> dict[str, int]:
        pictures, labels = load_digits()
        counts = {}
        for part, indices in zip(("train", "val"), split(labels)):
            for index in indices[:limit]:
                path = folder / part / str(labels[index]) / f"{index:04d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                enlarge(pictures[index], size).save(path, quality=95)
            counts[part] = len(indices[:limit])
        return counts

    return publish(output, {"layout": "imagefolder", "size": size, "limit": limit}, fill)


def write_pictures(output: str | Path, size: int = DEFAULT_SIZE, limit: int = DEFAULT_PICTURES) -> str:
    """Writes held-out pictures as <index>-label<class>.png, and label.txt with a line NAME:CLASS_INDEX for each.

    NAME is the file name without its ending. It does not end in an underscore and a number, because the programs
    for Ascend 310 number the outputs of a network in that way.

    Args:
        output: folder to make.
        size: width and height of the pictures in pixels.
        limit: at most so many pictures; there are 360.

    Returns:
        One line that says what was written, or that it was there already.

    Raises:
        OutputError: the folder holds something else.
    """

    def fill(folder: Path) -> dict[str, int]:
        pictures, labels = load_digits()
        lines = []
        for index in split(labels)[1][:limit]:
            name = f"{index:04d}-label{labels[index]}"
            enlarge(pictures[index], size).save(folder / f"{name}.png")
            lines.append(f"{name}:{labels[index]}\n")
        (folder / "label.txt").write_text("".join(lines), encoding="utf-8")
        return {"val": len(lines)}

    return publish(output, {"layout": "pictures", "size": size, "limit": limit}, fill)


def publish(output: str | Path, recipe: dict, fill: Callable[[Path], dict[str, int]]) -> str:
    """Makes the folder under a temporary name and renames it, so that a half-written data set is never seen."""
    output = Path(output).absolute()
    if _is_complete(output, recipe):
        return f"already complete: {recipe['layout']} data set in {output}, {_counts_line(_read_marker(output))}"
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        marker = {**recipe, "counts": fill(temporary)}
        marker["files"] = _file_sizes(temporary)
        (temporary / MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
        if output.is_dir():  # empty: _is_complete has looked
            output.rmdir()
        temporary.rename(output)
    except OSError:
        if not _is_complete(output, recipe):  # else another process was faster with the same data set
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return f"wrote {recipe['layout']} data set to {output}: {_counts_line(_read_marker(output))}"


def _is_complete(output: Path, recipe: dict) -> bool:
    """Tells a complete data set from a free place; raises OutputError for anything else."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    marker = _read_marker(output)
    if marker is None:
        raise OutputError(f"{output} exists and was not made by this program: choose another --output, or remove it")
    found = {key: marker.get(key) for key in recipe}
    if found != recipe:
        raise OutputError(f"{output} holds {_as_text(found)}, asked for {_as_text(recipe)}: choose another --output")
    sizes = _file_sizes(output)
    for name, size in marker["files"].items():
        if sizes.get(name) != size:
            raise OutputError(f"{output} is damaged: {name} is missing or has changed; remove {output} and try again")
    return True


def _read_marker(output: Path) -> dict | None:
    try:
        marker = json.loads((output / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) and isinstance(marker.get("files"), dict) else None


def _file_sizes(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _as_text(recipe: dict) -> str:
    return ", ".join(f"{key} {'none' if value is None else value}" for key, value in recipe.items())


def _counts_line(marker: dict) -> str:
    words = {"train": "for training", "val": "held out"}
    counts = " and ".join(f"{number} {words[part]}" for part, number in marker["counts"].items())
    return f"{counts}, {marker['size']} x {marker['size']} pixels"


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; a wrong one ends the program with status 2."""
    parser = argparse.ArgumentParser(description="Writes a small real data set of handwritten digits.")
    parser.add_argument("--layout", required=True, choices=("cifar10", "imagefolder", "pictures"))
    parser.add_argument("--output", required=True, type=os.path.expanduser, help="folder to make")
    parser.add_argument("--size", type=positive, default=DEFAULT_SIZE, help="side in pixels (default %(default)s)")
    parser.add_argument("--limit", type=positive, help=f"pictures per part (default all; pictures {DEFAULT_PICTURES})")
    arguments = parser.parse_args(argv)
    if arguments.layout == "cifar10" and arguments.size != CIFAR10_SIZE:
        parser.error(f"--size {arguments.size}: the cifar10 layout has {CIFAR10_SIZE} x {CIFAR10_SIZE} pixels only")
    return arguments


def write(layout: str, output: str, size: int, limit: int | None) -> str:
    """Calls the writer of a layout."""
    if layout == "cifar10":
        return write_cifar10(output, limit)
    if layout == "imagefolder":
        return write_image_folder(output, size, limit)
    return write_pictures(output, size, limit or DEFAULT_PICTURES)


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    try:
        print(write(arguments.layout, arguments.output, arguments.size, arguments.limit))
    except OutputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (EnvironmentProblem, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
