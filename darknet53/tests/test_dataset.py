"""The two pipelines of this recipe: what a picture becomes in training and in evaluation, which labels it has."""

from __future__ import annotations

import shutil

from conftest import small_run
from src.dataset import create_dataset, find_classes, train_transforms
from src.model_utils.device_adapter import Device
from src.recipe import read_config

import numpy as np
import pytest
from PIL import Image

CPU = Device("CPU", 0)
DIGITS = [str(digit) for digit in range(10)]


@pytest.fixture
def configured(few_digits, tmp_path):
    """A function from options to the recipe of a small run with them."""
    return lambda **changes: read_config(small_run(few_digits, tmp_path, **changes), "")


def batches(config, split: str, device=CPU, names=DIGITS, **progress) -> list[tuple[np.ndarray, np.ndarray]]:
    dataset = create_dataset(config, split, device, names, **progress)
    return list(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))


def labels(config, split: str, device=CPU, **progress) -> list[int]:
    return [int(label) for _, found in batches(config, split, device, **progress) for label in found]


def test_evaluation_equals_pillow(tmp_path):
    """The shorter side becomes 292 of the default 256, the centre is cropped and normalised; close to Pillow's bilinear."""
    pixels = np.random.RandomState(1).randint(0, 256, (12, 20, 3)).astype(np.uint8)
    (tmp_path / "val" / "a").mkdir(parents=True)
    file = tmp_path / "val/a/picture.png"
    Image.fromarray(pixels).resize((500, 300), Image.Resampling.BICUBIC).save(file)
    config = read_config(["--val_data_dir", str(tmp_path / "val"), "--batch_size", "1"], "")
    ((tensor, label),) = batches(config, "val", names=["a"])
    resized = Image.open(file).resize((292 * 500 // 300, 292), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 256) / 2), (292 - 256) // 2
    expected = np.asarray(resized.crop((left, top, left + 256, top + 256)), np.float64) / 255
    expected = ((expected - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)
    assert label[0] == 0 and tensor.shape == (1, 3, 256, 256) and tensor.dtype == np.float32
    assert np.abs(tensor[0] - expected).mean() * 0.225 < 1.5 / 255


def test_operators_of_training():
    found = [type(operator).__name__ for operator in train_transforms(read_config([], ""))]
    assert found == ["RandomCropDecodeResize", "RandomHorizontalFlip", "RandomColorAdjust", "Normalize", "HWC2CHW"]


def test_training_without_chance_is_evaluation_mirrored(few_digits, configured, tmp_path):
    """On a square picture: a crop of nearly the whole area, no change of colour, a certain flip."""
    (tmp_path / "one" / "7").mkdir(parents=True)
    shutil.copy(next((few_digits / "train" / "7").iterdir()), tmp_path / "one" / "7")
    options = {"crop_scale": 1, "crop_ratio": 1, "color_jitter": "0,0,0,0", "image_height": 48, "image_width": 48}
    config = configured(**options, batch_size=1, train_data_dir=tmp_path / "one", val_data_dir=tmp_path / "one")
    ((expected, _),) = batches(config, "val", names=["7"])
    for flip_prob, mirrored, other in ((1, expected[..., ::-1], expected), (0, expected, expected[..., ::-1])):
        for epoch in range(1, 6):
            ((picture, _),) = batches(config.replace(flip_prob=flip_prob), "train", names=["7"], epoch=epoch)
            assert 5 * np.abs(picture - mirrored).mean() < np.abs(picture - other).mean()


def test_shards_and_places_in_an_epoch(configured):
    """Each image once over all ranks; an epoch has an order of its own, and its rest is what was left out."""
    config = configured(batch_size=4)
    assert find_classes(config, "val", CPU) == DIGITS
    whole = labels(config, "val")
    shards = [labels(config, "val", Device("CPU", 0, rank, 3)) for rank in range(3)]
    assert [shards[i % 3][i // 3] for i in range(40)] == whole == sorted(whole)
    first, second = (labels(config, "train", Device("CPU", 0, rank, 2), epoch=3) for rank in range(2))
    assert len(first) == 20 and sorted(first + second) == whole
    of_rank_0 = Device("CPU", 0, 0, 2)
    assert labels(config, "train", of_rank_0, epoch=4) != first == labels(config, "train", of_rank_0, epoch=3)
    assert labels(config, "train", of_rank_0, epoch=3, skip_steps=2) == first[8:]


def test_class_subset_keeps_its_indices(few_digits, configured, tmp_path):
    """A validation folder with some of the classes: an image keeps the index that its class had in training."""
    for name in ("7", "9"):
        (tmp_path / "some" / name).mkdir(parents=True)
        for path in list((few_digits / "val" / name).iterdir())[:2]:
            (tmp_path / "some" / name / path.name).write_bytes(path.read_bytes())
    assert sorted(labels(configured(val_data_dir=tmp_path / "some"), "val")) == [7, 7, 9, 9]
