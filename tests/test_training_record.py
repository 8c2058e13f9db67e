"""What a training leaves: log lines, curves, the record, the best checkpoint, the profile."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path

from model_utils.checkpoint import load
from model_utils.classification.evaluation import METRIC
from model_utils.model import Lines
from toy import programs as programs_of_toy
from toy.model import MODEL
from toy.programs import run_train
from toy_runs import changed, contents, last, place, small_run, states

import numpy as np
import pytest
import yaml

pytestmark = pytest.mark.usefixtures("programs")
CLASSES = [str(digit) for digit in range(10)]
EPOCH_LINE = "E {time} {epoch} {step} {loss:.4f} {speed:.1f} {milliseconds:.2f}"
STEP_LINE = (
    "S {time} {before} {epoch}/{epochs} {step}/{steps} {iteration} {loss:.4f} {learning_rate:.5f} {speed:.1f} "
    "{milliseconds:.2f}"
)
TIME, NUMBER = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", r"\d+\.\d+"


def measured(*values: float):
    """Stands in for the evaluation of a model: gives these values of the deciding metric, one after the other."""
    left = list(values)

    def validate(config, network, device, class_names) -> dict[str, float]:
        assert not network.training and class_names == CLASSES
        return {METRIC: left.pop(0), "validation_loss": 1.0}

    return validate


def rows(out: Path) -> dict[str, dict[int, float]]:
    """The curves: name to {step: value}."""
    found: dict[str, dict[int, float]] = {}
    for row in csv.DictReader((out / "run/curves.csv").read_text().splitlines()):
        found.setdefault(row["name"], {})[int(row["step"])] = float(row["value"])
    return found


@pytest.fixture(scope="module")
def run(programs, few_digits, tmp_path_factory) -> Path:
    """Three epochs with a moving average; evaluated after the second and the last one; raw values fall, averages rise."""
    out = tmp_path_factory.mktemp("run")
    changes = {"validate": measured(0.9, 0.2, 0.1, 0.3), "lines": Lines(epoch=EPOCH_LINE, step=STEP_LINE)}
    options = {"epochs": 3, "eval_interval": 2, "ema_decay": 0.9, "log_interval": 2, "warmup_epochs": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs_of_toy, "MODEL", dataclasses.replace(MODEL, **changes))
        assert run_train(small_run(few_digits, out, **options)) == 0
    return out


def test_lines_that_all_models_have(run):
    log = (run / "run/train.log").read_text()
    for pattern in ("Please check the above information for the configurations", r"epoch: 3 step: 5, loss is \d\S*",
                    r"epoch 3/3 step 5/5 .* left 0:00:00", r"checkpoint: \S*toy-3_5\.ckpt"):  # fmt: skip
        assert re.search(f"(?m)^{pattern}$", log), pattern
    assert re.findall(r"(?m)^validation after (.*)$", log) == [
        f"epoch {epoch}: {METRIC} {raw}, validation_loss 1.0000, ema_{METRIC} {ema}, ema_validation_loss 1.0000; "
        f"best ema_{METRIC} {ema} after epoch {epoch}"
        for epoch, raw, ema in ((2, "0.9000", "0.2000"), (3, "0.1000", "0.3000"))
    ]


def test_lines_of_a_model_and_curves(run):
    """Each template has all of its fields; the step counts from 1 in an epoch, and over the run at its end."""
    log, found = (run / "run/train.log").read_text(), rows(run)
    losses, rates = found["loss"], found["learning_rate"]
    epochs = re.findall(rf"(?m)^E {TIME} (\d) (\d+) ({NUMBER}) {NUMBER} {NUMBER}$", log)
    assert epochs == [(str(epoch), str(5 * epoch), f"{losses[5 * epoch]:.4f}") for epoch in (1, 2, 3)]
    steps = re.findall(rf"(?m)^S {TIME} (\d) (\d)/3 (\d)/5 (\d+) ({NUMBER}) ({NUMBER}) {NUMBER} {NUMBER}$", log)
    assert steps == [
        (str(epoch - 1), str(epoch), str(step), str(total - 1), f"{losses[total]:.4f}", f"{rates[total]:.5f}")
        for epoch in (1, 2, 3) for step in (2, 4, 5) for total in [5 * (epoch - 1) + step]
    ]  # fmt: skip
    assert list(losses) == list(rates) == [int(number) + 1 for _, _, _, number, _, _ in steps]
    assert rates[2] == pytest.approx(0.05 * 2 / 5) and rates[5] == np.float32(0.05)
    assert found[METRIC] == {10: 0.9, 15: 0.1} and found[f"ema_{METRIC}"] == {10: 0.2, 15: 0.3}
    assert (run / "run/curves.png").is_file() and list((run / "run/summary").glob("events*"))


def test_configuration_and_metadata(run):
    assert yaml.safe_load((run / "run/config.yaml").read_text())["ema_decay"] == 0.9
    about = load(last(run))[1]
    assert json.loads(json.dumps(about)) == about
    assert (about["epoch"], about["step"], about["steps_per_epoch"], about["devices"]) == (3, 5, 5, 1)
    assert about["config"]["ema_decay"] == 0.9 and about["class_names"] == CLASSES
    assert about["network"] == {"name": "toy", "num_classes": 10, "width": 8, "activation": "leaky_relu"}
    assert about["input"]["height"] == 16 and about["input"]["mean"] == [0.5, 0.5, 0.5]


def test_best_of_the_moving_average(run):
    """The average decides, not the raw weights; the file holds the averaged weights and nothing else of the training."""
    about, of_the_state = load(run / "checkpoints/toy_best.ckpt")[1], load(last(run))[1]
    assert about["metrics"][f"ema_{METRIC}"] == 0.3 == of_the_state["best"]
    assert about["trained_epochs"] == 3 == of_the_state["best_epoch"]
    assert about["class_names"] == CLASSES and about["network"] == of_the_state["network"]
    best, state = contents(run / "checkpoints/toy_best.ckpt"), contents(last(run))
    assert all(np.array_equal(value, state[f"train_state.ema.{name}"]) for name, value in best.items())
    assert not any("train_state" in name for name in best) and not np.array_equal(best["fc.weight"], state["fc.weight"])


def test_best_without_a_moving_average(few_digits, tmp_path, monkeypatch):
    """A run that is resumed knows how good the best one was; checkpoints and evaluations come at their intervals."""
    options = {"batch_size": 20, "eval_interval": 2, "save_checkpoint_epochs": 2, "keep_checkpoint_max": 2}
    for epochs, values in ((2, [0.9]), (5, [0.4, 0.3])):
        monkeypatch.setattr(programs_of_toy, "MODEL", dataclasses.replace(MODEL, validate=measured(*values)))
        assert run_train(small_run(few_digits, tmp_path, **options, epochs=epochs, resume="auto")) == 0
        if epochs == 2:
            second = contents(last(tmp_path))
    assert [place(path) for path in states(tmp_path)] == ["4_2", "5_2"] and list(rows(tmp_path)[METRIC]) == [4, 8, 10]
    best = contents(tmp_path / "checkpoints/toy_best.ckpt")
    assert "fc.weight" in best and all(np.array_equal(value, second[name]) for name, value in best.items())
    assert changed(tmp_path / "checkpoints/toy_best.ckpt", last(tmp_path)) >= {"fc.weight"}
    assert load(last(tmp_path))[1]["best_epoch"] == 2
    assert f"best {METRIC} 0.9000 after epoch 2" in (tmp_path / "run/train.log").read_text()


def test_summary_and_profile(few_digits, tmp_path):
    options = {"epochs": 1, "batch_size": 40, "enable_profiling": True, "summary_dir": tmp_path / "events"}
    assert run_train(small_run(few_digits, tmp_path, **options)) == 0
    assert list((tmp_path / "events").glob("events*")) and not (tmp_path / "run/summary").exists()
    assert list((tmp_path / "run/profile").rglob("trace_view.json"))
