"""Training and evaluation pipelines side by side, for ImageNet (one folder a class) and CIFAR-10 (binary files)."""

from __future__ import annotations

from typing import Any

import mindspore.dataset as ds
import numpy as np
from mindspore.dataset import vision
from mindspore.dataset.vision import Inter

from .model_utils.config import Config, DataError, UsageError
from .model_utils.dataset_checks import check_cifar10, check_image_folder, cifar10_files
from .model_utils.device_adapter import Device
from .pipeline import build_pipeline, count_image_folder, image_folder

# PILCUBIC is Pillow's bicubic, bit for bit: it averages over all pixels below the kernel, the other two do not.
INTERPOLATIONS = {"nearest": Inter.NEAREST, "bilinear": Inter.BILINEAR, "bicubic": Inter.PILCUBIC}


def input_spec(config: Config) -> dict[str, Any]:
    """What the network is fed in evaluation; stored with the weights. Sizes in pixels, mean and std on the scale 0-1.

    Raises:
        UsageError: a size, crop ratio, mean or std that cannot be.
    """
    if config.image_height != config.image_width or config.image_height < 16:
        raise UsageError(
            f"image_height={config.image_height} image_width={config.image_width}: equal values of 16 or more are accepted"
        )
    if not 0 < config.crop_ratio <= 1:
        raise UsageError(f"crop_ratio={config.crop_ratio}: above 0 and up to 1 is accepted")
    if len(config.mean) != 3 or len(config.std) != 3 or min(config.std) <= 0:
        raise UsageError(f"mean={config.mean} std={config.std}: three numbers each are accepted, std above 0")
    return {
        "height": config.image_height,
        "width": config.image_width,
        "resize": "both_sides" if config.dataset_name == "cifar10" else "shorter_side",
        "crop_ratio": config.crop_ratio,
        "interpolation": config.interpolation,
        "mean": list(config.mean),
        "std": list(config.std),
    }


def eval_transforms(spec: dict[str, Any]) -> list:
    """Operators that take a decoded (H, W, 3) uint8 RGB picture to the network's (3, height, width) float32 input."""
    size = (spec["height"], spec["width"])
    interpolation = INTERPOLATIONS[spec["interpolation"]]
    if spec["resize"] == "both_sides":
        resize = [vision.Resize(size, interpolation)]
    else:
        shorter_side = int(spec["height"] / spec["crop_ratio"])
        resize = [vision.Resize(shorter_side, interpolation), vision.CenterCrop(size)]
    return resize + _to_input(spec)


def _to_input(spec: dict[str, Any]) -> list:
    scaled = [[255.0 * value for value in spec[key]] for key in ("mean", "std")]
    return [vision.Normalize(*scaled), vision.HWC2CHW()]


def train_transforms(config: Config) -> list:
    """Operators of the training pipeline, from the file's bytes (imagenet) or the 32x32 picture (cifar10)."""
    spec, size = input_spec(config), (config.image_height, config.image_width)
    if config.dataset_name == "imagenet":
        crop = [vision.RandomCropDecodeResize(size, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))]
    else:
        crop = [vision.RandomCrop((32, 32), (4, 4, 4, 4))]
    augment = [vision.RandomHorizontalFlip(config.flip_prob)] if config.flip_prob else []
    augment += _color_jitter(config.color_jitter)
    if config.dataset_name == "imagenet":
        return crop + augment + _to_input(spec)
    normalize, to_chw = _to_input(spec)
    if not 0 <= config.cutout_ratio <= 1:
        raise UsageError(f"cutout_ratio={config.cutout_ratio}: 0 to 1 is accepted")
    cutout_side = int(config.cutout_ratio * config.image_height)
    cutout = [vision.CutOut(cutout_side, is_hwc=True)] if cutout_side else []
    return crop + augment + [vision.Resize(size), normalize] + cutout + [to_chw]


def _color_jitter(ranges: list[float]) -> list:
    """Brightness, contrast and saturation factors from [1 - r, 1 + r], hue shift from [-r, r] of the colour circle."""
    if len(ranges) != 4 or min(ranges) < 0 or ranges[3] > 0.5:
        raise UsageError(f"color_jitter={ranges}: four numbers of 0 or more are accepted, the hue up to 0.5")
    if not any(ranges):
        return []
    factors = [(max(0.0, 1 - r), 1 + r) for r in ranges[:3]]
    return [vision.RandomColorAdjust(*factors, hue=(-ranges[3], ranges[3]))]


def find_classes(config: Config, is_train: bool, device: Device) -> list[str]:
    """Check the data folder and return its class names in the order of their indices.

    Raises:
        DataError: what was expected, what was found.
    """
    if config.dataset_name == "cifar10":
        path, usage = (config.train_data_dir, "train") if is_train else (config.val_data_dir, "test")
        names = check_cifar10(path, usage)
        if config.num_classes < len(names):
            raise DataError(f"num_classes={config.num_classes}: {path} has {len(names)} classes; give --num_classes 10")
        return names
    path = config.train_data_dir if is_train else config.val_data_dir
    return check_image_folder(
        path, config.num_classes, check_images=config.check_images, shard=(device.rank, device.size)
    )


def create_dataset(config: Config, is_train: bool, device: Device, class_names: list[str], **progress) -> ds.Dataset:
    """Batches of the training or validation data for this rank.

    Args:
        config: recipe.
        is_train: augmented, or as it is.
        device: rank and size.
        class_names: names in the order of the class indices.
        **progress: epoch, skip_steps and reshuffled of `build_pipeline`, which says what the batches are.
    """
    if is_train:
        operators = train_transforms(config)
    else:
        decode = [vision.Decode()] if config.dataset_name == "imagenet" else []
        operators = decode + eval_transforms(input_spec(config))

    def source(sampler: ds.Sampler, workers: int) -> ds.Dataset:
        return _source(config, is_train, class_names, workers, sampler)

    images = count_images(config, is_train)
    return build_pipeline(source, images, operators, config, device, is_train=is_train, **progress)


def count_images(config: Config, is_train: bool) -> int:
    """Images of the data set, over all ranks."""
    path = config.train_data_dir if is_train else config.val_data_dir
    if config.dataset_name == "cifar10":
        return len(read_cifar10(path, is_train)[1])
    return count_image_folder(path)


def read_cifar10(path: str, is_train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3) uint8 RGB and labels (N,) int32 of CIFAR-10's binary files."""
    files = cifar10_files(path, "train" if is_train else "test")
    records = np.concatenate([np.fromfile(file, np.uint8) for file in files]).reshape(-1, 1 + 3 * 32 * 32)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0].astype(np.int32)


def _source(config: Config, is_train: bool, class_names: list[str], workers: int, sampler: ds.Sampler) -> ds.Dataset:
    """The images that the sampler chooses, with their labels."""
    path = config.train_data_dir if is_train else config.val_data_dir
    if config.dataset_name == "cifar10":  # MindData's Cifar10Dataset takes 10,000 records of a file, whatever it holds
        images, labels = read_cifar10(path, is_train)
        return ds.NumpySlicesDataset((images, labels), ["image", "label"], sampler=sampler, num_parallel_workers=1)
    return image_folder(path, class_names, sampler=sampler, num_parallel_workers=workers)
