"""Tests of utils/sample_data: the digits are real, the layouts are those that the models read, nothing is overwritten."""

import json
import subprocess
import sys
from pathlib import Path

from sample_data import digits

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

RECORD = 1 + 3 * 32 * 32
PROGRAM = Path(digits.__file__)


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


def test_grey_values_fill_their_range():
    pictures, _ = digits.load_digits()
    assert (pictures.dtype, pictures.min(), pictures.max()) == (np.uint8, 0, 255)
    assert sorted(set(pictures.ravel()))[:3] == [0, 16, 32]


def test_cifar10_files_have_the_sizes_of_the_format(cifar10):
    assert (cifar10 / "data_batch_1.bin").stat().st_size == 1437 * RECORD
    assert (cifar10 / "test_batch.bin").stat().st_size == 360 * RECORD
    names = (cifar10 / "batches.meta.txt").read_text()
    assert names == "zero\none\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n"


def test_cifar10_records_are_the_digits(cifar10):
    source = load_digits()
    for name, indices in zip(("data_batch_1.bin", "test_batch.bin"), digits.split(source.target)):
        labels, pictures = read_records(cifar10 / name)
        assert (labels == source.target[indices]).all()
        assert (pictures[:, 0] == pictures[:, 1]).all() and (pictures[:, 0] == pictures[:, 2]).all()
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
    target = load_digits().target
    for line in lines:
        name, label = line.split(":")
        assert target[int(name.split("-")[0])] == int(label) == int(name[-1])
    with Image.open(files[0]) as picture:
        assert (picture.size, picture.mode) == ((40, 40), "RGB")


def test_pictures_are_the_held_out_records(cifar10, tmp_path):
    digits.write_pictures(tmp_path / "pictures", limit=3)
    _, records = read_records(cifar10 / "test_batch.bin")
    for position, line in enumerate((tmp_path / "pictures/label.txt").read_text().splitlines()):
        with Image.open(tmp_path / "pictures" / f"{line.split(':')[0]}.png") as picture:
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


def test_refuses_another_recipe_in_the_same_folder(tmp_path, capsys):
    digits.write_pictures(tmp_path / "p", limit=2)
    assert digits.main(["--layout", "pictures", "--output", str(tmp_path / "p"), "--limit", "3"]) == 2
    assert "limit 2, asked for layout pictures, size 32, limit 3" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_reports_a_damaged_data_set(tmp_path, capsys, damage):
    digits.write_cifar10(tmp_path / "d", limit=2)
    victim = tmp_path / "d/test_batch.bin"
    if damage == "missing":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:-1])
    assert digits.main(["--layout", "cifar10", "--output", str(tmp_path / "d"), "--limit", "2"]) == 2
    assert "damaged: test_batch.bin" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layout", "cifar10", "--output", "d", "--size", "64"], "32 x 32 pixels only"),
        (["--layout", "imagefolder", "--output", "d", "--size", "0"], "not a whole number from 1 up"),
        (["--layout", "coco", "--output", "d"], "invalid choice"),
        (["--layout", "cifar10"], "--output"),
    ],
)
def test_wrong_usage_has_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        digits.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_runs_as_a_program_from_anywhere(tmp_path):
    command = [sys.executable, str(PROGRAM), "--layout", "pictures", "--output", "out", "--limit", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote pictures data set to {tmp_path / 'out'}: 1 held out, 32 x 32 pixels\n"


def test_says_what_to_install_without_scikit_learn(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert digits.main(["--layout", "cifar10", "--output", str(tmp_path / "d")]) == 1
    assert "pip install -r requirements-dev.txt" in capsys.readouterr().err
