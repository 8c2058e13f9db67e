"""The recipe of this folder: documented keys, learning rates, checkpoint places, JSON labels, what a dry run refuses."""

from __future__ import annotations

import json

import create_imagenet2012_label
import eval as evaluation
import export
import postprocess
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
num_classes: 1000\nlr: 0.1\nlr_scheduler: cosine_annealing\nlr_gamma: 0.1\neta_min: 0\nT_max: 150\nmax_epoch: 150
warmup_epochs: 5\nweight_decay: 0.0001\nmomentum: 0.9\nis_dynamic_loss_scale: 0\nloss_scale: 1024\nlabel_smooth: 1
label_smooth_factor: 0.1\nckpt_interval: 1\nckpt_save_max: 10\nis_save_on_master: 1\ndata_dir: ""\npretrained: ""
is_distributed: 1\nper_batch_size: 64\nlog_path: "outputs/"\nexport_batch_size: 1\nckpt_file: ""\nfile_name: "cspdarknet53"
file_format: "MINDIR"\nwidth: 224\nheight: 224\nenable_modelarts: False\ndata_path: /cache/data\noutput_path: /cache/train
load_path: /cache/checkpoint_path\ndevice_target: Ascend\nmodelarts_dataset_unzip_name: ImageNet
need_modelarts_dataset_unzip: True
"""


def test_documented_keys_have_their_defaults():
    values = next(iter(yaml.safe_load_all((FOLDER / "default_config.yaml").read_text())))
    for key, value in yaml.safe_load(DOCUMENTED).items():
        assert values[key] == value, key
    config = read_config(["--image_size", "224,224", "--lr_epochs", "30,60,90,120"], "")
    assert config.image_size == [224, 224] and config.lr_epochs == [30, 60, 90, 120]
    assert int(config.height / config.crop_ratio) == 256 and config.stage_blocks == [1, 2, 8, 8, 4]


@pytest.mark.parametrize("alias, key", [item for item in ALIASES.items() if item[1] not in ("height", "width")])
def test_other_spellings(alias, key):
    """A key by the name that it has elsewhere in the zoo: on the command line, and in the code."""
    default = read_config([], "")[key]
    value = {bool: not default, int: 17, float: 0.5, str: "text"}[type(default)]
    config = read_config([f"--{alias}", str(value)], "")
    assert config[key] == config[alias] == value and alias in config.given


def test_image_size_and_its_sides():
    for options in (
        ["--image_size", "96,96"],
        ["--height", "96", "--width", "96"],
        ["--image_height=96", "--image_width=96"],
    ):
        config = read_config(options, "")
        sides = [config.height, config.width]
        assert config.image_size == sides == [config.image_height, config.image_width] == [96, 96]
    with pytest.raises(UsageError, match="contradicts height=64"):
        read_config(["--image_size", "96,96", "--height", "64", "--width", "64"], "")
    with pytest.raises(UsageError, match="image_size"):
        read_config(["--image_size", "96"], "")


def test_name_of_the_zip_file():
    """The documented switch of ModelArts empties the name, and nothing is unpacked."""
    assert read_config([], "").modelarts_dataset_unzip_name == "ImageNet"
    assert read_config(["--need_modelarts_dataset_unzip", "false"], "").modelarts_dataset_unzip_name == ""


def test_learning_rates():
    rates = get_lr(read_config([], ""), 10)
    assert rates.shape == (1500,) and rates.dtype == np.float32
    assert rates[0] == pytest.approx(0.1 / 50) and rates[49] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.0997261, rel=1e-5) and rates[1499] == pytest.approx(1.09658e-5, rel=1e-4)
    rates = get_lr(read_config(["--lr_scheduler", "exponential", "--warmup_epochs", "0"], ""), 2)
    assert [rates[2 * epoch] for epoch in (0, 30, 60, 90, 120)] == pytest.approx([0.1, 0.01, 1e-3, 1e-4, 1e-5])


def test_each_rank_may_save():
    first, third = Device("Ascend", 0, 0, 4), Device("Ascend", 2, 2, 4)
    config = read_config([], "")
    assert saves_checkpoints(config, first) and not saves_checkpoints(config, third)
    assert checkpoint_folder(config, third).folder.name == "ckpt_0"
    config = read_config(["--is_save_on_master=0"], "")
    assert saves_checkpoints(config, third)
    folder = checkpoint_folder(config, third)
    assert folder.folder.name == "ckpt_2" and folder.prefix == "2"


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
    assert export.adapt_paths(config.replace(ckpt_file="a.ckpt")).ckpt_file == "a.ckpt"
    assert export.adapt_paths(config).file_name == "/out/cspdarknet53"
    config = read_config(["--data_dir", "/mine", "--pretrained", "b.ckpt"], "")
    found = train.adapt_paths(config)
    assert (found.data_dir, found.pretrained) == ("/mine", "b.ckpt")
    found = evaluation.adapt_paths(evaluation.with_validation_data(config))
    assert (found.val_data_dir, found.pretrained) == ("/mine", "b.ckpt")


def test_hub():
    network = create_network("cspdarknet53", 3, stage_blocks=(1, 1, 1, 1, 1))
    assert network.fc.weight.shape == (3, 1024)
    with pytest.raises(NotImplementedError, match="resnet"):
        create_network("resnet")


def test_validation_data_of_eval():
    """data_dir and list_file, unless there are others."""
    config = read_config(["--data_dir", "/d", "--list_file", "l", "--val_list_file", "v"], "")
    config = evaluation.with_validation_data(config)
    assert (config.val_data_dir, config.val_list_file) == ("/d", "l")
    config = read_config(["--data_dir", "/d", "--list_file", "l", "--val_data_dir", "/v"], "")
    config = evaluation.with_validation_data(config)
    assert (config.val_data_dir, config.val_list_file) == ("/v", "")


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
    for name, factor in {"fc.bias": 3, "stem.conv.weight": 1}.items():
        found = optimizer.get_lr_parameter(optimizer.parameters[names.index(name)]).asnumpy()
        np.testing.assert_allclose(found, factor * rates, rtol=1e-6)
    assert train.main(small_run(few_digits, tmp_path, **options, label_smooth=False)) == 0
    assert seen["loss_fn"].label_smoothing == 0


# ---- A dry run -------------------------------------------------------------------------------------------------------


def test_dry_run_writes_nothing(few_digits, tmp_path):
    assert train.main(small_run(few_digits, tmp_path, dry_run=True, eval_interval=1)) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["train.log"]
    assert "dry run" in (tmp_path / "run/train.log").read_text()


REFUSED = {  # value, and the message where it is not KEY=
    "image_size": ("31,31", "image_height=31"),
    "crop_ratio": (0, None),
    "mean": ("0.5,0.5", None),
    "std": ("0,1,1", None),
    "crop_scale": (0, None),
    "flip_prob": (1.5, None),
    "color_jitter": ("0.4,0.4,0.4,0.6", None),
    "activation": ("gelu", None),
    "negative_slope": (1.0, None),
    "stage_blocks": ("1,1,1,1", None),
    "per_batch_size": (0, "batch_size=0"),
    "max_epoch": (0, None),
    "lr": (-0.1, None),
    "lr_epochs": ("-1,2", None),
    "lr_gamma": (-1, None),
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
    "ckpt_save_max": (0, "keep_checkpoint_max=0"),
}
NEEDS = {  # further options with which a value counts
    "negative_slope": {"activation": "leaky_relu"},
    "lr_epochs": {"lr_scheduler": "exponential"},
    "lr_gamma": {"lr_scheduler": "exponential"},
}


@pytest.mark.parametrize("key", REFUSED)
def test_dry_run_refuses(few_digits, tmp_path, key):
    value, message = REFUSED[key]
    with pytest.raises(UsageError, match=message or f"{key}="):
        train.main(small_run(few_digits, tmp_path, dry_run=True, **{key: value}, **NEEDS.get(key, {})))


@pytest.mark.long
def test_every_number_out_of_range(few_digits, tmp_path):
    """A dry run takes it or refuses it; nothing else is raised."""
    options = small_run(few_digits, tmp_path, dry_run=True, eval_interval=1)
    accepted, faults = try_values(
        train.main,
        options,
        numeric_keys(read_config([], "")),
        ("num_classes", "height", "width", "image_size", "stage_blocks", "max_epoch"),
    )
    assert not faults and len(accepted) > 50
    assert not [path for path in tmp_path.rglob("*.ckpt")]


def test_dry_run_refuses_data(few_digits, tmp_path):
    with pytest.raises(DataError, match=r"10 classes, more than num_classes=7; give --num_classes 10"):
        train.main(small_run(few_digits, tmp_path, dry_run=True, num_classes=7))
    (tmp_path / "list.txt").write_text("3/a.jpg 10\n")
    with pytest.raises(DataError, match="label 10, num_classes=10; give --num_classes 11"):
        train.main(small_run(few_digits, tmp_path, dry_run=True, list_file=tmp_path / "list.txt"))
