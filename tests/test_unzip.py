"""A data set that came as a zip file is unpacked safely, wholly or not at all, and only once."""

import os
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

from model_utils import unzip
from model_utils.errors import DataError
from model_utils.unzip import unzip_dataset

import pytest

HERE = Path(__file__).resolve().parent


def packed(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tree(folder):
    """Relative path -> content of every file that is not hidden."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def refused(tmp_path, zip_path, **options):
    """The message of a zip file that is refused; nothing but the zip file may be there afterwards."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError) as caught:
        unzip_dataset(zip_path, tmp_path / "set", **options)
    assert sorted(tmp_path.rglob("*")) == before
    return str(caught.value)


@pytest.mark.parametrize("prefix", ["set/", ""])
def test_unzip(tmp_path, capsys, prefix):
    files = {"train/cat/0.jpg": "a" * 600, "train/dog/0.jpg": "b" * 300, "val/cat/1.jpg": "c" * 100}
    path = packed(tmp_path / "set.zip", {prefix + name: content for name, content in files.items()})
    assert unzip_dataset(str(path), str(tmp_path / "set")) == tmp_path / "set"
    assert tree(tmp_path / "set") == files
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["set", "set.zip"]
    assert capsys.readouterr().out.splitlines() == [f"unzip set.zip: {percent}%" for percent in (60, 90, 100)]


def test_single_folder_of_another_name_is_kept(tmp_path):
    path = packed(tmp_path / "set.zip", {"other/0.jpg": "a"})
    assert tree(unzip_dataset(path, tmp_path / "set")) == {"other/0.jpg": "a"}


def test_unzip_only_once(tmp_path, capsys):
    path = packed(tmp_path / "set.zip", {"0.jpg": "a"})
    unzip_dataset(path, tmp_path / "set")
    (tmp_path / "set" / "0.jpg").write_text("touched")
    capsys.readouterr()
    unzip_dataset(path, tmp_path / "set")
    assert tree(tmp_path / "set") == {"0.jpg": "touched"} and capsys.readouterr().out == ""


def test_other_content_is_unpacked_and_the_folder_before_kept(tmp_path):
    unzip_dataset(packed(tmp_path / "set.zip", {"0.jpg": "a"}), tmp_path / "set")
    unzip_dataset(packed(tmp_path / "set.zip", {"0.jpg": "b"}), tmp_path / "set")
    assert tree(tmp_path / "set") == {"0.jpg": "b"}
    (before,) = tmp_path.glob("set.before_*")
    assert tree(before) == {"0.jpg": "a"}


def test_folder_without_completion_marker_is_not_trusted(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "half.jpg").write_text("of another tool")
    unzip_dataset(packed(tmp_path / "set.zip", {"0.jpg": "a"}), tmp_path / "set")
    assert tree(tmp_path / "set") == {"0.jpg": "a"}


@pytest.mark.parametrize("name", ["../x.jpg", "/x.jpg", "cat/../../x.jpg", "cat/..", "C:/x.jpg", "cat\\x.jpg"])
def test_path_that_leads_outside(tmp_path, name):
    path = packed(tmp_path / "set.zip", {"cat/0.jpg": "a", name: "b"})
    above = sorted(tmp_path.parent.iterdir())
    assert f"the path '{name}' leads outside" in refused(tmp_path, path)
    assert sorted(tmp_path.parent.iterdir()) == above


@pytest.mark.parametrize("kind", [0o120777, 0o010644, 0o020644], ids=["link", "pipe", "device"])
def test_link_or_special_file(tmp_path, kind):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo("cat")
        member.create_system, member.external_attr = 3, kind << 16
        archive.writestr(member, "/etc")
    assert "'cat' is a link or a special file" in refused(tmp_path, path)


def test_size_bound(tmp_path, monkeypatch):
    path = packed(tmp_path / "set.zip", {"zeros.bin": bytes(5_000_000)}, zipfile.ZIP_DEFLATED)
    assert f"5,000,000 bytes, 1 to {200 * path.stat().st_size:,} are accepted" in refused(tmp_path, path)
    assert "unpacks to 0 bytes" in refused(tmp_path, packed(path, {}))
    packed(path, {"0.jpg": "a" * 600, "1.jpg": "b" * 401})
    assert "1,001 bytes, 1 to 1,000" in refused(tmp_path, path, max_bytes=1000)
    usage = unzip.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(unzip.shutil, "disk_usage", lambda _: usage._replace(free=500))
    assert "1,001 bytes, 1 to 500" in refused(tmp_path, path)
    monkeypatch.undo()
    assert len(tree(unzip_dataset(path, tmp_path / "set", max_bytes=1001))) == 2


def understated(content):
    """The declared size is what the bound is computed from; zipfile then delivers no more than that."""
    return content.replace((1000).to_bytes(4, "little"), (10).to_bytes(4, "little"))


def encrypted(content):
    content = bytearray(content)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    return content


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"hello", "set.zip (5 bytes) is no zip file, or cut short"),
        (lambda content: content[: len(content) * 2 // 3], "is no zip file, or cut short"),
        (lambda content: content.replace(b"bbbbb", b"bbcbb", 1), "cannot be unpacked: Bad CRC-32 for file '1.jpg'"),
        (understated, "cannot be unpacked: Bad CRC-32"),
        (encrypted, "upload it again, without a password"),
    ],
)
def test_damaged_zip_file(tmp_path, damage, message):
    path = packed(tmp_path / "set.zip", {"0.jpg": "a" * 1000, "1.jpg": "b" * 100})
    path.write_bytes(damage(path.read_bytes()))
    assert message in refused(tmp_path, path)


def test_missing_zip_file(tmp_path):
    assert "set.zip is missing" in refused(tmp_path, tmp_path / "set.zip")


def test_interrupted_unpacking_leaves_nothing(tmp_path, monkeypatch):
    path = packed(tmp_path / "set.zip", {"0.jpg": "a", "1.jpg": "b"})
    original = zipfile.ZipFile.extract

    def interrupted(self, member, *arguments):
        if member.filename == "1.jpg":
            raise KeyboardInterrupt
        return original(self, member, *arguments)

    monkeypatch.setattr(zipfile.ZipFile, "extract", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unzip_dataset(path, tmp_path / "set")
    assert [entry.name for entry in tmp_path.iterdir()] == ["set.zip"]
    monkeypatch.undo()
    assert tree(unzip_dataset(path, tmp_path / "set")) == {"0.jpg": "a", "1.jpg": "b"}


def test_killed_unpacking_is_redone(tmp_path):
    path = packed(tmp_path / "set.zip", {"0.jpg": "a", "1.jpg": "b"})
    code = (
        "import os, sys, zipfile\nfrom model_utils.unzip import unzip_dataset\n"
        "original = zipfile.ZipFile.extract\n"
        "def killed(self, member, *a):\n"
        "    return original(self, member, *a) if member.filename == '0.jpg' else os._exit(9)\n"
        "zipfile.ZipFile.extract = killed\nunzip_dataset(sys.argv[1], sys.argv[2])\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parent / 'utils'}:{HERE / 'fake_mindspore'}"}
    target = tmp_path / "set"
    assert subprocess.run([sys.executable, "-c", code, str(path), str(target)], env=environment).returncode == 9
    assert not target.exists() and (tmp_path / ".set.partial" / "0.jpg").exists()
    (tmp_path / ".set.partial" / "junk.jpg").write_text("half")
    assert tree(unzip_dataset(path, target)) == {"0.jpg": "a", "1.jpg": "b"}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["set", "set.zip"]


# ---- Damage of names, flags and numbers ------------------------------------------------------------------------------

CONTENTS = {"set/": "", "set/cat/": "", "set/cat/0.jpg": "a" * 60, "set/dog/0.jpg": "b" * 30, "set/dog/1.jpg": ""}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_bit_anywhere_makes_no_other_tree(tmp_path, capsys, compression):
    """Names, flags, sizes, numbers and content, in the directory and at the members: the sound tree, or a refusal."""
    path, target = packed(tmp_path / "set.zip", CONTENTS, compression), tmp_path / "set"
    content = path.read_bytes()
    sound = everything(unzip_dataset(path, target))
    shutil.rmtree(target)
    refusals = 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (0, 3, 5, 7, 4)[place % 5]
        path.write_bytes(damaged)
        try:
            assert everything(unzip_dataset(path, target)) == sound, place
            shutil.rmtree(target)
        except DataError:
            refusals += 1
        assert os.listdir(tmp_path) == ["set.zip"], place
    assert refusals > len(content) / 3


def everything(folder):
    """Relative paths of files and folders, and contents of the files."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.name != unzip.MARKER}
    return {name: path.read_bytes() if path.is_file() else None for name, path in found.items()}


@pytest.mark.parametrize(
    "names, message",
    [
        (["0.jpg", "0.jpg"], "it holds '0.jpg' twice"),
        (["cat", "cat/"], "it holds 'cat/' twice"),
        (["cat/", "cat"], "it holds 'cat' twice"),
        (["cat/", "cat/"], "it holds 'cat/' twice"),
        (["cat", "cat/0.jpg"], "'cat' is a file in it, and a folder too"),
        (["a/b/c/0.jpg", "a/b"], "'a/b' is a file in it, and a folder too"),
        (["."], "the path '.' names no file"),
        (["./"], "the path './' names no file"),
        (["cat/./0.jpg"], "names no file"),
        (["cat//0.jpg"], "names no file"),
        (["./0.jpg"], "names no file"),
    ],
)
def test_names_that_cannot_all_be_unpacked(tmp_path, names, message):
    path = tmp_path / "set.zip"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of duplicate names
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("sound.jpg", "a")
            for name in names:
                archive.writestr(zipfile.ZipInfo(name), "" if name.endswith("/") else "b")
    assert message in refused(tmp_path, path)


def test_members_that_the_directory_does_not_list(tmp_path):
    """One entry's length covers the next one: Python's zipfile finds fewer members, and says nothing."""
    path = packed(tmp_path / "set.zip", {f"{number}.jpg": "a" * 9 for number in range(4)})
    content = bytearray(path.read_bytes())
    second = content.rindex(b"PK\x01\x02", 0, content.rindex(b"PK\x01\x02", 0, content.rindex(b"PK\x01\x02")))
    content[second + 32 : second + 34] = (46 + len("1.jpg")).to_bytes(2, "little")  # length of its comment
    path.write_bytes(content)
    assert "its end says 4 members, 3 were found; the file is damaged" in refused(tmp_path, path)


def test_many_members(tmp_path, capsys):
    """More than fit into the number of the usual end."""
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("0.jpg", "a" * 2000)
        for number in range(1, 66_000):
            archive.writestr(f"{number}/", "")
    with zipfile.ZipFile(path) as archive:
        assert unzip._stated_members(path, len(archive.comment)) == 66_000


def test_a_comment_at_the_end(tmp_path):
    path = packed(tmp_path / "set.zip", {"0.jpg": "a"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"a comment of any length"
    assert tree(unzip_dataset(path, tmp_path / "set")) == {"0.jpg": "a"}


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_what_lies_in_the_place_of_a_half_unpacking_is_no_hindrance(tmp_path, kind):
    partial = tmp_path / ".set.partial"
    if kind == "folder":
        (partial / "0.jpg").mkdir(parents=True)
    elif kind == "link":
        partial.symlink_to("/nonexistent")
    else:
        partial.write_text("left")
    path = packed(tmp_path / "set.zip", {"0.jpg": "a"})
    assert tree(unzip_dataset(path, tmp_path / "set")) == {"0.jpg": "a"} and not os.path.lexists(partial)


def test_what_is_no_file_to_unpack(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "set.zip")
    assert "set.zip is a named pipe, not a regular file" in refused(tmp_path, tmp_path / "set.zip")
    (tmp_path / "set.zip").unlink()
    path = packed(tmp_path / "set.zip", {"0.jpg": "a"})

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(unzip, "open", refuse, raising=False)
    assert "set.zip may not be read by this user" in refused(tmp_path, path)


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extract", full)
    path = packed(tmp_path / "set.zip", {"0.jpg": "a"})
    assert "cannot be unpacked into" in (text := refused(tmp_path, path)) and "No space left" in text
