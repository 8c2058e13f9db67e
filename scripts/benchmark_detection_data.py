"""Speed of the detector's training augmentation against a plain Pillow implementation of the same, in images a second.

    python scripts/benchmark_detection_data.py [--size 416] [--images 48] [--rounds 5]

Both read the same JPEG files of about 500 x 375 pixels, cut from the two photographs that scikit-learn carries, and make
the network's (3, size, size) float32 input of each: a flip, a random aspect ratio, size and place on a grey canvas with a
random kind of resampling, a random change of hue, saturation and value, normalisation. The random numbers have the same
distributions. The Pillow implementation below does these steps one after the other on whole pictures, as data pipelines
of this kind usually do. One thread each; the two take turns within a round, and medians of the rounds are compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "yolov3_res2net50"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
METHODS = ("NEAREST", "BILINEAR", "BICUBIC", "LANCZOS", "BOX")
PHOTOGRAPH = (500, 375)  # width and height in pixels
QUALITY = 90


class PillowReference:
    """The augmentation with Pillow and NumPy, one picture at a time."""

    def __init__(self, paths: list[Path], boxes: list[np.ndarray], size: int):
        self.paths, self.boxes, self.size = paths, boxes, size

    def __call__(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """(3, size, size) float32."""
        picture, boxes = Image.open(self.paths[index]).convert("RGB"), self.boxes[index]
        width, height, left, top = self._place(picture.size, boxes, rng)
        method = getattr(Image.Resampling, METHODS[rng.integers(len(METHODS))])
        canvas = Image.new("RGB", (self.size, self.size), (128, 128, 128))
        canvas.paste(picture.resize((width, height), method), (left, top))
        if rng.random() < 0.5:
            canvas = canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        hsv = rgb_to_hsv(np.asarray(canvas, np.float32) / 255)
        hue, *factors = (rng.uniform(-0.1, 0.1), *rng.uniform(1, 1.5, 2))
        hsv[..., 0] = (hsv[..., 0] + hue) % 1.0
        for channel, factor in zip((1, 2), factors):
            hsv[..., channel] = np.clip(hsv[..., channel] * (factor if rng.random() < 0.5 else 1 / factor), 0, 1)
        values = (hsv_to_rgb(hsv) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
        return np.ascontiguousarray(values.transpose(2, 0, 1))

    def _place(self, picture: tuple[int, int], boxes: np.ndarray, rng) -> tuple[int, int, int, int]:
        """Width, height, left and upper border of the resized picture: the first of ten trials that shows a box."""
        for _ in range(10):
            aspect = picture[0] / picture[1] * rng.uniform(0.7, 1.3) / rng.uniform(0.7, 1.3)
            scale = rng.uniform(0.25, 2)
            if aspect < 1:
                width, height = int(scale * self.size * aspect), int(scale * self.size)
            else:
                width, height = int(scale * self.size), int(scale * self.size / aspect)
            left, top = int(rng.random() * (self.size - width)), int(rng.random() * (self.size - height))
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2 * (width / picture[0], height / picture[1]) + (left, top)
            if ((centres >= 0) & (centres < self.size)).all(axis=1).any():
                break
        return width, height, left, top


def rgb_to_hsv(rgb: np.ndarray) -> np.ndarray:
    """(..., 3) values in 0-1."""
    value = rgb.max(axis=-1)
    spread = value - rgb.min(axis=-1)
    divisor = np.where(spread > 0, spread, 1)
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    hue = 4 + (red - green) / divisor
    for largest, difference, start in ((green, blue - red, 2), (red, green - blue, 0)):
        chosen = value == largest
        hue[chosen] = start + difference[chosen] / divisor[chosen]
    return np.stack([hue / 6 % 1, spread / np.where(value > 0, value, 1), value], axis=-1)


def hsv_to_rgb(hsv: np.ndarray) -> np.ndarray:
    """(..., 3) values in 0-1."""
    hue, saturation, value = hsv[..., 0], hsv[..., 1], hsv[..., 2]
    channels = []
    for start in (5, 3, 1):
        position = (start + hue * 6) % 6
        channels.append(value - value * saturation * np.clip(np.minimum(position, 4 - position), 0, 1))
    return np.stack(channels, axis=-1)


class Project:
    """The augmentation of the detector's training pipeline, without its threads and without the target rows."""

    def __init__(self, paths: list[Path], boxes: list[np.ndarray], size: int):
        sys.path.insert(0, str(ROOT / FOLDER))
        import src.model_utils  # noqa: F401  (sets the environment before MindSpore is imported)
        from src.data import pictures, transforms

        import cv2

        cv2.setNumThreads(0)
        self.paths, self.boxes, self.size, self.transforms, self.pictures = paths, boxes, size, transforms, pictures
        self.options, self.tables = transforms.Augmentation(), pictures.input_tables(MEAN, STD)

    def __len__(self) -> int:
        return len(self.paths)

    def labels(self, index: int) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
        return PHOTOGRAPH[::-1], self.boxes[index], np.zeros(len(self.boxes[index]), np.int32)

    def decode(self, index: int, reduce: int) -> tuple[np.ndarray, int]:
        return self.pictures.decode(self.paths[index], PHOTOGRAPH[::-1], reduce)

    def __call__(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """(3, size, size) float32."""
        scene = self.transforms.augment(self, index, (self.size, self.size), self.options, rng)
        return self.pictures.to_input(scene.picture, self.tables)


def write_photographs(folder: Path, count: int) -> tuple[list[Path], list[np.ndarray]]:
    """JPEG files cut from the two photographs, and three random boxes (3, 4) x1, y1, x2, y2 in pixels for each."""
    from sklearn import datasets

    photographs, rng = datasets.load_sample_images().images, np.random.default_rng(0)
    paths, boxes = [], []
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        top, left = (rng.integers(0, have - want + 1) for have, want in zip(photograph.shape, PHOTOGRAPH[::-1]))
        paths.append(folder / f"{number}.jpg")
        part = photograph[top : top + PHOTOGRAPH[1], left : left + PHOTOGRAPH[0]]
        Image.fromarray(part).save(paths[-1], quality=QUALITY)
        corners = rng.uniform(0, 0.7, (3, 2)) * PHOTOGRAPH
        boxes.append(np.concatenate([corners, corners + rng.uniform(0.1, 0.3, (3, 2)) * PHOTOGRAPH], axis=1))
    return paths, boxes


def measure(work: Callable[[int, np.random.Generator], np.ndarray], images: int, seed: int) -> float:
    """Images a second over all images, each once."""
    started = time.perf_counter()
    for index in range(images):
        work(index, np.random.default_rng([seed, index]))
    return images / (time.perf_counter() - started)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=416, help="side of the network's input (default %(default)s)")
    parser.add_argument("--images", type=int, default=48, help="images of a round (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which medians are taken (default %(default)s)")
    arguments = parser.parse_args(argv)
    for name in ("size", "images", "rounds"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} {getattr(arguments, name)}: 1 or more is accepted")
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    with tempfile.TemporaryDirectory() as folder:
        paths, boxes = write_photographs(Path(folder), arguments.images)
        works = {"Pillow": PillowReference(paths, boxes, arguments.size), FOLDER: Project(paths, boxes, arguments.size)}
        speeds: dict[str, list[float]] = {name: [] for name in works}
        for work in works.values():
            measure(work, min(4, arguments.images), 0)  # warm-up
        for number in range(arguments.rounds):
            for name, work in works.items():
                speeds[name].append(measure(work, arguments.images, number))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    width, height = PHOTOGRAPH
    rounds = f"medians of {arguments.rounds} rounds of {arguments.images} images"
    print(f"JPEG {width} x {height} to {arguments.size} x {arguments.size}, one thread, {rounds}\n")
    print("| implementation | images/s | range | ms an image | ratio |\n|---|---|---|---|---|")
    for name, speed in medians.items():
        extent = f"{min(speeds[name]):.0f}-{max(speeds[name]):.0f}"
        print(f"| {name} | {speed:.0f} | {extent} | {1000 / speed:.2f} | {speed / medians['Pillow']:.1f}x |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
