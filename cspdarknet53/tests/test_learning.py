"""The network learns from real pictures; slow, so only with --long."""

from __future__ import annotations

import fnmatch

import eval as evaluation
import train
from conftest import small_run
from src.model_utils.checkpoint import load
from src.recipe import is_head

import numpy as np
import pytest

pytestmark = pytest.mark.long

GENTLE = {
    "flip_prob": 0, "color_jitter": "0,0,0,0", "crop_scale": 0.6, "image_size": "64,64",
    "per_batch_size": 16, "lr": 0.01, "eval_interval": 1,
}  # fmt: skip
FULL = "1,2,8,8,4"
FIRST_LAYERS = "stem.*,stages.0.*,stages.1.*"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """1,437 training and 360 held-out digits as JPEG files, one folder for each class."""
    from digits import write_image_folder

    folder = tmp_path_factory.mktemp("digits") / "imagenet"
    write_image_folder(folder, size=64)
    return folder


def accuracy(digits, out, path) -> float:
    """Top-1 accuracy of a checkpoint on the held-out digits."""
    options = [f"--data_dir={digits / 'val'}", "--device_target=CPU", f"--pretrained={path}", f"--log_path={out}"]
    evaluation.main([*options, "--per_batch_size=32"])
    return int((out / "eval.log").read_text().partition("top1_correct=")[2].partition(",")[0]) / 360


def test_the_whole_network_learns_the_digits(digits, tmp_path):
    """From random weights, 95 % or more after three epochs."""
    options = small_run(digits, tmp_path, **GENTLE, stage_blocks=FULL, max_epoch=3, T_max=3)
    assert train.main(options) == 0
    assert accuracy(digits, tmp_path, tmp_path / "checkpoints/ckpt_0/0_best.ckpt") >= 0.95


def test_fine_tuning(digits, tmp_path):
    """From four of the ten classes to all: 95 % or more with the first layers frozen and a faster classifier."""
    for split in ("train", "val"):
        (tmp_path / "four" / split).mkdir(parents=True)
        for name in "0257":
            (tmp_path / "four" / split / name).symlink_to(digits / split / name)
    options = {**GENTLE, "max_epoch": 1, "T_max": 1, "num_classes": 4}
    assert train.main(small_run(tmp_path / "four", tmp_path / "first", **options)) == 0
    backbone, best = (tmp_path / name / "checkpoints/ckpt_0/0_best.ckpt" for name in ("first", "second"))
    options = {**GENTLE, "max_epoch": 2, "T_max": 2, "pretrained": backbone, "reset_head": True, "head_lr_factor": 2}
    assert train.main(small_run(digits, tmp_path / "second", **options, freeze=FIRST_LAYERS)) == 0
    assert load(best)[1]["class_names"] == [str(digit) for digit in range(10)]
    assert accuracy(digits, tmp_path, best) >= 0.95
    before, after = (load(path)[0] for path in (backbone, best))
    for name in before:
        if not is_head(name):
            is_frozen = any(fnmatch.fnmatch(name, pattern) for pattern in FIRST_LAYERS.split(","))
            assert np.array_equal(before[name].asnumpy(), after[name].asnumpy()) == is_frozen, name
