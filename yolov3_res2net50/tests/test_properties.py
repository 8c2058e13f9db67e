"""What holds for all boxes and pictures, on those that hypothesis draws."""

from __future__ import annotations

from src.data.transforms import Augmentation, augment, clip, paste
from src.detect.boxes import Placement, iou, nms, place

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

settings.register_profile("tests", deadline=None, derandomize=True, max_examples=80)
settings.load_profile("tests")
SIDES = st.integers(1, 400)
CORNERS = arrays(np.int64, st.tuples(st.integers(0, 14), st.just(4)), elements=st.integers(0, 12))


def boxes_of(corners: np.ndarray) -> np.ndarray:
    """Boxes with x1 <= x2 and y1 <= y2, many of which touch, are equal or have no area."""
    return np.concatenate(
        [np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], axis=1
    )


def overlap(a, b) -> float:
    """Intersection over union, by counting unit squares."""
    squares = [{(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])} for box in (a, b)]
    union = len(squares[0] | squares[1])
    return len(squares[0] & squares[1]) / union if union else 0.0


@given(CORNERS)
def test_iou_counts_squares(corners):
    boxes = boxes_of(corners)
    found = iou(boxes, boxes)
    for i, a in enumerate(boxes.tolist()):
        for j, b in enumerate(boxes.tolist()):
            assert abs(found[i, j] - overlap(a, b)) < 1e-12


@given(CORNERS, st.data(), st.sampled_from([0.0, 0.3, 0.5, 0.99]), st.booleans())
def test_nms_is_the_greedy_one(corners, data, threshold, agnostic):
    boxes, number = boxes_of(corners), len(corners)
    scores = np.array(data.draw(st.lists(st.integers(0, 5), min_size=number, max_size=number)), np.float32) / 5
    classes = np.array(data.draw(st.lists(st.integers(0, 2), min_size=number, max_size=number)), np.int64)
    kept: list[int] = []
    for index in sorted(range(number), key=lambda index: -scores[index]):
        rivals = [other for other in kept if agnostic or classes[other] == classes[index]]
        if all(overlap(boxes[other].tolist(), boxes[index].tolist()) <= threshold for other in rivals):
            kept.append(index)
    assert nms(boxes, scores, classes, threshold, agnostic=agnostic).tolist() == kept


@given(st.tuples(SIDES, SIDES), st.sampled_from([(96, 96), (96, 160), (416, 320)]), st.booleans(), CORNERS)
def test_a_placement_and_back(picture, network, keep_ratio, corners):
    where = place(picture, network, keep_ratio)
    boxes = boxes_of(corners).astype(np.float64)
    np.testing.assert_allclose(where.to_picture(where.to_input(boxes)), boxes, atol=1e-9)
    assert where.left >= 0 and where.left + where.width <= network[1] and where.width >= 1
    assert where.top >= 0 and where.top + where.height <= network[0] and where.height >= 1
    assert where.width == network[1] or where.height == network[0]


@given(arrays(np.float64, (8, 4), elements=st.floats(-500, 500)), SIDES, SIDES)
def test_clipped_boxes_are_inside_and_whole_ones_stay(boxes, width, height):
    boxes = np.sort(boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    found, kept = clip(boxes, width, height)
    assert len(found) == kept.sum() and (found >= 0).all() and (found <= [width, height] * 2).all()
    inside = ((boxes >= 0) & (boxes <= [width, height] * 2)).all(axis=1) & (boxes[:, 2:] - boxes[:, :2] > 1).all(axis=1)
    assert kept[inside].all()


@given(
    st.integers(20, 90),
    st.integers(20, 90),
    st.floats(0.4, 3),
    st.floats(0.4, 3),
    st.integers(-60, 60),
    st.integers(-60, 60),
)
def test_pixels_go_where_the_numbers_say(height, width, scale_x, scale_y, left, top):
    """A black rectangle of a white picture, pasted: its pixels are those inside the moved box, to one pixel."""
    picture = np.full((height, width, 3), 255, np.uint8)
    box = np.array([width // 4, height // 4, width - width // 4, height - height // 4], float)
    picture[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = 0
    window = np.full((64, 64, 3), 128, np.uint8)
    size = max(1, round(width * scale_x)), max(1, round(height * scale_y))
    where = Placement(*size, size[0] / width, size[1] / height, left, top)
    scale, offset = paste(picture, 1, window, where, method=0)
    moved = box * np.tile(scale, 2) + np.tile(offset, 2)
    rows, columns = np.nonzero(window[..., 0] == 0)
    core = np.clip(np.round(moved + [2, 2, -2, -2]), 0, 64).astype(int)
    assert (window[core[1] : core[3], core[0] : core[2]] == 0).all()
    if len(rows):
        x1, y1, x2, y2 = moved
        assert columns.min() >= x1 - 2 and columns.max() <= x2 + 2 and rows.min() >= y1 - 2 and rows.max() <= y2 + 2


class Blocks:
    """Four pictures with two boxes each, whose pixels have the colour of the class."""

    def __len__(self):
        return 4

    def labels(self, index):
        boxes = np.array([[10, 10, 50, 40], [60, 50, 110, 100]], np.float32) + index
        return (120, 140), boxes, np.array([index, 4 + index], np.int32)

    def decode(self, index, reduce):
        picture = np.full((120, 140, 3), 255, np.uint8)
        _, boxes, classes = self.labels(index)
        for (x1, y1, x2, y2), label in zip(boxes.astype(int), classes):
            picture[y1:y2, x1:x2] = 20 * label
        return picture[::reduce, ::reduce], reduce


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(96, 96), (64, 128)]),
    st.floats(0, 0.9),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_augmented_boxes_are_inside_and_follow_from_the_seed(seed, size, jitter, mosaic, mixup):
    options = Augmentation(jitter=jitter, mosaic=mosaic, mixup=mixup, hue=0.0, saturation=1.0, value=1.0)
    first, again = (augment(Blocks(), seed % 4, size, options, np.random.default_rng(seed)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert first.picture.shape == (*size, 3) and len(first.boxes) == len(first.classes) == len(first.weights)
    assert (first.boxes >= 0).all() and (first.boxes <= [size[1], size[0]] * 2).all()
    assert (first.boxes[:, 2:] - first.boxes[:, :2] > 1).all()
    assert ((first.weights > 0) & (first.weights <= 1)).all() or mixup
