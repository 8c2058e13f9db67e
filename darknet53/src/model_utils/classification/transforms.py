# Shared file: source utils/model_utils/classification/transforms.py; copy with: python scripts/sync_model_utils.py --write
"""What is done to a picture of an image classifier: operators of MindData, checked where they are built.

Pictures are (H, W, 3) uint8 RGB until they are normalized; the network's input is (3, height, width) float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mindspore.dataset import vision
from mindspore.dataset.vision import Inter

from ..errors import UsageError, require_range

# PILCUBIC is Pillow's bicubic, bit for bit: it averages over all pixels below the kernel, the other two do not.
INTERPOLATIONS = {"nearest": Inter.NEAREST, "bilinear": Inter.BILINEAR, "bicubic": Inter.PILCUBIC}
LARGEST_SIDE = 16384  # pixels of the shorter side of a resized picture
RATIOS = (3 / 4, 4 / 3)  # of width and height of a random crop
RAND_AUGMENT_BINS = 31  # magnitudes of RandAugment: 0 to 30
LARGEST_NUMBER = 2**24  # that MindData takes for a number of operations or an alpha

# ---- The input of the network ----------------------------------------------------------------------------------------


def classifier_input(
    *,
    image_height: int,
    image_width: int,
    smallest: int,
    crop_ratio: float,
    interpolation: str,
    mean: Sequence[float],
    std: Sequence[float],
    resize: str = "shorter_side",
) -> dict[str, Any]:
    """What a classifier is fed in evaluation, as it is stored with the weights.

    Args:
        image_height: of the input in pixels.
        image_width: equal to the height.
        smallest: height that the network needs at least.
        crop_ratio: the shorter side is resized to image_height / crop_ratio, above 0 and up to 1.
        interpolation: nearest, bilinear or bicubic.
        mean: of the red, green and blue channels, on the scale 0-1.
        std: of the channels, above 0, on the same scale.
        resize: shorter_side keeps the aspect ratio, and the centre is cropped; both_sides squeezes the picture.

    Raises:
        UsageError: a size, crop ratio, mean or std that cannot be.
    """
    if image_height != image_width or image_height < smallest:
        given = f"image_height={image_height} image_width={image_width}"
        raise UsageError(f"{given}: equal values of {smallest} or more are accepted")
    require_range(above=0, high=1, crop_ratio=crop_ratio)
    if image_height / crop_ratio > LARGEST_SIDE:
        given = f"image_height={image_height} crop_ratio={crop_ratio}"
        raise UsageError(
            f"{given}: their quotient, to which pictures are resized, is accepted up to {LARGEST_SIDE} pixels"
        )
    if len(mean) != 3 or len(std) != 3:
        raise UsageError(f"mean={mean} std={std}: three numbers each are accepted")
    require_range(low=0, high=1, mean=list(mean))
    require_range(above=0, high=1, std=list(std))
    return {
        "height": image_height,
        "width": image_width,
        "resize": resize,
        "crop_ratio": crop_ratio,
        "interpolation": interpolation,
        "mean": list(mean),
        "std": list(std),
    }


def eval_transforms(spec: dict[str, Any]) -> list[Callable]:
    """Operators from a decoded picture to the network's input, as a description of `classifier_input` has it.

    With resize shorter_side, that side becomes height / crop_ratio (rounded down) and the centre is cropped as
    `crop_center` does. An EXIF rotation is not applied.
    """
    size, interpolation = (spec["height"], spec["width"]), INTERPOLATIONS[spec["interpolation"]]
    if spec["resize"] == "both_sides":
        return [vision.Resize(size, interpolation), *to_input(spec)]
    shorter_side = int(spec["height"] / spec["crop_ratio"])
    crop = functools.partial(crop_center, height=spec["height"], width=spec["width"])
    return [vision.Resize(shorter_side, interpolation), crop, *to_input(spec)]


def crop_center(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The centre of a picture (H, W, 3) that is as large or larger: (height, width, 3).

    Half of an odd margin is rounded to the even number, as in torchvision and timm, which the published weights were
    evaluated with; MindData's CenterCrop rounds it down.
    """
    top, left = round((picture.shape[0] - height) / 2), round((picture.shape[1] - width) / 2)
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


def to_input(spec: dict[str, Any]) -> list[Callable]:
    """Normalize a picture and put its channels first."""
    scaled = [[255.0 * value for value in spec[key]] for key in ("mean", "std")]
    return [vision.Normalize(*scaled), vision.HWC2CHW()]


# ---- Augmentation of single pictures ---------------------------------------------------------------------------------


def random_crop(
    image_height: int, image_width: int, crop_scale: float, interpolation: str = "bilinear"
) -> list[Callable]:
    """From a file's bytes to a random part of its picture, resized; Szegedy et al., CVPR 2015, section 6.

    Args:
        image_height: of the result in pixels.
        image_width: of the result in pixels.
        crop_scale: smallest share of the area, above 0 and up to 1.
        interpolation: of the resize.
    """
    require_range(above=0, high=1, crop_scale=crop_scale)
    size, scale = (image_height, image_width), (crop_scale, 1.0)
    return [vision.RandomCropDecodeResize(size, scale, RATIOS, INTERPOLATIONS[interpolation])]


def random_flip(flip_prob: float) -> list[Callable]:
    """A horizontal flip with this probability, 0-1."""
    require_range(low=0, high=1, flip_prob=flip_prob)
    return [vision.RandomHorizontalFlip(flip_prob)] if flip_prob else []


def random_color(color_jitter: list[float]) -> list[Callable]:
    """Random changes of colour.

    Args:
        color_jitter: four ranges r of 0 or more: factors of brightness, contrast and saturation from [1 - r, 1 + r], and the
            hue, up to 0.5: a shift from [-r, r] of the colour circle.
    """
    if len(color_jitter) != 4 or min(color_jitter) < 0 or color_jitter[3] > 0.5:
        raise UsageError(f"color_jitter={color_jitter}: four numbers of 0 or more are accepted, the hue up to 0.5")
    if not any(color_jitter):
        return []
    factors = [(max(0.0, 1 - r), 1 + r) for r in color_jitter[:3]]
    return [vision.RandomColorAdjust(*factors, hue=(-color_jitter[3], color_jitter[3]))]


def cutout(cutout_ratio: float, image_height: int) -> list[Callable]:
    """Blank out a square of a normalized picture (H, W, 3); DeVries and Taylor, 2017.

    Args:
        cutout_ratio: its side as a share of the height, 0-1.
        image_height: in pixels.
    """
    require_range(low=0, high=1, cutout_ratio=cutout_ratio)
    side = int(cutout_ratio * image_height)
    return [vision.CutOut(side, is_hwc=True)] if side else []


def rand_augment(operations: int, magnitude: int) -> list[Callable]:
    """RandAugment (Cubuk et al., CVPR Workshops 2020): so many random operations, 0 or more, of one magnitude, 1 to 30."""
    require_range(low=0, high=LARGEST_NUMBER, rand_augment=operations)
    require_range(low=1, high=RAND_AUGMENT_BINS - 1, rand_augment_magnitude=magnitude)
    return [vision.RandAugment(operations, magnitude, RAND_AUGMENT_BINS)] if operations else []


def random_erasing(probability: float) -> list[Callable]:
    """Erase a rectangle of a normalized picture (3, H, W); Zhong et al., AAAI 2020. Probability 0-1."""
    require_range(low=0, high=1, random_erasing=probability)
    return [vision.RandomErasing(probability)] if probability else []


# ---- Augmentation of batches -----------------------------------------------------------------------------------------


def mix_batches(mixup: float, cutmix: float, cutmix_prob: float) -> list[Callable]:
    """CutMix (Yun et al., ICCV 2019) and MixUp (Zhang et al., ICLR 2018) of batches with one-hot labels, or none.

    Args:
        mixup: alpha of MixUp, 0 (off) or more.
        cutmix: alpha of CutMix, 0 (off) or more.
        cutmix_prob: probability of CutMix for a picture, 0-1.
    """
    require_range(low=0, high=LARGEST_NUMBER, mixup=mixup, cutmix=cutmix)
    require_range(low=0, high=1, cutmix_prob=cutmix_prob)
    operators: list[Callable] = []
    if cutmix:
        operators.append(vision.CutMixBatch(vision.ImageBatchFormat.NCHW, cutmix, cutmix_prob))
    if mixup:
        operators.append(vision.MixUpBatch(mixup))
    return operators
