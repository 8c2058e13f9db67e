"""Accuracy of result files against a label list, and the label list of class folders."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from model_utils.checkpoint import save
from model_utils.classification import postprocess
from model_utils.classification.label_list import label_lines, model_classes, write_list
from model_utils.errors import DataError, UsageError
from model_utils.inference import description
from model_utils.model import Lines
from model_utils.picture_files import find_pictures, result_names
from toy.model import MODEL
from toy.programs import run_label_list
from toy_runs import command_line

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

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


def test_prints_the_documented_lines(tmp_path, capsys):
    """Lines that all models have, then the template of a model with all its fields; labels without results are told."""
    folder, labels = write_results(tmp_path / "result_Files"), write_labels(tmp_path / "label.txt")
    (folder / "notes.txt").write_text("not a result")
    (folder / ".hidden.bin").write_bytes(b"")
    run(folder, labels)
    lines = "'top_1_accuracy': 50.00%, 'top_5_accuracy': 75.00%\ntotal=4, top1_correct=2, top5_correct=3\n"
    assert capsys.readouterr().out == lines
    labels.write_text(labels.read_text() + "".join(f"absent_{number}:0\n" for number in range(7)))
    run(folder, labels, dataclasses.replace(MODEL, lines=Lines(result="{total} {top_1} {top_5:.3f}")))
    output = capsys.readouterr().out
    assert output.endswith(f"{lines}4 0.5 0.750\n")
    assert "7 of 11 names" in output and "absent_0, absent_1" in output and "and 2 more" in output


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


def test_labels_with_colons_spaces_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "label.txt"
    path.write_bytes("\ufeffa:b:3\r\n\r\n  n01_1.first : 12 \r\nÄ\u2028x:0".encode())
    assert postprocess.read_labels(path) == {"a:b": 3, "n01_1.first": 12, "Ä\u2028x": 0}
    path.write_bytes(b"caf\xe9:1\n")
    assert postprocess.read_labels(path) == {"caf\udce9": 1}, "a name that is not UTF-8"


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("label.txt", "a\n", "label.txt:1: 'a'"),
        ("label.txt", "a:0\n:1\n", "label.txt:2"),
        ("label.txt", "a:one\n", "label.txt:1"),
        ("label.txt", "a:-1\n", "label.txt:1"),
        ("label.txt", "a:²\n", "label.txt:1"),
        ("label.txt", "a:0\nb:1\na:0\n", "label.txt:3: 'a' stands on an earlier line"),
        ("label.txt", "\n \n", "holds no line"),
        ("label.txt", None, "label_file=.*label.txt cannot be read: .*lines NAME:CLASS_INDEX"),
        ("label.json", "{", "is not JSON"),
        ("label.json", "[1]", "an object"),
        ("label.json", "{}", "an object"),
        ("label.json", '{"a": -1}', "an object"),
        ("label.json", '{"a": true}', "an object"),
        ("label.json", '{"a": "0"}', "an object"),
    ],
)
def test_bad_label_lists(tmp_path, name, text, message):
    if text is not None:
        write_labels(tmp_path / name, text)
    with pytest.raises(DataError, match=message):
        postprocess.read_labels(tmp_path / name)


def test_labels_in_json(tmp_path):
    assert postprocess.read_labels(write_labels(tmp_path / "label.json", '{"a.jpg": 1, "b": 0}')) == {
        "a.jpg": 1,
        "b": 0,
    }


NO_INDICES = [
    "9" * 5000,
    "9" * 10,
    "\u00b2",
    "\u0663",
    "1e400",
    "1.0",
    "-1",
    "+1",
    "0x1",
    "1 2",
    "true",
    "\uff11",
    "NaN",
]


@pytest.mark.parametrize("number", NO_INDICES)
@pytest.mark.parametrize("ending", ["txt", "json"])
def test_indices_that_cannot_be_are_one_short_line(tmp_path, number, ending):
    text = f'{{"a": {number}}}' if ending == "json" else f"a:{number}\n"
    labels = write_labels(tmp_path / f"label.{ending}", text)
    with pytest.raises(DataError) as caught:
        postprocess.read_labels(labels)
    assert str(labels) in str(caught.value) and len(str(caught.value)) < 500 and "\n" not in str(caught.value)


@pytest.mark.parametrize("depth", [100, 900, 2000, 100_000])
@pytest.mark.parametrize("opened, closed", ["[]", ('{"a":', "}"), ("[", "")])
def test_labels_of_many_levels(tmp_path, depth, opened, closed):
    inner = "1" if closed == "}" else ""
    labels = write_labels(tmp_path / "label.json", opened * depth + inner + closed * depth)
    with pytest.raises(DataError, match="label.json.* is not JSON|an object {NAME: CLASS_INDEX}"):
        postprocess.read_labels(labels)


@pytest.mark.parametrize("line", ["x" * 1_000_000, "x" * 1_000_000 + ":y", ":" * 1_000_000])
def test_a_line_without_end_is_shown_in_short(tmp_path, line):
    with pytest.raises(DataError) as caught:
        postprocess.read_labels(write_labels(tmp_path / "label.txt", line))
    assert len(str(caught.value)) < 500


def test_label_names_may_carry_the_ending_of_the_picture():
    for names, labels, found in (
        (["a.b", "c", "d.v2"], {"a.b.JPEG": 1, "c": 2, "d.v2": 3}, [1, 2, 3]),
        (["e.jpg", "e.png"], {"e.jpg": 4, "e.png": 5}, [4, 5]),
    ):
        assert postprocess.match_labels(names, labels) == (found, [])
    for names, labels, message in (
        (["d"], {"d.v2": 3}, "no line in the label list: d"),  # not the ending of a picture
        (["a", "b", "c"], {"a": 1}, "2 results have no line in the label list: b, c"),
        (["a"], {"a.jpg": 1, "a.png": 2}, "a.jpg and a.png"),
    ):
        with pytest.raises(DataError, match=message):
            postprocess.match_labels(names, labels)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "b.bin has 0 bytes"),
        (b"12345", "b.bin has 5 bytes"),
        (np.zeros(6, np.float32).tobytes(), "b.bin holds 6 classes, a.bin 7"),
        (np.full(7, np.nan, np.float32).tobytes(), "b.bin holds values that are not finite"),
    ],
)
def test_bad_result_files_are_named(tmp_path, content, message):
    folder = write_results(tmp_path / "r", {"a": ([0] * 7, 0)})
    (folder / "b.bin").write_bytes(content)
    with pytest.raises(DataError, match=message):
        run(folder, write_labels(tmp_path / "label.txt", "a:0\nb:6\n"))


def test_a_class_that_the_results_do_not_have(tmp_path):
    folder = write_results(tmp_path / "r", {"a": ([0] * 7, 0), "b": ([0] * 7, 0)})
    with pytest.raises(DataError, match="gives b the class 7; the results have classes 0 to 6"):
        run(folder, write_labels(tmp_path / "label.txt", "a:0\nb:7\n"))


def test_folder_without_results_is_refused_with_a_hint(tmp_path):
    write_results(tmp_path / "parent" / "result_Files")
    for name, message in (
        ("absent", "is not a folder"),
        (".", "holds no .bin files"),
        ("parent", "give .*result_Files"),
    ):
        with pytest.raises(DataError, match=message):
            postprocess.find_results(tmp_path / name)
    with pytest.raises(UsageError, match="--label_file is missing; give a text file"):
        postprocess.run(PLAIN, ["--result_path", str(tmp_path)])


ABOUT = {**description(MODEL, MODEL.read_config([], ""), None), "batch_size": 1}


def write_class_folders(root: Path, *files: str) -> Path:
    for index, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (index * 20, 0, 0)).save(root / file)
    return root


def write_model(path: Path, names: list[str] | None) -> Path:
    path.write_bytes(b"")
    path.with_name(f"{path.name}.json").write_text(json.dumps({**ABOUT, "class_names": names}))
    return path


def test_class_folders(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_class_folders(tmp_path / "val", "dog/b.1.jpg", "dog/a.png", "cat/c:d.jpg", "cat/a.png")
    write_class_folders(tmp_path / "val", ".thumbnails/a.jpg")
    (tmp_path / "val/cat/.DS_Store").write_bytes(b"")
    run_label_list(["--input", "val"])
    assert (tmp_path / "label.txt").read_text() == "cat__a:0\nc:d:0\ndog__a:1\nb.1:1\n"
    assert capsys.readouterr().out == "wrote label.txt: 4 pictures\n"


def test_the_classes_of_the_model(tmp_path):
    """Their order, and classes that the folder lacks; also of a checkpoint."""
    root, label_file = write_class_folders(tmp_path / "val", "dog/a.jpg", "ant/b.jpg"), tmp_path / "label.txt"
    checkpoint = tmp_path / "m.ckpt"
    save(checkpoint, {"w": ms.Tensor([1.0])}, {**ABOUT, "class_names": ["dog", "cat", "ant"]})
    for model, wanted in (
        (write_model(tmp_path / "m.onnx", ["dog", "cat", "ant"]), "b:2\na:0\n"),
        (checkpoint, "b:2\na:0\n"),
        (write_model(tmp_path / "n.onnx", None), "b:0\na:1\n"),  # without names: those of the folders
    ):
        run_label_list(command_line(input=root, label_file=label_file, model_file=model))
        assert label_file.read_text() == wanted
        if model is checkpoint:
            label_file.unlink()
    for model, message in (
        (
            write_model(tmp_path / "k.onnx", ["dog", "cat"]),
            "the class 'ant', which the model of 2 classes does not know",
        ),
        (tmp_path / "none.ckpt", "none.ckpt is not a file"),
        (tmp_path / "none.mindir", "none.mindir.json.* cannot be read"),
    ):
        with pytest.raises(DataError, match=message):
            label_lines(root, model_classes(MODEL, str(model)))


def test_other_content_is_kept(tmp_path):
    """A name that is not UTF-8 is one too."""
    name, label_file = os.fsdecode(b"caf\xe9"), tmp_path / "label.txt"
    options = command_line(input=write_class_folders(tmp_path / "val", f"dog/{name}.jpg"), label_file=label_file)
    for _ in range(2):  # the same content again is no loss
        run_label_list(options)
        assert label_file.read_bytes() == b"caf\xe9:0\n"
    label_file.write_text("mine:1\n")
    with pytest.raises(DataError, match="label_file=.*label.txt exists and holds something else"):
        run_label_list(options)
    assert label_file.read_text() == "mine:1\n"
    with pytest.raises(DataError, match="holds something else"):
        write_list(tmp_path / "val", ["a:0"])


def test_folders_that_cannot_be(tmp_path):
    with pytest.raises(UsageError, match="--input is missing"):
        run_label_list([])
    with pytest.raises(DataError, match="does not exist"):
        run_label_list(["--input", str(tmp_path / "absent")])
    flat = write_class_folders(tmp_path / "flat", "a.jpg")
    with pytest.raises(DataError, match="outside any class folder"):
        run_label_list(["--input", str(flat), "--label_file", str(tmp_path / "label.txt")])
    assert not (tmp_path / "label.txt").exists()


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
        labels = postprocess.read_labels(label_file)
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
