"""Which pictures a program reads, where its results go, and what it calls them."""

from __future__ import annotations

import re
from pathlib import Path, PurePath

from model_utils import picture_files
from model_utils.errors import DataError, UsageError
from model_utils.picture_files import find_pictures, fresh_folder, refuse_unsafe_output, result_names, unique_names

import pytest


@pytest.fixture
def notices(monkeypatch) -> list[str]:
    """What is logged."""
    found: list[str] = []
    monkeypatch.setattr(picture_files.get_logger(), "info", lambda message, *values: found.append(message % values))
    return found


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def test_a_file_a_folder_and_patterns(tmp_path, monkeypatch):
    everything = ["flower/1.jpg", "flower/2.x.png", "temple/1.jpg", "temple/3.bmp", "temple/4.JPG", "temple/deep/5.jPg"]
    touch(tmp_path, *everything, "a[1].jpg", "b*.txt")
    monkeypatch.chdir(tmp_path)
    for text, root, names in (
        ("temple/3.bmp", "temple", ["3.bmp"]),
        ("temple", "temple", ["1.jpg", "3.bmp", "4.JPG", "deep/5.jPg"]),
        (".", ".", ["a[1].jpg", *everything]),
        ("*/1.jpg", ".", ["flower/1.jpg", "temple/1.jpg"]),
        ("temple/**/*.[Jj][Pp][Gg]", "temple", ["1.jpg", "4.JPG", "deep/5.jPg"]),
        (
            str(tmp_path / "**" / "*.j*"),
            str(tmp_path),
            ["a[1].jpg", "flower/1.jpg", "temple/1.jpg", "temple/deep/5.jPg"],
        ),
        ("a[1].jpg", ".", ["a[1].jpg"]),  # a name with the characters of a pattern is a name
        ("b*.txt", ".", ["b*.txt"]),  # a file that is named has any ending
    ):
        assert find_pictures(text) == (Path(root), [Path(name) for name in names]), text


def test_other_files_are_skipped_with_a_notice(tmp_path, notices):
    others = (".hidden/c.jpg", "._b.jpg", "notes.txt", *(f"{number}.csv" for number in range(6)))
    touch(tmp_path, "b.jpg", "a.png", *others)
    assert find_pictures(str(tmp_path)) == (tmp_path, [Path("a.png"), Path("b.jpg")])
    system, notice = notices
    assert "skipped 2 hidden or system file(s) and folder(s)" in system and "._b.jpg" in system
    assert "7 file(s) that are not pictures" in notice and "0.csv" in notice and "and 2 more" in notice


def test_links_are_followed_once(tmp_path):
    touch(tmp_path / "in", "a.jpg")
    touch(tmp_path / "elsewhere", "b.jpg")
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "in/loop").symlink_to(tmp_path / "in", target_is_directory=True)
    assert find_pictures(str(tmp_path / "in")) == (tmp_path / "in", [Path("a.jpg"), Path("link/b.jpg")])


def test_earlier_results_are_no_pictures(tmp_path, notices):
    touch(tmp_path, "a.jpg", "out/annotated/a.png", "out/result_Files/a.bin", "out/mine.png", "other/annotated/b.png")
    assert find_pictures(str(tmp_path)) == (tmp_path, [Path("a.jpg"), Path("other/annotated/b.png")])
    assert notices == [f"notice: skipped results of infer.py: {tmp_path}/out"]


def test_endings_and_formats_of_other_programs(tmp_path):
    touch(tmp_path, "a.mp4", "b.jpg")
    assert find_pictures(str(tmp_path), [".mp4"], ["MP4"]) == (tmp_path, [Path("a.mp4")])
    with pytest.raises(DataError, match="holds no picture; files of the formats AVI are accepted"):
        find_pictures(str(tmp_path), [".avi"], ["AVI"])


@pytest.mark.parametrize(
    "source, message",
    [
        ("absent.jpg", "does not exist; give a picture, a folder or a pattern"),
        ("empty", "holds no picture; files of the formats JPEG, PNG, BMP, TIFF"),
        ("empty/*.jpg", "matches no picture"),
    ],
)
def test_no_pictures(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "empty/notes.txt")
    with pytest.raises(DataError, match=re.escape(f"input={source} {message}")):
        find_pictures(source)


def test_folders_in_use_are_refused(tmp_path, monkeypatch):
    """Renaming them would move a picture, the model, the program or the user's place."""
    touch(tmp_path, "here/file", "in/temple/1.jpg", "model/m.onnx", "home/x")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    inputs = [Path("../in/temple/1.jpg"), tmp_path / "model/m.onnx"]
    program = Path(picture_files.__file__).parent
    for text in (".", "..", "/", "../in", "../in/temple", "../in/../in", "../model", "../home", program):
        with pytest.raises(UsageError, match="output_dir=.* holds .*; give a folder of its own for the results"):
            refuse_unsafe_output(Path(text), inputs)
    with pytest.raises(UsageError, match="output_dir=file is a file; give a folder"):
        refuse_unsafe_output(Path("file"), inputs)
    for text in ("out", "../in/out", "../in/temple/out", "../other"):
        refuse_unsafe_output(Path(text), inputs)


def test_a_fresh_folder(tmp_path, monkeypatch, notices):
    """An empty one is taken as it is; one that holds something is renamed, also twice within a second."""
    monkeypatch.setattr(picture_files.time, "strftime", lambda form: "20240102-030405")
    out, aside = tmp_path / "deep/out", tmp_path / "deep/out_20240102-030405"
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", out):
        assert fresh_folder(folder) == folder
        assert sorted(path.name for path in folder.iterdir()) == ["annotated", "result_Files"] and not notices
    (out / "mine.txt").write_text("kept")
    fresh_folder(out)
    assert (aside / "mine.txt").read_text() == "kept" and not (out / "mine.txt").exists()
    assert notices == [f"notice: the earlier content of {out} is now in {aside}"]
    fresh_folder(out)
    assert (aside / "mine.txt").read_text() == "kept" and (tmp_path / "deep/out_20240102-030405_2").is_dir()
    touch(tmp_path, "file")
    with pytest.raises(DataError, match="output_dir=.*file/out cannot be made: .*; give another folder"):
        fresh_folder(tmp_path / "file" / "out")


def paths(*names: str) -> list[PurePath]:
    return [PurePath(name) for name in names]


def test_result_names():
    names = result_names(paths("a.b.jpg", "x/1.jpg", "y/1.jpg", "x/2.jpg", "x/2.png"))
    assert names == ["a.b", "x__1", "y__1", "x__2.jpg", "x__2.png"]
    assert result_names(paths("x/A.jpg", "y/a.jpg")) == ["x__A", "y__a"], "some file systems do not tell capitals apart"
    assert result_names([]) == []


def test_names_that_cannot_be_told_apart():
    with pytest.raises(DataError, match="results of x__1.jpg and x/1.jpg would have the same name, x__1.jpg"):
        result_names(paths("x__1.jpg", "x__1.png", "x/1.jpg", "y/1.jpg"))


def test_the_first_spelling_that_nobody_shares():
    spellings = [lambda file: str(file.with_suffix(".png")), lambda file: f"{file}.png"]
    assert unique_names(paths("a.jpg", "a.png", "b.bmp"), spellings) == ["a.jpg.png", "a.png.png", "b.png"]
