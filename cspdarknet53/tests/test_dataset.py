"""The two pipelines of this recipe, over class folders and over lists: what a picture becomes, which label it has."""

from __future__ import annotations

import shutil

import eval as evaluation
from conftest import small_run
from src.dataset import count_images, create_dataset, find_classes, train_transforms
from src.image_list import check_image_list, read_image_list
from src.model_utils.device_adapter import Device
from src.model_utils.errors import DataError
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
    """The shorter side becomes 256 for an input of 224, the centre is cropped and normalised; close to Pillow's bilinear."""
    pixels = np.random.RandomState(1).randint(0, 256, (12, 20, 3)).astype(np.uint8)
    (tmp_path / "val" / "a").mkdir(parents=True)
    file = tmp_path / "val/a/picture.png"
    Image.fromarray(pixels).resize((500, 300), Image.Resampling.BICUBIC).save(file)
    config = read_config(["--val_data_dir", str(tmp_path / "val"), "--per_batch_size", "1"], "")
    ((tensor, label),) = batches(config, "val", names=["a"])
    resized = Image.open(file).resize((256 * 500 // 300, 256), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 224) / 2), (256 - 224) // 2
    expected = np.asarray(resized.crop((left, top, left + 224, top + 224)), np.float64) / 255
    expected = ((expected - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)
    assert label[0] == 0 and tensor.shape == (1, 3, 224, 224) and tensor.dtype == np.float32
    assert np.abs(tensor[0] - expected).mean() * 0.225 < 1.5 / 255


def test_operators_of_training():
    found = [type(operator).__name__ for operator in train_transforms(read_config([], ""))]
    assert found == ["RandomCropDecodeResize", "RandomHorizontalFlip", "RandomColorAdjust", "Normalize", "HWC2CHW"]


def test_training_without_chance_is_evaluation_mirrored(few_digits, configured, tmp_path):
    """On a square picture: a crop of nearly the whole area, no change of colour, a certain flip."""
    (tmp_path / "one" / "7").mkdir(parents=True)
    shutil.copy(next((few_digits / "train" / "7").iterdir()), tmp_path / "one" / "7")
    options = {"crop_scale": 1, "crop_ratio": 1, "color_jitter": "0,0,0,0", "image_size": "48,48"}
    config = configured(**options, per_batch_size=1, data_dir=tmp_path / "one", val_data_dir=tmp_path / "one")
    ((expected, _),) = batches(config, "val", names=["7"])
    for flip_prob, mirrored, other in ((1, expected[..., ::-1], expected), (0, expected, expected[..., ::-1])):
        for epoch in range(1, 6):
            ((picture, _),) = batches(config.replace(flip_prob=flip_prob), "train", names=["7"], epoch=epoch)
            assert 5 * np.abs(picture - mirrored).mean() < np.abs(picture - other).mean()


def test_shards_and_places_in_an_epoch(configured):
    """Each image once over all ranks; an epoch has an order of its own, and its rest is what was left out."""
    config = configured(per_batch_size=4)
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


# ---- Lists of files and labels ---------------------------------------------------------------------------------------


@pytest.fixture
def lists(few_digits, tmp_path):
    """Lists of the training and the validation digits, in an order of their own, a tab in the first line."""
    for split in ("train", "val"):
        paths = sorted((few_digits / split).rglob("*.jpg"), key=lambda path: path.name[::-1])
        lines = [f"{path.relative_to(few_digits / split)} {path.parent.name}" for path in paths]
        lines[0] = lines[0].replace(" ", "\t")
        (tmp_path / f"{split}.txt").write_text("\n".join([*lines, ""]))
    return tmp_path


@pytest.mark.parametrize("split", ["train", "val"])
def test_list_equals_folder(configured, lists, split):
    """A list feeds the same pictures and labels as the class folders, those of the evaluation in its own order."""
    options = {"crop_scale": 1, "flip_prob": 0, "color_jitter": "0,0,0,0", "per_batch_size": 1, "image_size": "48,48"}
    plain = configured(**options)
    listed = configured(**options, list_file=lists / "train.txt", val_list_file=lists / "val.txt")
    assert find_classes(listed, split, CPU) == find_classes(plain, split, CPU) == DIGITS
    assert count_images(listed, split) == 40
    rows = read_image_list(lists / f"{split}.txt")
    if split == "val":
        order = np.argsort([path for path, _ in rows])
        found, expected = batches(listed, split), batches(plain, split)
        assert [label for _, label in rows] == labels(listed, split) != labels(plain, split)
        for index, (picture, label) in zip(order, expected):
            np.testing.assert_array_equal(found[index][0], picture)
            np.testing.assert_array_equal(found[index][1], label)
    else:
        assert sorted(labels(listed, split)) == sorted(labels(plain, split)) == sorted(label for _, label in rows)
        assert labels(listed, split, epoch=1) != labels(listed, split, epoch=2)


@pytest.mark.parametrize("text, message", [
    ("", "holds no line"), ("a.jpg\n", "list.txt:1: 'a.jpg' is not a line"), ("a.jpg -1\n", "not a line"),
    ("a.txt 1\n", "not a line"), ("x/a.jpg 1\nx/a.jpg 2\n", "list.txt:2: 'x/a.jpg' stands on an earlier line"),
    ("x/a.jpg 1\n", "1 of 1 paths .* are no files"), ("x/a.jpg 10\n", "label 10, num_classes=10"),
])  # fmt: skip
def test_bad_lists(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        check_image_list(tmp_path, tmp_path / "list.txt", 10)
    with pytest.raises(DataError, match="none.txt cannot be read"):
        check_image_list(tmp_path, tmp_path / "none.txt", 10)


def test_damaged_image_of_a_list(few_digits, tmp_path):
    source = next((few_digits / "val").rglob("*.jpg"))
    (tmp_path / "cut.jpg").write_bytes(source.read_bytes()[:200])
    (tmp_path / "one.txt").write_text("cut.jpg 0\n")
    with pytest.raises(DataError, match="cut.jpg"):
        check_image_list(tmp_path, tmp_path / "one.txt", 10)


def test_names_of_a_list_without_class_folders(few_digits, tmp_path):
    for name, label in (("a b.jpg", 1), ("c.jpg", 0)):
        (tmp_path / name).write_bytes(next((few_digits / "val" / str(label)).iterdir()).read_bytes())
    (tmp_path / "list.txt").write_text("a b.jpg 1\nc.jpg 0\n")
    assert check_image_list(tmp_path, tmp_path / "list.txt", 10) == ["0", "1"]


def test_outputs_of_a_list(tmp_path):
    """A list numbers its classes itself: names must be the checkpoint's at the same places, numbers go for any."""
    about = {"class_names": ["cat", "dog", "emu"], "network": {"num_classes": 3}}
    config = read_config(["--val_list_file", "list.txt"], "")
    assert evaluation.match_labels(["cat", "dog"], about, config) == about["class_names"]
    assert evaluation.match_labels(["0", "1", "2"], about, config) == about["class_names"]
    assert evaluation.match_labels(["x", "y"], {**about, "class_names": None}, config) == ["x", "y"]
    with pytest.raises(DataError, match="gives label 1 to 'emu', the checkpoint to 'dog'"):
        evaluation.match_labels(["cat", "emu"], about, config)


def test_more_labels_than_the_checkpoint_has():
    about = {"class_names": ["cat", "dog"], "network": {"num_classes": 2}}
    config = read_config(["--val_list_file", "list.txt"], "")
    for names in (["cat", "dog", "emu"], ["0", "1", "2"]):
        for stored in (["cat", "dog"], None):
            with pytest.raises(DataError, match="list.txt has labels up to 2, the checkpoint has 2 classes"):
                evaluation.match_labels(names, {**about, "class_names": stored}, config)
