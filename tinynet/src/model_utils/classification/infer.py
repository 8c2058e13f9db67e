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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable

import numpy as np
from mindspore.dataset import vision
from PIL import Image

from .. import device_adapter
from ..config import Config
from ..errors import DataError, UsageError, require_range
from ..files import make_folder, write_whole
from ..inference import load_model
from ..logger import init_logger
from ..model import Model
from ..picture_check import MAX_PIXELS, Finding, examine, remove_dump, report_16_bits, require_pixels
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


def read_picture(path: Path, finding: Finding | None = None) -> np.ndarray:
    """A picture (H, W, 3) uint8 RGB, decoded as the evaluation pipeline decodes it; an EXIF rotation is not applied.

    On damaged JPEG files MindData's decoder may end the process, spoil the next picture, write a file into the current
    directory, or make up the missing end: it gets none of them.

    Args:
        path: file.
        finding: of `examine`; None: the file is examined now.

    Raises:
        DataError: what is wrong with the file.
    """
    finding = finding or examine(path)
    if finding.fault:
        raise DataError(finding.fault)
    try:
        return vision.Decode()(path.read_bytes())
    except RuntimeError as error:
        remove_dump(str(error))
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
    findings: dict[Path, Finding],
    max_pixels: int = MAX_PIXELS,
) -> Iterator[tuple[int, Image.Image, np.ndarray]]:
    """Index, picture in a size to be looked at, and logits (classes,) of each sound picture, in order.

    Args:
        network: (batch_size, 3, H, W) float32 to (batch_size, classes) float32.
        operators: what takes a decoded picture to the model's input.
        paths: picture files.
        batch_size: a shorter last batch is padded.
        findings: receives what is known of each picture, and what is wrong with the others.
        max_pixels: see `require_pixels`.

    Raises:
        DataError: logits that are not finite.
    """
    batch: list[tuple[int, Image.Image, np.ndarray]] = []
    for index, path in enumerate(paths):
        try:
            findings[path] = examine(path, "full", max_pixels)
            picture = read_picture(path, findings[path])
            batch.append((index, readable_size(picture), to_input(picture, operators)))
        except DataError as error:
            findings[path] = Finding(str(error))
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
        result = self.folder / "result_Files" / (self.results[index] + RESULT_ENDING)
        write_whole(result, logits.astype("<f4").tobytes())
        target, content = self.folder / "annotated" / self.annotated[index], io.BytesIO()
        annotate(picture, top).save(content, "PNG")
        make_folder(target.parent)
        write_whole(target, content.getvalue())
        self.predictions.append({"file": str(path), "top": top})

    def write_predictions(self, model_file: str, about: dict[str, Any]) -> None:
        content = {"model": model_file, "network": about["network"], "input": about["input"]}
        text = json.dumps({**content, "predictions": self.predictions}, indent=2, ensure_ascii=False)
        # A file name that is not UTF-8 becomes a JSON escape, with which Python finds the file again.
        write_whole(self.folder / "predictions.json", f"{text}\n".encode("utf-8", "backslashreplace"))


def refuse_faults(findings: Mapping[Path, Finding]) -> None:
    """Raise DataError where pictures have no result."""
    faults = [f"\n    {path}: {finding.fault}" for path, finding in findings.items() if finding.fault]
    if faults:
        raise DataError(
            f"{len(faults)} of {len(findings)} picture(s) could not be read and have no result:{''.join(faults)}"
        )


# ---- Program ---------------------------------------------------------------------------------------------------------


def check_options(config: Config) -> None:
    """Raise UsageError for what cannot be, before the model is loaded."""
    if not config.model_file:
        raise UsageError("--model_file is missing; give a .mindir, .onnx or .ckpt file")
    if not config.input:
        raise UsageError("--input is missing; give a picture, a folder of pictures or a pattern such as 'dir/*.jpg'")
    require_range(low=1, top_k=config.top_k, batch_size=config.batch_size)
    require_pixels((0, 0), config.max_pixels)


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
    operators, results, findings = eval_transforms(about["input"]), Results(output, files), {}
    fresh_folder(output)
    try:
        for index, picture, logits in classify(network, operators, paths, batch_size, findings, config.max_pixels):
            top = top_classes(logits, config.top_k, about.get("class_names"))
            print(table(str(paths[index]), top), flush=True)
            results.add(index, paths[index], picture, logits, top)
    finally:
        results.write_predictions(config.model_file, about)
    logger.info("results of %d picture(s): %s", len(results.predictions), output)
    report_16_bits(findings)
    refuse_faults(findings)
