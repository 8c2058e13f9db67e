"""Training and evaluation pipelines side by side: one folder of images for each class, or a list of files and labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mindspore.dataset as ds
from mindspore.dataset import vision

from .image_list import check_image_list, image_list, read_image_list
from .model_utils.classification.pipeline import build_pipeline, count_image_folder, image_folder, image_positions
from .model_utils.classification.transforms import (
    classifier_input,
    eval_transforms,
    random_color,
    random_crop,
    random_flip,
    to_input,
)
from .model_utils.config import Config
from .model_utils.dataset_checks import check_image_folder
from .model_utils.device_adapter import Device

SMALLEST = 32  # pixels; the network halves its input five times


def input_spec(config: Config) -> dict[str, Any]:
    """What the network is fed in evaluation, see `classifier_input`."""
    return classifier_input(
        image_height=config.image_height,
        image_width=config.image_width,
        smallest=SMALLEST,
        crop_ratio=config.crop_ratio,
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
    )


def train_transforms(config: Config) -> list[Callable]:
    """Operators of the training pipeline, from the file's bytes to the network's (3, height, width) float32 input."""
    return [
        *random_crop(config.image_height, config.image_width, config.crop_scale),
        *random_flip(config.flip_prob),
        *random_color(config.color_jitter),
        *to_input(input_spec(config)),
    ]


def find_classes(config: Config, split: str, device: Device) -> list[str]:
    """Check the data of a split, "train" or "val", and return its class names in the order of their indices.

    Raises:
        DataError: what was expected, what was found.
    """
    path, list_file = data_source(config, split)
    num_classes = config.num_classes if split == "train" else None
    options = {
        "check_images": config.check_images,
        "max_pixels": config.max_pixels,
        "shard": (device.rank, device.size),
    }
    if list_file:
        outside = config.allow_outside_paths
        return check_image_list(path, list_file, num_classes, allow_outside=outside, **options)
    counterpart = config.val_data_dir if split == "train" else ""
    return check_image_folder(path, num_classes, counterpart=counterpart, **options)


def create_dataset(config: Config, split: str, device: Device, class_names: list[str], **progress) -> ds.Dataset:
    """Batches of a split, "train" or "val", for this rank.

    Args:
        config: recipe.
        split: "train" is augmented, "val" as it is.
        device: rank and size.
        class_names: names in the order of the class indices.
        **progress: epoch, skip_steps and reshuffled of `build_pipeline`, which says what the batches are.
    """
    path, list_file = data_source(config, split)
    rows = read_rows(config, list_file) if list_file else []
    operators = (
        train_transforms(config) if split == "train" else [vision.Decode(), *eval_transforms(input_spec(config))]
    )

    def source(sampler: ds.Sampler, workers: int) -> ds.Dataset:
        if list_file:
            return image_list(path, rows, sampler=sampler, num_parallel_workers=workers)
        return image_folder(path, class_names, sampler=sampler, num_parallel_workers=workers)

    images = range(len(rows)) if list_file else image_positions(path)
    return build_pipeline(source, images, operators, config, device, split=split, **progress)


def count_images(config: Config, split: str) -> int:
    """Images of a split, over all ranks."""
    path, list_file = data_source(config, split)
    return len(read_rows(config, list_file)) if list_file else count_image_folder(path)


def read_rows(config: Config, list_file: str) -> list[tuple[str, int]]:
    """Relative paths and labels of a list, see `read_image_list`."""
    return read_image_list(list_file, allow_outside=config.allow_outside_paths)


def data_source(config: Config, split: str) -> tuple[str, str]:
    """The image folder and the list file (empty: one folder for each class) of a split."""
    if split == "train":
        return config.data_dir, config.list_file
    return config.val_data_dir, config.val_list_file
