# Shared file: source utils/model_utils/classification/postprocess.py; copy with: python scripts/sync_model_utils.py --write
"""Accuracy of the result files (*.bin) that infer.py and the Ascend 310 application write, against a label list.

    python postprocess.py --result_path infer_result/result_Files --label_file label.txt

A result file holds the float32 logits of one picture. A line of the label list is NAME:CLASS_INDEX, where NAME is the
name of the result file without .bin, which is that of the picture without its ending; create_label_list.py writes one.
A list that ends in .json is an object {NAME: CLASS_INDEX}.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

import numpy as np

from ..errors import DataError, UsageError, in_short
from ..files import read_text, require_regular
from ..image_folder import ENDINGS, is_skipped, some
from ..model import Model
from ..near_names import near_name

SHOWN = ("Accuracy of result files", "debug")

RESULT_ENDING = ".bin"
LARGEST_RESULT = 64 << 20  # bytes


def read_labels(path: str | Path) -> dict[str, int]:
    """The class index of each name in a label list; blank lines of a text file do not count.

    Raises:
        DataError: the file cannot be read, a line of another form, a name that stands there twice.
    """
    # File names may be other than UTF-8; line breaks within them, such as U+2028, do not end a line.
    expected = "a text file of lines NAME:CLASS_INDEX"
    text = read_text(path, f"label_file={path}", expected=expected, errors="surrogateescape").replace("\r\n", "\n")
    if str(path).endswith(".json"):
        return _json_labels(path, text)
    return parse_labels(text, path)


def parse_labels(text: str, path: str | Path) -> dict[str, int]:
    """The class index of each name in the lines of a list; `path` stands for it in messages.

    Raises:
        DataError: a line of another form, a name that stands there twice, or no line.
    """
    labels: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        name, _, index = (part.strip() for part in line.rpartition(":"))
        if not name or not re.fullmatch("[0-9]{1,9}", index):
            raise DataError(
                f"{path}:{number}: {in_short(line)} is not a line NAME:CLASS_INDEX, for example n01440764_190:0"
            )
        if name in labels:
            raise DataError(f"{path}:{number}: '{name}' stands on an earlier line already; keep one of the two lines")
        labels[name] = int(index)
    if not labels:
        raise DataError(f"label_file={path} holds no line; lines NAME:CLASS_INDEX are expected")
    return labels


def _json_labels(path: str | Path, text: str) -> dict[str, int]:
    try:
        labels = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"label_file={path} is not JSON: {error}") from error
    if (
        not isinstance(labels, dict)
        or not labels
        or not all(type(i) is int and 0 <= i < 10**9 for i in labels.values())
    ):
        raise DataError(f"label_file={path}: an object {{NAME: CLASS_INDEX}} with one name or more is expected")
    return labels


def find_results(path: str | Path) -> list[Path]:
    """The result files of a folder, sorted.

    Raises:
        DataError: no such folder, no result file in it.
    """
    folder = Path(path)
    found = sorted(folder.glob(f"*{RESULT_ENDING}")) if folder.is_dir() else []
    files = [file for file in found if not (file.is_dir() or is_skipped(file.name))]
    if not files:
        kind = f"holds no {RESULT_ENDING} files" if folder.is_dir() else "is not a folder"
        inner = folder / "result_Files"
        hint = f"give {inner}" if inner.is_dir() else f"give the folder of {RESULT_ENDING} files that infer.py wrote"
        raise DataError(f"result_path={path} {kind}; {hint}")
    return files


def match_labels(names: Iterable[str], labels: dict[str, int]) -> tuple[list[int], list[str]]:
    """The class index of each result, and the names of the list that have no result.

    A name of the list may carry the ending of the picture.

    Raises:
        DataError: results without a label, or with two.
    """
    by_stem = defaultdict(list)
    for key in labels:
        ending = PurePath(key).suffix
        by_stem[key[: -len(ending)] if ending.lower() in ENDINGS else key].append(key)
    keys, unknown = [], []
    for name in names:
        candidates = [name] if name in labels else by_stem.get(name, [])
        if len(candidates) > 1:
            raise DataError(
                f"the label list has {' and '.join(candidates)} for the one result {name}; keep one of them"
            )
        keys += candidates
        unknown += [] if candidates else [name]
    if unknown:
        raise DataError(
            f"{len(unknown)} results have no line in the label list: {some(unknown, limit=5)}"
            f"{near_name(unknown[0], labels)}; add them to the list"
        )
    return [labels[key] for key in keys], sorted(set(labels) - set(keys))


def count_classes(path: Path) -> int:
    """How many logits a result file holds, by its size.

    Raises:
        DataError: a size that cannot be, or no regular file.
    """
    size = require_regular(path)
    if size == 0 or size % 4:
        raise DataError(f"{path} has {size} bytes; float32 logits take a multiple of 4: write the results again")
    if size > LARGEST_RESULT:
        raise DataError(f"{path} has {size:,} bytes, more than logits of one picture take; write the results again")
    return size // 4


def read_logits(path: Path) -> np.ndarray:
    """Logits (classes,) float32 of a result file.

    Raises:
        DataError: a size that cannot be, values that are not finite.
    """
    count_classes(path)
    logits = np.fromfile(path, "<f4")
    if not np.isfinite(logits).all():
        raise DataError(f"{path} holds values that are not finite; is it of another model or another type of numbers?")
    return logits


def hits(logits: np.ndarray, label: int) -> tuple[bool, bool]:
    """Whether `label` is the class of the highest logit, and one of the min(5, classes) highest.

    Of equal logits that of the lowest index goes first, as in eval.py.
    """
    order = np.argsort(-logits, kind="stable")[:5]
    return bool(order[0] == label), bool((order == label).any())


def count_hits(files: Sequence[Path], labels: Sequence[int]) -> tuple[int, int]:
    """How many results are right with their highest logit, and with one of their five highest.

    Raises:
        DataError: results of different sizes, a class index out of range.
    """
    top_1 = top_5 = 0
    classes = count_classes(files[0]) if files else 0
    for file, label in zip(files, labels):
        if count_classes(file) != classes:
            raise DataError(
                f"{file} holds {count_classes(file)} classes, {files[0].name} {classes}; keep one model's results in a folder"
            )
        if label >= classes:
            raise DataError(
                f"the label list gives {file.stem} the class {label}; the results have classes 0 to {classes - 1}"
            )
        first, among_five = hits(read_logits(file), label)
        top_1, top_5 = top_1 + first, top_5 + among_five
    return top_1, top_5


def run(model: Model, argv: list[str] | None = None) -> None:
    """The program postprocess.py of a classifier."""
    config = model.read_config(argv, __doc__, SHOWN)
    if not config.label_file:
        raise UsageError(
            "--label_file is missing; give a text file of lines NAME:CLASS_INDEX (create_label_list.py writes it)"
        )
    files, label_list = find_results(config.result_path), read_labels(config.label_file)
    labels, missing = match_labels([file.stem for file in files], label_list)
    if missing:
        print(
            f"notice: {len(missing)} of {len(label_list)} names in {config.label_file} have no result: {some(missing, limit=5)}"
        )
    top_1, top_5 = count_hits(files, labels)
    total = len(files)
    print(f"'top_1_accuracy': {100 * top_1 / total:.2f}%, 'top_5_accuracy': {100 * top_5 / total:.2f}%")
    print(f"total={total}, top1_correct={top_1}, top5_correct={top_5}")
    if model.lines.result:
        print(model.lines.result.format(total=total, top_1=top_1 / total, top_5=top_5 / total))
