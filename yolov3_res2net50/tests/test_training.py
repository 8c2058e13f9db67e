"""Training state: resumed equals uninterrupted bit for bit, whatever ended the process; what a run logs, writes, refuses."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import train
from conftest import FOLDER, SHALLOW, WIDTH, assert_same, contents, program, randomize, small_run, states
from src.dataset import create_dataset, find_classes, size_of_step
from src.loss import YoloLoss
from src.model_utils.checkpoint import load, save
from src.model_utils.config import DataError, UsageError
from src.model_utils.device_adapter import Device
from src.model_utils.train_step import TrainStep
from src.recipe import build_network, is_head, network_description, read_config
from src.res2net import Res2Net
from src.yolo import scales

import mindspore as ms
import numpy as np
import pytest
import yaml
from coco_digits import CLASS_NAMES
from mindspore import nn
from PIL import Image

pytestmark = pytest.mark.usefixtures("shallow")
STEPS = 8  # of an epoch: 16 images in batches of 2
# Mosaic and mixup draw further pictures. Sizes: 7 steps of 96 pixels, 7 of 64, 96 from then on; each costs a compilation.
LONG = {"max_epoch": 4, "per_batch_size": 2, "resize_rate": 7, "mosaic": 0.5, "mixup": 0.5, "ema_decay": 0.9,
        "log_interval": 2, "ckpt_interval": 5, "keep_checkpoint_max": 5}  # fmt: skip
SHORT = {"max_epoch": 1, "training_shape": 64, "per_batch_size": 8}  # one size, two steps
ENVIRONMENT = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(FOLDER), "GLOG_v": "3"}
FROZEN = ("backbone.stem.", "backbone.layer1.")
STATISTICS = (".moving_mean", ".moving_variance")


@pytest.fixture(scope="module")
def runs(shallow, few_digits, tmp_path_factory) -> tuple[Path, Path]:
    """Four epochs without interruption; two epochs, then from their named checkpoint two more.

    The first two runs are made side by side: what takes long is compiled on one core each.
    """
    straight, halves = (tmp_path_factory.mktemp(name) for name in ("straight", "halves"))
    process = start(few_digits, halves, "Please check", **{**LONG, "max_epoch": 2, "keep_checkpoint_max": 3})
    try:
        assert train.main(small_run(few_digits, straight, eval_interval=2, **LONG)) == 0
    finally:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert [path.stem for path in states(halves)] == ["0-2_10", "0-2_15", "0-2_16"], "of four the newest three are kept"
    assert train.main(small_run(few_digits, halves, resume=states(halves)[-1], **LONG)) == 0
    return straight, halves


@pytest.fixture(scope="module")
def straight(runs) -> Path:
    return runs[0]


@pytest.fixture(scope="module")
def halves(runs) -> Path:
    return runs[1]


def start(data: Path, out: Path, until: str, **changes) -> subprocess.Popen:
    """A training process, returned when it has printed a line with `until`."""
    run = "import sys, runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    process = subprocess.Popen(
        [sys.executable, "-c", SHALLOW + run, str(FOLDER / "train.py"), *small_run(data, out, **changes)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    for line in process.stdout:
        if until in line:
            return process
    raise AssertionError(f"the process ended without '{until}'")


def last(out: Path) -> Path:
    return states(out)[-1]


def copy_states(source: Path, target: Path) -> Path:
    shutil.copytree(source / "outputs", target / "outputs")
    return target


def test_two_and_two_epochs_equal_four(straight, halves):
    assert len(list((halves / "outputs").iterdir())) == 1, "the run goes on in its folder"
    assert_same(last(halves), last(straight))


def test_everything_is_trained_and_compared(straight):
    """Without a pretrained backbone all parameters move, those of the stem and layer1 too, and so do the states' other parts."""
    before, after = contents(states(straight)[0]), contents(last(straight))
    still = {name for name in after if np.array_equal(before[name], after[name])}
    assert not still, sorted(still)
    for part in (*FROZEN, *STATISTICS, "train_state.ema.", "moments", "global_step", ".output.bias"):
        assert any(part in name for name in after), part


def test_what_a_run_leaves(straight):
    (run,) = (straight / "outputs").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_time_\d\d_\d\d_\d\d", run.name)
    assert sorted(path.name for path in (run / "ckpt_0").iterdir()) == [
        "0-2_15.ckpt", "0-3_20.ckpt", "0-4_25.ckpt", "0-4_30.ckpt", "0-4_32.ckpt", "0_best.ckpt"
    ]  # fmt: skip
    rows = list(csv.DictReader((straight / "run/curves.csv").open()))
    assert [int(row["step"]) for row in rows if row["name"] == "loss"] == list(range(2, 33, 2))
    assert [int(row["step"]) for row in rows if row["name"] == "ema_AP50"] == [16, 32]
    assert Image.open(straight / "run/curves.png").size[0] > 100 and list((straight / "run/summary").glob("events*"))
    assert yaml.safe_load((straight / "run/config.yaml").read_text())["ema_decay"] == 0.9
    _, about = load(run / "ckpt_0/0_best.ckpt")
    assert about["class_names"] == list(CLASS_NAMES)
    assert about["input"]["category_ids"] == list(range(1, 11)) and about["input"]["height"] == 96
    assert about["metrics"]["ema_mean_average_precision"] == load(last(straight))[1]["best"]
    assert not any("train_state" in name for name in contents(run / "ckpt_0/0_best.ckpt"))


def test_documented_lines(straight):
    log = (straight / "run/train.log").read_text()
    line = (
        r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d:INFO:epoch\[(\d+)\], iter\[(\d+)\], loss:\d+\.\d{6}, \d+\.\d\d imgs/sec, "
        r"lr:0\.001\d*, per step time:\d+\.?\d*ms$"
    )
    expected = [(str(step // STEPS), str(step)) for step in range(1, 32, 2)]  # both count from 0
    assert re.findall(line, log) == expected
    for pattern in (
        r"(?m)^epoch 4/4 step 8/8 loss \S+ lr \S+ \S+ images/s waiting for data \d+% left 0:00:00$",
        r"(?m)^validation after epoch 4: mean_average_precision \S+, AP50 .*ema_mean_average_precision \S+, ema_AP50",
        r"(?m)^Please check the above information for the configurations$",
    ):
        assert re.search(pattern, log), pattern
    assert log.endswith("==========end training===============\n")


def test_sizes_follow_from_seed_and_step(straight, halves):
    """The documented lines `iter[<i>], shape<S>`, one at each change, and one where a run begins."""
    config = read_config(["--multi_scale", "64,96", "--resize_rate", "7"], "")
    sides = [size_of_step(config, step)[0] for step in range(4 * STEPS)]
    changes = [step for step in range(32) if step == 0 or sides[step] != sides[step - 1]]
    assert changes == [0, 7, 14], "the size does not change within epochs"
    for out, steps in ((straight, changes), (halves, sorted({*changes, 16}))):
        log = (out / "run/train.log").read_text()
        assert re.findall(r"(?m)^iter\[(\d+)\], shape(\d+)$", log) == [(str(step), str(sides[step])) for step in steps]
    other = read_config(["--multi_scale", "64,96", "--resize_rate", "7", "--seed", "2"], "")
    assert sides != [size_of_step(other, step)[0] for step in range(32)]


def test_damaged_newest_checkpoint(few_digits, straight, tmp_path):
    """With auto the one before it is taken; a named damaged file is an error; a complete run is left alone."""
    newest = last(copy_states(straight, tmp_path))
    newest.write_bytes(newest.read_bytes()[:-1000])
    options = small_run(few_digits, tmp_path, **LONG)
    with pytest.raises(DataError, match=f"{newest.name}.*truncated or damaged"):
        train.main([*options, "--resume", str(newest)])
    assert train.main([*options, "--resume", "auto"]) == 0
    log = (tmp_path / "run/train.log").read_text()
    assert f"{newest.name} " in log and "epoch 4 step 6" in log
    assert_same(last(tmp_path), last(straight))
    before = last(tmp_path).stat().st_mtime_ns
    assert train.main([*options, "--resume", "auto"]) == 0
    assert last(tmp_path).stat().st_mtime_ns == before, "a complete run was trained again"


def test_resume_with_other_options_is_refused(few_digits, straight):
    with pytest.raises(DataError, match="8 steps an epoch, this run has 4"):
        train.main(small_run(few_digits, straight, resume="auto", **{**LONG, "per_batch_size": 4}))
    with pytest.raises(DataError, match="ema.*resume with the options"):
        train.main(small_run(few_digits, straight, resume="auto", **{**LONG, "ema_decay": 0}))
    with pytest.raises(DataError, match="weights only"):
        train.main(small_run(few_digits, straight, resume=last(straight).with_name("0_best.ckpt"), **LONG))


def test_killed_and_interrupted(few_digits, straight, tmp_path):
    """SIGKILL, Ctrl-C and SIGTERM within an epoch: the run ends where an uninterrupted one does."""
    options = {**LONG, "log_interval": 1, "resume": "auto"}
    for path in states(copy_states(straight, tmp_path))[1:]:
        path.unlink()
    process = start(few_digits, tmp_path, "checkpoint: ", **options)
    process.kill()
    process.communicate()
    assert last(tmp_path).stem == "0-3_20"
    curves = tmp_path / "run/curves.csv"
    for number, status, steps in ((signal.SIGINT, 130, 1), (signal.SIGTERM, 143, 4)):
        process = start(few_digits, tmp_path, "resumed from", **options)
        first = load(last(tmp_path))[1]
        wanted = [STEPS * (first["epoch"] - 1) + first["step"] + steps, "loss"]
        while not curves.is_file() or ",".join(map(str, wanted)) not in curves.read_text():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.02)
        process.send_signal(number)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == status, output
        assert "end training" not in output
        assert 0 < load(last(tmp_path))[1]["step"] < STEPS, "the state is not one of mid-epoch"
    assert train.main(small_run(few_digits, tmp_path, **options)) == 0
    assert last(tmp_path).stem == "0-4_32"
    assert_same(last(tmp_path), last(straight))


def test_non_finite_loss_stops(few_digits, tmp_path):
    with pytest.raises(DataError, match=r"epoch 1 step \d+ .*learning rate 1e\+3\d, loss scale 1024"):
        train.main(small_run(few_digits, tmp_path, **SHORT, lr=1e38))
    assert not states(tmp_path)


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
    """The outputs follow the annotations, also of ids with gaps; the rest is that of the weights; old runs stay."""
    data = of_classes(few_digits, tmp_path / "three", [2, 5, 9])
    source = last(copy_states(straight, tmp_path)).with_name("0_best.ckpt")
    before = {path: path.read_bytes() for path in (tmp_path / "outputs").rglob("*.ckpt")}
    options = small_run(data, tmp_path, **{**SHORT, "per_batch_size": 4}, resume_yolov3=source, lr=0)
    with pytest.raises(DataError, match="reset_head"):
        train.main(options)
    with pytest.raises(UsageError, match="pretrained_backbone and resume_yolov3 are both given"):
        train.main([*options, "--pretrained_backbone", str(source)])
    with pytest.raises(DataError, match="3 classes, more than num_classes=2"):
        train.main([*options, "--num_classes", "2"])
    assert train.main([*options, "--reset_head", "true"]) == 0
    runs = sorted((tmp_path / "outputs").iterdir())
    assert len(runs) == 2 and all(path.read_bytes() == content for path, content in before.items())
    state = next((runs[1] / "ckpt_0").iterdir())
    trained, original = contents(state), contents(source)
    _, about = load(state)
    assert about["class_names"] == ["one", "four", "eight"] and about["input"]["category_ids"] == [2, 5, 9]
    for name, value in original.items():
        if is_head(name):
            assert trained[name].shape[0] == 3 * (5 + 3)
        elif not name.endswith(STATISTICS):
            np.testing.assert_array_equal(trained[name], value, err_msg=name)


@pytest.fixture(scope="module")
def backbone(shallow, tmp_path_factory):
    """A backbone checkpoint as convert_checkpoint.py writes it, of the narrow network."""
    network = Res2Net("avg_pool", WIDTH)
    randomize(network)
    path = tmp_path_factory.mktemp("backbone") / "backbone.ckpt"
    about = {"backbone": {"name": "res2net50", "shortcut": "avg_pool", "bn_eps": 1e-5},
             "input": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}  # fmt: skip
    save(path, network.parameters_dict(), about)
    return path


def test_pretrained_backbone(few_digits, backbone, tmp_path):
    """Stem and layer1 keep their values and their statistics, the rest of the backbone moves on from them."""
    assert train.main(small_run(few_digits, tmp_path, **SHORT, pretrained_backbone=backbone)) == 0
    trained = contents(last(tmp_path))
    for name, value in contents(backbone).items():
        name = f"backbone.{name}"
        assert np.array_equal(trained[name], value) == name.startswith(FROZEN), name
        if name.endswith("conv.weight"):
            assert np.corrcoef(trained[name].ravel(), value.ravel())[0, 1] > 0.99, name
    assert not any("moments" in name and name.endswith("backbone.stem.0.conv.weight") for name in trained)


def test_wrong_backbones(few_digits, straight, backbone, tmp_path):
    options = small_run(few_digits, tmp_path, **SHORT)
    with pytest.raises(DataError, match="avg_pool shortcuts, the recipe max_pool; give --shortcut avg_pool"):
        train.main([*options, "--pretrained_backbone", str(backbone), "--shortcut", "max_pool"])
    with pytest.raises(DataError, match=r"has shape .* it belongs to another network"):
        train.main([*options, "--pretrained_backbone", str(backbone), "--width_multiplier", "0.25"])
    with pytest.raises(DataError, match="none.ckpt is not a file"):
        train.main([*options, "--pretrained_backbone", str(tmp_path / "none.ckpt")])
    assert not (tmp_path / "outputs").exists()


def test_loss_scale_changes_nothing(few_digits, tmp_path):
    """The first gradients and the first update are the same with the documented scale and without one."""
    config = read_config(small_run(few_digits, tmp_path, training_shape=64), "")
    device = Device("CPU", 0)
    names = find_classes(config, True, device)
    batch = next(create_dataset(config, True, device, names).create_tuple_iterator(num_epochs=1))
    results = []
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        for scale in (1024.0, 1.0):
            ms.set_seed(1)
            network = build_network({"network": network_description(config.replace(num_classes=10))})
            randomize(network)
            optimizer = nn.Momentum(network.trainable_params(), 0.01, 0.9)
            loss = YoloLoss(scales(config.anchor_scales), 0.7)
            step = TrainStep(network.set_train(), loss, optimizer, loss_scale=scale)
            assert float(step(*batch)[1].asnumpy()) == scale
            results.append({name: value.asnumpy() for name, value in step.training_state().items()})
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)
    assert sum("moments" in name for name in results[0]) == len(network.trainable_params())
    for name, value in results[0].items():
        other = results[1][name]
        assert np.abs(value - other).max() <= 1e-5 * np.abs(other).max(), name


def test_pictures_of_batches(few_digits, tmp_path, capsys):
    assert train.main(small_run(few_digits, tmp_path, visualize_batches=2, mosaic=0.5)) == 0
    paths = [tmp_path / f"run/visualized/batch_{number}.png" for number in (1, 2)]
    assert all(Image.open(path).size[0] > 4 * 64 for path in paths)
    text = "".join(f"batch: {path}\n" for path in paths)
    assert text in capsys.readouterr().out and text in (tmp_path / "run/train.log").read_text()
    assert not (tmp_path / "outputs").exists() and len(list((tmp_path / "run/visualized").iterdir())) == 2


def test_dry_run_writes_no_checkpoint(few_digits, tmp_path):
    result = program("train.py", *small_run(few_digits, tmp_path, dry_run=True))
    assert result.returncode == 0, result.stderr
    assert "dry run" in result.stdout and "end training" not in result.stdout and not (tmp_path / "outputs").exists()
