"""Training state: resumed equals uninterrupted bit for bit, whatever ended the process; nothing is ever lost."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import signal
import time
from pathlib import Path

import toy.programs
from model_utils.checkpoint import load
from model_utils.errors import DataError
from model_utils.progress import Position
from toy.model import MODEL
from toy.programs import run_train
from toy_runs import assert_same, changed, contents, last, place, small_run, start, states

import pytest
from mindspore.train import Callback

pytestmark = pytest.mark.usefixtures("programs")
FOUR = {"epochs": 4, "keep_checkpoint_max": 2, "ema_decay": 0.9}
EVERYTHING = {
    "epochs": 2, "batch_size": 4, "accumulate_steps": 2, "clip_grad_norm": 0.5, "ema_decay": 0.9, "loss_scale": 65536,
    "is_dynamic_loss_scale": True, "head_lr_factor": 3, "freeze": "stem.*", "warmup_epochs": 1, "eval_interval": 1,
}  # fmt: skip


class StopAfter(Callback):
    """Sends this process SIGTERM at the end of a step of the run."""

    def __init__(self, position: Position, total: int):
        self.position, self.total = position, total

    def on_train_step_end(self, run_context) -> None:
        if self.position.total == self.total:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def straight(programs, few_digits, tmp_path_factory) -> Path:
    """Four epochs without interruption, with a moving average of the weights."""
    out = tmp_path_factory.mktemp("straight")
    assert run_train(small_run(few_digits, out, **FOUR)) == 0
    return out


def copy_states(source: Path, target: Path) -> Path:
    shutil.copytree(
        source / "checkpoints", target / "checkpoints", ignore=lambda _, names: {"toy_best.ckpt"} & {*names}
    )
    return target


def test_all_options_resume_bit_for_bit_from_the_middle_of_an_epoch(few_digits, tmp_path):
    """Moving average, dynamic loss scale, accumulation, clipping, frozen parts, a factor for the head, evaluation between."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run_train(small_run(few_digits, whole, **EVERYTHING)) == 0
    assert run_train(small_run(few_digits, cut, **EVERYTHING), lambda position: [StopAfter(position, 7)]) == 143
    assert place(last(cut)) == "2_2"
    assert run_train(small_run(few_digits, cut, resume=last(cut), **EVERYTHING)) == 0
    assert place(last(whole)) == place(last(cut)) == "2_5", "40 pictures make five steps of two slices of four"
    assert_same(last(cut), last(whole))
    names = contents(last(whole))
    for part in ("train_state.ema.", "train_state.loss_scale", "train_state.loss_scale_counter", "moments.fc."):
        assert any(name.startswith(part) or f".{part}" in name for name in names), part
    moved = changed(states(whole)[0], last(whole))
    assert not any(name.startswith("stem.") for name in moved)
    assert moved >= {"body.conv.weight", "body.bn.moving_mean", "fc.weight", "train_state.ema.fc.weight"}
    assert load(last(cut))[1]["best"] == load(last(whole))[1]["best"]


def test_resume_from_an_earlier_file_leaves_its_branch(few_digits, straight, tmp_path):
    """What a run did after the state that another one continues from is moved aside: auto must not take it up."""
    first = states(copy_states(straight, tmp_path))[0]
    assert run_train(small_run(few_digits, tmp_path, resume=first, lr=0.01, **FOUR)) == 0
    assert [place(path) for path in states(tmp_path)] == ["3_5", "4_5"]
    aside = list((tmp_path / "checkpoints").glob("earlier_*/*"))
    assert [path.name for path in aside] == ["toy-4_5.ckpt"]
    assert_same(aside[0], last(straight))
    assert changed(last(tmp_path), last(straight))
    assert "lr was 0.05, is 0.01" in (tmp_path / "run/train.log").read_text()


def test_killed_and_interrupted(few_digits, tmp_path):
    """SIGKILL at a random moment, Ctrl-C and SIGTERM within an epoch, as processes: nothing is lost, nothing changes."""
    options = {"epochs": 3, "batch_size": 2, "eval_interval": 1, "ema_decay": 0.9}  # 20 steps an epoch
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    process = start("train", *small_run(few_digits, cut, **options), until="checkpoint: ")
    time.sleep(random.Random(4).uniform(0.0, 0.2))
    process.kill()
    process.communicate()
    assert place(last(cut)) != "3_20", "it was over before it was killed"
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        curves = cut / "run/curves.csv"
        curves.unlink()
        process = start("train", *small_run(few_digits, cut, resume="auto", **options), until="resumed from")
        while not curves.is_file() or curves.read_text().count("loss") < 3:  # then it is within an epoch
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        process.send_signal(number)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == status, output
        assert load(last(cut))[1]["step"] not in (0, 20), "the state is not one within an epoch"
        assert f"stopping on signal {number}" in output and "Traceback" not in output
    for out in (cut, whole):
        assert run_train(small_run(few_digits, out, resume="auto", **options)) == 0
    assert place(last(cut)) == "3_20"
    assert_same(last(cut), last(whole))
    assert load(last(cut))[1]["best"] == load(last(whole))[1]["best"]


def test_damaged_newest_checkpoint(few_digits, straight, tmp_path):
    """With auto the one before it is taken; a named damaged file is an error; a complete run is left alone."""
    newest = last(copy_states(straight, tmp_path))
    newest.write_bytes(newest.read_bytes()[:-1000])
    options = small_run(few_digits, tmp_path, **FOUR)
    with pytest.raises(DataError, match=f"{newest.name}.*truncated or damaged"):
        run_train([*options, "--resume", str(newest)])
    assert run_train([*options, "--resume", "auto"]) == 0
    log = (tmp_path / "run/train.log").read_text()
    assert f"{newest.name} " in log and "resumed from" in log and "epoch 3 step 5" in log
    assert_same(last(tmp_path), last(straight))
    moved = changed(*states(straight))
    for part in ("conv.weight", "bn.moving_mean", "fc.bias", "train_state.ema.", "moments.", "global_step"):
        assert any(part in name for name in moved), f"{part} did not move: the comparison would see nothing"
    before = last(tmp_path).stat().st_mtime_ns
    assert run_train([*options, "--resume", "auto"]) == 0
    assert last(tmp_path).stat().st_mtime_ns == before, "a complete run was trained again"
    assert "training is complete: 4 of 4 epochs" in (tmp_path / "run/train.log").read_text()


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch_size": 4}, "5 steps an epoch, this run has 10: another data set, batch size or number of devices"),
        ({"ema_decay": 0}, "ema.*is unexpected.*resume with the options"),
        ({"num_classes": 12}, "fc.* has shape .*resume with the options"),
        ({"resume": "nothing.ckpt"}, "nothing.ckpt is not a file"),
        ({"resume": "toy_best.ckpt"}, "weights only, no training state"),
    ],
)
def test_resume_that_cannot_be(few_digits, straight, toy_state, tmp_path, changes, message, dry_run, monkeypatch):
    """Found by a dry run as well; the states stay where they are."""
    monkeypatch.chdir(toy_state.parent)
    copy_states(straight, tmp_path)
    options = {**FOUR, "resume": "auto", "dry_run": dry_run, **changes}
    with pytest.raises(DataError, match=f"(?s){message}"):
        run_train(small_run(few_digits, tmp_path, **options))
    assert [path.name for path in states(tmp_path)] == [path.name for path in states(straight)]


def test_new_run_moves_old_checkpoints_aside(few_digits, straight, tmp_path):
    copy_states(straight, tmp_path)
    assert run_train(small_run(few_digits, tmp_path, epochs=1, batch_size=40)) == 0
    assert [place(path) for path in states(tmp_path)] == ["1_1"]
    aside = sorted((tmp_path / "checkpoints").glob("earlier_*/*"))
    assert [path.name for path in aside] == ["toy-3_5.ckpt", "toy-4_5.ckpt"]
    assert_same(aside[1], last(straight))


def test_what_operating_systems_leave_behind_changes_nothing(few_digits, tmp_path):
    """A training and its evaluation on the same pictures with debris among them: the same state, bit for bit."""
    data = Path(shutil.copytree(few_digits, tmp_path / "data"))
    picture = next((data / "train/3").iterdir()).read_bytes()
    for split in ("train", "val"):
        for name in (".ipynb_checkpoints/0.jpg", "@eaDir/0.jpg", "__MACOSX/0/0.jpg", "3/._0.jpg", "3/.0.jpg", "5/Thumbs.db",
                     "5/@eaDir/0.jpg", "0/.DS_Store", "9/.zzz.jpg", "ehthumbs.db"):  # fmt: skip
            (data / split / name).parent.mkdir(parents=True, exist_ok=True)
            (data / split / name).write_bytes(picture)
    options = {"epochs": 1, "eval_interval": 1}
    for folder, out in ((few_digits, "clean"), (data, "debris")):
        assert run_train(small_run(folder, tmp_path / out, **options)) == 0
    assert_same(last(tmp_path / "clean"), last(tmp_path / "debris"))


def test_the_first_state_does_not_wait_for_the_first_validation(few_digits, tmp_path, monkeypatch):
    """A validation that fails after an epoch of hours: the epoch is not lost, where its state was to be saved."""

    def fail(*_):
        raise DataError("the validation data is gone")

    monkeypatch.setattr(toy.programs, "MODEL", dataclasses.replace(MODEL, validate=fail))
    options = {"epochs": 2, "eval_interval": 1, "save_checkpoint_epochs": 1}
    with pytest.raises(DataError, match="is gone"):
        run_train(small_run(few_digits, tmp_path, **options))
    assert [path.name for path in states(tmp_path)] == ["toy-1_5.ckpt"]
    monkeypatch.undo()
    assert run_train(small_run(few_digits, tmp_path, resume="auto", **options)) == 0
    assert load(last(tmp_path))[1]["epoch"] == 2
