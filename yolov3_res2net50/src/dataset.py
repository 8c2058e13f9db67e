"""Training and evaluation pipelines side by side: what of the recipe, and of a COCO data set, the network is fed."""

from __future__ import annotations

import functools
from typing import Any

import cv2
import mindspore.dataset as ds
import numpy as np

from .data.batches import (
    AHEAD,
    SIZE,
    CocoSamples,
    EvaluationBatches,
    Order,
    TrainingBatches,
    random_stream,
    training_labels,
)
from .data.coco import KEYS, CocoData, data_paths, read_split
from .data.pictures import input_tables, to_input
from .data.targets import FIELDS, encode
from .data.transforms import GREY, METHODS, Augmentation
from .detect.boxes import place
from .model_utils.config import Config
from .model_utils.device_adapter import Device
from .model_utils.errors import DataError, UsageError, require_range
from .model_utils.logger import get_logger
from .model_utils.workers import worker_threads

STRIDE = 32  # pixels; the network's inputs are multiples of it


def input_spec(config: Config) -> dict[str, Any]:
    """What the network is fed in evaluation; stored with the weights. Sizes in pixels, mean and std on the scale 0-1.

    Raises:
        UsageError: a size, mean or std that cannot be.
    """
    height, width = input_size(config)
    if len(config.mean) != 3 or len(config.std) != 3 or min(config.std) <= 0:
        raise UsageError(f"mean={config.mean} std={config.std}: three numbers each are accepted, std above 0")
    return {
        "height": height,
        "width": width,
        "keep_ratio": config.keep_ratio,
        "interpolation": config.interpolation,
        "mean": list(config.mean),
        "std": list(config.std),
        "category_ids": list(config.get("category_ids") or []),
    }


def input_size(config: Config) -> tuple[int, int]:
    """Height and width in pixels of the network's input in evaluation; UsageError for a size that cannot be."""
    key = "testing_shape" if config.testing_shape else "test_img_shape"
    return parse_shape(key, config[key])


def eval_transform(picture: np.ndarray, spec: dict[str, Any]) -> np.ndarray:
    """A (h, w, 3) uint8 RGB picture as the network's (3, height, width) float32 input; grey borders with keep_ratio."""
    size = (spec["height"], spec["width"])
    where = place(picture.shape[:2], size, spec["keep_ratio"])
    canvas = np.full((*size, 3), GREY, np.uint8)
    resized = cv2.resize(picture, (where.width, where.height), interpolation=METHODS[spec["interpolation"]])
    canvas[where.top : where.top + where.height, where.left : where.left + where.width] = resized
    return to_input(canvas, input_tables(spec["mean"], spec["std"]))


def parse_shape(key: str, value: Any) -> tuple[int, int]:
    """Height and width from `416`, `320,416` or [320, 416].

    Raises:
        UsageError: anything else, or a side that is not a multiple of 32.
    """
    text = value if isinstance(value, str) else ",".join(map(str, value))
    sides = [side.strip() for side in text.strip().strip("[]()").split(",")]
    numbers = [int(side) for side in sides if side.isascii() and side.isdigit()]
    if len(numbers) != len(sides) or len(sides) not in (1, 2) or any(n < STRIDE or n % STRIDE for n in numbers):
        accepted = f"one side or height,width in pixels, multiples of {STRIDE} such as 416 or 320,416, are accepted"
        raise UsageError(f"{key}={text}: {accepted}")
    return numbers[0], numbers[-1]


def training_sizes(config: Config) -> list[tuple[int, int]]:
    """Heights and widths in pixels from which that of a training batch is drawn.

    Raises:
        UsageError: a size that cannot be.
    """
    if config.training_shape:
        return [parse_shape("training_shape", str(config.training_shape))]
    sides = config.multi_scale
    if not sides or any(not isinstance(side, int) or side < STRIDE or side % STRIDE for side in sides):
        raise UsageError(f"multi_scale={sides}: a list of sides in pixels, multiples of {STRIDE}, is accepted")
    return [(side, side) for side in sides]


def size_of_step(config: Config, step: int) -> tuple[int, int]:
    """Height and width of the training batch of a global step, which counts from 0; the same on all ranks."""
    sizes = training_sizes(config)
    rate = 1 if config.resize_rate is None else config.resize_rate
    if not isinstance(rate, int) or isinstance(rate, bool) or rate < 1:
        raise UsageError(f"resize_rate={rate}: a number of batches, 1 or more, is accepted; empty = 1")
    return sizes[random_stream(config.seed, SIZE, step // rate).integers(len(sizes))]


def check_anchors(config: Config) -> np.ndarray:
    """The nine anchors, (9, 2) float32 width and height in pixels.

    Raises:
        UsageError: anything else than nine pairs of positive numbers.
    """
    anchors = config.anchor_scales
    pairs = [pair for pair in anchors if isinstance(pair, (list, tuple)) and len(pair) == 2]
    numbers = [number for pair in pairs for number in pair if isinstance(number, (int, float)) and number > 0]
    if len(anchors) != 9 or len(numbers) != 18 or not np.isfinite(numbers).all():
        raise UsageError(f"anchor_scales={anchors}: nine pairs of positive numbers are accepted, [[10,13],[16,30],...]")
    return np.array(anchors, np.float32)


def find_classes(config: Config, split: str, device: Device) -> list[str]:
    """Check the data and return the class names in the order of their indices.

    Raises:
        DataError: what was expected, what was found.
    """
    paths = data_paths(config, split)
    if not config[KEYS[split][0]]:  # they were looked for
        get_logger().info("%s images: %s, annotations: %s", {"train": "training", "val": "evaluation"}[split], *paths)
    data = _read(config, split, device)
    if data.annotations.odd_areas:
        get_logger().warning(
            "%d areas of %s are no numbers; those of the boxes count", data.annotations.odd_areas, paths[1]
        )
    odd_boxes = int((~np.isfinite(data.annotations.bbox)).any(axis=1).sum())
    if odd_boxes and split == "val":
        get_logger().warning("%d boxes of %s are not finite and do not count", odd_boxes, paths[1])
    count = len(data.class_names)
    if "num_classes" in config.given and count > config.num_classes:
        advice = f"give --num_classes {count}, or none"
        raise DataError(f"{paths[1]} holds {count} classes, more than num_classes={config.num_classes}; {advice}")
    if split == "train":
        training_labels(data)
    return data.class_names


def count_images(config: Config, split: str) -> int:
    """Images of the data set over all ranks: in training those with a usable box, in evaluation all."""
    data = _read(config, split)
    return len(training_labels(data).positions) if split == "train" else len(data.paths)


def _read(config: Config, split: str, device: Device | None = None) -> CocoData:
    """The annotations; with a device its share of the image files is checked too."""
    shard = (device.rank, device.size) if device else (0, 1)
    level = config.check_images if device else "off"
    return read_split(config, split, check_images=level, shard=shard)


def create_dataset(
    config: Config,
    split: str,
    device: Device,
    class_names: list[str],
    *,
    epoch: int = 1,
    skip_steps: int = 0,
    reshuffled: bool = False,
) -> ds.Dataset:
    """Batches of the training or evaluation data for this rank.

    Training: image (B, 3, H, W) float32 and target (B, max_box, 7 + C) float32 of `targets.encode`; B = batch_size *
    accumulate_steps images of one size; the ranks have as many batches each, what remains is left out. C is the number
    of classes, or num_classes of the command line.
    Evaluation: image (B, 3, H, W) float32, index (B,) int32 position in `CocoData.image_ids`, size (B, 2) int32 height and
    width of the picture in pixels; in order, every image once over all ranks, the last batch is shorter.

    Args:
        config: recipe.
        split: "train" is augmented, "val" as it is.
        device: rank and size.
        class_names: names in the order of the class indices; the annotations need no others.
        epoch: training epoch, from 1.
        skip_steps: batches of the epoch that were already trained on.
        reshuffled: the pipeline serves several epochs, each reading of it is the next one.

    Raises:
        UsageError: an option that cannot be; `reshuffled` with batches of several sizes.
        DataError: data that cannot be used.
    """
    sizes = training_sizes(config) if split == "train" else []
    if reshuffled and len(set(sizes)) > 1:
        sides = ", ".join(f"{height}x{width}" for height, width in sizes)
        advice = "give one --training_shape, or --dataset_sink_mode false"
        raise UsageError(f"dataset_sink_mode=True: batches of several sizes ({sides}) are not accepted; {advice}")
    cv2.setNumThreads(0)  # the threads of the pipeline are enough, and OpenCV's would compete with them
    ds.config.set_prefetch_size(AHEAD)
    data, workers = _read(config, split), worker_threads(config)
    if split == "train":
        source = _training_batches(config, device, data, class_names, workers)
        source.start(epoch, skip_steps, reshuffled)
        columns = ["image", "target"]
    else:
        if len(data.paths) < device.size:
            advice = "use fewer devices or more images"
            raise DataError(
                f"{len(data.paths)} images on {device.size} devices: one or more on each are accepted; {advice}"
            )
        spec, share = input_spec(config), range(len(data.paths))[device.rank :: device.size]
        transform, size = functools.partial(eval_transform, spec=spec), (spec["height"], spec["width"])
        source = EvaluationBatches(data, share, config.batch_size, transform, size, workers)
        columns = ["image", "index", "size"]
    return ds.GeneratorDataset(source, columns, num_parallel_workers=1, python_multiprocessing=False)


def _training_batches(
    config: Config, device: Device, data: CocoData, class_names: list[str], workers: int
) -> TrainingBatches:
    """The training batches of a recipe; UsageError for an option that cannot be."""
    require_range(low=1, max_box=config.max_box)
    require_range(low=0, high=1, label_smooth_factor=config.label_smooth_factor)
    num_classes = max(len(class_names), config.num_classes if "num_classes" in config.given else 0)
    spec, samples = input_spec(config), CocoSamples(data, class_names)
    batch_size = config.batch_size * config.accumulate_steps
    to_rows = functools.partial(
        encode,
        anchors=check_anchors(config),
        num_classes=num_classes,
        max_box=config.max_box,
        smoothing=config.label_smooth_factor if config.label_smooth else 0.0,
    )
    return TrainingBatches(
        samples,
        Order(len(samples), config.seed, device.rank, device.size, batch_size),
        functools.partial(size_of_step, config),
        Augmentation.of(config),
        to_rows,
        (config.max_box, FIELDS + num_classes),
        input_tables(spec["mean"], spec["std"]),
        workers,
    )
