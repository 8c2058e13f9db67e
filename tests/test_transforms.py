"""What each function builds, what it does to a picture, and what it refuses where it is called."""

from __future__ import annotations

import io

from model_utils.classification.transforms import (
    classifier_input,
    crop_center,
    cutout,
    eval_transforms,
    mix_batches,
    rand_augment,
    random_color,
    random_crop,
    random_erasing,
    random_flip,
    to_input,
)
from model_utils.errors import UsageError

import mindspore.dataset as ds
import numpy as np
import pytest
from mindspore.dataset import transforms, vision
from PIL import Image

SPEC = {"image_height": 32, "image_width": 32, "smallest": 16, "crop_ratio": 0.8, "interpolation": "bilinear",
        "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}  # fmt: skip
RANDOM = np.random.RandomState(1)


def photograph(width: int, height: int) -> Image.Image:
    """Smooth random colours, where resampling differs little."""
    colours = np.random.RandomState(1).randint(0, 256, (12, 20, 3)).astype(np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


def apply(operators, picture) -> np.ndarray:
    for operator in operators:
        picture = operator(picture)
    return np.asarray(picture)


def normalized(pixels) -> np.ndarray:
    """A picture of 0 to 255 as the network gets it, in float64."""
    return ((np.asarray(pixels, np.float64) / 255 - SPEC["mean"]) / SPEC["std"]).transpose(2, 0, 1)


def drawn(operators, pictures: np.ndarray) -> list[np.ndarray]:
    """The pictures of a pipeline, whose random numbers follow from the seed."""
    ds.config.set_seed(1)
    dataset = ds.NumpySlicesDataset({"image": pictures}, shuffle=False)
    dataset = dataset.map(operators, "image", num_parallel_workers=1)
    return [image for (image,) in dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)]


def test_description_of_the_input():
    assert classifier_input(**SPEC) == {
        "height": 32, "width": 32, "resize": "shorter_side", "crop_ratio": 0.8, "interpolation": "bilinear",
        "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4],
    }  # fmt: skip
    limits = {"image_height": 16, "image_width": 16, "mean": [0, 0, 1], "std": (1, 1, 1), "crop_ratio": 1}
    found = classifier_input(**{**SPEC, **limits}, resize="both_sides")
    assert (found["height"], found["resize"], found["std"]) == (16, "both_sides", [1, 1, 1])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"image_height": 31}, "image_height=31 image_width=32: equal values of 16 or more"),
        ({"image_height": 15, "image_width": 15}, "image_height=15 image_width=15: equal values of 16 or more"),
        ({"crop_ratio": 0.0}, "crop_ratio=0.0: above 0 and up to 1"),
        ({"crop_ratio": 1e-9}, "crop_ratio=1e-09: their quotient, .* up to 16384 pixels"),
        ({"image_height": 20000, "image_width": 20000}, "image_height=20000 .*up to 16384 pixels"),
        ({"mean": [0.5, 0.5]}, "mean=.*three numbers each"),
        ({"std": [0.5] * 4}, "std=.*three numbers each"),
        ({"mean": [0.5, 0.5, 1.1]}, "mean=.*0 to 1"),
        ({"std": [0, 1, 1]}, "std=.*above 0 and up to 1"),
        ({"std": [1, 1, 58.4]}, "std=.*above 0 and up to 1"),
    ],
)
def test_inputs_that_cannot_be(changes, message):
    with pytest.raises(UsageError, match=message):
        classifier_input(**{**SPEC, **changes})


@pytest.mark.parametrize("interpolation, limit", [("nearest", 1e-3), ("bilinear", 0.5), ("bicubic", 1e-3)])
@pytest.mark.parametrize("width, height, crop_ratio", [(50, 30, 0.8), (30, 50, 0.887), (40, 40, 0.6)])
def test_evaluation_equals_pillow(width, height, crop_ratio, interpolation, limit):
    """The shorter side resized, the aspect kept, the centre cropped, normalized, channels first; mean difference of 255."""
    image = photograph(width, height)
    spec = classifier_input(**{**SPEC, "crop_ratio": crop_ratio, "interpolation": interpolation})
    found = apply(eval_transforms(spec), np.asarray(image))
    short = int(32 / crop_ratio)
    size = (short, short * height // width) if width < height else (short * width // height, short)
    left, top = round((size[0] - 32) / 2), round((size[1] - 32) / 2)
    resized = image.resize(size, Image.Resampling[interpolation.upper()])
    if interpolation == "nearest":  # MindData takes the pixel at the left of the place, Pillow the one in the middle
        columns, rows = (np.arange(new) * old // new for new, old in zip(size, image.size))
        resized = Image.fromarray(np.asarray(image)[rows][:, columns])
    expected = normalized(resized.crop((left, top, left + 32, top + 32)))
    assert found.shape == (3, 32, 32) and found.dtype == np.float32
    assert (np.abs(found - expected).mean(axis=(1, 2)) * spec["std"] * 255).max() < limit


@pytest.mark.parametrize("margin, offset", [(0, 0), (1, 0), (2, 1), (3, 2), (5, 2), (7, 4), (13, 6), (15, 8)])
def test_half_of_an_odd_margin_is_rounded_to_the_even_number(margin, offset):
    """As int(round((size - crop) / 2.0)) in torchvision and timm; 121 - 106 pixels of tinynet_e: 8."""
    picture = np.broadcast_to(np.arange(32 + margin, dtype=np.uint8)[:, None, None], (32 + margin, 32, 3))
    rows = crop_center(picture, 32, 32)
    assert rows.shape == (32, 32, 3) and rows[0, 0, 0] == offset and rows[-1, 0, 0] == offset + 31
    columns = crop_center(picture.transpose(1, 0, 2), 32, 32)
    np.testing.assert_array_equal(columns, rows.transpose(1, 0, 2))


def test_the_crop_in_a_pipeline(few_digits):
    """MindData runs it between its own operators, on several threads, as it is called one picture after the other."""
    files = sorted((few_digits / "val").rglob("*.jpg"))
    operators = eval_transforms(classifier_input(**{**SPEC, "image_height": 19, "image_width": 19, "crop_ratio": 0.8}))
    source = ds.NumpySlicesDataset(
        [np.asarray(Image.open(file).convert("RGB")) for file in files], ["image"], shuffle=False
    )
    dataset = source.map(operators, "image", num_parallel_workers=2)
    for file, (image,) in zip(files, dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)):
        np.testing.assert_array_equal(image, apply(operators, np.asarray(Image.open(file).convert("RGB"))))


def test_a_large_picture_is_averaged():
    """By bicubic resampling, as Pillow does it, over all pixels; the other two leave most of them out."""
    image = photograph(300, 500)
    image = Image.fromarray(np.clip(np.asarray(image) + RANDOM.normal(0, 60, (500, 300, 1)), 0, 255).astype(np.uint8))
    expected = np.asarray(image.resize((32, 53), Image.Resampling.BICUBIC).crop((0, 10, 32, 42)), np.float64) / 255
    for interpolation, low, high in (("bicubic", 0, 1e-3), ("bilinear", 8, 60), ("nearest", 8, 60)):
        spec = classifier_input(**{**SPEC, "crop_ratio": 1.0, "interpolation": interpolation})
        found = apply(eval_transforms(spec), np.asarray(image)).transpose(1, 2, 0) * spec["std"] + spec["mean"]
        assert low <= 255 * np.abs(found - expected).mean() <= high, interpolation


def test_both_sides():
    """The picture is squeezed, nothing is cut off."""
    image = photograph(64, 20)
    spec = classifier_input(**{**SPEC, "interpolation": "bicubic"}, resize="both_sides")
    wanted = normalized(image.resize((32, 32), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(apply(eval_transforms(spec), np.asarray(image)), wanted, atol=1e-5)
    picture = RANDOM.randint(0, 256, (4, 5, 3)).astype(np.uint8)
    np.testing.assert_allclose(apply(to_input(SPEC), picture), normalized(picture), atol=1e-6)


def test_random_crop():
    """A part of the picture, from its bytes: of any size, or nearly the whole where nearly all of the area is asked for."""
    image, content = photograph(48, 48), io.BytesIO()
    image.save(content, "PNG")
    files = np.stack([np.frombuffer(content.getvalue(), np.uint8)] * 20)
    found = drawn(random_crop(24, 16, 0.1), files)
    assert {picture.shape for picture in found} == {(24, 16, 3)} and len({picture.tobytes() for picture in found}) > 15
    pixels = np.asarray(image).astype(int)
    assert all(pixels.min() <= picture.min() and picture.max() <= pixels.max() for picture in found)

    def details(crop_scale: float) -> np.ndarray:
        """How much neighbours differ: less in a small part that is enlarged."""
        parts = drawn(random_crop(24, 24, crop_scale), files)
        return np.array([np.abs(np.diff(part.astype(int), axis=0)).mean() for part in parts])

    assert details(0.1).min() < 0.6 * details(0.95).min() and np.ptp(details(0.1)) > 2 * np.ptp(details(0.95))


def test_random_flip():
    pictures = RANDOM.randint(0, 256, (64, 2, 3, 3)).astype(np.uint8)
    for probability, low, high in ((1.0, 64, 64), (0.5, 16, 48), (0.1, 0, 20)):
        found = drawn(random_flip(probability), pictures)
        flipped = [np.array_equal(image, picture[:, ::-1]) for image, picture in zip(found, pictures)]
        same = [np.array_equal(image, picture) for image, picture in zip(found, pictures)]
        assert low <= sum(flipped) <= high and sum(flipped) + sum(same) == 64


def test_random_color():
    """Each of the four ranges by itself: factors from [1 - r, 1 + r], not below 0; a range of 0 changes nothing."""
    pictures = np.stack([np.full((2, 2, 3), (100, 60, 20), np.uint8)] * 64)
    brightness = np.array([image[0, 0] for image in drawn(random_color([0.5, 0, 0, 0]), pictures)]).astype(float)
    factors = brightness[:, 0] / 100
    assert 0.49 <= factors.min() < 0.65 and 1.35 < factors.max() <= 1.51
    np.testing.assert_allclose(brightness[:, 1] / 60, factors, atol=0.03)
    for ranges in ([0, 0.5, 0, 0], [0, 0, 0.5, 0], [0, 0, 0, 0.4]):
        found = drawn(random_color(ranges), pictures)
        assert len({image.tobytes() for image in found}) > 20, ranges
    grey = drawn(random_color([0, 0, 0.8, 0]), np.full((16, 2, 2, 3), 90, np.uint8))
    assert all(np.abs(image.astype(int) - 90).max() <= 1 for image in grey), "grey has no saturation"
    assert min(image.min() for image in drawn(random_color([2.0, 0, 0, 0]), pictures)) >= 0


@pytest.mark.parametrize("ratio, side", [(0.25, 8), (1.0, 32), (0.04, 1)])
def test_cutout(ratio, side):
    """A square whose side is a share of the height, black; at the edges, part of it lies outside."""
    found = np.array(drawn(cutout(ratio, 32), np.ones((40, 32, 32, 3), np.float32)))
    blank = (found == 0).all(axis=3)
    rows, columns = blank.any(axis=2).sum(axis=1), blank.any(axis=1).sum(axis=1)
    assert (blank.sum(axis=(1, 2)) == rows * columns).all(), "no rectangle"
    assert 0.8 * side <= rows.max() <= side and 0.8 * side <= columns.max() <= side
    assert set(np.unique(found)) == {0, 1} and len(np.unique(blank.argmax(axis=1), axis=0)) > 5


def test_no_augmentation():
    for none in (random_flip(0), random_color([0] * 4), cutout(0, 32), cutout(0.03, 32), rand_augment(0, 9),
                 random_erasing(0), mix_batches(0, 0, 1.0)):  # fmt: skip
        assert none == []
    assert [type(operator) for operator in mix_batches(0.2, 1.0, 0.5)] == [vision.CutMixBatch, vision.MixUpBatch]


def test_rand_augment():
    pictures = np.stack([np.asarray(photograph(16, 16))] * 20)
    found = drawn(rand_augment(2, 9), pictures)
    assert len({image.tobytes() for image in found}) > 10 and {image.shape for image in found} == {(16, 16, 3)}

    def change(magnitude: int) -> float:
        images = drawn(rand_augment(1, magnitude), pictures)
        return float(np.mean([np.abs(image.astype(int) - pictures[0]).mean() for image in images]))

    assert change(30) > change(3) > 0


def test_random_erasing():
    found = drawn(random_erasing(1.0), np.full((8, 3, 16, 16), 7, np.float32))
    assert all(0 < (image != 7).sum() < image.size for image in found)
    found = drawn(random_erasing(0.5), np.full((40, 3, 16, 16), 7, np.float32))
    assert 8 <= sum((image != 7).any() for image in found) <= 32


def batches(operators) -> tuple[np.ndarray, np.ndarray]:
    """Eight pictures, each of one value, with their one-hot labels, in a batch to which the operators were applied."""
    ds.config.set_seed(3)
    images = np.arange(8, dtype=np.float32)[:, None, None, None] * np.ones((8, 3, 6, 6), np.float32)
    dataset = ds.NumpySlicesDataset((images, np.arange(8, dtype=np.int32)), ["image", "label"], shuffle=False)
    dataset = dataset.map(transforms.OneHot(8), "label").batch(8)
    for operator in operators:
        dataset = dataset.map(operator, ["image", "label"], num_parallel_workers=1)
    return next(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))


def test_mixup():
    """A picture and its label are the same mixture of two."""
    images, labels = batches(mix_batches(0.4, 0, 1.0))
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), labels @ np.arange(8), rtol=1e-4, atol=1e-4)
    assert ((labels > 0).sum(axis=1) == 2).any() and images.dtype == labels.dtype == np.float32


def test_cutmix():
    """A rectangle of another picture; the label says how large it is."""
    images, labels = batches(mix_batches(0, 1.0, 1.0))
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), labels @ np.arange(8), rtol=1e-4, atol=1e-4)
    assert all(len(np.unique(image)) <= 2 for image in images) and (labels.max(axis=1) < 1).any()
    images, labels = batches(mix_batches(0, 1.0, 0.0))
    assert (labels.max(axis=1) == 1).all(), "a probability of 0 changes nothing"


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: random_crop(24, 24, 0), "crop_scale=0: above 0 and up to 1"),
        (lambda: random_flip(1.5), "flip_prob=1.5: 0 to 1"),
        (lambda: random_color([0.4, 0.4, 0.4]), "color_jitter=.*four numbers"),
        (lambda: random_color([0, 0, -0.1, 0]), "color_jitter=.*0 or more"),
        (lambda: random_color([0, 0, 0, 0.6]), "color_jitter=.*hue up to 0.5"),
        (lambda: cutout(1.5, 32), "cutout_ratio=1.5: 0 to 1"),
        (lambda: rand_augment(-1, 9), "rand_augment=-1: 0 to"),
        (lambda: rand_augment(10**9, 9), "rand_augment=1000000000: 0 to"),
        (lambda: rand_augment(0, 31), "rand_augment_magnitude=31: 1 to 30"),
        (lambda: rand_augment(2, 0), "rand_augment_magnitude=0: 1 to 30"),
        (lambda: random_erasing(1.1), "random_erasing=1.1: 0 to 1"),
        (lambda: mix_batches(-1, 0, 1), "mixup=-1: 0 to"),
        (lambda: mix_batches(0, 1e9, 1), "cutmix=1000000000.0: 0 to"),
        (lambda: mix_batches(0, 0, 2), "cutmix_prob=2: 0 to 1"),
    ],
)
def test_refusals(build, message):
    """At the call, not in the first epoch."""
    with pytest.raises(UsageError, match=message):
        build()
