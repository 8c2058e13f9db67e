"""Training state: resumed equals uninterrupted bit for bit, whatever ended the process; nothing is ever lost."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time

import eval as evaluation
import train
from conftest import FOLDER, assert_same, contents, program, small_run, states
from src.model_utils.checkpoint import load, save
from src.model_utils.config import DataError
from src.tinydarknet import tinydarknet

import numpy as np
import pytest
import yaml
from PIL import Image

TEN = {"log_interval": 3, "epoch_size": 10, "T_max": 10, "lr_scheduler": "cosine_annealing", "keep_checkpoint_max": 3}


@pytest.fixture(scope="module")
def straight(few_digits, tmp_path_factory):
    """Ten epochs without interruption, with a moving average of the weights."""
    out = tmp_path_factory.mktemp("straight")
    assert train.main(small_run(few_digits, out, ema_decay=0.9, eval_interval=4, **TEN)) == 0
    return out


def test_five_and_five_equal_ten(few_digits, straight, tmp_path):
    options = {"ema_decay": 0.9, "eval_interval": 4, **TEN}
    assert train.main(small_run(few_digits, tmp_path, **{**options, "epoch_size": 5})) == 0
    assert states(tmp_path)[-1].name == "train_tinydarknet_cifar10-5_7.ckpt"
    assert train.main(small_run(few_digits, tmp_path, resume="auto", **options)) == 0
    assert_same(states(tmp_path)[-1], states(straight)[-1])


def test_resume_from_a_named_file(few_digits, straight, tmp_path):
    source = states(straight)[-3]
    assert train.main(small_run(few_digits, tmp_path, ema_decay=0.9, resume=source, **TEN)) == 0
    assert_same(states(tmp_path)[-1], states(straight)[-1])


def test_resume_from_an_earlier_file_leaves_its_branch(few_digits, tmp_path):
    """What a run did after the state that another one continues from is moved aside: auto must not take it up."""
    assert train.main(small_run(few_digits, tmp_path, epoch_size=3)) == 0
    first = states(tmp_path)[0]
    assert train.main(small_run(few_digits, tmp_path, epoch_size=2, resume=first, lr_init=0.01)) == 0
    assert [path.name.split("-")[1] for path in states(tmp_path)] == ["1_7.ckpt", "2_7.ckpt"]
    aside = [path.name.split("-")[1] for path in sorted((tmp_path / "checkpoints/0").glob("earlier_*/*"))]
    assert aside == ["2_7.ckpt", "3_7.ckpt"]


def test_the_state_is_not_trivial(straight):
    """The comparison above would see a change: two epochs differ in weights, statistics, moments and average."""
    before, after = contents(states(straight)[-2]), contents(states(straight)[-1])
    names = [name for name in after if not np.array_equal(before[name], after[name])]
    for part in ("conv1.conv.weight", "conv5.bn.moving_mean", "train_state.ema.conv1.conv.weight", "global_step"):
        assert any(part in name for name in names), part
    assert any("moments" in name for name in names)


def start(data, out, until="Please check the above information", **changes) -> subprocess.Popen:
    """A training process, returned when it has printed a line with `until`: it has begun to train."""
    process = subprocess.Popen(
        [sys.executable, str(FOLDER / "train.py"), *small_run(data, out, **changes)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    for line in process.stdout:
        if until in line:
            break
    return process


def test_ten_times_killed(few_digits, tmp_path):
    """SIGKILL at ten random moments, of the compilation, the steps and the writing of checkpoints."""
    options = {**TEN, "epoch_size": 60, "T_max": 60, "ema_decay": 0.9, "resume": "auto"}
    chance, last = random.Random(4), "train_tinydarknet_cifar10-60_7.ckpt"
    for moment in ["Please check the above information", "checkpoint: "] * 5:
        process = start(few_digits, tmp_path / "killed", until=moment, **options)
        time.sleep(chance.uniform(0.0, 1.5))
        process.kill()
        process.communicate()
    killed_at = states(tmp_path / "killed")[-1].name
    assert killed_at != last, "the run was over before it was killed ten times"
    for name in ("killed", "straight"):
        assert train.main(small_run(few_digits, tmp_path / name, **options)) == 0
    assert states(tmp_path / "killed")[-1].name == last
    assert_same(states(tmp_path / "killed")[-1], states(tmp_path / "straight")[-1])


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_saves_in_mid_epoch(few_digits, tmp_path, number, status):
    """The checkpoint of the step in flight is enough to end where an uninterrupted run ends."""
    long = {"epoch_size": 3, "batch_size": 2, "image_height": 64, "image_width": 64, "save_checkpoint_epochs": 2,
            "log_interval": 1}  # fmt: skip
    process = start(few_digits, tmp_path / "cut", **long)
    curves = tmp_path / "cut/run/curves.csv"
    while not curves.is_file() or curves.read_text().count("loss") <= 3:  # then it is within the first epoch
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == status, output
    saved = states(tmp_path / "cut")
    assert [re.search(r"-1_(\d+)\.ckpt$", path.name) is not None for path in saved] == [True]
    assert 0 < load(saved[0])[1]["step"] < 56
    assert train.main(small_run(few_digits, tmp_path / "cut", resume="auto", **long)) == 0
    assert train.main(small_run(few_digits, tmp_path / "whole", **long)) == 0
    assert_same(states(tmp_path / "cut")[-1], states(tmp_path / "whole")[-1])


def test_what_a_run_leaves(few_digits, straight):
    names = [path.name for path in states(straight)]
    assert names == [f"train_tinydarknet_cifar10-{epoch}_7.ckpt" for epoch in (8, 9, 10)]
    log = (straight / "run/train.log").read_text()
    for pattern in (
        r"(?m)^epoch: 10 step: 7, loss is \d",
        r"(?m)^result: epoch: 10 step: 7, loss is \d",
        r"(?m)^Epoch time: \d+\.\d{3}, per step time: \d+\.\d{3}$",
        r"(?m)^epoch 10/10 step 7/7 loss \S+ lr \S+ \S+ images/s waiting for data \d+% left \d+:\d\d:\d\d$",
        r"(?m)^Please check the above information for the configurations$",
    ):
        assert re.search(pattern, log), pattern
    assert yaml.safe_load((straight / "run/config.yaml").read_text())["image_height"] == 32
    assert list((straight / "run/summary").glob("events*"))
    rows = list(csv.DictReader((straight / "run/curves.csv").open()))
    assert [int(row["step"]) for row in rows if row["name"] == "loss"] == [
        step for step in range(1, 71) if (step - 1) % 7 + 1 in (3, 6, 7)
    ]
    assert [int(row["step"]) for row in rows if row["name"] == "top_1_accuracy"] == [28, 56, 70]
    assert Image.open(straight / "run/curves.png").size[0] > 100


def test_best_is_kept_apart(straight):
    path = straight / "checkpoints/0/train_tinydarknet_cifar10_best.ckpt"
    _, about = load(path)
    _, last = load(states(straight)[-1])
    assert about["metrics"]["ema_top_1_accuracy"] == last["best"] and about["trained_epochs"] == last["best_epoch"]
    assert about["class_names"][3] == "three" or about["class_names"][3] == "3"
    assert not any("train_state" in name for name in contents(path))


def test_complete_run_is_not_trained_again(few_digits, straight):
    before = states(straight)[-1].stat().st_mtime_ns
    assert train.main(small_run(few_digits, straight, ema_decay=0.9, resume="auto", **TEN)) == 0
    assert states(straight)[-1].stat().st_mtime_ns == before


def test_new_run_moves_old_checkpoints_aside(few_digits, tmp_path):
    for _ in range(2):
        assert train.main(small_run(few_digits, tmp_path, epoch_size=1)) == 0
    found = sorted((tmp_path / "checkpoints/0").rglob("*.ckpt"))
    assert len(found) == 2 and {path.name for path in found} == {found[0].name} and len(states(tmp_path)) == 1


def test_same_command_same_weights(few_digits, tmp_path):
    for name in ("a", "b"):
        assert train.main(small_run(few_digits, tmp_path / name, color_jitter="0.4,0.4,0.4,0.1")) == 0
    assert_same(states(tmp_path / "a")[-1], states(tmp_path / "b")[-1])
    assert train.main(small_run(few_digits, tmp_path / "c", color_jitter="0.4,0.4,0.4,0.1", seed=2)) == 0
    first, other = contents(states(tmp_path / "a")[-1]), contents(states(tmp_path / "c")[-1])
    assert not np.array_equal(first["conv1.conv.weight"], other["conv1.conv.weight"])


def test_damaged_newest_checkpoint(few_digits, straight, tmp_path, capsys):
    """With auto the one before it is taken; a named damaged file is an error."""
    folder = tmp_path / "checkpoints/0"
    folder.mkdir(parents=True)
    for path in states(straight):
        (folder / path.name).write_bytes(path.read_bytes())
    newest = states(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:-1000])
    options = small_run(few_digits, tmp_path, ema_decay=0.9, eval_interval=4, **TEN)
    with pytest.raises(DataError, match=f"{newest.name}.*truncated or damaged"):
        train.main([*options, "--resume", str(newest)])
    assert train.main([*options, "--resume", "auto"]) == 0
    assert f"{newest.name} " in (tmp_path / "run/train.log").read_text()
    assert_same(states(tmp_path)[-1], states(straight)[-1])


def test_resume_with_another_batch_size_is_refused(few_digits, straight):
    with pytest.raises(DataError, match="7 steps an epoch, this run has 14"):
        train.main(small_run(few_digits, straight, ema_decay=0.9, resume="auto", **TEN, batch_size=8))


def test_resume_without_the_moving_average_is_refused(few_digits, straight):
    with pytest.raises(DataError, match="ema.*resume with the options"):
        train.main(small_run(few_digits, straight, resume="auto", **TEN))


def test_non_finite_loss_stops(few_digits, tmp_path):
    with pytest.raises(DataError, match=r"epoch 1 step \d+ .*learning rate 1e\+3\d, loss scale 1024"):
        train.main(small_run(few_digits, tmp_path, lr_init=1e38))
    assert not states(tmp_path)


def test_full_disk(few_digits, tmp_path):
    """A checkpoint that does not fit ends the run with its path; the ones that existed can still be read."""
    assert train.main(small_run(few_digits, tmp_path, epoch_size=1)) == 0
    before = states(tmp_path)[0]
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000)); "
        "sys.argv = sys.argv[1:]; import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    result = subprocess.run(
        [sys.executable, "-c", limited, str(FOLDER / "train.py"), *small_run(few_digits, tmp_path, resume="auto")],
        capture_output=True, text=True, cwd=FOLDER, timeout=300, env={**os.environ, "PYTHONPATH": str(FOLDER)},
    )  # fmt: skip
    assert result.returncode == 1
    assert re.search(r"error: checkpoint \S*cifar10-2_7\.ckpt cannot be written", result.stderr), result.stderr
    assert [path.name for path in before.parent.iterdir()] == [before.name], "a temporary file was left behind"
    assert load(before)[1]["epoch"] == 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 2_000_000


def test_fine_tuning_from_another_class_count(few_digits, straight, tmp_path):
    source = straight / "checkpoints/0/train_tinydarknet_cifar10_best.ckpt"
    options = small_run(few_digits, tmp_path, epoch_size=1, num_classes=12, pre_trained=True, checkpoint_path=source)
    with pytest.raises(DataError, match="reset_head"):
        train.main(options)
    assert train.main([*options, "--reset_head", "true", "--lr_init", "0"]) == 0
    trained, original = contents(states(tmp_path)[-1]), contents(source)
    np.testing.assert_array_equal(trained["conv7.conv.weight"], original["conv7.conv.weight"])
    assert trained["conv16.conv.weight"].shape[0] == 12


def test_pretrained_weights_bring_their_numerics(few_digits, tmp_path):
    """Slope, epsilon, mean and std of the weights; the command line's mean goes before them."""
    network = {"name": "tinydarknet", "num_classes": 10, "negative_slope": 0.2, "bn_eps": 1e-3, "legacy_head": True}
    about = {"network": network, "input": {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}}
    save(tmp_path / "zoo.ckpt", tinydarknet(10, 0.2, 1e-3, True).parameters_dict(), about)
    options = small_run(few_digits, tmp_path, epoch_size=1, pre_trained=True, checkpoint_path=tmp_path / "zoo.ckpt")
    assert train.main([*options, "--std", "0.5,0.5,0.5"]) == 0
    _, stored = load(states(tmp_path)[-1])
    assert stored["network"] == network
    assert stored["input"]["mean"] == [0, 0, 0] and stored["input"]["std"] == [0.5, 0.5, 0.5]


def test_profile(few_digits, tmp_path):
    assert train.main(small_run(few_digits, tmp_path, epoch_size=1, batch_size=50, enable_profiling=True)) == 0
    assert list((tmp_path / "run" / "profile").rglob("trace_view.json"))


def test_moving_average_of_a_training_state(straight, few_digits, tmp_path, capsys):
    """--use_ema evaluates what the training said of the average; without an average it is an error."""
    options = ["--dataset_name", "cifar10", "--val_data_dir", str(few_digits), "--device_target", "CPU"]
    options += ["--run_dir", str(tmp_path), "--use_ema", "true", "--checkpoint_path"]
    evaluation.main([*options, str(states(straight)[-1])])
    said = float(re.search(r"'top_1_accuracy': ([0-9.]+)", capsys.readouterr().out)[1])
    rows = list(csv.DictReader((straight / "run/curves.csv").open()))
    assert said == float([row["value"] for row in rows if row["name"] == "ema_top_1_accuracy"][-1])
    with pytest.raises(DataError, match="no moving average"):
        evaluation.main([*options, str(straight / "checkpoints/0/train_tinydarknet_cifar10_best.ckpt")])


def test_dynamic_loss_scale_resumes_bit_for_bit(few_digits, tmp_path):
    options = {"is_dynamic_loss_scale": 1, "loss_scale": 65536, "lr_init": 0.01}
    assert train.main(small_run(few_digits, tmp_path / "a", epoch_size=2, **options)) == 0
    assert train.main(small_run(few_digits, tmp_path / "b", epoch_size=1, **options)) == 0
    assert train.main(small_run(few_digits, tmp_path / "b", epoch_size=2, resume="auto", **options)) == 0
    assert_same(states(tmp_path / "a")[-1], states(tmp_path / "b")[-1])


def test_image_folder_training(image_folder, tmp_path):
    """The ImageNet recipe on JPEG digits: random crops, label smoothing, class names from the folders."""
    options = small_run(
        image_folder, tmp_path, dataset_name="imagenet", train_data_dir=image_folder / "train",
        val_data_dir=image_folder / "val", eval_interval=1, num_classes=10,
    )  # fmt: skip
    assert train.main(options) == 0
    _, about = load(tmp_path / "checkpoints/0/train_tinydarknet_imagenet_best.ckpt")
    assert about["class_names"] == [str(digit) for digit in range(10)] and about["input"]["resize"] == "shorter_side"


def test_dry_run_writes_nothing(few_digits, tmp_path):
    result = program("train.py", *small_run(few_digits, tmp_path, dry_run=True, run_dir=tmp_path / "run"))
    assert result.returncode == 0, result.stderr
    assert "dry run" in result.stdout and not (tmp_path / "checkpoints").exists()


def test_json_metadata_is_complete(straight):
    _, about = load(states(straight)[-1])
    assert json.loads(json.dumps(about)) == about
    assert about["epoch"] == 10 and about["step"] == 7 and about["config"]["epoch_size"] == 10
