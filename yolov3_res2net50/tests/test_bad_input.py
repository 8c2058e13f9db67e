"""Bad input ends in one readable error before a training begins: data sets with a fault, and every key of the recipe.

What ends any program of any model in the same way, such as a damaged checkpoint, is tested with the shared code.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import train
from conftest import FOLDER, small_run
from src.model_utils.errors import DataError, UsageError

import pytest
import yaml

PAIRS = ",".join(["[10,13]"] * 8)
# Of each key with a number or a list that training reads: values that cannot be.
BAD = {
    "num_classes": ["0", "-1"],
    "test_img_shape": ["100,96", "96,96,96", "0,96"],
    "mean": ["0.5,0.5"],
    "std": ["1,1", "1,1,0"],
    "num_parallel_workers": ["0"],
    "max_pixels": ["-1"],
    "check_images": ["quick"],
    "flip_prob": ["1.5", "-0.1"],
    "mixup": ["1.5", "-0.1"],
    "multi_scale": ["[]", "64,100", "0"],
    "resize_rate": ["-1", "0.5", "often"],
    "max_box": ["0", "-1"],
    "jitter": ["1", "-0.1"],
    "hue": ["0.6", "-0.1"],
    "saturation": ["0.5", "-1"],
    "value": ["0.5", "-1"],
    "mosaic": ["1.5", "-0.1"],
    "visualize_batches": ["-1"],
    "width_multiplier": ["0", "5"],
    "stage_blocks": ["1,1,1", "1,1,1,0"],
    "anchor_scales": ["10,13", f"[{PAIRS}]", f"[{PAIRS},[0,13]]", f"[{PAIRS},[10,13,5]]"],
    "per_batch_size": ["0", "-1"],
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
# What the message says where that is not the key.
NAMED = {"per_batch_size": "batch_size=", "width_multiplier": "width=", "freeze": r"no parameter matches 'neck\.\*'"}
# Of other programs and launchers, of ModelArts; category_ids are those of the annotations.
NOT_READ = {"category_ids", "export_batch_size", "score_threshold", "device_num", "upload_interval"}


def test_every_number_and_list_of_the_recipe_has_a_bad_value():
    defaults = next(yaml.safe_load_all((FOLDER / "default_config.yaml").read_text()))
    numbers = {key for key, value in defaults.items() if not isinstance(value, (str, bool))}
    assert numbers | {"check_images"} == BAD.keys() | NOT_READ


@pytest.mark.parametrize("key", [*BAD, "training_shape", "testing_shape"])
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
    with pytest.raises(DataError, match="pycocotools"):
        train.main(small_run(few_digits, tmp_path, eval_interval=1, dry_run=True))
    assert train.main(small_run(few_digits, tmp_path, dry_run=True)) == 0


def with_annotations(data: Path, folder: Path, content: dict | str) -> Path:
    """The data set with another training annotation file."""
    (folder / "annotations").mkdir(parents=True)
    for name in ("train2017", "val2017"):
        (folder / name).symlink_to(data / name)
    shutil.copy(data / "annotations/instances_val2017.json", folder / "annotations")
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "annotations/instances_train2017.json").write_text(text)
    return folder


def with_damaged_picture(data: Path, folder: Path) -> Path:
    shutil.copytree(data, folder)
    picture = next((folder / "train2017").glob("*07.jpg"))
    picture.write_bytes(picture.read_bytes()[: picture.stat().st_size // 2])
    return folder


def test_data_sets_with_a_fault(few_digits, tmp_path):
    content = json.loads((few_digits / "annotations/instances_train2017.json").read_text())
    gone = [{**row, "file_name": f"gone_{row['id']}.jpg"} if row["id"] in (3, 11) else row for row in content["images"]]
    missing = with_annotations(few_digits, tmp_path / "missing", {**content, "images": gone})
    keypoints = with_annotations(few_digits, tmp_path / "other", {"info": {}, "licenses": []})
    broken = with_annotations(few_digits, tmp_path / "broken", '{"images": [')
    damaged = with_damaged_picture(few_digits, tmp_path / "damaged")
    cases = [
        (DataError, r"(?s)2 of 16 images .*gone_3\.jpg\n.*gone_11\.jpg", missing, {}),
        (DataError, r"is not a COCO file: there is no 'images' \(found: info, licenses\)", keypoints, {}),
        (DataError, r"instances_train2017\.json is not JSON", broken, {}),
        (DataError, r"07\.jpg", damaged, {}),
        (DataError, r"(?s)no folder train2017/.*expected.*found", tmp_path, {}),
        (DataError, r"0 steps per epoch: 16 images", few_digits, {"per_batch_size": 32}),
        (DataError, r"10 classes, more than num_classes=7", few_digits, {"num_classes": 7}),
        (UsageError, r"data_dir is empty; give --data_dir FOLDER", "", {}),
    ]
    for kind, message, data, changes in cases:
        with pytest.raises(kind, match=message):
            train.main(small_run(data, tmp_path / "out", **changes))
    assert not (tmp_path / "out/outputs").exists()
