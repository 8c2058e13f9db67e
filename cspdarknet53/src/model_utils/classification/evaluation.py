# Shared file: source utils/model_utils/classification/evaluation.py; copy with: python scripts/sync_model_utils.py --write
"""Accuracy of a network over every image of a data set, each counted once, and which output is which class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

import mindspore.dataset as ds
import numpy as np
from mindspore import nn

from ..class_order import class_indices
from ..config import Config
from ..dataset_checks import data_errors
from ..device_adapter import Device
from ..errors import DataError
from ..image_folder import some
from ..inference import load_network, predict, with_input
from ..logger import get_logger
from ..model import Model
from ..near_names import near_name

METRIC = "top_1_accuracy"  # decides which weights of a training are the best
LOSS_UNIT = 2.0**-40  # losses are summed as whole multiples of it: exactly, so that no order of them counts
DIGIT_BITS, DIGITS = 12, 18  # of numbers that ranks add; 4,096 ranks stay below 2 ** 24


class Totals(NamedTuple):
    """Of all images of a data set: their number, top-1 hits, top-5 hits, sum of the losses."""

    images: int
    top_1: int
    top_5: int
    loss: float

    def accuracies(self) -> dict[str, float]:
        """Top-1 and top-5 accuracy in 0-1."""
        return {"top_1_accuracy": self.top_1 / self.images, "top_5_accuracy": self.top_5 / self.images}

    def metrics(self) -> dict[str, float]:
        """The accuracies and the mean loss."""
        return {**self.accuracies(), "validation_loss": self.loss / self.images}


def cross_entropy(logits: np.ndarray, labels: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    """Loss of each image, float64 (n,): the target is 1 - f for its class and f / (classes - 1) for each other one.

    Args:
        logits: (n, classes).
        labels: (n,) class indices.
        smoothing: f, 0-1; a single class has none.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_scores = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    own, classes = log_scores[np.arange(len(labels)), labels], logits.shape[1]
    others = (log_scores.sum(axis=1) - own) / max(classes - 1, 1)
    return -((1 - smoothing) * own + smoothing * others)


def evaluate(
    network: Callable, dataset: Any, batch_size: int, expected: int, device: Device, smoothing: float = 0.0
) -> Totals:
    """Run the network over all images, on all ranks.

    The prediction is the class of the highest logit, of equal ones that of the lowest index. Top-5 is top-k with
    k = min(5, classes).

    Args:
        network: (batch_size, 3, H, W) images to (batch_size, classes) logits.
        dataset: this rank's batches.
        batch_size: images of a call.
        expected: images of the data set.
        device: rank and size.
        smoothing: of the labels in the loss.

    Raises:
        DataError: logits that are not finite, or another number of images than expected.
    """
    totals = [0, 0, 0, 0]
    for images, labels in _batches(dataset):
        (logits,) = predict(network, images, batch_size)
        if not np.isfinite(logits).all():
            raise DataError("the network's outputs are not finite; give another checkpoint")
        order = np.argsort(-logits, axis=1, kind="stable")[:, :5]  # (n, min(5, classes))
        hits = order == labels[:, None]
        losses = cross_entropy(logits, labels, smoothing)
        units = sum(round(float(loss) / LOSS_UNIT) for loss in losses)
        counts = (len(labels), int(hits[:, 0].sum()), int(hits.any(axis=1).sum()), units)
        totals = [total + count for total, count in zip(totals, counts)]
    images, top_1, top_5, units = exact_sums(totals, device)
    if images != expected:
        raise DataError(
            f"{images} images were evaluated, the data set has {expected}; this is a fault of the data pipeline"
        )
    return Totals(images, top_1, top_5, units * LOSS_UNIT)


def _batches(dataset: ds.Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    with data_errors("of the evaluation"):
        yield from dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)


def exact_sums(numbers: list[int], device: Device) -> list[int]:
    """The sums over all ranks of integers of 0 or more, without the rounding of `Device.sum`.

    Args:
        numbers: each below 2 ** (DIGIT_BITS * DIGITS): 10 ** 14 losses of the largest float32 are.
        device: rank and size.
    """
    shifts, mask = range(0, DIGIT_BITS * DIGITS, DIGIT_BITS), (1 << DIGIT_BITS) - 1
    digits = device.sum([float(number >> shift & mask) for number in numbers for shift in shifts])
    rows = np.reshape(digits, (len(numbers), DIGITS))
    return [sum(int(digit) << shift for digit, shift in zip(row, shifts)) for row in rows]


def load_for_evaluation(
    model: Model,
    config: Config,
    device: Device,
    path: str,
    *,
    use_ema: bool = False,
    match: Callable[[list[str], dict[str, Any], Config], list[str]] | None = None,
) -> tuple[Config, nn.Cell, ds.Dataset]:
    """The network of a checkpoint and the validation data, in the order of its outputs.

    Args:
        model: whose checkpoint it is.
        config: recipe.
        device: rank and size.
        path: a .ckpt file.
        use_ema: take the moving average that a training state holds.
        match: finds the order of the outputs' names; None: `match_classes`.

    Returns:
        The recipe with the input and the classes that the weights were made for; the network in evaluation mode; the
        data. In a dry run one batch of it has been taken.

    Raises:
        DataError: a damaged checkpoint, or one of another network; data that does not belong to it.
        UsageError: an option that contradicts the checkpoint.
    """
    network, about = load_network(model, path, config, use_ema=use_ema)
    config = with_input(config, about)
    names = (match or match_classes)(model.find_classes(config, "val", device), about, config)
    dataset = model.create_dataset(config, "val", device, names)
    if config.dry_run:
        with data_errors(config.val_data_dir):
            next(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))
        get_logger().info("dry run: everything was built, nothing was evaluated")
    return config, network, dataset


def match_classes(names: list[str], about: dict[str, Any], config: Config, is_fixed: bool = False) -> list[str]:
    """Names in the order of the network's outputs: those stored with the weights, else those of the data set.

    Args:
        names: classes of the data set.
        about: description of the network.
        config: recipe, for messages.
        is_fixed: the data set says itself which class has which index, so that its names must be the stored ones.

    Raises:
        DataError: the data set has classes that the checkpoint does not know, or fewer than one that names none; names
            that occur twice in another order.
    """
    stored, outputs = about["class_names"], about["network"]["num_classes"]
    unknown = _unknown(names, stored or names)
    if len(names) > outputs or (is_fixed and (outputs != len(names) or stored not in (None, names))):
        raise DataError(
            f"the checkpoint has {outputs} classes ({some(stored) if stored else 'unnamed'}), val_data_dir="
            f"{config.val_data_dir} has {len(names)} ({some(names)}){unknown and ': it' + unknown}; "
            "evaluate on the data that it was trained for"
        )
    if stored is None:
        if len(names) < outputs:
            raise DataError(
                f"the checkpoint of {outputs} classes names none, val_data_dir={config.val_data_dir} has {len(names)}: which "
                "output is which of them is not known; give the names of the outputs with --class_names FILE"
            )
        get_logger().info(
            "the checkpoint of %d classes names none: class i is taken to be folder i of %s",
            outputs,
            config.val_data_dir,
        )
        return names
    if unknown:
        raise DataError(
            f"val_data_dir={config.val_data_dir} has {len(names)} classes; the checkpoint of {len(stored)}{unknown}; "
            "evaluate on the data that it was trained for"
        )
    class_indices(names, stored, f"val_data_dir={config.val_data_dir}")  # refuses names that occur twice
    return stored


def _unknown(names: list[str], known: list[str]) -> str:
    """The end of a sentence about a checkpoint that says which names it does not know, and a near one that it knows."""
    unknown = [name for name in names if name not in set(known)]
    near = near_name(unknown[0], known) if unknown else ""
    return f" does not know {len(unknown)} of them, {some(map(repr, unknown))}{near}" if unknown else ""
