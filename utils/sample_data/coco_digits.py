"""A small real data set in COCO's layout: handwritten digits on photographs, with their boxes.

The digits are those of digits.py, training digits in the training images and held-out ones in the others, written with
light or dark ink. The photographs are the two that scikit-learn carries (`sklearn.datasets.load_sample_images`); the
training images show parts of their left two thirds, the held-out images parts of the rest. A box encloses what is
visible of a digit. Some images hold none.

    python utils/sample_data/coco_digits.py --output DIR --train 400 --val 100 --size 160

Written: train2017/*.jpg, val2017/*.jpg, annotations/instances_train2017.json and instances_val2017.json.
Exit status: 0 written or already complete, 1 the data set cannot be written here, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from digits import CLASS_NAMES, EnvironmentProblem, OutputError, load_digits, positive, publish, split
from PIL import Image

DEFAULT_TRAIN, DEFAULT_VAL, DEFAULT_SIZE = 400, 100, 160
SMALLEST_SIZE = 64  # pixels; the smallest digits are then as large as the originals
PARTS = ("train", "val")
SEED = 21
DIGITS = (1, 4)  # of an image
EMPTY_EVERY = 20  # of so many images one is without digits
SIDES = (0.1, 0.4)  # of a digit, relative to the image
BACKGROUND = (110, 210)  # side of what is shown of a photograph, in its pixels
STRENGTH = 1.4  # of the ink, so that thin strokes cover what is behind them
VISIBLE = 0.35  # share of the ink in a pixel from which it belongs to the digit
MOST_OVERLAP = 0.1  # of two boxes, as a share of the smaller one
CONTRAST = 100  # of the ink and the mean of what is behind it, 0-255
MOST_TEXTURE = 40  # standard deviation of the grey values behind a digit
TRIALS = 200  # places tried for a digit


def write_coco(output: str | Path, train: int = DEFAULT_TRAIN, val: int = DEFAULT_VAL, size: int = DEFAULT_SIZE) -> str:
    """Writes the data set, the same one on every machine.

    Args:
        output: folder to make.
        train, val: training and held-out images.
        size: width and height of the images in pixels.

    Returns:
        One line that says what was written, or that it was there already.

    Raises:
        OutputError: the folder holds something else.
        EnvironmentProblem: scikit-learn is not installed.
    """

    def fill(folder: Path) -> dict[str, int]:
        pictures, labels = load_digits()
        photographs = load_photographs()
        (folder / "annotations").mkdir()
        for part, count, indices in zip(PARTS, (train, val), split(labels)):
            # RandomState, because NumPy guarantees its stream for all releases.
            random = np.random.RandomState([SEED, PARTS.index(part)])
            ink = Ink(pictures, labels, indices, random)
            _write_part(folder, part, count, size, ink, [_share(photograph, part) for photograph in photographs])
        return {"train": train, "val": val}

    return publish(output, {"layout": "coco", "size": size, "train": train, "val": val}, fill)


def load_photographs() -> list[np.ndarray]:
    """The two photographs, uint8 (427, 640, 3)."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise EnvironmentProblem(f"scikit-learn is not installed for {sys.executable}") from error
    return [np.asarray(picture) for picture in datasets.load_sample_images().images]


def _share(photograph: np.ndarray, part: str) -> np.ndarray:
    """The part of a photograph that training images, or held-out images, may show."""
    border = photograph.shape[1] * 2 // 3
    return photograph[:, :border] if part == "train" else photograph[:, border:]


class Ink:
    """The digits of a part, one after the other in an endless sequence; each image takes the next ones."""

    def __init__(self, pictures: np.ndarray, labels: np.ndarray, indices: np.ndarray, random: np.random.RandomState):
        self.pictures, self.labels, self.indices, self.random = pictures, labels, indices, random
        self.sequence = self._endless()

    def _endless(self) -> Iterator[int]:
        while True:
            yield from self.random.permutation(self.indices)

    def next(self, side: int) -> tuple[np.ndarray, int]:
        """Share of the ink in each pixel, float (side, side) 0-1, and the class 0-9."""
        index = next(self.sequence)
        enlarged = Image.fromarray(self.pictures[index]).resize((side, side), Image.Resampling.BICUBIC)
        return np.minimum(np.asarray(enlarged) * (STRENGTH / 255), 1), int(self.labels[index])


def _write_part(folder: Path, part: str, count: int, size: int, ink: Ink, backgrounds: list[np.ndarray]) -> None:
    name = f"{part}2017"
    (folder / name).mkdir()
    images, annotations = [], []
    for number in range(1, count + 1):
        canvas = _background(backgrounds[ink.random.randint(len(backgrounds))], size, ink.random)
        objects = [] if number % EMPTY_EVERY == 0 else _write_digits(canvas, ink)
        file_name = f"{number:012d}.jpg"
        Image.fromarray(np.round(canvas).astype(np.uint8)).save(folder / name / file_name, quality=95)
        images.append({"id": number, "file_name": file_name, "width": size, "height": size})
        for box, label in objects:
            x, y, width, height = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": index + 1, "name": name, "supercategory": "digit"} for index, name in enumerate(CLASS_NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"instances_{name}.json").write_text(json.dumps(content), encoding="utf-8")


def _background(photograph: np.ndarray, size: int, random: np.random.RandomState) -> np.ndarray:
    """A random square of a photograph, float (size, size, 3) 0-255."""
    side = random.randint(BACKGROUND[0], BACKGROUND[1] + 1)
    top, left = (random.randint(0, length - side + 1) for length in photograph.shape[:2])
    square = Image.fromarray(photograph[top : top + side, left : left + side])
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC)).astype(np.float64)


def _write_digits(canvas: np.ndarray, ink: Ink) -> list[tuple[list[int], int]]:
    """Writes digits on the canvas, in place; returns the box x, y, width, height in pixels and the class of each."""
    size, random, objects = len(canvas), ink.random, []
    for _ in range(random.randint(DIGITS[0], DIGITS[1] + 1)):
        # Even chances on a logarithmic scale: as many small ones as large ones.
        side = int(round(size * SIDES[0] * (SIDES[1] / SIDES[0]) ** random.uniform()))
        share, label = ink.next(side)
        place = _free_place(canvas, share, [box for box, _ in objects], random)
        if place is not None:
            left, top = place
            _blend(canvas[top : top + side, left : left + side], share, random)
            objects.append((_box(share, left, top), label))
    return objects


def _free_place(
    canvas: np.ndarray, share: np.ndarray, boxes: list[list[int]], random: np.random.RandomState
) -> tuple[int, int] | None:
    """Left and upper border for a digit, where it covers no other one and is readable; None where none was found.

    The first digit of an image always gets a place: the one with the least texture that was tried.
    """
    side, calmest = len(share), None
    for _ in range(TRIALS):
        left, top = random.randint(0, len(canvas) - side + 1, 2).tolist()
        if any(overlap(_box(share, left, top), box) > MOST_OVERLAP for box in boxes):
            continue
        texture = canvas[top : top + side, left : left + side].mean(axis=2).std()
        if texture <= MOST_TEXTURE:
            return left, top
        if calmest is None or texture < calmest[0]:
            calmest = texture, (left, top)
    return calmest[1] if calmest and not boxes else None


def _blend(region: np.ndarray, share: np.ndarray, random: np.random.RandomState) -> None:
    """Writes a digit on a part of the canvas, in place, with ink that differs from what is behind it."""
    behind = region[share > VISIBLE].mean()
    light = behind < 128 if abs(behind - 128) > 20 else random.uniform() < 0.5
    limits = (max(behind + CONTRAST, 200), 255) if light else (0, max(1, min(behind - CONTRAST, 55)))
    colour = random.uniform(*limits, size=3)
    region += share[..., None] * (colour - region)


def _box(share: np.ndarray, left: int, top: int) -> list[int]:
    """The box x, y, width, height around the visible ink, in whole pixels."""
    rows, columns = (np.flatnonzero((share > VISIBLE).any(axis=axis)) for axis in (1, 0))
    width, height = int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1
    return [left + int(columns[0]), top + int(rows[0]), width, height]


def overlap(first: list[int], second: list[int]) -> float:
    """What two boxes x, y, width, height have in common, as a share of the smaller one."""
    sides = [
        min(first[axis] + first[axis + 2], second[axis] + second[axis + 2]) - max(first[axis], second[axis])
        for axis in (0, 1)
    ]
    return max(0, sides[0]) * max(0, sides[1]) / min(first[2] * first[3], second[2] * second[3])


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; a wrong one ends the program with status 2."""
    parser = argparse.ArgumentParser(description="Writes a small COCO data set of handwritten digits on photographs.")
    parser.add_argument("--output", required=True, type=os.path.expanduser, help="folder to make")
    parser.add_argument("--train", type=positive, default=DEFAULT_TRAIN, help="training images (default %(default)s)")
    parser.add_argument("--val", type=positive, default=DEFAULT_VAL, help="held-out images (default %(default)s)")
    parser.add_argument("--size", type=positive, default=DEFAULT_SIZE, help="side in pixels (default %(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.size < SMALLEST_SIZE:
        parser.error(f"--size {arguments.size}: {SMALLEST_SIZE} pixels or more are accepted, or no digit is readable")
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    try:
        print(write_coco(arguments.output, arguments.train, arguments.val, arguments.size))
    except OutputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (EnvironmentProblem, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
