"""Accuracy of result files, the label list that belongs to them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path, PurePath

import create_label_list
import postprocess
from conftest import program
from src.model_utils.config import DataError, UsageError

import numpy as np
import pytest
from PIL import Image
from src.picture_files import result_names

LOGITS = {  # seven classes: right at once, right among five, wrong, and a tie that the lower index wins
    "n01_1.first": ([0, 1, 9, 3, 4, 5, 6], 2),
    "n01:2": ([0, 6, 5, 4, 3, 2, 1], 5),
    "n01_3": ([0, 6, 5, 4, 3, 2, 1], 6),
    "n01_4": ([1, 1, 1, 1, 1, 1, 1], 0),
}


def write_results(folder: Path, logits: dict = LOGITS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (values, _) in logits.items():
        np.array(values, np.float32).tofile(folder / f"{name}.bin")
    return folder


def write_labels(path: Path, text: str | None = None) -> Path:
    path.write_text(text or "".join(f"{name}:{label}\n" for name, (_, label) in LOGITS.items()), encoding="utf-8")
    return path


def run(folder: Path, labels: Path) -> None:
    postprocess.main(["--result_path", str(folder), "--label_file", str(labels)])


def write_class_folders(root: Path, *files: str) -> Path:
    for index, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (index * 20, 0, 0)).save(root / file)
    return root


def test_prints_the_documented_lines(tmp_path, capsys):
    folder = write_results(tmp_path / "result_Files")
    (folder / "notes.txt").write_text("not a result")
    run(folder, write_labels(tmp_path / "label.txt"))
    expected = "'top_1_accuracy': 50.00%, 'top_5_accuracy': 75.00%\ntotal=4, top1_correct=2, top5_correct=3\n"
    assert capsys.readouterr().out == expected


def test_rounds_to_two_places(tmp_path, capsys):
    folder = write_results(tmp_path / "r", {"a": ([0, 1], 1), "b": ([0, 1], 1), "c": ([0, 1], 0)})
    run(folder, write_labels(tmp_path / "label.txt", "a:1\nb:1\nc:0\n"))
    assert "'top_1_accuracy': 66.67%, 'top_5_accuracy': 100.00%" in capsys.readouterr().out


@pytest.mark.parametrize("classes", [1, 3, 5, 1000])
def test_top_5_is_top_k_of_few_classes(classes):
    logits = np.arange(classes, 0, -1, dtype=np.float32)  # class 0 is the likeliest
    assert postprocess.hits(logits, 0) == (True, True)
    assert postprocess.hits(logits, classes - 1) == (classes == 1, classes <= 5)


def test_labels_with_colons_spaces_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "label.txt"
    path.write_bytes("\ufeffa:b:3\r\n\r\n  n01_1.first : 12 \r\nÄ:0".encode())
    assert postprocess.read_labels(path) == {"a:b": 3, "n01_1.first": 12, "Ä": 0}


@pytest.mark.parametrize(
    "text, message",
    [
        ("a\n", "label.txt:1: 'a'"),
        ("a:0\n:1\n", "label.txt:2"),
        ("a:one\n", "label.txt:1"),
        ("a:-1\n", "label.txt:1"),
        ("a:²\n", "label.txt:1"),
        ("a:0\nb:1\na:0\n", "label.txt:3: 'a' stands on an earlier line"),
        ("\n \n", "holds no line"),
    ],
)
def test_bad_label_lines_are_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        postprocess.read_labels(write_labels(tmp_path / "label.txt", text))


def test_label_names_may_carry_the_ending_of_the_picture():
    labels, missing = postprocess.match_labels(["a.b", "c", "d.v2"], {"a.b.JPEG": 1, "c": 2, "d.v2": 3})
    assert (labels, missing) == ([1, 2, 3], [])
    labels, missing = postprocess.match_labels(["e.jpg", "e.png"], {"e.jpg": 4, "e.png": 5})
    assert (labels, missing) == ([4, 5], [])
    with pytest.raises(DataError, match="no line in the label list: d"):
        postprocess.match_labels(["d"], {"d.v2": 3})  # not the ending of a picture


def test_two_labels_for_one_result_are_refused():
    with pytest.raises(DataError, match="a.jpg and a.png"):
        postprocess.match_labels(["a"], {"a.jpg": 1, "a.png": 2})


def test_result_without_label_is_refused():
    with pytest.raises(DataError, match="2 results have no line in the label list: b, c"):
        postprocess.match_labels(["a", "b", "c"], {"a": 1})


def test_label_without_result_is_reported(tmp_path, capsys):
    labels = write_labels(tmp_path / "label.txt")
    labels.write_text(labels.read_text() + "absent_1:0\nabsent_2:0\n")
    run(write_results(tmp_path / "r"), labels)
    output = capsys.readouterr().out
    assert "2 of 6 names" in output and "absent_1, absent_2" in output and "total=4," in output


def test_class_index_out_of_range_is_refused(tmp_path):
    folder = write_results(tmp_path / "r", {"a": ([0, 1, 2], 0)})
    with pytest.raises(DataError, match="gives a the class 3; the results have classes 0 to 2"):
        run(folder, write_labels(tmp_path / "label.txt", "a:3\n"))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "b.bin has 0 bytes"),
        (b"12345", "b.bin has 5 bytes"),
        (np.zeros(6, np.float32).tobytes(), "b.bin holds 6 classes, a.bin 7"),
        (np.full(7, np.nan, np.float32).tobytes(), "b.bin holds values that are not finite"),
    ],
    ids=["empty", "odd size", "other size", "not finite"],
)
def test_bad_result_files_are_named(tmp_path, content, message):
    folder = write_results(tmp_path / "r", {"a": ([0] * 7, 0)})
    (folder / "b.bin").write_bytes(content)
    with pytest.raises(DataError, match=message):
        run(folder, write_labels(tmp_path / "label.txt", "a:0\nb:0\n"))


def test_folder_without_results_is_refused_with_a_hint(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        postprocess.find_results(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no .bin files"):
        postprocess.find_results(tmp_path)
    write_results(tmp_path / "result_Files")
    with pytest.raises(DataError, match="give .*result_Files"):
        postprocess.find_results(tmp_path)


def test_exit_status(tmp_path):
    labels = write_labels(tmp_path / "label.txt")
    (tmp_path / "empty").mkdir()
    wrong_usage = program("postprocess.py", "--result_path", "empty", cwd=tmp_path)
    assert wrong_usage.returncode == 2 and "error: --label_file is missing" in wrong_usage.stderr
    wrong_data = program("postprocess.py", "--result_path", "empty", "--label_file", labels, cwd=tmp_path)
    assert wrong_data.returncode == 1 and "error: result_path=empty" in wrong_data.stderr
    assert "Traceback" not in wrong_usage.stderr + wrong_data.stderr


def test_result_names():
    names = result_names([PurePath(name) for name in ("a.b.jpg", "x/1.jpg", "y/1.jpg", "x/2.jpg", "x/2.png")])
    assert names == ["a.b", "x__1", "y__1", "x__2.jpg", "x__2.png"]
    assert result_names([PurePath("x/A.jpg"), PurePath("y/a.jpg")]) == ["x__A", "y__a"]


def test_names_that_cannot_be_told_apart_are_refused():
    files = [PurePath(name) for name in ("x__1.jpg", "x__1.png", "x/1.jpg", "y/1.jpg")]
    with pytest.raises(DataError, match="x__1.jpg and x/1.jpg would have the same name"):
        result_names(files)


def test_label_list_of_class_folders(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_class_folders(tmp_path / "val", "dog/b.1.jpg", "dog/a.png", "cat/c:d.jpg", "cat/a.png")
    create_label_list.main(["--input", "val"])
    assert (tmp_path / "label.txt").read_text() == "cat__a:0\nc:d:0\ndog__a:1\nb.1:1\n"
    assert "wrote label.txt: 4 pictures" in capsys.readouterr().out


def test_label_list_follows_the_classes_of_the_model(tmp_path):
    root = write_class_folders(tmp_path / "val", "dog/a.jpg", "ant/b.jpg")
    about = {"network": {"name": "tinydarknet"}, "input": {}, "batch_size": 1}
    (tmp_path / "m.onnx.json").write_text(json.dumps({**about, "class_names": ["dog", "cat", "ant"]}))
    label_file = tmp_path / "label.txt"
    options = ["--input", str(root), "--label_file", str(label_file), "--model_file", str(tmp_path / "m.onnx")]
    create_label_list.main(options)
    assert label_file.read_text() == "b:2\na:0\n"
    (tmp_path / "m.onnx.json").write_text(json.dumps({**about, "class_names": ["dog", "cat"]}))
    with pytest.raises(DataError, match="'ant'"):
        create_label_list.main(options)


def test_label_list_keeps_other_content(tmp_path):
    root, label_file = write_class_folders(tmp_path / "val", "dog/a.jpg"), tmp_path / "label.txt"
    options = ["--input", str(root), "--label_file", str(label_file)]
    create_label_list.main(options)
    create_label_list.main(options)  # the same content again is no loss
    label_file.write_text("mine:1\n")
    with pytest.raises(DataError, match="holds something else"):
        create_label_list.main(options)
    assert label_file.read_text() == "mine:1\n"


def test_label_list_refuses_other_folders(tmp_path):
    with pytest.raises(UsageError, match="--input is missing"):
        create_label_list.main([])
    with pytest.raises(DataError, match="does not exist"):
        create_label_list.main(["--input", str(tmp_path / "absent")])
