"""What only this folder has: its documented keys and their spellings, its recipe of tinynet_b, its paths."""

from __future__ import annotations

import eval as evaluation
import export
import train
from src.model_utils.errors import UsageError
from src.recipe import FOLDER, MODEL, read_config

import pytest
import yaml

DOCUMENTED = """
data_path: ""\nmodel: tinynet_c\nnum_classes: 1000\nbatch_size: 128\ndrop: 0.2\ndrop_connect: 0\nopt: rmsprop\nopt_eps: 0.001
momentum: 0.9\nweight_decay: 0.00001\nlr: 0.048\nwarmup_lr: 0.000001\nepochs: 450\ndecay_epochs: 2.4\nwarmup_epochs: 3
decay_rate: 0.97\nsmoothing: 0.1\nema_decay: 0.9999\namp_level: O0\nper_print_times: 100\nbn_tf: False\nbn_momentum: 0.1
bn_eps: 0.00001\nworkers: 8\ndistributed: False\ndataset_sink: True\nckpt: ""\nckpt_save_epoch: 1\nloss_scale: 1024
train: True\nGPU: False
"""
# A training as it is documented, in words; and each documented key in the spellings beside it.
COMMAND = (
    "--model tinynet_c --drop 0.2 --drop-connect 0 --num-classes 1000 --opt-eps 0.001 --lr 0.048 --batch-size 128 "
    "--decay-epochs 2.4 --warmup-lr 1e-6 --warmup-epochs 3 --decay-rate 0.97 --ema-decay 0.9999 --weight-decay 1e-5 "
    "--epochs 450 --ckpt_save_epoch 1 --workers 8 --amp_level O0 --opt rmsprop --data_path /path_to_ImageNet/ --GPU "
    "--dataset_sink"
)
SPELLINGS = [
    ("--num-classes 10", "num_classes", 10), ("--num_classes=10", "num_classes", 10), ("-b 4", "batch_size", 4),
    ("--batch-size 4", "batch_size", 4), ("-j 3", "workers", 3), ("--workers 3", "workers", 3),
    ("--drop 0.5", "drop", 0.5), ("--drop-connect 0.3", "drop_connect", 0.3), ("--opt-eps 1e-8", "opt_eps", 1e-8),
    ("--momentum 0.8", "momentum", 0.8), ("--lr 0.1", "lr", 0.1), ("--epochs 2", "epochs", 2),
    ("--decay-epochs 30", "decay_epochs", 30.0), ("--warmup-lr 1e-4", "warmup_lr", 1e-4),
    ("--warmup-epochs 5", "warmup_epochs", 5), ("--decay-rate 0.5", "decay_rate", 0.5), ("--dr 0.5", "decay_rate", 0.5),
    ("--ema-decay 0.9", "ema_decay", 0.9), ("--ema-decay 0", "ema_decay", 0.0), ("--weight-decay 1e-4", "weight_decay", 1e-4),
    ("--amp_level O2", "amp_level", "O2"), ("--GPU", "GPU", True), ("--dataset_sink", "dataset_sink", True),
    ("--no-dataset_sink", "dataset_sink", False), ("--dataset_sink False", "dataset_sink", False),
    ("--ckpt /a.ckpt", "ckpt", "/a.ckpt"), ("--ckpt_save_epoch 7", "ckpt_save_epoch", 7),
    ("--per_print_times 9", "per_print_times", 9), ("--bn-tf", "bn_tf", True), ("--bn-momentum 0.2", "bn_momentum", 0.2),
    ("--bn-eps 1e-4", "bn_eps", 1e-4), ("--distributed", "distributed", True), ("--train False", "train", False),
    ("--train no", "train", False), ("--smoothing 0.2", "smoothing", 0.2), ("--opt sgd", "opt", "sgd"),
    ("--data_path /data", "data_path", "/data"), ("--loss_scale 1", "loss_scale", 1.0),
    ("--model tinynet_e", "model", "tinynet_e"),
]  # fmt: skip


def configured(text: str = ""):
    return read_config(text.split(), "")


def test_documented_keys_have_their_defaults():
    values = next(iter(yaml.safe_load_all((FOLDER / "default_config.yaml").read_text())))
    for key, value in yaml.safe_load(DOCUMENTED).items():
        assert values[key] == value, key


def test_documented_command():
    """It is the default recipe, but for the data, the device and what the documents leave open."""
    defaults, config = configured().to_dict(), configured(COMMAND)
    changed = {key for key, value in config.to_dict().items() if value != defaults[key]}
    assert changed == {"data_path", "train_data_dir", "val_data_dir", "GPU"}
    assert (config.train_data_dir, config.val_data_dir) == ("/path_to_ImageNet/train", "/path_to_ImageNet/val")
    assert config.device_target == "GPU" and (config.image_height, config.image_width) == (184, 184)


@pytest.mark.parametrize("text, key, value", SPELLINGS)
def test_spelling(text, key, value):
    config = configured(text)
    assert config[key] == value and type(config[key]) is type(value) and key in config.given


def test_every_documented_key_has_a_spelling():
    assert {key for _, key, _ in SPELLINGS} == yaml.safe_load(DOCUMENTED).keys()


def test_gpu_is_a_device():
    assert configured("--GPU --device_target GPU").device_target == "GPU"
    assert configured("--GPU False --device_target CPU").device_target == "CPU"
    with pytest.raises(UsageError, match="^--GPU contradicts --device_target CPU; give one of the two$"):
        train.main(["--GPU", "--device_target", "CPU"])


def test_recipe_of_tinynet_b():
    assert configured("--model tinynet_b").drop_connect == 0.1
    assert configured("--model=tinynet_b --drop-connect 0").drop_connect == 0
    assert configured("--model tinynet_b").image_height == 188
    for model in ("tinynet_a", "tinynet_c", "tinynet_d", "tinynet_e"):
        assert configured(f"--model {model}").drop_connect == 0
    from_file = configured(f"--config_path {FOLDER / 'tinynet_b_config.yaml'}")
    assert (from_file.model, from_file.drop_connect) == ("tinynet_b", 0.1)


def test_input_sizes():
    sizes = [configured(f"--model tinynet_{letter}").image_height for letter in "abcde"]
    assert sizes == [192, 188, 184, 152, 106]
    resized = [int(size / configured().crop_ratio) for size in sizes]
    assert resized == [219, 214, 210, 173, 121]


def test_tensorflow_batch_norm():
    config = configured("--bn-tf")
    assert (config.bn_momentum, config.bn_eps) == (0.01, 1e-3)
    config = configured("--bn-tf --bn-momentum 0.5")
    assert (config.bn_momentum, config.bn_eps) == (0.5, 1e-3)
    assert "bn_eps" in config.given and "bn_eps" not in configured().given


def test_paths():
    """What data_path stands for; a folder that is given goes before it; where checkpoints and results lie."""
    config = configured("--data_path /data --val_data_dir /other --run_dir /run")
    assert (config.train_data_dir, config.val_data_dir) == ("/data/train", "/other")
    assert config.ckpt_save_dir == "/run" and configured("--run_dir /run --ckpt_save_dir /c").ckpt_save_dir == "/c"
    assert configured("--enable_modelarts").data_path == "/cache/data" and configured().data_path == ""
    assert configured("--enable_modelarts --data_path /own").data_path == "/own"


def test_paths_of_a_modelarts_job(tmp_path):
    """Data below the unpacked file; results where they are uploaded from; the checkpoint where it was copied to."""
    (tmp_path / "a.ckpt").touch()
    options = (
        f"--enable_modelarts --data_path /d --modelarts_dataset_unzip_name set --output_path /o --load_path {tmp_path}"
    )
    given, copied = configured(f"{options} --ckpt x.ckpt"), configured(f"{options} --checkpoint_url obs://b/a.ckpt")
    config = train.adapt_paths(given)
    assert (config.train_data_dir, config.val_data_dir) == ("/d/set/train", "/d/set/val")
    assert (config.ckpt_save_dir, config.run_dir, config.ckpt) == ("/o", "/o", "x.ckpt")
    assert (
        train.adapt_paths(copied).ckpt == str(tmp_path / "a.ckpt") and train.adapt_paths(configured(options)).ckpt == ""
    )
    config = evaluation.adapt_paths(copied)
    assert (config.val_data_dir, config.run_dir, config.ckpt) == ("/d/set/val", "/o", str(tmp_path / "a.ckpt"))
    assert evaluation.adapt_paths(given).ckpt == "x.ckpt"
    config = export.adapt_paths(copied)
    assert (config.file_name, config.ckpt) == ("/o/tinynet", str(tmp_path / "a.ckpt"))


def test_description_builds_the_network():
    """All that --help calls the network, so that a checkpoint can be loaded without its recipe."""
    config = configured("--model tinynet_e --num_classes 3 --bn-tf --stage_blocks 1,1,1,1,1,1,1")
    about = MODEL.describe_network(config)
    assert about == {"name": "tinynet", "model": "tinynet_e", "num_classes": 3, "bn_momentum": 0.01, "bn_eps": 1e-3,
                     "stage_blocks": [1] * 7}  # fmt: skip
    network = MODEL.build_network(about)
    assert [len(stage) for stage in network.blocks] == [1] * 7 and network.bn1.eps == 1e-3
    assert network.bn1.momentum == pytest.approx(0.01)
    heads = [name for name in network.parameters_dict() if MODEL.is_head(name)]
    assert heads == ["classifier.weight", "classifier.bias"]
    with pytest.raises(UsageError, match="num_classes=0"):
        MODEL.build_network({**about, "num_classes": 0})


def test_starting_from_nothing(tmp_path):
    """An evaluation needs a checkpoint, and its data."""
    with pytest.raises(Exception, match="^checkpoint . is a folder; give the path of a .ckpt file$"):
        train.main(["--train", "False", "--device_target", "CPU", "--run_dir", str(tmp_path)])
