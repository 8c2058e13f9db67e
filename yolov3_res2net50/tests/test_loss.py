"""Target rows, and the loss and the decoding against float64: stored values of each scale, a slow reference of all."""

import oracle
from src.data.targets import FIELDS, encode
from src.loss import YoloLoss
from src.yolo import ANCHORS, STRIDES, Decode, scales

import mindspore as ms
import numpy as np
import pytest

LOSS_TOLERANCE = 1e-5
EAGER, GRAPH = ms.PYNATIVE_MODE, ms.GRAPH_MODE
PARTS = [(case["name"], scale) for case in oracle.YOLO["cases"] for scale in case["scales"]]
IMAGES = [(case["name"], image) for case in oracle.YOLO["cases"] for image in range(case["batch"])]
WHOLE = [case["name"] for case in oracle.YOLO["cases"] if len(case["scales"]) == 3]


@pytest.fixture(autouse=True)
def mode(request):
    """Operator by operator unless a test asks for the graph, as training has it, whose compilation takes seconds."""
    before = ms.get_context("mode")
    ms.set_context(mode=getattr(request, "param", EAGER))
    yield
    ms.set_context(mode=before)


def differentiated(loss, number: int):
    """Function from target rows and `number` maps to the loss and its gradient by each map."""

    def forward(targets, *raw):
        return loss(raw, targets)

    return ms.value_and_grad(forward, tuple(range(1, number + 1)))


def loss_and_gradients(loss, maps, rows, function=None) -> tuple[float, list[np.ndarray]]:
    """The loss of maps and target rows, and its gradient by each map; `function` is one of `differentiated`."""
    function = function or differentiated(loss, len(maps))
    value, gradients = function(ms.Tensor(rows), *(ms.Tensor(raw) for raw in maps))
    gradients = [gradients] if len(maps) == 1 else gradients
    assert value.shape == () and value.dtype == ms.float32
    return float(value.asnumpy()), [gradient.asnumpy() for gradient in gradients]


def rows_of(boxes, classes=None, size=(416, 416), num_classes: int = 3, **options) -> np.ndarray:
    boxes = np.reshape(boxes, (-1, 4))
    classes = np.asarray(np.zeros(len(boxes)) if classes is None else classes, int)
    return encode(boxes, classes, size, **{"anchors": ANCHORS, "num_classes": num_classes, "max_box": 50, **options})


# stored values, one scale at a time


def rows_of_scale(targets: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Target rows of one scale from the reference's dense targets (B, h, w, 3, 5 + C); its boxes have rows without a cell."""
    batch, _, w, _, fields = targets.shape
    rows = np.zeros((batch, targets[..., 4].reshape((batch, -1)).sum(1).max().astype(int) + 50, fields + 2), np.float32)
    rows[..., 0] = -1
    for image in range(batch):
        cells = np.argwhere(targets[image, ..., 4])
        for row, (gy, gx, anchor) in zip(rows[image], cells):
            values = targets[image, gy, gx, anchor]
            row[:] = [gy * w + gx, anchor, *values[:4], 1, *values[5:]]
        rows[image, len(cells) : len(cells) + 50, 2:6] = boxes[image]
    return rows


@pytest.mark.parametrize(("name", "scale"), PARTS)
def test_loss_and_decoding_of_each_scale(name, scale):
    case = oracle.CASES[name]
    arrays, expected, index = oracle.yolo_arrays(case), case["scales"][scale], oracle.SCALES.index(scale)
    own = scales(oracle.YOLO["anchors_wh"])[index]
    rows = rows_of_scale(arrays[f"{scale}_y_true"], arrays[f"{scale}_gt"])
    loss = YoloLoss([own], case["ignore_threshold"])
    value, (gradient,) = loss_and_gradients(loss, [arrays[f"{scale}_raw"]], rows)
    assert value == pytest.approx(expected["loss"]["total"], rel=LOSS_TOLERANCE)
    decoded = Decode(*own)(ms.Tensor(arrays[f"{scale}_raw"])).asnumpy()
    assert decoded.dtype == np.float32
    for kind, result in (("grad", gradient), ("decode", decoded)):
        oracle.check_statistics(result, expected[kind], f"{name} {scale} {kind}")
        if f"{scale}_{kind}" in arrays:
            assert oracle.relative_error(result, arrays[f"{scale}_{kind}"]) <= 1e-5


# all scales together


def cross_entropy(logit: float, target: float) -> float:
    return np.logaddexp(0.0, logit) - logit * target


def overlap(box, boxes) -> float:
    """Largest IoU of one box x, y, w, h with several."""
    best = 0.0
    for other in boxes:
        sides = [
            min(box[i] + box[i + 2] / 2, other[i] + other[i + 2] / 2)
            - max(box[i] - box[i + 2] / 2, other[i] - other[i + 2] / 2)
            for i in (0, 1)
        ]
        common = max(sides[0], 0.0) * max(sides[1], 0.0)
        best = max(best, common / (box[2] * box[3] + other[2] * other[3] - common))
    return best


def reference(maps, rows, threshold: float = 0.7) -> float:
    """The loss in float64, prediction by prediction."""
    total = sum(of_prediction(*arguments, threshold) for _, _, arguments in predictions(maps, rows))
    return total / len(rows)


def predictions(maps, rows):
    """Of each prediction the index of its map, where in that it begins, and what `of_prediction` wants of it."""
    for image, targets in enumerate(np.asarray(rows, np.float64)):
        boxes = [row[2:6] for row in targets if row[4] > 0]
        own = {(int(row[0]), int(row[1])): row for row in targets if row[0] >= 0}
        first_cell = 0
        for index, (raw, anchors, stride) in enumerate(zip(maps, np.reshape(ANCHORS, (3, 3, 2))[::-1], STRIDES)):
            _, channels, h, w = raw.shape
            values = np.asarray(raw[image], np.float64).reshape((3, channels // 3, h, w))
            for anchor, gy, gx in np.ndindex(3, h, w):
                row = own.get((first_cell + gy * w + gx, anchor))
                size = anchors[anchor] / (stride * np.array([w, h]))
                arguments = (values[anchor, :, gy, gx], row, (gx, gy, w, h), size, boxes)
                yield index, (image, anchor * (channels // 3), gy, gx), arguments
            first_cell += h * w


def of_prediction(values, row, place, size, boxes, threshold) -> float:
    """What one prediction adds: x, y, w, h, objectness, classes; its row of the targets, if it has an object."""
    gx, gy, w, h = place
    if row is None:
        x, y = 1 / (1 + np.exp(-values[:2]))
        box = [(x + gx) / w, (y + gy) / h, *(size * np.exp(values[2:4]))]
        return cross_entropy(values[4], 0.0) if overlap(box, boxes) < threshold else 0.0
    position = cross_entropy(values[0], row[2] * w - gx) + cross_entropy(values[1], row[3] * h - gy)
    position += 0.5 * ((np.log(row[4:6] / size) - values[2:4]) ** 2).sum()
    classes = sum(cross_entropy(value, target) for value, target in zip(values[5:], row[FIELDS:]))
    return row[6] * ((2 - row[4] * row[5]) * position + cross_entropy(values[4], 1.0) + classes)


def of_case(name: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Raw maps and target rows of a case."""
    case = oracle.CASES[name]
    arrays, rows = oracle.yolo_arrays(case), []
    for boxes in (oracle.boxes_of(case, image) for image in range(case["batch"])):
        smoothing = case["label_smooth"]
        rows.append(rows_of(boxes[:, :4], boxes[:, 4], case["input_hw"], case["num_classes"], smoothing=smoothing))
    return [arrays[f"{scale}_raw"] for scale in oracle.SCALES], np.stack(rows)


def random_maps(size, num_classes: int, batch: int = 1, seed: int = 0) -> list[np.ndarray]:
    state, channels = np.random.RandomState(seed), 3 * (5 + num_classes)
    shapes = [(batch, channels, size[0] // stride, size[1] // stride) for stride in STRIDES]
    return [state.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize(
    ("mode", "name"), [(GRAPH if name == "three_scales" else EAGER, name) for name in WHOLE], indirect=["mode"]
)
def test_all_scales(mode, name):
    """Smoothed classes, inputs that are not square, and no objects are among the cases."""
    maps, rows = of_case(name)
    value, gradients = loss_and_gradients(YoloLoss(scales(ANCHORS)), maps, rows)
    assert value == pytest.approx(reference(maps, rows), rel=LOSS_TOLERANCE)
    assert [gradient.shape for gradient in gradients] == [raw.shape for raw in maps]


@pytest.mark.parametrize("name", ["three_scales", "non_square"])
def test_gradient_of_all_scales(name):
    """Against differences of the reference, each of whose terms depends on one prediction: all objects, some background."""
    maps, rows = of_case(name)
    _, gradients = loss_and_gradients(YoloLoss(scales(ANCHORS)), maps, rows)
    random, step, objects = np.random.RandomState(1), 1e-5, 0
    for index, (image, channel, gy, gx), (values, row, *place) in predictions(maps, rows):
        if row is None and random.uniform() > 0.02:
            continue
        objects += row is not None
        found = gradients[index][image, channel : channel + len(values), gy, gx]
        for field, gradient in enumerate(found):
            change = step * (np.arange(len(values)) == field)
            lower, upper = (of_prediction(values + sign * change, row, *place, 0.7) for sign in (-1, 1))
            difference = (upper - lower) / (2 * step) / len(rows)
            assert abs(gradient - difference) <= 1e-5 * np.abs(gradients[index]).max() + 1e-7, (index, gy, gx, field)
    assert objects > 6


def test_weighted_objects():
    """The weights of mixed images scale what an object adds, its objectness too; 1 changes nothing."""
    size, maps = (64, 96), random_maps((64, 96), 3, batch=2)
    boxes, classes = [[10, 10, 26, 26], [40, 8, 90, 60], [0, 0, 30, 50], [60, 30, 70, 52]], [0, 1, 2, 2]

    def value(*options):
        rows = np.stack([rows_of(boxes, classes, size, **each) for each in options])
        result, _ = loss_and_gradients(YoloLoss(scales(ANCHORS)), maps, rows)
        assert result == pytest.approx(reference(maps, rows), rel=LOSS_TOLERANCE)
        return result

    full, half, parts = ({"weights": np.array(weights)} for weights in ([1] * 4, [0.5] * 4, [0.3, 0.3, 0.7, 0.7]))
    assert value(full, full) == value({}, {}) > value(full, parts) > value(half, half)


@pytest.mark.parametrize(
    ("size", "boxes"),
    [((64, 64), [[10, 10, 26, 26], [11, 10, 27, 26]])]  # on one cell and anchor: one object, both in the overlap
    # Of the whole input, with the weight 1; a centre on the border of the input belongs to the last cell.
    + [((h, w), [[0, 0, w, h], [w - 10, h - 10, w + 10, h + 10]]) for h, w in ((64, 64), (32, 96))],
)
def test_boxes_on_one_cell_and_of_the_whole_input(size, boxes):
    maps, rows = random_maps(size, 3), rows_of(boxes, [0, 2], size)[None]
    value, _ = loss_and_gradients(YoloLoss(scales(ANCHORS)), maps, rows)
    assert value == pytest.approx(reference(maps, rows), rel=LOSS_TOLERANCE)


def test_perfect_prediction_costs_nothing():
    size, maps = (64, 64), random_maps((64, 64), 2)
    for raw in maps:
        raw[:, [4, 11, 18]] = -40
    w, h = ANCHORS[1]
    maps[2][0, 7:14, 3, 5] = [0, 0, 0, 0, 40, -40, 40]
    rows = rows_of([44 - w / 2, 28 - h / 2, 44 + w / 2, 28 + h / 2], [1], size, 2)[None]
    value, gradients = loss_and_gradients(YoloLoss(scales(ANCHORS)), maps, rows)
    # What is left is the entropy of the centre's position in its cell.
    assert value == pytest.approx((2 - w * h / 64**2) * 2 * np.log(2), rel=1e-6)
    assert all(np.abs(gradient).max() < 1e-6 for gradient in gradients)


@pytest.mark.parametrize(("threshold", "is_punished"), [(0.7, False), (1.0, True)])
def test_objects_of_other_scales_are_seen(threshold, is_punished):
    """A prediction of medium that overlaps an object of small is no background."""
    size, maps = (64, 64), random_maps((64, 64), 2)
    w, h = ANCHORS[1]
    rows = rows_of([44 - w / 2, 28 - h / 2, 44 + w / 2, 28 + h / 2], [1], size, 2)[None]
    assert rows[0, 0, 0] == 4 + 16 + 3 * 8 + 5
    # Anchor 0 of medium is 30 x 61; x = 2.75, y = 1.75 cells of 16 pixels; 97 % of the width.
    maps[1][0, 0:5, 1, 2] = [np.log(3), np.log(3), np.log(0.97 * w / 30), np.log(h / 61), 1.0]
    _, gradients = loss_and_gradients(YoloLoss(scales(ANCHORS), threshold), maps, rows)
    assert gradients[1][0, 4, 1, 2] == (pytest.approx(1 / (1 + np.exp(-1)), rel=1e-5) if is_punished else 0)


@pytest.mark.parametrize(("mode", "magnitude"), [(EAGER, 60.0), (GRAPH, 1e5)], indirect=["mode"])
def test_extreme_values_stay_finite(mode, magnitude):
    maps = [raw * np.float32(magnitude) for raw in random_maps((64, 64), 2)]
    for boxes in ([[2, 2, 60, 62], [10, 10, 26, 26], [0, 0, 64, 64]], []):
        rows = rows_of(boxes, [0, 1, 0][: len(boxes)], (64, 64), 2)[None]
        value, gradients = loss_and_gradients(YoloLoss(scales(ANCHORS)), maps, rows)
        assert np.isfinite(value) and all(np.isfinite(gradient).all() for gradient in gradients)
        if magnitude == 60:
            assert value == pytest.approx(reference(maps, rows), rel=LOSS_TOLERANCE)


@pytest.mark.parametrize("mode", [GRAPH], indirect=True)
def test_size_may_change_between_calls(mode):
    """One loss serves all sizes of a multi-scale training."""
    loss = YoloLoss(scales(ANCHORS))
    function = differentiated(loss, 3)
    for size in ((64, 64), (32, 96), (64, 64)):
        maps = random_maps(size, 2)
        rows = rows_of([4, 4, 20, 24], [1], size, 2)[None]
        value, _ = loss_and_gradients(loss, maps, rows, function)
        assert value == pytest.approx(reference(maps, rows), rel=LOSS_TOLERANCE)


# target rows


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
    rows = rows_of(boxes[:, :4], boxes[:, 4], size, case["num_classes"], smoothing=case["label_smooth"])
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


@pytest.mark.parametrize("row", oracle.YOLO["cell_border"]["rows"], ids=lambda row: str(row[0]))
def test_centre_on_a_cell_border(row):
    """It belongs to the cell that begins there."""
    value, expected, _ = row
    encoded = rows_of([value - 8, value - 8, value + 8, value + 8])
    assert list(place(encoded[0], (416, 416))) == expected


@pytest.mark.parametrize("side", [16, 300])
def test_centre_on_the_border_of_the_input(side):
    """x = width or y = height exactly: the last cell of the row or column."""
    for x, y in ((0, 0), (160, 0), (0, 96), (160, 96)):
        row = rows_of(np.array([x, y, x, y]) + side / 2 * np.array([-1, -1, 1, 1]), size=(96, 160))[0]
        scale, gy, gx, _ = place(row, (96, 160))
        stride = STRIDES[oracle.SCALES.index(scale)]
        assert (gy, gx) == (y // stride - (y > 0), x // stride - (x > 0))
        np.testing.assert_allclose(row[2:6], [x / 160, y / 96, side / 160, side / 96], rtol=1e-6)


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
    """The first ones count with their weights, and one that does not count cannot take a cell away."""
    boxes = np.array([[10, 10, 26, 26], [100, 100, 116, 116], [10, 10, 26, 26]], np.float32)
    before, weights = boxes.copy(), np.array([0.5, 0.25, 1])
    rows = rows_of(boxes, [0, 1, 2], max_box=2, weights=weights)
    np.testing.assert_array_equal(rows, rows_of(boxes[:2], [0, 1], max_box=2, weights=weights[:2]))
    np.testing.assert_array_equal(boxes, before)
    assert rows.shape == (2, FIELDS + 3) and (rows[:, 0] >= 0).all() and rows[:, 6].tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    ("smoothing", "expected"),
    [(0.0, [0, 1, 0]), (0.1, [0.05, 0.9, 0.05]), (0.3, [0.3, 0.7]), (1.0, [0.25, 0, 0.25, 0.25, 0.25]), (0.1, [1])],
)
def test_smoothing(smoothing, expected):
    """1 - f for the class, f / (C - 1) for the others; one class has no others."""
    row = rows_of([10, 10, 26, 26], [min(1, len(expected) - 1)], num_classes=len(expected), smoothing=smoothing)[0]
    np.testing.assert_allclose(row[FIELDS:], expected, atol=1e-7)


def test_smoothed_targets_of_the_reference():
    case = oracle.CASES["label_smooth"]
    arrays, size = oracle.yolo_arrays(case), tuple(case["input_hw"])
    for image in range(case["batch"]):
        boxes = oracle.boxes_of(case, image)
        rows = rows_of(boxes[:, :4], boxes[:, 4], size, num_classes=5, smoothing=0.1)
        for row in rows[rows[:, 0] >= 0]:
            scale, gy, gx, anchor = place(row, size)
            np.testing.assert_allclose(row[FIELDS:], arrays[f"{scale}_y_true"][image, gy, gx, anchor, 5:], atol=1e-6)


def test_no_box_and_a_box_of_the_whole_input():
    rows = rows_of([], size=(96, 160), max_box=4)
    assert rows.shape == (4, FIELDS + 3) and (rows[:, 0] == -1).all() and not rows[:, 1:].any()
    assert rows_of([0, 0, 416, 416], [2], max_box=1)[0].tolist() == [84, 2, 0.5, 0.5, 1, 1, 1, 0, 0, 1]
