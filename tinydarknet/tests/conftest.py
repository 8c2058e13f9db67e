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
from classifier.fixtures import command_line, configured, eager  # noqa: E402,F401
from classifier.fixtures import few_digits as image_folder  # noqa: E402,F401


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory) -> Path:
    """CIFAR-10 layout with 40 training and 40 held-out digits; image_folder has that of ImageNet."""
    return write_digits(tmp_path_factory, 40)


def write_digits(tmp_path_factory, limit: int) -> Path:
    from digits import write_cifar10

    folder = tmp_path_factory.mktemp("digits") / "cifar10"
    write_cifar10(folder, limit=limit)
    return folder


def small_run(data: Path, out: Path, **changes) -> list[str]:
    """Command line of a small CIFAR-10 training on the CPU: 32 pixels, two epochs of five steps."""
    options = {
        "dataset_name": "cifar10",
        "train_data_dir": data,
        "val_data_dir": data,
        "image_height": 32,
        "image_width": 32,
        "batch_size": 8,
        "epoch_size": 2,
        "ckpt_save_dir": out / "checkpoints",
        "device_target": "CPU",
        "num_parallel_workers": 2,
        "lr_init": 0.05,
        "cutout_ratio": 0.25,
        "run_dir": out / "run",
        "summary_dir": out / "summary",
        **changes,
    }
    return command_line(options)
