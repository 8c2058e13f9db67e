"""The quick start on the oldest and the newest Python and MindSpore, each in an environment made anew."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMBINATIONS = [("3.9", "2.7.0"), ("3.12", "2.10.0")]  # the oldest and the newest that are supported


def find_python(version: str) -> str | None:
    """The interpreter of a version, on PATH or among those of pyenv."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [shutil.which(f"python{version}"), *sorted(map(str, root.glob(f"versions/{version}.*/bin/python")))]
    for python in filter(None, found):
        answer = subprocess.run([python, "--version"], capture_output=True, text=True)
        if answer.returncode == 0 and answer.stdout.startswith(f"Python {version}."):
            return python
    return None


@pytest.mark.long
@pytest.mark.parametrize(("python", "mindspore"), COMBINATIONS)
def test_quickstart_runs(tmp_path, python, mindspore):
    interpreter = find_python(python)
    if interpreter is None:
        pytest.skip(f"there is no Python {python} on this machine")
    constraint = tmp_path / "constraint.txt"
    constraint.write_text(f"mindspore=={mindspore}\n")
    process = subprocess.run(
        ["bash", ROOT / "scripts" / "quickstart.sh", "--output", tmp_path / "result"],
        env={
            **os.environ, "PYTHON": interpreter, "VENV_DIR": str(tmp_path / "venv"), "PIP_CONSTRAINT": str(constraint)
        },
        capture_output=True, text=True, timeout=3000,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    assert f"MindSpore    {mindspore}" in process.stdout and f"Python       {python}." in process.stdout
    accuracy = float(process.stdout.split("top-1 accuracy on the 360 held-out digits: ")[1].split()[0])
    assert accuracy > 0.95
