"""The network learns from real pictures; slow, so only with --long."""

from __future__ import annotations

import ast

import eval as evaluation
import train
from conftest import small_run

import pytest

pytestmark = pytest.mark.long


def test_the_network_learns_the_digits(tmp_path):
    """The recipe of the quick start at half of its side: 95 % or more of 360 held-out digits after ten epochs."""
    from digits import write_cifar10

    write_cifar10(tmp_path / "digits")
    options = {
        "batch_size": 32, "epoch_size": 10, "T_max": 10, "lr_scheduler": "cosine_annealing", "lr_init": 0.1,
        "warmup_epochs": 2, "weight_decay": 5e-4, "flip_prob": 0, "color_jitter": "0,0,0,0", "cutout_ratio": 0,
        "eval_interval": 1,
    }  # fmt: skip
    assert train.main(small_run(tmp_path / "digits", tmp_path, **options)) == 0
    path = tmp_path / "checkpoints/0/train_tinydarknet_cifar10_best.ckpt"
    options = ["--dataset_name", "cifar10", "--val_data_dir", tmp_path / "digits", "--device_target", "CPU"]
    evaluation.main([str(option) for option in [*options, "--checkpoint_path", path, "--run_dir", tmp_path]])
    line = (tmp_path / "eval.log").read_text().partition("accuracy:  ")[2].splitlines()[0]
    assert ast.literal_eval(line)["top_1_accuracy"] >= 0.95
