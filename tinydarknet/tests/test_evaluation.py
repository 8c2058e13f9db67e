"""Evaluation counts every image once and equals a hand count; the pipeline feeds what it says."""

from __future__ import annotations

import io
import re

import eval as evaluation
import train
from conftest import small_run
from src.dataset import count_images, create_dataset, find_classes, input_spec, read_cifar10
from src.model_utils.checkpoint import load, save
from src.model_utils.config import DataError, UsageError
from src.model_utils.device_adapter import Device
from src.recipe import read_config

import mindspore as ms
import numpy as np
import pytest
from PIL import Image
from src.inference import load_network

CPU = Device("CPU", 0)


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """A weights file after one epoch on the digits."""
    out = tmp_path_factory.mktemp("trained")
    options = small_run(digits, out, epoch_size=1, eval_interval=1, batch_size=32)
    assert train.main(options) == 0
    return out / "checkpoints/0/train_tinydarknet_cifar10_best.ckpt"


def evaluate(checkpoint, data, tmp_path, capsys, *options) -> dict:
    evaluation.main(
        ["--dataset_name", "cifar10", "--val_data_dir", str(data), "--device_target", "CPU", "--run_dir", str(tmp_path),
         "--checkpoint_path", str(checkpoint), *options]
    )  # fmt: skip
    line = re.search(r"(?m)^accuracy:  (\{'top_1_accuracy': .*, 'top_5_accuracy': .*\})$", capsys.readouterr().out)
    return eval(line[1])  # noqa: S307  (the documented line is a Python dictionary)


@pytest.mark.parametrize("batch_size", [7, 64, 500])
def test_equals_a_hand_count(trained, digits, tmp_path, capsys, batch_size):
    """360 of 360 images with batch sizes that do not divide 360; accuracies as fractions of 360."""
    metrics = evaluate(trained, digits, tmp_path, capsys, "--batch_size", str(batch_size))
    config = read_config(["--dataset_name", "cifar10", "--image_height", "32", "--image_width", "32"], "")
    images, labels = read_cifar10(str(digits), is_train=False)
    pixels = (images / 255.0 - np.array(config.mean)) / np.array(config.std)
    network, _ = load_network(trained, config)
    logits = network(ms.Tensor(pixels.transpose(0, 3, 1, 2).astype(np.float32))).asnumpy()
    assert logits.shape == (360, 10)
    top_1 = sum(int(row.argmax()) == label for row, label in zip(logits, labels))
    top_5 = sum(int((row > row[label]).sum()) < 5 for row, label in zip(logits, labels))
    assert metrics == {"top_1_accuracy": top_1 / 360, "top_5_accuracy": top_5 / 360}


def test_shards_cover_the_data_once(digits):
    config = read_config(["--dataset_name", "cifar10", "--val_data_dir", str(digits), "--train_data_dir", str(digits),
                          "--image_height", "32", "--image_width", "32", "--batch_size", "16",
                          "--num_parallel_workers", "1"], "")  # fmt: skip
    names = find_classes(config, False, CPU)

    def labels_of(is_train, rank, size, epoch=1):
        dataset = create_dataset(config, is_train, Device("CPU", 0, rank, size), names, epoch=epoch)
        return [
            int(label)
            for _, labels in dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)
            for label in labels
        ]

    assert [len(labels_of(False, rank, 7)) for rank in range(7)] == [52, 52, 52, 51, 51, 51, 51]
    whole = labels_of(False, 0, 1)
    assert whole == list(read_cifar10(str(digits), False)[1])
    sharded = [labels_of(False, rank, 7) for rank in range(7)]
    assert [sharded[i % 7][i // 7] for i in range(360)] == whole
    shards = [labels_of(True, rank, 2, epoch=3) for rank in range(2)]
    assert [len(shard) for shard in shards] == [704, 704]  # 718 images each, 44 whole batches
    assert shards[0] != shards[1] and labels_of(True, 0, 2, epoch=3) == shards[0] != labels_of(True, 0, 2, epoch=4)


def test_ranks_see_disjoint_images(few_digits):
    """Without augmentation the shards of two ranks hold different images, together all of them."""
    config = read_config(["--dataset_name", "cifar10", "--train_data_dir", str(few_digits), "--image_height", "32",
                          "--image_width", "32", "--batch_size", "1", "--flip_prob", "0", "--cutout_ratio", "0",
                          "--color_jitter", "0,0,0,0"], "")  # fmt: skip
    images, labels = read_cifar10(str(few_digits), True)
    seen = []
    for rank in range(2):
        dataset = create_dataset(config, True, Device("CPU", 0, rank, 2), [], epoch=2)
        seen += [int(label[0]) for _, label in dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)]
    assert len(seen) == len(labels) and sorted(seen) == sorted(labels.tolist())


def test_sink_mode_draws_a_new_order_each_epoch(few_digits):
    """One pipeline for several epochs: every epoch has all images of the shard, in another order."""
    config = read_config(
        ["--dataset_name", "cifar10", "--train_data_dir", str(few_digits), "--image_height", "32", "--image_width", "32"]
        + ["--batch_size", "1", "--flip_prob", "0", "--cutout_ratio", "0", "--color_jitter", "0,0,0,0"], "",
    )  # fmt: skip
    epochs = [[], []]
    for rank in range(2):
        dataset = create_dataset(config, True, Device("CPU", 0, rank, 2), [], reshuffled=True)
        batches = dataset.create_tuple_iterator(num_epochs=2, output_numpy=True)
        for labels in epochs:
            labels += [int(label[0]) for _, label in batches]
    everything = sorted(read_cifar10(str(few_digits), True)[1].tolist())
    assert sorted(epochs[0]) == sorted(epochs[1]) == everything and epochs[0] != epochs[1]


def test_folder_pipeline_equals_pillow(image_folder):
    """The evaluation tensor of a JPEG: shorter side to 256 of 224, centre crop, normalised; close to Pillow's bilinear."""
    config = read_config(["--val_data_dir", str(image_folder / "val")], "")
    names = find_classes(config, False, CPU)
    dataset = create_dataset(config.replace(batch_size=1), False, CPU, names)
    tensor, label = next(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))
    first = sorted((image_folder / "val" / names[0]).iterdir())[0]
    picture = Image.open(io.BytesIO(first.read_bytes())).convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture.crop((16, 16, 240, 240)), np.float64) / 255
    expected = ((pixels - config.mean) / config.std).transpose(2, 0, 1)
    assert label[0] == 0 and tensor.shape == (1, 3, 224, 224) and tensor.dtype == np.float32
    assert np.abs(tensor[0] - expected).mean() * 0.225 < 1 / 255


def test_class_subset_keeps_its_indices(image_folder, trained, tmp_path, capsys):
    """A validation folder with some of the classes: an image keeps the index that its class had in training."""
    subset = tmp_path / "subset"
    for name in ("7", "9"):
        (subset / name).mkdir(parents=True)
        for path in list((image_folder / "val" / name).iterdir())[:5]:
            (subset / name / path.name).write_bytes(path.read_bytes())
    config = read_config(["--val_data_dir", str(subset), "--batch_size", "16"], "")
    dataset = create_dataset(config, False, CPU, [str(digit) for digit in range(10)])
    labels = next(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))[1]
    assert sorted(labels.tolist()) == [7] * 5 + [9] * 5 and count_images(config, False) == 10


def test_weights_decide_the_input(trained, digits, tmp_path, capsys):
    """The recipe says 227 pixels, the checkpoint 32: the checkpoint's is used, and a contradiction is refused."""
    assert load(trained)[1]["input"]["height"] == 32
    evaluate(trained, digits, tmp_path, capsys)
    for option in (["--image_height", "64", "--image_width", "64"], ["--num_classes", "11"], ["--mean", "0,0,0"]):
        with pytest.raises(UsageError, match=f"{option[0]} .* contradicts"):
            evaluate(trained, digits, tmp_path, capsys, *option)


def test_moving_average_is_evaluated(digits, tmp_path, capsys):
    out = tmp_path / "ema"
    assert train.main(small_run(digits, out, epoch_size=1, eval_interval=1, ema_decay=0.5)) == 0
    log = (out / "run/train.log").read_text()
    assert re.search(r"ema_top_1_accuracy 0\.\d+", log)


def test_non_finite_outputs_are_an_error(trained, digits, tmp_path, capsys):
    parameters, about = load(trained)
    values = {name: value.asnumpy().copy() for name, value in parameters.items()}
    values["conv3.conv.weight"][:] = np.nan
    save(tmp_path / "nan.ckpt", values, about)
    with pytest.raises(DataError, match="not finite"):
        evaluate(tmp_path / "nan.ckpt", digits, tmp_path, capsys)


def test_other_classes_are_refused(trained, image_folder, tmp_path, capsys):
    other = tmp_path / "data"
    (other / "cat").mkdir(parents=True)
    (other / "cat" / "a.jpg").write_bytes(next((image_folder / "val" / "0").iterdir()).read_bytes())
    with pytest.raises(DataError, match="class 'cat'"):
        evaluation.main(["--val_data_dir", str(other), "--device_target", "CPU", "--run_dir", str(tmp_path),
                         "--checkpoint_path", str(trained)])  # fmt: skip


def test_input_spec_refuses_what_cannot_be():
    for options in (["--image_height", "100"], ["--crop_ratio", "0"], ["--std", "0,1,1"], ["--mean", "1,2"]):
        with pytest.raises(UsageError, match=options[0][2:]):
            input_spec(read_config(options, ""))
