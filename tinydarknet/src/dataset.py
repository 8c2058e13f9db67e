"""Training and evaluation pipelines side by side, for ImageNet (one folder a class) and CIFAR-10 (binary files)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mindspore.dataset as ds
import numpy as np
from mindspore.dataset import vision

from .model_utils.classification.pipeline import build_pipeline, count_image_folder, image_folder, image_positions
from .model_utils.classification.transforms import (
    classifier_input,
    cutout,
    eval_transforms,
    random_color,
    random_crop,
    random_flip,
    to_input,
)
from .model_utils.config import Config
from .model_utils.dataset_checks import check_cifar10, check_image_folder, cifar10_files
from .model_utils.device_adapter import Device
from .model_utils.errors import DataError

SMALLEST = 16  # pixels; the network halves its input four times
CIFAR10_USAGES = {"train": "train", "val": "test"}  # which files of CIFAR-10 are a split


def input_spec(config: Config) -> dict[str, Any]:
    """What the network is fed in evaluation, see `classifier_input`; CIFAR-10's square pictures are resized as a whole."""
    return classifier_input(
        image_height=config.image_height,
        image_width=config.image_width,
        smallest=SMALLEST,
        crop_ratio=config.crop_ratio,
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
        resize="both_sides" if config.dataset_name == "cifar10" else "shorter_side",
    )


def train_transforms(config: Config) -> list[Callable]:
    """Operators of the training pipeline, from the file's bytes (imagenet) or the 32x32 picture (cifar10)."""
    spec, size = input_spec(config), (config.image_height, config.image_width)
    augment = random_flip(config.flip_prob) + random_color(config.color_jitter)
    if config.dataset_name == "imagenet":
        return [*random_crop(*size, crop_scale=0.08), *augment, *to_input(spec)]
    normalize, to_chw = to_input(spec)
    shift = vision.RandomCrop((32, 32), (4, 4, 4, 4))
    blank = cutout(config.cutout_ratio, config.image_height)
    return [shift, *augment, vision.Resize(size), normalize, *blank, to_chw]


def find_classes(config: Config, split: str, device: Device) -> list[str]:
    """Check the data of a split, "train" or "val", and return its class names in the order of their indices.

    Raises:
        DataError: what was expected, what was found.
    """
    path, num_classes = _path(config, split), config.num_classes if split == "train" else None
    if config.dataset_name == "cifar10":
        names = check_cifar10(path, CIFAR10_USAGES[split])
        if num_classes is not None and num_classes < len(names):
            raise DataError(f"num_classes={num_classes}: {path} has {len(names)} classes; give --num_classes 10")
        return names
    return check_image_folder(
        path,
        num_classes,
        check_images=config.check_images,
        max_pixels=config.max_pixels,
        shard=(device.rank, device.size),
        counterpart=config.val_data_dir if split == "train" else "",
    )


def create_dataset(config: Config, split: str, device: Device, class_names: list[str], **progress) -> ds.Dataset:
    """Batches of a split, "train" or "val", for this rank.

    Args:
        config: recipe.
        split: "train" is augmented, "val" as it is.
        device: rank and size.
        class_names: names in the order of the class indices.
        **progress: epoch, skip_steps and reshuffled of `build_pipeline`, which says what the batches are.
    """
    if split == "train":
        operators = train_transforms(config)
    else:
        decode = [vision.Decode()] if config.dataset_name == "imagenet" else []
        operators = decode + eval_transforms(input_spec(config))

    def source(sampler: ds.Sampler, workers: int) -> ds.Dataset:
        return _source(config, split, class_names, workers, sampler)

    is_cifar10 = config.dataset_name == "cifar10"
    images = range(count_images(config, split)) if is_cifar10 else image_positions(_path(config, split))
    return build_pipeline(source, images, operators, config, device, split=split, **progress)


def count_images(config: Config, split: str) -> int:
    """Images of a split, over all ranks."""
    path = _path(config, split)
    return len(read_cifar10(path, split)[1]) if config.dataset_name == "cifar10" else count_image_folder(path)


def read_cifar10(path: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3) uint8 RGB and labels (N,) int32 of CIFAR-10's binary files."""
    files = cifar10_files(path, CIFAR10_USAGES[split])
    records = np.concatenate([np.fromfile(file, np.uint8) for file in files]).reshape(-1, 1 + 3 * 32 * 32)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0].astype(np.int32)


def _source(config: Config, split: str, class_names: list[str], workers: int, sampler: ds.Sampler) -> ds.Dataset:
    """The images that the sampler chooses, with their labels."""
    path = _path(config, split)
    if config.dataset_name == "cifar10":  # MindData's Cifar10Dataset takes 10,000 records of a file, whatever it holds
        return ds.NumpySlicesDataset(
            read_cifar10(path, split), ["image", "label"], sampler=sampler, num_parallel_workers=1
        )
    return image_folder(path, class_names, sampler=sampler, num_parallel_workers=workers)


def _path(config: Config, split: str) -> str:
    return config.train_data_dir if split == "train" else config.val_data_dir
