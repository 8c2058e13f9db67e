"""Batches of pictures for MindData, made by threads.

A pass over the data needs no history. The order of an epoch follows from (seed, epoch), the size of a batch from the seed
and the global step, the augmentation of an image from (seed, epoch, image): a run can be resumed exactly, and neither
the number of threads nor that of the devices changes what is done to an image. The threads work a few batches ahead;
MindData's own would fill a queue of sixteen batches each, which is gigabytes at 608 pixels.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np

from ..model_utils.class_order import class_indices
from ..model_utils.dataset_checks import require_steps
from ..model_utils.errors import DataError
from ..model_utils.logger import get_logger
from .coco import CocoData
from .pictures import decode, read_picture, to_input
from .sizes import require_same_aspect
from .transforms import SMALLEST_SIDE, Augmentation, augment

# The words from which dataset_checks.data_error makes one line.
DAMAGED = "data file is: {path}. Failed to decode: {reason}\n\n"
AHEAD = 2  # batches in the making besides the one that is handed out
ORDER, SIZE, IMAGE = range(3)  # kinds of random streams


def random_stream(seed: int, *numbers: int) -> np.random.Generator:
    """Random numbers of their own for each combination of the arguments."""
    return np.random.default_rng([seed & 0xFFFFFFFF, *numbers])


@dataclass(frozen=True)
class Labels:
    """Of the images that training uses: positions in the data set, boxes (k, 4) in pixels and classes (k,)."""

    positions: list[int]
    boxes: list[np.ndarray]
    classes: list[np.ndarray]


@functools.lru_cache(maxsize=4)
def training_labels(data: CocoData) -> Labels:
    """The images with at least one box that is no crowd and has sides above 1 pixel, and these boxes.

    The first call logs what is left out.

    Raises:
        DataError: there is none.
    """
    labels = Labels([], [], [])
    for position, (boxes, classes, crowd) in enumerate(zip(data.boxes, data.classes, data.crowd)):
        usable = (boxes[:, 2:] - boxes[:, :2] > SMALLEST_SIDE).all(axis=1) & ~crowd
        if usable.any():
            labels.positions.append(position)
            labels.boxes.append(boxes[usable])
            labels.classes.append(classes[usable])
    found, images = len(labels.positions), len(data.paths)
    if not found:
        raise DataError(f"none of the {images} training images has a box of more than 1 x 1 pixels that is no crowd")
    if data.clipped or data.dropped:
        text = "%d boxes reach over the border of their image and are clipped, %d boxes have no area in it and do not count"
        get_logger().warning(text, data.clipped, data.dropped)
    if found < images:
        get_logger().info("%d of %d training images have no usable box and are left out", images - found, images)
    return labels


class CocoSamples:
    """The images of `training_labels`, with the classes in the order of `class_names`; see `transforms.Samples`.

    Raises:
        DataError: the data set has another class, or names that occur twice in another order.
    """

    def __init__(self, data: CocoData, class_names: list[str]):
        self.data, self.images = data, training_labels(data)
        unknown = sorted(set(data.class_names) - set(class_names))
        if unknown:
            raise DataError(f"the annotations have the class {unknown[0]!r}, the network has {', '.join(class_names)}")
        self._indices = np.array(class_indices(data.class_names, class_names, "the annotations"), np.int32)

    def __len__(self) -> int:
        return len(self.images.positions)

    def labels(self, index: int) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
        position = self.images.positions[index]
        size = _readable(lambda path: self.data.size(position), self.data.paths[position])
        boxes = self.data.in_picture(position, self.images.boxes[index])
        return size, boxes, self._indices[self.images.classes[index]]

    def decode(self, index: int, reduce: int) -> tuple[np.ndarray, int]:
        position = self.images.positions[index]
        size = self.data.stated_size(position)
        return _readable(functools.partial(decode, size=size, reduce=reduce), self.data.paths[position])


def _readable(read: Callable, path: Path):
    """`read(path)`, with the path in the message where the file is damaged."""
    try:
        return read(path)
    except (ValueError, OSError) as error:
        raise ValueError(DAMAGED.format(path=path, reason=error)) from error


@dataclass(frozen=True)
class Order:
    """Which images of `images` make the training batches of a rank; as many of `batch_size` on each of `size` ranks."""

    images: int
    seed: int
    rank: int
    size: int
    batch_size: int

    @property
    def steps(self) -> int:
        """Batches of an epoch; DataError where there is none."""
        return require_steps(self.images, self.batch_size, self.size)

    def batches(self, epoch: int) -> np.ndarray:
        """(steps, batch_size) indices."""
        order = random_stream(self.seed, ORDER, epoch).permutation(self.images)
        shard = order[self.rank : self.images // self.size * self.size : self.size]
        return shard[: self.steps * self.batch_size].reshape(self.steps, self.batch_size)


class Batches:
    """Batches in order; threads fill the images of the next few."""

    def __init__(self, workers: int):
        self.workers = workers

    def plan(self) -> Iterator[tuple[tuple[np.ndarray, ...], Sequence[Callable[[], None]]]]:
        """For each batch its columns, and the tasks that fill them."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        pool, pending = ThreadPoolExecutor(self.workers), deque()
        try:
            for columns, tasks in self.plan():
                pending.append((columns, [pool.submit(task) for task in tasks]))
                if len(pending) > AHEAD:
                    yield _finished(*pending.popleft())
            while pending:
                yield _finished(*pending.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _finished(columns: tuple[np.ndarray, ...], tasks: list[Future]) -> tuple[np.ndarray, ...]:
    for task in tasks:
        task.result()
    return columns


class TrainingBatches(Batches):
    """Batches of augmented images (B, 3, H, W) and targets (B, *target_shape), both float32.

    Args:
        samples: images and boxes.
        order: of the images.
        size_of_step: global step, from 0, to height and width of its images.
        options: what is done to an image.
        encode: (boxes, classes, input_size, weights=) to the target rows.
        target_shape: of these.
        tables: of `pictures.input_tables`.
        workers: threads.
    """

    def __init__(
        self,
        samples: CocoSamples,
        order: Order,
        size_of_step: Callable[[int], tuple[int, int]],
        options: Augmentation,
        encode: Callable[..., np.ndarray],
        target_shape: tuple[int, int],
        tables: np.ndarray,
        workers: int,
    ):
        super().__init__(workers)
        self.samples, self.order, self.size_of_step, self.options = samples, order, size_of_step, options
        self.encode, self.target_shape, self.tables = encode, target_shape, tables
        self.steps = order.steps
        self.start(1)

    def start(self, epoch: int, skip_steps: int = 0, advancing: bool = False) -> None:
        """What the next reading gives: the epoch, from 1, from a batch of it on; `advancing`: each reading is an epoch later.

        MindData may begin a reading to learn the shapes of the columns. It counts as well, alike on all ranks.
        """
        self.epoch, self.skip_steps, self.advancing = epoch, skip_steps, advancing

    def __len__(self) -> int:
        return self.steps - self.skip_steps

    def plan(self) -> Iterator[tuple[tuple[np.ndarray, np.ndarray], list[Callable[[], None]]]]:
        epoch = self.epoch
        self.epoch += self.advancing
        batches = self.order.batches(epoch)
        for step in range(self.skip_steps, self.steps):
            size = self.size_of_step((epoch - 1) * self.steps + step)
            images = np.empty((len(batches[step]), 3, *size), np.float32)
            targets = np.empty((len(batches[step]), *self.target_shape), np.float32)
            rows = zip(batches[step].tolist(), images, targets)
            yield (images, targets), [functools.partial(self._fill, epoch, *row) for row in rows]

    def _fill(self, epoch: int, index: int, image: np.ndarray, target: np.ndarray) -> None:
        """Write one image (3, H, W) and its target rows."""
        rng = random_stream(self.order.seed, IMAGE, epoch, index)
        scene = augment(self.samples, index, image.shape[1:], self.options, rng)
        boxes, classes, weights = scene.boxes, scene.classes, scene.weights
        if len(boxes) > len(target):  # which of them count is left to chance
            kept = rng.permutation(len(boxes))
            boxes, classes, weights = boxes[kept], classes[kept], weights[kept]
        target[:] = self.encode(boxes, classes, image.shape[1:], weights=weights)
        to_input(scene.picture, self.tables, image)


class EvaluationBatches(Batches):
    """Batches of images (B, 3, H, W) float32, positions (B,) int32 and picture sizes (B, 2) int32, height and width.

    Args:
        data: data set.
        positions: of the images to read.
        batch_size: of all batches but the last one.
        transform: picture (h, w, 3) uint8 to the network's input (3, H, W) float32.
        workers: threads.
    """

    def __init__(
        self,
        data: CocoData,
        positions: Sequence[int],
        batch_size: int,
        transform: Callable[[np.ndarray], np.ndarray],
        input_size: tuple[int, int],
        workers: int,
    ):
        super().__init__(workers)
        self.data, self.positions, self.batch_size = data, positions, batch_size
        self.transform, self.input_size = transform, input_size

    def __len__(self) -> int:
        return -(-len(self.positions) // self.batch_size)

    def plan(self) -> Iterator[tuple[tuple[np.ndarray, ...], list[Callable[[], None]]]]:
        for start in range(0, len(self.positions), self.batch_size):
            index = np.array(self.positions[start : start + self.batch_size], np.int32)
            images = np.empty((len(index), 3, *self.input_size), np.float32)
            sizes = np.empty((len(index), 2), np.int32)
            rows = zip(index.tolist(), images, sizes)
            yield (images, index, sizes), [functools.partial(self._fill, *row) for row in rows]

    def _fill(self, position: int, image: np.ndarray, size: np.ndarray) -> None:
        picture = _readable(functools.partial(self._read, position), self.data.paths[position])
        image[:], size[:] = self.transform(picture), picture.shape[:2]

    def _read(self, position: int, path: Path) -> np.ndarray:
        """A picture; ValueError where its size is not the stated one, nor that resized."""
        stated = self.data.stated_size(position)
        picture = read_picture(path, stated)
        require_same_aspect(picture.shape[:2], stated)
        return picture
