"""What only this folder has: its documented keys, schedule and checkpoint places."""

from __future__ import annotations

import re

import train
from conftest import program, small_run
from src.lr_scheduler import get_lr
from src.model_utils.checkpoint import load
from src.model_utils.config import UsageError
from src.recipe import FOLDER, read_config

import numpy as np
import pytest
import yaml

DOCUMENTED = """
device_target: "GPU"\nrun_distributed: True\ndevice_num: ""\nnet: "darknet53"\ndataset: "imagenet2012"\ndataset_path: ""
pre_trained: ""\nclass_num: 1000\nepoch_num: 150\npretrained_epoch_num: 0\nbatch_size: 256\nmomentum: 0.9\nloss_scale: 1024
weight_decay: 0.0001\nuse_label_smooth: True\nlabel_smooth_factor: 0.1\nlr: 0.1\nlr_scheduler: "cosine_annealing"\neta_min: 0
T_max: 150\nwarmup_epochs: 5\ncheckpoint_path: ""\nsave_checkpoint: True\nsave_checkpoint_epochs: 5
keep_checkpoint_max: 90\nsave_checkpoint_path: "./"\nsummary_dir: "./summary_dir"
"""


def test_documented_keys_have_their_defaults():
    values = next(iter(yaml.safe_load_all((FOLDER / "imagenet_config.yaml").read_text())))
    for key, value in yaml.safe_load(DOCUMENTED).items():
        assert values[key] == value, key
    config = read_config([], "")
    assert int(config.image_height / config.crop_ratio) == 292
    assert (config.num_classes, config.epoch_size, config.lr_init) == (1000, 150, 0.1)


def test_documented_learning_rates():
    rates = get_lr(read_config([], ""), 10)
    assert rates.shape == (1500,) and rates.dtype == np.float32
    assert rates[0] == pytest.approx(0.1 / 50) and rates[49] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.0997261, rel=1e-5) and rates[1499] == pytest.approx(1.09658e-5, rel=1e-4)
    later = get_lr(read_config(["--pretrained_epoch_num", "100"], ""), 10)
    np.testing.assert_array_equal(later, rates[1000:])
    with pytest.raises(UsageError, match="pretrained_epoch_num=150"):
        get_lr(read_config(["--pretrained_epoch_num", "150"], ""), 10)


def test_data_folders_follow_dataset_path():
    config = read_config(["--dataset_path", "/data"], "")
    assert (config.train_data_dir, config.val_data_dir) == ("/data/train", "/data/val")
    assert read_config(["--dataset_path", "/data", "--val_data_dir", "/v"], "").val_data_dir == "/v"


@pytest.mark.parametrize("spelling", ["--run_distributed=0", "--run_distribute=false", "--is_distributed=0"])
def test_one_process_whatever_the_environment_says(few_digits, tmp_path, spelling):
    """RANK_SIZE of another job does not make this process wait for others."""
    result = program("train.py", *small_run(few_digits, tmp_path, dry_run=True), spelling, RANK_SIZE="8", RANK_ID="3")
    assert result.returncode == 0 and "dry run" in result.stdout, result.stderr


def test_device_num_is_checked(few_digits, tmp_path):
    result = program("train.py", *small_run(few_digits, tmp_path, dry_run=True, device_num=2))
    assert result.returncode == 2 and re.search(r"error: device_num=2, but 1 process", result.stderr)


def test_save_checkpoint_false_writes_none(few_digits, tmp_path, monkeypatch):
    monkeypatch.setattr("src.darknet53.STAGES", (1,) * 5)
    options = small_run(few_digits, tmp_path, epoch_num=3, pretrained_epoch_num=2, eval_interval=1, batch_size=20)
    assert train.main([*options, "--save_checkpoint", "false"]) == 0
    assert not list(tmp_path.rglob("*.ckpt"))
    log = (tmp_path / "run/train.log").read_text()
    assert re.findall(r"(?m)^epoch: (\d+) step: 2,", log) == ["1"], "three epochs of which two were left out"
    assert train.main(options) == 0
    state = tmp_path / "checkpoints/darknet53-1_2.ckpt"
    assert load(state)[1]["network"]["activation"] == "leaky_relu"
