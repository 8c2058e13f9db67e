"""Training and evaluation pipelines side by side: one folder of images for each class, or a list of files and labels."""

from __future__ import annotations

from typing import Any

import mindspore.dataset as ds
from mindspore.dataset import vision
from mindspore.dataset.vision import Inter

from .image_list import check_image_list, image_list, read_image_list
from .model_utils.config import Config, UsageError
from .model_utils.dataset_checks import check_image_folder
from .model_utils.device_adapter import Device
from .pipeline import build_pipeline, count_image_folder, image_folder

# PILCUBIC is Pillow's bicubic, bit for bit: it averages over all pixels below the kernel, the other two do not.
INTERPOLATIONS = {"nearest": Inter.NEAREST, "bilinear": Inter.BILINEAR, "bicubic": Inter.PILCUBIC}
SMALLEST = 32  # pixels; the network halves its input five times


def input_spec(config: Config) -> dict[str, Any]:
    """What the network is fed in evaluation; stored with the weights. Sizes in pixels, mean and std on the scale 0-1.

    Raises:
        UsageError: a size, crop ratio, mean or std that cannot be.
    """
    if config.image_height != config.image_width or config.image_height < SMALLEST:
        raise UsageError(
            f"image_height={config.image_height} image_width={config.image_width}: equal values of {SMALLEST} or more "
            "are accepted"
        )
    if not 0 < config.crop_ratio <= 1:
        raise UsageError(f"crop_ratio={config.crop_ratio}: above 0 and up to 1 is accepted")
    if len(config.mean) != 3 or len(config.std) != 3 or min(config.std) <= 0:
        raise UsageError(f"mean={config.mean} std={config.std}: three numbers each are accepted, std above 0")
    return {
        "height": config.image_height,
        "width": config.image_width,
        "resize": "shorter_side",
        "crop_ratio": config.crop_ratio,
        "interpolation": config.interpolation,
        "mean": list(config.mean),
        "std": list(config.std),
    }


def eval_transforms(spec: dict[str, Any]) -> list:
    """Operators that take a decoded (H, W, 3) uint8 RGB picture to the network's (3, height, width) float32 input.

    The shorter side is resized to height / crop_ratio (rounded down), the aspect ratio is kept, the centre is cropped.
    """
    shorter_side = int(spec["height"] / spec["crop_ratio"])
    resize = vision.Resize(shorter_side, INTERPOLATIONS[spec["interpolation"]])
    return [resize, vision.CenterCrop((spec["height"], spec["width"])), *_to_input(spec)]


def train_transforms(config: Config) -> list:
    """Operators of the training pipeline, from the file's bytes to the network's (3, height, width) float32 input."""
    size = (config.image_height, config.image_width)
    if not 0 < config.crop_scale <= 1:
        raise UsageError(f"crop_scale={config.crop_scale}: above 0 and up to 1 is accepted")
    operators = [vision.RandomCropDecodeResize(size, scale=(config.crop_scale, 1.0), ratio=(3 / 4, 4 / 3))]
    if config.flip_prob:
        operators.append(vision.RandomHorizontalFlip(config.flip_prob))
    return [*operators, *_color_jitter(config.color_jitter), *_to_input(input_spec(config))]


def _to_input(spec: dict[str, Any]) -> list:
    scaled = [[255.0 * value for value in spec[key]] for key in ("mean", "std")]
    return [vision.Normalize(*scaled), vision.HWC2CHW()]


def _color_jitter(ranges: list[float]) -> list:
    """Brightness, contrast and saturation factors from [1 - r, 1 + r], hue shift from [-r, r] of the colour circle."""
    if len(ranges) != 4 or min(ranges) < 0 or ranges[3] > 0.5:
        raise UsageError(f"color_jitter={ranges}: four numbers of 0 or more are accepted, the hue up to 0.5")
    if not any(ranges):
        return []
    factors = [(max(0.0, 1 - r), 1 + r) for r in ranges[:3]]
    return [vision.RandomColorAdjust(*factors, hue=(-ranges[3], ranges[3]))]


def find_classes(config: Config, is_train: bool, device: Device) -> list[str]:
    """Check the data and return the class names in the order of their indices.

    Raises:
        DataError: what was expected, what was found.
    """
    path, list_file = data_source(config, is_train)
    shard = (device.rank, device.size)
    if list_file:
        return check_image_list(path, list_file, config.num_classes, check_images=config.check_images, shard=shard)
    return check_image_folder(path, config.num_classes, check_images=config.check_images, shard=shard)


def create_dataset(config: Config, is_train: bool, device: Device, class_names: list[str], **progress) -> ds.Dataset:
    """Batches of the training or validation data for this rank.

    Args:
        config: recipe.
        is_train: augmented, or as it is.
        device: rank and size.
        class_names: names in the order of the class indices.
        **progress: epoch, skip_steps and reshuffled of `build_pipeline`, which says what the batches are.
    """
    path, list_file = data_source(config, is_train)
    operators = train_transforms(config) if is_train else [vision.Decode(), *eval_transforms(input_spec(config))]

    def source(sampler: ds.Sampler, workers: int) -> ds.Dataset:
        if list_file:
            return image_list(path, list_file, sampler=sampler, num_parallel_workers=workers)
        return image_folder(path, class_names, sampler=sampler, num_parallel_workers=workers)

    images = count_images(config, is_train)
    return build_pipeline(source, images, operators, config, device, is_train=is_train, **progress)


def count_images(config: Config, is_train: bool) -> int:
    """Images of the data set, over all ranks."""
    path, list_file = data_source(config, is_train)
    return len(read_image_list(list_file)) if list_file else count_image_folder(path)


def data_source(config: Config, is_train: bool) -> tuple[str, str]:
    """The image folder and the list file (empty: one folder for each class) of the training or the validation data."""
    if is_train:
        return config.data_dir, config.list_file
    return config.val_data_dir, config.val_list_file
