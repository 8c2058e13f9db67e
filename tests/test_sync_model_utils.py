"""Tests of scripts/sync_model_utils.py on a small repository: every kind of drift is found and named."""

import subprocess
import sys

import sync_model_utils as sync

import pytest

GOOD = """\
import os

import mindspore as ms
import numpy as np

VALUE = (os.sep, np.pi, ms.__version__)
"""


def shared(name, body=GOOD):
    return f"{sync.HEADER.format(source='utils/model_utils/' + name)}\n{body}"


@pytest.fixture
def repository(tmp_path):
    """Two model folders with the copies of two shared files."""
    for folder in ("alpha", "beta"):
        (tmp_path / folder / "src/model_utils").mkdir(parents=True)
        (tmp_path / folder / "train.py").write_text("")
    (tmp_path / "utils/model_utils").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    for name, body in (("config.py", GOOD), ("logger.py", "from .config import VALUE\nfrom . import config\n")):
        (tmp_path / "utils/model_utils" / name).write_text(shared(name, body))
    sync.write(tmp_path)
    return tmp_path


def set_source(repository, body, name="config.py"):
    (repository / "utils/model_utils" / name).write_text(shared(name, body))
    sync.write(repository)


def only(findings):
    assert len(findings) == 1, findings
    return findings[0]


def test_equal_copies_pass(repository, capsys):
    assert sync.check(repository) == []
    assert sync.main(["--check"], repository) == 0
    assert capsys.readouterr().out == "2 shared files, 4 copies: all equal\n"


def test_a_changed_copy_is_named_with_its_line_and_the_mend(repository, capsys):
    copy = repository / "beta/src/model_utils/config.py"
    copy.write_text(copy.read_text().replace("import os", "import sys"))
    assert sync.main(["--check"], repository) == 1
    error = capsys.readouterr().err
    assert "beta/src/model_utils/config.py differs from utils/model_utils/config.py in line 2: " in error
    assert r"source 'import os\n', copy 'import sys\n'; python scripts/sync_model_utils.py --write" in error


@pytest.mark.parametrize(
    ("source", "copy", "expected"),
    [
        (b"a\nb\n", b"a\nb\n", ""),
        (b"a\nb\n", b"a\n", r"line 2: source 'b\n', copy has ended"),
        (b"a\n", b"a\nb\n", r"line 2: source has ended, copy 'b\n'"),
        (b"a\n", b"a\r\n", r"line 1: source 'a\n', copy 'a\r\n'"),
        (b"a\n", b"a", r"line 1: source 'a\n', copy 'a'"),
    ],
)
def test_first_difference(source, copy, expected):
    assert sync.first_difference(source, copy) == expected


def test_a_missing_copy_is_found(repository):
    (repository / "alpha/src/model_utils/logger.py").unlink()
    assert only(sync.check(repository)).startswith("alpha/src/model_utils/logger.py is missing; python scripts/")


@pytest.mark.parametrize("name", ["extra.py", "deeper/extra.py"])
def test_an_orphan_is_found_and_never_removed(repository, name):
    orphan = repository / "alpha/src/model_utils" / name
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_text("")
    assert only(sync.check(repository)).startswith(f"alpha/src/model_utils/{name} has no source in utils/model_utils")
    assert sync.main(["--write"], repository) == 1
    assert orphan.exists()


def test_a_removed_source_is_found(repository):
    (repository / "utils/model_utils/config.py").unlink()
    findings = "\n".join(sync.check(repository))
    assert "alpha/src/model_utils/config.py has no source" in findings
    assert "logger.py:2: imports its sibling config, whose source is missing" in findings
    assert "logger.py:3: imports its sibling config, whose source is missing" in findings


def test_no_source_at_all_is_found(repository):
    for path in (repository / "utils/model_utils").iterdir():
        path.unlink()
    assert "utils/model_utils holds no Python file" in sync.check(repository)[0]


def test_no_model_folder_is_found(repository):
    for folder in ("alpha", "beta"):
        (repository / folder / "train.py").unlink()
    assert only(sync.check(repository)).startswith("no folder with a train.py was found")


@pytest.mark.parametrize(
    ("body", "line", "imported"),
    [
        ("import cv2\n", 2, "cv2"),
        ("import os, torch.nn as nn\n", 2, "torch.nn"),
        ("from matplotlib import pyplot\n", 2, "matplotlib.pyplot"),
        ("def f():\n    import sklearn\n", 3, "sklearn"),
        ("if True:\n    try:\n        import moxing\n    except ImportError:\n        pass\n", 4, "moxing"),
        ("import importlib\nm = importlib.import_module('onnx')\n", 3, "onnx"),
        ("m = __import__('onnx')\n", 2, "onnx"),
        ("from src.dataset import create\n", 2, "src.dataset.create"),
        ("import logger\n", 2, "logger"),
    ],
)
def test_a_foreign_import_is_found(repository, body, line, imported):
    set_source(repository, body)
    assert only(sync.check(repository)).startswith(f"utils/model_utils/config.py:{line}: imports {imported}; allowed")


@pytest.mark.parametrize(
    "body",
    [
        "import yaml\nfrom PIL import Image\nimport mindspore.dataset as ds\nfrom mindspore import nn\n",
        "from __future__ import annotations\nimport _thread, zoneinfo, math, xml.etree.ElementTree\n",
        "import mindspore as ms\nprint(ms.__version__)\nclass A(ms.nn.Cell):\n    _private = 1\n    b = _private\n",
    ],
)
def test_allowed_imports_pass(repository, body):
    set_source(repository, body)
    assert sync.check(repository) == []


def test_moxing_is_allowed_in_its_adapter_only(repository):
    set_source(repository, "def copy():\n    import moxing\n", "moxing_adapter.py")
    assert sync.check(repository) == []


def test_a_parent_import_is_found(repository):
    set_source(repository, "from ..dataset import create\n")
    assert "config.py:2: imports from outside its own folder" in only(sync.check(repository))


@pytest.mark.parametrize(
    ("body", "line", "private"),
    [
        ("from mindspore.ops import _grad\n", 2, "_grad"),
        ("from mindspore._checkparam import Validator\n", 2, "_checkparam"),
        ("import mindspore.ops._primitive_cache\n", 2, "_primitive_cache"),
        ("import mindspore as ms\nms._c_expression.x()\n", 3, "_c_expression"),
        ("from mindspore import ops as P\ny = P._op(1)\n", 3, "_op"),
        ("import mindspore.nn as nn\ny = nn.layer._x\n", 3, "_x"),
        ("import mindspore.nn\ny = mindspore.nn._x\n", 3, "_x"),
    ],
)
def test_a_private_mindspore_name_is_found(repository, body, line, private):
    set_source(repository, body)
    finding = sync.check(repository)[0]
    assert finding.startswith(f"utils/model_utils/config.py:{line}: ") and f"of which {private} is private" in finding


@pytest.mark.parametrize("name", ["tinydarknet", "DarkNet53", "CSPDarkNet53", "TinyNet", "yolov3", "Res2Net"])
def test_a_model_name_is_found(repository, name):
    set_source(repository, f"# fine\n# as {name} does\n")
    assert only(sync.check(repository)) == (
        f"utils/model_utils/config.py:3: names the model {name}; take it as an argument"
    )


@pytest.mark.parametrize(
    "first", ["", "# Shared file\n", sync.HEADER.format(source="utils/model_utils/other.py") + "\n"]
)
def test_a_wrong_first_line_is_found(repository, first):
    (repository / "utils/model_utils/config.py").write_text(f"{first}{GOOD}")
    sync.write(repository)
    finding = only(sync.check(repository))
    assert finding.startswith("utils/model_utils/config.py:1: the first line must be: # Shared file: source utils/")
    assert finding.endswith("config.py; copy with: python scripts/sync_model_utils.py --write")


def test_too_many_files_are_found(repository):
    for number in range(7):
        set_source(repository, GOOD, f"file{number}.py")
    assert sync.check(repository) == []
    set_source(repository, GOOD, "file7.py")
    assert "holds 10 files, 9 at most" in only(sync.check(repository))


def test_a_source_in_a_sub_folder_is_found(repository):
    (repository / "utils/model_utils/deep").mkdir()
    (repository / "utils/model_utils/deep/file.py").write_text("")
    assert "utils/model_utils/deep/file.py lies in a sub-folder" in only(sync.check(repository))


def test_a_source_that_is_not_python_is_found(repository):
    set_source(repository, "x = (\n")
    assert "config.py:2: is not Python" in only(sync.check(repository))


def test_write_brings_copies_up_to_date_and_touches_nothing_else(repository, capsys):
    stale, missing = repository / "alpha/src/model_utils/config.py", repository / "beta/src/model_utils/logger.py"
    untouched = (repository / "beta/src/model_utils/config.py").stat().st_mtime_ns
    stale.write_text("old")
    missing.unlink()
    missing.with_name("config.py").parent.joinpath("notes.txt").write_text("mine")
    assert sync.main(["--write"], repository) == 0
    assert capsys.readouterr().out.splitlines() == [
        "wrote alpha/src/model_utils/config.py",
        "wrote beta/src/model_utils/logger.py",
        "2 shared files, 4 copies: all equal",
    ]
    assert stale.read_bytes() == (repository / "utils/model_utils/config.py").read_bytes()
    assert (repository / "beta/src/model_utils/config.py").stat().st_mtime_ns == untouched
    assert {path.name for path in stale.parent.iterdir()} == {"config.py", "logger.py"}


def test_write_makes_the_folder_of_a_new_model(repository):
    (repository / "gamma").mkdir()
    (repository / "gamma/train.py").write_text("")
    assert len(sync.check(repository)) == 2
    assert sync.main(["--write"], repository) == 0


def test_an_excluded_file_may_not_have_a_copy(repository):
    excluded = frozenset({("alpha", "logger.py")})
    assert only(sync.check(repository, excluded)).startswith("alpha/src/model_utils/logger.py has no source")
    (repository / "alpha/src/model_utils/logger.py").unlink()
    assert sync.check(repository, excluded) == []
    assert sync.write(repository, excluded) == []


@pytest.mark.parametrize("pair", [("alpha", "gone.py"), ("gone", "logger.py")])
def test_a_stale_exclusion_is_found(repository, pair):
    assert f"EXCLUDED names ({pair[0]}, {pair[1]})" in only(sync.check(repository, frozenset({pair})))


def test_program_needs_one_action():
    done = subprocess.run([sys.executable, sync.__file__], capture_output=True, text=True)
    assert done.returncode == 2 and "--check" in done.stderr


# ---- Shared files that lie among a folder's own ones


@pytest.fixture
def mirrored(repository):
    """A program and a shell library that all folders share."""
    for name, first in (("classification/src/inner.py", ""), ("launchers/common.sh", "#!/usr/bin/env bash\n")):
        path = repository / "utils" / name
        path.parent.mkdir(parents=True)
        path.write_text(f"{first}{sync.HEADER.format(source=f'utils/{name}')}\n")
    (repository / "utils/launchers/common.sh").chmod(0o755)
    sync.write(repository)
    return repository


def test_mirrored_files_lie_at_their_places(mirrored):
    assert sync.check(mirrored) == []
    for folder in ("alpha", "beta"):
        assert (mirrored / folder / "src/inner.py").is_file()
        assert (mirrored / folder / "scripts/common.sh").stat().st_mode & 0o111


def test_a_changed_mirrored_copy_is_found(mirrored):
    (mirrored / "beta/scripts/common.sh").write_text("rm -rf\n")
    assert "beta/scripts/common.sh differs from utils/launchers/common.sh in line 1" in only(sync.check(mirrored))
    assert sync.write(mirrored) == ["beta/scripts/common.sh"]


@pytest.mark.parametrize("text, finding", [("DarkNet53", "names the model"), ("import pandas", "imports pandas")])
def test_mirrored_sources_are_checked(mirrored, text, finding):
    path = mirrored / "utils/classification/src/inner.py"
    path.write_text(path.read_text() + (f"# {text}\n" if text[0].isupper() else f"{text}\n"))
    sync.write(mirrored)
    assert finding in only(sync.check(mirrored))


def test_a_shell_library_needs_its_header_after_the_first_line(mirrored):
    (mirrored / "utils/launchers/common.sh").write_text("#!/usr/bin/env bash\necho\n")
    sync.write(mirrored)
    assert "common.sh:2: the second line must be" in only(sync.check(mirrored))


def test_an_excluded_mirrored_file_has_no_copy(mirrored):
    excluded = frozenset({("alpha", "inner.py")})
    (mirrored / "alpha/src/inner.py").unlink()
    assert sync.check(mirrored, excluded) == [] and sync.write(mirrored, excluded) == []


def test_a_detector_has_no_files_of_the_classifiers(mirrored):
    name = min(sync.DETECTORS)
    (mirrored / name).mkdir()
    (mirrored / name / "train.py").write_text("")
    common = mirrored / "utils/common/src/step.py"
    common.parent.mkdir(parents=True)
    common.write_text(f"{sync.HEADER.format(source='utils/common/src/step.py')}\n")
    sync.write(mirrored)
    assert sync.check(mirrored) == []
    assert not (mirrored / name / "src/inner.py").exists() and (mirrored / name / "scripts/common.sh").is_file()
    assert all((mirrored / folder / "src/step.py").is_file() for folder in ("alpha", "beta", name))


# ---- The application in C++


@pytest.fixture
def application(repository):
    """Sources of an application whose comments are written in three ways, and what a build leaves beside them."""
    folder = repository / "utils/cpp_infer"
    for name in ("CMakeLists.txt", "README.md", "build.sh", "inc/a.h", "src/a.cc"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"{'#!/bin/sh' + chr(10) if name == 'build.sh' else ''}{sync.header(f'utils/cpp_infer/{name}')}\n"
        )
    for name in ("out/CMakeLists.txt", "out/inc/a.h", "inc/notes.txt", "build.log", "src/deep/b.cc"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    (folder / "build.sh").chmod(0o755)
    sync.write(repository)
    return repository


def test_the_application_is_copied_without_what_a_build_leaves(application, capsys):
    assert sync.check(application) == []
    for folder in ("alpha", "beta"):
        place = application / folder / "ascend310_infer"
        files = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
        assert files == {"CMakeLists.txt", "README.md", "build.sh", "inc/a.h", "src/a.cc"}
        assert (place / "build.sh").stat().st_mode & 0o777 == 0o755
        assert not (place / "README.md").stat().st_mode & 0o111
    assert sync.main(["--check"], application) == 0
    assert capsys.readouterr().out == "7 shared files, 14 copies: all equal\n"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("inc/a.h", "// {}"),
        ("src/a.cc", "// {}"),
        ("CMakeLists.txt", "# {}"),
        ("build.sh", "# {}"),
        ("README.md", "<!-- {} -->"),
    ],
)
def test_each_language_has_its_own_form_of_the_header(application, name, line):
    source = f"utils/cpp_infer/{name}"
    text = f"Shared file: source {source}; copy with: python scripts/sync_model_utils.py --write"
    path = application / source
    assert line.format(text) in path.read_text().splitlines()[:2]
    path.write_text("#include <x>\n")
    sync.write(application)
    assert only(sync.check(application)) == f"{source}:1: the first line must be: {line.format(text)}"


@pytest.mark.parametrize("name", ["CMakeLists.txt", "README.md", "build.sh", "inc/a.h", "src/a.cc"])
def test_a_changed_application_and_a_model_in_it_are_found(application, name):
    (application / "beta/ascend310_infer" / name).write_text("old")
    assert only(sync.check(application)).startswith(
        f"beta/ascend310_infer/{name} differs from utils/cpp_infer/{name} in line 1: "
    )
    assert sync.write(application) == [f"beta/ascend310_infer/{name}"]
    with (application / "utils/cpp_infer" / name).open("a") as file:
        file.write("as TinyNet does\n")
    sync.write(application)
    assert "names the model TinyNet; take it as an argument" in only(sync.check(application))


def test_a_file_of_the_application_without_a_source_is_found(application):
    (application / "utils/cpp_infer/src/a.cc").unlink()
    assert sync.check(application) == [
        f"{folder}/ascend310_infer/src/a.cc has no source in utils/cpp_infer; remove it" for folder in ("alpha", "beta")
    ]
