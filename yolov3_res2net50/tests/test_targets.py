"""Target rows: cell and anchor of every box, exact centres, collisions, smoothing, and what borders do."""

import oracle
from src.data.targets import FIELDS, encode
from src.yolo import ANCHORS, STRIDES

import numpy as np
import pytest

IMAGES = [(case["name"], image) for case in oracle.YOLO["cases"] for image in range(case["batch"])]


def rows_of(boxes, classes=None, size=(416, 416), **options) -> np.ndarray:
    boxes = np.asarray(boxes, np.float64).reshape((-1, 4))
    classes = np.zeros(len(boxes), int) if classes is None else classes
    return encode(boxes, classes, size, **{"anchors": ANCHORS, "num_classes": 3, "max_box": 50, **options})


def place(row, size) -> tuple:
    """A row's scale (l, m or s), row and column of the cell, and anchor."""
    cell = int(row[0])
    assert cell == row[0] >= 0
    for scale, stride in zip(oracle.SCALES, STRIDES):
        h, w = size[0] // stride, size[1] // stride
        if cell < h * w:
            return scale, cell // w, cell % w, int(row[1])
        cell -= h * w
    raise AssertionError(row[0])


@pytest.mark.parametrize(("name", "image"), IMAGES)
def test_assignment(name, image):
    """Every object of the reference and no other one, with its exact centre, its size and its classes."""
    case = oracle.CASES[name]
    boxes, size = oracle.boxes_of(case, image), tuple(case["input_hw"])
    rows = rows_of(
        boxes[:, :4], boxes[:, 4].astype(int), size, num_classes=case["num_classes"], smoothing=case["label_smooth"]
    )
    assert rows.shape == (50, FIELDS + case["num_classes"]) and rows.dtype == np.float32
    found = {place(row, size): row for row in rows[rows[:, 0] >= 0]}
    expected = {tuple(row[:4]): row for row in case["assign_exact_centre"][image]}
    # The case of one scale lists the objects of that scale only.
    listed = {key: row for key, row in found.items() if key[0] in (case["scales"] or oracle.SCALES)}
    assert listed.keys() == expected.keys()
    for key, (*_, x, y, w, h, classes) in expected.items():
        np.testing.assert_allclose(found[key][2:6], [x, y, w, h], atol=1e-6)
        assert np.flatnonzero(found[key][FIELDS:] > 0.5).tolist() == classes
    # All boxes stay in the rows: the loss compares every prediction with them.
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    centres = (boxes[:, :2] + boxes[:, 2:4]) / 2
    sides = [size[1], size[0]]
    np.testing.assert_allclose(rows[: len(boxes), 2:4], centres / sides, atol=1e-6)
    np.testing.assert_allclose(rows[: len(boxes), 4:6], np.stack([width, height], 1) / sides, atol=1e-6)
    assert not rows[len(boxes) :, 1:].any() and (rows[len(boxes) :, 0] == -1).all()


def test_whole_pixels_are_not_taken():
    """The exact assignment differs from that of whole pixels, so that the test above can tell."""
    assert (
        oracle.CASES["three_scales_416"]["assign_zoo_floor"] != oracle.CASES["three_scales_416"]["assign_exact_centre"]
    )


@pytest.mark.parametrize("row", oracle.YOLO["cell_border"]["rows"], ids=lambda row: str(row[0]))
def test_centre_on_a_cell_border(row):
    """It belongs to the cell that begins there."""
    value, expected, _ = row
    encoded = rows_of([value - 8, value - 8, value + 8, value + 8])
    assert list(place(encoded[0], (416, 416))) == expected


@pytest.mark.parametrize("size", [(416, 416), (96, 160)])
@pytest.mark.parametrize("side", [16, 80, 300])
def test_centre_on_the_border_of_the_input(size, side):
    """x = width or y = height exactly: the last cell of the row or column."""
    height, width = size
    half = side / 2
    corners = [(0, 0), (width, 0), (0, height), (width, height)]
    for x, y in corners:
        row = rows_of([x - half, y - half, x + half, y + half], size=size)[0]
        scale, gy, gx, _ = place(row, size)
        stride = dict(zip(oracle.SCALES, STRIDES))[scale]
        assert (gy, gx) == (y // stride - (y > 0), x // stride - (x > 0))
        np.testing.assert_allclose(row[2:6], [x / width, y / height, side / width, side / height], rtol=1e-6)


def test_every_cell_and_anchor_can_be_reached():
    """A box of the size of an anchor, in the middle of a cell, belongs to them; cells of an input that is not square."""
    size, numbers = (64, 96), []
    for index, (w, h) in enumerate(ANCHORS):
        scale = 2 - index // 3
        stride = STRIDES[scale]
        for gy in range(size[0] // stride):
            for gx in range(size[1] // stride):
                x, y = (gx + 0.5) * stride, (gy + 0.5) * stride
                row = rows_of([x - w / 2, y - h / 2, x + w / 2, y + h / 2], size=size)[0]
                assert place(row, size) == (oracle.SCALES[scale], gy, gx, index % 3)
                numbers.append(3 * row[0] + row[1])
    assert sorted(numbers) == list(range(3 * (6 + 24 + 96)))


def test_collision():
    """Of boxes on one cell and anchor the last one counts, with the classes of all; the others stay without a cell."""
    boxes = [[10, 10, 26, 26], [100, 100, 116, 116], [11, 10, 27, 26], [12, 10, 28, 26]]
    rows = rows_of(boxes, [0, 1, 0, 2])
    assert (rows[:4, 0] >= 0).tolist() == [False, True, False, True]
    assert rows[3, FIELDS:].tolist() == [1, 0, 1] and rows[1, FIELDS:].tolist() == [0, 1, 0]
    np.testing.assert_allclose(rows[:4, 2] * 416, [18, 108, 19, 20], rtol=1e-6)
    assert rows[:4, 6].tolist() == [1, 1, 1, 1]
    # The same box twice, and a box with another anchor on the same cell.
    rows = rows_of([[10, 10, 26, 26], [10, 10, 26, 26], [2, 10, 34, 26]], [1, 1, 0])
    assert (rows[:3, 0] >= 0).tolist() == [False, True, True]
    assert rows[1, FIELDS:].tolist() == [0, 1, 0]


def test_collision_of_smoothed_classes():
    rows = rows_of([[10, 10, 26, 26], [11, 10, 27, 26]], [0, 2], smoothing=0.2)
    np.testing.assert_allclose(rows[1, FIELDS:], [0.8, 0.1, 0.8], rtol=1e-6)


def test_more_boxes_than_rows():
    """The first ones count, and one that does not count cannot take a cell away."""
    boxes = [[10, 10, 26, 26], [100, 100, 116, 116], [10, 10, 26, 26]]
    rows = rows_of(boxes, [0, 1, 2], max_box=2, weights=np.array([0.5, 0.25, 1]))
    np.testing.assert_array_equal(rows, rows_of(boxes[:2], [0, 1], max_box=2, weights=np.array([0.5, 0.25])))
    assert rows.shape == (2, FIELDS + 3) and (rows[:, 0] >= 0).all()


@pytest.mark.parametrize(
    ("num_classes", "smoothing", "expected"),
    [(3, 0.0, [0, 1, 0]), (3, 0.1, [0.05, 0.9, 0.05]), (2, 0.3, [0.3, 0.7]), (5, 1.0, [0.25, 0, 0.25, 0.25, 0.25])],
)
def test_smoothing(num_classes, smoothing, expected):
    """1 - f for the class, f / (C - 1) for the others: as in the reference's targets."""
    row = rows_of([10, 10, 26, 26], [1], num_classes=num_classes, smoothing=smoothing)[0]
    np.testing.assert_allclose(row[FIELDS:], expected, atol=1e-7)


def test_one_class_is_not_smoothed():
    assert rows_of([10, 10, 26, 26], [0], num_classes=1, smoothing=0.1)[0, FIELDS:].tolist() == [1]


def test_smoothed_targets_of_the_reference():
    case = oracle.CASES["label_smooth"]
    arrays, size = oracle.yolo_arrays(case), tuple(case["input_hw"])
    for image in range(case["batch"]):
        boxes = oracle.boxes_of(case, image)
        rows = rows_of(boxes[:, :4], boxes[:, 4].astype(int), size, num_classes=5, smoothing=0.1)
        for row in rows[rows[:, 0] >= 0]:
            scale, gy, gx, anchor = place(row, size)
            np.testing.assert_allclose(row[FIELDS:], arrays[f"{scale}_y_true"][image, gy, gx, anchor, 5:], atol=1e-6)


def test_weights():
    rows = rows_of([[10, 10, 26, 26], [100, 100, 116, 116]], [0, 1], weights=np.array([0.25, 1.0]))
    assert rows[:2, 6].tolist() == [0.25, 1] and not rows[2:, 6].any()


@pytest.mark.parametrize("boxes", [np.zeros((0, 4)), [], np.zeros((0, 4), np.float32)])
def test_no_boxes(boxes):
    rows = encode(boxes, np.zeros(0, int), (96, 160), anchors=ANCHORS, num_classes=3, max_box=4)
    assert rows.shape == (4, FIELDS + 3) and (rows[:, 0] == -1).all() and not rows[:, 1:].any()


def test_box_of_the_whole_input():
    assert rows_of([0, 0, 416, 416], [2], max_box=1)[0].tolist() == [84, 2, 0.5, 0.5, 1, 1, 1, 0, 0, 1]


def test_inputs_stay_as_they_are():
    boxes = np.array([[10, 10, 26, 26], [11, 10, 27, 26]], np.float32)
    before = boxes.copy()
    encode(boxes, np.array([0, 1]), (416, 416), anchors=ANCHORS, num_classes=2, max_box=5)
    np.testing.assert_array_equal(boxes, before)
