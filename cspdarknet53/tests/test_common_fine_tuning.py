# Shared file: source utils/classification/tests/test_common_fine_tuning.py; copy with: python scripts/sync_model_utils.py --write
"""Fine-tuning for real: from a backbone trained on other classes to ten classes of real images, a few CPU epochs."""

from __future__ import annotations

import importlib
import re

import eval as evaluation
import train
from conftest import FREEZE, SHALLOW, accuracies, contents, small_run, states
from src.model_utils.checkpoint import load
from src.recipe import NETWORK, is_head

import numpy as np
import pytest

PIXELS = 64
GENTLE = {"flip_prob": 0, "color_jitter": "0,0,0,0", "crop_scale": 0.6, "image_height": PIXELS, "image_width": PIXELS,
          "batch_size": 16, "lr_init": 0.01}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def shallow():
    """A quarter of the time; the whole network needs the same epochs."""
    module = importlib.import_module(f"src.{NETWORK}")
    stages = module.STAGES
    exec(SHALLOW, {})
    yield
    module.STAGES = stages


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """1,437 training and 360 held-out digits as JPEG files, one folder for each class."""
    from digits import write_image_folder

    folder = tmp_path_factory.mktemp("digits") / "imagenet"
    write_image_folder(folder, size=PIXELS)
    return folder


@pytest.fixture(scope="module")
def backbone(digits, tmp_path_factory):
    """One epoch on four of the ten classes."""
    folder = tmp_path_factory.mktemp("backbone")
    for split in ("train", "val"):
        (folder / split).mkdir()
        for name in "0257":
            (folder / split / name).symlink_to(digits / split / name)
    options = small_run(folder, folder, **{**GENTLE, "epoch_size": 1, "T_max": 1, "num_classes": 4, "eval_interval": 1})
    assert train.main(options) == 0
    return next(states(folder)[-1].parent.glob("*_best.ckpt"))


def test_ninety_five_percent(digits, backbone, tmp_path, capsys):
    """Two epochs with the first layers frozen and a faster head: 95 % top-1 or more of the 360 held-out digits."""
    options = {**GENTLE, "epoch_size": 2, "T_max": 2, "pretrained": backbone, "reset_head": True, "head_lr_factor": 2.0}
    assert train.main(small_run(digits, tmp_path, freeze=FREEZE, eval_interval=2, **options)) == 0
    best = next(states(tmp_path)[-1].parent.glob("*_best.ckpt"))
    assert load(best)[1]["class_names"] == [str(digit) for digit in range(10)]
    capsys.readouterr()
    evaluation.main(["--val_data_dir", str(digits / "val"), "--device_target", "CPU", "--checkpoint_path", str(best),
                     "--run_dir", str(tmp_path / "eval"), "--batch_size", "32"])  # fmt: skip
    assert accuracies(capsys.readouterr().out)[0] >= 0.95
    before, after = contents(backbone), contents(best)
    frozen = re.compile("|".join(pattern.replace(".", r"\.").replace("*", ".*") for pattern in FREEZE.split(",")))
    for name in before:
        if not is_head(name):
            assert np.array_equal(before[name], after[name]) == bool(frozen.fullmatch(name)), name
