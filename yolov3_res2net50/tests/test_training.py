"""A small training: what it logs, writes and freezes; resumed equals uninterrupted; what a fine-tuning starts from.

How a run ends, stops and is refused is the same for all models, and tested with the shared code.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import train
from conftest import BLOCKS, WIDTH, assert_same, contents, randomize, small_run, states
from src.dataset import create_dataset, size_of_step
from src.loss import create_loss
from src.model_utils.checkpoint import load, save
from src.model_utils.device_adapter import Device
from src.model_utils.errors import DataError, UsageError
from src.model_utils.optimizers import momentum_sgd
from src.model_utils.pretrained import create_network
from src.model_utils.training import create_train_step
from src.recipe import MODEL, read_config
from src.res2net import Res2Net

import mindspore as ms
import numpy as np
import pytest
import yaml
from coco_digits import CLASS_NAMES
from PIL import Image

# Mosaic and mixup draw further pictures. Four steps of 96 pixels, four of 64; each size costs a compilation. States are
# written after steps 3, 6 and 8: the second one in the middle of an epoch, and after the last change of the size.
RUN = {"resize_rate": 4, "mosaic": 0.5, "mixup": 0.5, "ema_decay": 0.9, "log_interval": 2, "ckpt_interval": 3}
STEPS, SIDES = 4, [96] * 4 + [64] * 4  # steps of an epoch, size of each step
FROZEN = ("backbone.stem.", "backbone.layer1.")
STATISTICS = (".moving_mean", ".moving_variance")
CPU = Device("CPU", 0)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    """A backbone checkpoint as convert_checkpoint.py writes it, of the small network."""
    network = Res2Net("avg_pool", WIDTH, BLOCKS)
    randomize(network)
    path = tmp_path_factory.mktemp("backbone") / "backbone.ckpt"
    about = {"backbone": {"name": "res2net50", "shortcut": "avg_pool", "bn_eps": 1e-5},
             "input": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}  # fmt: skip
    save(path, network.parameters_dict(), about)
    return path


@pytest.fixture(scope="module")
def straight(few_digits, backbone, tmp_path_factory) -> Path:
    """Two epochs without interruption, from a pretrained backbone."""
    out = tmp_path_factory.mktemp("straight")
    assert train.main(small_run(few_digits, out, eval_interval=2, pretrained_backbone=backbone, **RUN)) == 0
    return out


def test_resumed_equals_uninterrupted(few_digits, backbone, straight, tmp_path):
    """Weights, statistics, momentum and moving average, bit for bit; the run goes on in the folder of its checkpoint."""
    middle = states(straight)[1]
    copy = tmp_path / middle.relative_to(straight)
    copy.parent.mkdir(parents=True)
    shutil.copy(middle, copy)
    assert train.main(small_run(few_digits, tmp_path, resume=copy, pretrained_backbone=backbone, **RUN)) == 0
    assert [path.name for path in copy.parent.iterdir() if path != copy] == ["0-2_8.ckpt"]
    assert_same(states(tmp_path)[-1], states(straight)[-1])
    log = (tmp_path / "run/train.log").read_text()
    assert re.findall(r"(?m)^iter\[(\d+)\], shape(\d+)$", log) == [("6", "64")]


def test_what_a_run_leaves(straight):
    (run,) = (straight / "outputs").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_time_\d\d_\d\d_\d\d", run.name)
    names = ["0-1_3.ckpt", "0-2_6.ckpt", "0-2_8.ckpt", "0_best.ckpt"]
    assert sorted(path.name for path in (run / "ckpt_0").iterdir()) == names
    rows = list(csv.DictReader((straight / "run/curves.csv").open()))
    assert [int(row["step"]) for row in rows if row["name"] == "loss"] == [2, 4, 6, 8]
    assert [int(row["step"]) for row in rows if row["name"] == "ema_AP50"] == [8]
    assert Image.open(straight / "run/curves.png").size[0] > 100 and list((straight / "run/summary").glob("events*"))
    assert yaml.safe_load((straight / "run/config.yaml").read_text())["ema_decay"] == 0.9
    _, about = load(run / "ckpt_0/0_best.ckpt")
    assert about["class_names"] == list(CLASS_NAMES)
    assert about["input"]["category_ids"] == list(range(1, 11)) and about["input"]["height"] == 96
    assert about["metrics"]["ema_mean_average_precision"] == load(run / "ckpt_0/0-2_8.ckpt")[1]["best"]
    assert not any("train_state" in name for name in contents(run / "ckpt_0/0_best.ckpt"))


def test_documented_lines(straight):
    log = (straight / "run/train.log").read_text()
    line = (
        r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d:INFO:epoch\[(\d+)\], iter\[(\d+)\], loss:\d+\.\d{6}, \d+\.\d\d imgs/sec, "
        r"lr:0\.001\d*, per step time:\d+\.?\d*ms$"
    )
    assert re.findall(line, log) == [(str(step // STEPS), str(step)) for step in (1, 3, 5, 7)]  # both count from 0
    for pattern in (
        r"(?m)^epoch 2/2 step 4/4 loss \S+ lr \S+ \S+ images/s waiting for data \d+% left 0:00:00$",
        r"(?m)^validation after epoch 2: mean_average_precision \S+, AP50 .*ema_mean_average_precision \S+, ema_AP50",
        r"(?m)^Please check the above information for the configurations$",
    ):
        assert re.search(pattern, log), pattern
    assert log.endswith("==========end training===============\n")


def test_sizes_follow_from_seed_and_step(straight):
    """The documented lines `iter[<i>], shape<S>`, one at each change."""
    log = (straight / "run/train.log").read_text()
    assert re.findall(r"(?m)^iter\[(\d+)\], shape(\d+)$", log) == [("0", "96"), ("4", "64")]
    config = read_config(["--multi_scale", "64,96", "--resize_rate", "4"], "")
    assert [size_of_step(config, step)[0] for step in range(8)] == SIDES


def test_pretrained_backbone(backbone, straight):
    """Stem and layer1 keep their values and their statistics, the rest of the backbone moves on from them."""
    trained = contents(states(straight)[-1])
    for name, value in contents(backbone).items():
        name = f"backbone.{name}"
        assert np.array_equal(trained[name], value) == name.startswith(FROZEN), name
        if name.endswith("conv.weight"):
            assert np.corrcoef(trained[name].ravel(), value.ravel())[0, 1] > 0.99, name
    assert not any("moments" in name and name.endswith("backbone.stem.0.conv.weight") for name in trained)


def test_everything_is_trained(few_digits, tmp_path):
    """Without a pretrained backbone one step moves all parameters, those of the stem and layer1 too, and the statistics."""
    config = train.with_classes(read_config(small_run(few_digits, tmp_path, training_shape=64, ema_decay=0.9), ""))
    batch = next(create_dataset(config, "train", CPU, list(CLASS_NAMES)).create_tuple_iterator(num_epochs=1))
    config, _, network = create_network(MODEL, config, list(CLASS_NAMES), "")
    randomize(network)  # a block that starts as its shortcut hides its convolutions from the first step
    optimizer = momentum_sgd(network, np.float32([0.01]), momentum=0.9, weight_decay=0.0, head=MODEL.is_head)
    step = create_train_step(config, network, create_loss(config), optimizer, CPU)
    before = {name: value.asnumpy().copy() for name, value in step.training_state().items()}
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        step(*batch)
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)
    after = {name: value.asnumpy() for name, value in step.training_state().items()}
    still = [name for name in after if np.array_equal(before[name], after[name])]
    assert not still and sum("moments" in name for name in after) == len(network.trainable_params())
    for part in (*FROZEN, *STATISTICS, "train_state.ema.", "moments", "global_step", ".output.bias"):
        assert any(part in name for name in after), part


def of_classes(data: Path, folder: Path, categories: list[int]) -> Path:
    """The data set with boxes of these categories only."""
    (folder / "annotations").mkdir(parents=True)
    for name in ("train2017", "val2017"):
        (folder / name).symlink_to(data / name)
        content = json.loads((data / f"annotations/instances_{name}.json").read_text())
        content["categories"] = [row for row in content["categories"] if row["id"] in categories]
        content["annotations"] = [row for row in content["annotations"] if row["category_id"] in categories]
        (folder / f"annotations/instances_{name}.json").write_text(json.dumps(content))
    return folder


def test_fine_tuning_on_other_classes(few_digits, straight, tmp_path):
    """The outputs follow the annotations, also of ids with gaps; everything else is that of the weights."""
    data = of_classes(few_digits, tmp_path / "three", [2, 5, 9])
    source = states(straight)[-1].with_name("0_best.ckpt")
    options = [*small_run(data, tmp_path, per_batch_size=2, resume_yolov3=source, dry_run=True)]
    with pytest.raises(DataError, match="reset_head"):
        train.main(options)
    with pytest.raises(UsageError, match="pretrained_backbone and resume_yolov3 are both given"):
        train.main([*options, "--pretrained_backbone", str(source)])
    with pytest.raises(DataError, match="3 classes, more than num_classes=2"):
        train.main([*options, "--num_classes", "2"])
    assert train.main([*options, "--reset_head", "true"]) == 0
    names = ["one", "four", "eight"]
    config = train.with_classes(read_config([*options, "--reset_head", "true"], ""))
    _, about, network = create_network(MODEL, config, names, config.resume_yolov3)
    assert about["class_names"] == names and about["input"]["category_ids"] == [2, 5, 9]
    ours, original = network.parameters_dict(), contents(source)
    assert ours.keys() == original.keys()
    for name, value in original.items():
        if MODEL.is_head(name):
            assert ours[name].shape[0] == 3 * (5 + 3)
        else:
            np.testing.assert_array_equal(ours[name].asnumpy(), value, err_msg=name)
    assert not (tmp_path / "outputs").exists(), "a dry run writes no checkpoint"


def test_wrong_backbones(few_digits, backbone, tmp_path):
    options = small_run(few_digits, tmp_path)
    with pytest.raises(DataError, match="avg_pool shortcuts, the recipe max_pool; give --shortcut avg_pool"):
        train.main([*options, "--pretrained_backbone", str(backbone), "--shortcut", "max_pool"])
    with pytest.raises(DataError, match=r"has shape .* it belongs to another network"):
        train.main([*options, "--pretrained_backbone", str(backbone), "--width_multiplier", "0.25"])
    with pytest.raises(DataError, match="none.ckpt is not a file"):
        train.main([*options, "--pretrained_backbone", str(tmp_path / "none.ckpt")])
    assert not (tmp_path / "outputs").exists()


def test_pictures_of_batches(few_digits, tmp_path, capsys):
    assert train.main(small_run(few_digits, tmp_path, visualize_batches=2, mosaic=0.5)) == 0
    paths = [tmp_path / f"run/visualized/batch_{number}.png" for number in (1, 2)]
    assert all(Image.open(path).size[0] > 4 * 64 for path in paths)
    text = "".join(f"batch: {path}\n" for path in paths)
    assert text in capsys.readouterr().out and text in (tmp_path / "run/train.log").read_text()
    assert not (tmp_path / "outputs").exists() and len(list((tmp_path / "run/visualized").iterdir())) == 2
