"""Accuracy of result files against a label list, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from model_utils.classification import postprocess
from model_utils.errors import DataError, UsageError
from model_utils.model import Lines
from toy.model import MODEL
from toy_runs import command_line

import numpy as np
import pytest

LOGITS = {  # seven classes: right at once, right among five, wrong, and a tie that the lower index wins
    "n01_1.first": ([0, 1, 9, 3, 4, 5, 6], 2),
    "n01:2": ([0, 6, 5, 4, 3, 2, 1], 5),
    "n01_3": ([0, 6, 5, 4, 3, 2, 1], 6),
    "n01_4": ([1, 1, 1, 1, 1, 1, 1], 0),
}
PLAIN = dataclasses.replace(MODEL, lines=Lines())


def write_results(folder: Path, logits: dict = LOGITS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (values, _) in logits.items():
        np.array(values, np.float32).tofile(folder / f"{name}.bin")
    return folder


def write_labels(path: Path, text: str | None = None) -> Path:
    path.write_text(text or "".join(f"{name}:{label}\n" for name, (_, label) in LOGITS.items()), encoding="utf-8")
    return path


def run(folder: Path, labels: Path, model=PLAIN) -> None:
    postprocess.run(model, command_line(result_path=folder, label_file=labels))


# ---- Lines -----------------------------------------------------------------------------------------------------------


def test_prints_the_documented_lines(tmp_path, capsys):
    folder = write_results(tmp_path / "result_Files")
    (folder / "notes.txt").write_text("not a result")
    (folder / ".hidden.bin").write_bytes(b"")
    run(folder, write_labels(tmp_path / "label.txt"))
    expected = "'top_1_accuracy': 50.00%, 'top_5_accuracy': 75.00%\ntotal=4, top1_correct=2, top5_correct=3\n"
    assert capsys.readouterr().out == expected


def test_the_line_of_a_model(tmp_path, capsys):
    """A template with all its fields, after the lines that all models have."""
    model = dataclasses.replace(MODEL, lines=Lines(result="{total} {top_1} {top_5:.3f}"))
    run(write_results(tmp_path / "r"), write_labels(tmp_path / "label.txt"), model)
    assert capsys.readouterr().out.splitlines()[1:] == ["total=4, top1_correct=2, top5_correct=3", "4 0.5 0.750"]


def test_rounds_to_two_places(tmp_path, capsys):
    folder = write_results(tmp_path / "r", {"a": ([0, 1], 1), "b": ([0, 1], 1), "c": ([0, 1], 0)})
    run(folder, write_labels(tmp_path / "label.txt", "a:1\nb:1\nc:0\n"))
    assert "'top_1_accuracy': 66.67%, 'top_5_accuracy': 100.00%" in capsys.readouterr().out


@pytest.mark.parametrize("classes", [1, 3, 5, 1000])
def test_top_5_is_top_k_of_few_classes(classes):
    logits = np.arange(classes, 0, -1, dtype=np.float32)  # class 0 is the likeliest
    assert postprocess.hits(logits, 0) == (True, True)
    assert postprocess.hits(logits, classes - 1) == (classes == 1, classes <= 5)


def test_the_lowest_index_wins_a_tie():
    """As in eval.py; long rows are sorted in another way than short ones."""
    logits = np.random.RandomState(7).randint(0, 3, 200).astype(np.float32)
    order = sorted(range(200), key=lambda index: (-logits[index], index))
    assert [postprocess.hits(logits, order[place]) for place in (0, 1, 4, 5)] == [
        (True, True), (False, True), (False, True), (False, False)
    ]  # fmt: skip


def test_label_without_result_is_reported(tmp_path, capsys):
    labels = write_labels(tmp_path / "label.txt")
    labels.write_text(labels.read_text() + "".join(f"absent_{number}:0\n" for number in range(7)))
    run(write_results(tmp_path / "r"), labels)
    output = capsys.readouterr().out
    assert (
        "7 of 11 names" in output and "absent_0, absent_1" in output and "and 2 more" in output and "total=4," in output
    )


# ---- Label lists -----------------------------------------------------------------------------------------------------


def test_labels_with_colons_spaces_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "label.txt"
    path.write_bytes("\ufeffa:b:3\r\n\r\n  n01_1.first : 12 \r\nÄ\u2028x:0".encode())
    assert postprocess.read_labels(path) == {"a:b": 3, "n01_1.first": 12, "Ä\u2028x": 0}
    path.write_bytes(b"caf\xe9:1\n")
    assert postprocess.read_labels(path) == {"caf\udce9": 1}, "a name that is not UTF-8"


@pytest.mark.parametrize(
    "text, message",
    [
        ("a\n", "label.txt:1: 'a'"),
        ("a:0\n:1\n", "label.txt:2"),
        ("a:one\n", "label.txt:1"),
        ("a:-1\n", "label.txt:1"),
        ("a:1.0\n", "label.txt:1"),
        ("a:²\n", "label.txt:1"),
        ("a:0\nb:1\na:0\n", "label.txt:3: 'a' stands on an earlier line"),
        ("\n \n", "holds no line"),
    ],
)
def test_bad_label_lines_are_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        postprocess.read_labels(write_labels(tmp_path / "label.txt", text))


def test_labels_in_json(tmp_path, capsys):
    path = tmp_path / "label.json"
    path.write_text(json.dumps({f"{name}.jpg": label for name, (_, label) in LOGITS.items()}))
    run(write_results(tmp_path / "r"), path)
    assert "total=4, top1_correct=2, top5_correct=3" in capsys.readouterr().out
    for text, message in (("{", "is not JSON"), ("[1]", "an object"), ("{}", "an object"), ('{"a": -1}', "an object"),
                          ('{"a": true}', "an object"), ('{"a": "0"}', "an object")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            postprocess.read_labels(path)


def test_label_list_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="label_file=.*none.txt cannot be read: .*give a text file"):
        postprocess.read_labels(tmp_path / "none.txt")


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


# ---- Result files ----------------------------------------------------------------------------------------------------


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


def test_options_that_are_missing(tmp_path):
    with pytest.raises(UsageError, match="--label_file is missing; give a text file"):
        postprocess.run(PLAIN, ["--result_path", str(tmp_path)])


def test_sizes_are_compared_before_anything_is_read(tmp_path, monkeypatch):
    folder = write_results(tmp_path / "r")
    names = sorted(path.stem for path in folder.glob("*.bin"))
    labels = tmp_path / "label.txt"
    labels.write_text("".join(f"{name}:0\n" for name in names))
    with open(folder / f"{names[-1]}.bin", "wb") as file:
        file.truncate(4 << 30)  # sparse
    read = []
    monkeypatch.setattr(np, "fromfile", lambda path, _: read.append(path.stem) or np.zeros(7, "<f4"))
    with pytest.raises(DataError, match="4,294,967,296 bytes, more than logits of one picture take"):
        postprocess.count_hits(sorted(folder.glob("*.bin")), [0] * len(names))
    assert read == names[:-1]


def test_what_is_no_regular_file_among_the_results(tmp_path):
    folder = write_results(tmp_path / "r")
    os.mkfifo(folder / "z.bin")
    with pytest.raises(DataError, match="z.bin is a named pipe, not a regular file"):
        postprocess.count_hits(sorted(folder.glob("*.bin")), [0] * 9)


def test_a_near_name_of_the_list(tmp_path):
    with pytest.raises(DataError, match="1 results have no line in the label list: a b; 'A_b' is there, which differs"):
        postprocess.match_labels(["a b", "c"], {"A_b": 1, "c": 2})
