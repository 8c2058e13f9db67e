"""Callbacks on real trainings with mindspore.Model: lines, curves, checkpoints, evaluation, resume, and both early ends."""

from __future__ import annotations

import _thread
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import model_utils  # noqa: F401  (sets the environment before MindSpore is imported)
from model_utils import callbacks as module
from model_utils import checkpoint
from model_utils.callbacks import Evaluate, Interrupt, Position, Progress, SaveCheckpoint
from model_utils.checkpoint import CheckpointFolder
from model_utils.config import DataError, UsageError
from model_utils.device_adapter import Device
from model_utils.logger import RunRecord, get_logger, init_logger
from model_utils.train_step import TrainStep

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
import pytest
from mindspore import nn
from mindspore.train import Callback

STEPS, BATCH = 5, 4
PREFIX = "train_net_data"

CPU = Device("CPU", 0)


@pytest.fixture(autouse=True)
def surroundings():
    """Graph mode, as in the programs; signal handlers and logger as they were."""
    mode, handlers = ms.get_context("mode"), {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=mode)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for handler in list(get_logger().handlers):
        get_logger().removeHandler(handler)
        handler.close()


class SquaredError(nn.Cell):
    def construct(self, predictions, targets):
        return ((predictions - targets) ** 2).mean()


class Act(Callback):
    """Does something at places such as "step_begin 7" (steps count over the run) or "epoch_end 2"."""

    def __init__(self, position: Position, **actions):
        self.position = position
        self.actions = {name.replace("_at_", " "): action for name, action in actions.items()}

    def _at(self, place: str, number: int) -> None:
        self.actions.get(f"{place} {number}", lambda: None)()

    def on_train_epoch_begin(self, run_context):
        self._at("epoch_begin", self.position.epoch)

    def on_train_step_begin(self, run_context):
        self._at("step_begin", self.position.total + 1)

    def on_train_step_end(self, run_context):
        self._at("step_end", self.position.total)

    def on_train_epoch_end(self, run_context):
        self._at("epoch_end", self.position.epoch)


class Run:
    """A training as the models' train.py has it: one pipeline and one call of Model.train for each epoch."""

    def __init__(self, folder: Path, epochs=2, save_interval=1, log_interval=1, fetch_interval=None, bad_step=0):
        self.path, self.epochs, self.bad_step = folder, epochs, bad_step
        self.save_interval, self.log_interval = save_interval, log_interval
        self.fetch_interval = fetch_interval or log_interval
        ms.set_seed(1)
        network = nn.Dense(4, 2).set_train()
        self.rates = np.linspace(0.1, 0.01, epochs * STEPS).astype(np.float32)
        optimizer = nn.Momentum(network.trainable_params(), ms.Tensor(self.rates), 0.9)
        self.step = TrainStep(network, SquaredError(), optimizer, loss_scale=8.0, ema_decay=0.9)
        self.folder = CheckpointFolder(folder / "0", PREFIX, 10)
        self.position, self.metadata, self.losses = Position(STEPS), {"about": "x"}, []
        init_logger(folder, "train.log")

    def dataset(self) -> ds.Dataset:
        random = np.random.default_rng(self.position.epoch)
        images = random.normal(size=(STEPS * BATCH, 4)).astype(np.float32)
        if self.position.epoch == (self.bad_step - 1) // STEPS + 1:
            images[(self.bad_step - 1) % STEPS * BATCH] = np.nan
        data = ds.NumpySlicesDataset((images, images[:, :2] * 2), shuffle=False, num_parallel_workers=1)
        data = data.batch(BATCH, num_parallel_workers=1)
        return data.skip(self.position.step) if self.position.step else data

    def resume(self) -> Run:
        parameters, metadata, path = self.folder.find("auto")
        checkpoint.restore(self.step, parameters, path)
        self.metadata.update({key: metadata[key] for key in ("best", "best_epoch") if key in metadata})
        self.position = Position(STEPS, metadata["epoch"], metadata["step"])
        if self.position.step == STEPS:
            self.position.epoch, self.position.step = self.position.epoch + 1, 0
        return self

    def train(self, evaluate=None, eval_interval: int = 1, save_best=None, **actions) -> int:
        """`evaluate` gives an accuracy; `actions` are those of Act."""
        at, record = self.position, RunRecord(self.path, self.path / "summary", self.position.total)
        model = ms.Model(self.step)
        with Interrupt(CPU, at) as interrupt:
            progress = Progress(at, self.epochs, self.rates, BATCH, self.log_interval, record, self.fetch_interval)
            callbacks = [progress, Act(at, **actions), interrupt]
            if evaluate is not None:
                metrics = lambda: {"accuracy": evaluate(), "other": 0.5}  # noqa: E731
                callbacks.append(
                    Evaluate(at, metrics, save_best, "accuracy", self.metadata, self.epochs, eval_interval, record)
                )
            callbacks.append(SaveCheckpoint(at, self.folder, self.step, self.metadata, self.epochs, self.save_interval))
            try:
                while at.epoch <= self.epochs and not interrupt.status:
                    first = at.epoch
                    model.train(first, self.dataset(), callbacks, dataset_sink_mode=False, initial_epoch=first - 1)
                    if at.step == STEPS:
                        at.epoch, at.step = first + 1, 0
            finally:
                record.close()
        return interrupt.status

    @property
    def log(self) -> str:
        return (self.path / "train.log").read_text()

    @property
    def saved(self) -> list[str]:
        return [path.stem[len(PREFIX) + 1 :] for path in self.folder.files()]

    def curve(self, name: str = "loss") -> dict[int, float]:
        rows = [line.split(",") for line in (self.path / "curves.csv").read_text().splitlines()[1:]]
        steps = [int(step) for step, row_name, _ in rows if row_name == name]
        assert len(steps) == len(set(steps)), "a step stands twice in the record"
        return {int(step): float(value) for step, row_name, value in rows if row_name == name}

    def state(self) -> dict[str, bytes]:
        return {name: parameter.asnumpy().tobytes() for name, parameter in self.step.training_state().items()}


def interrupt_now(number: int = signal.SIGINT):
    """What a signal does in a program; there `config.run` keeps SIGINT from MindSpore's handler in the same way."""
    return _thread.interrupt_main if number == signal.SIGINT else lambda: os.kill(os.getpid(), number)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Three epochs without an interruption; losses by step, and the last state."""
    ms.set_context(mode=ms.GRAPH_MODE)
    run = Run(tmp_path_factory.mktemp("straight"), epochs=3)
    assert run.train() == 0
    return SimpleNamespace(losses=run.curve(), state=run.state())


# ---- lines and curves


def test_documented_lines(tmp_path):
    run = Run(tmp_path)
    assert run.train() == 0
    losses = run.curve()
    number, time = r"\d+\.\d{3}", r"\d+:\d\d:\d\d"
    wanted = []
    for epoch in (1, 2):
        loss = re.escape(f"{losses[epoch * STEPS]:.7g}")
        wanted += [
            rf"epoch {epoch}/2 step 5/5 loss \d+\.\d{{4}} lr \S+ \d+\.\d images/s waiting for data \d+% left {time}",
            f"epoch: {epoch} step: 5, loss is {loss}",
            f"result: epoch: {epoch} step: 5, loss is {loss}",
            f"Epoch time: {number}, per step time: {number}",
            rf"checkpoint: \S+{PREFIX}-{epoch}_5\.ckpt",
        ]
    lines = run.log.splitlines()
    assert len(lines) == len(wanted)
    for line, pattern in zip(lines, wanted):
        assert re.fullmatch(pattern, line), (line, pattern)
    assert lines[5].endswith("left 0:00:00")


def test_curves(tmp_path):
    run = Run(tmp_path)
    run.train()
    assert list(run.curve()) == list(range(1, 11))
    assert list(run.curve("learning_rate").values()) == pytest.approx(run.rates.tolist())
    assert min(run.curve("images_per_second").values()) > 0
    assert (tmp_path / "curves.png").is_file() and any((tmp_path / "summary").iterdir())


def test_loss_is_that_of_the_step(straight):
    """Against float64 arithmetic of the same run."""
    ms.set_seed(1)
    network = nn.Dense(4, 2)
    weight, bias = (p.asnumpy().astype(np.float64) for p in (network.weight, network.bias))
    moments, rates, step = [0.0, 0.0], np.linspace(0.1, 0.01, 3 * STEPS), 0
    for epoch in (1, 2, 3):
        images = np.random.default_rng(epoch).normal(size=(STEPS * BATCH, 4)).astype(np.float32)
        for x in images.reshape(STEPS, BATCH, 4):
            error = x @ weight.T + bias - 2 * x[:, :2]
            assert straight.losses[step + 1] == pytest.approx((error**2).mean(), rel=1e-4), step
            gradients = 2 * error.T @ x / error.size, 2 * error.sum(0) / error.size
            moments = [0.9 * moment + gradient for moment, gradient in zip(moments, gradients)]
            weight, bias = weight - rates[step] * moments[0], bias - rates[step] * moments[1]
            step += 1


def test_log_interval(tmp_path):
    """Every third step of an epoch, and its last one."""
    run = Run(tmp_path, log_interval=3)
    run.train()
    assert list(run.curve()) == [3, 5, 8, 10]
    assert run.log.count("result: epoch") == 2


def test_progress_on_a_terminal(tmp_path, capsys, monkeypatch):
    """One line with a bar that is written over and fits the terminal, and whole lines at the end of an epoch."""
    monkeypatch.setenv("COLUMNS", "70")
    run = Run(tmp_path)
    progress = Progress(run.position, 2, run.rates, BATCH, 1, None)
    progress.is_terminal = True
    ms.Model(run.step).train(1, run.dataset(), [progress], dataset_sink_mode=False)
    text = capsys.readouterr().out
    lines = re.findall(r"\r\x1b\[K([^\r\n]*)", text)
    assert [line[:32] for line in lines] == [f"[{'#' * n}{'.' * (20 - n)}] epoch 1/2" for n in (4, 8, 12, 16, 20)]
    assert max(map(len, lines)) == 69
    assert re.search(r"step 5/5 [^\n]*\nepoch: 1 step: 5, loss is \S+\nresult: epoch: 1 ", text)
    assert "epoch 1/2 step" not in run.log


def test_progress_between_epochs_where_the_console_is_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", -1.0)
    run = Run(tmp_path, epochs=1)
    run.train()
    assert run.log.count("epoch 1/1 step") == STEPS


def test_data_sink_mode():
    """The callbacks fire once an epoch, with the last step's outputs."""
    position, rates = Position(STEPS, 3, 0), np.full(20, 0.5, np.float32)
    recorded = []
    record = SimpleNamespace(add=lambda step, **values: recorded.append((step, values["loss"])))
    progress = Progress(position, 4, rates, BATCH, 100, record)
    for epoch in (3, 4):
        outputs = (ms.Tensor(epoch, ms.float32), ms.Tensor(1.0))
        params = SimpleNamespace(cur_epoch_num=epoch, dataset_sink_mode=True, net_outputs=outputs)
        context = SimpleNamespace(original_args=lambda params=params: params)
        for event in ("epoch_begin", "step_begin", "step_end", "epoch_end"):
            getattr(progress, f"on_train_{event}")(context)
        assert (position.epoch, position.step, position.total) == (epoch, STEPS, epoch * STEPS)
    assert recorded == [(15, 3.0), (20, 4.0)]


@pytest.mark.parametrize("seconds, text", [(0, "0:00:00"), (59.9, "0:00:59"), (3600, "1:00:00"), (360061, "100:01:01")])
def test_duration(seconds, text):
    assert module._duration(seconds) == text


def test_position():
    position = Position(7, 3, 2)
    assert (position.total, Position(7).total) == (16, 0)


# ---- checkpoints and resume


@pytest.mark.parametrize("interval, saved", [(1, ["1_5", "2_5", "3_5"]), (2, ["2_5", "3_5"]), (5, ["3_5"])])
def test_checkpoints_every_few_epochs_and_at_the_end(tmp_path, interval, saved):
    run = Run(tmp_path, epochs=3, save_interval=interval)
    run.train()
    assert run.saved == saved
    parameters, metadata = checkpoint.load(run.folder.files()[-1])
    assert metadata == {"about": "x", "epoch": 3, "step": 5}
    assert {name: p.asnumpy().tobytes() for name, p in parameters.items()} == run.state()


@pytest.mark.parametrize("stop", [3, 5, 7, 10, 15])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_and_resume_equal_an_uninterrupted_run(tmp_path, straight, stop, number):
    first = Run(tmp_path, epochs=3, save_interval=10)
    assert first.train(**{f"step_begin_at_{stop}": interrupt_now(number)}) == 128 + number
    epoch, step = (stop - 1) // STEPS + 1, (stop - 1) % STEPS + 1
    assert first.saved == [f"{epoch}_{step}"]
    assert list(first.curve()) == list(range(1, stop + 1))
    assert first.log.count(f"stopping on signal {int(number)}") == 1
    second = Run(tmp_path, epochs=3).resume()
    assert second.position.total == stop
    assert second.train() == 0
    assert second.curve() == straight.losses and second.state() == straight.state


def test_epoch_line_counts_whole_epochs_only(tmp_path):
    run = Run(tmp_path)
    run.train(step_begin_at_3=interrupt_now())
    assert "Epoch time" not in run.log and "result:" not in run.log
    Run(tmp_path).resume().train()
    assert run.log.count("Epoch time") == 2


@pytest.mark.parametrize("place", ["epoch_begin_at_2", "epoch_end_at_1", "step_end_at_5"])
def test_interrupt_between_steps_loses_nothing(tmp_path, straight, place):
    """Whenever the signal comes, the run ends with a checkpoint of where it stands."""
    run = Run(tmp_path, epochs=3, save_interval=10)
    assert run.train(**{place: interrupt_now()}) == 130
    assert run.saved == (["1_5"] if place == "step_end_at_5" else ["2_1"])
    Run(tmp_path, epochs=3).resume().train()
    assert run.curve() == straight.losses


def test_interrupt_in_the_evaluation_loses_nothing(tmp_path):
    run = Run(tmp_path, epochs=3, save_interval=10)
    signals = iter([interrupt_now(), lambda: None])

    def evaluate() -> float:
        next(signals)()
        return 0.5

    assert run.train(evaluate) == 130
    assert run.saved == ["2_1"]


def test_second_signal_ends_at_once(tmp_path, monkeypatch):
    class Ended(BaseException):
        pass

    def end(status):
        raise Ended(status)

    monkeypatch.setattr(os, "_exit", end)
    run = Run(tmp_path)
    with pytest.raises(Ended) as ended:
        run.train(step_begin_at_2=lambda: [interrupt_now()(), interrupt_now(signal.SIGTERM)()])
    assert ended.value.args == (143,) and run.saved == []


def test_real_ctrl_c(tmp_path):
    """In a program of its own, at any moment of a step."""
    folders = [str(Path(__file__).parent), str(Path(model_utils.__file__).parents[1])]
    code = (
        f"import sys; sys.path[:0] = {folders}; from test_callbacks import *; from model_utils import config;"
        f"ms.set_context(mode=ms.GRAPH_MODE); config.run(lambda: Run(Path({str(tmp_path)!r}), epochs=10000).train())"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    curves = tmp_path / "curves.csv"
    end = time.monotonic() + 60
    while time.monotonic() < end and not (curves.exists() and curves.read_text().count("loss") > 3):
        time.sleep(0.05)
    program.send_signal(signal.SIGINT)
    output, _ = program.communicate(timeout=60)
    assert program.returncode == 130, output
    run = Run(tmp_path)
    assert "Traceback" not in output and "stopping on signal 2" in output
    epoch, step = (int(number) for number in run.saved[-1].split("_"))
    assert max(run.curve()) == (epoch - 1) * STEPS + step


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interrupt(CPU, Position(1)) as interrupt:
        assert signal.getsignal(signal.SIGINT) == interrupt._on_signal == signal.getsignal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    with pytest.raises(KeyError), Interrupt(CPU, Position(1)):
        raise KeyError
    assert signal.getsignal(signal.SIGINT) == before[0] and interrupt.status == 0


def test_handler_that_is_not_pythons(monkeypatch):
    """signal.signal gives None for a handler that a library has set, and does not take None."""
    install = signal.signal
    with Interrupt(CPU, Position(1)) as interrupt:
        interrupt._before[signal.SIGTERM] = None
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL and signal.signal is install


def test_interrupt_outside_the_main_thread():
    failures = []

    def work():
        try:
            with Interrupt(CPU, Position(1)) as interrupt:
                assert interrupt.status == 0
        except BaseException as error:  # a thread's exceptions are lost otherwise
            failures.append(error)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == [] and signal.getsignal(signal.SIGINT) == before


# ---- a loss that is not finite


def test_non_finite_loss_stops_the_run(tmp_path):
    run = Run(tmp_path, epochs=3, bad_step=8)
    with pytest.raises(DataError) as caught:
        run.train()
    for part in ("nan", "epoch 2 step 3", "step 8 of the run", f"learning rate {run.rates[7]:g}", "loss scale 8"):
        assert part in str(caught.value), part
    assert run.saved == ["1_5"] and list(run.curve()) == list(range(1, 8))
    assert (tmp_path / "curves.png").is_file()


def test_non_finite_loss_between_two_looks(tmp_path):
    """It is seen at the next look or at the end of the epoch, in any case before a checkpoint is written."""
    run = Run(tmp_path, epochs=2, log_interval=100, bad_step=8)
    with pytest.raises(DataError, match="epoch 2 step 5"):
        run.train()
    assert run.saved == ["1_5"]


def test_loss_is_looked_at_more_often_than_recorded(tmp_path):
    run = Run(tmp_path, epochs=2, log_interval=3, fetch_interval=1, bad_step=9)
    with pytest.raises(DataError, match="epoch 2 step 4"):
        run.train()
    assert list(run.curve()) == [3, 5, 8]


def test_interrupt_after_a_non_finite_loss_saves_nothing(tmp_path):
    run = Run(tmp_path, epochs=2, log_interval=100, bad_step=7)
    with pytest.raises(DataError, match="epoch 2 step 4"):
        run.train(step_begin_at_9=interrupt_now())
    assert run.saved == ["1_5"]


# ---- evaluation


def test_best_is_kept(tmp_path):
    run, kept = Run(tmp_path, epochs=5), []
    values = iter([0.2, 0.6, 0.4, 0.6, 0.7])
    run.train(lambda: next(values), save_best=lambda metrics: kept.append((run.position.epoch, metrics["accuracy"])))
    assert kept == [(1, 0.2), (2, 0.6), (5, 0.7)]
    assert (run.metadata["best"], run.metadata["best_epoch"]) == (0.7, 5)
    assert run.curve("accuracy") == {5: 0.2, 10: 0.6, 15: 0.4, 20: 0.6, 25: 0.7}
    line = "validation after epoch 4: accuracy 0.6000, other 0.5000; best accuracy 0.6000 after epoch 2"
    assert line in run.log.splitlines()


def test_best_survives_a_resume(tmp_path):
    run, kept = Run(tmp_path, epochs=4), []
    values = iter([0.2, 0.6])
    run.train(lambda: next(values), step_begin_at_12=interrupt_now())
    again, values = Run(tmp_path, epochs=4).resume(), iter([0.5, 0.55])
    again.train(lambda: next(values), save_best=kept.append)
    assert kept == [] and (again.metadata["best"], again.metadata["best_epoch"]) == (0.6, 2)
    assert checkpoint.load(again.folder.files()[-1])[1]["best"] == 0.6


def test_evaluation_interval(tmp_path):
    run, calls = Run(tmp_path, epochs=5), []
    run.train(lambda: calls.append(run.position.epoch) or 0.0, eval_interval=2)
    assert calls == [2, 4, 5] and run.metadata["best"] == 0.0


def test_no_evaluation_of_a_part_of_an_epoch(tmp_path):
    run, calls = Run(tmp_path), []
    run.train(lambda: calls.append(1) or 0.0, step_begin_at_3=interrupt_now())
    assert calls == [] and "best" not in run.metadata


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda at: Progress(at, 1, [0.1], 1, 0, None), "log_interval=0"),
        (lambda at: SaveCheckpoint(at, None, None, {}, 1, 0), "save_checkpoint_epochs=0"),
        (lambda at: SaveCheckpoint(at, None, None, {}, 1, -1), "save_checkpoint_epochs=-1"),
        (lambda at: SaveCheckpoint(at, None, None, {}, 1, 1, 0), "save_checkpoint_steps=0"),
        (lambda at: Evaluate(at, None, None, "x", {}, 1, -2, None), "eval_interval=-2"),
    ],
)
def test_intervals_that_cannot_be(make, text):
    with pytest.raises(UsageError, match=text):
        make(Position(STEPS))


def test_checkpoints_after_steps(tmp_path):
    """Steps of the run count, whatever the epoch; the last one is always saved."""
    at, folder = Position(STEPS), CheckpointFolder(tmp_path, "net", 9, counts_all_steps=True)
    state = SimpleNamespace(training_state=lambda: {"x": np.zeros(1, np.float32)})
    callback = SaveCheckpoint(at, folder, state, {"steps_per_epoch": STEPS}, 3, 1, step_interval=4)
    context = SimpleNamespace(get_stop_requested=lambda: False)
    for at.epoch in (1, 2, 3):
        for at.step in range(1, STEPS + 1):
            callback.on_train_step_end(context)
        callback.on_train_epoch_end(context)
    assert [path.name for path in folder.files()] == [f"net-{place}.ckpt" for place in ("1_4", "2_8", "3_12", "3_15")]
    metadata = checkpoint.load(folder.files()[1])[1]
    assert (metadata["epoch"], metadata["step"]) == (2, 3), "the state counts from the start of the epoch"
    folder.set_aside_after(metadata)
    assert [path.stem for path in folder.files()] == ["net-1_4", "net-2_8"]


def test_fields_of_the_step_line(tmp_path):
    """Speed and duration are those since the last line, iteration counts from 0 over the run."""
    lines, at = [], Position(STEPS, 2, 0)
    line = "{before}|{iteration}|{loss:.1f}|{learning_rate:.2f}|{speed:.0f}|{milliseconds:.0f}|{time}"
    progress = Progress(at, 3, [0.5] * 3 * STEPS, 8, 2, None, step_line=line)
    get_logger().addHandler(_Lines(lines))
    loss = [SimpleNamespace(asnumpy=lambda value=value: value) for value in (np.float32(1.5), np.float32(1))]
    parameters = SimpleNamespace(cur_epoch_num=2, dataset_sink_mode=False, net_outputs=loss)
    context = SimpleNamespace(original_args=lambda: parameters)
    progress.on_train_epoch_begin(context)
    for _ in range(2):
        progress.on_train_step_begin(context)
        time.sleep(0.1)
        progress.on_train_step_end(context)
    fields = next(text for text in lines if "|" in text).split("|")
    assert fields[:4] == ["1", "6", "1.5", "0.50"]
    assert 40 < int(fields[4]) <= 80 and 100 <= int(fields[5]) < 200
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", fields[6])


class _Lines(logging.Handler):
    """Keeps the messages of the logger."""

    def __init__(self, lines: list):
        super().__init__()
        self.lines = lines

    def emit(self, record):
        self.lines.append(record.getMessage())
