"""The command line of a small training, and the fixtures that the classifiers share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "utils" / "sample_data"), str(FOLDER / "tests")]
sys.path.append(str(FOLDER.parent / "tests"))  # last: it has files of the same names
pytest.register_assert_rewrite("classifier")

import src.model_utils  # noqa: E402,F401  (sets the environment before MindSpore is imported)
from classifier.fixtures import command_line, configured, eager, few_digits  # noqa: E402,F401


def small_run(data: Path, out: Path, **changes) -> list[str]:
    """Command line of a small training on the CPU: one block in each stage, 32 pixels, two epochs of five steps."""
    options = {
        "dataset_path": data,
        "class_num": 10,
        "image_height": 32,
        "image_width": 32,
        "stage_blocks": "1,1,1,1,1",
        "batch_size": 8,
        "epoch_num": 2,
        "save_checkpoint_path": out / "checkpoints",
        "save_checkpoint_epochs": 1,
        "device_target": "CPU",
        "num_parallel_workers": 2,
        "lr": 0.02,
        "warmup_epochs": 0,
        "run_dir": out / "run",
        "summary_dir": out / "summary",
        **changes,
    }
    return command_line(options)
