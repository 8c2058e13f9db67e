"""The pipelines of both recipes: what a picture becomes in training and in evaluation, which labels it has."""

from __future__ import annotations

import io

import eval as evaluation
from conftest import small_run
from src.dataset import count_images, create_dataset, find_classes, read_cifar10, train_transforms
from src.model_utils.classification.evaluation import match_classes
from src.model_utils.device_adapter import Device
from src.model_utils.errors import DataError
from src.recipe import read_config

import numpy as np
import pytest
from PIL import Image

CPU = Device("CPU", 0)
DIGITS = [str(digit) for digit in range(10)]
WITHOUT_CHANCE = {"flip_prob": 0, "color_jitter": "0,0,0,0", "cutout_ratio": 0, "mean": "0,0,0", "std": "1,1,1"}


@pytest.fixture
def configured(few_digits, tmp_path):
    """A function from options to the recipe of a small CIFAR-10 run with them."""
    return lambda **changes: read_config(small_run(few_digits, tmp_path, **changes), "")


def batches(config, split: str, device=CPU, names=DIGITS, **progress) -> list[tuple[np.ndarray, np.ndarray]]:
    dataset = create_dataset(config, split, device, names, **progress)
    return list(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))


def labels(config, split: str, device=CPU, **progress) -> list[int]:
    return [int(label) for _, found in batches(config, split, device, **progress) for label in found]


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
    sizes = []
    for picture, _ in batches(configured(**{**options, "cutout_ratio": 0.25}), "train"):
        assert set(np.unique(picture)) <= {-0.5, 0.0, 0.5}
        rows, columns = np.nonzero((picture[0] == 0).all(axis=0))
        sizes.append((len(np.unique(rows)), len(np.unique(columns))))
        assert len(rows) == np.prod(sizes[-1]) == (picture == 0).sum() / 3
    assert max(sizes) == (8, 8) and sizes.count((8, 8)) > 5, "others lie over the border, in part or as a whole"
    assert not any((picture == 0).any() for picture, _ in batches(configured(**options), "train"))


def test_shards_and_places_in_an_epoch(configured, few_digits):
    """Each image once over all ranks; an epoch has an order of its own, and its rest is what was left out."""
    config = configured(batch_size=4)
    whole = labels(config, "val")
    assert whole == read_cifar10(str(few_digits), "val")[1].tolist()
    shards = [labels(config, "val", Device("CPU", 0, rank, 3)) for rank in range(3)]
    assert [shards[i % 3][i // 3] for i in range(40)] == whole
    first, second = (labels(config, "train", Device("CPU", 0, rank, 2), epoch=3) for rank in range(2))
    assert len(first) == 20 and sorted(first + second) == sorted(read_cifar10(str(few_digits), "train")[1])
    of_rank_0 = Device("CPU", 0, 0, 2)
    assert labels(config, "train", of_rank_0, epoch=4) != first == labels(config, "train", of_rank_0, epoch=3)
    assert labels(config, "train", of_rank_0, epoch=3, skip_steps=2) == first[8:]


def test_classes_of_cifar10_are_fixed(configured):
    """Its files say which class has which index: the checkpoint must have the same ten, by the same names or by none."""
    config, about = configured(), {"network": {"num_classes": 10}, "class_names": None}
    assert evaluation.match_classes is match_classes
    assert match_classes(DIGITS, about, config, is_fixed=True) == DIGITS
    for outputs, names in ((10, DIGITS[::-1]), (5, None), (12, None)):
        about = {"network": {"num_classes": outputs}, "class_names": names}
        with pytest.raises(DataError, match=f"the checkpoint has {outputs} classes"):
            match_classes(DIGITS, about, config, is_fixed=True)


# ---- ImageNet --------------------------------------------------------------------------------------------------------


def test_operators_of_training():
    def names(*options):
        return [type(operator).__name__ for operator in train_transforms(read_config(list(options), ""))]

    assert names() == ["RandomCropDecodeResize", "RandomHorizontalFlip", "RandomColorAdjust", "Normalize", "HWC2CHW"]
    assert names("--dataset_name", "cifar10") == [
        "RandomCrop", "RandomHorizontalFlip", "RandomColorAdjust", "Resize", "Normalize", "CutOut", "HWC2CHW",
    ]  # fmt: skip


def test_folder_pipeline_equals_pillow(image_folder):
    """The evaluation tensor of a JPEG: shorter side to 256 of 224, centre crop, normalised; close to Pillow's bilinear."""
    config = read_config(["--val_data_dir", str(image_folder / "val"), "--batch_size", "1"], "")
    names = find_classes(config, "val", CPU)
    tensor, label = batches(config, "val", names=names)[0]
    first = sorted((image_folder / "val" / names[0]).iterdir())[0]
    picture = Image.open(io.BytesIO(first.read_bytes())).convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture.crop((16, 16, 240, 240)), np.float64) / 255
    expected = ((pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)
    assert label[0] == 0 and tensor.shape == (1, 3, 224, 224) and tensor.dtype == np.float32
    assert np.abs(tensor[0] - expected).mean() * 0.225 < 1 / 255


def test_folder_pipeline_trains(image_folder):
    options = ["--train_data_dir", str(image_folder / "train"), "--batch_size", "8", "--image_height", "32"]
    config = read_config([*options, "--image_width", "32", "--num_parallel_workers", "2"], "")
    assert find_classes(config, "train", CPU) == DIGITS and count_images(config, "train") == 40
    found = batches(config, "train")
    assert [picture.shape for picture, _ in found] == [(8, 3, 32, 32)] * 5 and found[0][0].dtype == np.float32
    assert sorted(label for _, batch in found for label in batch) == sorted([*range(10)] * 4)


def test_class_subset_keeps_its_indices(image_folder, tmp_path):
    """A validation folder with some of the classes: an image keeps the index that its class had in training."""
    for name in ("7", "9"):
        (tmp_path / name).mkdir()
        for path in list((image_folder / "val" / name).iterdir())[:2]:
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    config = read_config(["--val_data_dir", str(tmp_path), "--batch_size", "16"], "")
    assert sorted(labels(config, "val")) == [7, 7, 9, 9] and count_images(config, "val") == 4
