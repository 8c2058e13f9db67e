"""The command line of a small training, one that several tests look at, and timm's expected values of the five networks."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "utils" / "sample_data"), str(FOLDER / "tests")]
sys.path.append(str(FOLDER.parent / "tests"))  # last: it has files of the same names
pytest.register_assert_rewrite("classifier")

import src.model_utils  # noqa: E402,F401  (sets the environment before MindSpore is imported)
from classifier.fixtures import command_line, few_digits, running  # noqa: E402,F401

# Of each model; the sides of their inputs are those of their cards.
SIDES = {"tinynet_a": 192, "tinynet_b": 188, "tinynet_c": 184, "tinynet_d": 152, "tinynet_e": 106}
EXPECTED = {model: json.loads((FOLDER / f"tests/data/{model}.json").read_text()) for model in SIDES}

# One block of each stage; the fourth has two, of which the second one has a shortcut, where drop-connect acts.
STAGE_BLOCKS = "1,1,1,2,1,1,1"
# What a run can have at once.
EVERYTHING = {
    "batch_size": 4, "accumulate_steps": 2, "drop": 0.2, "drop_connect": 0.4, "ema_decay": 0.5, "rand_augment": 1,
    "random_erasing": 0.5, "mixup": 0.2, "cutmix": 1.0, "cutmix_prob": 0.5, "clip_grad_norm": 5.0, "smoothing": 0.2,
    "head_lr_factor": 2.0, "eval_interval": 1, "per_print_times": 2, "keep_checkpoint_max": 2,
}  # fmt: skip
EPOCHS, STEPS = 2, 5  # of that run: 40 pictures in steps of two batches of four


@pytest.fixture(scope="session", autouse=True)
def shapes_once() -> Iterator[None]:
    """convert_checkpoint.py builds the five networks anew for each file, to compare shapes; here each one once."""
    import convert_checkpoint

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert_checkpoint, "tinynet", functools.lru_cache(convert_checkpoint.tinynet))
        yield


@pytest.fixture(scope="session")
def trained(few_digits, tmp_path_factory) -> Path:  # noqa: F811
    """What a training of two epochs with EVERYTHING has left."""
    return run_training(few_digits, tmp_path_factory.mktemp("trained"), **EVERYTHING)


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
    return command_line(options)


def run_training(data: Path, out: Path, **changes) -> Path:
    """Train in this process; returns the folder of the results."""
    import train
    from classifier.wiring import call

    assert call(train, *small_run(data, out, **changes)) == 0
    return out


def states(out: Path) -> list[Path]:
    """Training states of a run, oldest first."""
    found = out.glob("checkpoints/tinynet_?-*_*.ckpt")
    return sorted(found, key=lambda path: [int(number) for number in re.findall(r"\d+", path.stem)])


def by_our_names(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """timm's state dictionary by the names that its parameters have here."""
    leaves = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    weights = {}
    for name, value in state.items():
        stem, leaf = name.rsplit(".", 1)
        if leaf != "num_batches_tracked":
            weights[f"{stem}.{leaves[leaf] if stem[-3:-1] == 'bn' else leaf}"] = value
    return weights
