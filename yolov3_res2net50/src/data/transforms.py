"""Augmentation of training images with OpenCV. No MindSpore.

As in the older model zoo: a flip, a random aspect ratio, size and place on a grey canvas (jitter), a random change of the
colours. Deliberate deviations from it:
- The aspect ratio varies around the picture's own; there around the canvas's, which squeezes every wide picture.
- Only the visible part is resized and recoloured, so that borders are (128, 128, 128) as in evaluation.
- Boxes keep fractions of pixels; an image for which no random place shows an object is shown whole.
- All draws come from the generator that is passed, none from a global one.
Mosaic follows Bochkovskiy et al. 2020 (YOLOv4), mixup Zhang et al. 2019 (Bag of Freebies for Training Object Detection
Neural Networks). Boxes are x1, y1, x2, y2 in pixels, see boxes.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from ..detect.boxes import Placement, place
from ..model_utils.config import Config
from ..model_utils.errors import require_range

GREY = 128
METHODS = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
    "area": cv2.INTER_AREA,
}
SCALES = (0.25, 2.0)  # of a jittered picture; 1 is the largest that fits in the canvas
TRIALS = 10
SMALLEST_SIDE = 1.0  # pixels; a box counts if both of its sides are longer
CENTRE = (0.2, 0.8)  # where the four images of a mosaic meet, of the canvas's sides
BETA = 1.5  # both parameters of the distribution of mixup's weights


class Samples(Protocol):
    """The images that training draws from."""

    def __len__(self) -> int: ...

    def labels(self, index: int) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
        """Height and width in pixels, boxes (k, 4), classes (k,)."""
        ...

    def decode(self, index: int, reduce: int) -> tuple[np.ndarray, int]:
        """The picture (h, w, 3) uint8 RGB, and by how much its sides were divided: `reduce` or 1."""
        ...


class Scene(NamedTuple):
    """A picture with boxes: (H, W, 3) uint8 RGB; (n, 4) pixels; (n,) class indices; (n,) weights in 0-1."""

    picture: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    weights: np.ndarray


class Window(NamedTuple):
    """A part of the canvas, in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training image: the recipe's keys of the same names, with their ranges.

    Raises:
        UsageError: a value that cannot be.
    """

    flip_prob: float = 0.5
    jitter: float = 0.3
    hue: float = 0.1
    saturation: float = 1.5
    value: float = 1.5
    mosaic: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        require_range(low=0, high=1, flip_prob=self.flip_prob, mosaic=self.mosaic, mixup=self.mixup)
        require_range(low=0, below=1, jitter=self.jitter)
        require_range(low=0, high=0.5, hue=self.hue)
        require_range(low=1, saturation=self.saturation, value=self.value)

    @classmethod
    def of(cls, config: Config) -> Augmentation:
        """The augmentation of a recipe."""
        return cls(**{key: config[key] for key in cls.__dataclass_fields__})


def augment(
    samples: Samples, index: int, size: tuple[int, int], options: Augmentation, rng: np.random.Generator
) -> Scene:
    """One training image on a canvas of height and width `size`; every box is inside it, with sides above 1 px."""
    scene = _compose(samples, index, size, options, rng)
    if options.mixup and rng.random() < options.mixup:
        other = _compose(samples, int(rng.integers(len(samples))), size, options, rng)
        scene = mix(scene, other, float(rng.beta(BETA, BETA)))
    return scene


def mix(first: Scene, second: Scene, share: float) -> Scene:
    """Both pictures blended, `share` of the first; the weights of the boxes are the shares of their pictures."""
    return Scene(
        cv2.addWeighted(first.picture, share, second.picture, 1 - share, 0),
        np.concatenate([first.boxes, second.boxes]),
        np.concatenate([first.classes, second.classes]),
        np.concatenate([first.weights * share, second.weights * (1 - share)]),
    )


def _compose(samples: Samples, index: int, size: tuple[int, int], options: Augmentation, rng) -> Scene:
    """One image on the canvas, or four with mosaic."""
    canvas = np.full((*size, 3), GREY, np.uint8)
    members, windows = [index], [Window(0, 0, size[1], size[0])]
    if options.mosaic and rng.random() < options.mosaic:
        members += rng.integers(len(samples), size=3).tolist()
        windows = _quarters(size, rng)
    parts = [_draw(canvas, samples, *pair, options, rng) for pair in zip(members, windows)]
    boxes, classes = (np.concatenate(column) for column in zip(*parts))
    return Scene(canvas, boxes, classes, np.ones(len(boxes), np.float32))


def _quarters(size: tuple[int, int], rng: np.random.Generator) -> list[Window]:
    """Four windows around a random centre, which cover the canvas."""
    height, width = size
    x, y = (int(side * rng.uniform(*CENTRE)) for side in (width, height))
    return [
        Window(left, top, x if left == 0 else width - x, y if top == 0 else height - y)
        for top in (0, y)
        for left in (0, x)
    ]


def _draw(
    canvas: np.ndarray, samples: Samples, index: int, window: Window, options: Augmentation, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Augment one image into a window of the canvas; the boxes (k, 4) of the canvas and classes (k,) that are left."""
    picture_size, boxes, classes = samples.labels(index)
    where = _place(picture_size, boxes, canvas.shape[:2], window, options.jitter, rng)
    method = list(METHODS.values())[rng.integers(len(METHODS))]
    flip = rng.random() < options.flip_prob
    colours = _draw_colours(options, rng)
    part = canvas[window.top : window.top + window.height, window.left : window.left + window.width]
    picture, factor = samples.decode(index, reduction(where))
    scale, offset = paste(picture, factor, part, where, method, flip, colours)
    boxes = boxes * np.tile(scale, 2) + np.tile(offset, 2)
    if flip:
        boxes[:, [0, 2]] = window.width - boxes[:, [2, 0]]
    boxes, kept = clip(boxes, window.width, window.height)
    return boxes + np.array([window.left, window.top] * 2), classes[kept]


def clip(boxes: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """The boxes that count, clipped to an area, and which they are, (n,) bool."""
    boxes = np.clip(boxes, 0, [width, height, width, height])
    kept = (boxes[:, 2:] - boxes[:, :2] > SMALLEST_SIDE).all(axis=1)
    return boxes[kept], kept


def _place(
    picture: tuple[int, int], boxes: np.ndarray, canvas: tuple[int, int], window: Window, jitter: float, rng
) -> Placement:
    """Where in the window the picture lies: a random place that shows the centre of a box, else the whole picture."""
    if jitter:
        for _ in range(TRIALS):
            where = _jittered(picture, canvas, window, jitter, rng)
            moved = where.to_input(boxes)
            centres = (moved[:, :2] + moved[:, 2:]) / 2
            inside = ((centres >= 0) & (centres < (window.width, window.height))).all(axis=1)
            if clip(moved[inside], window.width, window.height)[1].any():
                return where
    return place(picture, (window.height, window.width), keep_ratio=True)


def _jittered(picture: tuple[int, int], canvas: tuple[int, int], window: Window, jitter: float, rng) -> Placement:
    """A random aspect ratio and size relative to the canvas, at a random place of the window."""
    stretch = rng.uniform(1 - jitter, 1 + jitter, 2)
    aspect = picture[1] / picture[0] * stretch[0] / stretch[1]
    scale = rng.uniform(*SCALES)
    if aspect < canvas[1] / canvas[0]:
        width, height = scale * canvas[0] * aspect, scale * canvas[0]
    else:
        width, height = scale * canvas[1], scale * canvas[1] / aspect
    width, height = max(1, round(width)), max(1, round(height))
    left, top = rng.random(2) * (window.width - width, window.height - height)
    return Placement(width, height, width / picture[1], height / picture[0], round(left), round(top))


def reduction(where: Placement) -> int:
    """By how much the sides of a picture may be divided while it is decoded, without a loss where it will be shown."""
    return next((factor for factor in (8, 4, 2) if max(where.scale_x, where.scale_y) * factor <= 1), 1)


def paste(
    picture: np.ndarray,
    factor: int,
    window: np.ndarray,
    where: Placement,
    method: int = cv2.INTER_LINEAR,
    flip: bool = False,
    colours: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Resize the visible part of a picture into a window, in place.

    Args:
        picture: (h, w, 3) uint8, its sides divided by `factor`.
        factor: see `Samples.decode`.
        window: (H, W, 3) uint8, a view of the canvas.
        where: of the undivided picture in the window, before the flip.
        method: of METHODS.
        flip: mirror the window's content, left to right.
        colours: of `colour_table`, or None.

    Returns:
        Scale and offset, (x, y) each: pixels of the undivided picture * scale + offset = pixels of the window, before
        the flip. Whole pixels are cut out and resized to whole pixels, so that they differ a little from `where`.
    """
    x_cut, x_scale, x_place = _visible(picture.shape[1], window.shape[1], where.scale_x * factor, where.left)
    y_cut, y_scale, y_place = _visible(picture.shape[0], window.shape[0], where.scale_y * factor, where.top)
    scale = np.array([x_scale, y_scale]) / factor
    offset = np.array([x_place[0] - x_cut.start * x_scale, y_place[0] - y_cut.start * y_scale])
    piece = cv2.resize(picture[y_cut, x_cut], (x_place[1], y_place[1]), interpolation=method)
    x_first, y_first = max(0, -x_place[0]), max(0, -y_place[0])
    left, top = max(0, x_place[0]), max(0, y_place[0])
    # A reduced picture may have a last row and column that are only partly its own.
    rows = max(0, min(window.shape[0], where.top + where.height) - top)
    columns = max(0, min(window.shape[1], where.left + where.width) - left)
    piece = piece[y_first : y_first + rows, x_first : x_first + columns]
    if not piece.size:  # a picture that is smaller than the data set states
        return scale, offset
    if colours is not None:
        piece = recolour(piece, colours)
    if flip:
        piece, left = cv2.flip(piece, 1), window.shape[1] - left - piece.shape[1]
    window[top : top + piece.shape[0], left : left + piece.shape[1]] = piece
    return scale, offset


def _visible(picture: int, window: int, scale: float, start: int) -> tuple[slice, float, tuple[int, int]]:
    """Along one axis: the part to cut out of the picture, its true scale, its place and length in the window.

    At least one pixel, so that the result is never empty; it may reach over the window's border.
    """
    first = min(max(0, int(np.floor(-start / scale))), picture - 1)
    last = max(first + 1, min(picture, int(np.ceil((window - start) / scale))))
    length = max(1, round((last - first) * scale))
    return slice(first, last), length / (last - first), (round(start + first * scale), length)


def _draw_colours(options: Augmentation, rng: np.random.Generator) -> np.ndarray | None:
    hue, *exponents = rng.uniform(-1, 1, 3)
    # The factor or its inverse with equal chance, the factor uniform.
    factors = [
        (1 + abs(e) * (limit - 1)) ** (1 if e > 0 else -1)
        for e, limit in zip(exponents, (options.saturation, options.value))
    ]
    shift = hue * options.hue
    return None if shift == 0 and factors == [1, 1] else colour_table(shift, *factors)


def colour_table(hue: float, saturation: float, value: float) -> np.ndarray:
    """What becomes of each hue, saturation and value 0-255: (1, 256, 3) uint8.

    Args:
        hue: shift, 1 = the whole colour circle.
        saturation, value: factors.
    """
    levels = np.arange(256)
    columns = [(levels + round(hue * 256)) % 256, np.minimum(levels * saturation, 255), np.minimum(levels * value, 255)]
    return np.stack([np.round(column) for column in columns], axis=-1).astype(np.uint8)[None]


def recolour(picture: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Change hue, saturation and value of a (h, w, 3) uint8 RGB picture."""
    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV_FULL)
    return cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2RGB_FULL)
