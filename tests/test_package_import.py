"""What importing the shared runtime does: the version is checked, and the environment stands before the framework is there."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import model_utils

import pytest

UTILS = str(Path(__file__).resolve().parents[1] / "utils")


# ---- version


@pytest.fixture
def install(monkeypatch):
    """Has it look as if a version of MindSpore were installed, under the name of a package; None: none."""

    def install(version: str | None, package: str = "mindspore") -> None:
        def installed(name: str) -> str:
            if version is None or name != package:
                raise metadata.PackageNotFoundError
            return version

        monkeypatch.setattr(metadata, "version", installed)

    return install


@pytest.mark.parametrize(
    "version, package, found",
    [
        ("2.7.0", "mindspore", (2, 7)), ("2.8.0rc1", "mindspore-ascend", (2, 8)), ("2.9.1", "mindspore-gpu", (2, 9)),
        ("2.10.0", "mindspore", (2, 10)),
    ],
)  # fmt: skip
def test_a_version_that_was_tried(install, capsys, version, package, found):
    install(version, package)
    model_utils.check_version()
    assert model_utils.mindspore_version() == found and capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "version, name", [("2.11.0", "2.11"), ("2.11.0rc1", "2.11"), ("3.0", "3.0"), ("10.2.1", "10.2")]
)
def test_a_newer_version_is_noticed_and_not_refused(install, capsys, version, name):
    install(version)
    model_utils.check_version()
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"notice: MindSpore {name} was not tried; tried: 2.7 to 2.10\n")


@pytest.mark.parametrize("version, name", [("2.6.0", "2.6"), ("1.10.1", "1.10"), ("2.0", "2.0")])
def test_an_older_version_is_refused(install, capsys, version, name):
    install(version)
    with pytest.raises(ImportError) as caught:
        model_utils.check_version()
    wanted = f"MindSpore {name} is too old; tried: 2.7 to 2.10; pip install -r requirements.txt"
    assert str(caught.value) == wanted and capsys.readouterr() == ("", "")


def test_no_mindspore(install):
    install(None)
    with pytest.raises(ImportError, match="^MindSpore is not installed; pip install -r requirements.txt$"):
        model_utils.check_version()


# ---- convolutions on CPU


@pytest.mark.parametrize(
    "version, avx512, before, after",
    [
        ((2, 10), True, None, "AVX2"), ((2, 9), True, None, "AVX2"), ((2, 8), True, None, None), ((2, 10), False, None, None),
        ((2, 10), True, "ALL", "ALL"), ((2, 10), True, "", ""), (None, True, None, None),
    ],
)  # fmt: skip
def test_cpu_kernels(version, avx512, before, after, monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if before is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", before)
    monkeypatch.setattr(model_utils, "mindspore_version", lambda: version)
    monkeypatch.setattr(model_utils, "_has_avx512", lambda: avx512)
    model_utils.set_cpu_kernels()
    assert os.environ.get("ONEDNN_MAX_CPU_ISA") == after


@pytest.mark.parametrize("flags, wanted", [("fpu avx2 avx512f avx512bw", True), ("fpu avx2", False)])
def test_instruction_set_is_read(flags, wanted, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(f"model name\t: avx512f by name only\nflags\t\t: {flags}\nbugs\t\t:\n")
    monkeypatch.setattr("builtins.open", lambda path, **_: (tmp_path / "cpuinfo").open())
    assert model_utils._has_avx512() is wanted


def test_unreadable_instruction_set(monkeypatch):
    def fail(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", fail)
    assert model_utils._has_avx512() is False


# ---- the import itself, in a process of its own

IMPORT = """
import os, pathlib, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "mindspore":
            print(os.environ.get("ONEDNN_MAX_CPU_ISA"))
sys.meta_path.insert(0, Finder())
import model_utils.device_adapter
def takes_interrupts(task):
    blocked = next(line for line in task.joinpath("status").read_text().splitlines() if line.startswith("SigBlk"))
    return not int(blocked.split()[1], 16) & 1 << signal.SIGINT - 1
print(*(task.name == str(os.getpid()) for task in pathlib.Path("/proc/self/task").iterdir() if takes_interrupts(task)))
"""


@pytest.mark.parametrize("before", [None, "AVX512_CORE"])
def test_environment_stands_before_the_framework(before):
    """The user's value wins, and the variable is set when MindSpore is imported. Of all threads, Ctrl-C reaches the main one."""
    needed = model_utils.mindspore_version() >= (2, 9) and model_utils._has_avx512()
    after = before or ("AVX2" if needed else "None")
    environment = {name: value for name, value in os.environ.items() if name != "ONEDNN_MAX_CPU_ISA"}
    environment.update({"PYTHONPATH": UTILS}, **({"ONEDNN_MAX_CPU_ISA": before} if before else {}))
    done = subprocess.run([sys.executable, "-c", IMPORT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [after, "True"]
