"""The two pipelines of this recipe, over class folders and over lists: what a picture becomes, which label it has."""

from __future__ import annotations

import eval as evaluation
from classifier.dataset import CPU, DIGITS, ClassFolders, batches, check_pillow, labels
from src.dataset import count_images, find_classes
from src.image_list import check_image_list, read_image_list
from src.model_utils.errors import DataError
from src.recipe import read_config

import numpy as np
import pytest


class TestClassFolders(ClassFolders):
    BATCH, TRAIN, SIDES = "per_batch_size", "data_dir", {"image_size": "48,48"}

    def test_evaluation_equals_pillow(self, tmp_path):
        check_pillow(tmp_path, side=224, resized=256)


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
    ("./x/a.jpg 1\nx/a.jpg 2\n", "list.txt:2: 'x/a.jpg' stands on an earlier line"),
    ("/x/a.jpg 1\n", "list.txt:1: '/x/a.jpg' leads out of the folder"), ("x/../../a.jpg 1\n", "leads out of the folder"),
    ("a.jpg ²\n", "not a line"), ("a.jpg " + "9" * 5000, "not a line"),
    ("x/a.jpg 1\n", "1 of 1 paths .* are no files"), ("x/a.jpg 10\n", "label 10, num_classes=10"),
])  # fmt: skip
def test_bad_lists(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        check_image_list(tmp_path, tmp_path / "list.txt", 10)


def test_lists_in_other_encodings_and_near_names(few_digits, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/Ä b.jpg").write_bytes(next((few_digits / "val").rglob("*.jpg")).read_bytes())
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "list.txt").write_text("./Ä b.jpg 0\r\n", encoding=encoding)
        assert check_image_list(tmp_path / "in", tmp_path / "list.txt", 10) == ["0"]
    (tmp_path / "list.txt").write_text("%C3%84%20b.jpg 0\n")
    with pytest.raises(DataError, match="'Ä b.jpg' is there, which differs in: %20"):
        check_image_list(tmp_path / "in", tmp_path / "list.txt", 10)
    (tmp_path / "list.txt").write_text("../in/Ä b.jpg 0\n")
    assert check_image_list(tmp_path / "in", tmp_path / "list.txt", 10, allow_outside=True) == ["in"]


def test_files_that_cannot_be_read(few_digits, tmp_path):
    with pytest.raises(DataError, match="none.txt cannot be read"):
        check_image_list(tmp_path, tmp_path / "none.txt", 10)
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


def test_outputs_of_a_list():
    """A list numbers its classes itself: names must be the checkpoint's at the same places, numbers go for any."""
    about = {"class_names": ["cat", "dog", "emu"], "network": {"num_classes": 3}}
    config = read_config(["--val_list_file", "list.txt"], "")
    assert evaluation.match_labels(["cat", "dog"], about, config) == about["class_names"]
    assert evaluation.match_labels(["0", "1", "2"], about, config) == about["class_names"]
    assert evaluation.match_labels(["x", "y"], {**about, "class_names": None}, config) == ["x", "y"]
    with pytest.raises(DataError, match="gives label 1 to 'emu', the checkpoint to 'dog'"):
        evaluation.match_labels(["cat", "emu"], about, config)
    for names in (["cat", "dog", "emu", "fox"], ["0", "1", "2", "3"]):
        for stored in (about["class_names"], None):
            with pytest.raises(DataError, match="list.txt has labels up to 3, the checkpoint has 3 classes"):
                evaluation.match_labels(names, {**about, "class_names": stored}, config)
