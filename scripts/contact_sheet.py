"""Draws the pictures that infer.py has classified into one PNG, each with its predicted class and score.

    python scripts/contact_sheet.py --predictions infer_result/predictions.json --output sheet.png [--labels label.txt]

With a label file (a line NAME:CLASS_INDEX for each picture, NAME being the file name without its ending) a right
prediction is green and a wrong one red; without one, all are grey. Paths in predictions.json are taken against the
current directory, as infer.py took them. Exit status: 0 drawn, 1 a file is missing or wrong, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

GREEN, RED, GREY = (0, 128, 0), (200, 0, 0), (80, 80, 80)
MARGIN = 8  # pixels around each picture
TEXT_HEIGHT = 22


class InputError(Exception):
    """A file that the sheet is drawn from is missing or wrong."""


def read_predictions(path: str | Path) -> list[dict]:
    """Returns the predictions of infer.py, each a dict with "file" and "top", the likeliest class first."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"predictions {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"predictions {path} is not JSON: {error}") from error
    predictions = content.get("predictions") if isinstance(content, dict) else None
    if not isinstance(predictions, list) or not all(_is_prediction(entry) for entry in predictions):
        raise InputError(f"{path} is not a predictions.json of infer.py")
    if not predictions:
        raise InputError(f"{path} holds no prediction: give infer.py at least one picture")
    return predictions


def _is_prediction(entry: object) -> bool:
    try:
        best = entry["top"][0]
        values = entry["file"], best["class_index"], best["class_name"], best["score"]
    except (KeyError, IndexError, TypeError):
        return False
    return all(isinstance(value, kind) for value, kind in zip(values, (str, int, str, (int, float))))


def read_labels(path: str | Path) -> dict[str, int]:
    """Returns the class index of each name in a label file."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"label file {path} cannot be read: {error.strerror}") from error
    labels = {}
    for number, line in enumerate(lines, 1):
        name, colon, index = line.rpartition(":")
        if line.strip() and not (colon and name.strip() and index.strip().isdecimal()):
            raise InputError(f"{path}, line {number}: {line!r} is not NAME:CLASS_INDEX")
        if line.strip():
            labels[name.strip()] = int(index)
    return labels


def verdict(prediction: dict, labels: dict[str, int]) -> tuple[int, int, int]:
    """Returns the colour of a prediction: green when it is right, red when it is wrong, grey when nobody knows."""
    truth = labels.get(Path(prediction["file"]).stem)
    if truth is None:
        return GREY
    return GREEN if prediction["top"][0]["class_index"] == truth else RED


def draw_sheet(predictions: list[dict], labels: dict[str, int], columns: int = 6, side: int = 128) -> Image.Image:
    """Draws the sheet.

    Args:
        predictions: what read_predictions returns.
        labels: what read_labels returns; may lack pictures.
        columns: pictures in a row, at most.
        side: width and height of a picture on the sheet in pixels; pictures keep their aspect ratio within it.

    Returns:
        An RGB picture.

    Raises:
        InputError: a picture cannot be read.
    """
    columns = min(columns, len(predictions))
    rows = -(-len(predictions) // columns)
    width, height = side + 2 * MARGIN, side + 2 * MARGIN + TEXT_HEIGHT
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for position, prediction in enumerate(predictions):
        cell = draw_cell(prediction, verdict(prediction, labels), side)
        sheet.paste(cell, (position % columns * width, position // columns * height))
    return sheet


def draw_cell(prediction: dict, colour: tuple[int, int, int], side: int) -> Image.Image:
    """Draws one picture in a frame of the given colour, and under it the predicted class and its score."""
    cell = Image.new("RGB", (side + 2 * MARGIN, side + 2 * MARGIN + TEXT_HEIGHT), "white")
    picture = _fit(_open(prediction["file"]), side)
    left, top = MARGIN + (side - picture.width) // 2, MARGIN + (side - picture.height) // 2
    cell.paste(picture, (left, top))
    draw = ImageDraw.Draw(cell)
    draw.rectangle((left - 3, top - 3, left + picture.width + 2, top + picture.height + 2), outline=colour, width=3)
    best = prediction["top"][0]
    score = f" {best['score']:.2f}"
    font = ImageFont.load_default(size=14)
    name = _shorten(best["class_name"], lambda text: draw.textlength(text + score, font=font) <= side)
    draw.text((cell.width // 2, MARGIN + side + 6), name + score, fill=colour, font=font, anchor="ma")
    return cell


def _open(path: str) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except OSError as error:
        raise InputError(f"picture {path} of the predictions cannot be read: {error}") from error


def _fit(picture: Image.Image, side: int) -> Image.Image:
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BICUBIC)


def _shorten(name: str, fits: Callable[[str], bool]) -> str:
    """Cuts a class name until it fits on its line."""
    if fits(name):
        return name
    while name and not fits(name + "..."):
        name = name[:-1]
    return name + "..."


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draws classified pictures with their predictions into one PNG.")
    parser.add_argument("--predictions", required=True, type=os.path.expanduser, help="predictions.json of infer.py")
    parser.add_argument("--output", required=True, type=os.path.expanduser, help="PNG to write")
    parser.add_argument(
        "--labels", type=os.path.expanduser, help="label file with a line NAME:CLASS_INDEX for each picture"
    )
    parser.add_argument("--columns", type=_positive, default=6, help="pictures in a row (default %(default)s)")
    parser.add_argument("--side", type=_positive, default=128, help="side of a picture in pixels (default %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        predictions = read_predictions(arguments.predictions)
        labels = read_labels(arguments.labels) if arguments.labels else {}
        sheet = draw_sheet(predictions, labels, arguments.columns, arguments.side)
        sheet.save(arguments.output, format="PNG")
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    colours = [verdict(prediction, labels) for prediction in predictions]
    known = f", {colours.count(GREEN)} of {len(colours) - colours.count(GREY)} right" if labels else ""
    print(f"wrote {arguments.output}: {len(predictions)} pictures{known}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
