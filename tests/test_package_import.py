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


@pytest.mark.parametrize(
    "version, package, found, notice",
    [
        ("2.7.0", "mindspore", (2, 7), ""),
        ("2.8.0rc1", "mindspore-ascend", (2, 8), ""),
        ("2.9.1", "mindspore-gpu", (2, 9), ""),
        ("2.10.0", "mindspore", (2, 10), ""),
        ("2.11.0rc1", "mindspore", (2, 11), "notice: MindSpore 2.11 was not tried; tried: 2.7 to 2.10\n"),
        ("3.0", "mindspore", (3, 0), "notice: MindSpore 3.0 was not tried; tried: 2.7 to 2.10\n"),
        ("2.6.0", "mindspore", (2, 6), "MindSpore 2.6 is too old; tried: 2.7 to 2.10; pip install -r requirements.txt"),
        ("1.10.1", "mindspore", (1, 10), "MindSpore 1.10 is too old; tried: 2.7 to 2.10; pip install -r"),
        (None, "", None, "MindSpore is not installed; pip install -r requirements.txt"),
    ],
)
def test_version(monkeypatch, capsys, version, package, found, notice):
    """One that was tried is silent, a newer one is noticed and not refused, an older one and none are refused."""

    def installed(name: str) -> str:
        if version is None or name != package:
            raise metadata.PackageNotFoundError
        return version

    monkeypatch.setattr(metadata, "version", installed)
    assert model_utils.mindspore_version() == found
    if found is None or found < (2, 7):
        with pytest.raises(ImportError, match=f"^{notice}"):
            model_utils.check_version()
        notice = ""
    else:
        model_utils.check_version()
    assert capsys.readouterr() == ("", notice)


# ---- convolutions on CPU


@pytest.mark.parametrize(
    "version, avx512, before, after",
    [
        ((2, 9), True, None, "AVX2"),
        ((2, 8), True, None, None),
        ((2, 10), False, None, None),
        ((2, 10), True, "ALL", "ALL"),
        ((2, 10), True, "", ""),
        (None, True, None, None),
    ],
)
def test_cpu_kernels(version, avx512, before, after, monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if before is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", before)
    monkeypatch.setattr(model_utils, "mindspore_version", lambda: version)
    monkeypatch.setattr(model_utils, "_has_avx512", lambda: avx512)
    model_utils.set_cpu_kernels()
    assert os.environ.get("ONEDNN_MAX_CPU_ISA") == after


@pytest.mark.parametrize("flags, wanted", [("fpu avx2 avx512f avx512bw", True), ("fpu avx2", False), (None, False)])
def test_instruction_set_is_read(flags, wanted, tmp_path, monkeypatch):
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"model name\t: avx512f by name only\nflags\t\t: {flags}\nbugs\t\t:\n")
    monkeypatch.setattr("builtins.open", lambda path, **_: (tmp_path / "cpuinfo").open())
    assert model_utils._has_avx512() is wanted


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
