# Shared file: source utils/model_utils/training.py; copy with: python scripts/sync_model_utils.py --write
"""A training run: the check of its data, and the loop over its epochs with checkpoints, evaluation and resumption."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mindspore as ms
import numpy as np
from mindspore import nn
from mindspore.train import Callback

from . import checkpoint, moxing_adapter
from .callbacks import Evaluate, Interrupt, SaveCheckpoint
from .class_order import head_rows, reorder_heads, some
from .config import Config
from .dataset_checks import data_errors, require_steps
from .device_adapter import Device
from .errors import DataError, require_range
from .folder_lock import only_run, require_writable
from .logger import get_logger
from .model import Model
from .near_names import near_name
from .progress import Position, Progress
from .record import RunRecord
from .train_step import TrainStep, assign_all

HISTORY_KEYS = ("best", "best_epoch", "accuracies")  # of the metadata, which a resumed run goes on with


class Data(NamedTuple):
    """The training data: names in the order of the class indices, steps of an epoch on each device."""

    class_names: list[str]
    steps_per_epoch: int


def find_data(model: Model, config: Config, device: Device) -> Data:
    """Check the training data and, where the run evaluates, the validation data.

    Raises:
        DataError: what was expected, what was found; no whole batch of images, or classes that only one of the two has.
        UsageError: a batch size that cannot be.
    """
    names = model.find_classes(config, "train", device)
    if config.eval_interval:
        val_names = model.find_classes(config, "val", device)
        extra = [name for name in val_names if name not in set(names)]
        if extra:
            raise DataError(
                f"the validation data has {len(extra)} classes that the training data lacks: {some(list(map(repr, extra)))}"
                f"{near_name(extra[0], names)}; both need the same class names"
            )
    require_range(low=1, batch_size=config.batch_size, accumulate_steps=config.accumulate_steps)
    batch_size = config.batch_size * config.accumulate_steps
    return Data(names, require_steps(model.count_images(config, "train"), batch_size, device.size))


def create_train_step(
    config: Config, network: nn.Cell, loss_fn: nn.Cell, optimizer: nn.Optimizer, device: Device
) -> TrainStep:
    """The compiled step in the mixed precision that the recipe asks for.

    Raises:
        UsageError: a level of mixed precision that the device does not have, an option out of its range.
    """
    level = device.amp_level(config.amp_level)
    if level != "O0":
        network = ms.amp.auto_mixed_precision(network, level)
    return TrainStep(
        network,
        loss_fn,
        optimizer,
        loss_scale=config.loss_scale,
        dynamic_loss_scale=config.is_dynamic_loss_scale,
        clip_grad_norm=config.clip_grad_norm,
        accumulate_steps=config.accumulate_steps,
        ema_decay=config.ema_decay,
        size=device.size,
    )


def train(
    model: Model,
    config: Config,
    device: Device,
    data: Data,
    *,
    network: nn.Cell,
    about: dict[str, Any],
    loss_fn: nn.Cell,
    learning_rates: np.ndarray,
    optimizer: nn.Optimizer,
    report: Callable[[Mapping[str, float], int, dict[str, Any]], None] | None = None,
    callbacks: Callable[[Position], Sequence[Callback]] | None = None,
) -> int:
    """Train, from the start or from where the chosen checkpoint stands; `dry_run` only tries out what it needs.

    Args:
        model: what the zoo needs to know of it.
        config: recipe.
        device: where this process runs.
        data: of `find_data`.
        network: in training mode.
        about: its description, stored in its checkpoints.
        loss_fn: (outputs, labels) to a scalar.
        learning_rates: (steps of the run,) float32.
        optimizer: of the network's parameters.
        report: see `callbacks.Evaluate`.
        callbacks: from where the run is to further callbacks, after the progress line.

    Returns:
        The exit status: 0, or 130 and 143 after Ctrl-C and SIGTERM.

    Raises:
        DataError: data or a checkpoint that cannot be used, a loss that is not finite.
        UsageError: an option that cannot be.
    """
    train_step = create_train_step(config, network, loss_fn, optimizer, device)
    run = _Run(model, config, device, data, about, network, train_step, learning_rates)
    get_logger().info("%s\nPlease check the above information for the configurations", config.to_yaml())
    if config.dry_run:
        run.try_out(report)
        get_logger().info("dry run: everything was built, nothing was trained")
        return 0
    with run.alone():
        run.resume()
        return run.train(report, callbacks)


class _Run:
    """Where a run is, and what it reads and writes."""

    def __init__(
        self,
        model: Model,
        config: Config,
        device: Device,
        data: Data,
        about: dict[str, Any],
        network: nn.Cell,
        train_step: TrainStep,
        learning_rates: np.ndarray,
    ):
        self.model, self.config, self.device, self.data, self.about = model, config, device, data, about
        self.network, self.train_step, self.learning_rates = network, train_step, learning_rates
        self.steps, self.epochs = data.steps_per_epoch, len(learning_rates) // data.steps_per_epoch
        self.folder, self.saves = model.checkpoint_folder(config, device), model.saves_checkpoints(config, device)
        self.metadata = {
            **about, "steps_per_epoch": self.steps, "devices": device.size, "config": config.to_dict()
        }  # fmt: skip
        self.position = Position(self.steps)
        # Looking at the loss waits for the device; on a CPU that costs nothing.
        self.fetch_interval = 1 if device.target == "CPU" else config.log_interval

    def try_out(self, report: Callable | None) -> None:
        """Find the state to resume from, build the callbacks, take one batch from each pipeline; write nothing."""
        self._require_writable()
        self._find_state()
        self._progress(None)
        self._savers(None, report)
        for split in ("train", "val") if self.config.eval_interval else ("train",):
            dataset = self.model.create_dataset(self.config, split, self.device, self.data.class_names)
            with data_errors(self.config.train_data_dir):
                next(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))

    def _require_writable(self) -> None:
        """Raise DataError where the run could not write what it is to leave."""
        if self.saves:
            require_writable(self.folder.folder, "ckpt_save_dir")
        if self.device.is_main:
            require_writable(self.config.run_dir, "run_dir")
            require_writable(self.config.summary_dir or self.config.run_dir, "summary_dir")

    def alone(self) -> contextlib.AbstractContextManager:
        """Inside, no other run writes into the folder of the checkpoints."""
        self._require_writable()
        self.device.barrier()  # a rank that is still looking for a new folder must not meet what another one makes
        return only_run(self.folder.lock, "ckpt_save_dir") if self.saves else contextlib.nullcontext()

    def resume(self) -> None:
        """Continue where the chosen checkpoint stands, or start anew in a fresh folder."""
        found = self._find_state()
        if found is None:
            if self.config.resume:
                get_logger().info("nothing to resume in %s: training starts from epoch 1", self.folder.folder)
            elif self.saves:
                self.folder.start_fresh()
            return
        metadata, path = found
        if self.saves:
            self.folder.set_aside_after(metadata)
        self.metadata.update({key: metadata[key] for key in HISTORY_KEYS if key in metadata})
        self.position = Position(self.steps, metadata["epoch"], metadata["step"])
        get_logger().info("resumed from %s: epoch %d step %d", path, metadata["epoch"], metadata["step"])
        if self.position.step == self.steps:
            self.position.epoch, self.position.step = self.position.epoch + 1, 0

    def _find_state(self) -> tuple[dict[str, Any], Path] | None:
        """Restore the state that the run resumes from; returns its metadata and file, None where it starts anew."""
        found = self.folder.find(self.config.resume) if self.config.resume else None
        self._require_agreement(found[1] if found else {"epoch": 0, "step": 0})
        if found is None:
            return None
        parameters, metadata, path = found
        parameters = self._in_order_of_classes(parameters, metadata.get("class_names"), path)
        checkpoint.restore(self.train_step, parameters, path)
        self._report_changes(metadata, path)
        return metadata, path

    def _in_order_of_classes(self, parameters: dict[str, Any], stored: list[str] | None, path: Path) -> dict[str, Any]:
        """The parameters of a state, those of the head in the order of this run's classes."""
        names, outputs = self.data.class_names, self.about["network"]["num_classes"]
        if stored is None or stored == names:
            return parameters
        if set(stored) != set(names):
            raise DataError(
                f"checkpoint {path} is of a run with the classes {some(stored)}, the data has {some(names)}; resume with "
                "the data of the checkpoint, or start a new training from it as pretrained weights"
            )
        rows, line = head_rows(stored, names, outputs, path)
        get_logger().info("%s", line)
        heads = {name: p for name, p in self.network.parameters_dict().items() if self.model.is_head(name)}
        return reorder_heads(parameters, heads, rows, self.model.head_layout)

    def _require_agreement(self, metadata: dict[str, Any]) -> None:
        """Raise DataError where the ranks would resume from different places."""
        place = [metadata["epoch"], metadata["step"]]
        if self.device.sum(place) != [float(number) * self.device.size for number in place]:
            raise DataError(
                f"rank {self.device.rank} would resume after epoch {place[0]} step {place[1]}, another rank elsewhere: "
                "give all of them the same checkpoint with --resume PATH"
            )

    def _report_changes(self, metadata: dict[str, Any], path: Path) -> None:
        before, now = metadata.get("devices", self.device.size), self.device.size
        if metadata["steps_per_epoch"] != self.steps:
            numbers = f" ({before} then, {now} now)" if before != now else ""
            raise DataError(
                f"checkpoint {path} was written with {metadata['steps_per_epoch']} steps an epoch, this run has {self.steps}: "
                f"another data set, batch size or number of devices{numbers}; resume with those of the checkpoint"
            )
        if before != now:
            get_logger().info("differs from the run that is resumed: devices were %d, are %d", before, now)
        for key, value in self.config.to_dict().items():
            before = metadata["config"].get(key, value)
            if before != value and key != "resume":
                get_logger().info("differs from the run that is resumed: %s was %s, is %s", key, before, value)

    def train(
        self,
        report: Callable[[Mapping[str, float], int, dict[str, Any]], None] | None,
        callbacks: Callable[[Position], Sequence[Callback]] | None,
    ) -> int:
        """The epochs that are left; returns the exit status."""
        if self.position.epoch > self.epochs:
            get_logger().info("training is complete: %d of %d epochs", self.epochs, self.epochs)
            return 0
        record = self._start_record() if self.device.is_main else None
        with Interrupt(self.device, self.position, self.fetch_interval) as interrupt, self._profile():
            further = callbacks(self.position) if callbacks else ()
            try:
                self._train_epochs(
                    interrupt, [self._progress(record), *further, interrupt, *self._savers(record, report)]
                )
            finally:
                if record is not None:
                    record.close()
        if interrupt.status:
            self.device.barrier()  # a launcher ends the other ranks when the first one ends
        return interrupt.status

    def _train_epochs(self, interrupt: Interrupt, callbacks: list[Callback]) -> None:
        sink, at = self.config.dataset_sink_mode and self.device.target != "CPU", self.position
        loop = ms.Model(self.train_step)
        while at.epoch <= self.epochs and not interrupt.status:
            first = at.epoch
            # In sink mode a new pipeline means a new graph, so one serves all whole epochs.
            one_for_all = sink and at.step == 0
            last = self.epochs if one_for_all else first
            dataset = self.model.create_dataset(
                self.config, "train", self.device, self.data.class_names,
                epoch=first, skip_steps=at.step, reshuffled=one_for_all,
            )  # fmt: skip
            with data_errors(self.config.train_data_dir):
                loop.train(last, dataset, callbacks, dataset_sink_mode=sink, initial_epoch=first - 1)
            if at.step == self.steps:
                at.epoch, at.step = last + 1, 0

    def _profile(self) -> contextlib.AbstractContextManager:
        if not self.config.enable_profiling:
            return contextlib.nullcontext()
        from mindspore.profiler import profile, tensorboard_trace_handler

        return profile(on_trace_ready=tensorboard_trace_handler(str(Path(self.config.run_dir) / "profile")))

    def _start_record(self) -> RunRecord:
        config, run_dir = self.config, Path(self.config.run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
        return RunRecord(run_dir, config.summary_dir or run_dir / "summary", self.position.total)

    def _progress(self, record: RunRecord | None) -> Progress:
        config = self.config
        return Progress(
            self.position,
            self.epochs,
            self.learning_rates,
            config.batch_size * config.accumulate_steps * self.device.size,
            config.log_interval,
            record,
            self.fetch_interval,
            self.model.lines.epoch,
            self.model.lines.step,
        )

    def _savers(self, record: RunRecord | None, report: Callable | None) -> list[Callback]:
        """Evaluation, checkpoints and uploads, in this order."""
        config, at = self.config, self.position
        saver = evaluation = None
        if self.saves:
            epochs, steps = config.get("save_checkpoint_epochs", 1), config.get("save_checkpoint_steps")
            saver = SaveCheckpoint(at, self.folder, self.train_step, self.metadata, self.epochs, epochs, steps)
        if config.eval_interval:
            evaluation = Evaluate(
                at,
                self._evaluate,
                self._save_best if self.saves else None,
                self.model.metric if self.train_step.ema is None else f"ema_{self.model.metric}",
                self.metadata,
                self.epochs,
                config.eval_interval,
                record,
                report,
                saver.save_early if saver else None,
            )
        callbacks = [callback for callback in (evaluation, saver) if callback is not None]
        return [*callbacks, moxing_adapter.Upload(config, at, self.epochs, self.device.barrier)]

    def _evaluate(self) -> dict[str, float]:
        """Metrics of the raw weights, and with the prefix ema_ those of the moving average."""
        metrics = self._evaluate_weights()
        if self.train_step.ema is not None:
            with self.train_step.averaged_weights():
                metrics.update({f"ema_{name}": value for name, value in self._evaluate_weights().items()})
        return metrics

    def _evaluate_weights(self) -> dict[str, float]:
        self.network.set_train(False)
        try:
            with self._first_rank_statistics():
                return self.model.validate(self.config, self.network, self.device, self.data.class_names)
        finally:
            self.network.set_train(True)

    @contextlib.contextmanager
    def _first_rank_statistics(self) -> Iterator[None]:
        """Inside, all ranks have the batch-norm statistics of the first one, which are those that checkpoints hold."""
        if self.device.size == 1:
            yield
            return
        moving = [p for p in self.network.get_parameters() if p.name.endswith((".moving_mean", ".moving_variance"))]
        own = [p.asnumpy().copy() for p in moving]
        flat = np.concatenate(own) * self.device.is_main
        first = np.array(self.device.sum(flat.tolist()), np.float32)
        ends = np.cumsum([len(values) for values in own])
        assign_all(moving, map(ms.Tensor, np.split(first, ends[:-1])))
        try:
            yield
        finally:
            assign_all(moving, map(ms.Tensor, own))

    def _save_best(self, metrics: dict[str, float]) -> None:
        metadata = {**self.about, "metrics": metrics, "trained_epochs": self.position.epoch}
        averaged = self.train_step.averaged_weights() if self.train_step.ema is not None else contextlib.nullcontext()
        with averaged:
            checkpoint.save(self.folder.best, self.network.parameters_dict(), metadata)
