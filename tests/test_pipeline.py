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


def numbered(sampler: ds.Sampler, threads: int) -> ds.Dataset:
    """Pictures (8, 8, 3) whose values are their numbers, which are their labels too."""
    numbers = np.arange(IMAGES)
    pictures = np.broadcast_to(numbers[:, None, None, None], (IMAGES, 8, 8, 3)).astype(np.uint8)
    return ds.NumpySlicesDataset((pictures, numbers), ["image", "label"], sampler=sampler, num_parallel_workers=threads)


def config(**changes) -> Config:
    return Config({"seed": 5, "batch_size": 3, "accumulate_steps": 1, "num_parallel_workers": 1, **changes})


def pipeline(split: str, rank: int = 0, size: int = 1, recipe: Config | None = None, **options) -> ds.Dataset:
    device = Device("CPU", 0, rank, size)
    return build_pipeline(
        numbered, range(IMAGES), [vision.HWC2CHW()], recipe or config(), device, split=split, **options
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


@pytest.mark.parametrize("size", [1, 2, 7, 23, 30])
def test_evaluation_shards(size):
    """Each picture on one rank, in order, none twice, whatever the seed; the shares differ by one at most."""
    recipe = config(seed=size, accumulate_steps=2)
    batched = [batches("val", rank, size, recipe) for rank in range(size)]
    assert all(len(batch) == 3 for rows in batched for batch in rows[:-1])
    shards = [flat(rows) for rows in batched]
    assert [shards[number % size][number // size] for number in range(IMAGES)] == list(range(IMAGES))
    assert sum(map(len, shards)) == IMAGES and max(map(len, shards)) - min(map(len, shards)) <= 1


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


@pytest.mark.parametrize("size", [2, 4])
def test_training_shards(size):
    """As many different pictures on each rank, together a beginning of one common order."""
    recipe, count = config(batch_size=1), IMAGES // size * size
    shards = [flat(batches("train", rank, size, recipe, epoch=2)) for rank in range(size)]
    assert [len(shard) for shard in shards] == [IMAGES // size] * size and len(set(flat(shards))) == count
    whole = flat(batches("train", epoch=2, recipe=recipe))
    assert [shards[place % size][place // size] for place in range(count)] == whole[:count]


def test_skipped_steps_and_accumulated_batches():
    rows = batches("train", epoch=2)
    for steps in (0, 1, 6):
        assert batches("train", epoch=2, skip_steps=steps) == rows[steps:]
    double = batches("train", recipe=config(accumulate_steps=2), epoch=2)
    assert [len(row) for row in double] == [6] * 3 and flat(double) == flat(rows)[:18]


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


def test_a_resumed_epoch_repeats_the_augmentation(few_digits):
    """Real pictures, with all augmentation that the toy has: the rest of the epoch is that of the whole one."""
    options = command_line(train_data_dir=few_digits / "train", num_parallel_workers=2, batch_size=8)
    recipe = MODEL.read_config(options, "")

    def drawn(**progress) -> list[np.ndarray]:
        dataset = MODEL.create_dataset(recipe, "train", CPU, list("0123456789"), epoch=2, **progress)
        return [images for images, _ in dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)]

    whole, rest = drawn(), drawn(skip_steps=3)
    assert len(whole) == 5 and whole[0].shape == (8, 3, 16, 16) and whole[0].dtype == np.float32
    np.testing.assert_array_equal(whole[3:], rest)
    assert not any(np.array_equal(one, two) for one, two in zip(whole, drawn(reshuffled=True)))


def test_types_and_batch_operators():
    """Labels are int32 indices; with operators on batches they become distributions."""
    images, labels = next(pipeline("train").create_tuple_iterator(num_epochs=1, output_numpy=True))
    assert labels.dtype == np.int32 and labels.shape == (3,) and images.shape == (3, 3, 8, 8)
    operators = [vision.Normalize([0.0] * 3, [1.0] * 3), vision.HWC2CHW()]
    more = {"serial_operators": random_erasing(1.0), "batch_operators": mix_batches(0.4, 0.5, 0.5)}
    recipe = config(num_classes=IMAGES)
    dataset = build_pipeline(numbered, range(IMAGES), operators, recipe, CPU, split="train", **more)
    images, labels = next(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))
    assert labels.dtype == images.dtype == np.float32 and labels.shape == (3, IMAGES)
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-5)
    assert all(len(np.unique(image)) > 1 for image in images), "parts of the pictures are erased"


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("key, accepted", [("batch_size", "1 or more"), ("num_parallel_workers", "1 or more"),
                                           ("seed", "0 to 4294967295")])  # fmt: skip
def test_options_that_cannot_be(split, key, accepted):
    with pytest.raises(UsageError, match=f"{key}=-1: {accepted} is accepted"):
        pipeline(split, recipe=config(**{key: -1}))


def test_image_folders(few_digits, tmp_path):
    """A class keeps its index where the folder has some of the classes only; what is hidden is none of the data."""
    for name, target in (("7", "7"), ("9", "9"), ("0", ".thumbnails"), ("1", "@eaDir")):
        shutil.copytree(few_digits / "val" / name, tmp_path / target)
    for name in ("7/.DS_Store", "7/._0.jpg", "9/.x.jpg", "9/Thumbs.db"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "notes.txt").write_text("text")
    assert count_image_folder(str(tmp_path)) == 8
    sampler = ds.SubsetSampler(image_positions(str(tmp_path)))
    dataset = image_folder(str(tmp_path), list("0123456789"), sampler=sampler)
    labels = [int(label) for _, label in dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)]
    assert labels == [7] * 4 + [9] * 4
