"""The data pipeline: Pillow's bicubic in evaluation, what augments a training, and that it repeats."""

from __future__ import annotations

from src.dataset import create_dataset, find_classes, train_transforms
from src.model_utils.device_adapter import Device
from src.recipe import read_config
from src.tinynet import input_side

import numpy as np
import pytest
from PIL import Image

CPU = Device("CPU", 0)
PLAIN = {"flip_prob": 0, "color_jitter": "0,0,0,0", "crop_scale": 1.0}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Two photographs as JPEG files, landscape and portrait."""
    from sklearn.datasets import load_sample_images

    folder = tmp_path_factory.mktemp("photographs")
    for number, pixels in enumerate(load_sample_images().images):
        for name, turned in (("landscape", pixels), ("portrait", np.rot90(pixels))):
            (folder / "val" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(turned)).save(folder / "val" / name / f"{number}.jpg", quality=92)
    return folder


def configured(*arguments, **options):
    given = [token for key, value in options.items() for token in (f"--{key}", str(value))]
    return read_config([*map(str, arguments), *given], "")


def batches(config, split="train", **progress) -> list[tuple[np.ndarray, np.ndarray]]:
    dataset = create_dataset(config, split, CPU, find_classes(config, split, CPU), **progress)
    return list(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))


def of_digits(few_digits, **options):
    """The training batches of the digits: 5 of 8 pictures."""
    sizes = {"num_classes": 10, "image_height": 32, "image_width": 32, "batch_size": 8, "workers": 2}
    return configured(data_path=few_digits, **{**sizes, **options})


# ---- Evaluation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["tinynet_c", "tinynet_e"])
def test_evaluation_equals_pillow(photographs, model):
    """Shorter side to the input / 0.875, bicubic, the centre: on the average pixel within 1 of 255."""
    config = configured(data_path=photographs, num_classes=2, model=model, batch_size=4)
    ((images, labels),) = batches(config, "val")
    side = input_side(model)
    files = sorted((photographs / "val").rglob("*.jpg"))
    assert labels.tolist() == [0, 0, 1, 1] and images.shape == (4, 3, side, side) and images.dtype == np.float32
    for image, file in zip(images, files):
        picture = Image.open(file).convert("RGB")
        width, height = (length * int(side / 0.875) // min(picture.size) for length in picture.size)
        left, top = round((width - side) / 2), round((height - side) / 2)
        resized = picture.resize((width, height), Image.Resampling.BICUBIC)
        expected = np.asarray(resized.crop((left, top, left + side, top + side)), np.float64) / 255
        pixels = image.transpose(1, 2, 0).astype(np.float64) * config.std + config.mean
        assert pixels.min() > -1e-5 and pixels.max() < 1 + 1e-5
        difference = np.abs(pixels - expected)
        assert difference.mean() <= 1 / 255, file
        shifted = np.asarray(resized.crop((left + 2, top, left + side + 2, top + side)), np.float64) / 255
        assert np.abs(pixels - shifted).mean() > 3 / 255, "a shift by two pixels would not be seen"


# ---- Training --------------------------------------------------------------------------------------------------------


def test_optional_augmentation_is_off(few_digits):
    """By default labels are class indices, and of the options that are off none is in the pipeline."""
    chance = ["RandomHorizontalFlip", "RandomColorAdjust"]
    for options, names in (({}, chance), (PLAIN, [])):
        found = [type(operator).__name__ for operator in train_transforms(of_digits(few_digits, **options))]
        assert found == ["RandomCropDecodeResize", *names, "Normalize", "HWC2CHW"]
    for images, labels in batches(of_digits(few_digits)):
        assert images.shape == (8, 3, 32, 32) and images.dtype == np.float32
        assert labels.shape == (8,) and labels.dtype == np.int32


def changed(few_digits, **options) -> tuple[np.ndarray, ...]:
    """Plain pictures (40, 3, 32, 32) and labels, and what the options make of them, in the same order."""
    plain, new = (batches(of_digits(few_digits, **PLAIN, **more)) for more in ({}, options))
    return tuple(np.concatenate(arrays) for arrays in (*zip(*plain), *zip(*new)))


def test_options_of_a_picture_reach_it(few_digits):
    """What they do is tested at its source: tests/test_transforms.py."""
    plain, labels, strong, kept = changed(few_digits, rand_augment=2, rand_augment_magnitude=20)
    _, _, weak, _ = changed(few_digits, rand_augment=1, rand_augment_magnitude=1)
    np.testing.assert_array_equal(labels, kept)
    assert np.abs(weak - plain).mean() < 0.7 * np.abs(strong - plain).mean()
    shares = {}
    for chance in (0.5, 1.0):
        _, _, erased, _ = changed(few_digits, random_erasing=chance)
        shares[chance] = (erased != plain).any((1, 2, 3)).mean()
    assert 0.2 <= shares[0.5] <= 0.8 and shares[1.0] == 1


def test_options_of_a_batch_reach_it(few_digits):
    """MixUp makes pixels of its own, CutMix has none; labels are shares of the classes."""
    own = {}
    for name in ("mixup", "cutmix"):
        plain, classes, images, labels = changed(few_digits, **{name: 1.0})
        assert labels.shape == (40, 10) and labels.dtype == np.float32 and images.dtype == np.float32
        np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
        assert max((labels > 0).sum(1)) == 2 and np.mean(labels[np.arange(40), classes] > 0) > 0.5
        own[name] = np.mean([not (plain == image).any(0).all() for image in images])
    assert own["mixup"] >= 0.5 and own["cutmix"] == 0
    plain, classes, images, labels = changed(few_digits, cutmix=1.0, cutmix_prob=0.0)
    np.testing.assert_array_equal(images, plain)
    np.testing.assert_array_equal(labels, np.eye(10, dtype=np.float32)[classes])


def alike(one, other) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b) for x, y in zip(one, other) for a, b in zip(x, y))


@pytest.mark.parametrize("options", [
    {"rand_augment": 2, "rand_augment_magnitude": 9, "color_jitter": "0.4,0.4,0.4,0.1"},
    {"rand_augment": 2, "random_erasing": 0.5, "mixup": 0.2, "cutmix": 1.0},
])  # fmt: skip
def test_pipeline_repeats(few_digits, options):
    """The same batches for one seed and epoch, also after some steps; others for another one.

    Random erasing, MixUp and CutMix draw batch after batch from one stream.
    """
    config = of_digits(few_digits, **options)
    first = batches(config, epoch=3)
    assert len(first) == 5
    assert alike(batches(config, epoch=3), first) and alike(batches(config, epoch=3, skip_steps=2), first[2:])
    assert not alike(batches(config, epoch=4), first)
    assert not alike(batches(of_digits(few_digits, **options, seed=2), epoch=3), first)
