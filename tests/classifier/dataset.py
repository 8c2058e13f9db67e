"""The two pipelines of a recipe over class folders: what a picture becomes, which label it has."""

from __future__ import annotations

import shutil

from src.dataset import create_dataset, find_classes, train_transforms
from src.model_utils.device_adapter import Device
from src.recipe import read_config

import numpy as np
from PIL import Image

CPU = Device("CPU", 0)
DIGITS = [str(digit) for digit in range(10)]


def batches(config, split: str, device=CPU, names=DIGITS, **progress) -> list[tuple[np.ndarray, np.ndarray]]:
    dataset = create_dataset(config, split, device, names, **progress)
    return list(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))


def labels(config, split: str, device=CPU, **progress) -> list[int]:
    return [int(label) for _, found in batches(config, split, device, **progress) for label in found]


def check_shards(config) -> list[int]:
    """Each image once over all ranks; an epoch has an order of its own, and its rest is what was left out.

    Returns the labels of the 40 validation images; the batches hold four images.
    """
    whole = labels(config, "val")
    shards = [labels(config, "val", Device("CPU", 0, rank, 3)) for rank in range(3)]
    assert [shards[i % 3][i // 3] for i in range(40)] == whole
    first, second = (labels(config, "train", Device("CPU", 0, rank, 2), epoch=3) for rank in range(2))
    assert len(first) == 20 and sorted(first + second) == sorted([*range(10)] * 4)
    of_rank_0 = Device("CPU", 0, 0, 2)
    assert labels(config, "train", of_rank_0, epoch=4) != first == labels(config, "train", of_rank_0, epoch=3)
    assert labels(config, "train", of_rank_0, epoch=3, skip_steps=2) == first[8:]
    return whole


def some_classes(pictures, folder):
    """A folder with two pictures of two of the classes, whose labels are 7 7 9 9."""
    for name in ("7", "9"):
        (folder / name).mkdir(parents=True)
        for path in list((pictures / name).iterdir())[:2]:
            shutil.copy(path, folder / name)
    return folder


def check_pillow(tmp_path, side: int, resized: int) -> None:
    """Shorter side resized, the centre cropped and normalised; close to Pillow's bilinear."""
    pixels = np.random.RandomState(1).randint(0, 256, (12, 20, 3)).astype(np.uint8)
    (tmp_path / "val/a").mkdir(parents=True)
    file = tmp_path / "val/a/picture.png"
    Image.fromarray(pixels).resize((500, 300), Image.Resampling.BICUBIC).save(file)
    config = read_config(["--val_data_dir", str(tmp_path / "val"), "--batch_size", "1"], "")
    assert find_classes(config, "val", CPU) == ["a"]
    ((tensor, label),) = batches(config, "val", names=["a"])
    picture = Image.open(file).resize((resized * 500 // 300, resized), Image.Resampling.BILINEAR)
    left, top = round((picture.width - side) / 2), round((resized - side) / 2)
    expected = np.asarray(picture.crop((left, top, left + side, top + side)), np.float64) / 255
    expected = ((expected - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)
    assert label[0] == 0 and tensor.shape == (1, 3, side, side) and tensor.dtype == np.float32
    assert np.abs(tensor[0] - expected).mean() * 0.225 < 1.5 / 255


class ClassFolders:
    """The keys of the folder: batch size, training data, and options for pictures as they are, 48 pixels wide."""

    BATCH, TRAIN = "batch_size", "train_data_dir"
    SIDES: dict

    def test_operators_of_training(self):
        found = [type(operator).__name__ for operator in train_transforms(read_config([], ""))]
        assert found == ["RandomCropDecodeResize", "RandomHorizontalFlip", "RandomColorAdjust", "Normalize", "HWC2CHW"]

    def test_training_without_chance_is_evaluation_mirrored(self, few_digits, configured, tmp_path):
        """On a square picture: a crop of nearly the whole area, no change of colour, a certain flip."""
        (tmp_path / "one" / "7").mkdir(parents=True)
        shutil.copy(next((few_digits / "train" / "7").iterdir()), tmp_path / "one" / "7")
        folders = {self.TRAIN: tmp_path / "one", "val_data_dir": tmp_path / "one"}
        options = {"crop_scale": 1, "crop_ratio": 1, "color_jitter": "0,0,0,0", self.BATCH: 1, **self.SIDES}
        config = configured(**options, **folders)
        ((expected, _),) = batches(config, "val", names=["7"])
        for flip_prob, mirrored, other in ((1, expected[..., ::-1], expected), (0, expected, expected[..., ::-1])):
            for epoch in range(1, 6):
                ((picture, _),) = batches(config.replace(flip_prob=flip_prob), "train", names=["7"], epoch=epoch)
                assert 5 * np.abs(picture - mirrored).mean() < np.abs(picture - other).mean()

    def test_shards_and_places_in_an_epoch(self, configured):
        config = configured(**{self.BATCH: 4})
        assert find_classes(config, "val", CPU) == DIGITS
        assert check_shards(config) == sorted([*range(10)] * 4)

    def test_class_subset_keeps_its_indices(self, few_digits, configured, tmp_path):
        """In a validation folder with some of the classes an image keeps the index that its class had in training."""
        folder = some_classes(few_digits / "val", tmp_path / "some")
        assert sorted(labels(configured(val_data_dir=folder), "val")) == [7, 7, 9, 9]
