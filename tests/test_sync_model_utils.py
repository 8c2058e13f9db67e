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
CONFIG = "alpha/src/model_utils/config.py"


class Repository:
    """Two classifiers and a detector with their copies; not a checkout of git."""

    def __init__(self, root, capsys):
        self.root, self.capsys = root, capsys
        for folder in FOLDERS:
            self.put(f"{folder}/train.py")
        for name, text in SOURCES.items():
            first = "#!/usr/bin/env bash\n" if name.endswith(".sh") else ""
            self.put(name, f"{first}{sync.header(Path(name))}\n{text}")
        self.path("utils/cpp_infer/build.sh").chmod(0o755)
        self.main("--write")

    def path(self, name):
        return self.root / name

    def header(self, name, source="utils/common/src/own.py", first=""):
        self.put(name, f"{first}{sync.header(Path(source))}\n")

    def flip_mode(self, name):
        self.path(name).chmod(self.path(name).stat().st_mode ^ 0o111)

    def link(self, name, target):
        self.path(name).unlink(missing_ok=True)
        self.path(name).symlink_to(target)

    def put(self, name, text=""):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def main(self, *arguments):
        """Exit status, lines of output and lines of errors."""
        status = sync.main(list(arguments), self.root)
        captured = self.capsys.readouterr()
        return status, captured.out.splitlines(), captured.err.splitlines()

    def finding(self):
        """The only one."""
        (finding,) = sync.check(self.root)
        return finding

    def files(self):
        paths = (path for path in self.root.rglob("*") if path.is_symlink() or path.is_file())
        return {path: path.readlink() if path.is_symlink() else path.read_bytes() for path in paths}


@pytest.fixture
def repository(tmp_path, capsys):
    return Repository(tmp_path, capsys)


@pytest.fixture
def checkout(repository):
    """The same as a checkout of git that ignores what a build leaves."""
    subprocess.run(["git", "init", "--quiet", str(repository.root)], check=True)
    repository.put(".gitignore", "__pycache__/\n/*/ascend310_infer/out/\n/utils/cpp_infer/out/\n")
    return repository


def test_the_folders_of_this_repository_are_in_order():
    assert sync.check(sync.ROOT) == []
    assert (sync.ROOT / DETECTOR / "train.py").is_file() and (sync.ROOT / CLASSIFICATION).is_dir()


def test_equal_copies_pass(repository):
    assert repository.main("--check") == (0, ["8 shared files: all copies are equal to them"], [])


def test_the_program_needs_one_action(tmp_path):
    for arguments in ([], ["--check", "--write"]):
        done = subprocess.run([sys.executable, sync.__file__, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2 and "--write" in done.stderr


# ---- Copies that are missing or differ


@pytest.mark.parametrize(
    "change", [lambda text: text + b"extra\n", lambda text: text[:-1], lambda text: text.replace(b"\n", b"\r\n")]
)
@pytest.mark.parametrize("name", COPIES)
def test_a_changed_copy_is_named_with_the_mend(repository, name, change):
    copy = repository.path(f"beta/{name}")
    copy.write_bytes(change(copy.read_bytes()))
    status, out, (error,) = repository.main("--check")
    assert (status, out) == (1, []) and error.startswith(f"beta/{name} differs from utils/")
    assert error.endswith("in content; python scripts/sync_model_utils.py --write")


APP, LOSS, ORPHAN = "alpha/ascend310_infer", "src/model_utils/classification/loss.py", "has no source; move it out"


@pytest.mark.parametrize(
    ("damage", "finding", "is_mended"),
    [
        (lambda r: r.path(CONFIG).unlink(), f"{CONFIG} is missing", True),
        (lambda r: r.link(CONFIG, r.root / "utils/model_utils/config.py"), "in kind: it is a link", True),
        (lambda r: r.flip_mode(f"{APP}/build.sh"), "in mode: one of the two is executable", True),
        (lambda r: r.flip_mode(f"{APP}/src/a.cc"), "in mode: one of the two is executable", True),
        # What only classifiers need does not belong to a detector.
        (lambda r: r.header(f"{DETECTOR}/{LOSS}", f"utils/{LOSS[4:]}"), f"{DETECTOR}/{LOSS} has no source", True),
        (lambda r: r.put("alpha/src/model_utils/extra.py"), f"alpha/src/model_utils/extra.py {ORPHAN}", False),
        (lambda r: r.put("alpha/scripts/shared/.hidden"), f"alpha/scripts/shared/.hidden {ORPHAN}", False),
        (lambda r: r.put(f"{APP}/deep/.er/notes.txt"), f"{APP}/deep/.er/notes.txt {ORPHAN}", False),
        (lambda r: r.link("alpha/scripts/shared/link", "nowhere"), f"alpha/scripts/shared/link {ORPHAN}", False),
        (lambda r: r.header("alpha/src/model_utils/my.py", "utils/model_utils/config.py"), ORPHAN, False),
        (lambda r: r.header("alpha/own.py"), "alpha/own.py has the header of a shared file", False),
        (lambda r: r.header("alpha/src/own.py"), "alpha/src/own.py has the header of a shared file", False),
        (lambda r: r.header("alpha/a/own.sh", first="#!/bin/sh\n"), "alpha/a/own.sh has the header", False),
    ],
)
def test_a_file_that_should_be_another_is_found(repository, damage, finding, is_mended):
    """Copies are brought up to date, and removed where they have a header; what may be somebody's own work is kept."""
    in_order = repository.files()
    damage(repository)
    before = repository.files()
    assert finding in repository.finding()
    status, _, errors = repository.main("--write")
    assert (status == 0, repository.files()) == (is_mended, in_order if is_mended else before)
    assert len(errors) == status


def test_a_copy_that_git_ignores_is_missing_in_a_clone(checkout):
    checkout.put(".gitignore", f"/{CONFIG}\n")
    assert checkout.finding().startswith(f"{CONFIG} is missing, or git ignores it")


# ---- Files too many


@pytest.mark.parametrize("name", ["model_utils/config.py", "launchers/common.sh", "cpp_infer/inc/a.h"])
def test_the_copies_of_a_removed_source_are_removed(repository, name):
    other = Path("utils", name).with_name("stays.py")
    repository.header(other, other)
    repository.path(f"utils/{name}").unlink()
    findings = [line for line in sync.check(repository.root) if "has no source" in line]
    assert len(findings) == 3 and all(line.endswith(f"has no source; {sync.MEND}") for line in findings)
    status, out, _ = repository.main("--write")
    assert status == 0 and sum(line.startswith("removed ") for line in out) == 3


def test_nothing_is_removed_when_a_source_directory_is_gone(repository):
    shutil.rmtree(repository.path("utils/launchers"))
    repository.put(CONFIG, "old\n")
    before = repository.files()
    assert "utils/launchers holds no file" in sync.check(repository.root)
    assert repository.main("--write")[0] == 1 and repository.files() == before


def test_other_files_and_headers_outside_the_model_folders_are_free(repository):
    repository.put("alpha/src/own.py", "one\ntwo\n# Shared file: not at its beginning\n")
    repository.header("docs/shared.py")
    repository.put("docs/deep/train.py")
    repository.path("alpha/data").symlink_to("nowhere")
    assert sync.check(repository.root) == []


# ---- The sources


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("model_utils/config.py", "# {}"),
        ("model_utils/README.md", "<!-- {} -->"),
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
    text = repository.path(source).read_text()
    first = "#!/usr/bin/env bash\n" if name.endswith(".sh") else ""
    assert text.startswith(f"{first}{line}\n")
    changed = {"lower": f"{first}\n{text}", "first": text.replace(f"{line}\n", ""), "empty": ""}
    repository.put(source, changed.get(change, text.replace(source, "utils/other.py")))
    repository.main("--write")
    assert repository.finding() == f"{source}: the first line, or the second after #!, must be: {line}"


def test_no_model_folder_is_found(repository):
    for folder in FOLDERS:
        repository.path(f"{folder}/train.py").unlink()
    assert repository.finding().startswith("no folder with a train.py was found")


# ---- What counts as a file


def test_what_git_ignores_does_not_count(checkout):
    for name in ("utils/model_utils/__pycache__/a.pyc", "utils/cpp_infer/out/main", "alpha/ascend310_infer/out/main"):
        checkout.put(name)
    assert checkout.main("--write")[0] == 0
    assert not checkout.path("beta/ascend310_infer/out").exists()


@pytest.mark.parametrize("name", ["alpha/src/model_utils/new.py", "utils/model_utils/new.py"])
def test_files_that_git_tracks_count_as_far_as_they_exist(checkout, name):
    path = checkout.put(name, "x\n")
    subprocess.run(["git", "-C", str(checkout.root), "add", "."], check=True)
    assert sync.check(checkout.root) != []
    path.unlink()
    assert sync.check(checkout.root) == []


def test_without_git_the_caches_of_python_do_not_count(repository, monkeypatch):
    repository.put("alpha/src/model_utils/deep/__pycache__/config.pyc")
    assert sync.check(repository.root) == []
    repository.path(".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert sync.check(repository.root) == []


# ---- Writing


def test_write_brings_copies_up_to_date_and_touches_nothing_else(repository):
    """Also those of a new model folder."""
    missing = repository.path("beta/ascend310_infer/build.sh")
    missing.unlink()
    stale, own = repository.put(CONFIG, "old"), repository.put("beta/src/own.py", "mine\n")
    untouched = repository.path("beta/src/model_utils/config.py").stat().st_mtime_ns
    repository.put("gamma/train.py")
    status, out, _ = repository.main("--write")
    assert status == 0 and out[-1] == "8 shared files: all copies are equal to them"
    written = [line.split()[1] for line in out[:-1] if line.startswith("wrote ")]
    assert [name for name in written if "gamma" not in name] == [CONFIG, "beta/ascend310_infer/build.sh"]
    assert len(written) == 2 + 8 == len(out) - 1
    assert stale.read_bytes() == repository.path("utils/model_utils/config.py").read_bytes()
    assert missing.stat().st_mode & 0o777 == 0o755 and own.read_text() == "mine\n"
    assert repository.path("beta/src/model_utils/config.py").stat().st_mtime_ns == untouched
    assert not list(repository.root.rglob("*.tmp"))


def test_a_copy_is_replaced_at_once(repository, monkeypatch):
    """A reader, or an interrupted run, never sees half a file."""
    copy = repository.put(CONFIG, "old\n")

    def replace(temporary, target):
        assert target == copy and target.read_text() == "old\n"
        assert temporary.read_bytes() == repository.path("utils/model_utils/config.py").read_bytes()
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(KeyboardInterrupt):
        repository.main("--write")
    monkeypatch.undo()
    assert repository.main("--write")[0] == 0
