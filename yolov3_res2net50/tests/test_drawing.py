"""Boxes and labels on pictures: where they lie, that they can be read, odd input; and the pictures of training batches."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from src.data.visualize import MARGIN, contact_sheet, decode_targets, to_picture, write_batches
from src.dataset import create_dataset, input_spec
from src.detect import drawing
from src.detect.drawing import class_color, draw_boxes
from src.model_utils.device_adapter import Device
from src.recipe import read_config

import numpy as np
import pytest
from PIL import Image

GREY = 90


def plain(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def drawn(picture: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Where a picture was changed (H, W)."""
    return (picture != result).any(axis=2)


def test_lines_cover_the_outer_pixels_of_the_box():
    picture = plain(100, 200)
    result = draw_boxes(picture, np.array([[20, 30, 60, 80]], np.float32), [""], [3])
    expected = np.zeros((100, 200), bool)
    expected[30:80, 20:60] = True
    expected[31:79, 21:59] = False  # one pixel wide on a picture of this size
    np.testing.assert_array_equal(drawn(picture, result), expected)
    assert (result[expected] == class_color(3)).all() and (picture == GREY).all()


@pytest.mark.parametrize("side, width", [(32, 1), (2000, 7)])
def test_lines_grow_with_the_picture(side, width):
    result = draw_boxes(plain(side, side), [[0, 0, side, side]], [""], [0])
    assert (result[side // 2] == class_color(0)).all(axis=1).sum() == 2 * width


def label_of(label: str, index: int, shape: tuple[int, int]) -> np.ndarray:
    """The label as it is drawn above a box that has room."""
    boxed = [[20, 60, 180, 90]]
    changed = drawn(draw_boxes(plain(*shape), boxed, [""], [index]), draw_boxes(plain(*shape), boxed, [label], [index]))
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert rows[-1] == 59 and columns[0] == 20 and changed[rows[0] : 60, 20 : columns[-1] + 1].all()
    return draw_boxes(plain(*shape), boxed, [label], [index])[rows[0] : 60, 20 : columns[-1] + 1]


def test_label_shows_its_text_whole():
    label = label_of("temple 0.93", 0, (427, 640))
    ground, text = (label == class_color(0)).all(axis=2), (label == 255).all(axis=2)
    assert 12 <= len(label) <= 24 and ground.mean() > 0.5 and text.mean() > 0.03
    assert all(edge.all() for edge in (ground[0], ground[-1], ground[:, 0], ground[:, -1]))  # no letter is cut


@pytest.mark.parametrize("box", [[0, 0, 50, 40], [190, 90, 200, 100], [-40, -20, 500, 300]])
def test_label_stays_inside_the_picture(box):
    label = label_of("label", 2, (100, 200))
    result = draw_boxes(plain(100, 200), [box], ["label"], [2])
    places = np.lib.stride_tricks.sliding_window_view(result, label.shape)[:, :, 0]
    assert (places == label).all(axis=(2, 3, 4)).sum() == 1


def test_every_label_lies_above_every_box_and_the_first_on_top():
    boxes = [[20, 40, 120, 90], [20, 40, 120, 90], [10, 10, 150, 95]]
    result = draw_boxes(plain(100, 200), boxes, ["a", "b", ""], [0, 1, 2])
    assert tuple(result[60, 20]) == class_color(0) and tuple(result[39, 20]) == class_color(0)


@pytest.mark.parametrize("fonts", [drawing.SYSTEM_FONTS, ("no such font.ttf",)])
def test_any_text_is_drawn_on_any_picture(fonts, monkeypatch):
    """Small ones, and one that is read-only and has strides of its own."""
    monkeypatch.setattr(drawing, "SYSTEM_FONTS", fonts)
    drawing._system_font.cache_clear()
    for label in ("größe", "日本語", "two\nlines", "\t", "caf\udce9", "a" * 500, "🐕"):
        for shape in ((1, 1), (3, 200), (200, 3), (60, 100)):
            picture = np.full((*shape[::-1], 3), GREY, np.uint8).transpose(1, 0, 2)
            picture.flags.writeable = False
            result = draw_boxes(picture, [[0, 0, *shape[::-1]]], [label], [1])
            assert result.shape == (*shape, 3) and result.dtype == np.uint8 and drawn(picture, result).any()
    accents, plain_letters = (draw_boxes(plain(60, 100), [[10, 20, 60, 50]], [text], [1]) for text in ("café", "cafe"))
    assert np.array_equal(accents, plain_letters) or fonts is drawing.SYSTEM_FONTS
    drawing._system_font.cache_clear()


def test_odd_boxes():
    picture = plain(50, 60)
    boxes = [[30] * 4, [40, 40, 20, 20], [70, 60, 90, 80], [-9, -9, -5, -5], [np.nan, 0, np.inf, 10], [1e30] * 4]
    assert drawn(picture, draw_boxes(picture, np.array(boxes), [""] * 6, range(6))).any()
    np.testing.assert_array_equal(draw_boxes(picture, np.zeros((0, 4), np.float32), [], np.zeros(0, int)), picture)


def test_colors_of_classes_differ_and_stay():
    colors = [class_color(index) for index in range(91)]
    assert len(set(colors)) == 91 and colors[0] == (255, 13, 13) == class_color(0)
    closest = min(sum(abs(a - b) for a, b in zip(*pair)) for pair in itertools.combinations(colors[:12], 2))
    assert closest > 80
    for color in colors:  # the contrast that WCAG asks of large text
        light = [((v / 255 + 0.055) / 1.055) ** 2.4 if v > 10 else v / 255 / 12.92 for v in color]
        ground = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2]
        contrast = (ground + 0.05) / 0.05 if drawing._text_color(color) == (0, 0, 0) else 1.05 / (ground + 0.05)
        assert contrast > 3, color


@pytest.mark.parametrize(
    "shape, dtype, labels, classes",
    [((9, 9), "uint8", "a", [0]), ((9, 9, 3), "float32", "a", [0]), ((9, 9, 4), "uint8", "a", [0]),
     ((9, 9, 3), "uint8", "", [0]), ((9, 9, 3), "uint8", "a", [])],
)  # fmt: skip
def test_wrong_arguments_are_refused(shape, dtype, labels, classes):
    with pytest.raises(ValueError, match="accepted|equal numbers"):
        draw_boxes(np.zeros(shape, dtype), [[0, 0, 5, 5]], labels, classes)


# ---- Training batches ------------------------------------------------------------------------------------------------

COLOURS = np.array([(230, 20, 20), (20, 230, 20), (20, 20, 230)])
NAMES = ["red", "green", "blue"]
ONE = Device("CPU", 0)


@pytest.fixture(scope="module")
def rectangles(tmp_path_factory) -> Path:
    """A data set of white JPEG files with a coloured rectangle for each box."""
    folder, rng = tmp_path_factory.mktemp("rectangles"), np.random.default_rng(0)
    (folder / "train").mkdir()
    (folder / "annotations").mkdir()
    images, rows = [], []
    for number in range(12):
        height, width = rng.integers(100, 500, 2).tolist()
        picture = np.full((height, width, 3), 255, np.uint8)
        for x in range(0, width - 50, 50):
            for y in range(0, height - 50, 50):
                if rng.random() < 0.25 or (x, y) == (0, 0):
                    (left, top), (w, h) = (rng.integers(2, 16, 2) + (x, y)).tolist(), rng.integers(16, 30, 2).tolist()
                    label = int(rng.integers(3))
                    picture[top : top + h, left : left + w] = COLOURS[label]
                    rows.append({"id": len(rows), "image_id": number, "category_id": label, "bbox": [left, top, w, h]})
        Image.fromarray(picture).save(folder / f"train/{number}.jpg", quality=98, subsampling=0)
        images.append({"id": number, "file_name": f"{number}.jpg", "width": width, "height": height})
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    content = {"images": images, "annotations": rows, "categories": categories}
    (folder / "annotations/instances_train.json").write_text(json.dumps(content))
    return folder


def recipe(folder: Path, **changes):
    options = {"data_dir": folder, "multi_scale": "[128, 192]", "per_batch_size": 6, "num_parallel_workers": 2,
               "device_target": "CPU", "hue": 0, "saturation": 1, "value": 1, **changes}  # fmt: skip
    return read_config([token for key, value in options.items() for token in (f"--{key}", str(value))], "")


@pytest.mark.parametrize("changes", [{}, {"mosaic": 1, "training_shape": "96,224"}])
def test_boxes_of_the_targets_lie_on_their_objects(rectangles, changes):
    """From the JPEG file to the columns that the network gets, decoded again: colours inside the boxes and nowhere else."""
    config = recipe(rectangles, **changes)
    spec, boxes_seen = input_spec(config), 0
    for epoch in range(1, 6):
        data = create_dataset(config, "train", ONE, NAMES, epoch=epoch)
        for images, targets in data.create_tuple_iterator(num_epochs=1, output_numpy=True):
            for image, target in zip(images, targets):
                picture = to_picture(image, spec["mean"], spec["std"]).astype(int)
                boxes, classes = decode_targets(target, picture.shape[:2])
                free = picture.max(axis=2) - picture.min(axis=2) > 120
                for (left, top, right, bottom), label in zip(boxes, classes):
                    rows = slice(int(top + 6), max(0, int(bottom - 5)))
                    inner = picture[rows, int(left + 6) : max(0, int(right - 5))]
                    if inner.size:
                        assert np.abs(inner - COLOURS[label]).mean() < 25
                        boxes_seen += 1
                    free[max(0, int(top - 5)) : int(bottom + 6), max(0, int(left - 5)) : int(right + 6)] = False
                if len(boxes) < 50:  # what is left of objects at the borders may be too narrow for a box
                    assert free[3:-3, 3:-3].mean() < (0.02 if config.mosaic else 1e-9)
    assert boxes_seen > 30


def test_one_sheet_a_batch(rectangles, tmp_path):
    config = recipe(rectangles)
    written = write_batches(config, ONE, NAMES, tmp_path / "new" / "visualized", 5)  # an epoch has two
    assert [path.name for path in written] == ["batch_1.png", "batch_2.png"]
    batches = create_dataset(config, "train", ONE, NAMES).create_tuple_iterator(num_epochs=1, output_numpy=True)
    images, targets = next(batches)
    sheet = np.asarray(Image.open(written[0]))
    height, width = images.shape[2:]
    assert sheet.shape == (2 * (height + 2 * MARGIN), 4 * (width + 2 * MARGIN), 3)
    spec, (top, left) = input_spec(config), (height + 3 * MARGIN, width + 3 * MARGIN)
    picture = to_picture(images[5], spec["mean"], spec["std"])
    same = (sheet[top : top + height, left : left + width] == picture).all(axis=2)
    assert 0.5 < same.mean() < 1  # the boxes and labels differ
    boxes, _ = decode_targets(targets[5], (height, width))
    rows, columns = np.nonzero(~same)
    assert rows.min() >= boxes[:, 1].min() - 30 and columns.max() <= boxes[:, 2].max() + 60
    (path,) = write_batches(config, Device("CPU", 0, 1, 2), NAMES, tmp_path, 1)
    assert path.name == "batch_1_1.png"
    sheet = contact_sheet([np.zeros((10, 20, 3), np.uint8)] * 2)
    assert sheet.shape == (18, 56, 3) and (sheet == 0).all(axis=2).sum() == 400


def test_target_rows_become_boxes():
    target = np.zeros((4, 10), np.float32)
    target[:, 0] = -1
    target[0] = [5, 1, 0.5, 0.25, 0.2, 0.1, 1, 0, 0, 1]
    target[1] = [-1, 2, 0.1, 0.9, 0.1, 0.2, 0.4, 0, 1, 0]  # shares its cell with another one
    boxes, classes = decode_targets(target, (100, 200))
    np.testing.assert_allclose(boxes, [[80, 20, 120, 30], [10, 80, 30, 100]], rtol=1e-5)
    assert classes.tolist() == [2, 1]
