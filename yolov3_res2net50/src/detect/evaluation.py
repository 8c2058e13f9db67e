"""Detections of a network over every image of a data set, each counted once, and COCO's measures of them."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable

import numpy as np
from mindspore import nn

from ..data.annotations import Annotations, read_annotations
from ..data.coco import CocoData, data_paths, read_split
from ..data.sizes import scale_boxes
from ..dataset import create_dataset, input_spec
from ..model_utils.class_order import class_indices
from ..model_utils.config import Config
from ..model_utils.device_adapter import Device
from ..model_utils.errors import DataError, require_range
from ..model_utils.files import whole_file
from ..model_utils.inference import predict
from ..model_utils.logger import get_logger
from ..yolo import Detector
from .boxes import Detections, detect, place
from .coco_eval import (
    STATS,
    CocoScores,
    class_table,
    evaluate_results,
    ground_truth,
    import_pycocotools,
    to_results,
    write_class_table,
    write_curves,
)

METRIC = "mean_average_precision"  # by which training chooses its best checkpoint
WATCHED = (METRIC, "AP50", "AP75", "AR100")  # what training reports
PROGRESS_BATCHES = 1000  # between two lines of progress


def detection_options(config: Config) -> dict[str, Any]:
    """What `detect` takes from a recipe.

    Raises:
        UsageError: a value out of its range.
    """
    require_range(low=0, high=1, eval_ignore_threshold=config.eval_ignore_threshold, nms_thresh=config.nms_thresh)
    require_range(low=1, max_detections=config.max_detections)
    return {
        "score_threshold": config.eval_ignore_threshold,
        "nms_threshold": config.nms_thresh,
        "limit": config.max_detections,
    }


def require_evaluation(config: Config) -> None:
    """Find what would end an evaluation, before the work that comes before it: its annotations are read.

    Raises:
        UsageError: a value out of its range.
        DataError: pycocotools is not installed, or the annotations cannot be used.
    """
    detection_options(config)
    import_pycocotools()
    ground_truth(read_annotations(data_paths(config, "val")[1]))


def match_outputs(
    names: Sequence[str],
    outputs: Sequence[str] | None,
    number: int,
    source: str | Path,
    *,
    ids: Sequence[int] = (),
    output_ids: Sequence[int] = (),
) -> list[int]:
    """For each class of the data set the index of the network's class output.

    Args:
        names: classes of the data set.
        outputs: names of the network's outputs; None: they are the classes of the data set, in that order.
        number: of the network's class outputs.
        source: of the data set, for messages.
        ids: category of each class of the data set.
        output_ids: category of each output, where it is known: classes of one name are told apart by their ids.

    Raises:
        DataError: the data set has classes that the network does not know, or names that occur twice in another order.
    """
    if outputs is None:
        if len(names) != number:
            raise DataError(
                f"the checkpoint has {number} classes and names none, {source} has {len(names)}; give the annotations of the "
                "data that it was trained for"
            )
        get_logger().info("the checkpoint names no classes: output i is taken to be category i of %s", source)
        return list(range(number))
    unknown = [name for name in names if name not in outputs]
    if unknown:
        raise DataError(
            f"{source} has the class '{unknown[0]}' ({len(unknown)} such), which the checkpoint of {len(outputs)} classes "
            f"({', '.join(outputs[:3])} ...) does not know; evaluate on the data that it was trained for"
        )
    if len(ids) == len(names) and len(output_ids) == len(outputs):
        pairs, output_pairs = list(zip(names, ids)), list(zip(outputs, output_ids))
        if set(pairs) <= set(output_pairs):
            return [output_pairs.index(pair) for pair in pairs]
    return class_indices(names, outputs, source)


def evaluate(
    network: Callable,
    dataset: Any,
    coco: CocoData,
    spec: dict[str, Any],
    config: Config,
    device: Device,
    outputs: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Run the network over all images, on all ranks.

    Args:
        network: images (per_batch_size, 3, H, W) to the decoded maps big, medium and small, see `boxes.detect`.
        dataset: this rank's batches: image, index in `coco.image_ids`, size (height, width in pixels).
        coco: the images and categories.
        spec: height, width and keep_ratio of the network's input.
        config: recipe.
        device: rank and size.
        outputs: for each class of `coco` the index of the network's class output; None: the same order.

    Returns:
        The detections of all images in COCO's format, by image and score; the same on every rank, and for any number
        of ranks.

    Raises:
        DataError: outputs that are not finite, or an image that did not come exactly once.
    """
    options, sides = detection_options(config), (spec["height"], spec["width"])
    counts = np.zeros(len(coco.image_ids) + 1)  # of each image; the last one: ranks with outputs that are not finite
    rows = [np.empty((0, 7), np.float32)]
    for images, positions, sizes in _batches(dataset):
        maps = predict(network, images, config.per_batch_size)
        if not all(np.isfinite(values).all() for values in maps):
            counts[-1] += 1  # no error yet: the other ranks would wait for this one for ever
            break
        np.add.at(counts, positions, 1)
        for number, (position, size) in enumerate(zip(positions.tolist(), sizes.tolist())):
            of_image = [select_classes(values[number], outputs) for values in maps]
            found = detect(of_image, place(size, sides, spec["keep_ratio"]), size, sides, **options)
            coco.note_resized(position, size)
            rows.append(_to_rows(position, as_stated(found, size, coco.stated_size(position))))
    *counts, faults = device.sum(counts.tolist())
    _require_all(counts, faults)
    results: list[dict[str, Any]] = []
    for position, found in _from_rows(device.gather(np.concatenate(rows))):
        results += to_results(found, coco.image_ids[position], coco.category_ids)
    return results


def _batches(dataset: Any) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The batches of a data set, with documented lines of progress."""
    total = dataset.get_dataset_size()
    for number, batch in enumerate(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True), start=1):
        yield batch
        if number % PROGRESS_BATCHES == 0:
            get_logger().info("Processing... %.2f%% ", 100 * number / total)


def select_classes(values: np.ndarray, outputs: Sequence[int] | None) -> np.ndarray:
    """A map (h, w, 3, 5 + classes) with these classes only, in this order; None: all of them."""
    if outputs is None or list(outputs) == list(range(values.shape[-1] - 5)):
        return values
    return values[..., [*range(5), *(5 + output for output in outputs)]]


def _require_all(counts: Sequence[float], faults: float) -> None:
    if faults:
        raise DataError(
            "the network's outputs are not finite; give another checkpoint, or train with a lower learning rate"
        )
    wrong = [position for position, count in enumerate(counts) if count != 1]
    if wrong:
        raise DataError(
            f"{len(wrong)} of {len(counts)} images did not come exactly once, the first of them {int(counts[wrong[0]])} "
            "times; this is a fault of the data pipeline"
        )


def as_stated(found: Detections, size: tuple[int, int], stated: tuple[int, int]) -> Detections:
    """Detections in a picture of `size` as those of the size that the annotations state: results are measured there."""
    return found._replace(boxes=scale_boxes(found.boxes, size, stated))


def _to_rows(position: int, found: Detections) -> np.ndarray:
    """Rows (k, 7) float32, which ranks exchange: position of the image, box, score, class. Exact for positions below 2 ** 24."""
    columns = (np.full(len(found.scores), position), *found.boxes.T, found.scores, found.classes)
    return np.stack(columns, axis=1).astype(np.float32)


def _from_rows(rows: np.ndarray) -> Iterator[tuple[int, Detections]]:
    """The detections of each image, by position; those of an image keep their order."""
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    positions, starts = np.unique(rows[:, 0], return_index=True)
    for position, part in zip(positions.tolist(), np.split(rows, starts[1:])):
        yield int(position), Detections(part[:, 1:5], part[:, 5], part[:, 6].astype(np.int64))


@functools.lru_cache(maxsize=1)
def _detector(network: nn.Cell) -> nn.Cell:
    """One for all evaluations of a training: it is compiled once."""
    return Detector(network)


def validation_classes(config: Config, class_names: Sequence[str]) -> tuple[CocoData, list[int]]:
    """The evaluation data of a training, and for each of its classes the index of the network's class output.

    Args:
        config: recipe, with the category ids of the training data.
        class_names: of the network's outputs.

    Raises:
        DataError: see `match_outputs`; so it is called before the first step too.
    """
    coco = read_split(config, "val")
    source, ids = coco.annotations.source, {"ids": coco.category_ids, "output_ids": config.category_ids}
    return coco, match_outputs(coco.class_names, class_names, len(class_names), source, **ids)


def validate(config: Config, network: nn.Cell, device: Device, class_names: Sequence[str]) -> dict[str, float]:
    """Measures WATCHED of a network in training, on the evaluation data; the same on all ranks.

    Args:
        config: recipe.
        network: images to raw maps, in evaluation mode.
        device: rank and size.
        class_names: of the network's outputs.

    Raises:
        DataError: see `evaluate`.
    """
    import_pycocotools()  # on every rank: an error on the first one alone would leave the others waiting
    coco, outputs = validation_classes(config, class_names)
    dataset = create_dataset(config, "val", device, coco.class_names)
    results = evaluate(_detector(network), dataset, coco, input_spec(config), config, device, outputs)
    stats = evaluate_results(coco.annotations, results).stats if device.is_main else [0.0] * len(STATS)
    # In float32 for any number of ranks, as Device.sum has it for several.
    measures = dict(zip(STATS, np.array(device.sum(stats), np.float32).tolist()))
    return {name: measures[name] for name in WATCHED}


def report(results: list[dict[str, Any]], annotations: Annotations, config: Config) -> CocoScores:
    """Log COCO's lines and, in log_path, write the results, the table of the classes and the precision-recall curves."""
    logger, folder = get_logger(), Path(config.log_path)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"predict_{time.strftime('%Y_%m_%d_%H_%M_%S')}.json"
    with whole_file(file) as temporary:
        temporary.write_text(json.dumps(results), encoding="utf-8")
    logger.info("result file path: %s", file)
    if not results:
        logger.info("no detections: no score is above eval_ignore_threshold=%g", config.eval_ignore_threshold)
    scores = evaluate_results(annotations, results)
    logger.info("%s", scores.block)
    if config.per_class_ap:
        logger.info("%s", class_table(scores.classes))
    for name, write, content in (
        ("per_class.csv", write_class_table, scores.classes),
        ("precision_recall.png", write_curves, scores),
    ):
        with whole_file(folder / name) as temporary:
            write(content, temporary)
    logger.info("AP of each class: %s", folder / "per_class.csv")
    logger.info("precision-recall curves: %s", folder / "precision_recall.png")
    return scores
