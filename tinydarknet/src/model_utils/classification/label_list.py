# Shared file: source utils/model_utils/classification/label_list.py; copy with: python scripts/sync_model_utils.py --write
"""Write the label list of a folder that holds one folder of pictures for each class: lines NAME:CLASS_INDEX.

    python create_label_list.py --input ImageNet_Original/val --label_file label.txt

NAME is what infer.py, given the same folder, calls the result of a picture: the file name without its ending, with its
folder before it where several pictures share that name. CLASS_INDEX is the place of the folder in the sorted list of
class folders; with --model_file it is the place in the model's list, which may have classes that the folder lacks.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from .. import checkpoint
from ..dataset_checks import ENDINGS, check_image_folder
from ..errors import DataError, UsageError
from ..inference import read_description
from ..model import Model
from ..picture_files import result_names

SHOWN = ("input", "model_file", "label_file", "debug")


def label_lines(folder: str | Path, classes: list[str] | None = None) -> list[str]:
    """Lines NAME:CLASS_INDEX, sorted by folder and file name.

    Args:
        folder: one folder of pictures for each class.
        classes: names in the order of the class indices; None takes the sorted names of the folders.

    Raises:
        DataError: another kind of folder, or a class that is not among `classes`.
    """
    found = check_image_folder(folder, None, check_images=False)
    indices = {name: index for index, name in enumerate(classes or found)}
    unknown = [name for name in found if name not in indices]
    if unknown:
        raise DataError(
            f"{folder} has the class '{unknown[0]}', which the model of {len(indices)} classes does not know"
        )
    files = [PurePath(name, file) for name in found for file in _pictures(Path(folder) / name)]
    return [f"{name}:{indices[file.parts[0]]}" for name, file in zip(result_names(files), files)]


def _pictures(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.endswith(ENDINGS) and not name.startswith("."))


def model_classes(model: Model, path: str) -> list[str] | None:
    """The class names that a .ckpt, .mindir or .onnx file carries; None where it carries none."""
    about = checkpoint.load(path)[1] if path.endswith(".ckpt") else read_description(model, Path(path))
    return about.get("class_names")


def write_list(path: Path, lines: list[str]) -> None:
    """Write a list; DataError where the file exists and holds something else."""
    content = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
    if path.exists() and (path.is_dir() or path.read_bytes() != content):
        raise DataError(f"label_file={path} exists and holds something else; remove it or give another name")
    path.write_bytes(content)


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
