"""Fixtures: real handwritten digits as data sets, small training options, programs as processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "utils" / "sample_data"), str(FOLDER / "tests")]

import src.model_utils  # noqa: E402,F401  (sets the environment before MindSpore is imported)


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """CIFAR-10 layout: 1,437 training and 360 held-out digits."""
    from digits import write_cifar10

    folder = tmp_path_factory.mktemp("digits") / "cifar10"
    write_cifar10(folder)
    return folder


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory) -> Path:
    """CIFAR-10 layout with 112 training and 112 held-out digits."""
    from digits import write_cifar10

    folder = tmp_path_factory.mktemp("few") / "cifar10"
    write_cifar10(folder, limit=112)
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """ImageNet layout: folders train and val with JPEG digits, 112 pictures each."""
    from digits import write_image_folder

    folder = tmp_path_factory.mktemp("folder") / "imagenet"
    write_image_folder(folder, size=48, limit=112)
    return folder


def small_run(data: Path, out: Path, **changes) -> list[str]:
    """Command line of a small CIFAR-10 training on the CPU: 32 pixels, batch 16, two epochs."""
    options = {
        "dataset_name": "cifar10",
        "train_data_dir": data,
        "val_data_dir": data,
        "image_height": 32,
        "image_width": 32,
        "device_target": "CPU",
        "batch_size": 16,
        "epoch_size": 2,
        "lr_init": 0.05,
        "cutout_ratio": 0.25,
        "num_parallel_workers": 2,
        "ckpt_save_dir": out / "checkpoints",
        "run_dir": out / "run",
        **changes,
    }
    return [token for key, value in options.items() for token in (f"--{key}", str(value))]


def program(name: str, *arguments, cwd: Path | None = None, **environment) -> subprocess.CompletedProcess:
    """Run a program of this folder to its end."""
    return subprocess.run(
        [sys.executable, str(FOLDER / name), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "GLOG_v": "3", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


def states(out: Path) -> list[Path]:
    """Training states of a run, oldest first."""
    return sorted(
        out.glob("checkpoints/0/[!.]*-*_*.ckpt"), key=lambda p: [int(n) for n in p.stem.split("-")[1].split("_")]
    )


def contents(path: Path) -> dict:
    """Name to array of everything in a checkpoint but its metadata."""
    import mindspore as ms

    loaded = ms.load_checkpoint(str(path))
    return {name: value.asnumpy() for name, value in loaded.items() if name != "metadata"}


def assert_same(first: Path, second: Path) -> None:
    """Both checkpoints hold the same bits."""
    import numpy as np

    one, two = contents(first), contents(second)
    assert one.keys() == two.keys() and len(one) > 100
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)
