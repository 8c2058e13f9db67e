# Shared file: source utils/model_utils/callbacks.py; copy with: python scripts/sync_model_utils.py --write
"""What happens around the training steps: progress, curves, checkpoints, evaluation, and the two ways to stop early."""

from __future__ import annotations

import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from mindspore.train import Callback, RunContext

from .checkpoint import CheckpointFolder
from .config import DataError, UsageError
from .device_adapter import Device
from .logger import RunRecord, get_logger

BAR_WIDTH = 20  # characters of an epoch's progress bar
SECONDS_BETWEEN_LINES = 30.0  # of the progress, where the console is no terminal


class Position:
    """Where the run is. Steps of an epoch and epochs count from 1; `total` counts optimizer steps of the whole run.

    The framework counts from the start of each call of `Model.train`; this object counts from the start of the run,
    over resumes, and is right in data-sink mode as well, where the callbacks fire once an epoch.
    """

    def __init__(self, steps_per_epoch: int, epoch: int = 1, step: int = 0):
        self.steps_per_epoch, self.epoch, self.step = steps_per_epoch, epoch, step

    @property
    def total(self) -> int:
        return (self.epoch - 1) * self.steps_per_epoch + self.step


class Progress(Callback):
    """Counts steps, prints the progress line and the documented loss lines, stops on a non-finite loss.

    Args:
        position: shared with the other callbacks; this one, the first in the list, moves it.
        epochs: epochs of the whole run.
        learning_rates: one for each step of the whole run.
        images_per_step: over all ranks.
        log_interval: steps between two points of the curves.
        record: curves, or None on ranks that write none.
        fetch_interval: steps between two fetches of the loss from the device, which wait for it.
        epoch_line: a further line at the end of each epoch, with the fields of `str.format` time, epoch, step (of the
            run), loss, speed (images per second) and milliseconds (of a step); empty: none.
        step_line: a further line at each point of the curves, with the fields time, epoch and step (of the epoch) counted
            from 1, epochs, steps (of an epoch), before (epochs that are complete), iteration (steps of the run before
            this one), loss, learning_rate, speed and milliseconds (since the last point); empty: none.
    """

    def __init__(
        self,
        position: Position,
        epochs: int,
        learning_rates: Sequence[float],
        images_per_step: int,
        log_interval: int,
        record: RunRecord | None,
        fetch_interval: int = 1,
        epoch_line: str = "",
        step_line: str = "",
    ):
        _require_positive(log_interval=log_interval)
        self.position, self.epochs, self.learning_rates = position, epochs, learning_rates
        self.images_per_step, self.log_interval, self.record = images_per_step, log_interval, record
        self.fetch_interval, self.epoch_line, self.step_line = fetch_interval, epoch_line, step_line
        self.is_terminal = sys.stdout.isatty()
        self._start = self._step_end = time.monotonic()
        self._first_total = position.total
        self._epoch_start_step = 0
        self._waiting = 0.0
        self._shown = False
        self._last_line = self._start
        self._last_point = (self._start, position.total)

    def on_train_epoch_begin(self, run_context: RunContext) -> None:
        params = run_context.original_args()
        if params.cur_epoch_num != self.position.epoch:
            self.position.epoch, self.position.step = params.cur_epoch_num, 0
        self._epoch_start_step = self.position.step
        self._epoch_start = self._step_end = time.monotonic()
        self._last_point = (self._epoch_start, self.position.total)
        self._waiting = 0.0

    def on_train_step_begin(self, run_context: RunContext) -> None:
        self._waiting += time.monotonic() - self._step_end

    def on_train_step_end(self, run_context: RunContext) -> None:
        params = run_context.original_args()
        at = self.position
        at.step = at.steps_per_epoch if params.dataset_sink_mode else at.step + 1
        self._step_end = time.monotonic()
        if at.step % self.fetch_interval == 0 or at.step == at.steps_per_epoch:
            self._report(self._finite_loss(params))
        self._step_end = time.monotonic()

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        if self.position.step < self.position.steps_per_epoch:  # interrupted: a checkpoint follows
            self._finite_loss(run_context.original_args())
            return
        milliseconds = 1000.0 * (time.monotonic() - self._epoch_start)
        steps = self.position.step - self._epoch_start_step
        get_logger().info("Epoch time: %.3f, per step time: %.3f", milliseconds, milliseconds / max(steps, 1))

    def _finite_loss(self, params: Any) -> float:
        loss, scale = (float(output.asnumpy()) for output in params.net_outputs)
        if math.isfinite(loss):
            return loss
        at, rate = self.position, self._learning_rate()
        self._clear_line()
        raise DataError(
            f"the loss is {loss} at epoch {at.epoch} step {at.step} (step {at.total} of the run), learning rate {rate:g}, "
            f"loss scale {scale:g}; no checkpoint was written of it: lower lr_init, add warmup_epochs, or look at the data"
        )

    def _learning_rate(self) -> float:
        return float(self.learning_rates[min(self.position.total, len(self.learning_rates)) - 1])

    def _report(self, loss: float) -> None:
        at = self.position
        elapsed = max(time.monotonic() - self._epoch_start, 1e-9)
        speed = (at.step - self._epoch_start_step) * self.images_per_step / elapsed
        rate = self._learning_rate()
        total = self.epochs * at.steps_per_epoch
        run_time = time.monotonic() - self._start
        left = run_time / max(at.total - self._first_total, 1) * (total - at.total)
        line = (
            f"epoch {at.epoch}/{self.epochs} step {at.step}/{at.steps_per_epoch} loss {loss:.4f} lr {rate:.3g} "
            f"{speed:.1f} images/s waiting for data {100 * self._waiting / elapsed:.0f}% left {_duration(left)}"
        )
        is_epoch_end = at.step == at.steps_per_epoch
        if self.is_terminal:
            done = BAR_WIDTH * at.step // at.steps_per_epoch
            bar = f"[{'#' * done}{'.' * (BAR_WIDTH - done)}] {line}"
            sys.stdout.write("\r\x1b[K" + bar[: shutil.get_terminal_size().columns - 1])
            sys.stdout.flush()
            self._shown = True
        elif is_epoch_end or time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            get_logger().info(line)
            self._last_line = time.monotonic()
        if is_epoch_end:
            self._clear_line()
            get_logger().info("epoch: %d step: %d, loss is %.7g", at.epoch, at.step, loss)
            get_logger().info("result: epoch: %d step: %d, loss is %.7g", at.epoch, at.step, loss)
            if self.epoch_line:
                steps = at.step - self._epoch_start_step
                fields = {"time": _time_stamp(), "epoch": at.epoch, "step": at.total, "loss": loss}
                get_logger().info(
                    self.epoch_line.format(**fields, speed=speed, milliseconds=1000 * elapsed / steps)
                )  # fmt: skip
        if is_epoch_end or at.step % self.log_interval == 0:
            self._add_point(loss, rate, speed)

    def _add_point(self, loss: float, rate: float, speed: float) -> None:
        """To the curves and to the log."""
        at = self.position
        if self.record is not None:
            self.record.add(at.total, loss=loss, learning_rate=rate, images_per_second=speed)
        (before, total), self._last_point = self._last_point, (time.monotonic(), at.total)
        if self.step_line:
            self._clear_line()
            seconds = max((time.monotonic() - before) / max(at.total - total, 1), 1e-9)
            get_logger().info(
                self.step_line.format(
                    time=_time_stamp(), epoch=at.epoch, before=at.epoch - 1, epochs=self.epochs, step=at.step,
                    steps=at.steps_per_epoch, iteration=at.total - 1, loss=loss, learning_rate=rate,
                    speed=self.images_per_step / seconds, milliseconds=1000 * seconds,
                )
            )  # fmt: skip

    def _clear_line(self) -> None:
        if self._shown:
            sys.stdout.write("\n")
            self._shown = False


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
        _require_positive(save_checkpoint_epochs=interval)
        if step_interval is not None:
            _require_positive(save_checkpoint_steps=step_interval)
        self.position, self.folder, self.train_step = position, folder, train_step
        self.metadata, self.epochs, self.interval, self.step_interval = metadata, epochs, interval, step_interval

    def on_train_step_end(self, run_context: RunContext) -> None:
        at = self.position
        if self.step_interval and at.total % self.step_interval == 0 and at.step < at.steps_per_epoch:
            self._save()

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        at = self.position
        due = at.total % self.step_interval == 0 if self.step_interval else at.epoch % self.interval == 0
        if due or at.step < at.steps_per_epoch or at.epoch == self.epochs or run_context.get_stop_requested():
            self._save()

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
    ):
        _require_positive(eval_interval=interval)
        self.position, self.evaluate, self.save_best, self.metric = position, evaluate, save_best, metric
        self.metadata, self.epochs, self.interval, self.record = metadata, epochs, interval, record
        self.report = report

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        at = self.position
        if at.step < at.steps_per_epoch or (at.epoch % self.interval and at.epoch != self.epochs):
            return
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


def _require_positive(**settings: int) -> None:
    for key, value in settings.items():
        if value < 1:
            raise UsageError(f"{key}={value}: 1 or more is accepted")


def _time_stamp() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
