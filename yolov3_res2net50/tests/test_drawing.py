"""Boxes and labels on pictures: where they are, that they can be read, and that nothing crashes on odd input."""

from __future__ import annotations

import itertools

from src.detect import drawing
from src.detect.drawing import class_color, draw_boxes

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_images

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


@pytest.mark.parametrize("side, width", [(32, 1), (416, 1), (640, 2), (2000, 7)])
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


@pytest.mark.parametrize(
    "box", [[0, 0, 50, 40], [150, 0, 200, 30], [190, 90, 200, 100], [-40, -20, 500, 300], [3, 3, 6, 6]]
)
def test_label_stays_inside_the_picture(box):
    label = label_of("label", 2, (100, 200))
    result = draw_boxes(plain(100, 200), [box], ["label"], [2])
    places = np.lib.stride_tricks.sliding_window_view(result, label.shape)[:, :, 0]
    assert (places == label).all(axis=(2, 3, 4)).sum() == 1


def test_every_label_lies_above_every_box_and_the_first_on_top():
    boxes = [[20, 40, 120, 90], [20, 40, 120, 90], [10, 10, 150, 95]]
    result = draw_boxes(plain(100, 200), boxes, ["a", "b", ""], [0, 1, 2])
    assert tuple(result[60, 20]) == class_color(0) and tuple(result[39, 20]) == class_color(0)


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (200, 3), (8, 8), (32, 32)])
def test_small_pictures(shape):
    digit = np.kron(load_digits().images[5], np.ones((25, 25))).astype(np.uint8)[: shape[0], : shape[1]]
    picture = np.stack([digit] * 3, axis=2)
    result = draw_boxes(picture, [[0, 0, shape[1], shape[0]]], ["digit 5 0.99"], [5])
    assert result.shape == (*shape, 3) and result.dtype == np.uint8 and drawn(picture, result).any()


@pytest.mark.parametrize(
    "label", ["größe", "日本語", "кошка", "two\nlines", "\t", "caf\udce9", "e\u0301", "a" * 500, "🐕"]
)
@pytest.mark.parametrize("fonts", [drawing.SYSTEM_FONTS, ("no such font.ttf",)])
def test_any_text_is_drawn(label, fonts, monkeypatch):
    monkeypatch.setattr(drawing, "SYSTEM_FONTS", fonts)
    drawing._system_font.cache_clear()
    result = draw_boxes(plain(60, 100), [[10, 20, 60, 50]], [label], [1])
    drawing._system_font.cache_clear()
    assert result.shape == (60, 100, 3)


def test_accents_are_dropped_where_no_font_has_them(monkeypatch):
    monkeypatch.setattr(drawing, "SYSTEM_FONTS", ())
    drawing._system_font.cache_clear()
    accents, plain_letters = (draw_boxes(plain(60, 100), [[10, 20, 60, 50]], [t], [1]) for t in ("café", "cafe"))
    drawing._system_font.cache_clear()
    np.testing.assert_array_equal(accents, plain_letters)


def test_odd_boxes():
    picture = plain(50, 60)
    boxes = [
        [30, 30, 30, 30],
        [40, 40, 20, 20],
        [70, 60, 90, 80],
        [-9, -9, -5, -5],
        [np.nan, 0, np.inf, 10],
        [1e30] * 4,
    ]
    assert drawn(picture, draw_boxes(picture, np.array(boxes), [""] * 6, range(6))).any()


def test_nothing_found_is_the_same_picture():
    picture = load_sample_images().images[1]
    result = draw_boxes(picture, np.zeros((0, 4), np.float32), [], np.zeros(0, np.int32))
    np.testing.assert_array_equal(result, picture)
    assert not np.shares_memory(result, picture)


def test_read_only_and_strided_pictures():
    picture = load_sample_images().images[0][::2, ::-2]
    picture.flags.writeable = False
    assert draw_boxes(picture, [[5, 5, 50, 50]], ["x"], [0]).shape == picture.shape


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
    "picture, boxes, labels, classes",
    [
        (np.zeros((9, 9), np.uint8), [], [], []),
        (np.zeros((9, 9, 3), np.float32), [], [], []),
        (np.zeros((9, 9, 4), np.uint8), [], [], []),
        (np.zeros((9, 9, 3), np.uint8), [[0, 0, 5, 5]], [], [0]),
        (np.zeros((9, 9, 3), np.uint8), [[0, 0, 5, 5]], ["a"], []),
    ],
)
def test_wrong_arguments_are_refused(picture, boxes, labels, classes):
    with pytest.raises(ValueError, match="accepted|equal numbers"):
        draw_boxes(picture, boxes, labels, classes)
