# Shared file: source utils/model_utils/progress.py; copy with: python scripts/sync_model_utils.py --write
"""Where a training run is, and what a person sees of it: the progress line, the documented lines, points of the curves."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

from mindspore.train import Callback, RunContext

from .errors import DataError, require_range
from .logger import get_logger
from .record import RunRecord

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
        require_range(low=1, log_interval=log_interval)
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


def _time_stamp() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
