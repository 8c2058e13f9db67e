"""Boxes: placement of pictures, non-maximum suppression against recorded cases, detections against a slow reference."""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path

from src.detect import boxes as module
from src.detect.boxes import Placement, detect, iou, nms, place

import numpy as np
import pytest

DATA = Path(__file__).parent / "data"
SMALL = json.loads((DATA / "nms_small.json").read_text(encoding="utf-8"))["cases"]
ANCHORS = np.array([[10, 13], [16, 30], [33, 23], [30, 61], [62, 45], [59, 119], [116, 90], [156, 198], [373, 326]])
SIZES = [(96, 96), (96, 160), (160, 64), (128, 128), (32, 192)]  # height, width of the network's input
PICTURES = [(120, 200), (301, 97), (64, 64), (33, 480)]  # height, width


@pytest.fixture(params=[False, True], ids=["usual", "tiny pieces"])
def pieces(request, monkeypatch):
    """Candidates are taken in pieces; with tiny ones every border between them is met."""
    if request.param:
        for name, value in {"FIRST": 16, "GROWTH": 2, "BLOCK": 8, "PAIRS": 64}.items():
            monkeypatch.setattr(module, name, value)


def test_iou_by_hand():
    a = np.array([[0, 0, 10, 10], [5, 5, 5, 9]])
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [5, 5, 5, 9]])
    np.testing.assert_allclose(iou(a, b), [[1, 1 / 3, 0, 0], [0, 0, 0, 0]], rtol=1e-15)
    assert iou(a, np.empty((0, 4))).shape == (2, 0)


@pytest.mark.parametrize("case", SMALL, ids=[case["name"] for case in SMALL])
def test_nms_small_cases(case, pieces):
    boxes = np.array(case["boxes"], np.float32).reshape(-1, 4)
    scores, classes = np.array(case["scores"], np.float32), np.array(case["classes"], np.int64)
    for threshold, expected in case["expect"].items():
        for name in ("per_class", "agnostic"):
            for limit in (None, 0, 1, 3):
                kept = nms(boxes, scores, classes, float(threshold), limit=limit, agnostic=name == "agnostic")
                assert kept.tolist() == expected[name][:limit]


@pytest.mark.parametrize(("number", "thresholds"), [(2000, ("0.5", "0.6")), (20000, ("0.5",))])
def test_nms_many_boxes(number, thresholds):
    with np.load(DATA / f"nms_{number}.npz") as recorded:
        recorded = dict(recorded)
    boxes, scores, classes = recorded_boxes(*recorded["rule"].tolist(), recorded["drop"])
    for threshold in thresholds:
        for name in ("per_class", "agnostic"):
            expected = recorded[f"{threshold}_{name}"].astype(np.int64)
            options = {"iou_threshold": float(threshold), "agnostic": name == "agnostic"}
            np.testing.assert_array_equal(nms(boxes, scores, classes, **options), expected)
            np.testing.assert_array_equal(nms(boxes, scores, classes, **options, limit=300), expected[:300])


def recorded_boxes(seed: int, number: int, side: int, kinds: int, clusters: int, dropped: np.ndarray):
    """The boxes of a recorded case: clusters of boxes, scores that all differ, classes; without the rows `dropped`."""
    random = np.random.RandomState(seed)
    centres = random.uniform(0, side, (clusters, 2))
    centres = centres[random.randint(0, clusters, number)] + random.standard_normal((number, 2)) * side * 0.02
    halves = np.exp(random.standard_normal((number, 2)) * 0.4) * side * 0.08 / 2
    boxes = np.concatenate([centres - halves, centres + halves], axis=1).astype(np.float32)
    scores = (random.permutation(number).astype(np.float32) + np.float32(0.5)) / np.float32(number)
    classes = random.randint(0, kinds, number)
    return [np.delete(column, dropped, axis=0) for column in (boxes, scores, classes)]


def test_placement():
    assert place((480, 640), (416, 416), True) == Placement(416, 312, 0.65, 0.65, 0, 52)
    assert place((480, 640), (416, 416), False) == Placement(416, 416, 0.65, 416 / 480, 0, 0)
    placement = place((301, 97), (96, 160), True)
    assert (placement.width, placement.height, placement.left, placement.top) == (31, 96, 64, 0)
    corners = np.array([[0.0, 0, 97, 301]])
    np.testing.assert_allclose(placement.to_input(corners), [[64, 0, 95, 96]], rtol=1e-12)
    np.testing.assert_allclose(placement.to_picture(placement.to_input(corners)), corners, rtol=1e-12)


def network_outputs(random: np.random.RandomState, size: tuple[int, int], classes: int, kind: str) -> list[np.ndarray]:
    """Decoded maps with a few objects that many cells have found, for height and width `size` of the input.

    "objects": high scores around some places; "ties": few different scores, equal boxes; "untrained": all above 0.001.
    """
    maps = []
    height, width = size
    centres = random.uniform(0, 1, (6, 2))
    for scale, stride in enumerate((32, 16, 8)):
        h, w = height // stride, width // stride
        values = np.empty((h, w, 3, 5 + classes))
        grid = np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1)[:, :, None]
        values[..., :2] = (grid + random.uniform(0, 1, (h, w, 3, 2))) / (w, h)
        distances = np.linalg.norm(values[..., None, :2] - centres, axis=-1)  # (h, w, 3, 6)
        near = distances.min(-1) < 0.12
        values[near, :2] = centres[distances.argmin(-1)[near]] + 0.01 * random.standard_normal((near.sum(), 2))
        anchors = ANCHORS[6 - 3 * scale : 9 - 3 * scale] * min(size) / 416
        values[..., 2:4] = np.exp(0.2 * random.standard_normal((h, w, 3, 2))) * anchors / (width, height)
        values[near, 2:4] = np.exp(0.2 * random.standard_normal((near.sum(), 2))) * 0.3
        spread = 0.1 if kind == "untrained" else 2.0
        logits = spread * random.standard_normal((h, w, 3, 1 + classes))
        if kind != "untrained":
            logits += np.where(near, 0.0, -5.0)[..., None]
            logits[..., 1:] -= 2 if kind == "ties" else 6
        values[..., 4:] = 1 / (1 + np.exp(-logits))
        if kind == "ties":
            values[..., 4:] = np.round(values[..., 4:] * 4) / 4
            values[..., :4] = np.round(values[..., :4] * 16) / 16
        maps.append(values.astype(np.float32))
    return maps


def slow_iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (areas[0] + areas[1] - width * height)


def slow_detections(maps, picture, size, keep_ratio, score_threshold, nms_threshold, limit):
    """Boxes, scores and classes by plain loops over float64 numbers, and the number of candidates."""
    candidates = []
    for values in maps:
        for x, y, w, h, objectness, *probabilities in values.reshape(-1, values.shape[-1]).tolist():
            corners = [(x - w / 2) * size[1], (y - h / 2) * size[0], (x + w / 2) * size[1], (y + h / 2) * size[0]]
            for index, probability in enumerate(probabilities):
                if objectness * probability > score_threshold:
                    candidates.append((objectness * probability, index, corners))
    kept = {index: [] for index in range(maps[0].shape[-1] - 5)}
    found = []
    for score, index, corners in sorted(candidates, key=lambda candidate: -candidate[0]):  # a stable sort
        if all(slow_iou(corners, other) <= nms_threshold for other in kept[index]):
            kept[index].append(corners)
            found.append((score, index, corners))
        if len(found) == limit:
            break
    placement, (height, width) = place(picture, size, keep_ratio), picture
    boxes = []
    for _, _, corners in found:
        xs = [min(max((x - placement.left) / placement.scale_x, 0), width) for x in corners[::2]]
        ys = [min(max((y - placement.top) / placement.scale_y, 0), height) for y in corners[1::2]]
        boxes.append([xs[0], ys[0], xs[1], ys[1]])
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    scores = np.array([score for score, _, _ in found], np.float32)
    return boxes, scores, [index for _, index, _ in found], len(candidates)


@functools.cache
def image(number: int):
    """An image: outputs, picture, input, keep_ratio, thresholds and limit, and its slow detections."""
    size, picture, classes = SIZES[number % 5], PICTURES[number % 4], (1, 3, 12)[number % 3]
    kind = ("objects", "ties", "untrained")[number // 2 % 3]
    maps = network_outputs(np.random.RandomState(number), size, classes, kind)
    options = (*((0.001, 0.5), (0.1, 0.45), (0.0, 0.6))[number // 5 % 3], (100, 10, 1000)[number // 3 % 3])
    keep_ratio = number % 2 == 0
    return maps, picture, size, keep_ratio, options, slow_detections(maps, picture, size, keep_ratio, *options)


def test_detections_equal_the_slow_reference(pieces):
    """50 images: clusters, ties, untrained networks; letterbox and plain resize; inputs that are no squares."""
    most = full = 0
    for number in range(50):
        maps, picture, size, keep_ratio, options, (boxes, scores, indices, candidates) = image(number)
        found = detect(maps, place(picture, size, keep_ratio), picture, size, *options)
        np.testing.assert_array_equal(found.boxes, boxes, err_msg=f"image {number}")
        np.testing.assert_array_equal(found.scores, scores)
        assert found.classes.tolist() == indices
        assert found.boxes.dtype == found.scores.dtype == np.float32
        most, full = max(most, candidates), full + (len(scores) == options[-1])
    assert most > 8 * module.FIRST and 10 < full < 40  # several pieces; limits that are reached, and that are not


def test_threshold_is_exclusive_and_every_class_counts():
    maps = [np.zeros((side, side, 3, 7), np.float32) for side in (1, 2, 4)]
    maps[2][1, 2, 0] = [0.5, 0.5, 0.25, 0.5, 0.5, 0.5, 0.75]
    found = detect(maps, place((64, 64), (32, 32), True), (64, 64), (32, 32), 0.25, 0.5, 100)
    assert found.scores.tolist() == [0.375] and found.classes.tolist() == [1]
    assert found.boxes.tolist() == [[24, 16, 40, 48]]
    found = detect(maps, place((64, 64), (32, 32), True), (64, 64), (32, 32), 0.2, 0.5, 100)
    assert found.scores.tolist() == [0.375, 0.25] and found.classes.tolist() == [1, 0]
    found = detect(maps, place((64, 64), (32, 32), True), (64, 64), (32, 32), 0.5, 0.5, 100)
    assert found.boxes.shape == (0, 4) and found.scores.shape == found.classes.shape == (0,)


def test_boxes_end_at_the_border_of_the_picture():
    """Both corners are clipped, also in the grey borders of a letterbox."""
    maps = [np.zeros((side, side, 3, 6), np.float32) for side in (2, 4, 8)]
    maps[0][0, 0, 0] = [0.5, 0.5, 2.0, 2.0, 1, 1]
    maps[0][0, 0, 1] = [0.0, 0.5, 0.5, 0.75, 1, 0.5]
    found = detect(maps, place((50, 100), (64, 64), True), (50, 100), (64, 64), 0.001, 0.5, 100)
    np.testing.assert_array_equal(found.boxes, [[0, 0, 100, 50], [0, 0, 25, 50]])


@pytest.mark.long
@pytest.mark.parametrize(("kind", "milliseconds"), [("objects", 10), ("untrained", 40)])
def test_speed_at_416_pixels_and_80_classes(kind, milliseconds):
    """The quickest of some calls: a busy machine shall not count."""
    maps = network_outputs(np.random.RandomState(0), (416, 416), 80, kind)
    candidates = sum(int((values[..., 4:5] * values[..., 5:] > 0.001).sum()) for values in maps)
    assert candidates == 10647 * 80 if kind == "untrained" else candidates > 5000
    placement, times = place((480, 640), (416, 416), True), []
    for _ in range(15):
        start = time.perf_counter()
        detect(maps, placement, (480, 640), (416, 416), 0.001, 0.5, 100)
        times.append(time.perf_counter() - start)
    assert min(times) <= milliseconds / 1e3
