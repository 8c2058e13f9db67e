"""Tests of utils/sample_data: the digits are real, the layouts are those that the models read, nothing is overwritten."""

import itertools
import json
import subprocess
import sys

import coco_digits
import digits
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

RECORD = 1 + 3 * 32 * 32


def read_records(path):
    """Labels (N,) and pictures (N, 3, 32, 32) of a file in CIFAR-10's binary version."""
    records = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, RECORD)
    return records[:, 0], records[:, 1:].reshape(-1, 3, 32, 32)


def nearest_digit(pictures, digits):
    """Index of the digit with the smallest squared distance to each picture, both (N, 8, 8)."""
    a, b = pictures.reshape(-1, 64), digits.reshape(-1, 64)
    return ((b**2).sum(axis=1) - 2 * a @ b.T).argmin(axis=1)


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "cifar10"
    digits.write_cifar10(folder)
    return folder


def test_split_is_fixed_disjoint_and_even():
    labels = load_digits().target
    train, held_out = digits.split(labels)
    assert (len(train), len(held_out)) == (1437, 360)
    assert sorted([*train, *held_out]) == list(range(1797))
    assert np.bincount(labels[held_out]).tolist() == [36] * 10
    assert held_out[:3].tolist() == [130, 1083, 1654]  # the numbers in the README belong to this split
    assert sorted(labels[train[:10]]) == list(range(10))


def test_cifar10_records_are_the_digits(cifar10):
    names = (cifar10 / "batches.meta.txt").read_text()
    assert names == "zero\none\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n"
    source = load_digits()
    for name, indices in zip(("data_batch_1.bin", "test_batch.bin"), digits.split(source.target)):
        labels, pictures = read_records(cifar10 / name)
        assert labels.tolist() == source.target[indices].tolist()
        assert (pictures[:, 0] == pictures[:, 1]).all() and (pictures[:, 0] == pictures[:, 2]).all()
        assert (pictures.min(), pictures.max()) == (0, 255), "grey values fill their range"
        small = pictures[:, 0].reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4)) * (16 / 255)
        # A few of the source's digits differ in so little that enlarging confuses them.
        assert (nearest_digit(small, source.images) == indices).mean() > 0.99


def test_image_folder_holds_every_picture_once_under_its_class(tmp_path):
    digits.write_image_folder(tmp_path / "data", size=24)
    source = load_digits()
    train, held_out = digits.split(source.target)
    for part, indices in (("train", train), ("val", held_out)):
        files = sorted((tmp_path / "data" / part).rglob("*.jpg"))
        assert {(int(path.stem), int(path.parent.name)) for path in files} == {(i, source.target[i]) for i in indices}
        assert len(files) == len(indices)
    with Image.open(files[0]) as picture:
        assert (picture.size, picture.mode, picture.format) == ((24, 24), "RGB", "JPEG")
        small = np.asarray(picture.convert("L"), np.float64).reshape(1, 8, 3, 8, 3).mean(axis=(2, 4)) * (16 / 255)
    assert nearest_digit(small, source.images) == int(files[0].stem)


def test_pictures_have_a_label_list(tmp_path):
    digits.write_pictures(tmp_path / "pictures", size=40, limit=7)
    lines = (tmp_path / "pictures/label.txt").read_text().splitlines()
    files = sorted((tmp_path / "pictures").glob("*.png"))
    assert sorted(line.split(":")[0] for line in lines) == [path.stem for path in files] and len(files) == 7
    with Image.open(files[0]) as picture:
        assert (picture.size, picture.mode) == ((40, 40), "RGB")


def test_pictures_are_the_held_out_records(cifar10, tmp_path):
    digits.write_pictures(tmp_path / "pictures", limit=3)
    labels, records = read_records(cifar10 / "test_batch.bin")
    for position, line in enumerate((tmp_path / "pictures/label.txt").read_text().splitlines()):
        name, label = line.split(":")
        assert labels[position] == int(label) == int(name[-1])
        assert load_digits().target[int(name.split("-")[0])] == int(label)
        with Image.open(tmp_path / "pictures" / f"{name}.png") as picture:
            assert (np.asarray(picture).transpose(2, 0, 1) == records[position]).all()


def test_limit_takes_every_class(tmp_path):
    digits.write_image_folder(tmp_path / "data", size=8, limit=20)
    for part in ("train", "val"):
        counts = [len(list(folder.iterdir())) for folder in sorted((tmp_path / "data" / part).iterdir())]
        assert counts == [2] * 10


def test_second_run_keeps_the_files(tmp_path, capsys):
    arguments = ["--layout", "cifar10", "--output", str(tmp_path / "d"), "--limit", "10"]
    assert digits.main(arguments) == 0
    assert "wrote cifar10" in capsys.readouterr().out
    before = (tmp_path / "d/test_batch.bin").stat().st_mtime_ns
    assert digits.main(arguments) == 0
    out = capsys.readouterr().out
    assert "already complete" in out and "10 for training and 10 held out" in out
    assert (tmp_path / "d/test_batch.bin").stat().st_mtime_ns == before


def test_refuses_a_folder_that_it_did_not_make(tmp_path, capsys):
    (tmp_path / "mine").write_text("keep me")
    assert digits.main(["--layout", "cifar10", "--output", str(tmp_path)]) == 2
    assert f"error: {tmp_path} exists and was not made by this program" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert digits.main(["--layout", "cifar10", "--output", str(tmp_path / "mine")]) == 2
    assert (tmp_path / "mine").read_text() == "keep me"


@pytest.mark.parametrize(
    ("damage", "limit", "message"),
    [
        (None, 3, "limit 2, asked for layout cifar10, size 32, limit 3"),
        (lambda path: path.unlink(), 2, "damaged: test_batch.bin"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), 2, "damaged: test_batch.bin"),
    ],
)
def test_another_recipe_and_a_damaged_data_set_are_refused(tmp_path, capsys, damage, limit, message):
    digits.write_cifar10(tmp_path / "d", limit=2)
    if damage:
        damage(tmp_path / "d/test_batch.bin")
    assert digits.main(["--layout", "cifar10", "--output", str(tmp_path / "d"), "--limit", str(limit)]) == 2
    assert message in capsys.readouterr().err


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / "d").mkdir()
    digits.write_cifar10(tmp_path / "d", limit=1)
    assert json.loads((tmp_path / "d" / digits.MARKER).read_text())["counts"] == {"train": 1, "val": 1}


def test_a_failure_leaves_nothing_behind(tmp_path, capsys, monkeypatch):
    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(digits, "_cifar10_record", full_disk)
    assert digits.main(["--layout", "cifar10", "--output", str(tmp_path / "d")]) == 1
    assert capsys.readouterr().err == "error: no space left on device\n"
    assert list(tmp_path.iterdir()) == []


def test_a_faster_writer_of_the_same_data_set_wins(tmp_path, monkeypatch):
    make_record = digits._cifar10_record

    def and_meanwhile(picture, label):
        monkeypatch.setattr(digits, "_cifar10_record", make_record)
        monkeypatch.setattr(digits.os, "getpid", lambda: -1)
        digits.write_cifar10(tmp_path / "d", limit=1)
        return make_record(picture, label)

    monkeypatch.setattr(digits, "_cifar10_record", and_meanwhile)
    digits.write_cifar10(tmp_path / "d", limit=1)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


# ---- COCO: real digits where the boxes are, none of the held-out ones in training

SIZE = 128


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco") / "data"
    line = coco_digits.write_coco(folder, train=60, val=30, size=SIZE)
    assert line == f"wrote coco data set to {folder}: 60 for training and 30 held out, {SIZE} x {SIZE} pixels"
    return folder


def contents(folder, part):
    return json.loads((folder / f"annotations/instances_{part}2017.json").read_text())


def rows_of(content):
    """The annotations of each image."""
    images = [image["id"] for image in content["images"]]
    return [[row for row in content["annotations"] if row["image_id"] == image] for image in images]


def test_layout_is_that_of_coco(coco):
    for part, count in (("train", 60), ("val", 30)):
        content = contents(coco, part)
        names = {path.name for path in (coco / f"{part}2017").iterdir()}
        assert names == {row["file_name"] for row in content["images"]}
        assert [category["name"] for category in content["categories"]] == list(digits.CLASS_NAMES)
        assert [category["id"] for category in content["categories"]] == list(range(1, 11))
        assert len(content["images"]) == count
        for image in content["images"]:
            with Image.open(coco / f"{part}2017" / image["file_name"]) as picture:
                assert (picture.size, picture.mode, picture.format) == ((SIZE, SIZE), "RGB", "JPEG")
                assert (image["width"], image["height"]) == picture.size
        assert [row["id"] for row in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))
        for row in content["annotations"]:
            x, y, width, height = row["bbox"]
            assert min(x, y) >= 0 and x + width <= SIZE and y + height <= SIZE
            assert row["area"] == width * height and row["iscrowd"] == 0 and 1 <= row["category_id"] <= 10


def test_pycocotools_reads_it(coco):
    read = pytest.importorskip("pycocotools.coco").COCO(str(coco / "annotations/instances_val2017.json"))
    assert len(read.getImgIds()) == 30 and len(read.getCatIds()) == 10


def test_one_to_four_digits_of_many_sizes_and_a_few_empty_images(coco):
    content = contents(coco, "train")
    counts = [len(rows) for rows in rows_of(content)]
    assert counts.count(0) == 3 and set(counts) == {0, 1, 2, 3, 4}
    longer = [max(row["bbox"][2:]) for row in content["annotations"]]
    assert 8 <= min(longer) < 0.15 * SIZE and max(longer) > 0.33 * SIZE and len(set(longer)) > 15
    assert {row["category_id"] for row in content["annotations"]} == set(range(1, 11))


def test_boxes_hardly_overlap(coco):
    for part in ("train", "val"):
        for rows in rows_of(contents(coco, part)):
            for one, two in itertools.combinations(rows, 2):
                assert coco_digits.overlap(one["bbox"], two["bbox"]) <= coco_digits.MOST_OVERLAP
    assert coco_digits.overlap([0, 0, 10, 10], [5, 5, 10, 10]) == 0.25
    assert coco_digits.overlap([0, 0, 10, 10], [2, 2, 2, 2]) == 1
    assert coco_digits.overlap([0, 0, 2, 2], [2, 0, 2, 2]) == 0


def correlation(picture, digit, box):
    """Of a digit 8 x 8, fitted into the box, with the grey values there: 1 or -1 where it is written there."""
    x, y, width, height = box
    ink = np.flatnonzero(digit.max(axis=0) > 90), np.flatnonzero(digit.max(axis=1) > 90)
    part = digit[ink[1][0] : ink[1][-1] + 1, ink[0][0] : ink[0][-1] + 1]
    fitted = np.asarray(Image.fromarray(part).resize((width, height), Image.Resampling.BICUBIC), float).ravel()
    return np.corrcoef(fitted, picture[y : y + height, x : x + width].ravel())[0, 1]


@pytest.mark.parametrize("part", ["train", "val"])
def test_the_digits_are_those_of_the_part_and_readable(coco, part):
    pictures, labels = digits.load_digits()
    own, other = digits.split(labels) if part == "train" else digits.split(labels)[::-1]
    content = contents(coco, part)
    found, contrasts = [], []
    for row in content["annotations"][:40]:
        name = content["images"][row["image_id"] - 1]["file_name"]
        picture = np.asarray(Image.open(coco / f"{part}2017" / name).convert("L"), float)
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


def test_the_same_every_time(coco, tmp_path):
    coco_digits.write_coco(tmp_path / "again", train=60, val=30, size=SIZE)
    for path in sorted(coco.rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(coco)).read_bytes(), path.name
    boxes = [row["bbox"] for row in contents(coco, "train")["annotations"]]
    assert boxes[:2] == [[61, 37, 15, 20], [28, 49, 19, 25]]  # measured results belong to this data set


def test_second_run_keeps_the_files_and_another_recipe_is_refused(coco, capsys):
    arguments = ["--output", str(coco), "--train", "60", "--val", "30", "--size", str(SIZE)]
    assert coco_digits.main(arguments) == 0
    assert "already complete: coco data set" in capsys.readouterr().out
    assert coco_digits.main([*arguments, "--size", "160"]) == 2
    assert "asked for layout coco, size 160" in capsys.readouterr().err


# ---- Both programs


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        (digits, ["--layout", "cifar10", "--output", "d", "--size", "64"], "32 x 32 pixels only"),
        (digits, ["--layout", "imagefolder", "--output", "d", "--size", "0"], "not a whole number from 1 up"),
        (digits, ["--layout", "coco", "--output", "d"], "invalid choice"),
        (digits, ["--layout", "cifar10"], "--output"),
        (coco_digits, ["--output", "d", "--size", "63"], "64 pixels or more"),
        (coco_digits, ["--output", "d", "--train", "0"], "not a whole number from 1 up"),
        (coco_digits, ["--train", "3"], "--output"),
    ],
)
def test_wrong_usage_has_status_2(program, arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        program.main(arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "arguments", "kind", "what"),
    [
        (digits, "--layout pictures --limit 1", "pictures", "1 held out, 32 x 32 pixels"),
        (coco_digits, "--train 2 --val 1 --size 64", "coco", "2 for training and 1 held out, 64 x 64 pixels"),
    ],
)
def test_runs_as_a_program_from_anywhere(tmp_path, program, arguments, kind, what):
    command = [sys.executable, program.__file__, "--output", "out", *arguments.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"wrote {kind} data set to {tmp_path / 'out'}: {what}\n"), done.stderr


@pytest.mark.parametrize(("program", "arguments"), [(digits, ["--layout", "cifar10"]), (coco_digits, [])])
def test_says_what_to_install_without_scikit_learn(tmp_path, monkeypatch, capsys, program, arguments):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert program.main([*arguments, "--output", str(tmp_path / "d")]) == 1
    assert "pip install -r requirements-dev.txt" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
