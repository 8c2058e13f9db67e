"""A small training with all callbacks of the runtime, for their tests.

The step is compiled once for all runs of a process. Its weights and moments are set anew for each of them.
"""

from __future__ import annotations

import _thread
import functools
import os
import signal
from pathlib import Path

from model_utils import checkpoint
from model_utils.callbacks import Evaluate, Interrupt, SaveCheckpoint
from model_utils.checkpoint import CheckpointFolder
from model_utils.device_adapter import Device
from model_utils.logger import init_logger
from model_utils.progress import Position, Progress
from model_utils.record import RunRecord
from model_utils.train_step import TrainStep

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
from mindspore import nn
from mindspore.train import Callback

STEPS, BATCH = 5, 4
RATES = np.linspace(0.1, 0.01, 5 * STEPS).astype(np.float32)  # of each step
MOMENTUM, LOSS_SCALE = 0.9, 8.0
PREFIX = "train_net_data"
CPU = Device("CPU", 0)


class SquaredError(nn.Cell):
    def construct(self, predictions, targets):
        return ((predictions - targets) ** 2).mean()


@functools.cache
def compiled_step() -> tuple[TrainStep, dict[str, np.ndarray]]:
    """The step of all runs, and its state at the start of each."""
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(1)
    network = nn.Dense(4, 2).set_train()
    optimizer = nn.Momentum(network.trainable_params(), ms.Tensor(RATES), MOMENTUM)
    step = TrainStep(network, SquaredError(), optimizer, loss_scale=LOSS_SCALE, ema_decay=0.9)
    return step, {name: parameter.asnumpy().copy() for name, parameter in step.training_state().items()}


def epoch_images(epoch: int) -> np.ndarray:
    """The images of an epoch (from 1), (STEPS * BATCH, 4) float32; the targets are twice their first two values."""
    return np.random.default_rng(epoch).normal(size=(STEPS * BATCH, 4)).astype(np.float32)


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
    """A training as the models' programs have it: one pipeline and one call of Model.train for each epoch."""

    def __init__(self, folder: Path, epochs=2, save_interval=1, log_interval=1, fetch_interval=None, bad_step=0):
        self.path, self.epochs, self.bad_step = folder, epochs, bad_step
        self.save_interval, self.log_interval = save_interval, log_interval
        self.fetch_interval = fetch_interval or log_interval
        self.step, start = compiled_step()
        for name, parameter in self.step.training_state().items():
            parameter.set_data(ms.Tensor(start[name]))
        self.folder = CheckpointFolder(folder / "0", PREFIX, 10)
        self.position, self.metadata = Position(STEPS), {"about": "x"}
        init_logger(folder, "train.log")

    def dataset(self) -> ds.Dataset:
        images = epoch_images(self.position.epoch)
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

    def train(self, evaluate=None, eval_interval: int = 1, save_best=None, epoch_line: str = "", **actions) -> int:
        """`evaluate` gives an accuracy; `actions` are those of Act."""
        at, record = self.position, RunRecord(self.path, self.path / "summary", self.position.total)
        model = ms.Model(self.step)
        with Interrupt(CPU, at) as interrupt:
            progress = Progress(
                at, self.epochs, RATES, BATCH, self.log_interval, record, self.fetch_interval, epoch_line=epoch_line
            )
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
    """What a signal does in a program; there `program.run` keeps SIGINT from MindSpore's handler in the same way."""
    return _thread.interrupt_main if number == signal.SIGINT else lambda: os.kill(os.getpid(), number)
