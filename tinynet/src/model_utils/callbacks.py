# Shared file: source utils/model_utils/callbacks.py; copy with: python scripts/sync_model_utils.py --write
"""What happens around the training steps: checkpoints, evaluation, and the orderly stop on a signal."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Mapping
from typing import Any, Callable

from mindspore.train import Callback, RunContext

from .checkpoint import CheckpointFolder
from .device_adapter import Device
from .errors import require_range
from .logger import get_logger
from .progress import Position
from .record import RunRecord


class SaveCheckpoint(Callback):
    """Saves the training state every `interval` epochs and at the end, and wherever the run is interrupted.

    With `step_interval` the steps of the run count instead of the epochs.
    """

    def __init__(
        self,
        position: Position,
        folder: CheckpointFolder,
        train_step: Any,
        metadata: Mapping[str, Any],
        epochs: int,
        interval: int,
        step_interval: int | None = None,
    ):
        require_range(low=1, save_checkpoint_epochs=interval)
        if step_interval is not None:
            require_range(low=1, save_checkpoint_steps=step_interval)
        self.position, self.folder, self.train_step = position, folder, train_step
        self.metadata, self.epochs, self.interval, self.step_interval = metadata, epochs, interval, step_interval

    def on_train_step_end(self, run_context: RunContext) -> None:
        at = self.position
        if self.step_interval and at.total % self.step_interval == 0 and at.step < at.steps_per_epoch:
            self._save()

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        at = self.position
        if self._is_due() or at.step < at.steps_per_epoch or run_context.get_stop_requested():
            self._save()

    def save_early(self) -> None:
        """At the end of an epoch whose state will be saved, save it already before the evaluation."""
        if self._is_due():
            at = self.position
            self.folder.save(at.epoch, at.step, self.train_step.training_state(), self.metadata)

    def _is_due(self) -> bool:
        at = self.position
        due = at.total % self.step_interval == 0 if self.step_interval else at.epoch % self.interval == 0
        return due or at.epoch == self.epochs

    def _save(self) -> None:
        at = self.position
        path = self.folder.save(at.epoch, at.step, self.train_step.training_state(), self.metadata)
        get_logger().info("checkpoint: %s", path)


class Evaluate(Callback):
    """Evaluates every `interval` epochs and keeps the weights of the best value apart.

    Args:
        position: where the run is.
        evaluate: returns {metric: value}; it is called on all ranks.
        save_best: called with the metrics when `metric` is higher than ever before, or None on ranks that write none.
        report: called after each evaluation with the metrics, the epoch and the metadata, of which it may keep its own
            part under `accuracies`; or None.
        before_first: called once, before the first evaluation of this process, which may fail; or None.
        metric: the metric that decides.
        metadata: of the training state; `best` and `best_epoch` in it survive a resume.
        interval: epochs between two evaluations; the last epoch is always evaluated.
    """

    def __init__(
        self,
        position: Position,
        evaluate: Callable[[], Mapping[str, float]],
        save_best: Callable[[Mapping[str, float]], None] | None,
        metric: str,
        metadata: dict[str, Any],
        epochs: int,
        interval: int,
        record: RunRecord | None,
        report: Callable[[Mapping[str, float], int, dict[str, Any]], None] | None = None,
        before_first: Callable[[], None] | None = None,
    ):
        require_range(low=1, eval_interval=interval)
        self.position, self.evaluate, self.save_best, self.metric = position, evaluate, save_best, metric
        self.metadata, self.epochs, self.interval, self.record = metadata, epochs, interval, record
        self.report, self.before_first = report, before_first

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        at = self.position
        if at.step < at.steps_per_epoch or (at.epoch % self.interval and at.epoch != self.epochs):
            return
        if self.before_first is not None:
            self.before_first()
            self.before_first = None
        metrics = self.evaluate()
        if self.record is not None:
            self.record.add(at.total, **metrics)
        value = metrics[self.metric]
        if value > self.metadata.get("best", -math.inf):
            self.metadata.update(best=value, best_epoch=at.epoch)
            if self.save_best is not None:
                self.save_best(metrics)
        get_logger().info(
            "validation after epoch %d: %s; best %s %.4f after epoch %d",
            at.epoch, ", ".join(f"{name} {number:.4f}" for name, number in metrics.items()),
            self.metric, self.metadata["best"], self.metadata["best_epoch"],
        )  # fmt: skip
        if self.report is not None:
            self.report(metrics, at.epoch, self.metadata)


class Interrupt(Callback):
    """Turns Ctrl-C and SIGTERM into an orderly stop: the step in flight ends, the run stops, `status` is 130 or 143.

    A signal between two steps stops the run after the next one, whose end saves the state. A second signal ends the
    process at once. Use it as a context manager around the training.

    Args:
        device: with several ranks all of them stop at the same step, whichever had the signal.
        position: where the run is.
        interval: steps between two exchanges of the ranks about that.
    """

    def __init__(self, device: Device, position: Position, interval: int = 1):
        self.device, self.position, self.interval = device, position, interval
        self.status = 0  # until the run stops
        self._signal_number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._on_signal)
            except ValueError:  # not in the main thread: the caller owns the signals
                return self
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None stands for a handler that is not Python's

    def _on_signal(self, number: int, _frame: Any) -> None:
        if self._signal_number:
            os._exit(128 + number)
        self._signal_number = number

    def on_train_step_end(self, run_context: RunContext) -> None:
        number = self._signal_number
        if self.device.size > 1:
            if self.position.step % self.interval and self.position.step != self.position.steps_per_epoch:
                return
            if self.device.sum([float(number)])[0]:
                number = number or int(signal.SIGTERM)
        if number:
            get_logger().info("stopping on signal %d after this step", number)
            self.status = 128 + number
            run_context.request_stop()
