"""Tests of utils/sample_data/coco_digits.py: real digits where the boxes are, none of the held-out ones in training."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "utils" / "sample_data"))

import coco_digits
import numpy as np
import pytest
from digits import CLASS_NAMES, load_digits, split
from PIL import Image

PROGRAM = Path(coco_digits.__file__)
SIZE = 128


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco") / "data"
    line = coco_digits.write_coco(folder, train=60, val=30, size=SIZE)
    assert line == f"wrote coco data set to {folder}: 60 for training and 30 held out, {SIZE} x {SIZE} pixels"
    return folder


def contents(folder, part):
    return json.loads((folder / f"annotations/instances_{part}2017.json").read_text())


def rows_of(content):
    """The annotations of each image."""
    return {
        image["id"]: [row for row in content["annotations"] if row["image_id"] == image["id"]]
        for image in content["images"]
    }


def test_layout_is_that_of_coco(data):
    for part, count in (("train", 60), ("val", 30)):
        content = contents(data, part)
        assert {path.name for path in (data / f"{part}2017").iterdir()} == {
            row["file_name"] for row in content["images"]
        }
        assert [category["name"] for category in content["categories"]] == list(CLASS_NAMES)
        assert [category["id"] for category in content["categories"]] == list(range(1, 11))
        assert len(content["images"]) == count
        for image in content["images"]:
            with Image.open(data / f"{part}2017" / image["file_name"]) as picture:
                assert (picture.size, picture.mode, picture.format) == ((SIZE, SIZE), "RGB", "JPEG")
                assert (image["width"], image["height"]) == picture.size
        assert [row["id"] for row in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))
        for row in content["annotations"]:
            x, y, width, height = row["bbox"]
            assert min(x, y) >= 0 and x + width <= SIZE and y + height <= SIZE
            assert row["area"] == width * height and row["iscrowd"] == 0 and 1 <= row["category_id"] <= 10


def test_pycocotools_reads_it(data):
    coco = pytest.importorskip("pycocotools.coco").COCO(str(data / "annotations/instances_val2017.json"))
    assert len(coco.getImgIds()) == 30 and len(coco.getCatIds()) == 10


def test_one_to_four_digits_of_many_sizes_and_a_few_empty_images(data):
    rows = rows_of(contents(data, "train"))
    counts = [len(row) for row in rows.values()]
    assert counts.count(0) == 3 and set(counts) == {0, 1, 2, 3, 4}
    boxes = [row["bbox"] for row in contents(data, "train")["annotations"]]
    longer = [max(box[2:]) for box in boxes]
    assert min(longer) < 0.15 * SIZE and max(longer) > 0.33 * SIZE and len(set(longer)) > 15
    assert min(longer) >= 8 and {row["category_id"] for row in contents(data, "train")["annotations"]} == set(
        range(1, 11)
    )


def test_boxes_hardly_overlap(data):
    for part in ("train", "val"):
        for rows in rows_of(contents(data, part)).values():
            for one, two in itertools.combinations(rows, 2):
                assert coco_digits.overlap(one["bbox"], two["bbox"]) <= coco_digits.MOST_OVERLAP
    assert coco_digits.overlap([0, 0, 10, 10], [5, 5, 10, 10]) == 0.25
    assert (
        coco_digits.overlap([0, 0, 10, 10], [2, 2, 2, 2]) == 1 and coco_digits.overlap([0, 0, 2, 2], [2, 0, 2, 2]) == 0
    )


def correlation(picture, digit, box):
    """Of a digit 8 x 8, fitted into the box, with the grey values there: 1 or -1 where it is written there."""
    x, y, width, height = box
    ink = np.flatnonzero(digit.max(axis=0) > 90), np.flatnonzero(digit.max(axis=1) > 90)
    part = digit[ink[1][0] : ink[1][-1] + 1, ink[0][0] : ink[0][-1] + 1]
    fitted = np.asarray(Image.fromarray(part).resize((width, height), Image.Resampling.BICUBIC), float).ravel()
    return np.corrcoef(fitted, picture[y : y + height, x : x + width].ravel())[0, 1]


@pytest.mark.parametrize("part", ["train", "val"])
def test_the_digits_are_those_of_the_part_and_readable(data, part):
    pictures, labels = load_digits()
    own, other = split(labels) if part == "train" else split(labels)[::-1]
    content = contents(data, part)
    found, contrasts = [], []
    for row in content["annotations"][:40]:
        name = content["images"][row["image_id"] - 1]["file_name"]
        picture = np.asarray(Image.open(data / f"{part}2017" / name).convert("L"), float)
        label = row["category_id"] - 1
        best = [
            max(abs(correlation(picture, pictures[index], row["bbox"])) for index in indices if labels[index] == label)
            for indices in (own, other)
        ]
        found.append(best[0] > best[1])
        contrasts.append(best[0])
    assert np.mean(found) > 0.75 and np.median(contrasts) > 0.85 and np.mean(np.array(contrasts) > 0.7) > 0.9


def test_backgrounds_of_the_parts_are_disjoint():
    photograph = np.arange(640)[None, :, None].repeat(427, 0)
    train, val = (coco_digits._share(photograph, part) for part in ("train", "val"))
    assert train.max() < val.min() and min(val.shape[:2]) >= coco_digits.BACKGROUND[1]
    assert [picture.shape for picture in coco_digits.load_photographs()] == [(427, 640, 3)] * 2


def test_the_same_every_time(data, tmp_path):
    coco_digits.write_coco(tmp_path / "again", train=60, val=30, size=SIZE)
    for path in sorted(data.rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(data)).read_bytes(), path.name
    boxes = [row["bbox"] for row in contents(data, "train")["annotations"]]
    assert boxes[:2] == [[61, 37, 15, 20], [28, 49, 19, 25]]  # measured results belong to this data set


def test_second_run_keeps_the_files_and_another_recipe_is_refused(data, capsys):
    arguments = ["--output", str(data), "--train", "60", "--val", "30", "--size", str(SIZE)]
    assert coco_digits.main(arguments) == 0
    assert "already complete: coco data set" in capsys.readouterr().out
    assert coco_digits.main([*arguments, "--size", "160"]) == 2
    assert "asked for layout coco, size 160" in capsys.readouterr().err


@pytest.mark.parametrize("size", [64, 200])
def test_sizes(tmp_path, size):
    coco_digits.write_coco(tmp_path / "d", train=3, val=2, size=size)
    with Image.open(tmp_path / "d/train2017/000000000001.jpg") as picture:
        assert picture.size == (size, size)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "d", "--size", "63"], "64 pixels or more"),
        (["--output", "d", "--train", "0"], "not a whole number from 1 up"),
        (["--train", "3"], "--output"),
    ],
)
def test_wrong_usage_has_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        coco_digits.main(arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_runs_as_a_program_from_anywhere(tmp_path):
    command = [sys.executable, str(PROGRAM), "--output", "out", "--train", "2", "--val", "1", "--size", "96"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote coco data set to {tmp_path / 'out'}: 2 for training and 1 held out, 96 x 96 pixels\n"


def test_says_what_to_install_without_scikit_learn(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert coco_digits.main(["--output", str(tmp_path / "d")]) == 1
    assert "pip install -r requirements-dev.txt" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
