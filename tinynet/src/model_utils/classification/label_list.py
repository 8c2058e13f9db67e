# Shared file: source utils/model_utils/classification/label_list.py; copy with: python scripts/sync_model_utils.py --write
"""Write the label list of a folder that holds one folder of pictures for each class: lines NAME:CLASS_INDEX.

    python create_label_list.py --input ImageNet_Original/val --label_file label.txt

NAME is what infer.py, given the same folder, calls the result of a picture: the file name without its ending, with its
folder before it where several pictures share that name. CLASS_INDEX is the place of the folder in the sorted list of
class folders; with --model_file it is the place in the model's list, which may have classes that the folder lacks.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePath

from .. import checkpoint
from ..dataset_checks import check_image_folder
from ..errors import DataError, UsageError
from ..files import write_whole
from ..image_folder import list_image_folder
from ..inference import read_description
from ..model import Model
from ..near_names import near_name
from ..picture_files import result_names
from .postprocess import parse_labels

SHOWN = ("input", "model_file", "label_file", "debug")


def label_lines(folder: str | Path, classes: list[str] | None = None) -> list[str]:
    """Lines NAME:CLASS_INDEX, sorted by folder and file name.

    Args:
        folder: one folder of pictures for each class.
        classes: names in the order of the class indices; None takes the sorted names of the folders.

    Raises:
        DataError: another kind of folder, or a class that is not among `classes`.
    """
    found = check_image_folder(folder, None, check_images="off")
    indices = {name: index for index, name in enumerate(classes or found)}
    unknown = [name for name in found if name not in indices]
    if unknown:
        raise DataError(
            f"{folder} has the class '{unknown[0]}', which the model of {len(indices)} classes does not know"
            f"{near_name(unknown[0], indices)}"
        )
    files = [PurePath(file) for file in list_image_folder(folder).files]
    lines = [f"{name}:{indices[file.parts[0]]}" for name, file in zip(result_names(files), files)]
    for line, file in zip(lines, files):
        _require_readable(line, Path(folder) / file)
    return lines


def _require_readable(line: str, file: Path) -> None:
    """Raise DataError where postprocess.py would read another name from a line than that of the file's result."""
    try:
        is_read = "\r\n" not in line and list(parse_labels(line, "")) == [line.rpartition(":")[0]]
    except DataError:
        is_read = False
    if not is_read:
        raise DataError(
            f"the name of {str(file)!r} cannot stand in a label list, because of a blank at an end or a line break; rename it"
        )


def model_classes(model: Model, path: str) -> list[str] | None:
    """The class names that a .ckpt, .mindir or .onnx file carries; None where it carries none."""
    about = checkpoint.load(path)[1] if path.endswith(".ckpt") else read_description(model, Path(path))
    return about.get("class_names")


def write_list(path: Path, lines: list[str]) -> None:
    """Write a list; DataError where the file exists and holds something else."""
    content = _as_json(lines) if path.name.endswith(".json") else "".join(f"{line}\n" for line in lines)
    data = content.encode("utf-8", "surrogateescape")
    if path.exists() and (not path.is_file() or path.read_bytes() != data):
        raise DataError(f"label_file={path} exists and holds something else; remove it or give another name")
    write_whole(path, data)


def _as_json(lines: list[str]) -> str:
    """The form that postprocess.py expects of a list that ends in .json; a name that is not UTF-8 becomes escapes."""
    pairs = (line.rpartition(":") for line in lines)
    return json.dumps({name: int(index) for name, _, index in pairs}, indent=0)


def run(model: Model, argv: list[str] | None = None) -> None:
    """The program create_label_list.py of a classifier."""
    config = model.read_config(argv, __doc__, SHOWN)
    if not config.input:
        raise UsageError("--input is missing; give the folder that holds one folder of pictures for each class")
    classes = model_classes(model, config.model_file) if config.model_file else None
    lines = label_lines(config.input, classes)
    path = Path(config.label_file or "label.txt")
    write_list(path, lines)
    print(f"wrote {path}: {len(lines)} pictures")
