"""The mechanics of a pipeline: order, shards, seeds, skipped steps, and every picture once."""

from __future__ import annotations

import shutil

from model_utils.classification.pipeline import build_pipeline, count_image_folder, image_folder, image_positions
from model_utils.classification.transforms import mix_batches, random_erasing
from model_utils.config import Config
from model_utils.device_adapter import Device
from model_utils.errors import UsageError
from toy.model import MODEL
from toy_runs import command_line

import mindspore.dataset as ds
import numpy as np
import pytest
from mindspore.dataset import vision

CPU = Device("CPU", 0)
IMAGES = 23


class Numbered:
    """Pictures (3, 8, 8) whose values are their numbers, which are their labels too; counts what was read."""

    def __init__(self, images: int = IMAGES):
        self.images, self.calls = images, []

    def __call__(self, sampler: ds.Sampler, threads: int) -> ds.Dataset:
        self.calls.append(threads)
        numbers = np.arange(self.images)
        pictures = np.broadcast_to(numbers[:, None, None, None], (self.images, 8, 8, 3)).astype(np.uint8)
        return ds.NumpySlicesDataset(
            (pictures, numbers), ["image", "label"], sampler=sampler, num_parallel_workers=threads
        )


def config(**changes) -> Config:
    values = {
        "seed": 5,
        "batch_size": 3,
        "accumulate_steps": 1,
        "num_parallel_workers": 1,
        "num_classes": IMAGES,
        **changes,
    }
    return Config(values)


def pipeline(split: str, rank: int = 0, size: int = 1, recipe: Config | None = None, images: int = IMAGES, **options):
    return build_pipeline(
        Numbered(images),
        range(images),
        [vision.HWC2CHW()],
        recipe or config(),
        Device("CPU", 0, rank, size),
        split=split,
        **options,
    )


def batches(*arguments, epochs: int = 1, **options) -> list[list[int]]:
    """The numbers of the pictures in each batch, which are those of the labels."""
    found = []
    iterator = pipeline(*arguments, **options).create_tuple_iterator(num_epochs=epochs, output_numpy=True)
    for _ in range(epochs):
        for images, labels in iterator:
            assert (images == labels[:, None, None, None]).all() and images.shape[1:] == (3, 8, 8)
            found.append(labels.tolist())
    return found


def flat(rows: list[list[int]]) -> list[int]:
    return [number for row in rows for number in row]


# ---- Evaluation ------------------------------------------------------------------------------------------------------


def test_evaluation_takes_every_picture_once_in_order():
    rows = batches("val")
    assert flat(rows) == list(range(IMAGES)) and [len(row) for row in rows] == [3] * 7 + [2]


@pytest.mark.parametrize("size", [2, 3, 7, 23, 30])
def test_evaluation_shards(size):
    """Each picture on one rank, in order, none twice; the shares differ by one at most."""
    shards = [flat(batches("val", rank, size)) for rank in range(size)]
    assert [shards[number % size][number // size] for number in range(IMAGES)] == list(range(IMAGES))
    lengths = [len(shard) for shard in shards]
    assert sum(lengths) == IMAGES and max(lengths) - min(lengths) <= 1


def test_evaluation_does_not_depend_on_seed_and_accumulation():
    assert batches("val", recipe=config(seed=9, accumulate_steps=2)) == batches("val")


# ---- Training --------------------------------------------------------------------------------------------------------


def test_an_epoch_of_training():
    """Whole batches of different pictures in an order that follows from seed and epoch."""
    rows = batches("train", epoch=3)
    assert [len(row) for row in rows] == [3] * 7 and len(set(flat(rows))) == 21
    assert batches("train", epoch=3) == rows != batches("train", epoch=4)
    assert batches("train", epoch=3, recipe=config(seed=6)) != rows
    assert flat(rows) != sorted(flat(rows))


def test_over_the_epochs_each_picture_comes():
    """Those that do not fill a batch are others each time."""
    counts = np.bincount(flat([flat(batches("train", epoch=epoch)) for epoch in range(1, 11)]), minlength=IMAGES)
    assert counts.min() >= 5


@pytest.mark.parametrize("size", [2, 3, 4])
def test_training_shards(size):
    """As many different pictures on each rank, together a beginning of one common order."""
    recipe = config(batch_size=1)
    shards = [flat(batches("train", rank, size, epoch=2, recipe=recipe)) for rank in range(size)]
    assert [len(shard) for shard in shards] == [IMAGES // size] * size
    assert len(set(flat(shards))) == IMAGES // size * size
    whole = flat(batches("train", epoch=2, recipe=recipe))
    assert [shards[place % size][place // size] for place in range(IMAGES // size * size)] == whole[
        : IMAGES // size * size
    ]


def test_skipped_steps():
    rows = batches("train", epoch=2)
    for steps in (1, 3, 6):
        assert batches("train", epoch=2, skip_steps=steps) == rows[steps:]
    assert batches("train", epoch=2, skip_steps=0) == rows


def test_accumulated_batches():
    rows = batches("train", recipe=config(accumulate_steps=2))
    assert [len(row) for row in rows] == [6] * 3 and flat(rows) == flat(batches("train"))[:18]


def test_a_pipeline_for_several_epochs():
    """As data-sink mode needs it: every epoch has all pictures of the rank, in another order."""
    recipe = config(batch_size=1)
    first, second = (batches("train", rank, 2, recipe=recipe, reshuffled=True, epochs=3) for rank in (0, 1))
    epochs = [flat(first)[start : start + 11] for start in (0, 11, 22)]
    assert epochs[0] != epochs[1] != epochs[2] and set(epochs[0]) == set(epochs[1]) == set(epochs[2])
    assert not set(flat(first)) & set(flat(second)) and len(set(flat(first)) | set(flat(second))) == 22


def drawn(rank: int = 0, size: int = 1, seed: int = 5, **options) -> np.ndarray:
    """What random operators make of one and the same picture, again and again."""
    picture = np.random.RandomState(1).randint(0, 256, (8, 8, 3)).astype(np.uint8)

    def source(sampler: ds.Sampler, threads: int) -> ds.Dataset:
        pictures = np.stack([picture] * IMAGES)
        return ds.NumpySlicesDataset((pictures, np.arange(IMAGES)), ["image", "label"], sampler=sampler)

    operators = [vision.RandomCrop((8, 8), (4, 4, 4, 4)), vision.RandomColorAdjust((0.5, 1.5)), vision.HWC2CHW()]
    recipe, device = config(batch_size=1, seed=seed), Device("CPU", 0, rank, size)
    dataset = build_pipeline(source, range(IMAGES), operators, recipe, device, split="train", **options)
    return np.array([image[0] for image, _ in dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)])


def test_the_augmentation_follows_from_seed_epoch_and_rank():
    first, part = drawn(epoch=2), drawn(0, 2, epoch=2)
    np.testing.assert_array_equal(drawn(epoch=2), first)
    assert len({image.tobytes() for image in first}) > 15
    for other in (drawn(epoch=3), drawn(epoch=2, seed=6)):
        assert (other != first).any()
    assert part.shape == drawn(1, 2, epoch=2).shape and (part != drawn(1, 2, epoch=2)).any()


def test_a_resumed_epoch_repeats_the_augmentation(few_digits, tmp_path):
    """Real pictures, with all augmentation that the toy has: the rest of the epoch is that of the whole one."""
    recipe = MODEL.read_config(
        command_line(train_data_dir=few_digits / "train", num_parallel_workers=2, batch_size=8), ""
    )
    names = [str(digit) for digit in range(10)]

    def drawn(**progress) -> list[np.ndarray]:
        dataset = MODEL.create_dataset(recipe, "train", CPU, names, epoch=2, **progress)
        return [images for images, _ in dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)]

    whole, rest = drawn(), drawn(skip_steps=3)
    assert len(whole) == 5 and len(rest) == 2 and whole[0].shape == (8, 3, 16, 16) and whole[0].dtype == np.float32
    np.testing.assert_array_equal(whole[3:], rest)
    assert not any(np.array_equal(one, two) for one, two in zip(whole, drawn(reshuffled=True)))


def test_types_and_batch_operators():
    """Labels are int32 indices; with operators on batches they become distributions."""
    images, labels = next(pipeline("train").create_tuple_iterator(num_epochs=1, output_numpy=True))
    assert labels.dtype == np.int32 and labels.shape == (3,) and images.shape == (3, 3, 8, 8)
    operators = [vision.Normalize([0.0] * 3, [1.0] * 3), vision.HWC2CHW()]
    dataset = build_pipeline(
        Numbered(), range(IMAGES), operators, config(), CPU, split="train",
        serial_operators=random_erasing(1.0), batch_operators=mix_batches(0.4, 0.5, 0.5),
    )  # fmt: skip
    images, labels = next(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))
    assert labels.dtype == images.dtype == np.float32 and labels.shape == (3, IMAGES)
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-5)
    assert all(len(np.unique(image)) > 1 for image in images), "parts of the pictures are erased"


# ---- Options and folders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("key", ["batch_size", "num_parallel_workers"])
def test_options_that_cannot_be(split, key):
    for value in (0, -1):
        with pytest.raises(UsageError, match=f"{key}={value}: 1 or more is accepted"):
            pipeline(split, recipe=config(**{key: value}))
    with pytest.raises(UsageError, match="seed=-1: 0 to 4294967295 is accepted"):
        pipeline(split, recipe=config(seed=-1))


def test_image_folders(few_digits, tmp_path):
    """A class keeps its index where the folder has some of the classes only; hidden files and folders are none of the data."""
    for name in ("7", "9"):
        (tmp_path / name).mkdir()
        for path in list((few_digits / "val" / name).iterdir())[:3]:
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
            (tmp_path / ".hidden").mkdir(exist_ok=True)
            (tmp_path / ".hidden" / path.name).write_bytes(b"")
    for name in ("7/.DS_Store", "7/._0.jpg", "9/.x.jpg", "9/Thumbs.db"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "notes.txt").write_text("text")
    assert count_image_folder(str(tmp_path)) == 6
    sampler = ds.SubsetSampler(image_positions(str(tmp_path)))
    dataset = image_folder(str(tmp_path), [str(digit) for digit in range(10)], sampler=sampler, decode=True)
    labels = [int(label) for _, label in dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)]
    assert labels == [7] * 3 + [9] * 3


def test_a_hidden_folder_beside_the_classes(few_digits, tmp_path):
    """As a viewer of pictures leaves it: what is counted is what is read."""
    shutil.copytree(few_digits / "val", tmp_path / "val")
    shutil.copytree(few_digits / "val/0", tmp_path / "val/.thumbnails")
    recipe = MODEL.read_config(command_line(val_data_dir=tmp_path / "val", num_parallel_workers=1, batch_size=64), "")
    names = MODEL.find_classes(recipe, "val", CPU)
    dataset = MODEL.create_dataset(recipe, "val", CPU, names)
    (labels,) = (labels for _, labels in dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))
    assert len(labels) == MODEL.count_images(recipe, "val") == 40
