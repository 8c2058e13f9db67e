"""Tests of scripts/sync_model_utils.py on a small repository: every kind of drift is found and named."""

import shutil
import subprocess
import sys
from pathlib import Path

import sync_model_utils as sync

import pytest

DETECTOR, CLASSIFICATION = next(iter(sync.LEFT_OUT.items()))
FOLDERS = ("alpha", "beta", DETECTOR)
SOURCES = {
    "utils/model_utils/config.py": "import os\n",
    "utils/model_utils/README.md": "The guide.\n",
    "utils/model_utils/classification/loss.py": "import math\n",
    "utils/launchers/common.sh": "echo\n",
    "utils/cpp_infer/CMakeLists.txt": "project(x)\n",
    "utils/cpp_infer/build.sh": "make\n",
    "utils/cpp_infer/inc/a.h": "int a;\n",
    "utils/cpp_infer/src/a.cc": "int a;\n",
}
# One file of each copied directory.
COPIES = ("src/model_utils/config.py", "scripts/shared/common.sh", "ascend310_infer/src/a.cc")


def put(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def repository(tmp_path, capsys):
    """Two classifiers and a detector with their copies; not a checkout of git."""
    for folder in FOLDERS:
        put(tmp_path / folder / "train.py")
    for name, text in SOURCES.items():
        first = "#!/usr/bin/env bash\n" if name.endswith(".sh") else ""
        put(tmp_path / name, f"{first}{sync.header(Path(name))}\n{text}")
    (tmp_path / "utils/cpp_infer/build.sh").chmod(0o755)
    sync.write(tmp_path)
    capsys.readouterr()
    return tmp_path


@pytest.fixture
def checkout(repository):
    """The same as a checkout of git that ignores what a build leaves."""
    subprocess.run(["git", "init", "--quiet", str(repository)], check=True)
    put(repository / ".gitignore", "__pycache__/\n/*/ascend310_infer/out/\n/utils/cpp_infer/out/\n")
    return repository


def only(findings):
    assert len(findings) == 1, findings
    return findings[0]


def test_the_folders_of_this_repository_are_in_order():
    assert sync.check(sync.ROOT) == []
    assert (sync.ROOT / DETECTOR / "train.py").is_file() and (sync.ROOT / CLASSIFICATION).is_dir()


def test_equal_copies_pass(repository, capsys):
    assert sync.main(["--check"], repository) == 0
    assert capsys.readouterr() == ("8 shared files, 23 copies: all equal\n", "")


def test_the_program_needs_one_action(capsys):
    for arguments in ([], ["--check", "--write"]):
        with pytest.raises(SystemExit, match="2"):
            sync.main(arguments)
        assert "--write" in capsys.readouterr().err


# ---- Copies that are missing or differ


def test_each_directory_is_copied_whole_to_its_place(repository):
    for source, place in sync.COPIED.items():
        files = {path.relative_to(repository / source) for path in (repository / source).rglob("*") if path.is_file()}
        for folder in ("alpha", "beta"):
            copies = repository / folder / place
            assert {path.relative_to(copies) for path in copies.rglob("*") if path.is_file()} == files


@pytest.mark.parametrize("name", COPIES)
def test_a_changed_copy_is_named_with_its_line_and_the_mend(repository, capsys, name):
    copy = repository / "beta" / name
    number = len(copy.read_text().splitlines())
    copy.write_text(copy.read_text() + "extra\n")
    assert sync.main(["--check"], repository) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(f"beta/{name} differs from utils/")
    assert captured.err.endswith(
        rf"in line {number + 1}: source has ended, copy 'extra\n'; python scripts/sync_model_utils.py --write" + "\n"
    )


@pytest.mark.parametrize(
    ("source", "copy", "expected"),
    [
        (b"a\nb\n", b"a\nb\n", ""),
        (b"a\nb\n", b"a\nc\n", r"line 2: source 'b\n', copy 'c\n'"),
        (b"a\nb\n", b"a\n", r"line 2: source 'b\n', copy has ended"),
        (b"a\n", b"a\nb\n", r"line 2: source has ended, copy 'b\n'"),
        (b"a\n", b"a\r\n", r"line 1: source 'a\n', copy 'a\r\n'"),
        (b"a\n", b"a", r"line 1: source 'a\n', copy 'a'"),
        (b"a\n", b"\xff\n", "line 1: source 'a\\n', copy '\ufffd\\n'"),
    ],
)
def test_the_first_difference_is_described(tmp_path, source, copy, expected):
    (tmp_path / "source").write_bytes(source)
    (tmp_path / "copy").write_bytes(copy)
    assert sync.difference(tmp_path / "source", tmp_path / "copy") == expected


@pytest.mark.parametrize(("name", "source"), [("build.sh", "executable"), ("src/a.cc", "not executable")])
def test_a_changed_mode_is_found_and_mended(repository, name, source):
    copy = repository / "alpha/ascend310_infer" / name
    copy.chmod(copy.stat().st_mode ^ 0o111)
    assert f"differs from utils/cpp_infer/{name} in mode: source {source}, copy " in only(sync.check(repository))
    assert sync.main(["--write"], repository) == 0


def test_a_link_is_no_copy(repository):
    copy = repository / "alpha/src/model_utils/config.py"
    copy.unlink()
    copy.symlink_to(repository / "utils/model_utils/config.py")
    assert "in kind: it is a link" in only(sync.check(repository))
    assert sync.main(["--write"], repository) == 0 and not copy.is_symlink()


@pytest.mark.parametrize("name", COPIES)
def test_a_missing_copy_is_found(repository, name):
    (repository / "alpha" / name).unlink()
    assert only(sync.check(repository)).startswith(f"alpha/{name} is missing")


def test_a_copy_that_git_ignores_is_missing_in_a_clone(checkout):
    put(checkout / ".gitignore", "/alpha/src/model_utils/config.py\n")
    assert only(sync.check(checkout)).startswith("alpha/src/model_utils/config.py is missing, or git ignores it")


# ---- Files too many


@pytest.mark.parametrize("place", ["src/model_utils", "scripts/shared", "ascend310_infer"])
@pytest.mark.parametrize("name", ["extra.py", ".hidden", "deep/.er/notes.txt", "no_ending"])
def test_an_orphan_is_found_and_not_removed(repository, capsys, place, name):
    orphan = put(repository / "alpha" / place / name, "mine\n")
    assert sync.main(["--write"], repository) == 1 and orphan.read_text() == "mine\n"
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(f"alpha/{place}/{name} has no source; move it out")
    assert len(captured.err.splitlines()) == 1


def test_a_dangling_link_is_an_orphan(repository):
    (repository / "alpha/scripts/shared/link").symlink_to("nowhere")
    assert only(sync.check(repository)).startswith("alpha/scripts/shared/link has no source")


@pytest.mark.parametrize("name", ["model_utils/config.py", "launchers/common.sh", "cpp_infer/inc/a.h"])
def test_the_copies_of_a_removed_source_are_removed(repository, capsys, name):
    put(
        (repository / "utils" / name).with_name("stays.py"),
        f"{sync.header(Path('utils', name).with_name('stays.py'))}\n",
    )
    (repository / "utils" / name).unlink()
    findings = [line for line in sync.check(repository) if "has no source" in line]
    assert len(findings) == 3 and all(line.endswith(f"has no source; {sync.MEND}") for line in findings)
    assert sync.main(["--write"], repository) == 0
    assert sum(line.startswith("removed ") for line in capsys.readouterr().out.splitlines()) == 3


def test_an_orphan_with_the_header_of_another_file_is_not_removed(repository):
    copy = repository / "alpha/src/model_utils/config.py"
    orphan = put(copy.with_name("my_config.py"), copy.read_text())
    assert sync.main(["--write"], repository) == 1 and orphan.exists()


def test_nothing_is_removed_when_a_source_directory_is_gone(repository):
    shutil.rmtree(repository / "utils/launchers")
    put(repository / "alpha/src/model_utils/config.py", "old\n")
    assert "utils/launchers holds no file" in sync.check(repository)
    assert sync.main(["--write"], repository) == 1
    assert (repository / "alpha/scripts/shared/common.sh").is_file()


def test_files_of_the_classifiers_do_not_belong_to_a_detector(repository):
    name = "src/model_utils/classification/loss.py"
    assert not (repository / DETECTOR / name).exists() and (repository / "beta" / name).is_file()
    put(repository / DETECTOR / name, (repository / "beta" / name).read_text())
    assert only(sync.check(repository)).startswith(f"{DETECTOR}/{name} has no source")
    assert sync.main(["--write"], repository) == 0 and not (repository / DETECTOR / name).exists()


@pytest.mark.parametrize("name", ["src/own.py", "scripts/own.sh", "own.py", "tests/deep/own.py"])
@pytest.mark.parametrize("first", ["", "#!/bin/sh\n"])
def test_a_stray_file_with_a_header_is_found(repository, name, first):
    stray = put(repository / "alpha" / name, f"{first}{sync.header(Path('utils/common/src/own.py'))}\n")
    assert only(sync.check(repository)).startswith(f"alpha/{name} has the header of a shared file")
    assert sync.main(["--write"], repository) == 1 and stray.exists()


@pytest.mark.parametrize("name", ["alpha/src/own.py", "docs/shared.py", "docs/deep/train.py"])
def test_other_files_are_free(repository, name):
    put(repository / name, "one\ntwo\n# Shared file: not at its beginning\n")
    (repository / "alpha/data").symlink_to("nowhere")
    assert sync.check(repository) == []


def test_a_header_outside_the_model_folders_is_no_matter(repository):
    put(repository / "docs/shared.py", f"{sync.header(Path('utils/x.py'))}\n")
    assert sync.check(repository) == []


# ---- The sources


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("model_utils/config.py", "# {}"),
        ("model_utils/README.md", "<!-- {} -->"),
        ("model_utils/classification/loss.py", "# {}"),
        ("launchers/common.sh", "# {}"),
        ("cpp_infer/CMakeLists.txt", "# {}"),
        ("cpp_infer/inc/a.h", "// {}"),
        ("cpp_infer/src/a.cc", "// {}"),
    ],
)
@pytest.mark.parametrize("change", ["lower", "first", "other", "empty"])
def test_a_source_begins_with_its_header_in_the_comments_of_its_language(repository, name, line, change):
    source = f"utils/{name}"
    line = line.format(f"Shared file: source {source}; copy with: python scripts/sync_model_utils.py --write")
    text = (repository / source).read_text()
    first = "#!/usr/bin/env bash\n" if name.endswith(".sh") else ""
    assert text.startswith(f"{first}{line}\n")
    changed = {"lower": f"{first}\n{text}", "first": text.replace(f"{line}\n", ""), "empty": ""}
    (repository / source).write_text(changed.get(change, text.replace(source, "utils/other.py")))
    sync.write(repository)
    expected = f"{source}: the first line, or the second after #!, must be: {line}"
    assert only(sync.check(repository)) == expected


def test_no_model_folder_is_found(repository):
    for folder in FOLDERS:
        (repository / folder / "train.py").unlink()
    assert only(sync.check(repository)).startswith("no folder with a train.py was found")


# ---- What counts as a file


def test_what_git_ignores_does_not_count(checkout):
    for name in ("utils/model_utils/__pycache__/config.pyc", "alpha/scripts/shared/__pycache__/x.pyc"):
        put(checkout / name)
    for name in ("utils/cpp_infer/out/main", "alpha/ascend310_infer/out/main"):
        put(checkout / name)
    assert sync.main(["--write"], checkout) == 0
    assert not (checkout / "beta/ascend310_infer/out").exists()


@pytest.mark.parametrize("name", ["alpha/src/model_utils/new.py", "utils/model_utils/new.py"])
def test_files_that_git_tracks_count_as_far_as_they_exist(checkout, name):
    path = put(checkout / name, "x\n")
    subprocess.run(["git", "-C", str(checkout), "add", "."], check=True)
    assert sync.check(checkout) != []
    path.unlink()
    assert sync.check(checkout) == []


def test_without_git_the_caches_of_python_do_not_count(repository, monkeypatch):
    put(repository / "alpha/src/model_utils/deep/__pycache__/config.pyc")
    assert sync.check(repository) == []
    (repository / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert sync.check(repository) == []


# ---- Writing


def test_write_brings_copies_up_to_date_and_touches_nothing_else(repository, capsys):
    stale, missing = repository / "alpha/src/model_utils/config.py", repository / "beta/ascend310_infer/build.sh"
    untouched = (repository / "beta/src/model_utils/config.py").stat().st_mtime_ns
    stale.write_text("old")
    missing.unlink()
    own = put(repository / "beta/src/own.py", "mine\n")
    assert sync.main(["--write"], repository) == 0
    assert capsys.readouterr().out.splitlines() == [
        "wrote alpha/src/model_utils/config.py",
        "wrote beta/ascend310_infer/build.sh",
        "8 shared files, 23 copies: all equal",
    ]
    assert stale.read_bytes() == (repository / "utils/model_utils/config.py").read_bytes()
    assert missing.stat().st_mode & 0o777 == 0o755 and own.read_text() == "mine\n"
    assert (repository / "beta/src/model_utils/config.py").stat().st_mtime_ns == untouched
    assert not list(repository.rglob("*.tmp"))


def test_a_copy_is_replaced_at_once(repository, monkeypatch):
    """A reader, or an interrupted run, never sees half a file."""
    copy = put(repository / "alpha/src/model_utils/config.py", "old\n")

    def replace(temporary, target):
        assert target == copy and target.read_text() == "old\n"
        assert temporary.read_bytes() == (repository / "utils/model_utils/config.py").read_bytes()
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(KeyboardInterrupt):
        sync.main(["--write"], repository)
    monkeypatch.undo()
    sync.main(["--write"], repository)
    assert sync.check(repository) == []


def test_write_fills_the_folder_of_a_new_model(repository):
    put(repository / "gamma/train.py")
    assert len(sync.check(repository)) == 8
    assert sync.main(["--write"], repository) == 0


def test_the_program_starts_from_any_directory(tmp_path):
    done = subprocess.run([sys.executable, sync.__file__, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "--check" in done.stdout
