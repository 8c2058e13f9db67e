"""The recipe learns: ten classes of real handwritten digits, from random weights, a few epochs on the CPU; minutes."""

from __future__ import annotations

import re

from conftest import run_training

import pytest

PIXELS = 64
EPOCHS = 5


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """1,437 training and 360 held-out digits as JPEG files, one folder for each class."""
    from digits import write_image_folder

    folder = tmp_path_factory.mktemp("digits") / "imagenet"
    write_image_folder(folder, size=PIXELS)
    return folder


@pytest.mark.long
def test_ninety_five_percent(digits, tmp_path):
    """RMSProp, dropout, smoothing and moving average as in the recipe: 95 % or more of the held-out digits."""
    run_training(
        digits, tmp_path, stage_blocks="[]", image_height=PIXELS, image_width=PIXELS, batch_size=16, epochs=EPOCHS, lr=0.002,
        decay_epochs=1, decay_rate=0.8, ema_decay=0.98, flip_prob=0,
        color_jitter="0,0,0,0", crop_scale=0.6, eval_interval=EPOCHS,
    )  # fmt: skip
    log = (tmp_path / "run/train.log").read_text()
    found = {title: float(value) for title, value in re.findall(r"(?m)^Best ((?:EMA-)?Model) Accuracy: (\S+), at", log)}
    assert set(found) == {"Model", "EMA-Model"} and max(found.values()) >= 0.95, found
