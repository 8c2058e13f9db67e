"""Evaluation counts every image once and equals a hand count; which output is which class; the loss of the training."""

from __future__ import annotations

import csv
import math
import shutil
from fractions import Fraction
from pathlib import Path

from model_utils.checkpoint import load, save
from model_utils.classification.evaluation import (
    LOSS_UNIT,
    Totals,
    cross_entropy,
    evaluate,
    exact_sums,
    load_for_evaluation,
    match_classes,
)
from model_utils.classification.infer import read_picture
from model_utils.classification.loss import smoothed_cross_entropy
from model_utils.classification.transforms import eval_transforms
from model_utils.device_adapter import Device
from model_utils.errors import DataError, UsageError
from model_utils.inference import load_network
from toy.model import MODEL
from toy.programs import run_eval
from toy_runs import command_line

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image

pytestmark = pytest.mark.usefixtures("programs")
CPU = Device("CPU", 0)
CLASSES = [str(digit) for digit in range(10)]


class Batches:
    """Stands in for a pipeline: these images and labels, in batches."""

    def __init__(self, images, labels, batch_size: int):
        self.images, self.labels, self.batch_size = np.array(images, np.float32), np.array(labels, np.int32), batch_size

    def create_tuple_iterator(self, num_epochs, output_numpy):
        assert num_epochs == 1 and output_numpy
        for start in range(0, len(self.images), self.batch_size):
            yield tuple(values[start : start + self.batch_size] for values in (self.images, self.labels))


def count(logits, labels, batch_size: int, expected: int | None = None, smoothing: float = 0.0) -> Totals:
    """The totals of a network that gives these logits."""
    batches = Batches(logits, labels, batch_size)
    return evaluate(lambda images: images, batches, batch_size, expected or len(labels), CPU, smoothing)


def options(checkpoint: Path, data: Path, out: Path, **changes) -> list[str]:
    return command_line(checkpoint_path=checkpoint, val_data_dir=data, run_dir=out, num_parallel_workers=1, **changes)


# ---- The count -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [7, 40, 64])
def test_equals_a_hand_count_on_every_picture(toy_state, few_digits, tmp_path, batch_size):
    """40 of 40 with batch sizes that do not divide 40, against one picture after the other."""
    totals = run_eval(options(toy_state, few_digits / "val", tmp_path, batch_size=batch_size))
    network, about = load_network(MODEL, toy_state, MODEL.read_config([], ""))
    top_1 = top_5 = loss = 0
    paths = sorted((few_digits / "val").rglob("*.jpg"))
    for path in paths:
        picture = read_picture(path)
        for operator in eval_transforms(about["input"]):
            picture = operator(picture)
        logits = network(Tensor(picture[None])).asnumpy()[0].astype(np.float64)
        label = CLASSES.index(path.parent.name)
        top_1 += int(logits.argmax()) == label
        top_5 += int((logits > logits[label]).sum()) < 5
        loss += math.log(np.exp(logits - logits[label]).sum())
    assert len(paths) == 40 and 0 < top_1 < top_5 < 40, "nothing would be seen"
    assert totals[:3] == (40, top_1, top_5)
    assert totals.loss == pytest.approx(loss, rel=1e-5)
    assert totals.accuracies() == {"top_1_accuracy": top_1 / 40, "top_5_accuracy": top_5 / 40}
    assert f"accuracy: {totals.accuracies()}\n" in (tmp_path / "eval.log").read_text()


def test_the_lowest_index_wins_a_tie():
    logits = [[1, 1, 1, 1, 1, 1, 1], [0, 2, 2, 0, 0, 0, 0], [0, 2, 2, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0, 0]]
    for labels, top_1, top_5 in (
        ([0, 1, 1, 0], 4, 4),
        ([1, 2, 2, 6], 0, 3),
        ([4, 4, 5, 4], 0, 3),
        ([5, 6, 6, 6], 0, 0),
    ):
        for batch_size in (1, 3):
            assert count(logits, labels, batch_size)[:3] == (4, top_1, top_5), (labels, batch_size)
    logits = np.random.RandomState(7).randint(0, 3, (1, 200))  # long rows, which NumPy sorts in another way
    order = sorted(range(200), key=lambda index: (-logits[0, index], index))
    for place in (0, 1, 4, 5):
        assert count(logits, [order[place]], 1)[1:3] == (place == 0, place < 5), place


@pytest.mark.parametrize("classes", [1, 2, 5, 6])
def test_top_5_of_few_classes(classes):
    logits = np.arange(classes, 0, -1)[None]  # class 0 is the likeliest
    assert count(logits, [0], 1)[1:3] == (1, 1)
    assert count(logits, [classes - 1], 1)[1:3] == (classes == 1, classes <= 5)


def test_pictures_that_are_missing_or_too_many():
    for expected in (3, 5):
        with pytest.raises(DataError, match=f"4 images were evaluated, the data set has {expected}"):
            count(np.zeros((4, 2)), [0] * 4, 3, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite(toy_state, few_digits, tmp_path, value):
    with pytest.raises(DataError, match="outputs are not finite; give another checkpoint"):
        count([[0, 1], [0, value]], [0, 0], 2)
    parameters, about = load(toy_state)
    parameters["body.conv.weight"].set_data(Tensor(np.full(parameters["body.conv.weight"].shape, value, np.float32)))
    save(tmp_path / "bad.ckpt", parameters, {key: about[key] for key in ("network", "input", "class_names")})
    with pytest.raises(DataError, match="not finite"):
        run_eval(options(tmp_path / "bad.ckpt", few_digits / "val", tmp_path))


def test_moving_average_of_a_training_state(toy_state, few_digits, tmp_path):
    """--use_ema evaluates what the training said of the average, to the last bit; without it, of the raw weights."""
    with (toy_state.parents[1] / "run/curves.csv").open() as file:
        said = {row["name"]: float(row["value"]) for row in csv.DictReader(file)}
    for prefix, use_ema in (("", False), ("ema_", True)):
        found = run_eval(options(toy_state, few_digits / "val", tmp_path, use_ema=use_ema)).accuracies()
        assert found == {name: said[f"{prefix}{name}"] for name in found}


# ---- Loss and sums ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_its_definition(smoothing):
    random = np.random.RandomState(2)
    logits, labels = random.normal(0, 3, (6, 4)).astype(np.float32), np.array([0, 1, 2, 3, 3, 0])
    target = np.full((6, 4), smoothing / 3)
    target[np.arange(6), labels] = 1 - smoothing
    scores = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True)
    wanted = -(target * np.log(scores)).sum(axis=1)
    np.testing.assert_allclose(cross_entropy(logits, labels, smoothing), wanted, rtol=1e-12)


def test_cross_entropy_of_large_logits_and_one_class():
    assert cross_entropy(np.float32([[1e4, 0], [0, 1e4]]), np.array([0, 0])).tolist() == [0.0, 1e4]
    assert cross_entropy(np.float32([[7]]), np.array([0]), 0.1).tolist() == [0.0]


class Ranks:
    """Three ranks of which this one speaks for all: each gives the same numbers, and float32 adds them."""

    size, rank = 3, 0

    def sum(self, values: list[float]) -> list[float]:
        found = [np.float32(value) + np.float32(value) + np.float32(value) for value in values]
        assert all(value < 2**24 for value in found), "float32 rounds such sums"
        return [float(value) for value in found]


def test_sums_over_ranks_are_exact():
    numbers = [0, 1, 2**24 + 1, 2**53 + 1, 3 * 10**30 + 7, 2**216 - 1]
    assert exact_sums(numbers, Ranks()) == [3 * number for number in numbers]
    assert exact_sums(numbers, CPU) == numbers
    largest = 10**14 * Fraction(float(np.finfo(np.float32).max)) / Fraction(LOSS_UNIT)
    assert exact_sums([int(largest)], Ranks()) == [3 * int(largest)]


def test_the_order_of_the_pictures_does_not_matter():
    """Not even in the last bit of the loss."""
    random = np.random.RandomState(4)
    logits, labels = random.normal(0, 9, (50, 7)).astype(np.float32), random.randint(0, 7, 50)
    orders = ((np.arange(50), 7), (random.permutation(50), 13), (np.arange(50)[::-1], 50))
    (totals,) = {count(logits[order], labels[order], size, smoothing=0.1) for order, size in orders}
    assert totals.loss == pytest.approx(cross_entropy(logits, labels, 0.1).sum(), rel=1e-11)
    assert totals.metrics() == {**totals.accuracies(), "validation_loss": totals.loss / 50}


# ---- Which output is which class -------------------------------------------------------------------------------------


A, B, C = "abc"


OTHER = "evaluate on the data that it was trained for"


@pytest.mark.parametrize(
    "names, outputs, stored, is_fixed, found",
    [
        ([A, C], 3, [C, B, A], False, [C, B, A]),  # the stored order
        ([A, C], 2, None, False, [A, C]),  # no names: class i is folder i
        ([A, C], 5, None, False, "--class_names FILE"),
        ([A, B, C], 2, [A, B], False, "has 2 classes .a, b., val_data_dir=.*: it does not know 1 of them, 'c';"),
        ([A, B, C], 2, None, False, "the checkpoint has 2 classes .unnamed"),
        ([A, "cat"], 2, [A, B], False, "the checkpoint of 2 does not know 1 of them, 'cat'; evaluate"),
        ([A, "cat"], 2, [A, "Cat "], False, "'Cat ' is there, which differs in: blanks, upper and lower case"),
        ([A, B], 2, [A, B], True, [A, B]),  # the data set numbers its classes itself
        ([A, B], 2, None, True, [A, B]),
        ([A, B], 3, None, True, OTHER),
        ([A, B], 2, [B, A], True, OTHER),
        ([A, B], 3, [A, B, C], True, OTHER),
    ],
)
def test_match_classes(names, outputs, stored, is_fixed, found):
    about, config = {"network": {"num_classes": outputs}, "class_names": stored}, MODEL.read_config([], "")
    if isinstance(found, list):
        assert match_classes(names, about, config, is_fixed=is_fixed) == found
    else:
        with pytest.raises(DataError, match=found):
            match_classes(names, about, config, is_fixed=is_fixed)


def copy_classes(data: Path, folder: Path, **names: str) -> Path:
    """Some of the digits as class folders of other names."""
    for name, digit in names.items():
        shutil.copytree(data / "val" / digit, folder / name.strip("_"))
    return folder


def labels_of(dataset) -> list[int]:
    return [int(n) for _, row in dataset.create_tuple_iterator(num_epochs=1, output_numpy=True) for n in row]


def test_some_of_the_classes_keep_their_indices(toy_state, few_digits, tmp_path):
    """A picture keeps the index that its class had in training."""
    data = copy_classes(few_digits, tmp_path / "val", _7="7", _9="9")
    config = MODEL.read_config(options(toy_state, data, tmp_path), "")
    changed, network, dataset = load_for_evaluation(MODEL, config, CPU, str(toy_state))
    assert labels_of(dataset) == [7] * 4 + [9] * 4 and not network.training and changed.num_classes == 10


def write_weights(path: Path, names=None, **changes) -> Path:
    config = MODEL.read_config(command_line(**changes), "")
    about = {"network": MODEL.describe_network(config), "input": MODEL.input_spec(config), "class_names": names}
    save(path, MODEL.build_network(about["network"]).parameters_dict(), about)
    return path


def test_the_weights_decide_the_input_and_the_classes(few_digits, tmp_path):
    """Twelve classes at 20 pixels by the checkpoint, ten at 16 by the recipe; the data has ten of them."""
    twelve = write_weights(
        tmp_path / "twelve.ckpt", [*map(str, range(12))], num_classes=12, image_height=20, image_width=20
    )
    recipe = MODEL.read_config(options(twelve, few_digits / "val", tmp_path, batch_size=4), "")
    config, network, dataset = load_for_evaluation(MODEL, recipe, CPU, recipe.checkpoint_path)
    assert (config.num_classes, config.image_height, recipe.num_classes, recipe.image_height) == (12, 20, 10, 16)
    images, _ = next(dataset.create_tuple_iterator(num_epochs=1))
    assert images.shape == (4, 3, 20, 20) and network(images).shape == (4, 12)
    with pytest.raises(UsageError, match="--num_classes .* contradicts"):
        run_eval(options(twelve, few_digits / "val", tmp_path, num_classes=11))


def test_data_that_do_not_belong_to_the_weights(few_digits, toy_state, tmp_path):
    """More classes than outputs, a class of another name, no data at all: an error, no wrong number."""
    five = write_weights(tmp_path / "five.ckpt", num_classes=5)
    (tmp_path / "empty").mkdir()
    for checkpoint, data, message in (
        (five, few_digits / "val", "the checkpoint has 5 classes .unnamed.*has 10 .0, 1, 2"),
        (toy_state, copy_classes(few_digits, tmp_path / "val", _3="3", cat="0"), "does not know 1 of them, 'cat'"),
        (toy_state, tmp_path / "empty", "holds no class folders"),
    ):
        with pytest.raises(DataError, match=message):
            run_eval(options(checkpoint, data, tmp_path))


def test_another_order_of_the_names(few_digits, toy_state, tmp_path):
    """What `match` returns is the order of the outputs."""
    config, seen = MODEL.read_config(options(toy_state, few_digits / "val", tmp_path), ""), []

    def match(names, about, given):
        seen.extend([names, about["class_names"], given.num_classes])
        return names[::-1]

    _, _, dataset = load_for_evaluation(MODEL, config, CPU, str(toy_state), match=match)
    assert labels_of(dataset) == [digit for digit in range(9, -1, -1) for _ in range(4)]
    assert seen == [CLASSES, CLASSES, 10]


def test_dry_run(few_digits, toy_state, tmp_path):
    """One batch is taken: what is wrong with the first picture is found."""
    assert run_eval(options(toy_state, few_digits / "val", tmp_path, dry_run=True)) is None
    assert "dry run: everything was built, nothing was evaluated\n" in (tmp_path / "eval.log").read_text()
    (tmp_path / "val/0").mkdir(parents=True)
    (tmp_path / "val/0/a.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"val/0/a\.jpg"):
        run_eval(options(toy_state, tmp_path / "val", tmp_path, dry_run=True, check_images=False))


# ---- The loss of the training, value and gradient, against float64 arithmetic -----------------------------------------


def exact(logits: np.ndarray, targets: np.ndarray, factor: float) -> tuple[float, np.ndarray]:
    """Loss and gradient by the logits; `targets` are distributions (N, classes) before the smoothing."""
    count, classes = logits.shape
    smoothed = (1 - factor) * targets + (factor / (classes - 1) * (1 - targets) if classes > 1 else 0)
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    log_scores = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    gradient = (np.exp(log_scores) * smoothed.sum(1, keepdims=True) - smoothed) / count
    return -(smoothed * log_scores).sum(1).mean(), gradient


def agree(cell, logits, labels, targets, factor) -> None:
    loss, gradient = ms.value_and_grad(lambda x: cell(x, Tensor(labels)), 0)(Tensor(logits))
    assert loss.shape == () and loss.dtype == ms.float32
    wanted, wanted_gradient = exact(logits, targets, factor)
    assert float(loss.asnumpy()) == pytest.approx(wanted, rel=1e-5)
    np.testing.assert_allclose(gradient.asnumpy(), wanted_gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("eager_mode")
@pytest.mark.parametrize("classes, factor", [(7, 0.0), (7, 0.1), (7, 6 / 7), (2, 0.5), (1000, 0.1)])
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_class_indices(classes, factor, size):
    random = np.random.default_rng(1)
    logits = (random.normal(size=(6, classes)) * size).astype(np.float32)
    labels = random.integers(0, classes, 6).astype(np.int32)
    agree(smoothed_cross_entropy(classes, factor), logits, labels, np.eye(classes)[labels], factor)


@pytest.mark.usefixtures("eager_mode")
@pytest.mark.parametrize("factor", [0.0, 0.8])
def test_labels_that_are_distributions(factor):
    """As MixUp and CutMix give them: they are smoothed in the same way as one-hot ones."""
    random = np.random.default_rng(2)
    logits = random.normal(size=(6, 5)).astype(np.float32)
    labels = random.dirichlet(np.ones(5), 6).astype(np.float32)
    agree(smoothed_cross_entropy(5, factor), logits, labels, labels.astype(np.float64), factor)


@pytest.mark.usefixtures("eager_mode")
@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_one_class_has_no_smoothing(factor):
    logits, labels = np.float32([[2.0], [-3.0]]), np.int32([0, 0])
    agree(smoothed_cross_entropy(1, factor), logits, labels, np.ones((2, 1)), 0.0)


@pytest.mark.parametrize("classes, factor", [(3, 0.67), (10, 1.0), (10, -0.1), (10, math.nan)])
def test_factors_that_cannot_be(classes, factor):
    with pytest.raises(UsageError) as caught:
        smoothed_cross_entropy(classes, factor)
    assert str(caught.value) == f"label_smooth_factor={factor}: 0 to (classes - 1) / classes is accepted"


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_damaged_picture_leaves_no_file_behind(toy_state, few_digits, tmp_path, monkeypatch, dry_run):
    """Without the check, MindData's decoder finds it, and writes a copy into the current directory."""
    data = copy_classes(few_digits, tmp_path / "val", _3="3")
    picture = sorted((data / "3").iterdir())[0]
    Image.effect_noise((200, 200), 80).convert("RGB").save(picture)
    picture.write_bytes(picture.read_bytes()[: picture.stat().st_size // 2])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    argv = options(toy_state, data, tmp_path, check_images="off", dry_run=dry_run)
    with pytest.raises(DataError, match=f"{picture} cannot be used"):
        run_eval(argv)
    assert not list((tmp_path / "here").iterdir())
