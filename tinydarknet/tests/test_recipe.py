"""The recipes of this folder: documented keys, learning rates, checkpoint places, and what a dry run refuses."""

from __future__ import annotations

from pathlib import Path

import eval as evaluation
import export
import train
from classifier.recipe import Recipe
from conftest import small_run
from src.lr_scheduler import get_lr
from src.model_utils.device_adapter import Device
from src.model_utils.errors import DataError, UsageError
from src.recipe import FOLDER, checkpoint_folder, read_config, saves_checkpoints

import numpy as np
import pytest
import yaml

CIFAR10 = ["--dataset_name", "cifar10"]
DOCUMENTED_CIFAR10 = """
num_classes: 10\nbatch_size: 32\nepoch_size: 120\nlr_gamma: 0.1\nimage_height: 227\nimage_width: 227
use_label_smooth: False
"""


class TestRecipe(Recipe):
    RESIZED = 256
    DOCUMENTED = """
device_target: Ascend\nnum_classes: 1000\nbatch_size: 128\nepoch_size: 500\nlr_scheduler: exponential\nlr_init: 0.1
lr_epochs: [70, 140, 210, 280]\nlr_gamma: 0.3\neta_min: 0.0\nT_max: 150\nwarmup_epochs: 0\nmomentum: 0.9
weight_decay: 0.0001\nuse_label_smooth: True\nlabel_smooth_factor: 0.1\nloss_scale: 1024\nimage_height: 224
image_width: 224\nkeep_checkpoint_max: 10\nfile_name: tinydarknet\nfile_format: MINDIR\npre_trained: False
checkpoint_path: /train_tinydarknet.ckpt\nonnx_filename: tinydarknet.onnx\nair_filename: tinydarknet.air
train_data_dir: ./ImageNet_Original/train/\nval_data_dir: ./ImageNet_Original/val/
"""
    LEARNING_RATE, FIRST, LAST, SMALL = "lr_init", "conv1.conv.weight", "conv16.conv.bias", {}
    REFUSED = """image_height=15 crop_ratio=0 mean=0.5,0.5 std=0,1,1 flip_prob=1.5 color_jitter=0.4,0.4,0.4,0.6
cutout_ratio=1.5 batch_size=0 epoch_size=0 lr_init=-0.1 lr_epochs=-1,2 lr_gamma=-1 eta_min=-1 T_max=0 warmup_epochs=-1
momentum=1 weight_decay=-0.1 label_smooth_factor=1.5 loss_scale=0.5 clip_grad_norm=-1 accumulate_steps=0 ema_decay=1
head_lr_factor=0 freeze=backbone.* keep_checkpoint_max=0"""
    MESSAGES = {"freeze": r"no parameter matches 'backbone\.\*'"}
    NEEDS = {
        "eta_min": {"lr_scheduler": "cosine_annealing"},
        "T_max": {"lr_scheduler": "cosine_annealing"},
        "label_smooth_factor": {"use_label_smooth": True},
    }
    SIZES = ("num_classes", "image_height", "image_width", "epoch_size")

    test_every_number_out_of_range = pytest.mark.long(Recipe.numbers_out_of_range)

    def test_dry_run_writes_nothing(self, few_digits, tmp_path):
        self.check_dry_run(few_digits, tmp_path)

    def test_dry_run_of_imagenet_writes_nothing(self, few_digits, image_folder, tmp_path):
        folders = {"train_data_dir": image_folder / "train", "val_data_dir": image_folder / "val"}
        self.check_dry_run(few_digits, tmp_path, dataset_name="imagenet", **folders)


def test_choice_of_the_recipe():
    """By the name of the data set, by either key; what the second recipe does not name is that of the first one."""
    expected = {**yaml.safe_load(TestRecipe.DOCUMENTED), **yaml.safe_load(DOCUMENTED_CIFAR10)}
    for options in (CIFAR10, ["--dataset=cifar10"], ["--config_path", str(FOLDER / "cifar10_config.yaml")]):
        config = read_config([*options, "--train_data_dir", expected["train_data_dir"]], "")
        assert config.dataset_name == config.dataset == "cifar10"
        for key, value in {**expected, "val_data_dir": "./data/cifar10_val/"}.items():
            assert config[key] == value, key
    assert int(config.cutout_ratio * config.image_height) == 112
    assert read_config([*CIFAR10, "--batch_size", "7"], "").batch_size == 7
    with pytest.raises(UsageError, match="dataset_name='mnist': one of imagenet, cifar10"):
        read_config(["--dataset", "mnist"], "")


def test_documented_learning_rates():
    rates = get_lr(read_config([], ""), 3)
    assert rates.dtype == np.float32 and rates.shape == (1500,)
    epochs = {0: 0.1, 69: 0.1, 70: 0.03, 140: 0.009, 210: 0.0027, 280: 0.00081, 499: 0.00081}
    for epoch, expected in epochs.items():
        np.testing.assert_allclose(rates[3 * epoch : 3 * epoch + 3], expected, rtol=1e-6)
    assert get_lr(read_config(CIFAR10, ""), 1)[70] == pytest.approx(0.01)
    options = ["--lr_scheduler", "cosine_annealing", "--epoch_size", "150", "--warmup_epochs", "5"]
    rates = get_lr(read_config(options, ""), 2)
    np.testing.assert_allclose(rates[:10], 0.1 * np.arange(1, 11) / 10, rtol=1e-6)
    np.testing.assert_allclose(rates[10:12], 0.0997261, rtol=1e-6)
    np.testing.assert_allclose(rates[298:], 1.09658e-5, rtol=1e-5)


def test_checkpoint_places():
    """One folder and one writer, however many devices there are."""
    config, third = read_config([*CIFAR10, "--ckpt_save_dir", "/c"], ""), Device("Ascend", 2, 2, 4)
    folder = checkpoint_folder(config, third)
    assert folder.folder == Path("/c/0") and folder.prefix == "train_tinydarknet_cifar10"
    assert saves_checkpoints(config, Device("Ascend", 0, 0, 4)) and not saves_checkpoints(config, third)


def test_places_of_a_modelarts_job(tmp_path):
    """Data below data_path, with the folders train and val or without; results below output_path."""
    config = read_config(["--data_path", str(tmp_path), "--output_path", "/out", "--checkpoint_path", "a.ckpt"], "")
    assert train.adapt_paths(config).train_data_dir == evaluation.adapt_paths(config).val_data_dir == str(tmp_path)
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
    found = train.adapt_paths(config)
    assert found.train_data_dir == str(tmp_path / "train") and found.val_data_dir == str(tmp_path / "val")
    assert (found.ckpt_save_dir, found.run_dir, found.checkpoint_path) == ("/out/checkpoints", "/out", "a.ckpt")
    found = evaluation.adapt_paths(config)
    assert found.val_data_dir == str(tmp_path / "val") and found.checkpoint_path == str(FOLDER / "a.ckpt")
    found = export.adapt_paths(config)
    assert found.file_name == "/out/tinydarknet" and found.checkpoint_path == str(FOLDER / "a.ckpt")


def test_names_of_exported_files():
    """ONNX and AIR have names of their own in the recipe; a name on the command line goes for all formats."""
    for options, name in (
        ([], "tinydarknet"), (["--file_format=ONNX"], "tinydarknet.onnx"), (["--file_format=AIR"], "tinydarknet.air"),
        (["--file_format=ONNX", "--file_name=x"], "x"), (["--file_format=ONNX", "--onnx_filename=y.onnx"], "y.onnx"),
    ):  # fmt: skip
        assert export.output_name(read_config(options, "")) == name


def test_dry_run_refuses_data(few_digits, image_folder, tmp_path):
    with pytest.raises(DataError, match="num_classes=9"):
        train.main(small_run(few_digits, tmp_path, dry_run=True, num_classes=9))
    folder = {"dataset_name": "imagenet", "train_data_dir": image_folder / "train", "num_classes": 7}
    with pytest.raises(DataError, match="10 classes, more than num_classes=7; give --num_classes 10"):
        train.main(small_run(few_digits, tmp_path, dry_run=True, **folder))
    with pytest.raises(DataError, match=r"data_batch_\*\.bin"):
        train.main(small_run(tmp_path, tmp_path, dry_run=True))
