"""A model folder taken alone works: copied to an empty directory and run from another one, without the rest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = sorted(path.parent.name for path in ROOT.glob("*/train.py"))


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """CIFAR-10 layout with 64 training and 64 held-out digits, and a folder of 5 pictures."""
    sys.path.insert(0, str(ROOT / "utils" / "sample_data"))
    from digits import write_cifar10, write_pictures

    folder = tmp_path_factory.mktemp("data")
    write_cifar10(folder / "cifar10", limit=64)
    write_pictures(folder / "pictures", limit=5)
    return folder


def run(folder: Path, cwd: Path, program: str, *arguments) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, str(folder / program), *map(str, arguments)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, f"{program}: {result.stdout[-1500:]}{result.stderr[-1500:]}"
    return result.stdout


def test_there_are_folders():
    assert "tinydarknet" in FOLDERS


def test_tinydarknet_alone(digits, tmp_path):
    folder, cwd = tmp_path / "alone" / "tinydarknet", tmp_path / "elsewhere"
    ignore = shutil.ignore_patterns("__pycache__", "tests", ".pytest_cache")
    shutil.copytree(ROOT / "tinydarknet", folder, ignore=ignore)
    before = sorted(path.relative_to(folder) for path in folder.rglob("*") if "__pycache__" not in path.parts)
    cwd.mkdir()
    recipe = ["--dataset", "cifar10", "--device_target", "CPU"]
    size = ["--image_height", 32, "--image_width", 32]
    data = ["--train_data_dir", digits / "cifar10", "--val_data_dir", digits / "cifar10"]
    run(folder, cwd, "train.py", *recipe, *size, *data, "--epoch_size=1", "--batch_size=16", "--eval_interval=1")
    best = cwd / "checkpoints/0/train_tinydarknet_cifar10_best.ckpt"
    assert "accuracy:  {'top_1_accuracy': " in run(
        folder, cwd, "eval.py", *recipe, "--val_data_dir", digits / "cifar10", "--checkpoint_path", best
    )
    for file_format, ending in (("MINDIR", "mindir"), ("ONNX", "onnx")):
        run(folder, cwd, "export.py", *recipe, "--checkpoint_path", best, "--file_format", file_format)
        run(
            folder, cwd, "infer.py", "--device_target", "CPU", "--model_file", f"tinydarknet.{ending}",
            "--input", digits / "pictures", "--output_dir", ending,
        )  # fmt: skip
    rows = [json.loads((cwd / ending / "predictions.json").read_text())["predictions"] for ending in ("mindir", "onnx")]
    assert [row["top"][0]["class_index"] for row in rows[0]] == [row["top"][0]["class_index"] for row in rows[1]]
    text = run(
        folder,
        cwd,
        "postprocess.py",
        "--result_path",
        "mindir/result_Files",
        "--label_file",
        digits / "pictures/label.txt",
    )
    assert "'top_1_accuracy': " in text
    after = sorted(path.relative_to(folder) for path in folder.rglob("*") if "__pycache__" not in path.parts)
    assert after == before, "a program wrote into the folder"
