"""Tests of src/data/transforms.py: boxes stay on their objects through every augmentation, and pixels are what they should be."""

from __future__ import annotations

import colorsys
from dataclasses import replace

from src.data.pictures import input_tables, to_input
from src.data.transforms import GREY, Augmentation, Scene, augment, clip, colour_table, mix, paste, recolour, reduction
from src.detect.boxes import Placement, place

import cv2
import numpy as np
import pytest

COLOURS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)])  # of the classes
PLAIN = Augmentation(flip_prob=0, jitter=0, hue=0, saturation=1, value=1)
JITTERED = replace(PLAIN, jitter=0.3)


class Rectangles:
    """Pictures with a rectangle of the class's colour for each box, on a white ground. Also reduces, as JPEG files do."""

    def __init__(self, count: int = 12, reduces: bool = True):
        rng = np.random.default_rng(5)
        self.reduces, self.asked, self.items = reduces, [], []
        for _ in range(count):
            height, width = rng.integers(120, 400, 2).tolist()
            boxes, classes = [], []
            for x in range(0, width - 60, 60):
                for y in range(0, height - 60, 60):
                    if rng.random() < 0.3 or not boxes:
                        left, top = x + rng.integers(4, 20), y + rng.integers(4, 20)
                        boxes.append((left, top, left + rng.integers(16, 36), top + rng.integers(16, 36)))
                        classes.append(rng.integers(3))
            self.items.append(((height, width), np.array(boxes, np.float32), np.array(classes, np.int32)))

    def __len__(self):
        return len(self.items)

    def labels(self, index):
        return self.items[index]

    def decode(self, index, reduce):
        (height, width), boxes, classes = self.items[index]
        picture = np.full((height, width, 3), 255, np.uint8)
        for (left, top, right, bottom), label in zip(boxes.astype(int), classes):
            picture[top:bottom, left:right] = COLOURS[label]
        self.asked.append(reduce)
        if not self.reduces or reduce == 1:
            return picture, 1
        picture = np.pad(picture, ((0, -height % reduce), (0, -width % reduce), (0, 0)), "edge")
        return cv2.resize(picture, None, fx=1 / reduce, fy=1 / reduce, interpolation=cv2.INTER_AREA), reduce


def assert_boxes_hold_their_colours(scene: Scene, whole: bool, margin: int = 5) -> None:
    """Inside each box the class's colour, nothing of a colour outside all boxes; `margin` pixels of interpolation.

    Not `whole`: what a mosaic's windows leave of objects may be too narrow for a box.
    """
    picture = scene.picture.astype(int)
    height, width = picture.shape[:2]
    coloured = picture.max(axis=2) - picture.min(axis=2) > 128
    for (left, top, right, bottom), label in zip(scene.boxes, scene.classes):
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        rows = slice(int(np.ceil(top)) + margin, max(0, int(bottom) - margin))
        inner = picture[rows, int(np.ceil(left)) + margin : max(0, int(right) - margin)]
        assert np.abs(inner - COLOURS[label]).max(initial=0) <= 40
        first_row, first_column = max(0, int(top) - margin), max(0, int(left) - margin)
        coloured[first_row : int(np.ceil(bottom)) + margin, first_column : int(np.ceil(right)) + margin] = False
    if whole:  # but for slivers at the border
        assert not coloured[2:-2, 2:-2].any()
    else:
        assert coloured.mean() < 0.02


@pytest.mark.parametrize("options", [{"flip_prob": 1}, {"jitter": 0.3}, {"jitter": 0.5, "flip_prob": 0.5},
                                     {"jitter": 0.3, "flip_prob": 0.5, "mosaic": 1}])  # fmt: skip
@pytest.mark.parametrize("size", [(96, 224), (320, 128)])
@pytest.mark.parametrize("reduces", [False, True])
def test_boxes_are_where_the_objects_are(options, size, reduces):
    samples = Rectangles(reduces=reduces)
    boxes = 0
    for index in range(len(samples)):
        for seed in range(4):
            chosen = replace(PLAIN, **options)
            scene = augment(samples, index, size, chosen, np.random.default_rng([seed, index]))
            assert scene.picture.shape == (*size, 3) and (scene.weights == 1).all()
            assert len(scene.boxes) == len(scene.classes) == len(scene.weights)
            assert ((scene.boxes[:, 2:] - scene.boxes[:, :2]) > 1).all()
            assert_boxes_hold_their_colours(scene, not chosen.mosaic)
            boxes += len(scene.boxes)
    assert boxes > 48


def test_small_pictures_are_enlarged_exactly():
    """One pixel of the picture becomes many: a box edge is a step at a known place."""
    picture = np.zeros((8, 10, 3), np.uint8)
    picture[2:6, 3:8] = 255
    for where, flip in ((Placement(300, 240, 30, 30, -70, -40), False), (Placement(95, 80, 9.5, 10, 20, 11), True)):
        window = np.full((160, 128, 3), GREY, np.uint8)
        scale, offset = paste(picture, 1, window, where, cv2.INTER_NEAREST, flip)
        left, top, right, bottom = np.array([3, 2, 8, 6]) * np.tile(scale, 2) + np.tile(offset, 2)
        if flip:
            left, right = 128 - right, 128 - left
        rows, columns = (np.flatnonzero((window[..., 0] == 255).any(axis=axis)) for axis in (1, 0))
        found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert np.abs(found - np.clip([left, top, right, bottom], 0, [128, 160] * 2)).max() <= 1
        assert abs(scale[0] / where.scale_x - 1) < 0.03 and abs(scale[1] / where.scale_y - 1) < 0.03


def test_without_jitter_the_picture_lies_as_in_evaluation():
    samples = Rectangles()
    for index in range(len(samples)):
        picture_size, boxes, _ = samples.labels(index)
        where = place(picture_size, (96, 160), True)
        scene = augment(samples, index, (96, 160), PLAIN, np.random.default_rng(0))
        left, top = where.left, where.top
        outside = np.ones((96, 160), bool)
        outside[top : top + where.height, left : left + where.width] = False
        assert (scene.picture[outside] == GREY).all()
        expected, kept = clip(where.to_input(boxes), 160, 96)
        assert len(scene.boxes) == kept.sum()
        np.testing.assert_allclose(scene.boxes, expected, atol=1.0)  # the reduced picture's last pixel may be partial


def test_draws_follow_from_the_generator_alone():
    samples, options = Rectangles(), Augmentation(mosaic=0.5, mixup=0.5)

    def scenes():
        return [augment(samples, index, (160, 160), options, np.random.default_rng([1, index])) for index in range(8)]

    first = scenes()
    np.random.seed(3)
    for one, two in zip(first, scenes()):
        for a, b in zip(one, two):
            np.testing.assert_array_equal(a, b)
    other = augment(samples, 0, (160, 160), options, np.random.default_rng([2, 0]))
    assert not np.array_equal(other.picture, first[0].picture)


def test_jitter_covers_its_range():
    samples, rng = Rectangles(1), np.random.default_rng(0)
    height, width = samples.labels(0)[0]
    samples.items[0] = ((height, width), np.array([[0, 0, width, height]], np.float32), np.zeros(1, np.int32))
    boxes = np.array([augment(samples, 0, (416, 416), JITTERED, rng).boxes[0] for _ in range(400)])
    sides = boxes[:, 2:] - boxes[:, :2]
    inside = (sides < 400).all(axis=1)  # not clipped
    aspect = sides[inside, 0] / sides[inside, 1] / (width / height)
    assert 0.538 - 0.02 < aspect.min() < 0.65 and 1.55 < aspect.max() < 1.858 + 0.05
    assert 0.2 * 416 < sides.max(axis=1).min() < 0.3 * 416 and (sides.max(axis=1) == 416).mean() > 0.4
    assert set(samples.asked) == {1, 2}


def test_an_image_without_a_visible_object_is_shown_whole():
    samples = Rectangles(1)
    size, _, _ = samples.items[0]
    tiny = np.array([[0, 0, 1.5, 1.5]], np.float32)  # too small in every trial at this size
    samples.items[0] = (size, tiny, np.zeros(1, np.int32))
    for seed in range(5):
        scene = augment(samples, 0, (32, 32), JITTERED, np.random.default_rng(seed))
        where = place(size, (32, 32), True)
        assert len(scene.boxes) == 0 and scene.boxes.shape == (0, 4)
        grey = (scene.picture == GREY).all(axis=2)
        assert abs((~grey).sum() - where.width * where.height) <= 32


def test_mixup_blends_pictures_and_weights():
    black = Scene(np.zeros((4, 4, 3), np.uint8), np.ones((2, 4)), np.array([1, 2]), np.ones(2, np.float32))
    white = Scene(np.full((4, 4, 3), 200, np.uint8), np.zeros((1, 4)), np.array([0]), np.ones(1, np.float32))
    mixed = mix(black, white, 0.3)
    assert (mixed.picture == 140).all() and mixed.classes.tolist() == [1, 2, 0]
    np.testing.assert_allclose(mixed.weights, [0.3, 0.3, 0.7], rtol=1e-6)
    samples = Rectangles()
    options = replace(PLAIN, mixup=1)
    shares = []
    for seed in range(200):
        weights = augment(samples, 1, (64, 64), options, np.random.default_rng(seed)).weights
        own = len(augment(samples, 1, (64, 64), PLAIN, np.random.default_rng(seed)).boxes)
        assert len(set(weights[:own])) == 1 and np.allclose(weights[:own], 1 - weights[own:][:1])
        shares.append(float(weights[0]))
    assert abs(np.mean(shares) - 0.5) < 0.05 and abs(np.std(shares) - 0.25) < 0.03  # of Beta(1.5, 1.5)


def test_colours_change_as_in_colorsys():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    changed = recolour(picture, colour_table(0.08, 1.3, 0.8)).astype(int)
    for before, after in zip(picture.reshape(-1, 3) / 255, changed.reshape(-1, 3)):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        expected = colorsys.hsv_to_rgb((hue + 0.08) % 1, min(1, saturation * 1.3), min(1, value * 0.8))
        assert np.abs(np.array(expected) * 255 - after).max() < 8
    same = recolour(picture, colour_table(0, 1, 1)).astype(int)
    assert np.abs(same - picture).max() <= 8 and np.abs(same - picture).mean() < 1.5


def test_colours_of_an_image():
    samples = Rectangles(1)
    options = replace(PLAIN, hue=0.1, saturation=1.5, value=1.5)
    scene, *others = (augment(samples, 0, (96, 96), options, np.random.default_rng(seed)) for seed in range(9))
    assert len({other.picture.tobytes() for other in (scene, *others)}) == 9
    where = place(samples.labels(0)[0], (96, 96), True)
    borders = np.ones((96, 96), bool)
    borders[where.top : where.top + where.height, where.left : where.left + where.width] = False
    assert borders.any() and (scene.picture[borders] == GREY).all()


def test_reduction_never_goes_below_the_resolution_that_is_shown():
    for scale, expected in ((2, 1), (0.51, 1), (0.5, 2), (0.26, 2), (0.25, 4), (0.125, 8), (0.01, 8)):
        assert reduction(Placement(1, 1, scale, scale / 2, 0, 0)) == expected


def test_input_is_normalised():
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = ((picture / 255 - mean) / std).transpose(2, 0, 1)
    result = to_input(picture, input_tables(mean, std))
    assert result.dtype == np.float32 and result.shape == (3, 5, 7)
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)
    batch = np.zeros((2, 3, 5, 7), np.float32)
    to_input(picture, input_tables(mean, std), batch[1])
    np.testing.assert_array_equal(batch[1], result)
