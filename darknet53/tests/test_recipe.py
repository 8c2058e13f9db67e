"""The recipe of this folder: documented keys, learning rates, checkpoint places, and what a dry run refuses."""

from __future__ import annotations

import re

import eval as evaluation
import export
import train
from conftest import small_run
from dry_run import numeric_keys, try_values
from mindspore_hub_conf import create_network
from src.lr_scheduler import get_lr
from src.model_utils.device_adapter import Device
from src.model_utils.errors import DataError, UsageError
from src.recipe import ALIASES, FOLDER, checkpoint_folder, read_config, saves_checkpoints

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
    assert config.stage_blocks == [1, 2, 8, 8, 4]


@pytest.mark.parametrize("alias, key", ALIASES.items())
def test_other_spellings(alias, key):
    """A key by the name that it has elsewhere in the zoo: on the command line, and in the code."""
    default = read_config([], "")[key]
    value = {bool: not default, int: 17, float: 0.5, str: "imagenet2012"}[type(default)]
    config = read_config([f"--{alias}", str(value)], "")
    assert config[key] == config[alias] == value and alias in config.given


def test_data_folders_follow_dataset_path():
    config = read_config(["--dataset_path", "/data"], "")
    assert (config.train_data_dir, config.val_data_dir) == ("/data/train", "/data/val")
    assert read_config(["--dataset_path", "/data", "--val_data_dir", "/v"], "").val_data_dir == "/v"


def test_documented_learning_rates():
    rates = get_lr(read_config([], ""), 10)
    assert rates.shape == (1500,) and rates.dtype == np.float32
    assert rates[0] == pytest.approx(0.1 / 50) and rates[49] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.0997261, rel=1e-5) and rates[1499] == pytest.approx(1.09658e-5, rel=1e-4)
    np.testing.assert_array_equal(rates[50:60], rates[50])
    later = get_lr(read_config(["--pretrained_epoch_num", "100"], ""), 10)
    np.testing.assert_array_equal(later, rates[1000:])


def test_checkpoint_places():
    config = read_config(["--save_checkpoint_path", "/c"], "")
    alone, third = Device("GPU", 0), Device("GPU", 2, 2, 4)
    assert checkpoint_folder(config, alone).folder.as_posix() == "/c" and saves_checkpoints(config, alone)
    assert checkpoint_folder(config, third).folder.as_posix() == "/c/ckpt_0" and not saves_checkpoints(config, third)
    assert not saves_checkpoints(read_config(["--save_checkpoint", "false"], ""), alone)


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


def test_hub():
    network = create_network("darknet53", 3, stage_blocks=(1, 1, 1, 1, 1))
    assert network.fc.weight.shape == (3, 1024)
    with pytest.raises(NotImplementedError, match="resnet"):
        create_network("resnet")


def test_train_obeys_the_recipe(few_digits, tmp_path, monkeypatch):
    """Rates, loss and optimizer that train.py hands on."""
    seen = {}
    monkeypatch.setattr(train, "train", lambda *_, **parts: seen.update(parts) or 0)
    options = {
        "momentum": 0.8, "weight_decay": 0.3, "label_smooth_factor": 0.18, "head_lr_factor": 3, "lr": 0.07
    }  # fmt: skip
    assert train.main(small_run(few_digits, tmp_path, **options)) == 0
    optimizer, rates = seen["optimizer"], seen["learning_rates"]
    np.testing.assert_array_equal(rates, get_lr(read_config(small_run(few_digits, tmp_path, **options), ""), 5))
    assert optimizer.momentum.asnumpy() == np.float32(0.8)
    assert seen["loss_fn"].label_smoothing == pytest.approx(0.2)
    names = [parameter.name for parameter in optimizer.parameters]
    assert names == [parameter.name for parameter in seen["network"].trainable_params()]
    assert {float(decay.asnumpy()) for decay in optimizer.weight_decay} == {0, np.float32(0.3)}
    for name, factor in {"fc.bias": 3, "conv0.conv.weight": 1}.items():
        found = optimizer.get_lr_parameter(optimizer.parameters[names.index(name)]).asnumpy()
        np.testing.assert_allclose(found, factor * rates, rtol=1e-6)
    assert train.main(small_run(few_digits, tmp_path, **options, use_label_smooth=False)) == 0
    assert seen["loss_fn"].label_smoothing == 0


# ---- A dry run -------------------------------------------------------------------------------------------------------


def test_dry_run_writes_nothing(few_digits, tmp_path, monkeypatch):
    """Also where the environment of another job says that this is one of eight processes, and the option that it is not."""
    monkeypatch.setenv("RANK_SIZE", "8")
    monkeypatch.setenv("RANK_ID", "3")
    options = small_run(few_digits, tmp_path, dry_run=True, run_distribute=False, eval_interval=1)
    assert train.main(options) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["train.log"]
    assert "dry run" in (tmp_path / "run/train.log").read_text()


REFUSED = {  # value, and the message where it is not KEY=
    "image_height": (31, r"image_height=31"),
    "crop_ratio": (0, None),
    "mean": ("0.5,0.5", None),
    "std": ("0,1,1", None),
    "crop_scale": (0, None),
    "flip_prob": (1.5, None),
    "color_jitter": ("0.4,0.4,0.4,0.6", None),
    "activation": ("gelu", None),
    "negative_slope": (1.0, None),
    "stage_blocks": ("1,1,1,1", None),
    "batch_size": (0, None),
    "epoch_num": (0, None),
    "pretrained_epoch_num": (2, r"pretrained_epoch_num=2: .*below epoch_num=2"),
    "lr": (-0.1, None),
    "eta_min": (-1, None),
    "T_max": (0, None),
    "warmup_epochs": (-1, None),
    "momentum": (1, None),
    "weight_decay": (-0.1, None),
    "label_smooth_factor": (1.5, None),
    "loss_scale": (0.5, None),
    "clip_grad_norm": (-1, None),
    "accumulate_steps": (0, None),
    "ema_decay": (1, None),
    "head_lr_factor": (0, None),
    "freeze": ("backbone.*", r"no parameter matches 'backbone\.\*'"),
    "keep_checkpoint_max": (0, None),
    "device_num": (2, r"device_num=2, but 1 process"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_dry_run_refuses(few_digits, tmp_path, key):
    value, message = REFUSED[key]
    with pytest.raises(UsageError, match=message or f"{key}="):
        train.main(small_run(few_digits, tmp_path, dry_run=True, **{key: value}))


@pytest.mark.long
def test_every_number_out_of_range(few_digits, tmp_path):
    """A dry run takes it or refuses it; nothing else is raised."""
    options = small_run(few_digits, tmp_path, dry_run=True, eval_interval=1)
    accepted, faults = try_values(
        train.main,
        options,
        numeric_keys(read_config([], "")),
        ("class_num", "image_height", "image_width", "stage_blocks", "epoch_num"),
    )
    assert not faults and len(accepted) > 50
    assert not [path for path in tmp_path.rglob("*.ckpt")]


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
