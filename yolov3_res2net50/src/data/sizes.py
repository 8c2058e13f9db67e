"""Stated and real sizes of pictures, and what the boxes of a file are: mistakes that otherwise put every box beside its object.

Sizes are (height, width) in pixels. What a whole file is, is judged by the share of its boxes, never by a single one.
"""

from __future__ import annotations

import numpy as np

FEW = 3  # boxes; fewer say nothing about the others
USUAL = 0.75  # share of the boxes that lie in their pictures in any sound file
CLEAR = 0.95  # share of the boxes for which another reading fits, where the usual one does not
OVERHANG = 0.1  # share of a box's width or height that may reach over the border
MANY = 20  # boxes that by chance would hardly all lie in the upper left part of their pictures
FORMS = {  # readings of four numbers that are no x, y, width, height in pixels
    "corners": "boxes look like x1, y1, x2, y2",
    "fractions": "boxes look like fractions of the picture's sides, 0-1",
    "exchanged": "width and height of the images look exchanged",
}
EXPECTED = {
    "corners": "x, y, width, height in pixels are expected: subtract x1 and y1 from the others",
    "fractions": "x, y, width, height in pixels are expected: multiply them by the width and height of their picture",
    "exchanged": "the boxes fit pictures of the other orientation: exchange the two in the file",
}


def same_aspect(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether one size is the other one resized, but for the rounding of its sides to whole pixels."""
    larger = max(first, second, key=sum)
    return mismatch(first, second) <= sum(larger)


def mismatch(first: tuple[int, int], second: tuple[int, int]) -> int:
    """How far two aspect ratios are from each other; 0 for the same one."""
    return abs(first[0] * second[1] - first[1] * second[0])


def require_same_aspect(real: tuple[int, int], stated: tuple[int, int]) -> tuple[int, int]:
    """The size of a picture; ValueError where it is not the stated size, nor that resized."""
    if not same_aspect(real, stated):
        exchanged = ", exchanged" if real == tuple(stated)[::-1] else ""
        sizes = "it is {1} x {0} pixels (width x height), the annotations state {3} x {2}".format(*real, *stated)
        raise ValueError(f"{sizes}{exchanged}")
    return real


def scale_boxes(boxes: np.ndarray, size: tuple[int, int], new_size: tuple[int, int]) -> np.ndarray:
    """Boxes (n, 4) x1, y1, x2, y2 of a picture as boxes of the same picture in another size."""
    if tuple(size) == tuple(new_size):
        return boxes
    scale = np.array([new_size[1] / size[1], new_size[0] / size[0]] * 2)
    return (boxes * scale).astype(boxes.dtype)


def other_form(bbox: np.ndarray, sizes: np.ndarray) -> str:
    """Which of FORMS the boxes of a file have; empty text for x, y, width, height in pixels, and where nothing is clear.

    Args:
        bbox: (n, 4) numbers of the file.
        sizes: (n, 2) stated sizes of their pictures.
    """
    finite = np.isfinite(bbox).all(axis=1)
    bbox, sizes = bbox[finite], sizes[finite]
    if len(bbox) < FEW:
        return ""
    if _are_fractions(bbox, sizes):
        return "fractions"
    if _fits(bbox, sizes).mean() >= USUAL:
        return ""
    ordered = (bbox[:, 2:] >= bbox[:, :2]).all(axis=1)
    extents = np.concatenate([bbox[:, :2], bbox[:, 2:] - bbox[:, :2]], axis=1)
    if (ordered & _fits(extents, sizes)).mean() >= CLEAR:
        return "corners"
    return "exchanged" if _fits(bbox, sizes[:, ::-1]).mean() >= CLEAR else ""


def _are_fractions(bbox: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether nearly all boxes lie within 0-1 and are no whole pixels: as pixels they would all be in one corner."""
    within = ((bbox >= 0) & (bbox <= 1)).all(axis=1) & (sizes > 2).all(axis=1)
    broken = (bbox != np.rint(bbox)).any(axis=1)
    return bool(within.mean() >= CLEAR and (within & broken).mean() > 0.5)


def _fits(bbox: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which boxes x, y, width, height lie in their pictures, but for a tenth of their sides, (n,) bool."""
    slack = OVERHANG * np.maximum(bbox[:, 2:], 0) + 1
    ends = bbox[:, :2] + bbox[:, 2:]
    return ((bbox[:, :2] >= -slack) & (ends <= sizes[:, ::-1] + slack)).all(axis=1)


def fit_files(bbox: np.ndarray, stated: np.ndarray, real: np.ndarray) -> bool:
    """Whether boxes belong to the pictures as they are rather than to the stated sizes, which are then wrong.

    Args:
        bbox: (n, 4) x, y, width, height of pictures that have another size than stated.
        stated, real: (n, 2) sizes of their pictures.
    """
    finite = np.isfinite(bbox).all(axis=1)
    bbox, stated, real = bbox[finite], stated[finite], real[finite]
    if len(bbox) < FEW or _fits(bbox, real).mean() < CLEAR:
        return False
    halved = (2 * real <= stated + 1).all()  # nothing in the middle of a picture fits into its first quarter
    return _fits(bbox, stated).mean() < USUAL or bool(halved and len(bbox) >= MANY)
