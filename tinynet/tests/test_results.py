"""What a training leaves: the documented log lines, and the checkpoint files with their documented names."""

from __future__ import annotations

import re
import types

from classifier.fixtures import contents, same
from conftest import EPOCHS, EVERYTHING, STEPS, run_training, small_run
from src.lr_scheduler import get_lr
from src.model_utils import checkpoint
from src.recipe import TinyNetCheckpoints, read_config
from src.report import report_accuracies

import mindspore as ms
import numpy as np
import pytest

METRICS = r"\{'Validation-Loss': (\S+), 'Top1-Acc': (\S+), 'Top5-Acc': (\S+)\}"

# ---- Log lines -------------------------------------------------------------------------------------------------------


def log_of(out) -> str:
    return (out / "run/train.log").read_text()


def test_lines_of_the_steps(trained):
    """Every two steps and at the end of an epoch; epochs count from 0."""
    pattern = r"(?m)^epoch: (\d)/2, step: (\d)/5, loss is (\d+\.\d+), learning rate: (\S+)$"
    rows = re.findall(pattern, log_of(trained))
    assert [(int(epoch), int(step)) for epoch, step, *_ in rows] == [(e, s) for e in range(EPOCHS) for s in (2, 4, 5)]
    rates = get_lr(read_config(small_run(trained, trained, **EVERYTHING), ""), STEPS)
    for epoch, step, _, rate in rows:
        assert float(rate) == pytest.approx(rates[STEPS * int(epoch) + int(step) - 1], rel=1e-5)
    curves = [line.split(",") for line in (trained / "run/curves.csv").read_text().splitlines()]
    losses = [float(row[-1]) for row in curves if "loss" in row]
    assert [float(loss) for *_, loss, _ in rows] == pytest.approx(losses, rel=1e-4)


def test_lines_of_the_evaluations(trained):
    """Of the raw weights and of the averaged ones: this epoch, the best one, and a list of the ten best averages."""
    log = log_of(trained)
    rows = {title: re.findall(rf"(?m)^{title}Model Accuracy: {METRICS}$", log) for title in ("", "EMA-")}
    assert [len(found) for found in rows.values()] == [EPOCHS] * 2 and rows[""] != rows["EMA-"]
    for title, found in rows.items():
        accuracies = [float(top_1) for _, top_1, _ in found]
        best = re.findall(rf"(?m)^Best {title}Model Accuracy: (\S+), at epoch (\d+)$", log)
        assert [float(value) for value, _ in best] == [max(accuracies[: epoch + 1]) for epoch in range(EPOCHS)]
        assert [accuracies[int(epoch)] for _, epoch in best] == [float(value) for value, _ in best]
    (listed,) = re.findall(r"Top 10 EMA-Model Accuracies: \n((?:epoch \d+: \S+\n){2})", log)
    found = [(int(epoch), float(value)) for epoch, value in re.findall(r"epoch (\d+): (\S+)", listed)]
    assert found == sorted(((e, float(row[1])) for e, row in enumerate(rows["EMA-"])), key=lambda row: -row[1])


@pytest.fixture
def lines(monkeypatch):
    """The lines that report.py logs."""
    kept = []
    logger = types.SimpleNamespace(info=lambda text, *values: kept.append(text % values))
    monkeypatch.setattr("src.report.get_logger", lambda: logger)
    return kept


def test_ten_best_are_listed(lines):
    """Of thirteen evaluations; equal ones in the order of the epochs, of which the first is the best."""
    metadata: dict = {}
    values = [0.1, 0.5, 0.3, 0.5, 0.2, 0.0, 0.4, 0.15, 0.25, 0.35, 0.45, 0.05, 0.31]
    for epoch, value in enumerate(values, 1):
        row = {"validation_loss": 1.0, "top_1_accuracy": 1 - value, "top_5_accuracy": 1.0}
        report_accuracies({**row, **{f"ema_{key}": value for key in row}}, epoch, metadata)
    text = "\n".join([*lines, ""])
    best = re.findall(r"(?m)^Best .*$", text)[-2:]
    assert best == ["Best Model Accuracy: 1.0, at epoch 5", "Best EMA-Model Accuracy: 0.5, at epoch 1"]
    listed = re.findall(r"(?m)^epoch (\d+): (\S+)$", text[text.rindex("Top 10 EMA-Model Accuracies: \n") :])
    assert [int(epoch) for epoch, _ in listed] == [1, 3, 10, 6, 9, 12, 2, 8, 4, 7]
    assert [float(value) for _, value in listed] == sorted(values, reverse=True)[:10]
    assert len(metadata["accuracies"]) == 13


def test_raw_weights_alone_are_reported(lines):
    report_accuracies({"validation_loss": 1.0, "top_1_accuracy": 0.5, "top_5_accuracy": 1.0}, 1, {})
    said = "Model Accuracy: {'Validation-Loss': 1.0, 'Top1-Acc': 0.5, 'Top5-Acc': 1.0}"
    assert said in lines and "EMA" not in "".join(lines)


# ---- Files -----------------------------------------------------------------------------------------------------------


def test_files_of_a_training(trained):
    """States, averages, and further names of the newest of them."""
    folder = trained / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {
        "tinynet_e-1_5.ckpt", "tinynet_e-2_5.ckpt", "last.ckpt", "ema-0.ckpt", "ema-1.ckpt", "ema_last.ckpt", "ema_best.ckpt",
    }  # fmt: skip
    assert (folder / "last.ckpt").read_bytes() == (folder / "tinynet_e-2_5.ckpt").read_bytes()
    assert (folder / "ema_last.ckpt").read_bytes() == (folder / "ema-1.ckpt").read_bytes()
    for name, state in (("ema_last", "last"), ("ema-0", "tinynet_e-1_5")):
        average, stored = contents(folder / f"{name}.ckpt"), contents(folder / f"{state}.ckpt")
        prefix = "train_state.ema."
        assert same(average, {key[len(prefix) :]: value for key, value in stored.items() if key.startswith(prefix)})
        assert not np.array_equal(average["conv_stem.weight"], stored["conv_stem.weight"])
    about = checkpoint.load(folder / "ema_last.ckpt")[1]
    assert about["trained_epochs"] == EPOCHS and about["class_names"] == [str(digit) for digit in range(10)]
    assert about["network"]["model"] == "tinynet_e" and about["input"]["interpolation"] == "bicubic"


def test_best_file_is_that_of_the_best_average(trained):
    folder = trained / "checkpoints"
    about = checkpoint.load(folder / "ema_best.ckpt")[1]
    assert about["metrics"]["ema_top_1_accuracy"] == checkpoint.load(folder / "last.ckpt")[1]["best"]
    assert same(contents(folder / "ema_best.ckpt"), contents(folder / f"ema-{about['trained_epochs'] - 1}.ckpt"))


def save_epochs(folder: TinyNetCheckpoints, epochs, step: int = 5) -> None:
    for epoch in epochs:
        weights = {"w": ms.Tensor([float(epoch)]), "train_state.ema.w": ms.Tensor([epoch / 2])}
        about = {"network": {}, "input": {}, "class_names": None, "steps_per_epoch": 5}
        folder.save(epoch, step, weights, about)


def names_in(folder) -> set[str]:
    return {path.name for path in folder.glob("*.ckpt")}


def test_numbered_averages_stay_as_long_as_the_states(tmp_path):
    """Of twelve epochs the newest three; epoch 9 is older than epoch 10."""
    folder = TinyNetCheckpoints(tmp_path, "tinynet_c", 3, True)
    (tmp_path / "ema-notes.ckpt").touch()
    save_epochs(folder, range(1, 13))
    assert [path.name for path in folder.averages()] == ["ema-9.ckpt", "ema-10.ckpt", "ema-11.ckpt"]
    assert [path.name for path in folder.files()] == [f"tinynet_c-{epoch}_5.ckpt" for epoch in (10, 11, 12)]
    assert contents(tmp_path / "ema_last.ckpt")["w"] == 6 and (tmp_path / "ema-notes.ckpt").exists()
    folder.set_aside_after({"epoch": 11, "step": 5})
    assert [path.name for path in folder.averages()] == ["ema-9.ckpt", "ema-10.ckpt"]
    assert [path.name for path in folder.files()] == ["tinynet_c-10_5.ckpt", "tinynet_c-11_5.ckpt"]


def test_state_within_an_epoch_has_no_average_file(tmp_path):
    folder = TinyNetCheckpoints(tmp_path, "tinynet_c", 3, True)
    save_epochs(folder, [1], step=3)
    assert names_in(tmp_path) == {"tinynet_c-1_3.ckpt", "last.ckpt"}
    assert folder.best.name == "ema_best.ckpt" and TinyNetCheckpoints(tmp_path, "x", 1, False).best.name == "best.ckpt"


def test_last_file_is_a_state_to_resume_from(tmp_path):
    folder = TinyNetCheckpoints(tmp_path, "tinynet_c", 3, False)
    save_epochs(folder, [1, 2])
    parameters, metadata, _ = folder.find(str(tmp_path / "last.ckpt"))
    assert (metadata["epoch"], metadata["step"], parameters["w"].asnumpy()) == (2, 5, 2)
    assert names_in(tmp_path) == {"tinynet_c-1_5.ckpt", "tinynet_c-2_5.ckpt", "last.ckpt"}, "no average is kept"


def test_copies_where_the_file_system_has_no_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("not supported")

    monkeypatch.setattr("os.link", refuse)
    save_epochs(TinyNetCheckpoints(tmp_path, "tinynet_c", 3, True), [1, 2])
    assert contents(tmp_path / "last.ckpt")["w"] == 2 and contents(tmp_path / "ema_last.ckpt")["w"] == 1
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_new_run_moves_everything_of_an_earlier_one_aside(tmp_path):
    """As it is, also what the new run would not write itself; what is not of a run stays."""
    save_epochs(TinyNetCheckpoints(tmp_path, "tinynet_c", 3, True), [1, 2])
    (tmp_path / "ema_best.ckpt").write_bytes(b"best")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "mine.ckpt").touch()
    TinyNetCheckpoints(tmp_path, "tinynet_c", 3, False).start_fresh()
    (aside,) = tmp_path.glob("earlier_*")
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == before and len(before) == 7
    assert names_in(tmp_path) == {"mine.ckpt"}


# ---- What it learns --------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_ninety_five_percent_of_the_digits(tmp_path):
    """RMSProp, dropout, smoothing and moving average as in the recipe, from random weights; of 360 held-out digits."""
    from digits import write_image_folder

    write_image_folder(tmp_path / "digits", size=64)
    run_training(
        tmp_path / "digits", tmp_path, stage_blocks="[]", image_height=64, image_width=64, batch_size=16, epochs=5, lr=0.002,
        decay_epochs=1, decay_rate=0.8, ema_decay=0.98, flip_prob=0, color_jitter="0,0,0,0", crop_scale=0.6, eval_interval=5,
    )  # fmt: skip
    best = re.findall(r"(?m)^Best ((?:EMA-)?Model) Accuracy: (\S+), at", log_of(tmp_path))
    assert {title for title, _ in best} == {"Model", "EMA-Model"} and max(float(value) for _, value in best) >= 0.95, (
        best
    )
