"""The recipe of this folder: documented keys and their spellings, its recipe of tinynet_b, its paths, learning rates,
and what a dry run refuses before anything is written; what all folders refuse is tested in tests/ of the repository."""

from __future__ import annotations

import re

import eval as evaluation
import export
import train
from conftest import SIDES, small_run
from src.lr_scheduler import get_lr
from src.model_utils.dataset_checks import require_steps
from src.model_utils.errors import DataError, UsageError
from src.recipe import FOLDER, MODEL, read_config

import numpy as np
import pytest
import yaml

DOCUMENTED = """
data_path: ""\nmodel: tinynet_c\nnum_classes: 1000\nbatch_size: 128\ndrop: 0.2\ndrop_connect: 0\nopt: rmsprop\nopt_eps: 0.001
momentum: 0.9\nweight_decay: 0.00001\nlr: 0.048\nwarmup_lr: 0.000001\nepochs: 450\ndecay_epochs: 2.4\nwarmup_epochs: 3
decay_rate: 0.97\nsmoothing: 0.1\nema_decay: 0.9999\namp_level: O0\nper_print_times: 100\nbn_tf: False\nbn_momentum: 0.1
bn_eps: 0.00001\nworkers: 8\ndistributed: False\ndataset_sink: True\nckpt: ""\nckpt_save_epoch: 1\nloss_scale: 1024
train: True\nGPU: False
"""
COMMAND = (
    "--model tinynet_c --drop 0.2 --drop-connect 0 --num-classes 1000 --opt-eps 0.001 --lr 0.048 --batch-size 128 "
    "--decay-epochs 2.4 --warmup-lr 1e-6 --warmup-epochs 3 --decay-rate 0.97 --ema-decay 0.9999 --weight-decay 1e-5 "
    "--epochs 450 --ckpt_save_epoch 1 --workers 8 --amp_level O0 --opt rmsprop --data_path /path_to_ImageNet/ --GPU "
    "--dataset_sink"
)
# A value of each documented key that is not its default, and other forms of an option.
CHANGED = """
data_path: /data\nmodel: tinynet_e\nnum_classes: 10\nbatch_size: 4\ndrop: 0.5\ndrop_connect: 0.3\nopt: sgd\nopt_eps: 1.0e-8
momentum: 0.8\nweight_decay: 1.0e-4\nlr: 0.1\nwarmup_lr: 1.0e-4\nepochs: 2\ndecay_epochs: 30.0\nwarmup_epochs: 5
decay_rate: 0.5\nsmoothing: 0.2\nema_decay: 0.9\namp_level: O2\nper_print_times: 9\nbn_tf: True\nbn_momentum: 0.2
bn_eps: 1.0e-4\nworkers: 3\ndistributed: True\ndataset_sink: False\nckpt: /a.ckpt\nckpt_save_epoch: 7\nloss_scale: 1.0
train: False\nGPU: True
"""
OTHER_FORMS = [
    ("--num_classes=10", "num_classes", 10),
    ("--GPU --distributed --bn-tf", "distributed", True),
    ("-b 4", "batch_size", 4),
    ("-j 3", "workers", 3),
    ("--dr 0.5", "decay_rate", 0.5),
    ("--ema-decay 0", "ema_decay", 0.0),
    ("--no-dataset_sink", "dataset_sink", False),
    ("--dataset_sink False", "dataset_sink", False),
    ("--train no", "train", False),
]


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


def test_spellings():
    values = yaml.safe_load(CHANGED)
    assert values.keys() == yaml.safe_load(DOCUMENTED).keys()
    dashed = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in values.items())
    for text, key, value in [*((dashed, *item) for item in values.items()), *OTHER_FORMS]:
        config = configured(text)
        assert config[key] == value and type(config[key]) is type(value) and key in config.given, (text, key)


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
    assert [configured(f"--model {model}").image_height for model in SIDES] == list(SIDES.values())
    resized = [int(side / configured().crop_ratio) for side in SIDES.values()]
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
    options = "--enable_modelarts --data_path /d --modelarts_dataset_unzip_name set --output_path /o "
    options += f"--load_path {tmp_path}"
    given, copied = configured(f"{options} --ckpt x.ckpt"), configured(f"{options} --checkpoint_url obs://b/a.ckpt")
    config = train.adapt_paths(given)
    assert (config.train_data_dir, config.val_data_dir) == ("/d/set/train", "/d/set/val")
    assert (config.ckpt_save_dir, config.run_dir, config.ckpt) == ("/o", "/o", "x.ckpt")
    assert train.adapt_paths(copied).ckpt == str(tmp_path / "a.ckpt")
    assert train.adapt_paths(configured(options)).ckpt == ""
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


# ---- Learning rates --------------------------------------------------------------------------------------------------


def rates(text: str = "", steps: int = 4) -> np.ndarray:
    return get_lr(configured(text), steps)


def test_rates_of_the_documented_recipe():
    """Warm-up in three steps; then a factor of 0.97 for every 2.4 epochs, those of the warm-up counted too."""
    found = rates()
    assert found.shape == (1800,) and found.dtype == np.float32
    assert found[: 4 * 6 : 4] == pytest.approx([1e-6, 0.0160007, 0.0320003, 0.04656, 0.04656, 0.0451632], rel=3e-6)
    assert found[-1] == pytest.approx(1.6127e-4, rel=1e-5)
    assert np.all(found.reshape(450, 4) == found[::4, None]), "all steps of an epoch are alike"
    assert require_steps(1281167, 128, 8) == 1251, "steps of an epoch on eight devices, as documented"


def test_options_of_the_rates():
    """A rate of decay above 1 divides; without a warm-up the first epoch has the whole rate."""
    np.testing.assert_allclose(rates(f"--decay-rate {1 / 0.97!r}"), rates(), rtol=1e-5)
    assert rates("--warmup-epochs 0 --epochs 3", steps=1) == pytest.approx([0.048] * 3)
    halved = rates("--warmup-epochs 2 --warmup-lr 0.1 --lr 0.3 --epochs 6 --decay-epochs 2 --dr 0.5", steps=1)
    assert halved == pytest.approx([0.1, 0.2, 0.15, 0.15, 0.075, 0.075])


# ---- A dry run -------------------------------------------------------------------------------------------------------

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
