"""Box geometry and non-maximum suppression, NumPy only.

Boxes are (n, 4) arrays of x1, y1, x2, y2 unless a name says otherwise: the left, upper, right and lower edge in pixels,
from the upper left corner of the picture, without the old "+ 1": a box from 0 to 8 is 8 pixels wide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Placement:
    """Where a picture lies in the network's input: input = picture * scale + offset, in pixels.

    Attributes:
        width, height: of the resized picture, whole pixels.
        scale_x, scale_y: resized over original side.
        left, top: of the resized picture in the input, whole pixels; not 0 where a letterbox has borders.
    """

    width: int
    height: int
    scale_x: float
    scale_y: float
    left: int
    top: int

    def to_input(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes of the picture as boxes of the input."""
        scale = np.array([self.scale_x, self.scale_y] * 2)
        return boxes * scale + np.array([self.left, self.top] * 2)

    def to_picture(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes of the input as boxes of the picture; not clipped."""
        scale = np.array([self.scale_x, self.scale_y] * 2)
        return (boxes - np.array([self.left, self.top] * 2)) / scale


def place(picture: tuple[int, int], network: tuple[int, int], keep_ratio: bool) -> Placement:
    """How a picture is resized into the network's input.

    Args:
        picture: its height and width in pixels.
        network: height and width of the input in pixels.
        keep_ratio: the largest size of the same aspect ratio, in the middle (letterbox); else both sides are resized.
    """
    (height, width), (input_height, input_width) = picture, network
    if not keep_ratio:
        return Placement(input_width, input_height, input_width / width, input_height / height, 0, 0)
    scale = min(input_width / width, input_height / height)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (input_width - new_width) // 2, (input_height - new_height) // 2
    return Placement(new_width, new_height, new_width / width, new_height / height, left, top)


def to_stored(boxes: np.ndarray, orientation: int, upright: tuple[int, int]) -> np.ndarray:
    """Boxes of an upright picture as boxes of the same picture as it is stored.

    Args:
        boxes: (n, 4).
        orientation: EXIF's, 1 to 8, by which the stored picture becomes upright.
        upright: height and width of the upright picture.
    """
    boxes = boxes.copy()
    if orientation in (2, 3, 6, 7):
        boxes[:, [0, 2]] = upright[1] - boxes[:, [2, 0]]
    if orientation in (3, 4, 7, 8):
        boxes[:, [1, 3]] = upright[0] - boxes[:, [3, 1]]
    return boxes[:, [1, 0, 3, 2]] if orientation >= 5 else boxes


class Detections(NamedTuple):
    """Objects found in one picture, the likeliest first.

    Attributes:
        boxes: (k, 4) float32 x1, y1, x2, y2 in pixels of the picture, none beyond its border.
        scores: (k,) float32 in 0-1, descending.
        classes: (k,) int64, indices of the network's class outputs.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of each box of a (n, 4) with each of b (m, 4): (n, m) float64 in 0-1.

    It is 0 where the union is empty.
    """
    a, b = np.asarray(a, np.float64).reshape(-1, 4), np.asarray(b, np.float64).reshape(-1, 4)
    # In place on (n, m) arrays: twice as fast as on (n, m, 2) arrays.
    width = np.minimum.outer(a[:, 2], b[:, 2])
    width -= np.maximum.outer(a[:, 0], b[:, 0])
    height = np.minimum.outer(a[:, 3], b[:, 3])
    height -= np.maximum.outer(a[:, 1], b[:, 1])
    intersection = np.maximum(width, 0, out=width)
    intersection *= np.maximum(height, 0, out=height)
    union = np.add.outer(_areas(a), _areas(b))
    union -= intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    iou_threshold: float,
    *,
    limit: int | None = None,
    agnostic: bool = False,
) -> np.ndarray:
    """Greedy non-maximum suppression in float64: of two boxes of a class that overlap, the lower score is dropped.

    A box that was dropped drops no other one. Boxes without an area overlap nothing.

    Args:
        boxes: (n, 4) x1, y1, x2, y2.
        scores: (n,) finite numbers.
        classes: (n,) integers, 0 or more.
        iou_threshold: boxes overlap if their IoU is above it.
        limit: boxes kept at most, those of the highest scores; None: all.
        agnostic: boxes of different classes drop each other too.

    Returns:
        Indices of the kept boxes (k,) by descending score; of equal scores the lower index goes first.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    classes = np.zeros(len(boxes), np.int64) if agnostic else np.asarray(classes, np.int64)
    columns = int(classes.max(initial=0)) + 1
    candidates = np.arange(len(boxes)) * columns + classes
    return _suppress(boxes, candidates, columns, np.asarray(scores), iou_threshold, limit)


def detect(
    outputs: Sequence[np.ndarray],
    placement: Placement,
    picture_size: tuple[int, int],
    input_size: tuple[int, int],
    score_threshold: float,
    nms_threshold: float,
    limit: int,
) -> Detections:
    """The objects of one picture, from the network's decoded maps.

    Each class whose score, objectness times class probability, is above the threshold makes a detection of its own.
    Those of a class that overlap in the network's input are reduced to the best one; of equal scores that goes first
    whose map, row, column, anchor and class come first. All of it in float64.

    Args:
        outputs: maps (h, w, 3, 5 + classes): x and y of the centre, width and height as fractions of the input's sides,
            objectness and class probabilities in 0-1; finite.
        placement: of the picture in the input.
        picture_size: its height and width in pixels.
        input_size: height and width of the network's input in pixels.
        score_threshold: 0 or more.
        nms_threshold: IoU above which two boxes of a class are of the same object.
        limit: detections at most, those of the highest scores.
    """
    flat = [np.reshape(output, (-1, np.shape(output)[-1])) for output in outputs]
    # A class probability is 1 at most: where the objectness does not exceed the threshold, no score does.
    rows = np.concatenate([part[part[:, 4] > score_threshold] for part in flat])
    scores = np.multiply(rows[:, 5:], rows[:, 4:5], dtype=np.float64)
    candidates = np.flatnonzero(scores > score_threshold)
    values, boxes = scores.ravel()[candidates], _corners(rows[:, :4].astype(np.float64), input_size)
    kept = _suppress(boxes, candidates, scores.shape[1], values, nms_threshold, limit)
    row, classes = np.divmod(candidates[kept], scores.shape[1])
    height, width = picture_size
    inside = np.clip(placement.to_picture(boxes[row]), 0, [width, height, width, height])
    return Detections(inside.astype(np.float32), values[kept].astype(np.float32), classes)


def _corners(boxes: np.ndarray, input_size: tuple[int, int]) -> np.ndarray:
    """Boxes (n, 4) x, y, width, height as fractions of the input's sides, as x1, y1, x2, y2 in its pixels."""
    height, width = input_size
    centres, halves = boxes[:, :2], boxes[:, 2:] / 2
    return np.concatenate([centres - halves, centres + halves], axis=1) * np.array([width, height] * 2)


# Candidates of the first piece; the factor by which each further piece is larger; candidates that are compared at once.
FIRST, GROWTH, BLOCK = 1024, 8, 256
# Pairs of boxes from which on sorting them by class is worth its time.
PAIRS = 1 << 17


def _suppress(
    boxes: np.ndarray,
    candidates: np.ndarray,
    columns: int,
    scores: np.ndarray,
    iou_threshold: float,
    limit: int | None,
) -> np.ndarray:
    """Indices of the kept candidates, as `nms` returns them.

    Args:
        boxes: (n, 4) float64.
        candidates: (m,) cells of a matrix (n, columns) of boxes and classes, counted row by row.
        columns: classes.
        scores: (m,).
        iou_threshold: see `nms`.
        limit: see `nms`.
    """
    suppression = _Suppression(boxes, columns, iou_threshold)
    limit = len(scores) if limit is None else limit
    kept = np.empty(0, np.int64)
    for piece in _best_first(scores):
        piece = piece[~suppression.drops(candidates[piece])]
        piece = piece[np.argsort(-scores[piece], kind="stable")]
        for start in range(0, len(piece), BLOCK):
            if len(kept) >= limit:
                return kept[:limit]
            block = piece[start : start + BLOCK]
            kept = np.concatenate([kept, block[suppression.add(candidates[block])]])
    return kept[:limit]


def _best_first(scores: np.ndarray) -> Iterator[np.ndarray]:
    """Ascending indices of the highest scores, then of the next ones, and so on, in pieces that grow.

    All candidates of equal score are in the same piece.
    """
    rest, size = np.arange(len(scores)), FIRST
    while len(rest) > size:
        is_best = scores >= np.partition(scores, -size)[-size]
        yield rest[is_best]
        rest, scores, size = rest[~is_best], scores[~is_best], size * GROWTH
    yield rest


class _Suppression:
    """Marks candidates that a kept box suppresses; arguments: see `_suppress`."""

    def __init__(self, boxes: np.ndarray, columns: int, iou_threshold: float):
        self.boxes, self.columns, self.iou_threshold = boxes, columns, iou_threshold
        self.kept = np.empty(0, np.int64)

    def add(self, block: np.ndarray) -> np.ndarray:
        """Whether each of the candidates (m,), best first, is kept: no kept box and no better candidate suppresses it."""
        alive = ~self.drops(block)
        overlaps = self._overlaps(block, block)
        for place in range(len(block)):
            if alive[place]:
                alive[place + 1 :] &= ~overlaps[place, place + 1 :]
        self.kept = np.concatenate([self.kept, block[alive]])
        return alive

    def drops(self, candidates: np.ndarray) -> np.ndarray:
        """Whether a kept box suppresses each of the candidates (m,)."""
        dropped = np.zeros(len(candidates), bool)
        if not len(self.kept):
            return dropped
        if len(candidates) * len(self.kept) <= PAIRS:
            return self._overlaps(candidates, self.kept).any(axis=1)
        classes, kept_classes = candidates % self.columns, self.kept % self.columns
        order = np.argsort(classes.astype(np.uint16) if self.columns < 1 << 16 else classes, kind="stable")
        for one in np.unique(kept_classes):
            places = order[slice(*np.searchsorted(classes, [one, one + 1], sorter=order))]
            kept = self.kept[kept_classes == one]
            for part in np.array_split(places, 1 + len(places) * len(kept) // PAIRS):
                dropped[part] = self._overlaps(candidates[part], kept).any(axis=1)
        return dropped

    def _overlaps(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Whether each of the candidates (n,) overlaps each of (m,) and is of its class, (n, m)."""
        shared = iou(self.boxes[first // self.columns], self.boxes[second // self.columns])
        return (shared > self.iou_threshold) & np.equal.outer(first % self.columns, second % self.columns)
