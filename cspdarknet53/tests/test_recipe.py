"""The recipe of this folder: documented keys, learning rates, checkpoint places, JSON labels, what a dry run refuses."""

from __future__ import annotations

import json

import create_imagenet2012_label
import eval as evaluation
import export
import postprocess
import train
from classifier.recipe import AliasedRecipe
from conftest import small_run
from src.lr_scheduler import get_lr
from src.model_utils.device_adapter import Device
from src.model_utils.errors import DataError, UsageError
from src.recipe import ALIASES, checkpoint_folder, read_config, saves_checkpoints

import numpy as np
import pytest


class TestRecipe(AliasedRecipe):
    RESIZED, SMOOTHES, FIRST = 256, "label_smooth", "stem.conv.weight"
    ALIASES = {
        alias: key for alias, key in ALIASES.items() if key not in ("height", "width")
    }  # these have their own test
    DOCUMENTED = """
num_classes: 1000\nlr: 0.1\nlr_scheduler: cosine_annealing\nlr_gamma: 0.1\neta_min: 0\nT_max: 150\nmax_epoch: 150
warmup_epochs: 5\nweight_decay: 0.0001\nmomentum: 0.9\nis_dynamic_loss_scale: 0\nloss_scale: 1024\nlabel_smooth: 1
label_smooth_factor: 0.1\nckpt_interval: 1\nckpt_save_max: 10\nis_save_on_master: 1\ndata_dir: ""\npretrained: ""
is_distributed: 1\nper_batch_size: 64\nlog_path: "outputs/"\nexport_batch_size: 1\nckpt_file: ""\nfile_name: "cspdarknet53"
file_format: "MINDIR"\nwidth: 224\nheight: 224\nenable_modelarts: False\ndata_path: /cache/data\noutput_path: /cache/train
load_path: /cache/checkpoint_path\ndevice_target: Ascend\nmodelarts_dataset_unzip_name: ImageNet
need_modelarts_dataset_unzip: True\nstage_blocks: [1, 2, 8, 8, 4]
"""
    REFUSED = """image_size=31,31 crop_ratio=0 mean=0.5,0.5 std=0,1,1 crop_scale=0 flip_prob=1.5 color_jitter=0.4,0.4,0.4,0.6
activation=gelu negative_slope=1.0 stage_blocks=1,1,1,1 per_batch_size=0 max_epoch=0 lr=-0.1 lr_epochs=-1,2 lr_gamma=-1
eta_min=-1 T_max=0 warmup_epochs=-1 momentum=1 weight_decay=-0.1 label_smooth_factor=1.5 loss_scale=0.5 clip_grad_norm=-1
accumulate_steps=0 ema_decay=1 head_lr_factor=0 freeze=backbone.* ckpt_save_max=0"""
    MESSAGES = {
        "image_size": "image_height=31",
        "per_batch_size": "batch_size=0",
        "freeze": r"no parameter matches 'backbone\.\*'",
        "ckpt_save_max": "keep_checkpoint_max=0",
    }
    NEEDS = {
        "negative_slope": {"activation": "leaky_relu"},
        "lr_epochs": {"lr_scheduler": "exponential"},
        "lr_gamma": {"lr_scheduler": "exponential"},
    }
    SIZES = ("num_classes", "height", "width", "image_size", "stage_blocks", "max_epoch")

    test_every_number_out_of_range = pytest.mark.long(AliasedRecipe.numbers_out_of_range)

    def test_dry_run_writes_nothing(self, few_digits, tmp_path):
        self.check_dry_run(few_digits, tmp_path)


def test_image_size_and_its_sides():
    for options in ("--image_size 96,96", "--height 96 --width 96", "--image_height=96 --image_width=96"):
        config = read_config(options.split(), "")
        sides = [config.height, config.width]
        assert config.image_size == sides == [config.image_height, config.image_width] == [96, 96]
    for options, message in (
        ("--image_size 96,96 --height 64 --width 64", "contradicts height=64"),
        ("--image_size 96", "image_size"),
    ):
        with pytest.raises(UsageError, match=message):
            read_config(options.split(), "")


def test_name_of_the_zip_file():
    """The documented switch of ModelArts empties the name, and nothing is unpacked."""
    assert read_config(["--need_modelarts_dataset_unzip", "false"], "").modelarts_dataset_unzip_name == ""


def test_exponential_learning_rates():
    rates = get_lr(read_config(["--lr_scheduler=exponential", "--warmup_epochs=0", "--lr_epochs=30,60,90,120"], ""), 2)
    assert [rates[2 * epoch] for epoch in (0, 30, 60, 90, 120)] == pytest.approx([0.1, 0.01, 1e-3, 1e-4, 1e-5])
    default = get_lr(read_config(["--lr_scheduler=exponential", "--warmup_epochs=0"], ""), 2)
    np.testing.assert_array_equal(default, rates)


def test_each_rank_may_save():
    first, third = Device("Ascend", 0, 0, 4), Device("Ascend", 2, 2, 4)
    config = read_config([], "")
    assert saves_checkpoints(config, first) and not saves_checkpoints(config, third)
    assert checkpoint_folder(config, third).folder.name == "ckpt_0"
    config = read_config(["--is_save_on_master=0"], "")
    folder = checkpoint_folder(config, third)
    assert saves_checkpoints(config, third) and folder.folder.name == "ckpt_2" and folder.prefix == "2"


def test_places_of_a_modelarts_job(tmp_path):
    """Data below the unpacked data_path, unless data_dir names others; results below output_path."""
    config = read_config(["--data_path", str(tmp_path), "--output_path", "/out", "--ckpt_path", "c"], "")
    data = tmp_path / "ImageNet"  # the name of the zip file
    assert train.adapt_paths(config).data_dir == evaluation.adapt_paths(config).val_data_dir == str(data)
    for split in ("train", "val"):
        (data / split).mkdir(parents=True)
    found = train.adapt_paths(config)
    assert (found.data_dir, found.ckpt_path, found.log_path) == (str(data / "train"), "/out/c", "/out")
    assert evaluation.adapt_paths(config).val_data_dir == str(data / "val")
    found = export.adapt_paths(config.replace(ckpt_file="a.ckpt"))
    assert (found.ckpt_file, found.file_name) == ("a.ckpt", "/out/cspdarknet53")
    config = read_config(["--data_dir", "/mine", "--pretrained", "b.ckpt"], "")
    found = train.adapt_paths(config)
    assert (found.data_dir, found.pretrained) == ("/mine", "b.ckpt")
    found = evaluation.adapt_paths(evaluation.with_validation_data(config))
    assert (found.val_data_dir, found.pretrained) == ("/mine", "b.ckpt")


def test_validation_data_of_eval():
    """data_dir and list_file, unless there are others."""
    for other, expected in (("--val_list_file=v", ("/d", "l")), ("--val_data_dir=/v", ("/v", ""))):
        config = evaluation.with_validation_data(read_config(["--data_dir=/d", "--list_file=l", other], ""))
        assert (config.val_data_dir, config.val_list_file) == expected


def test_json_labels(few_digits, tmp_path, monkeypatch, capsys):
    """Of create_imagenet2012_label.py, as postprocess.py reads them; one of the ten classes is predicted wrongly."""
    monkeypatch.chdir(tmp_path)
    create_imagenet2012_label.main(["--img_path", str(few_digits / "val")])
    assert "[INFO] Completed! Total 40 data." in capsys.readouterr().out
    labels = json.loads((tmp_path / "imagenet_label.json").read_text())
    assert labels == {path.name: int(path.parent.name) for path in (few_digits / "val").rglob("*.jpg")}
    (tmp_path / "results").mkdir()
    for name, label in labels.items():
        logits = np.eye(10, dtype="<f4")[label if label != 3 else 4]
        logits.tofile(tmp_path / "results" / (name.rpartition(".")[0] + ".bin"))
    postprocess.main(["--result_path", "results", "--label_path", "imagenet_label.json"])
    assert "Total data: 40, top1 accuracy: 0.9, top5 accuracy: 1.0\n" in capsys.readouterr().out


def test_json_labels_that_are_refused(few_digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagenet_label.json").write_text("{}")
    with pytest.raises(DataError, match="holds something else"):
        create_imagenet2012_label.main(["--img_path", str(few_digits / "val")])
    for name in ("a/1.jpg", "b/1.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        (tmp_path / "in" / name).touch()
    with pytest.raises(DataError, match="b/1.jpg has the name of a file of class a"):
        create_imagenet2012_label.main(["--img_path", "in"])


def test_dry_run_refuses_data(few_digits, tmp_path):
    with pytest.raises(DataError, match=r"10 classes, more than num_classes=7; give --num_classes 10"):
        train.main(small_run(few_digits, tmp_path, dry_run=True, num_classes=7))
    (tmp_path / "list.txt").write_text("3/a.jpg 10\n")
    with pytest.raises(DataError, match="label 10, num_classes=10; give --num_classes 11"):
        train.main(small_run(few_digits, tmp_path, dry_run=True, list_file=tmp_path / "list.txt"))
