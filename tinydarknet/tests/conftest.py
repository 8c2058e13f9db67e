"""Fixtures: handwritten digits in both layouts, and the command line of a small training."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "utils" / "sample_data"), str(FOLDER / "tests")]
sys.path.append(str(FOLDER.parent / "tests"))  # last: it has files of the same names

import src.model_utils  # noqa: E402,F401  (sets the environment before MindSpore is imported)


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory) -> Path:
    """CIFAR-10 layout with 40 training and 40 held-out digits."""
    from digits import write_cifar10

    folder = tmp_path_factory.mktemp("few") / "cifar10"
    write_cifar10(folder, limit=40)
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """ImageNet layout: folders train and val with JPEG digits, 40 pictures each."""
    from digits import write_image_folder

    folder = tmp_path_factory.mktemp("folder") / "imagenet"
    write_image_folder(folder, size=48, limit=40)
    return folder


@pytest.fixture(scope="module")
def eager():
    """Operators run one by one, which compiles nothing; the programs choose the graph mode for the whole process."""
    import mindspore as ms

    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=mode)


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
    return [token for key, value in options.items() for token in (f"--{key}", str(value))]
