# Shared file: source utils/classification/tests/test_common_training.py; copy with: python scripts/sync_model_utils.py --write
"""Training state: resumed equals uninterrupted bit for bit, whatever ended the process; nothing is ever lost."""

from __future__ import annotations

import csv
import importlib
import os
import random
import re
import signal
import subprocess
import sys
import time

import train
from conftest import (
    FOLDER,
    OTHER_NETWORK,
    SHALLOW,
    SMALL_NETWORK,
    assert_same,
    contents,
    is_convolution,
    program,
    small_run,
    states,
)
from src.model_utils.checkpoint import load, save
from src.model_utils.config import DataError, UsageError
from src.recipe import NETWORK, build_network, is_head, read_config

import numpy as np
import pytest
import yaml
from PIL import Image
from src.inference import load_network

LONG = {"epoch_size": 4, "log_interval": 2, "keep_checkpoint_max": 2, "save_checkpoint_epochs": 1, "ema_decay": 0.9}


@pytest.fixture(scope="module", autouse=True)
def shallow():
    """What is tested here does not depend on the depth."""
    module = importlib.import_module(f"src.{NETWORK}")
    stages = module.STAGES
    exec(SHALLOW, {})
    yield
    module.STAGES = stages


def train_program(*arguments, before: str = "") -> list[str]:
    """Command line of train.py as a process, with the shallow network."""
    run = "import sys, runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    return [sys.executable, "-c", f"{before}{SHALLOW}{run}", str(FOLDER / "train.py"), *map(str, arguments)]


ENVIRONMENT = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(FOLDER), "GLOG_v": "3"}


@pytest.fixture(scope="module")
def straight(few_digits, tmp_path_factory):
    """Four epochs without interruption, with a moving average of the weights."""
    out = tmp_path_factory.mktemp("straight")
    assert train.main(small_run(few_digits, out, eval_interval=2, **LONG)) == 0
    return out


def last(out):
    return states(out)[-1]


def place(path) -> str:
    return path.stem.split("-")[1]


def test_two_and_two_epochs_equal_four(few_digits, straight, tmp_path):
    options = {**LONG, "eval_interval": 2}
    assert train.main(small_run(few_digits, tmp_path, **{**options, "epoch_size": 2})) == 0
    assert place(last(tmp_path)) == "2_5"
    assert train.main(small_run(few_digits, tmp_path, resume="auto", **options)) == 0
    assert_same(last(tmp_path), last(straight))
    after, before = contents(states(straight)[-1]), contents(states(straight)[-2])
    names = {name for name in after if not np.array_equal(before[name], after[name])}
    for part in (r"conv\w*\.weight", r"bn\d?\.moving_mean", r"train_state\.ema\.", r"moments?\.", "global_step"):
        assert any(re.search(part, name) for name in names), f"{part} did not move: the comparison would see nothing"


def test_what_a_run_leaves(straight):
    assert [place(path) for path in states(straight)] == ["3_5", "4_5"]
    log = (straight / "run/train.log").read_text()
    for pattern in (
        r"(?m)^epoch: 4 step: 5, loss is \d",
        r"(?m)^Epoch time: \d+\.\d{3}, per step time: \d+\.\d{3}$",
        r"(?m)^epoch 4/4 step 5/5 loss \S+ lr \S+ \S+ images/s waiting for data \d+% left \d+:\d\d:\d\d$",
        r"(?m)^validation after epoch 4: .*ema_top_1_accuracy \d",
        r"(?m)^Please check the above information for the configurations$",
    ):
        assert re.search(pattern, log), pattern
    assert yaml.safe_load((straight / "run/config.yaml").read_text())["ema_decay"] == 0.9
    rows = list(csv.DictReader((straight / "run/curves.csv").open()))
    steps = [int(row["step"]) for row in rows if row["name"] == "loss"]
    assert steps == [step for step in range(1, 21) if (step - 1) % 5 + 1 in (2, 4, 5)]
    assert [int(row["step"]) for row in rows if row["name"] == "top_1_accuracy"] == [10, 20]
    assert Image.open(straight / "run/curves.png").size[0] > 100 and list((straight / "summary").glob("events*"))
    best = next(last(straight).parent.glob("*best.ckpt"))
    _, about = load(best)
    assert about["class_names"] == [str(digit) for digit in range(10)]
    assert about["metrics"]["ema_top_1_accuracy"] == load(last(straight))[1]["best"]
    assert not any("train_state" in name for name in contents(best))


def test_damaged_newest_checkpoint(few_digits, straight, tmp_path):
    """With auto the one before it is taken; a named damaged file is an error."""
    folder = tmp_path / last(straight).parent.relative_to(straight)
    folder.mkdir(parents=True)
    for path in states(straight):
        (folder / path.name).write_bytes(path.read_bytes())
    newest = last(tmp_path)
    newest.write_bytes(newest.read_bytes()[:-1000])
    options = small_run(few_digits, tmp_path, **LONG)
    with pytest.raises(DataError, match=f"{newest.name}.*truncated or damaged"):
        train.main([*options, "--resume", str(newest)])
    assert train.main([*options, "--resume", "auto"]) == 0
    assert f"{newest.name} " in (tmp_path / "run/train.log").read_text()
    assert_same(last(tmp_path), last(straight))
    before = last(tmp_path).stat().st_mtime_ns
    assert train.main([*options, "--resume", "auto"]) == 0
    assert last(tmp_path).stat().st_mtime_ns == before, "a complete run was trained again"


def test_resume_with_other_options_is_refused(few_digits, straight):
    with pytest.raises(DataError, match="5 steps an epoch, this run has 10"):
        train.main(small_run(few_digits, straight, resume="auto", **LONG, batch_size=4))
    with pytest.raises(DataError, match="ema.*resume with the options"):
        train.main(small_run(few_digits, straight, resume="auto", **{**LONG, "ema_decay": 0}))


def start(data, out, until="Please check the above information", **changes) -> subprocess.Popen:
    """A training process, returned when it has printed a line with `until`: it has begun to train."""
    process = subprocess.Popen(
        train_program(*small_run(data, out, **changes)),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    for line in process.stdout:
        if until in line:
            return process
    raise AssertionError(f"the process ended without '{until}'")


def test_killed_and_interrupted(few_digits, tmp_path):
    """SIGKILL at random moments, Ctrl-C and SIGTERM within an epoch: the run ends where an uninterrupted one does."""
    options = {"epoch_size": 4, "batch_size": 2, "log_interval": 1, "save_checkpoint_epochs": 1, "resume": "auto"}
    cut, chance = tmp_path / "cut", random.Random(4)
    for moment in ("Please check the above information", f"checkpoint: {cut}"):
        process = start(few_digits, cut, until=moment, **options)
        time.sleep(chance.uniform(0.0, 1.0))
        process.kill()
        process.communicate()
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        curves = cut / "run/curves.csv"
        curves.unlink()
        process = start(few_digits, cut, until="resumed from", **options)
        while not curves.is_file() or curves.read_text().count("loss") < 3:  # then it is within an epoch
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.02)
        process.send_signal(number)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == status, output
        assert load(last(cut))[1]["step"] not in (0, 20), "the state is not one of mid-epoch"
    for out in (cut, tmp_path / "whole"):
        assert train.main(small_run(few_digits, out, **options)) == 0
    assert place(last(cut)) == "4_20"
    assert_same(last(cut), last(tmp_path / "whole"))


def test_all_training_options_resume_bit_for_bit(few_digits, tmp_path):
    """Dynamic loss scale, clipping, accumulation, a factor for the head and frozen layers, over a resume."""
    frozen = next(name for name in parameter_names() if is_convolution(name)).rsplit(".", 2)[0]
    options = {
        "is_dynamic_loss_scale": 1, "loss_scale": 65536, "clip_grad_norm": 1.0, "accumulate_steps": 2, "batch_size": 4,
        "head_lr_factor": 3.0, "freeze": f"{frozen}.*",
    }  # fmt: skip
    assert train.main(small_run(few_digits, tmp_path / "a", **options)) == 0
    assert train.main(small_run(few_digits, tmp_path / "b", **{**options, "epoch_size": 1})) == 0
    assert train.main(small_run(few_digits, tmp_path / "b", resume="auto", **options)) == 0
    assert place(last(tmp_path / "a")) == "2_5", "40 images make 5 steps of 2 batches of 4"
    assert_same(last(tmp_path / "a"), last(tmp_path / "b"))
    assert train.main(small_run(few_digits, tmp_path / "c", **{**options, "lr_init": 0})) == 0
    trained, initial = contents(last(tmp_path / "a")), contents(last(tmp_path / "c"))
    for name in parameter_names():
        still = name.startswith(f"{frozen}.")
        if still or is_convolution(name):
            assert np.array_equal(trained[name], initial[name]) == still, name


def parameter_names() -> list[str]:
    from src.inference import description

    return list(build_network(description(read_config(SMALL_NETWORK, ""), None)).parameters_dict())


def test_new_run_moves_old_checkpoints_aside(few_digits, tmp_path):
    for _ in range(2):
        assert train.main(small_run(few_digits, tmp_path, epoch_size=1, batch_size=20)) == 0
    assert [place(path) for path in states(tmp_path)] == ["1_2"]
    assert len(list((tmp_path / "checkpoints").rglob("*-1_2.ckpt"))) == 2


def test_non_finite_loss_stops(few_digits, tmp_path):
    with pytest.raises(DataError, match=r"epoch 1 step \d+ .*learning rate 1e\+3\d, loss scale 1024"):
        train.main(small_run(few_digits, tmp_path, lr_init=1e38))
    assert not states(tmp_path)


def test_full_disk(few_digits, straight, tmp_path):
    """A checkpoint that does not fit ends the run with its path; the ones that existed can still be read."""
    folder = tmp_path / last(straight).parent.relative_to(straight)
    folder.mkdir(parents=True)
    before = folder / states(straight)[0].name
    before.write_bytes(states(straight)[0].read_bytes())
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000)); "
    result = subprocess.run(
        train_program(*small_run(few_digits, tmp_path, resume="auto", **LONG), before=limited),
        capture_output=True, text=True, cwd=tmp_path, timeout=300, env=ENVIRONMENT,
    )  # fmt: skip
    assert result.returncode == 1
    assert re.search(r"error: checkpoint \S*-4_5\.ckpt cannot be written", result.stderr), result.stderr
    assert [path.name for path in folder.iterdir()] == [before.name], "a temporary file was left behind"
    assert load(before)[1]["epoch"] == 3


def test_fine_tuning_from_another_class_count(few_digits, straight, tmp_path):
    source = next(last(straight).parent.glob("*best.ckpt"))
    options = small_run(few_digits, tmp_path, epoch_size=1, batch_size=20, num_classes=12, pretrained=source)
    with pytest.raises(DataError, match="reset_head"):
        train.main(options)
    assert train.main([*options, "--reset_head", "true", "--lr_init", "0"]) == 0
    trained, original = contents(last(tmp_path)), contents(source)
    heads = [name for name in original if is_head(name)]
    assert heads and all(trained[name].shape[0] == 12 for name in heads)
    for name in original:
        if is_convolution(name):
            np.testing.assert_array_equal(trained[name], original[name])


def test_pretrained_weights_bring_their_numerics(few_digits, tmp_path):
    """Network, mean and std of the weights; the command line's std goes before them, its network is refused."""
    from src.inference import description

    about = description(read_config(SMALL_NETWORK, ""), None)
    about["network"].update(OTHER_NETWORK)
    about["input"].update(mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0])
    save(tmp_path / "w.ckpt", build_network(about).parameters_dict(), about)
    options = small_run(few_digits, tmp_path, epoch_size=1, batch_size=20, pretrained=tmp_path / "w.ckpt")
    assert train.main([*options, "--std", "0.5,0.5,0.5"]) == 0
    _, stored = load(last(tmp_path))
    assert stored["network"] == about["network"]
    assert stored["input"]["mean"] == [0, 0, 0] and stored["input"]["std"] == [0.5, 0.5, 0.5]
    key, value = list(OTHER_NETWORK.items())[-1]
    with pytest.raises(UsageError, match=f"--{key} {2 * value} contradicts"):
        train.main([*options, f"--{key}", str(2 * value)])
    network, _ = load_network(last(tmp_path), read_config(["--device_target", "CPU"], ""))
    assert not network.training


def test_dry_run_writes_nothing(few_digits, tmp_path):
    result = program("train.py", *small_run(few_digits, tmp_path, dry_run=True))
    assert result.returncode == 0, result.stderr
    assert "dry run" in result.stdout and not (tmp_path / "checkpoints").exists()
