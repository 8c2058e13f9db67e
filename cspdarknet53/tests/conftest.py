"""Fixtures: real handwritten digits as JPEG files, small training options, programs as processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "utils" / "sample_data"), str(FOLDER / "tests")]

import src.model_utils  # noqa: E402,F401  (sets the environment before MindSpore is imported)


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory) -> Path:
    """Folders train and val with JPEG digits, 40 pictures each, ten classes."""
    from digits import write_image_folder

    folder = tmp_path_factory.mktemp("few") / "imagenet"
    write_image_folder(folder, size=48, limit=40)
    return folder


# One residual block in each stage: a quarter of the time.
SHALLOW = "import src.model_utils, src.cspdarknet53 as network; network.STAGES = (1,) * 5; "
OTHER_NETWORK = {"activation": "leaky_relu", "negative_slope": 0.01}  # options that the default network does not have
SMALL_NETWORK = ["--num_classes", "10"]  # options of what small_run trains
WRONG_CHOICE = ("lr_scheduler", "linear")
EXPORT_BATCH = "--export_batch_size"
FREEZE = "stem.*,stages.0.*,stages.1.*"  # the first layers
# Launcher of a training with two processes, its positional arguments, its run folder.
DISTRIBUTED = ("run_distribute_train.sh", lambda data: [str(data / "train")], "train_parallel0")


def accuracies(text: str) -> tuple[float, float]:
    """Top-1 and top-5 of the documented lines of eval.py, in 0-1."""
    assert re.search(r"(?m)^Inference Performance: \d+\.\d\d img/sec$", text)
    found = re.search(
        r"(?m)^top1_correct=(\d+), tot=(\d+), acc=\d+\.\d\d%\(TOP1\)\ntop5_correct=(\d+), tot=\2, acc=\d+\.\d\d%\(TOP5\)$",
        text,
    )
    return int(found[1]) / int(found[2]), int(found[3]) / int(found[2])


def small_run(data: Path, out: Path, **changes) -> list[str]:
    """Command line of a small training on the CPU: 32 pixels, batch 8, two epochs of five steps."""
    options = {
        "data_dir": data / "train",
        "val_data_dir": data / "val",
        "num_classes": 10,
        "image_height": 32,
        "image_width": 32,
        "per_batch_size": 8,
        "max_epoch": 2,
        "ckpt_path": out / "checkpoints",
        "device_target": "CPU",
        "num_parallel_workers": 2,
        "lr": 0.02,
        "warmup_epochs": 0,
        "run_dir": out / "run",
        "summary_dir": out / "summary",
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
        out.glob("checkpoints/ckpt_0/[!.]*-*_*.ckpt"), key=lambda p: [int(n) for n in p.stem.split("-")[1].split("_")]
    )


def is_convolution(name: str) -> bool:
    """Whether a parameter is the kernel of a convolution."""
    return name.endswith("conv.weight")


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
