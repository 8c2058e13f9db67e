"""Tests of src/data/visualize.py: the pictures are the batches, and the boxes on them are those of the targets."""

from __future__ import annotations

import json
from pathlib import Path

from src.data.visualize import MARGIN, contact_sheet, decode_targets, to_picture, write_batches
from src.dataset import create_dataset, input_spec
from src.model_utils.device_adapter import Device
from src.recipe import read_config

import numpy as np
import pytest
from PIL import Image

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


@pytest.mark.parametrize("changes", [{}, {"mosaic": 1}, {"training_shape": "96,224"}])
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
    images, targets = next(
        create_dataset(config, "train", ONE, NAMES).create_tuple_iterator(num_epochs=1, output_numpy=True)
    )
    sheet = np.asarray(Image.open(written[0]))
    height, width = images.shape[2:]
    assert sheet.shape == (2 * (height + 2 * MARGIN), 4 * (width + 2 * MARGIN), 3)
    spec = input_spec(config)
    picture = to_picture(images[5], spec["mean"], spec["std"])
    top, left = height + 3 * MARGIN, width + 3 * MARGIN
    drawn = sheet[top : top + height, left : left + width]
    same = (drawn == picture).all(axis=2)
    assert 0.5 < same.mean() < 1  # the boxes and labels differ
    boxes, _ = decode_targets(targets[5], (height, width))
    assert len(boxes) >= 1
    rows, columns = np.nonzero(~same)
    assert rows.min() >= boxes[:, 1].min() - 30 and columns.max() <= boxes[:, 2].max() + 60
    assert [path.name for path in write_batches(config, Device("CPU", 0, 1, 2), NAMES, tmp_path, 1)] == [
        "batch_1_1.png"
    ]


def test_target_rows_become_boxes():
    target = np.zeros((4, 10), np.float32)
    target[:, 0] = -1
    target[0] = [5, 1, 0.5, 0.25, 0.2, 0.1, 1, 0, 0, 1]
    target[1] = [-1, 2, 0.1, 0.9, 0.1, 0.2, 0.4, 0, 1, 0]  # shares its cell with another one
    boxes, classes = decode_targets(target, (100, 200))
    np.testing.assert_allclose(boxes, [[80, 20, 120, 30], [10, 80, 30, 100]], rtol=1e-5)
    assert classes.tolist() == [2, 1]


def test_sheet_of_a_few_pictures():
    sheet = contact_sheet([np.zeros((10, 20, 3), np.uint8)] * 2)
    assert sheet.shape == (18, 56, 3) and (sheet == 0).all(axis=2).sum() == 400
