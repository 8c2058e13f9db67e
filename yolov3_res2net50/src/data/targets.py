"""What a training image asks of the network: for each of its boxes the cell, the anchor and the values. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..yolo import BOXES, STRIDES

FIELDS = 7  # of a row before its classes: cell, anchor, x, y, width, height, weight


def encode(
    boxes: np.ndarray,
    classes: np.ndarray,
    input_size: tuple[int, int],
    *,
    anchors: Sequence[Sequence[float]],
    num_classes: int,
    max_box: int,
    smoothing: float = 0.0,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """The target rows of one image.

    A box belongs to the anchor of all nine whose IoU with it is largest when both have the same centre, and to the cell
    of that anchor's scale in which its centre lies. Where two boxes belong to the same anchor and cell, the later one
    has it, with the classes of both (they are independent, as in darknet); the earlier one keeps a row without a cell.

    Args:
        boxes: (n, 4) x1, y1, x2, y2 in pixels of the input, sides above 0.
        classes: (n,) class indices.
        input_size: height and width of the input in pixels.
        anchors: nine pairs of width and height in pixels of the input.
        num_classes: C.
        max_box: rows; of more boxes the first ones count.
        smoothing: f: a class target is 1 - f for the class and f / (C - 1) for the others, 0-1; one class has none.
        weights: (n,) share of each box in the loss, above 0 and up to 1; none: 1.

    Returns:
        (max_box, 7 + C) float32: cell (its number row by row, behind the cells of the scales before; big, medium,
        small), anchor (0-2 of its scale), x, y (centre), width, height (0-1 of the input), weight, class targets. A row
        without a cell has -1 there; one without a box has zeros behind that.
    """
    rows = np.zeros((max_box, FIELDS + num_classes), np.float32)
    rows[:, 0] = -1
    boxes = np.asarray(boxes, np.float64).reshape((-1, 4))[:max_box]
    if not len(boxes):
        return rows
    height, width = input_size
    sizes, centres = boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2
    cells, own_anchors = _place(sizes, centres, height, width, np.array(anchors, np.float64))
    off = smoothing / (num_classes - 1) if num_classes > 1 else 0.0
    count = len(boxes)
    rows[:count, 0], rows[:count, 1] = cells, own_anchors
    rows[:count, 2:6] = np.hstack([centres, sizes]) / [width, height, width, height]
    rows[:count, 6] = 1.0 if weights is None else np.asarray(weights)[:max_box]
    rows[:count, FIELDS:] = off
    rows[np.arange(count), FIELDS + np.asarray(classes)[:max_box]] = 1.0 - off * (num_classes - 1)
    _resolve_collisions(rows[:count])
    return rows


def _place(
    sizes: np.ndarray, centres: np.ndarray, height: int, width: int, anchors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The cell and the anchor within its scale of each box, (n,) each."""
    common = np.minimum(sizes[:, None], anchors[None]).prod(2)  # (n, 9)
    best = (common / (sizes.prod(1)[:, None] + anchors.prod(1)[None] - common)).argmax(1)
    scales = len(STRIDES) - 1 - best // BOXES  # the largest anchors are those of scale 0
    grids = np.array([(width // stride, height // stride) for stride in STRIDES])
    before = np.concatenate([[0], np.cumsum(grids.prod(1))])
    strides = np.array(STRIDES)[scales]
    places = np.clip((centres // strides[:, None]).astype(np.int64), 0, grids[scales] - 1)  # column, row
    return before[scales] + places[:, 1] * grids[scales, 0] + places[:, 0], best % BOXES


def _resolve_collisions(rows: np.ndarray) -> None:
    """Leave each cell and anchor to the last row that has it, with the classes of all."""
    keys = rows[:, 0] * BOXES + rows[:, 1]
    for key in np.unique(keys[keys >= 0]):
        same = np.flatnonzero(keys == key)
        if len(same) > 1:
            rows[same[-1], FIELDS:] = rows[same, FIELDS:].max(0)
            rows[same[:-1], 0] = -1
