"""The data pipeline: Pillow's bicubic in evaluation, what augments a training, and that it repeats."""

from __future__ import annotations

from src.dataset import create_dataset, find_classes, input_spec, train_transforms
from src.model_utils.classification.transforms import eval_transforms
from src.model_utils.device_adapter import Device
from src.recipe import read_config
from src.tinynet import input_side

import numpy as np
import pytest
from PIL import Image

CPU = Device("CPU", 0)
PLAIN = {"flip_prob": 0, "color_jitter": "0,0,0,0", "crop_scale": 1.0}
ALL_ON = {"rand_augment": 2, "random_erasing": 0.5, "mixup": 0.2, "cutmix": 1.0}


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


@pytest.mark.parametrize("model", ["tinynet_a", "tinynet_c", "tinynet_e"])
def test_evaluation_equals_pillow(photographs, model):
    """Shorter side to the input / 0.875, bicubic, the centre: on the average pixel within 1 of 255."""
    config = configured(data_path=photographs, num_classes=2, model=model, batch_size=4)
    ((images, labels),) = batches(config, "val")
    side = input_side(model)
    files = sorted((photographs / "val").rglob("*.jpg"))
    assert labels.tolist() == [0, 0, 1, 1] and images.shape == (4, 3, side, side) and images.dtype == np.float32
    for image, file in zip(images, files):
        picture = Image.open(file).convert("RGB")
        shorter = int(side / 0.875)
        width, height = (round_down(length * shorter, min(picture.size)) for length in picture.size)
        left, top = round((width - side) / 2), round((height - side) / 2)
        resized = picture.resize((width, height), Image.Resampling.BICUBIC)
        expected = np.asarray(resized.crop((left, top, left + side, top + side)), np.float64) / 255
        pixels = image.transpose(1, 2, 0).astype(np.float64) * config.std + config.mean
        assert pixels.min() > -1e-5 and pixels.max() < 1 + 1e-5
        difference = np.abs(pixels - expected)
        assert difference.mean() <= 1 / 255, file
        coarse = (
            np.asarray(resized.resize((width, height)).crop((left + 2, top, left + side + 2, top + side)), float) / 255
        )
        assert np.abs(pixels - coarse).mean() > 3 / 255, "a shift by two pixels would not be seen"


def round_down(product: int, divisor: int) -> int:
    return product // divisor


def test_other_interpolations(photographs):
    """They are what the option says: all three differ; nearest makes no new colours."""
    picture = np.asarray(Image.open(next((photographs / "val/landscape").iterdir())))
    results = {}
    for name in ("nearest", "bilinear", "bicubic"):
        resize, *_ = eval_transforms(input_spec(configured(interpolation=name)))
        results[name] = resize(picture)
        assert results[name].shape[0] == 210
    colours = {tuple(colour) for colour in picture.reshape(-1, 3)}
    assert all(tuple(colour) in colours for colour in results["nearest"].reshape(-1, 3))
    assert not np.array_equal(results["bilinear"], results["bicubic"])
    assert not np.array_equal(results["nearest"], results["bicubic"])


# ---- Training --------------------------------------------------------------------------------------------------------


def test_optional_augmentation_is_off(few_digits):
    """By default labels are class indices, and of the options that are off none is in the pipeline."""
    names = [type(operator).__name__ for operator in train_transforms(of_digits(few_digits))]
    assert names == ["RandomCropDecodeResize", "RandomHorizontalFlip", "RandomColorAdjust", "Normalize", "HWC2CHW"]
    names = [type(operator).__name__ for operator in train_transforms(of_digits(few_digits, **PLAIN))]
    assert names == ["RandomCropDecodeResize", "Normalize", "HWC2CHW"]
    for images, labels in batches(of_digits(few_digits)):
        assert images.shape == (8, 3, 32, 32) and images.dtype == np.float32
        assert labels.shape == (8,) and labels.dtype == np.int32


def changed(few_digits, **options) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Plain pictures and labels, and what the options make of them; the order of the pictures is the same."""
    rows = []
    for plain, new in zip(batches(of_digits(few_digits, **PLAIN)), batches(of_digits(few_digits, **PLAIN, **options))):
        rows += zip(*plain, *new)
    assert len(rows) == 40
    return rows


def test_rand_augment(few_digits):
    rows = changed(few_digits, rand_augment=2, rand_augment_magnitude=20)
    assert [int(row[1]) for row in rows] == [int(row[3]) for row in rows]
    differences = [np.abs(row[2] - row[0]).mean() for row in rows]
    assert np.mean(np.array(differences) > 0.02) > 0.6
    weak = changed(few_digits, rand_augment=1, rand_augment_magnitude=1)
    assert np.mean([np.abs(row[2] - row[0]).mean() for row in weak]) < 0.7 * np.mean(differences)


def test_random_erasing(few_digits):
    """One rectangle of 2 to 33 % of the area; the rest of the picture stays; with the chosen probability."""
    areas = []
    for plain, _, new, _ in changed(few_digits, random_erasing=1.0):
        erased = np.any(plain != new, axis=0)
        rows, columns = (np.flatnonzero(erased.any(axis)) for axis in (1, 0))
        inside = erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert inside.mean() > 0.9 and np.unique(new[:, erased]).size == 1
        areas.append(inside.size / erased.size)
    assert 0.01 <= min(areas) < 0.1 and 0.2 < max(areas) <= 0.35
    half = [np.array_equal(plain, new) for plain, _, new, _ in changed(few_digits, random_erasing=0.5)]
    assert 8 <= sum(half) <= 32


def test_mixup(few_digits):
    """A batch is a mixture of itself with another order of itself, labels as pictures."""
    shares = []
    rows = batches(of_digits(few_digits, **PLAIN, mixup=1.0))
    for (plain, classes), (images, labels) in zip(batches(of_digits(few_digits, **PLAIN)), rows):
        assert labels.shape == (8, 10) and labels.dtype == np.float32 and images.dtype == np.float32
        np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
        mixed = 0
        for i in range(8):
            share = labels[i, classes[i]]
            others = np.flatnonzero(labels[i])
            assert classes[i] in others and len(others) <= 2
            if len(others) == 2:
                (other,) = others[others != classes[i]]
                mixtures = [share * plain[i] + (1 - share) * plain[j] for j in np.flatnonzero(classes == other)]
                assert min(np.abs(images[i] - mixture).max() for mixture in mixtures) < 1e-4
                shares.append(share)
                mixed += 1
        assert mixed >= 4
    assert len({round(float(share), 4) for share in shares}) >= 4 and min(shares) > 0 and max(shares) < 1


def test_cutmix(few_digits):
    """A rectangle of another picture; labels have its share of the area."""
    checked = 0
    plain = batches(of_digits(few_digits, **PLAIN))
    for (originals, classes), (images, labels) in zip(plain, batches(of_digits(few_digits, **PLAIN, cutmix=1.0))):
        assert labels.shape == (8, 10) and labels.dtype == np.float32 and images.dtype == np.float32
        np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
        for i in range(8):
            others = np.flatnonzero(labels[i])
            assert len(others) <= 2
            sources = [originals[j] for j in range(8) if labels[i, classes[j]] > 0]
            assert np.all(np.any([source == images[i] for source in sources], axis=0)), "a pixel of neither picture"
            if len(others) == 2 and classes[i] in others:
                kept = np.all(images[i] == originals[i], axis=0).mean()  # pixels that both have alike count twice
                assert kept >= labels[i, classes[i]] - 1e-4
                checked += 1
    assert checked >= 20
    never = batches(of_digits(few_digits, **PLAIN, cutmix=1.0, cutmix_prob=0.0))
    for (originals, classes), (images, labels) in zip(plain, never):
        np.testing.assert_array_equal(images, originals)
        np.testing.assert_array_equal(labels, np.eye(10, dtype=np.float32)[classes])


def test_pipeline_repeats(few_digits):
    """The same batches for one seed and epoch, also after some steps; others for another one."""
    config = of_digits(few_digits, rand_augment=2, rand_augment_magnitude=9, color_jitter="0.4,0.4,0.4,0.1")

    def same(one, other) -> bool:
        return len(one) == len(other) and all(np.array_equal(a, b) for x, y in zip(one, other) for a, b in zip(x, y))

    first = batches(config, epoch=3)
    assert same(batches(config, epoch=3), first) and same(batches(config, epoch=3, skip_steps=2), first[2:])
    assert not same(batches(config, epoch=4), first)
    assert not same(batches(of_digits(few_digits, rand_augment=2, seed=2), epoch=3), first)


def test_all_augmentation_repeats(few_digits):
    """With random erasing, MixUp and CutMix too; these draw batch after batch from one stream."""
    config = of_digits(few_digits, **ALL_ON)
    first, again = batches(config, epoch=2), batches(config, epoch=2)
    rest = batches(config, epoch=2, skip_steps=2)
    assert len(first) == len(again) == 5 and len(rest) == 3
    for one, other in [*zip(first, again), *zip(first[2:], rest)]:
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
