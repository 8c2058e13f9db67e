"""Fixtures: real handwritten digits as JPEG files, and one small training that several tests look at."""

from __future__ import annotations

import contextlib
import gc
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "utils" / "sample_data"), str(FOLDER / "tests")]
sys.path.append(str(FOLDER.parent / "tests"))  # last: it has files of the same names

import src.model_utils  # noqa: E402,F401  (sets the environment before MindSpore is imported)

# One block of each stage; the fourth has two, of which the second one has a shortcut, where drop-connect acts.
STAGE_BLOCKS = "1,1,1,2,1,1,1"
# What a run can have at once.
EVERYTHING = {
    "batch_size": 4, "accumulate_steps": 2, "drop": 0.2, "drop_connect": 0.4, "ema_decay": 0.5, "rand_augment": 1,
    "random_erasing": 0.5, "mixup": 0.2, "cutmix": 1.0, "cutmix_prob": 0.5, "clip_grad_norm": 5.0, "smoothing": 0.2,
    "head_lr_factor": 2.0, "eval_interval": 1, "per_print_times": 2, "keep_checkpoint_max": 2,
}  # fmt: skip
EPOCHS, STEPS = 2, 5  # of that run: 40 pictures in steps of two batches of four
TRAINING_KEYS: set[str] = set()  # of the recipe, which that run has read


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory) -> Path:
    """Folders train and val with JPEG digits, 40 pictures each, ten classes."""
    from digits import write_image_folder

    folder = tmp_path_factory.mktemp("few") / "imagenet"
    write_image_folder(folder, size=48, limit=40)
    return folder


@pytest.fixture(scope="session")
def trained(few_digits, tmp_path_factory) -> Path:
    """What a training of two epochs with EVERYTHING has left."""
    from recorded_keys import recorded_keys
    from src.model_utils.config import Config

    with recorded_keys(Config) as keys:
        out = run_training(few_digits, tmp_path_factory.mktemp("trained"), **EVERYTHING)
    TRAINING_KEYS.update(keys)
    return out


@pytest.fixture
def eager():
    """Hooks see values outside of graphs only, and nothing is compiled."""
    with running("PYNATIVE_MODE"):
        yield


@pytest.fixture
def graph():
    """Networks and optimizers are compiled, as in a training."""
    with running("GRAPH_MODE"):
        yield


@contextlib.contextmanager
def running(mode: str) -> Iterator[None]:
    """Inside, cells run in this mode of the framework; the programs leave the graph mode behind."""
    import mindspore as ms

    before = ms.get_context("mode")
    ms.set_context(mode=getattr(ms, mode))
    yield
    ms.set_context(mode=before)


def small_run(data: Path, out: Path, **changes) -> list[str]:
    """Command line of a small training of tinynet_e on the CPU: 32 pixels, batch 8, two epochs of five steps."""
    options = {
        "data_path": data,
        "model": "tinynet_e",
        "stage_blocks": STAGE_BLOCKS,
        "num_classes": 10,
        "image_height": 32,
        "image_width": 32,
        "batch_size": 8,
        "epochs": EPOCHS,
        "ckpt_save_dir": out / "checkpoints",
        "device_target": "CPU",
        "workers": 2,
        "lr": 0.02,
        "warmup_epochs": 0,
        "ema_decay": 0,
        "eval_interval": 0,
        "run_dir": out / "run",
        **changes,
    }
    return [token for key, value in options.items() for token in (f"--{key}", str(value))]


def run_training(data: Path, out: Path, **changes) -> Path:
    """Train in this process; returns the folder of the results."""
    import train

    gc.collect()  # what is left of an earlier network, removed while the new one trains, has it compiled a second time
    assert train.main(small_run(data, out, **changes)) == 0
    return out


def states(out: Path) -> list[Path]:
    """Training states of a run, oldest first."""
    found = out.glob("checkpoints/tinynet_?-*_*.ckpt")
    return sorted(found, key=lambda path: [int(number) for number in re.findall(r"\d+", path.stem)])


def contents(path: Path) -> dict:
    """Name to array of everything in a checkpoint but its metadata."""
    from src.model_utils import checkpoint

    return {name: value.asnumpy() for name, value in checkpoint.load(path)[0].items()}


def same(one: dict, other: dict) -> bool:
    """Whether both hold the same bits under the same names."""
    import numpy as np

    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
