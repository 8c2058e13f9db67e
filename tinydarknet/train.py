"""Train TinyDarkNet: recipe -> device -> data -> network -> loss -> schedule -> optimizer -> training, resumable."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from eval import evaluate
from src.dataset import count_images, create_dataset, find_classes
from src.inference import build_network, description
from src.lr_scheduler import get_lr
from src.model_utils import checkpoint, device_adapter, moxing_adapter
from src.model_utils import config as configuration
from src.model_utils.callbacks import Evaluate, Interrupt, Position, Progress, SaveCheckpoint
from src.model_utils.checkpoint import CheckpointFolder
from src.model_utils.config import Config, DataError, UsageError
from src.model_utils.dataset_checks import data_error, require_steps
from src.model_utils.device_adapter import Device
from src.model_utils.logger import RunRecord, get_logger, init_logger
from src.model_utils.train_step import TrainStep
from src.recipe import read_config

import mindspore as ms
from mindspore import nn


def create_network(config: Config, about: dict[str, Any], pretrained: tuple[dict, dict] | None = None) -> nn.Cell:
    """The network with random weights, or with `pretrained` ones (parameters and metadata of a checkpoint).

    Pretrained weights bring their own activation slope and batch-norm epsilon, which `about` then says as well.
    """
    ms.set_seed(config.seed)
    if pretrained is None:
        return build_network(about).set_train()
    parameters, metadata = pretrained
    about["network"] = {**about["network"], **metadata.get("network", {}), "num_classes": config.num_classes}
    network = build_network(about)
    head = [name for name in network.parameters_dict() if name.startswith("conv16.")] if config.reset_head else []
    checkpoint.load_weights(
        network, parameters, config.checkpoint_path, allow_partial=config.allow_partial_load, reset_head=head
    )
    return network.set_train()


def with_pretrained_input(config: Config, metadata: dict[str, Any]) -> Config:
    """The recipe with the mean and std that the pretrained weights expect, unless the command line gives others."""
    changes = {
        key: metadata["input"][key]
        for key in ("mean", "std")
        if "input" in metadata and key not in config.given and metadata["input"][key] != config[key]
    }
    for key, value in changes.items():
        get_logger().info(
            "%s is %s, as the weights of %s expect, not %s", key, value, config.checkpoint_path, config[key]
        )
    return config.replace(**changes)


def create_loss(config: Config) -> nn.Cell:
    """Cross entropy. Smoothing gives 1 - f to the true class and f / (classes - 1) to each other one.

    The framework's own smoothing gives e / classes to all classes, so e = f * classes / (classes - 1).
    """
    if not config.use_label_smooth or config.num_classes == 1:
        return nn.CrossEntropyLoss()
    smoothing = config.label_smooth_factor * config.num_classes / (config.num_classes - 1)
    if not 0 <= smoothing <= 1:
        raise UsageError(f"label_smooth_factor={config.label_smooth_factor}: 0 to (classes - 1) / classes is accepted")
    return nn.CrossEntropyLoss(label_smoothing=smoothing)


def create_train_step(config: Config, network: nn.Cell, learning_rates, device: Device) -> TrainStep:
    """Momentum SGD; biases, gamma and beta have no weight decay."""
    parameters = network.trainable_params()
    plain = [p for p in parameters if p.name.endswith((".bias", ".gamma", ".beta"))]
    decayed = [p for p in parameters if not p.name.endswith((".bias", ".gamma", ".beta"))]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
        {"order_params": parameters},
    ]
    optimizer = nn.Momentum(groups, ms.Tensor(learning_rates), config.momentum)
    level = device.amp_level(config.amp_level)
    if level != "O0":
        network = ms.amp.auto_mixed_precision(network, level)
    return TrainStep(
        network,
        create_loss(config),
        optimizer,
        loss_scale=config.loss_scale,
        dynamic_loss_scale=config.is_dynamic_loss_scale,
        ema_decay=config.ema_decay,
        size=device.size,
    )  # fmt: skip


class Training:
    """A run: built by the constructor, done by `run`."""

    def __init__(self, config: Config, device: Device):
        self.config, self.device = config, device
        self.logger = init_logger(config.run_dir, "train.log", device.rank)
        self.names = find_classes(config, True, device)
        self.val_names = find_classes(config, False, device) if config.eval_interval else None
        if self.val_names is not None and not set(self.val_names) <= set(self.names):
            raise DataError(
                f"val_data_dir={config.val_data_dir} has the classes {self.val_names[:5]} ..., "
                f"train_data_dir={config.train_data_dir} has {self.names[:5]} ...; both need the same class names"
            )
        self.steps = require_steps(count_images(config, True), config.batch_size, device.size)
        pretrained = checkpoint.load(config.checkpoint_path) if config.pre_trained else None
        if pretrained is not None:
            self.config = config = with_pretrained_input(config, pretrained[1])
        self.about = description(config, self.names)
        self.network = create_network(config, self.about, pretrained)
        self.learning_rates = get_lr(config, self.steps)
        self.train_step = create_train_step(config, self.network, self.learning_rates, device)
        prefix = f"train_tinydarknet_{config.dataset_name}"
        self.folder = CheckpointFolder(Path(config.ckpt_save_dir) / "0", prefix, config.keep_checkpoint_max)
        self.metadata = {**self.about, "steps_per_epoch": self.steps, "config": config.to_dict()}
        self.position = Position(self.steps)
        # Looking at the loss waits for the device; on a CPU that costs nothing.
        self.fetch_interval = 1 if device.target == "CPU" else config.log_interval

    def resume(self) -> None:
        """Continue where the chosen checkpoint stands, or start anew in a fresh folder."""
        config = self.config
        found = self.folder.find(config.resume) if config.resume else None
        if found is None:
            if config.resume:
                self.logger.info("nothing to resume in %s: training starts from epoch 1", self.folder.folder)
            elif self.device.is_main:
                self.folder.start_fresh()
            return
        parameters, metadata, path = found
        checkpoint.restore(self.train_step, parameters, path)
        self._report_changes(metadata, path)
        if self.device.is_main:
            self.folder.set_aside_after(metadata["epoch"], metadata["step"])
        self.metadata.update({key: metadata[key] for key in ("best", "best_epoch") if key in metadata})
        self.position = Position(self.steps, metadata["epoch"], metadata["step"])
        self.logger.info("resumed from %s: epoch %d step %d", path, metadata["epoch"], metadata["step"])
        if self.position.step == self.steps:
            self.position.epoch, self.position.step = self.position.epoch + 1, 0

    def _report_changes(self, metadata: dict[str, Any], path: Path) -> None:
        if metadata["steps_per_epoch"] != self.steps:
            raise DataError(
                f"checkpoint {path} was written with {metadata['steps_per_epoch']} steps an epoch, this run has {self.steps}: "
                "another data set, batch size or number of devices; resume with those of the checkpoint"
            )
        for key, value in self.config.to_dict().items():
            before = metadata["config"].get(key, value)
            if before != value and key != "resume":
                self.logger.info("differs from the run that is resumed: %s was %s, is %s", key, before, value)

    def run(self) -> int:
        """Train; the status is 0, or 130 and 143 after Ctrl-C and SIGTERM."""
        config, sink = self.config, self.config.dataset_sink_mode and self.device.target != "CPU"
        if self.position.epoch > config.epoch_size:
            self.logger.info("training is complete: %d of %d epochs", config.epoch_size, config.epoch_size)
            return 0
        record = self._start_record() if self.device.is_main else None
        model = ms.Model(self.train_step)
        with Interrupt(self.device, self.position, self.fetch_interval) as interrupt, self._profile():
            callbacks = self._callbacks(record, interrupt)
            try:
                while self.position.epoch <= config.epoch_size and not interrupt.status:
                    first = self.position.epoch
                    # In sink mode a new pipeline means a new graph, so one serves all whole epochs.
                    one_for_all = sink and self.position.step == 0
                    last = config.epoch_size if one_for_all else first
                    dataset = create_dataset(
                        config, True, self.device, self.names, first, self.position.step, reshuffled=one_for_all
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
        images_per_step = config.batch_size * self.device.size
        progress = Progress(
            at,
            config.epoch_size,
            self.learning_rates,
            images_per_step,
            config.log_interval,
            record,
            self.fetch_interval,
        )
        callbacks = [progress, interrupt]
        if self.val_names is not None:
            save_best = self._save_best if self.device.is_main else None
            metric = "top_1_accuracy" if self.train_step.ema is None else "ema_top_1_accuracy"
            callbacks.append(
                Evaluate(
                    at,
                    self._evaluate,
                    save_best,
                    metric,
                    self.metadata,
                    config.epoch_size,
                    config.eval_interval,
                    record,
                )  # fmt: skip
            )
        if self.device.is_main:
            callbacks.append(
                SaveCheckpoint(
                    at, self.folder, self.train_step, self.metadata, config.epoch_size, config.save_checkpoint_epochs
                )
            )
        return callbacks

    def _evaluate(self) -> dict[str, float]:
        """Metrics of the raw weights, and with the prefix ema_ those of the moving average."""
        metrics = self._evaluate_weights()
        if self.train_step.ema is not None:
            with self.train_step.averaged_weights():
                metrics.update({f"ema_{name}": value for name, value in self._evaluate_weights().items()})
        return metrics

    def _evaluate_weights(self) -> dict[str, float]:
        dataset = create_dataset(self.config, False, self.device, self.names)
        self.network.set_train(False)
        try:
            return evaluate(
                self.network, dataset, self.config.batch_size, count_images(self.config, False), self.device
            )
        finally:
            self.network.set_train(True)

    def _save_best(self, metrics: dict[str, float]) -> None:
        metadata = {**self.about, "metrics": metrics, "trained_epochs": self.position.epoch}
        averaged = self.train_step.averaged_weights() if self.train_step.ema is not None else contextlib.nullcontext()
        with averaged:
            checkpoint.save(self.folder.best, self.network.parameters_dict(), metadata)


def main(argv: list[str] | None = None) -> int:
    config = read_config(argv, __doc__)
    with moxing_adapter.job(config, adapt_paths) as config:
        device = device_adapter.init(config)
        training = Training(config, device)
        training.logger.info("%s\nPlease check the above information for the configurations", config.to_yaml())
        if config.dry_run:
            training.logger.info("dry run: everything was built, nothing was trained")
            return 0
        training.resume()
        return training.run()


def adapt_paths(config: Config) -> Config:
    """Where a ModelArts job finds its data and leaves its results; a data set may hold the folders train and val."""
    data = Path(moxing_adapter.data_dir(config))
    return config.replace(
        train_data_dir=str(data / "train" if (data / "train").is_dir() else data),
        val_data_dir=str(data / "val" if (data / "val").is_dir() else data),
        checkpoint_path=moxing_adapter.checkpoint_file(config),
        ckpt_save_dir=str(Path(config.output_path) / config.ckpt_save_dir),
        run_dir=config.output_path,
    )


if __name__ == "__main__":
    configuration.run(main)
