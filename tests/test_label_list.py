"""The label list of class folders: names as infer.py gives them, indices as the model has them."""

from __future__ import annotations

import json
import os
from pathlib import Path

from model_utils.checkpoint import save
from model_utils.classification.label_list import label_lines, model_classes, write_list
from model_utils.classification.postprocess import read_labels
from model_utils.errors import DataError, UsageError
from model_utils.picture_files import find_pictures, result_names
from toy.model import MODEL
from toy.programs import run_label_list
from toy_runs import command_line

import mindspore as ms
import pytest
from PIL import Image

CONFIG = MODEL.read_config([], "")
ABOUT = {
    "network": {**MODEL.describe_network(CONFIG), "num_classes": 3},
    "input": MODEL.input_spec(CONFIG),
    "batch_size": 1,
}


def write_class_folders(root: Path, *files: str) -> Path:
    for index, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (index * 20, 0, 0)).save(root / file)
    return root


def write_model(path: Path, names: list[str] | None) -> Path:
    path.write_bytes(b"")
    network = {**ABOUT["network"], "num_classes": len(names or "abc")}
    path.with_name(f"{path.name}.json").write_text(json.dumps({**ABOUT, "network": network, "class_names": names}))
    return path


def test_class_folders(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_class_folders(tmp_path / "val", "dog/b.1.jpg", "dog/a.png", "cat/c:d.jpg", "cat/a.png")
    write_class_folders(tmp_path / "val", ".thumbnails/a.jpg")
    (tmp_path / "val/cat/.DS_Store").write_bytes(b"")
    run_label_list(["--input", "val"])
    assert (tmp_path / "label.txt").read_text() == "cat__a:0\nc:d:0\ndog__a:1\nb.1:1\n"
    assert capsys.readouterr().out == "wrote label.txt: 4 pictures\n"


def test_the_names_are_those_of_the_results(few_digits):
    """For the same folder, in any order."""
    lines = label_lines(few_digits / "val")
    _, files = find_pictures(str(few_digits / "val"))
    assert sorted(line.rpartition(":")[0] for line in lines) == sorted(result_names(files)) and len(lines) == 40
    assert [int(line.rpartition(":")[2]) for line in lines] == [digit for digit in range(10) for _ in range(4)]


def test_the_classes_of_the_model(tmp_path):
    """Their order, and classes that the folder lacks; also of a checkpoint."""
    root, label_file = write_class_folders(tmp_path / "val", "dog/a.jpg", "ant/b.jpg"), tmp_path / "label.txt"
    checkpoint = tmp_path / "m.ckpt"
    save(checkpoint, {"w": ms.Tensor([1.0])}, {**ABOUT, "class_names": ["dog", "cat", "ant"]})
    for model in (write_model(tmp_path / "m.onnx", ["dog", "cat", "ant"]), checkpoint):
        run_label_list(command_line(input=root, label_file=label_file, model_file=model))
        assert label_file.read_text() == "b:2\na:0\n"
    run_label_list(
        command_line(input=root, label_file=tmp_path / "b", model_file=write_model(tmp_path / "n.onnx", None))
    )
    assert (tmp_path / "b").read_text() == "b:0\na:1\n", "a model without names has those of the folders"


def test_a_class_that_the_model_does_not_know(tmp_path):
    root = write_class_folders(tmp_path / "val", "dog/a.jpg", "ant/b.jpg")
    with pytest.raises(DataError, match="has the class 'ant', which the model of 2 classes does not know"):
        label_lines(root, model_classes(MODEL, str(write_model(tmp_path / "m.onnx", ["dog", "cat"]))))


def test_models_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="none.ckpt is not a file"):
        model_classes(MODEL, str(tmp_path / "none.ckpt"))
    with pytest.raises(DataError, match="none.mindir.json.* is missing"):
        model_classes(MODEL, str(tmp_path / "none.mindir"))


def test_other_content_is_kept(tmp_path):
    root, label_file = write_class_folders(tmp_path / "val", "dog/a.jpg"), tmp_path / "label.txt"
    options = command_line(input=root, label_file=label_file)
    run_label_list(options)
    run_label_list(options)  # the same content again is no loss
    label_file.write_text("mine:1\n")
    with pytest.raises(DataError, match="label_file=.*label.txt exists and holds something else"):
        run_label_list(options)
    assert label_file.read_text() == "mine:1\n"
    with pytest.raises(DataError, match="holds something else"):
        write_list(tmp_path / "val", ["a:0"])


def test_a_name_that_is_not_utf_8(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    root = write_class_folders(tmp_path / "val", f"dog/{name}.jpg")
    run_label_list(command_line(input=root, label_file=tmp_path / "label.txt"))
    assert (tmp_path / "label.txt").read_bytes() == b"caf\xe9:0\n"


def test_a_near_class_of_the_model_is_named(tmp_path):
    root = write_class_folders(tmp_path / "val", "hot dog/a.jpg", "ant/b.jpg")
    with pytest.raises(DataError, match="; 'Hot_dog' is there, which differs in: underscores"):
        label_lines(root, ["ant", "Hot_dog"])


NAMES = ["a b", "a:b", "a:0", ":x", "a\u2028b", "a\x0bb", "caf\u00e9", "\ufeffa", "a\tb", "#a", "a\\b", "%20"]


def test_what_is_written_is_read(tmp_path):
    """By postprocess.py, whatever the names hold; as lines and as JSON."""
    names = NAMES + [os.fsdecode(b"caf\xe9"), os.fsdecode(b"\xff\xfea")]
    root = write_class_folders(tmp_path / "val", *(f"cat/{name}.jpg" for name in names), "dog/x.png")
    _, files = find_pictures(str(root))
    for label_file in (tmp_path / "label.txt", tmp_path / "label.json"):
        run_label_list(command_line(input=root, label_file=label_file))
        labels = read_labels(label_file)
        assert sorted(labels) == sorted(result_names(files)) and sum(labels.values()) == 1


@pytest.mark.parametrize("name", ["a ", " a", "a\n", "a\nb", "\na", "a\r", "a\u00a0", "\t", "a\u3000"])
def test_names_that_cannot_stand_in_a_list(tmp_path, name):
    root = write_class_folders(tmp_path / "val", "cat/ok.jpg", f"cat/{name}.jpg")
    with pytest.raises(
        DataError, match="cannot stand in a label list, because of a blank at an end or a line break; rename"
    ):
        run_label_list(command_line(input=root, label_file=tmp_path / "label.txt"))
    assert not (tmp_path / "label.txt").exists()


def test_system_files_have_no_line(tmp_path):
    root = write_class_folders(tmp_path / "val", "cat/a.jpg", "cat/._a.jpg", "@eaDir/b.jpg", ".ipynb_checkpoints/c.jpg")
    (root / "cat/Thumbs.db").write_bytes(b"x")
    assert label_lines(root) == ["a:0"]


def test_folders_that_cannot_be(tmp_path):
    with pytest.raises(UsageError, match="--input is missing"):
        run_label_list([])
    with pytest.raises(DataError, match="does not exist"):
        run_label_list(["--input", str(tmp_path / "absent")])
    flat = write_class_folders(tmp_path / "flat", "a.jpg")
    with pytest.raises(DataError, match="outside any class folder"):
        run_label_list(["--input", str(flat), "--label_file", str(tmp_path / "label.txt")])
    assert not (tmp_path / "label.txt").exists()
