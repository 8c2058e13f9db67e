"""Small runs of the toy model on handwritten digits, in this process or as processes of their own, and what they leave."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

PROGRAMS = Path(__file__).with_name("toy") / "programs.py"
PICTURES = 40  # in each of the two splits
STEPS = 5  # of an epoch of `small_run`


def command_line(**options) -> list[str]:
    return [token for key, value in options.items() for token in (f"--{key}", str(value))]


def small_run(data: Path, out: Path, **changes) -> list[str]:
    """Command line of a training of two epochs of five steps, without evaluation."""
    options = {
        "train_data_dir": data / "train",
        "val_data_dir": data / "val",
        "num_parallel_workers": 1,
        "batch_size": 8,
        "eval_interval": 0,
        "ckpt_save_dir": out / "checkpoints",
        "run_dir": out / "run",
        **changes,
    }
    return command_line(**options)


def start(name: str, *arguments, until: str = "", **environment: str) -> subprocess.Popen:
    """A program of the toy model as a process, which has printed a line with `until`."""
    process = subprocess.Popen(
        [sys.executable, str(PROGRAMS), name, *map(str, arguments)],
        env={**os.environ, "PYTHONUNBUFFERED": "1", "GLOG_v": "3", **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    lines = []
    while until:
        lines.append(process.stdout.readline())
        if not lines[-1]:
            raise AssertionError(f"the process ended without '{until}': {''.join(lines)}")
        if until in lines[-1]:
            break
    return process


def states(out: Path) -> list[Path]:
    """Training states of a run, oldest first."""
    return sorted((out / "checkpoints").glob("toy-*_*.ckpt"), key=lambda path: [int(n) for n in place(path).split("_")])


def last(out: Path) -> Path:
    return states(out)[-1]


def place(path: Path) -> str:
    """Epoch and step in the name of a training state: 2_5."""
    return path.stem.split("-")[1]


def contents(path: Path) -> dict[str, np.ndarray]:
    """Everything in a checkpoint but its metadata."""
    import mindspore as ms

    loaded = ms.load_checkpoint(str(path))
    return {name: value.asnumpy() for name, value in loaded.items() if name != "metadata"}


def assert_same(first: Path, second: Path) -> None:
    """Both checkpoints hold the same bits."""
    one, two = contents(first), contents(second)
    assert one.keys() == two.keys() and len(one) > 20
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)


def changed(first: Path, second: Path) -> set[str]:
    """The names whose values differ."""
    one, two = contents(first), contents(second)
    return {name for name in one if not np.array_equal(one[name], two[name])}
