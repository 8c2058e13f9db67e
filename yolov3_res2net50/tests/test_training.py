"""A small training: what it logs, writes and freezes; resumed equals uninterrupted; fine-tuning; two processes."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import train
from conftest import BLOCKS, FOLDER, WIDTH, assert_same, contents, randomize, small_run, states
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
STEPS = 4  # of an epoch
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
    sizes = [size_of_step(read_config(["--multi_scale", "64,96", "--resize_rate", "4"], ""), step) for step in range(8)]
    assert sizes == [(96, 96)] * 4 + [(64, 64)] * 4  # one line at each change
    assert re.findall(r"(?m)^iter\[(\d+)\], shape(\d+)$", log) == [("0", "96"), ("4", "64")]


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


def test_fine_tuning_on_other_classes(few_digits, straight, tmp_path):
    """The outputs follow the annotations, also of ids with gaps; everything else is that of the weights."""
    data = tmp_path / "three"
    shutil.copytree(few_digits, data)
    for path in (data / "annotations").iterdir():
        content = json.loads(path.read_text())
        content["categories"] = [row for row in content["categories"] if row["id"] in (2, 5, 9)]
        content["annotations"] = [row for row in content["annotations"] if row["category_id"] in (2, 5, 9)]
        path.write_text(json.dumps(content))
    source = states(straight)[-1].with_name("0_best.ckpt")
    options = [*small_run(data, tmp_path, per_batch_size=2, resume_yolov3=source, dry_run=True)]
    for error, message, more in (
        (DataError, "reset_head", []),
        (UsageError, "pretrained_backbone and resume_yolov3 are both given", ["--pretrained_backbone", str(source)]),
        (DataError, "3 classes, more than num_classes=2", ["--num_classes", "2"]),
    ):
        with pytest.raises(error, match=message):
            train.main([*options, *more])
    options += ["--reset_head", "true"]
    assert train.main(options) == 0
    names = ["one", "four", "eight"]
    config = train.with_classes(read_config(options, ""))
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
    for message, path, more in (
        ("avg_pool shortcuts, the recipe max_pool; give --shortcut avg_pool", backbone, ["--shortcut", "max_pool"]),
        ("has shape .* it belongs to another network", backbone, ["--width_multiplier", "0.25"]),
        ("none.ckpt is not a file", tmp_path / "none.ckpt", []),
    ):
        with pytest.raises(DataError, match=message):
            train.main([*options, "--pretrained_backbone", str(path), *more])
    assert not (tmp_path / "outputs").exists()


def test_pictures_of_batches(few_digits, tmp_path, capsys):
    assert train.main(small_run(few_digits, tmp_path, visualize_batches=2, mosaic=0.5)) == 0
    paths = [tmp_path / f"run/visualized/batch_{number}.png" for number in (1, 2)]
    assert all(Image.open(path).size[0] > 4 * 64 for path in paths)
    text = "".join(f"batch: {path}\n" for path in paths)
    assert text in capsys.readouterr().out and text in (tmp_path / "run/train.log").read_text()
    assert not (tmp_path / "outputs").exists() and len(list((tmp_path / "run/visualized").iterdir())) == 2


# ---- Two processes on one machine ------------------------------------------------------------------------------------

BESIDE = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, "PATH": f"{BESIDE}:{os.environ['PATH']}", "GLOG_v": "3", "DEVICE_NUM": "2",
               "OMP_NUM_THREADS": "1"}  # fmt: skip


@pytest.mark.long
@pytest.mark.skipif(
    not (BESIDE / "msrun").exists() and shutil.which("msrun") is None, reason="msrun comes with MindSpore"
)
def test_two_processes(few_digits, tmp_path):
    """One epoch of 16 / (2 * 4) steps, in two sizes, in which both ranks save; then ten images on one and two processes."""
    changes = {"max_epoch": 1, "is_distributed": 1, "is_save_on_master": False, "seed": 4, "log_interval": 1}
    options = small_run(few_digits, tmp_path, **changes)
    del options[options.index("--log_path") : options.index("--log_path") + 2]  # the launcher's own
    run(["bash", FOLDER / "scripts/run_distribute_train.sh", few_digits, "--wait", *options], tmp_path)
    check_weights(tmp_path)
    check_lines(tmp_path / "train_parallel0")
    checkpoint = next((tmp_path / "outputs").rglob("0-1_2.ckpt"))
    one, two = (evaluation(command, few_digits, checkpoint, tmp_path) for command in (["python"], msrun(tmp_path)))
    assert one == two and len(one[0]) > 1000 and len(one[1]) == 12


def run(command: list, out: Path) -> None:
    result = subprocess.run(
        [*map(str, command)], cwd=out, env=ENVIRONMENT, capture_output=True, text=True, timeout=600
    )  # fmt: skip
    logs = "".join(path.read_text(errors="replace") for path in sorted(out.rglob("*log*")) if path.is_file())
    assert result.returncode == 0, result.stdout + result.stderr + logs[-3000:]


def check_weights(out: Path) -> None:
    """Both ranks have the same weights; the running statistics are those of the images that a rank has seen."""
    (folder,) = (out / "outputs").iterdir()
    files = sorted(folder.rglob("*.ckpt"))
    assert [str(path.relative_to(folder)) for path in files] == ["ckpt_0/0-1_2.ckpt", "ckpt_1/1-1_2.ckpt"]
    first, second = map(contents, files)
    assert first.keys() == second.keys()
    for name, value in first.items():
        own = name.endswith((".moving_mean", ".moving_variance"))
        assert np.array_equal(value, second[name]) != own, name


def check_lines(folder: Path) -> None:
    """Both ranks see the same sizes; the first one writes the documented lines."""
    for name in ("log.txt", "rank_1_train.log"):
        lines = re.findall(r"(?m)^iter\[\d+\], shape\d+$", (folder / name).read_text())
        assert lines == ["iter[0], shape64", "iter[1], shape96"]
    documented = r"(?m)^\S+ \S+:INFO:epoch\[0\], iter\[1\], loss:\S+, \S+ imgs/sec, lr:\S+, per step time:\S+ms$"
    assert re.search(documented, (folder / "log.txt").read_text())


def msrun(out: Path) -> list[str]:
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    return ["msrun", "--worker_num=2", "--local_worker_num=2", "--master_addr=127.0.0.1", f"--master_port={port}",
            f"--log_dir={out / 'msrun'}", "--join=True", "--cluster_time_out=300"]  # fmt: skip


def evaluation(command: list[str], data: Path, checkpoint: Path, out: Path) -> tuple[bytes, list[str]]:
    """The detections of eval.py, byte for byte, and its measures."""
    folder = out / command[0]
    run([*command, FOLDER / "eval.py", "--data_dir", data, "--pretrained", checkpoint, "--device_target", "CPU",
         "--per_batch_size", 4, "--log_path", folder], out)  # fmt: skip
    (predictions,) = folder.glob("predict_*.json")
    return predictions.read_bytes(), re.findall(r"(?m)^ Average .*$", (folder / "eval.log").read_text())
