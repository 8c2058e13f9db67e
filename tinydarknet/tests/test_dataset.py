"""The pipelines of both recipes: what a picture becomes in training and in evaluation, which labels it has."""

from __future__ import annotations

from classifier.dataset import CPU, DIGITS, batches, check_pillow, check_shards, labels, some_classes
from src.dataset import count_images, find_classes, read_cifar10, train_transforms
from src.model_utils.errors import DataError
from src.recipe import read_config

import numpy as np
import pytest
from PIL import Image

WITHOUT_CHANCE = {"flip_prob": 0, "color_jitter": "0,0,0,0", "cutout_ratio": 0, "mean": "0,0,0", "std": "1,1,1"}


def write_cifar10(folder, pictures: np.ndarray, name: str = "data_batch_1.bin") -> None:
    """Pictures (N, 32, 32, 3) uint8, with the labels 0, 1, 2 ..."""
    planes = pictures.transpose(0, 3, 1, 2).reshape(len(pictures), -1)
    rows = np.concatenate([np.arange(len(pictures), dtype=np.uint8)[:, None] % 10, planes], axis=1)
    (folder / name).write_bytes(rows.tobytes())


# ---- CIFAR-10 --------------------------------------------------------------------------------------------------------


def test_records_of_several_files(tmp_path):
    """A record is a label and three planes of 32 rows; the files come in the order of their names."""
    pictures = np.random.RandomState(1).randint(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    write_cifar10(tmp_path, pictures[:3], "data_batch_1.bin")
    write_cifar10(tmp_path, pictures[3:], "data_batch_2.bin")
    write_cifar10(tmp_path, pictures[:1], "test_batch.bin")
    found, found_labels = read_cifar10(str(tmp_path), "train")
    np.testing.assert_array_equal(found, pictures)
    assert found_labels.tolist() == [0, 1, 2, 0, 1] and len(read_cifar10(str(tmp_path), "val")[1]) == 1


def test_classes_and_counts(few_digits, configured, tmp_path):
    config = configured()
    names = "zero one two three four five six seven eight nine".split()
    assert find_classes(config, "train", CPU) == find_classes(config, "val", CPU) == names
    assert count_images(config, "train") == count_images(config, "val") == 40
    with pytest.raises(DataError, match="num_classes=9: .* has 10 classes; give --num_classes 10"):
        find_classes(configured(num_classes=9), "train", CPU)
    assert len(find_classes(configured(num_classes=9), "val", CPU)) == 10, "the checkpoint decides in evaluation"
    with pytest.raises(DataError, match=r"no test_batch\.bin"):
        find_classes(configured(val_data_dir=tmp_path), "val", CPU)


def test_evaluation_resizes_the_whole_picture(configured, few_digits):
    """To the input's size, close to Pillow's bilinear; normalised."""
    config = configured(image_height=64, image_width=64, batch_size=40)
    pictures, expected_labels = read_cifar10(str(few_digits), "val")
    ((found, found_labels),) = batches(config, "val")
    assert found.shape == (40, 3, 64, 64) and found.dtype == np.float32
    np.testing.assert_array_equal(found_labels, expected_labels)
    resized = [Image.fromarray(picture).resize((64, 64), Image.Resampling.BILINEAR) for picture in pictures]
    expected = (np.stack([np.asarray(picture) for picture in resized]) / 255 - config.mean) / config.std
    assert np.abs(found - expected.transpose(0, 3, 1, 2)).mean() * 0.2 < 1 / 255


@pytest.mark.parametrize("flip_prob", [0, 1])
def test_training_shifts_and_flips(few_digits, configured, flip_prob):
    """By up to 4 pixels in each direction over a black border; nothing else without the chances."""
    config = configured(**{**WITHOUT_CHANCE, "flip_prob": flip_prob}, batch_size=1)
    pictures, _ = read_cifar10(str(few_digits), "train")
    padded = np.pad(pictures, ((0, 0), (4, 4), (4, 4), (0, 0)))
    windows = {}
    for top in range(9):
        for left in range(9):
            for picture in padded[:, top : top + 32, left : left + 32]:
                windows[(picture[:, ::-1] if flip_prob else picture).tobytes()] = (top, left)
    shifts = []
    for epoch in (1, 2):
        for picture, _ in batches(config, "train", epoch=epoch):
            pixels = np.round(255 * picture[0].transpose(1, 2, 0)).astype(np.uint8)
            shifts.append(windows[pixels.tobytes()])  # a KeyError: it is none of the windows
    assert len(set(shifts)) > 30 and {top for top, _ in shifts} == {left for _, left in shifts} == set(range(9))


def test_cutout(tmp_path, configured):
    """A square of cutout_ratio times the height becomes the mean, which is 0 after the normalization."""
    write_cifar10(tmp_path, np.full((40, 32, 32, 3), 255, np.uint8))
    options = {**WITHOUT_CHANCE, "mean": "0.5,0.5,0.5", "train_data_dir": tmp_path, "batch_size": 1}
    for ratio, largest in ((0.25, 64), (0, 0)):
        pictures = [picture for picture, _ in batches(configured(**{**options, "cutout_ratio": ratio}), "train")]
        assert max((picture == 0).sum() / 3 for picture in pictures) == largest


def test_shards_and_places_in_an_epoch(configured, few_digits):
    assert check_shards(configured(batch_size=4)) == read_cifar10(str(few_digits), "val")[1].tolist()


# ---- ImageNet --------------------------------------------------------------------------------------------------------


def test_operators_of_training():
    def names(*options):
        return [type(operator).__name__ for operator in train_transforms(read_config(list(options), ""))]

    assert names() == ["RandomCropDecodeResize", "RandomHorizontalFlip", "RandomColorAdjust", "Normalize", "HWC2CHW"]
    assert names("--dataset_name", "cifar10") == [
        "RandomCrop", "RandomHorizontalFlip", "RandomColorAdjust", "Resize", "Normalize", "CutOut", "HWC2CHW",
    ]  # fmt: skip


def test_folder_pipeline_equals_pillow(tmp_path):
    check_pillow(tmp_path, side=224, resized=256)


def test_folder_pipeline_trains(image_folder):
    options = ["--train_data_dir", str(image_folder / "train"), "--batch_size", "8", "--image_height", "32"]
    config = read_config([*options, "--image_width", "32", "--num_parallel_workers", "2"], "")
    assert find_classes(config, "train", CPU) == DIGITS and count_images(config, "train") == 40
    found = batches(config, "train")
    assert [picture.shape for picture, _ in found] == [(8, 3, 32, 32)] * 5 and found[0][0].dtype == np.float32
    assert sorted(label for _, batch in found for label in batch) == sorted([*range(10)] * 4)


def test_class_subset_keeps_its_indices(image_folder, tmp_path):
    """In a validation folder with some of the classes an image keeps the index that its class had in training."""
    config = read_config(["--val_data_dir", str(some_classes(image_folder / "val", tmp_path / "some"))], "")
    assert sorted(labels(config.replace(batch_size=16), "val")) == [7, 7, 9, 9] and count_images(config, "val") == 4
