"""A model folder taken alone works: its README's quick start, run on a copy of the folder from another directory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from test_readme import ENGLISH, ROOT, Command, Readme, blocks, commands, name, section

import pytest

MODELS = [readme for readme in ENGLISH if (readme.folder / "train.py").is_file()]
every_model = pytest.mark.parametrize("readme", MODELS, ids=name)
# What makes the quick start short: less data, a network of fewer blocks, one epoch. It runs as it is with --long.
SHORTER = {
    "digits.py": ["--limit", "48"],
    "coco_digits.py": ["--train", "16", "--val", "8"],
}
SHORTER_TRAINING = {
    "tinydarknet": ["--epoch_size", "1"],
    "darknet53": ["--epoch_size", "1", "--stage_blocks", "1,1,1,1,1"],
    "cspdarknet53": ["--epoch_size", "1", "--stage_blocks", "1,1,1,1,1"],
    "tinynet": ["--epoch_size", "1", "--stage_blocks", "1,1,1,1,1,1,1"],
    "yolov3_res2net50": ["--epoch_size", "1", "--stage_blocks", "1,1,1,1", "--width_multiplier", "0.125"],
}
DRY = {"train.py", "eval.py", "export.py"}


def test_there_are_folders():
    assert {readme.folder.name for readme in MODELS} == set(SHORTER_TRAINING)


def taken_alone(readme: Readme, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of a folder and nothing else, and another directory to work in."""
    folder, place = tmp_path / "alone" / readme.folder.name, tmp_path / "elsewhere"
    ignored = shutil.ignore_patterns("__pycache__", "tests", ".pytest_cache")
    shutil.copytree(readme.folder, folder, ignore=ignored)
    place.mkdir()
    return folder, place


def files(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if "__pycache__" not in path.parts)


def run_program(folder: Path, command: Command, place: Path, *options: str) -> str:
    """Run a command of a README with further options in another directory; returns its output.

    A word with an asterisk stands for the files that a shell would put there. What is not in the folder, such as the
    sample data, comes from the repository.
    """
    is_own = not command.program.startswith("..")
    program = folder / command.program if is_own else (ROOT / folder.name / command.program).resolve()
    words = [found for word in command.words[2:] for found in (sorted(_matches(word, place)) or [word])]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process = subprocess.run(
        [sys.executable, str(program), *words, *options],
        cwd=place, env=environment, capture_output=True, text=True, timeout=3000,
    )  # fmt: skip
    assert process.returncode == 0, f"{command.words}\n{process.stdout[-2000:]}\n{process.stderr[-2000:]}"
    return process.stdout


def _matches(pattern: str, place: Path) -> list[str]:
    return [str(path.relative_to(place)) for path in place.glob(pattern)] if "*" in pattern else []


def shape(text: str) -> set[str]:
    """The lines of a text with N for each number."""
    return {re.sub(r"\d+(\.\d+)?(e-?\d+)?", "N", line.rstrip()) for line in text.splitlines() if line.strip()}


def python_commands(readme: Readme) -> tuple[list[Command], list[Command]]:
    """The Python commands of the quick start's first block, and the others of the README."""
    first = blocks(section(readme.text, "Quick start"), "bash")[0]
    number = blocks(readme.text, "bash").index(first)
    found = [command for command in commands(readme) if command.words[0] == "python"]
    return [c for c in found if c.block == number], [c for c in found if c.block != number]


@every_model
def test_quick_start_of_a_folder_alone(readme, tmp_path):
    """Shortened, it prints lines of the documented shapes and writes nothing into the folder."""
    folder, place = taken_alone(readme, tmp_path)
    before, output = files(folder), ""
    quick, _ = python_commands(readme)
    programs = [Path(command.program).name for command in quick if not command.program.startswith("..")]
    assert programs == ["train.py", "eval.py", "export.py", "infer.py", "postprocess.py"]
    shorter = {**SHORTER, "train.py": SHORTER_TRAINING[folder.name]}
    for command in quick:
        output += run_program(folder, command, place, *shorter.get(Path(command.program).name, []))
    for heading in ("Quick start", "Training", "Evaluation"):
        for block in blocks(section(readme.text, heading), "text"):
            assert shape(block.replace("<current directory>", str(place))) <= shape(output)
    assert files(folder) == before, "a program wrote into the folder"


@pytest.mark.long
@every_model
def test_quick_start_as_it_is(readme, tmp_path):
    """The quick start as a reader runs it; then the README's other commands on the same data, as dry runs."""
    folder, place = taken_alone(readme, tmp_path)
    quick, others = python_commands(readme)
    for command in quick:
        run_program(folder, command, place)
    others = [command for command in others if "digits" in " ".join(command.words)]
    assert {"train.py"} <= {command.program for command in others} <= DRY
    for command in others:
        assert "dry run" in run_program(folder, command, place, "--dry_run", "true")
