"""The recipe: documented keys and defaults, schedules, folders of checkpoints, MindSpore Hub; bad input ends in one error."""

from __future__ import annotations

import json
import shutil
import sys

import mindspore_hub_conf as hub
import train
from conftest import FOLDER, small_run
from src.lr_scheduler import get_lr
from src.model_utils.device_adapter import Device
from src.model_utils.errors import DataError, UsageError
from src.recipe import (
    build_network,
    checkpoint_folder,
    describe_network,
    read_config,
    require_agreement,
    saves_checkpoints,
)

import numpy as np
import pytest
import yaml

CPU = Device("CPU", 0)
# The tables of the documents, then what their texts name.
DOCUMENTED = """
device_target: Ascend\nper_batch_size: 32\npretrained_backbone: ""\nresume_yolov3: ""\nlr_scheduler: exponential\nlr: 0.001
lr_epochs: [220, 250]\nlr_gamma: 0.1\neta_min: 0\nT_max: 320\nmax_epoch: 320\nwarmup_epochs: 0\nweight_decay: 0.0005
momentum: 0.9\nloss_scale: 1024\nlabel_smooth: 0\nlabel_smooth_factor: 0.1\nlog_interval: 100\nckpt_path: outputs/
ckpt_interval: null\nis_save_on_master: 1\nis_distributed: 1\nrank: 0\ngroup_size: 1\nneed_profiler: 0\ntraining_shape: ""
resize_rate: null\nbind_cpu: True\ndevice_num: 8\nkeep_detect: True\nfile_format: MINDIR
data_dir: ""\npretrained: ""\nlog_path: outputs/\nnms_thresh: 0.5\nannFile: ""\ntesting_shape: ""\neval_ignore_threshold: 0.001
device_id: 0\nckpt_file: ""\nfile_name: yolov3_res2net50\nresult_path: ""\nimg_path: ""\nhue: 0.1\nsaturation: 1.5\nvalue: 1.5
jitter: 0.3\nmulti_scale: [320, 352, 384, 416, 448, 480, 512, 544, 576, 608]\nnum_classes: 80\nmax_box: 50
ignore_threshold: 0.7\ntest_img_shape: [416, 416]\nenable_modelarts: False\ndata_url: ""\ntrain_url: ""\ncheckpoint_url: ""
data_path: /cache/data\noutput_path: /cache/train\nload_path: /cache/checkpoint_path\nmodelarts_dataset_unzip_name: coco2014
need_modelarts_dataset_unzip: True
anchor_scales: [[10, 13], [16, 30], [33, 23], [30, 61], [62, 45], [59, 119], [116, 90], [156, 198], [373, 326]]
"""


def test_documented_keys_have_their_defaults():
    documents = list(yaml.safe_load_all((FOLDER / "default_config.yaml").read_text()))
    config = read_config([], "")
    for key, value in yaml.safe_load(DOCUMENTED).items():
        assert documents[0][key] == value and config[key] == value, key
    assert documents[0].keys() == documents[1].keys() and documents[2].keys() <= documents[0].keys()


def test_documented_command_lines():
    """The options of the launchers and of the documents' examples, in the spellings that they have there."""
    config = read_config(
        "--is_distributed=0 --lr=0.001 --loss_scale=1024 --weight_decay=0.016 --T_max=320 --max_epoch=320 "
        "--warmup_epochs=4 --training_shape=416 --lr_scheduler=cosine_annealing --label_smooth=1 --batch_size 4 "
        "--lr_epochs 220,250 --multi_scale 320,416 --test_img_shape 320,416 --rank 0 --is_save_on_master 0".split(),
        "",
    )
    assert not config.is_distributed and config.weight_decay == 0.016 and config.label_smooth is True
    assert config.per_batch_size == 4 and config.lr_epochs == [220, 250] and config.training_shape == "416"
    assert config.multi_scale == [320, 416] and config.test_img_shape == [320, 416] and not config.is_save_on_master
    for text, value in (("None", None), ("0", None), ("40", 40)):
        assert read_config(["--ckpt_interval", text, "--resize_rate", text], "").resize_rate == value


def test_description_builds_the_network():
    """Also one of an older file, which names no blocks: then it has those of Res2Net50."""
    about = describe_network(read_config(["--num_classes", "3", "--width_multiplier", "0.05"], ""))
    assert json.loads(json.dumps(about)) == about
    shapes = {name: p.shape for name, p in build_network(about).parameters_dict().items()}
    assert shapes["big.output.weight"][0] == 3 * (5 + 3) and len(shapes) == 541
    older = {key: value for key, value in about.items() if key != "stage_blocks"}
    assert {name: p.shape for name, p in build_network(older).parameters_dict().items()} == shapes
    small = build_network({**about, "stage_blocks": [1, 1, 1, 1]})
    assert len(list(small.get_parameters())) < 541


def test_learning_rates():
    cosine = ["--lr_scheduler", "cosine_annealing"]
    rates = get_lr(read_config([*cosine, "--warmup_epochs", "4"], ""), 2)
    assert rates.shape == (640,) and rates.dtype == np.float32
    assert rates[:9] == pytest.approx([0.001 * step / 8 for step in range(1, 9)] + [0.001 * 0.999614], rel=1e-5)
    assert rates[2 * 319] == rates[2 * 319 + 1] == pytest.approx(2.4095520e-08, rel=1e-5)
    assert rates[2 * 160] == pytest.approx(0.0005)
    short = get_lr(read_config([*cosine, "--T_max", "2", "--eta_min", "0.0001"], ""), 1)
    assert (np.diff(short) <= 0).all() and 0.0001 <= short[-1] < 0.000101, "T_max is max_epoch at least"
    rates = get_lr(read_config(["--warmup_epochs", "1"], ""), 3)
    assert rates[[0, 2, 3, 659, 660, 749, 750, 959]] == pytest.approx(
        [0.001 / 3, 0.001, 0.001, 0.001, 1e-4, 1e-4, 1e-5, 1e-5]
    )


def test_processes_agree_with_the_options():
    second = Device("Ascend", 1, 1, 2)
    require_agreement(read_config([], ""), second)
    require_agreement(read_config(["--rank", "1", "--group_size", "2"], ""), second)
    for option in (["--rank", "0"], ["--group_size", "8"]):
        with pytest.raises(UsageError, match=f"{option[0][2:]}={option[1]}: this process is rank 1 of 2"):
            require_agreement(read_config(option, ""), second)
    with pytest.raises(UsageError, match="group_size=2: this process is rank 0 of 1"):
        require_agreement(read_config(["--group_size", "2"], ""), CPU)


def test_each_rank_may_save(tmp_path, monkeypatch):
    third = Device("Ascend", 2, 2, 4)
    monkeypatch.setattr(Device, "sum", lambda _, values: [2026, 11, 5, 7, 8, 9])  # the first rank's time
    config = read_config(["--ckpt_path", str(tmp_path)], "")
    assert saves_checkpoints(config, Device("Ascend", 0, 0, 4)) and not saves_checkpoints(config, third)
    assert checkpoint_folder(config, third).folder == tmp_path / "2026-11-05_time_07_08_09/ckpt_0"
    config = config.replace(is_save_on_master=False)
    assert saves_checkpoints(config, third)
    folder = checkpoint_folder(config, third)
    assert folder.folder == tmp_path / "2026-11-05_time_07_08_09/ckpt_2" and folder.prefix == "2" and folder.keep == 5


def test_run_that_is_resumed(tmp_path):
    """auto is the newest run that left a checkpoint; a named one goes on in its own folder, a copied one in a new folder."""
    for name, file in (("2026-01-02_time_00_00_00", "0-1_8.ckpt"), ("2026-01-01_time_00_00_00", "0-9_72.ckpt"),
                       ("2026-01-03_time_00_00_00", "0_best.txt"), ("other", "0-1_8.ckpt")):  # fmt: skip
        (tmp_path / name / "ckpt_0").mkdir(parents=True)
        (tmp_path / name / "ckpt_0" / file).touch()

    def run_of(resume) -> str:
        return checkpoint_folder(
            read_config(["--ckpt_path", str(tmp_path), "--resume", str(resume)], ""), CPU
        ).folder.parts[-2]

    assert run_of("auto") == "2026-01-02_time_00_00_00"
    assert run_of(tmp_path / "2026-01-01_time_00_00_00/ckpt_0/0-9_72.ckpt") == "2026-01-01_time_00_00_00"
    assert run_of(tmp_path / "other/ckpt_0/0-1_8.ckpt") not in [path.name for path in tmp_path.iterdir()]


def test_hub():
    for name in ("yolov3_res2net50", "yolov3_res2net"):
        network = hub.create_network(name, num_classes=3, width=0.125, stage_blocks=(1, 1, 1, 1))
        assert network.big.output.weight.shape[0] == 3 * (5 + 3)
    with pytest.raises(NotImplementedError, match="resnet is not implemented"):
        hub.create_network("resnet")


# ---- Bad input, before a training begins -----------------------------------------------------------------------------

PAIRS = ",".join(["[10,13]"] * 8)
# Of each key with a number or a list that training reads: values that cannot be.
BAD = {
    "max_pixels": ["-1"],
    "check_images": ["quick"],
    "num_classes": ["0"],
    "test_img_shape": ["100,96", "96,96,96", "0,96"],
    "mean": ["0.5,0.5"],
    "std": ["1,1", "1,1,0"],
    "num_parallel_workers": ["0"],
    "flip_prob": ["1.5", "-0.1"],
    "mixup": ["1.5", "-0.1"],
    "multi_scale": ["[]", "64,100", "0"],
    "resize_rate": ["-1", "0.5", "often"],
    "max_box": ["0"],
    "jitter": ["1", "-0.1"],
    "hue": ["0.6", "-0.1"],
    "saturation": ["0.5", "-1"],
    "value": ["0.5", "-1"],
    "mosaic": ["1.5", "-0.1"],
    "visualize_batches": ["-1"],
    "width_multiplier": ["0", "5"],
    "stage_blocks": ["1,1,1", "1,1,1,0"],
    "anchor_scales": ["10,13", f"[{PAIRS}]", f"[{PAIRS},[0,13]]", f"[{PAIRS},[10,13,5]]"],
    "per_batch_size": ["0"],
    "max_epoch": ["0"],
    "lr": ["-1"],
    "lr_epochs": ["5,-1"],
    "lr_gamma": ["-1"],
    "eta_min": ["-1"],
    "T_max": ["0"],
    "warmup_epochs": ["-1"],
    "momentum": ["1", "-0.1"],
    "weight_decay": ["-1"],
    "label_smooth_factor": ["1.5", "-0.1"],
    "ignore_threshold": ["1.5", "-0.1"],
    "loss_scale": ["0.5"],
    "clip_grad_norm": ["-1"],
    "accumulate_steps": ["0"],
    "ema_decay": ["1", "-0.1"],
    "seed": ["-1"],
    "head_lr_factor": ["0"],
    "freeze": ["neck.*"],
    "ckpt_interval": ["-1", "2.5"],
    "keep_checkpoint_max": ["0"],
    "eval_interval": ["-1"],
    "log_interval": ["0"],
    "nms_thresh": ["1.5", "-0.1"],
    "eval_ignore_threshold": ["1.5", "-0.1"],
    "max_detections": ["0"],
    "device_id": ["-1"],
    "rank": ["1"],
    "group_size": ["2"],
}
# What the message says where that is not the key, or more than the key.
NAMED = {
    "per_batch_size": "batch_size=", "width_multiplier": "width=", "freeze": r"no parameter matches 'neck\.\*'",
    "anchor_scales": "nine pairs|list a,b,c", "training_shape": "training_shape=.*: .*multiples of 32", "std": "std above 0",
    "ckpt_interval": "ckpt_interval=.*: a number of batches, or None", "resize_rate": "resize_rate=.*: a number",
    "shortcut": "one of avg_pool, max_pool", "lr_scheduler": "one of exponential, cosine_annealing",
}  # fmt: skip
# Of other programs and launchers, of ModelArts; category_ids are those of the annotations.
NOT_READ = {"category_ids", "export_batch_size", "score_threshold", "device_num", "upload_interval"}


def test_every_number_and_list_of_the_recipe_has_a_bad_value():
    defaults = next(yaml.safe_load_all((FOLDER / "default_config.yaml").read_text()))
    numbers = {key for key, value in defaults.items() if not isinstance(value, (str, bool))}
    assert numbers | {"check_images"} == BAD.keys() | NOT_READ


@pytest.mark.parametrize("key", [*BAD, "training_shape", "testing_shape", "shortcut", "lr_scheduler"])
def test_a_dry_run_finds_it(few_digits, tmp_path, key):
    for value in BAD.get(key, ["100", "0", "96,96,96", "big"]):
        others = {"eval_interval": 1, "dry_run": True, "testing_shape": "" if key == "test_img_shape" else 96}
        options = small_run(few_digits, tmp_path, **{**others, key: value})
        with pytest.raises(UsageError, match=NAMED.get(key, key)):
            train.main(options)
    assert not (tmp_path / "outputs").exists()


def test_a_dry_run_finds_that_pycocotools_is_missing(few_digits, tmp_path, monkeypatch):
    """A training that evaluates would end with its first evaluation."""
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    with pytest.raises(DataError, match="needs pycocotools .*pip install"):
        train.main(small_run(few_digits, tmp_path, eval_interval=1, dry_run=True))
    assert train.main(small_run(few_digits, tmp_path, dry_run=True)) == 0


@pytest.mark.parametrize("fault", ["other JSON", "another category", "no file", "a name twice"])
def test_validation_annotations_are_read_before_the_first_step(few_digits, tmp_path, fault):
    data = tmp_path / "data"
    shutil.copytree(few_digits, data)
    file = data / "annotations/instances_val2017.json"
    content = json.loads(file.read_text())
    rows = [{**content["annotations"][0], "category_id": 99}]
    twice = [{**row, "name": row["name"].replace("three", "two")} for row in content["categories"]]
    texts = {
        "other JSON": '{"images": []}',
        "another category": json.dumps({**content, "annotations": rows}),
        "a name twice": json.dumps({**content, "categories": twice}),
    }
    if fault in texts:
        file.write_text(texts[fault])
    else:
        file.unlink()
    with pytest.raises(DataError, match="instances_val2017.json"):
        train.main(small_run(data, tmp_path, eval_interval=1))
    assert not (tmp_path / "outputs").exists()


def test_data_sets_with_a_fault(few_digits, tmp_path):
    """test_coco.py has all faults."""
    file, damaged, missing = "annotations/instances_train2017.json", tmp_path / "damaged", tmp_path / "missing"
    for folder in (damaged, missing):
        shutil.copytree(few_digits, folder)
    picture = next((damaged / "train2017").glob("*07.jpg"))
    picture.write_bytes(picture.read_bytes()[: picture.stat().st_size // 2])
    content = json.loads((few_digits / file).read_text())
    gone = [{**row, "file_name": f"gone_{row['id']}.jpg"} if row["id"] in (3, 11) else row for row in content["images"]]
    (missing / file).write_text(json.dumps({**content, "images": gone}))
    cases = [
        (DataError, r"(?s)2 of 16 images .*gone_3\.jpg\n.*gone_11\.jpg", missing, {}),
        (DataError, r"07\.jpg", damaged, {}),
        (DataError, r"0 steps per epoch: 16 images", few_digits, {"per_batch_size": 32}),
        (DataError, r"10 classes, more than num_classes=7", few_digits, {"num_classes": 7}),
        (UsageError, r"data_dir is empty; give --data_dir FOLDER", "", {}),
    ]
    for kind, message, data, changes in cases:
        with pytest.raises(kind, match=message):
            train.main(small_run(data, tmp_path / "out", **changes))
    assert not (tmp_path / "out/outputs").exists()
