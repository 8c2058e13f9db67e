"""The recipe of this folder: documented keys, learning rates, data, checkpoint places, and what a dry run refuses."""

from __future__ import annotations

import re

import eval as evaluation
import export
import train
from classifier.dataset import ClassFolders, check_pillow
from classifier.recipe import AliasedRecipe
from conftest import small_run
from src.lr_scheduler import get_lr
from src.model_utils.device_adapter import Device
from src.model_utils.errors import DataError
from src.recipe import ALIASES, checkpoint_folder, read_config, saves_checkpoints

import numpy as np
import pytest


class TestRecipe(AliasedRecipe):
    RESIZED, ALIASES = 292, ALIASES
    DOCUMENTED = """
device_target: "GPU"\nrun_distributed: True\ndevice_num: ""\nnet: "darknet53"\ndataset: "imagenet2012"\ndataset_path: ""
pre_trained: ""\nclass_num: 1000\nepoch_num: 150\npretrained_epoch_num: 0\nbatch_size: 256\nmomentum: 0.9\nloss_scale: 1024
weight_decay: 0.0001\nuse_label_smooth: True\nlabel_smooth_factor: 0.1\nlr: 0.1\nlr_scheduler: "cosine_annealing"\neta_min: 0
T_max: 150\nwarmup_epochs: 5\ncheckpoint_path: ""\nsave_checkpoint: True\nsave_checkpoint_epochs: 5
keep_checkpoint_max: 90\nsave_checkpoint_path: "./"\nsummary_dir: "./summary_dir"\nstage_blocks: [1, 2, 8, 8, 4]
"""
    REFUSED = """image_height=31 crop_ratio=0 mean=0.5,0.5 std=0,1,1 crop_scale=0 flip_prob=1.5 color_jitter=0.4,0.4,0.4,0.6
activation=gelu negative_slope=1.0 stage_blocks=1,1,1,1 batch_size=0 epoch_num=0 pretrained_epoch_num=2 lr=-0.1 eta_min=-1
T_max=0 warmup_epochs=-1 momentum=1 weight_decay=-0.1 label_smooth_factor=1.5 loss_scale=0.5 clip_grad_norm=-1
accumulate_steps=0 ema_decay=1 head_lr_factor=0 freeze=backbone.* keep_checkpoint_max=0 device_num=2"""
    MESSAGES = {
        "pretrained_epoch_num": "pretrained_epoch_num=2: .*below epoch_num=2",
        "freeze": r"no parameter matches 'backbone\.\*'",
        "device_num": "device_num=2, but 1 process",
    }
    SIZES = ("class_num", "image_height", "image_width", "stage_blocks", "epoch_num")

    test_every_number_out_of_range = pytest.mark.long(AliasedRecipe.numbers_out_of_range)

    def test_dry_run_writes_nothing(self, few_digits, tmp_path, monkeypatch):
        """Also where the environment says that this is one of eight processes, and the option that it is not."""
        monkeypatch.setenv("RANK_SIZE", "8")
        monkeypatch.setenv("RANK_ID", "3")
        self.check_dry_run(few_digits, tmp_path, run_distribute=False)


class TestData(ClassFolders):
    SIDES = {"image_height": 48, "image_width": 48}

    def test_evaluation_equals_pillow(self, tmp_path):
        check_pillow(tmp_path, side=256, resized=292)


def test_data_folders_follow_dataset_path():
    config = read_config(["--dataset_path", "/data"], "")
    assert (config.train_data_dir, config.val_data_dir) == ("/data/train", "/data/val")
    assert read_config(["--dataset_path", "/data", "--val_data_dir", "/v"], "").val_data_dir == "/v"


def test_learning_rates_after_earlier_epochs():
    later = get_lr(read_config(["--pretrained_epoch_num", "100"], ""), 10)
    np.testing.assert_array_equal(later, get_lr(read_config([], ""), 10)[1000:])


def test_checkpoint_places():
    config = read_config(["--save_checkpoint_path", "/c"], "")
    alone, third = Device("GPU", 0), Device("GPU", 2, 2, 4)
    assert checkpoint_folder(config, alone).folder.as_posix() == "/c" and saves_checkpoints(config, alone)
    assert checkpoint_folder(config, third).folder.as_posix() == "/c/ckpt_0" and not saves_checkpoints(config, third)


def test_places_of_a_modelarts_job(tmp_path):
    """Data below data_path, with the folders train and val or without; results below output_path."""
    options = ["--data_path", str(tmp_path), "--output_path", "/out", "--save_checkpoint_path", "ckpt"]
    config = read_config([*options, "--checkpoint_path", "a.ckpt", "--pre_trained", "b.ckpt"], "")
    assert train.adapt_paths(config).train_data_dir == evaluation.adapt_paths(config).val_data_dir == str(tmp_path)
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
    found = train.adapt_paths(config)
    assert found.train_data_dir == str(tmp_path / "train") and found.val_data_dir == str(tmp_path / "val")
    assert (found.save_checkpoint_path, found.run_dir, found.summary_dir) == ("/out/ckpt", "/out", "/out/summary_dir")
    assert found.pre_trained == "b.ckpt"
    found = evaluation.adapt_paths(config)
    assert found.val_data_dir == str(tmp_path / "val") and found.checkpoint_path == "a.ckpt"
    found = export.adapt_paths(config)
    assert found.file_name == "/out/darknet53" and found.checkpoint_path == "a.ckpt"


def test_dry_run_refuses_data(few_digits, tmp_path):
    with pytest.raises(DataError, match=r"10 classes, more than num_classes=7; give --num_classes 10"):
        train.main(small_run(few_digits, tmp_path, dry_run=True, class_num=7))
    with pytest.raises(DataError, match="train does not exist"):
        train.main(small_run(tmp_path / "none", tmp_path, dry_run=True))


def test_epochs_left_out_and_no_checkpoint(few_digits, tmp_path):
    """Of three epochs the last one is trained where two are said to be done."""
    options = small_run(few_digits, tmp_path, epoch_num=3, pretrained_epoch_num=2, batch_size=20, save_checkpoint=False)
    assert train.main(options) == 0
    assert not list(tmp_path.rglob("*.ckpt"))
    assert re.findall(r"(?m)^epoch: (\d+) step: 2,", (tmp_path / "run/train.log").read_text()) == ["1"]
