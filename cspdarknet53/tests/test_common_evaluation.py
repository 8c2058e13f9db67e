# Shared file: source utils/classification/tests/test_common_evaluation.py; copy with: python scripts/sync_model_utils.py --write
"""Evaluation counts every image once and equals a hand count; the pipeline feeds what it says."""

from __future__ import annotations

import importlib
import io
import re

import eval as evaluation
import train
from conftest import OTHER_NETWORK, SHALLOW, SMALL_NETWORK, accuracies, is_convolution, small_run, states
from infer import read_picture
from src.dataset import create_dataset, eval_transforms, find_classes, input_spec
from src.model_utils.checkpoint import load, save
from src.model_utils.config import DataError, UsageError
from src.model_utils.device_adapter import Device
from src.recipe import NETWORK, read_config

import mindspore as ms
import numpy as np
import pytest
from PIL import Image
from src.inference import load_network

CPU = Device("CPU", 0)


@pytest.fixture(scope="module", autouse=True)
def shallow():
    """What is tested here does not depend on the depth."""
    module = importlib.import_module(f"src.{NETWORK}")
    stages = module.STAGES
    exec(SHALLOW, {})
    yield
    module.STAGES = stages


@pytest.fixture(scope="module")
def trained(few_digits, tmp_path_factory):
    """A training state after one epoch on the digits, with a moving average that differs from the weights."""
    out = tmp_path_factory.mktemp("trained")
    assert train.main(small_run(few_digits, out, epoch_size=1, ema_decay=0.5, eval_interval=1)) == 0
    return states(out)[-1]


def other_network() -> list[str]:
    return [f"--{key}={value}" for key, value in OTHER_NETWORK.items()][-1].split("=")


def options(data, tmp_path, checkpoint, *more) -> list[str]:
    return ["--val_data_dir", str(data / "val"), "--device_target", "CPU", "--run_dir", str(tmp_path),
            "--checkpoint_path", str(checkpoint), *more]  # fmt: skip


def configured(*arguments):
    return read_config([*SMALL_NETWORK, *map(str, arguments)], "")


@pytest.mark.parametrize("batch_size", [7, 64])
def test_equals_a_hand_count(trained, few_digits, tmp_path, capsys, batch_size):
    """40 of 40 images with batch sizes that do not divide 40, against one picture after the other."""
    evaluation.main(options(few_digits, tmp_path, trained, "--batch_size", str(batch_size)))
    measured = accuracies(capsys.readouterr().out)
    network, about = load_network(trained, read_config([], ""))
    operators = eval_transforms(about["input"])
    top_1 = top_5 = 0
    paths = sorted((few_digits / "val").rglob("*.jpg"))
    for path in paths:
        tensor = read_picture(path)
        for operator in operators:
            tensor = operator(tensor)
        logits = network(ms.Tensor(tensor[None])).asnumpy()[0]
        label = int(path.parent.name)
        top_1 += int(logits.argmax()) == label
        top_5 += int((logits > logits[label]).sum()) < 5
    assert len(paths) == 40 and measured == pytest.approx((top_1 / 40, top_5 / 40), abs=1e-4)


def test_shards_cover_the_data_once(few_digits):
    config = configured("--train_data_dir", few_digits / "train", "--val_data_dir", few_digits / "val",
                        "--image_height", 32, "--image_width", 32, "--batch_size", 4)  # fmt: skip
    names = find_classes(config, False, CPU)

    def labels_of(is_train, rank, size, **progress):
        dataset = create_dataset(config, is_train, Device("CPU", 0, rank, size), names, **progress)
        batches = dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)
        return [int(label) for _, labels in batches for label in labels]

    whole = labels_of(False, 0, 1)
    sharded = [labels_of(False, rank, 3) for rank in range(3)]
    assert [len(shard) for shard in sharded] == [14, 13, 13] and whole == sorted(whole)
    assert [sharded[i % 3][i // 3] for i in range(40)] == whole
    first = labels_of(True, 0, 2, epoch=3)
    assert len(first) == 20 and sorted(first + labels_of(True, 1, 2, epoch=3)) == whole
    assert labels_of(True, 0, 2, epoch=3) == first != labels_of(True, 0, 2, epoch=4)
    assert labels_of(True, 0, 2, epoch=3, skip_steps=2) == first[8:]


def test_resumed_pipeline_repeats_the_augmentation(few_digits):
    config = configured("--train_data_dir", few_digits / "train", "--image_height", 32, "--image_width", 32,
                        "--batch_size", 8)  # fmt: skip
    names = find_classes(config, True, CPU)

    def batches(**progress):
        dataset = create_dataset(config, True, CPU, names, epoch=2, **progress)
        return [images for images, _ in dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)]

    whole, rest = batches(), batches(skip_steps=3)
    assert len(whole) == 5 and len(rest) == 2
    np.testing.assert_array_equal(whole[3:], rest)
    assert whole[0].shape == (8, 3, 32, 32) and whole[0].dtype == np.float32


def test_pipeline_equals_pillow(tmp_path):
    """Shorter side resized, aspect kept, centre cropped, normalised; close to Pillow's resampling."""
    pixels = np.random.RandomState(1).randint(0, 256, (12, 20, 3)).astype(np.uint8)
    picture = Image.fromarray(pixels).resize((500, 300), Image.Resampling.BICUBIC)
    (tmp_path / "val" / "a").mkdir(parents=True)
    picture.save(tmp_path / "val/a/picture.png")
    config = configured("--val_data_dir", tmp_path / "val", "--batch_size", 1)
    tensor, label = next(
        create_dataset(config, False, CPU, ["a"]).create_tuple_iterator(num_epochs=1, output_numpy=True)
    )
    side = config.image_height
    short = int(side / config.crop_ratio)
    wide = short * 500 // 300
    resized = Image.open(io.BytesIO((tmp_path / "val/a/picture.png").read_bytes())).resize(
        (wide, short), Image.Resampling[config.interpolation.upper()]
    )
    left, top = (wide - side) // 2, (short - side) // 2
    pixels = np.asarray(resized.crop((left, top, left + side, top + side)), np.float64) / 255
    expected = ((pixels - config.mean) / config.std).transpose(2, 0, 1)
    assert label[0] == 0 and tensor.shape == (1, 3, side, side) and tensor.dtype == np.float32
    assert np.abs(tensor[0] - expected).mean() * 0.225 < 1.5 / 255


def test_class_subset_keeps_its_indices(few_digits, tmp_path):
    """A validation folder with some of the classes: an image keeps the index that its class had in training."""
    for name in ("7", "9"):
        (tmp_path / name).mkdir()
        for path in list((few_digits / "val" / name).iterdir())[:2]:
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    config = configured("--val_data_dir", tmp_path, "--batch_size", 16)
    dataset = create_dataset(config, False, CPU, [str(digit) for digit in range(10)])
    labels = next(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))[1]
    assert sorted(labels.tolist()) == [7, 7, 9, 9]


def test_weights_decide_the_input(trained, few_digits, tmp_path):
    """The checkpoint's size, classes and network are used; an option that contradicts them is refused."""
    assert load(trained)[1]["input"]["height"] == 32
    for option in (["--image_height", "64"], ["--num_classes", "11"], ["--mean", "0,0,0"], other_network()):
        more = ["--image_width", "64"] if option[0] == "--image_height" else []
        with pytest.raises(UsageError, match=f"{option[0]} .* contradicts"):
            evaluation.main(options(few_digits, tmp_path, trained, *option, *more))


def test_moving_average_of_a_training_state(trained, few_digits, tmp_path, capsys):
    """--use_ema evaluates what the training said of the average."""
    evaluation.main(options(few_digits, tmp_path, trained, "--use_ema", "true"))
    top_1, _ = accuracies(capsys.readouterr().out)
    log = (trained.parents[len(trained.parts) - 1 - trained.parts.index("checkpoints")] / "run/train.log").read_text()
    assert top_1 == pytest.approx(float(re.search(r"ema_top_1_accuracy (\S+),", log)[1]), abs=1e-4)


def test_non_finite_outputs_are_an_error(trained, few_digits, tmp_path):
    parameters, about = load(trained)
    values = {name: value.asnumpy().copy() for name, value in parameters.items() if "train_state" not in name}
    next(value for name, value in values.items() if is_convolution(name))[:] = np.nan
    about = {key: about[key] for key in ("network", "input", "class_names")}
    save(tmp_path / "nan.ckpt", values, about)
    with pytest.raises(DataError, match="not finite"):
        evaluation.main(options(few_digits, tmp_path, tmp_path / "nan.ckpt"))


def test_input_spec_refuses_what_cannot_be():
    for option in (["--crop_ratio", "0"], ["--std", "0,1,1"], ["--mean", "1,2"]):
        with pytest.raises(UsageError, match=option[0][2:]):
            input_spec(read_config(option, ""))
    with pytest.raises(UsageError, match="image_height=31"):
        input_spec(read_config(["--image_height", "31", "--image_width", "31"], ""))
