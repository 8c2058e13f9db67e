"""Tests of src/dataset.py and src/data/batches.py: batches do not depend on threads, devices or history; nothing is lost."""

from __future__ import annotations

import functools
import json
import logging
import shutil
import threading
from pathlib import Path

from src import dataset as pipeline
from src.data.batches import Order
from src.data.pictures import read_picture
from src.data.targets import encode
from src.dataset import (
    check_anchors,
    count_images,
    create_dataset,
    eval_transform,
    find_classes,
    input_spec,
    size_of_step,
    training_sizes,
)
from src.detect.boxes import place
from src.model_utils.config import Config
from src.model_utils.dataset_checks import data_error
from src.model_utils.device_adapter import Device
from src.model_utils.errors import DataError, UsageError
from src.recipe import ALIASES, read_config

import cv2
import numpy as np
import pytest
from PIL import Image

ONE = Device("CPU", 0)
NAMES = "zero one two three four five six seven eight nine".split()


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """A COCO data set of 40 training and 11 held-out images, 96 pixels; two of the training images hold nothing."""
    from coco_digits import write_coco

    folder = tmp_path_factory.mktemp("digits") / "coco"
    write_coco(folder, train=40, val=11, size=96)
    return folder


@functools.cache
def defaults() -> dict:
    """The values of the recipe, which takes a while to read."""
    return read_config(["--device_target", "CPU"], "").to_dict()


def recipe(digits: Path, **changes) -> Config:
    """The recipe with a small data set, as if the command line had given the changes."""
    options = {"data_dir": str(digits), "multi_scale": [64, 96, 128], "per_batch_size": 4, "num_parallel_workers": 2,
               "test_img_shape": [96, 64], **changes}  # fmt: skip
    return Config({**defaults(), **options}, frozenset(options), ALIASES)


def batches(config, split="train", device=ONE, names=NAMES, **progress) -> list[tuple[np.ndarray, ...]]:
    data = create_dataset(config, split, device, names, **progress)
    rows = [tuple(map(np.array, row)) for row in data.create_tuple_iterator(num_epochs=1, output_numpy=True)]
    assert len(rows) == data.get_dataset_size()
    return rows


def assert_same(first: list, second: list) -> None:
    assert len(first) == len(second)
    for one, two in zip(first, second):
        for a, b in zip(one, two):
            np.testing.assert_array_equal(a, b)


def test_classes_and_counts(digits, caplog):
    config = recipe(digits)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert find_classes(config, "train", ONE) == NAMES and find_classes(config, "val", ONE) == NAMES
    assert (count_images(config, "train"), count_images(config, "val")) == (38, 11)
    assert caplog.messages.count("2 of 40 training images have no usable box and are left out") <= 1  # in a process


def test_training_batches(digits):
    config = recipe(digits)
    found = batches(config)
    assert len(found) == 38 // 4
    for step, (image, target) in enumerate(found):
        assert image.shape == (4, 3, *size_of_step(config, step)) and image.dtype == np.float32
        assert target.shape == (4, 50, 17) and target.dtype == np.float32
        assert np.isfinite(image).all() and (target[:, 0, 4] > 0).all()
        used = target[target[..., 4] > 0]
        assert (used[:, 2:6] > 0).all() and (used[:, 2:6] <= 1).all()
        assert (used[:, 7:].sum(axis=1) >= 1).all() and (used[:, 6] == 1).all()


def test_threads_and_opencv_do_not_change_anything(digits):
    cores = cv2.getNumThreads()
    first = batches(recipe(digits, num_parallel_workers=1, mosaic=0.3, mixup=0.3))
    cv2.setNumThreads(cores)
    np.random.seed(1)
    assert_same(first, batches(recipe(digits, num_parallel_workers=3, mosaic=0.3, mixup=0.3)))


def test_an_epoch_continues_from_any_step(digits):
    config = recipe(digits)
    whole = batches(config, epoch=3)
    assert_same(whole[5:], batches(config, epoch=3, skip_steps=5))
    assert not np.array_equal(whole[0][1], batches(config, epoch=2)[0][1])


def test_the_seed_changes_order_sizes_and_augmentation(digits):
    one, two = (batches(recipe(digits, seed=seed, training_shape="96")) for seed in (1, 2))
    assert not np.array_equal(one[0][0], two[0][0])
    sizes = [[size_of_step(recipe(digits, seed=seed), step) for step in range(40)] for seed in (1, 2)]
    assert sizes[0] != sizes[1] and set(sizes[0]) == {(64, 64), (96, 96), (128, 128)}


def test_devices_share_the_images_and_the_sizes(digits):
    config = recipe(digits, per_batch_size=3, flip_prob=0, jitter=0, hue=0, saturation=1, value=1)
    shards = [batches(config, device=Device("CPU", 0, rank, 3)) for rank in range(3)]
    assert [len(shard) for shard in shards] == [38 // 3 // 3] * 3
    for rows in zip(*shards):
        assert len({image.shape for image, _ in rows}) == 1
    for epoch in (1, 2):
        parts = [Order(38, 1, rank, 3, 3).batches(epoch) for rank in range(3)]
        indices = np.concatenate(parts).ravel()
        assert len(set(indices.tolist())) == len(indices) == 36
    assert not np.array_equal(Order(38, 1, 0, 1, 4).batches(1), Order(38, 1, 0, 1, 4).batches(2))
    with pytest.raises(DataError, match="0 steps per epoch"):
        create_dataset(recipe(digits, per_batch_size=39), "train", ONE, NAMES)


def test_augmentation_does_not_depend_on_the_number_of_devices(digits):
    config = recipe(digits, training_shape="64", per_batch_size=1)
    alone = {row[1].tobytes(): row[0] for row in batches(config)}
    for rank in range(2):
        for image, target in batches(config, device=Device("CPU", 0, rank, 2)):
            np.testing.assert_array_equal(alone[target.tobytes()], image)


def test_sizes(digits):
    config = recipe(digits, resize_rate=5)
    sizes = [size_of_step(config, step) for step in range(500)]
    assert all(len(set(sizes[start : start + 5])) == 1 for start in range(0, 500, 5)) and len(set(sizes)) == 3
    assert training_sizes(recipe(digits, training_shape="320,416")) == [(320, 416)]
    assert size_of_step(recipe(digits, training_shape="352"), 7) == (352, 352)
    found = batches(recipe(digits, training_shape="64,128", accumulate_steps=3, max_box=1))
    assert [(image.shape, target.shape) for image, target in found] == [((12, 3, 64, 128), (12, 1, 17))] * 3
    assert training_sizes(read_config([], "")) == [(side, side) for side in range(320, 609, 32)]


def test_targets_are_those_of_the_boxes(digits):
    """Without augmentation a target holds the boxes of the file, placed as in evaluation."""
    config = recipe(digits, training_shape="96,64", per_batch_size=1, flip_prob=0, jitter=0, hue=0, saturation=1, value=1,
                    label_smooth=True)  # fmt: skip
    content = json.loads((digits / "annotations/instances_train2017.json").read_text())
    where = place((96, 96), (96, 64), True)
    expected = set()
    for image in content["images"]:
        rows = [row for row in content["annotations"] if row["image_id"] == image["id"]]
        corners = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        classes = np.array([row["category_id"] - 1 for row in rows], int)
        options = {"anchors": config.anchor_scales, "num_classes": 10, "max_box": 50, "smoothing": 0.1}
        expected.add(encode(where.to_input(corners), classes, (96, 64), **options).round(3).tobytes())
    found = {target[0].round(3).tobytes() for _, target in batches(config)}
    assert len(found) == 38 and found <= expected


@pytest.mark.parametrize("factor", [0.5, 2])
def test_resized_pictures_have_the_same_targets(digits, tmp_path, factor):
    """The annotations state the size of before: targets and pictures are those of pictures that were not resized."""
    changes = {"training_shape": "96,64", "per_batch_size": 1, "flip_prob": 0, "jitter": 0, "hue": 0, "saturation": 1,
               "value": 1}  # fmt: skip
    shutil.copytree(digits, tmp_path / "d")
    for path in (tmp_path / "d/train2017").iterdir():
        picture = cv2.imread(str(path))
        cv2.imwrite(str(path), cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA))
    before, after = batches(recipe(digits, **changes)), batches(recipe(tmp_path / "d", **changes))
    assert len(before) == len(after) == 38
    for (picture, target), (resized, scaled) in zip(before, after):
        np.testing.assert_allclose(scaled, target, atol=1e-5)
        assert np.abs(picture - resized).mean() < 0.3


def test_classes_follow_the_names_that_are_given(digits):
    plain, config = recipe(digits, training_shape="96"), recipe(digits, training_shape="96", num_classes=12)
    assert batches(config)[0][1].shape[-1] == 7 + 12
    turned = batches(plain, names=NAMES[::-1])
    np.testing.assert_array_equal(turned[0][1][..., 7:], batches(plain)[0][1][..., :6:-1])
    with pytest.raises(DataError, match="the annotations have the class 'zero'"):
        create_dataset(plain, "train", ONE, NAMES[1:])
    with pytest.raises(DataError, match="holds 10 classes, more than num_classes=7; give --num_classes 10"):
        find_classes(recipe(digits, num_classes=7), "train", ONE)


def test_one_pipeline_for_several_epochs(digits):
    with pytest.raises(UsageError, match="dataset_sink_mode=True: .*64x64, 96x96, 128x128.*training_shape"):
        create_dataset(recipe(digits), "train", ONE, NAMES, reshuffled=True)
    config = recipe(digits, training_shape="64")
    data = create_dataset(config, "train", ONE, NAMES, epoch=2, reshuffled=True)
    iterator = data.create_tuple_iterator(num_epochs=2, output_numpy=True)
    passes = [[tuple(map(np.array, row)) for row in iterator] for _ in range(2)]
    assert_same(passes[0], batches(config, epoch=2))
    assert_same(passes[1], batches(config, epoch=3))
    same = create_dataset(config, "train", ONE, NAMES).create_tuple_iterator(num_epochs=2, output_numpy=True)
    passes = [[tuple(map(np.array, row)) for row in same] for _ in range(2)]
    assert_same(*passes)


@pytest.mark.parametrize(
    ("interpolation", "kind"),
    [("nearest", cv2.INTER_NEAREST), ("bilinear", cv2.INTER_LINEAR), ("bicubic", cv2.INTER_CUBIC), ("area", cv2.INTER_AREA)],
)  # fmt: skip
def test_evaluation_input(interpolation, kind):
    for keep_ratio, (width, height, left) in ((True, (51, 64, 22)), (False, (96, 64, 0))):
        spec = input_spec(recipe(Path(), keep_ratio=keep_ratio, interpolation=interpolation, testing_shape="64,96"))
        picture = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
        found = eval_transform(picture, spec)
        assert found.shape == (3, 64, 96) and found.dtype == np.float32
        values = np.rint((found.transpose(1, 2, 0) * spec["std"] + spec["mean"]) * 255).astype(np.uint8)
        expected = np.full((64, 96, 3), 128, np.uint8)
        expected[:, left : left + width] = cv2.resize(picture, (width, height), interpolation=kind)
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("ranks", [1, 3, 11])
def test_evaluation_shows_every_image_once(digits, ranks):
    config = recipe(digits, per_batch_size=4)
    found = [batches(config, "val", Device("CPU", 0, rank, ranks)) for rank in range(ranks)]
    positions = [int(p) for shard in found for _, index, _ in shard for p in index]
    assert sorted(positions) == list(range(11)) and (ranks > 1 or positions == list(range(11)))
    for shard in found:
        for image, index, size in shard:
            assert image.shape == (len(index), 3, 96, 64) and index.dtype == size.dtype == np.int32
            assert (size == 96).all()
    image, index, _ = found[0][0]
    path = sorted((digits / "val2017").iterdir())[int(index[1]) if len(index) > 1 else int(index[0])]
    np.testing.assert_array_equal(image[min(1, len(index) - 1)], eval_transform(read_picture(path), input_spec(config)))
    with pytest.raises(DataError, match="11 images on 12 devices"):
        create_dataset(config, "val", Device("CPU", 0, 0, 12), NAMES)


def test_evaluation_keeps_images_without_boxes(tmp_path):
    """Of different sizes and kinds: the size that is handed out is that of the rotated picture."""
    for folder in ("train", "val", "annotations"):
        (tmp_path / folder).mkdir()
    grey = np.arange(30 * 50, dtype=np.uint8).reshape(30, 50)
    exif = Image.Exif()
    exif[0x0112] = 6
    for split in ("train", "val"):
        Image.fromarray(grey).save(tmp_path / split / "ä b.jpg", exif=exif)
        Image.fromarray(grey.astype(np.uint16)).save(tmp_path / split / "d.png")
        images = [{"id": "x", "file_name": "ä b.jpg", "width": 30, "height": 50}, {"id": 1, "file_name": "d.png"}]
        rows = [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 1, 5, 5], "iscrowd": 1}]
        content = {"images": images, "annotations": rows, "categories": [{"id": 7, "name": "a"}]}
        (tmp_path / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    config = recipe(tmp_path, test_img_shape=[64, 64])
    assert find_classes(config, "val", ONE) == ["a"] and count_images(config, "val") == 2
    image, index, size = batches(config, "val")[0]
    assert index.tolist() == [0, 1] and size.tolist() == [[30, 50], [50, 30]]
    with pytest.raises(DataError, match="none of the 2 training images has a box"):
        find_classes(config, "train", ONE)


def test_a_damaged_image_is_named(digits, tmp_path):
    shutil.copytree(digits, tmp_path / "d")
    victim = sorted((tmp_path / "d/val2017").iterdir())[6]
    content = victim.read_bytes()
    config = recipe(tmp_path / "d")
    for split in ("val", "train"):
        for path in sorted((tmp_path / f"d/{split}2017").iterdir())[6:7]:
            path.write_bytes(content[: len(content) // 2])
            with pytest.raises(RuntimeError) as caught:
                batches(config, split)
            error = data_error(caught.value, tmp_path)
            assert isinstance(error, DataError) and "\n" not in str(error)
            assert str(error).startswith(f"{path} cannot be used: Failed to decode: ")
            with pytest.raises(DataError, match="1 of .* files are not readable"):
                find_classes(config, split, ONE)


def test_anchors(digits):
    anchors = check_anchors(recipe(digits))
    assert anchors.shape == (9, 2) and anchors[8].tolist() == [373, 326]


def test_an_abandoned_reading_ends_its_threads(digits):
    before = threading.active_count()
    source = pipeline._training_batches(recipe(digits), ONE, pipeline._read(recipe(digits), "train"), NAMES, 2)
    reading = iter(source)
    next(reading)
    assert threading.active_count() > before
    reading.close()
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(10)
    assert threading.active_count() <= before
