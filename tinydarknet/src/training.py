# Shared file: source utils/common/src/training.py; copy with: python scripts/sync_model_utils.py --write
"""A training run: data, network, compiled step, checkpoints, evaluation, resumption. The recipe says what is in them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn
from mindspore.train import Callback

from .dataset import count_images, create_dataset, find_classes
from .evaluation import METRIC, validation_metrics
from .finetuning import freeze
from .inference import description, refuse_other_network
from .lr_scheduler import get_lr
from .model_utils import checkpoint, moxing_adapter
from .model_utils.callbacks import Evaluate, Interrupt, Position, Progress, SaveCheckpoint
from .model_utils.config import Config, DataError, UsageError
from .model_utils.dataset_checks import data_error, require_steps
from .model_utils.device_adapter import Device
from .model_utils.logger import RunRecord, get_logger, init_logger
from .model_utils.train_step import TrainStep
from .recipe import EPOCH_LINE, STEP_LINE, build_network, checkpoint_folder, is_head, saves_checkpoints

INPUT_KEYS = ("mean", "std")  # of pretrained weights, which a recipe takes over
HISTORY_KEYS = ("best", "best_epoch", "accuracies")  # of the metadata, which a resumed run goes on with


def create_network(config: Config, about: dict[str, Any], path: str, pretrained: tuple[dict, dict] | None) -> nn.Cell:
    """The network in training mode, with random weights or those of a checkpoint; `freeze` is obeyed.

    Args:
        config: recipe.
        about: description of the network, which takes over the activation and the like of the pretrained weights.
        path: the checkpoint, for messages.
        pretrained: its parameters and metadata.
    """
    ms.set_seed(config.seed)
    if pretrained is not None:
        take_over_network(config, about, path, pretrained[1])
    network = build_network(about)
    if pretrained is not None:
        head = [name for name in network.parameters_dict() if is_head(name)] if config.reset_head else []
        checkpoint.load_weights(
            network, pretrained[0], path, allow_partial=config.allow_partial_load, reset_head=head
        )  # fmt: skip
    freeze(network, config.freeze)
    return network.set_train()


def take_over_network(config: Config, about: dict[str, Any], path: str, metadata: dict[str, Any]) -> None:
    """Describe the network of pretrained weights, with the recipe's number of classes.

    Raises:
        DataError: weights of another network.
        UsageError: the command line asks for another activation than that of the weights.
    """
    if "network" not in metadata:
        return
    refuse_other_network(metadata, path)
    for key, value in metadata["network"].items():
        if key != "num_classes" and key in config.given and config[key] != value:
            raise UsageError(f"--{key} {config[key]} contradicts {path}, which has {value}; leave the option out")
    about["network"] = {**about["network"], **metadata["network"], "num_classes": config.num_classes}


def with_pretrained_input(config: Config, metadata: dict[str, Any], path: str) -> Config:
    """The recipe with the mean and std that the pretrained weights expect, unless the command line gives others."""
    changes = {
        key: metadata["input"][key]
        for key in INPUT_KEYS
        if "input" in metadata and key not in config.given and metadata["input"][key] != config[key]
    }
    for key, value in changes.items():
        get_logger().info("%s is %s, as the weights of %s expect, not %s", key, value, path, config[key])
    return config.replace(**changes)


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


class Training:
    """A run: built by the constructor, done by `run`.

    Args:
        config: recipe, with the keys (or aliases) that this file reads.
        device: where this process runs.
        create_loss: from the recipe to a cell (logits, labels) to scalar.
        create_optimizer: from recipe, network and learning rates (one for each step) to the optimizer.
        pretrained_path: checkpoint to start from; empty: random weights.
        prepare: from recipe, network and device; what else is done to the network before the optimizer sees it.
        report: of `callbacks.Evaluate`.
        callbacks: from where the run is to further callbacks, after the progress line.
    """

    def __init__(
        self,
        config: Config,
        device: Device,
        create_loss: Callable[[Config], nn.Cell],
        create_optimizer: Callable[[Config, nn.Cell, np.ndarray], nn.Optimizer],
        pretrained_path: str = "",
        *,
        prepare: Callable[[Config, nn.Cell, Device], None] | None = None,
        report: Callable[[Mapping[str, float], int, dict[str, Any]], None] | None = None,
        callbacks: Callable[[Position], Sequence[Callback]] | None = None,
    ):
        self.config, self.device, self.report, self.further_callbacks = config, device, report, callbacks
        self.logger = init_logger(config.run_dir, "train.log", device.rank)
        self.names = find_classes(config, True, device)
        self.val_names = find_classes(config, False, device) if config.eval_interval else None
        if self.val_names is not None and not set(self.val_names) <= set(self.names):
            raise DataError(
                f"val_data_dir={config.val_data_dir} has the classes {self.val_names[:5]} ..., "
                f"train_data_dir={config.train_data_dir} has {self.names[:5]} ...; both need the same class names"
            )
        if config.accumulate_steps < 1:
            raise UsageError(f"accumulate_steps={config.accumulate_steps}: 1 or more is accepted")
        self.batch_size = config.batch_size * config.accumulate_steps
        self.steps = require_steps(count_images(config, True), self.batch_size, device.size)
        pretrained = checkpoint.load(pretrained_path) if pretrained_path else None
        if pretrained is not None:
            self.config = config = with_pretrained_input(config, pretrained[1], pretrained_path)
        self.about = description(config, self.names)
        self.network = create_network(config, self.about, pretrained_path, pretrained)
        if pretrained is not None:
            network = {key: value for key, value in self.about["network"].items() if key in config}
            self.config = config = config.replace(**network)
        if prepare is not None:
            prepare(config, self.network, device)
        self.learning_rates = get_lr(config, self.steps)
        self.epochs = len(self.learning_rates) // self.steps
        optimizer = create_optimizer(config, self.network, self.learning_rates)
        self.train_step = create_train_step(config, self.network, create_loss(config), optimizer, device)
        self.folder, self.saves = checkpoint_folder(config, device), saves_checkpoints(config, device)
        self.metadata = {
            **self.about, "steps_per_epoch": self.steps, "devices": device.size, "config": config.to_dict()
        }  # fmt: skip
        self.position = Position(self.steps)
        # Looking at the loss waits for the device; on a CPU that costs nothing.
        self.fetch_interval = 1 if device.target == "CPU" else config.log_interval

    def resume(self) -> None:
        """Continue where the chosen checkpoint stands, or start anew in a fresh folder."""
        config = self.config
        found = self.folder.find(config.resume) if config.resume else None
        self._require_agreement(found[1] if found else {"epoch": 0, "step": 0})
        if found is None:
            if config.resume:
                self.logger.info("nothing to resume in %s: training starts from epoch 1", self.folder.folder)
            elif self.saves:
                self.folder.start_fresh()
            return
        parameters, metadata, path = found
        checkpoint.restore(self.train_step, parameters, path)
        self._report_changes(metadata, path)
        if self.saves:
            self.folder.set_aside_after(metadata)
        self.metadata.update({key: metadata[key] for key in HISTORY_KEYS if key in metadata})
        self.position = Position(self.steps, metadata["epoch"], metadata["step"])
        self.logger.info("resumed from %s: epoch %d step %d", path, metadata["epoch"], metadata["step"])
        if self.position.step == self.steps:
            self.position.epoch, self.position.step = self.position.epoch + 1, 0

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
            self.logger.info("differs from the run that is resumed: devices were %d, are %d", before, now)
        for key, value in self.config.to_dict().items():
            before = metadata["config"].get(key, value)
            if before != value and key != "resume":
                self.logger.info("differs from the run that is resumed: %s was %s, is %s", key, before, value)

    def run(self) -> int:
        """Train; the status is 0, or 130 and 143 after Ctrl-C and SIGTERM."""
        config, sink = self.config, self.config.dataset_sink_mode and self.device.target != "CPU"
        if self.position.epoch > self.epochs:
            self.logger.info("training is complete: %d of %d epochs", self.epochs, self.epochs)
            return 0
        record = self._start_record() if self.device.is_main else None
        model = ms.Model(self.train_step)
        with Interrupt(self.device, self.position, self.fetch_interval) as interrupt, self._profile():
            callbacks = self._callbacks(record, interrupt)
            try:
                while self.position.epoch <= self.epochs and not interrupt.status:
                    first = self.position.epoch
                    # In sink mode a new pipeline means a new graph, so one serves all whole epochs.
                    one_for_all = sink and self.position.step == 0
                    last = self.epochs if one_for_all else first
                    dataset = create_dataset(
                        config,
                        True,
                        self.device,
                        self.names,
                        epoch=first,
                        skip_steps=self.position.step,
                        reshuffled=one_for_all,
                    )
                    model.train(last, dataset, callbacks, dataset_sink_mode=sink, initial_epoch=first - 1)
                    if self.position.step == self.steps:
                        self.position.epoch, self.position.step = last + 1, 0
            except RuntimeError as error:
                raise data_error(error, config.train_data_dir) from None
            finally:
                if record is not None:
                    record.close()
        if interrupt.status:
            self.device.barrier()  # a launcher ends the other ranks when the first one ends
        return interrupt.status

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

    def _callbacks(self, record: RunRecord | None, interrupt: Interrupt) -> list:
        config, at = self.config, self.position
        images_per_step = self.batch_size * self.device.size
        progress = Progress(
            at,
            self.epochs,
            self.learning_rates,
            images_per_step,
            config.log_interval,
            record,
            self.fetch_interval,
            EPOCH_LINE,
            STEP_LINE,
        )
        callbacks = [progress, *(self.further_callbacks(at) if self.further_callbacks else ()), interrupt]
        if self.val_names is not None:
            save_best = self._save_best if self.saves else None
            metric = METRIC if self.train_step.ema is None else f"ema_{METRIC}"
            callbacks.append(
                Evaluate(
                    at,
                    self._evaluate,
                    save_best,
                    metric,
                    self.metadata,
                    self.epochs,
                    config.eval_interval,
                    record,
                    self.report,
                )  # fmt: skip
            )
        if self.saves:
            callbacks.append(
                SaveCheckpoint(
                    at,
                    self.folder,
                    self.train_step,
                    self.metadata,
                    self.epochs,
                    config.get("save_checkpoint_epochs", 1),
                    config.get("save_checkpoint_steps"),
                )
            )
        callbacks.append(moxing_adapter.Upload(config, at, self.epochs, self.device.barrier))
        return callbacks

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
                return validation_metrics(self.config, self.network, self.device, self.names)
        finally:
            self.network.set_train(True)

    @contextlib.contextmanager
    def _first_rank_statistics(self) -> Iterator[None]:
        """Inside, all ranks have the batch-norm statistics of the first one, which are those that checkpoints hold."""
        if self.device.size == 1:
            yield
            return
        moving = [p for p in self.network.get_parameters() if p.name.endswith((".moving_mean", ".moving_variance"))]
        own = [p.asnumpy() for p in moving]
        flat = np.concatenate(own) * self.device.is_main
        first = np.array(self.device.sum(flat.tolist()), np.float32)
        ends = np.cumsum([len(values) for values in own])
        for parameter, values in zip(moving, np.split(first, ends[:-1])):
            parameter.set_data(ms.Tensor(values))
        try:
            yield
        finally:
            for parameter, values in zip(moving, own):
                parameter.set_data(ms.Tensor(values))

    def _save_best(self, metrics: dict[str, float]) -> None:
        metadata = {**self.about, "metrics": metrics, "trained_epochs": self.position.epoch}
        averaged = self.train_step.averaged_weights() if self.train_step.ema is not None else contextlib.nullcontext()
        with averaged:
            checkpoint.save(self.folder.best, self.network.parameters_dict(), metadata)
