# Shared file: source utils/model_utils/classification/pipeline.py; copy with: python scripts/sync_model_utils.py --write
"""The mechanics of a data pipeline: order, shards, seeds, workers, batches. What is done to an image is the recipe's own.

The order of an epoch is a permutation drawn from (seed, epoch), the augmentation from (seed, epoch, rank): an epoch needs
no history, so a run can be resumed exactly, and the shards of several devices never overlap.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
from mindspore.dataset import transforms

from ..config import Config
from ..device_adapter import Device
from ..errors import require_range, require_seed
from ..image_folder import ENDINGS, list_image_folder
from ..workers import worker_threads


def build_pipeline(
    source: Callable[[ds.Sampler, int], ds.Dataset],
    images: Sequence[int],
    operators: Sequence[Callable],
    config: Config,
    device: Device,
    *,
    split: str,
    epoch: int = 1,
    skip_steps: int = 0,
    reshuffled: bool = False,
    serial_operators: Sequence[Callable] = (),
    batch_operators: Sequence[Callable] = (),
) -> ds.Dataset:
    """Batches (images, labels): (B, 3, H, W) float32 and (B,) int32, for this rank.

    Args:
        source: makes the data set with the columns image and label from a sampler and a number of workers.
        images: positions in the source of the data set's images, over all ranks.
        operators: from the source's image to (3, H, W) float32.
        config: recipe.
        device: rank and size.
        split: "train": shuffled, batches of batch_size * accumulate_steps without the last partial one; "val": in order,
            each image once over all ranks, the last batch shorter.
        epoch: training epoch, from 1.
        skip_steps: batches of the epoch that were already trained on.
        reshuffled: the pipeline serves several epochs; MindData draws a new order of the rank's images for each of
            them, and starts anew where such a run is resumed.
        serial_operators: after the others, on one image at a time: those that draw from the process's random numbers.
        batch_operators: from batches of images and labels to such ones; the labels are then (B, num_classes) float32
            distributions.

    Raises:
        UsageError: a batch size, a seed or a number of workers that cannot be.
    """
    require_range(low=1, batch_size=config.batch_size)
    require_seed(config.seed)
    workers, is_train = worker_threads(config), split == "train"
    seed = np.random.SeedSequence([config.seed, epoch, device.rank]).generate_state(1)[0] & 0x7FFFFFFF
    ds.config.set_seed(int(seed))
    shard = _shard(images, split, config.seed, device, epoch)
    sampler = ds.SubsetRandomSampler if reshuffled else ds.SubsetSampler
    dataset = source(sampler(shard or [0]), workers)  # from numpy arrays, MindData would crash without any image
    dataset = dataset.map(list(operators), "image", num_parallel_workers=workers)
    if serial_operators:
        dataset = dataset.map(list(serial_operators), "image", num_parallel_workers=1)
    dataset = dataset.map(transforms.TypeCast(ms.int32), "label", num_parallel_workers=1)
    if batch_operators:
        dataset = dataset.map(transforms.OneHot(config.num_classes), "label", num_parallel_workers=1)
    batch_size = config.batch_size * (config.accumulate_steps if is_train else 1)
    dataset = dataset.batch(batch_size, drop_remainder=is_train, num_parallel_workers=1)
    for operator in batch_operators:
        dataset = dataset.map(operator, ["image", "label"], num_parallel_workers=1)
    skip_steps = skip_steps if shard else 1
    return dataset.skip(skip_steps) if skip_steps else dataset


def _shard(images: Sequence[int], split: str, seed: int, device: Device, epoch: int) -> list[int]:
    """Which images this rank reads: in training as many on each rank, in evaluation all of them exactly once."""
    order = np.asarray(images, np.int64)
    if split == "train":
        order = np.random.RandomState([seed & 0xFFFFFFFF, epoch]).permutation(order)
        order = order[: len(images) // device.size * device.size]
    return order[device.rank :: device.size].tolist()


def image_folder(path: str, class_names: list[str], **options) -> ds.Dataset:
    """All files with the ending of an image in the class folders; of `image_positions` are those of the data set.

    Args:
        path: folder with one folder of images for each class, of which it may lack some.
        class_names: a class has its index in them.
        **options: of ImageFolderDataset.
    """
    indices = {name: i for i, name in enumerate(class_names) if os.path.isdir(os.path.join(path, name))}
    return ds.ImageFolderDataset(path, class_indexing=indices, extensions=list(ENDINGS), **options)


def image_positions(path: str) -> list[int]:
    """Where the images of a folder stand in `image_folder`, which has hidden and system files too."""
    return list_image_folder(path).positions


def count_image_folder(path: str) -> int:
    """Images of a folder with one folder of images for each class."""
    return len(image_positions(path))
