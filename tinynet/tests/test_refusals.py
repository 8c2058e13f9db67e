"""A dry run of train.py refuses what a training cannot have, before anything is written: the keys of this folder's own.

Those that all folders share are tested in tests/ of the repository, with a toy model.
"""

from __future__ import annotations

import re

import train
from conftest import small_run
from src.model_utils.errors import DataError, UsageError

import pytest

# Key -> values that a training may have, values that it may not; what the message calls the key, where it has two names.
VALUES = {
    "crop_ratio": ("1", "0 -1 1.1"),
    "mean": ("0,0,0", "0 0,0 1,1,1,1"),
    "std": ("1,1,1", "0,1,1 -1,1,1 1,1"),
    "crop_scale": ("1e-9 1", "0 -0.5 1.5 1e38"),
    "flip_prob": ("0 1", "-0.1 1.1"),
    "color_jitter": ("0,0,0,0 2,2,2,0.5", "0,0,0 -1,0,0,0 0,0,0,0.6"),
    "rand_augment": ("0 2", "-1"),
    "rand_augment_magnitude": ("1 30", "0 31 -1"),
    "random_erasing": ("0 1", "-0.1 1.5"),
    "mixup": ("0 2", "-0.1"),
    "cutmix": ("0 2", "-1"),
    "cutmix_prob": ("0 1", "-0.1 1.1 1e38"),
    "drop": ("0 0.9", "-0.1 1 1e38"),
    "drop_connect": ("0 0.9", "-0.1 1"),
    "bn_momentum": ("1", "0 -0.1 1.1"),
    "bn_eps": ("1e-9", "0 -1"),
    "stage_blocks": ("2,1,1,1,1,1,1", "1,1 1,1,1,1,1,1,0 1,1,1,1,1,1,-1"),
    "opt_eps": ("1e-9 1", "0 -1"),
    "momentum": ("0", "1 -0.1"),
    "lr": ("0", "-1"),
    "warmup_lr": ("0 1", "-1"),
    "warmup_epochs": ("0 9", "-1"),
    "decay_epochs": ("1e-9 1e38", "0 -1"),
    "decay_rate": ("1e-9 1.5 1e38", "0 -1"),
    "smoothing label_smooth_factor": ("0 0.9", "0.95 -0.1 1"),
    "weight_decay": ("0", "-1"),
    "opt": ("sgd rmsprop", "adam"),
    "model": ("tinynet_d", "tinynet_f resnet50"),
    "interpolation": ("nearest bilinear", "lanczos"),
}


@pytest.mark.parametrize("place", [0, -1])
def test_fine_values(few_digits, tmp_path, place):
    """The first one of each key at once, and the last one of each."""
    options = [f"--{names.split()[0]}={fine.split()[place]}" for names, (fine, _) in VALUES.items()]
    assert train.main([*small_run(few_digits, tmp_path, dry_run=True), *options]) == 0


@pytest.mark.parametrize("names", VALUES)
def test_wrong_values(few_digits, tmp_path, names):
    key, said = names.split()[0], names.split(maxsplit=1)[-1].split()[0]
    wrong = VALUES[names][1].split()
    options = small_run(few_digits, tmp_path, dry_run=True, check_images=False, num_classes=10)
    if key == "cutmix_prob":
        options += ["--cutmix=1"]
    if key.startswith("rand_augment_"):
        options += ["--rand_augment=1"]
    for text in wrong:
        with pytest.raises(UsageError, match=rf"\b{said}=.* accepted"):
            train.main([*options, f"--{key}={text}"])
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("options, message", [
    ("--image_width 64", "image_height=32 image_width=64: equal values of 32 or more"),
    ("--image_height 31 --image_width 31", "image_height=31 image_width=31: equal values of 32 or more"),
    ("--amp_level O2", "amp_level=O2: MindSpore's CPU kernels need float32; give O0 or auto"),
    ("--GPU", "--GPU contradicts --device_target CPU"), ("--freeze backbone.*", r"no parameter matches 'backbone\.\*'"),
    ("--momentun 1", "unknown option '--momentun'.*'--momentum'"), ("-b many", "batch_size='many': integer is accepted"),
])  # fmt: skip
def test_wrong_usage(few_digits, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        train.main([*small_run(few_digits, tmp_path, dry_run=True), *options.split()])


@pytest.mark.parametrize("options, message", [
    ({"num_classes": 7}, "10 classes, more than num_classes=7"), ({"batch_size": 41}, "0 steps per epoch: 40 images"),
    ({"ckpt": "none.ckpt"}, "checkpoint none.ckpt is not a file"), ({"resume": "none.ckpt"}, "none.ckpt is not a file"),
    ({"val_data_dir": "none", "eval_interval": 1}, re.compile("expected:.*found:", re.DOTALL)),
])  # fmt: skip
def test_data_and_files(few_digits, tmp_path, options, message):
    with pytest.raises(DataError) as caught:
        train.main(small_run(few_digits, tmp_path, dry_run=True, **options))
    assert re.search(message, str(caught.value)), str(caught.value)
    assert not (tmp_path / "checkpoints").exists()
