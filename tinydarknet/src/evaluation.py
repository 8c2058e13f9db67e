# Shared file: source utils/classification/src/evaluation.py; copy with: python scripts/sync_model_utils.py --write
"""Accuracy of a network over every image of a data set, each counted once, and which output is which class."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np

from .inference import predict
from .model_utils.config import Config, DataError
from .model_utils.device_adapter import Device
from .model_utils.logger import get_logger


def evaluate(network: Callable, dataset: Any, batch_size: int, expected: int, device: Device) -> dict[str, float]:
    """Accuracies in 0-1 over all ranks; `expected` is the number of images of the data set.

    The prediction is the class of the highest logit, of equal ones that of the lowest index. Top-5 is top-k with
    k = min(5, classes).

    Raises:
        DataError: logits that are not finite, or another number of images than expected.
    """
    images, top_1, top_5 = count_hits(network, dataset, batch_size, expected, device)
    return {"top_1_accuracy": top_1 / images, "top_5_accuracy": top_5 / images}


def count_hits(network: Callable, dataset: Any, batch_size: int, expected: int, device: Device) -> tuple[int, int, int]:
    """Images, top-1 hits and top-5 hits over all ranks; arguments and errors are those of `evaluate`."""
    counts = np.zeros(3, np.int64)
    for images, labels in dataset.create_tuple_iterator(num_epochs=1, output_numpy=True):
        logits = predict(network, images, batch_size)
        if not np.isfinite(logits).all():
            raise DataError("the network's outputs are not finite; give another checkpoint")
        order = np.argsort(-logits, axis=1, kind="stable")[:, :5]  # (n, min(5, classes))
        hits = order == labels[:, None]
        counts += (len(labels), hits[:, 0].sum(), hits.any(axis=1).sum())
    images, top_1, top_5 = (int(count) for count in device.sum(counts.tolist()))
    if images != expected:
        raise DataError(
            f"{images} images were evaluated, the data set has {expected}; this is a fault of the data pipeline"
        )
    return images, top_1, top_5


def match_classes(names: list[str], about: dict[str, Any], config: Config, is_fixed: bool = False) -> list[str]:
    """Names in the order of the network's outputs: those stored with the weights, else those of the data set.

    Args:
        names: classes of the data set.
        about: description of the network.
        config: recipe, for messages.
        is_fixed: the data set says itself which class has which index, so that its names must be the stored ones.

    Raises:
        DataError: the data set has classes that the checkpoint does not know.
    """
    stored, outputs = about["class_names"], about["network"]["num_classes"]
    if len(names) > outputs or (is_fixed and (outputs != len(names) or stored not in (None, names))):
        raise DataError(
            f"the checkpoint has {outputs} classes ({', '.join(stored[:3]) if stored else 'unnamed'} ...), val_data_dir="
            f"{config.val_data_dir} has {len(names)} ({', '.join(names[:3])} ...); evaluate on the data that it was trained for"
        )
    if stored is None:
        get_logger().info(
            "the checkpoint of %d classes names none: class i is taken to be folder i of the %d in %s",
            outputs, len(names), config.val_data_dir,
        )  # fmt: skip
        return names
    unknown = [name for name in names if name not in stored]
    if unknown:
        raise DataError(
            f"val_data_dir={config.val_data_dir} has the class '{unknown[0]}' ({len(unknown)} such), "
            f"which the checkpoint of {len(stored)} classes does not know; evaluate on the data that it was trained for"
        )
    return stored
