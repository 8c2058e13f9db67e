# Shared file: source utils/model_utils/classification/infer.py; copy with: python scripts/sync_model_utils.py --write
"""Classify pictures with a trained or exported model: a table on the console, and a folder of results.

    python infer.py --model_file MODEL.mindir --input pictures --output_dir infer_result --top_k 5

The model is a .mindir, .onnx or .ckpt file; the input a picture, a folder (with its sub-folders) or a pattern, which
quotation marks protect from the shell: 'pictures/**/*.jpg'. Written, in output_dir only:
    predictions.json             model, network, input, and for each picture its likeliest classes with scores
    annotated/<picture>.png      each picture with its likeliest classes
    result_Files/<picture>.bin   its logits, float32, for postprocess.py; the picture's name without ending, with its
                                 folders before it (cat__1.bin) where several pictures share that name
An output_dir that holds something is renamed with a time stamp first. Exit status: 0 all pictures were classified, 1 a
picture was damaged (the others are classified) or something else is wrong with files, 2 wrong usage.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable

import numpy as np
from mindspore.dataset import vision
from PIL import Image, UnidentifiedImageError

from .. import device_adapter
from ..config import Config
from ..dataset_checks import FORMATS
from ..errors import DataError, UsageError, require_range
from ..inference import load_model
from ..logger import init_logger
from ..model import Model
from ..picture_files import find_pictures, fresh_folder, refuse_unsafe_output, result_names, unique_names
from .annotate import annotate, readable_size
from .postprocess import RESULT_ENDING
from .transforms import eval_transforms

SHOWN = (
    "Data",
    "Inference",
    "Device",
    "batch_size",
    "allow_partial_load",
    "class_names",
)  # sections and keys of the recipe in --help

# ---- From a file to logits -------------------------------------------------------------------------------------------


def read_picture(path: Path) -> np.ndarray:
    """A picture (H, W, 3) uint8 RGB, decoded as the evaluation pipeline decodes it; an EXIF rotation is not applied.

    Raises:
        DataError: what is wrong with the file.
    """
    try:
        content = path.read_bytes()
        # On damaged JPEG files MindData's decoder may end the process, spoil the next picture, write a file into the
        # current directory, or make up the missing end.
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.load()
    except UnidentifiedImageError:
        raise DataError(f"not a readable {', '.join(FORMATS)} file" if content else "empty file") from None
    except Exception as error:  # noqa: BLE001 (Pillow's readers raise errors of many kinds on damaged files)
        raise DataError(getattr(error, "strerror", None) or str(error)) from error
    try:
        return vision.Decode()(content)
    except RuntimeError as error:
        raise DataError(_reason(error)) from error


def _reason(error: Exception) -> str:
    """The sentence that matters in one of MindData's long messages."""
    found = re.search(r"\[ERROR\] (?:\[Internal ERROR\] )?(.+?)(?: Dump the|$)", str(error), re.MULTILINE)
    return found[1] if found else str(error).strip().split("\n")[0]


def to_input(picture: np.ndarray, operators: Sequence[Callable]) -> np.ndarray:
    """A picture (H, W, 3) uint8 as the network's input (3, height, width) float32.

    Raises:
        DataError: the picture cannot be resized.
    """
    try:
        for operator in operators:
            picture = operator(picture)
    except RuntimeError as error:
        raise DataError(_reason(error)) from error
    return picture


def classify(
    network: Callable[[np.ndarray], np.ndarray],
    operators: Sequence[Callable],
    paths: Sequence[Path],
    batch_size: int,
    failures: dict[Path, str],
) -> Iterator[tuple[int, Image.Image, np.ndarray]]:
    """Index, picture in a size to be looked at, and logits (classes,) of each sound picture, in order.

    Args:
        network: (batch_size, 3, H, W) float32 to (batch_size, classes) float32.
        operators: what takes a decoded picture to the model's input.
        paths: picture files.
        batch_size: a shorter last batch is padded.
        failures: receives the others, with what is wrong with them.

    Raises:
        DataError: logits that are not finite.
    """
    batch: list[tuple[int, Image.Image, np.ndarray]] = []
    for index, path in enumerate(paths):
        try:
            picture = read_picture(path)
            batch.append((index, readable_size(picture), to_input(picture, operators)))
        except DataError as error:
            failures[path] = str(error)
        if batch and (len(batch) == batch_size or index == len(paths) - 1):
            images = np.zeros((batch_size, *batch[0][2].shape), np.float32)
            images[: len(batch)] = [image for _, _, image in batch]
            (logits,) = network(images)
            if not np.isfinite(logits[: len(batch)]).all():
                raise DataError("the network's outputs are not finite; give another model file")
            yield from ((number, picture, row) for (number, picture, _), row in zip(batch, logits))
            batch = []


def top_classes(logits: np.ndarray, count: int, class_names: Sequence[str] | None) -> list[dict[str, Any]]:
    """The likeliest classes, best first, with softmax scores in 0-1; of equal ones the lowest index goes first."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    scores = exponentials / exponentials.sum()
    names = class_names or []
    return [
        {
            "class_index": int(index),
            "class_name": names[index] if index < len(names) else f"class {index}",
            "score": float(scores[index]),
        }
        for index in np.argsort(-logits, kind="stable")[:count]
    ]


# ---- Results ---------------------------------------------------------------------------------------------------------


def table(title: str, top: Sequence[dict[str, Any]]) -> str:
    """Lines of the console for one picture."""
    width = max(len(entry["class_name"]) for entry in top)
    rows = [f"{place:5d}  {entry['class_name']:<{width}}  {entry['score']:.4f}" for place, entry in enumerate(top, 1)]
    return "\n".join([title, *rows])


class Results:
    """Writes what is known of a picture into the output folder."""

    def __init__(self, folder: Path, files: Sequence[Path]):
        self.folder, self.predictions = folder, []
        self.results = result_names(files)
        self.annotated = unique_names(files, [lambda file: str(file.with_suffix(".png")), lambda file: f"{file}.png"])

    def add(self, index: int, path: Path, picture: Image.Image, logits: np.ndarray, top: list[dict[str, Any]]) -> None:
        logits.astype("<f4").tofile(self.folder / "result_Files" / (self.results[index] + RESULT_ENDING))
        target = self.folder / "annotated" / self.annotated[index]
        target.parent.mkdir(parents=True, exist_ok=True)
        annotate(picture, top).save(target)
        self.predictions.append({"file": str(path), "top": top})

    def write_predictions(self, model_file: str, about: dict[str, Any]) -> None:
        content = {"model": model_file, "network": about["network"], "input": about["input"]}
        text = json.dumps({**content, "predictions": self.predictions}, indent=2, ensure_ascii=False)
        # A file name that is not UTF-8 becomes a JSON escape, with which Python finds the file again.
        (self.folder / "predictions.json").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


# ---- Program ---------------------------------------------------------------------------------------------------------


def check_options(config: Config) -> None:
    """Raise UsageError for what cannot be, before the model is loaded."""
    if not config.model_file:
        raise UsageError("--model_file is missing; give a .mindir, .onnx or .ckpt file")
    if not config.input:
        raise UsageError("--input is missing; give a picture, a folder of pictures or a pattern such as 'dir/*.jpg'")
    require_range(low=1, top_k=config.top_k, batch_size=config.batch_size)


def choose_batch_size(config: Config, fixed: int | None, pictures: int) -> int:
    """The batch size of the model, else that of the configuration, at most the number of pictures."""
    if fixed is None:
        return min(config.batch_size, pictures)
    if "batch_size" in config.given and config.batch_size != fixed:
        problem = f"--batch_size {config.batch_size} contradicts {config.model_file}, which was made for {fixed}"
        raise UsageError(f"{problem}; leave the option out")
    return fixed


def run(model: Model, argv: list[str] | None = None, shown: Sequence[str] = SHOWN) -> None:
    """The program infer.py of a classifier; `shown` names what --help lists, see `config.get_config`."""
    config = model.read_config(argv, __doc__, shown)
    check_options(config)
    if hasattr(sys.stdout, "reconfigure"):  # a name that the console cannot show is no reason to stop
        sys.stdout.reconfigure(errors="backslashreplace")
    logger = init_logger(None, "infer.log")
    root, files = find_pictures(config.input)
    paths, output = [root / file for file in files], Path(config.output_dir)
    refuse_unsafe_output(output, [Path(config.model_file), *paths])
    if Path(config.model_file).suffix != ".onnx":  # ONNX Runtime needs no device of MindSpore
        device_adapter.init(config, distributed=False)
    network, about, fixed = load_model(model, config.model_file, config)
    batch_size = choose_batch_size(config, fixed, len(paths))
    if config.dry_run:
        logger.info("dry run: everything was built, none of the %d picture(s) was classified", len(paths))
        return
    results, failures = Results(output, files), {}
    fresh_folder(output)
    try:
        for index, picture, logits in classify(network, eval_transforms(about["input"]), paths, batch_size, failures):
            top = top_classes(logits, config.top_k, about.get("class_names"))
            print(table(str(paths[index]), top), flush=True)
            results.add(index, paths[index], picture, logits, top)
    finally:
        results.write_predictions(config.model_file, about)
    logger.info("results of %d picture(s): %s", len(results.predictions), output)
    if failures:
        named = "".join(f"\n    {path}: {reason}" for path, reason in failures.items())
        raise DataError(f"{len(failures)} of {len(paths)} picture(s) could not be read and have no result:{named}")
