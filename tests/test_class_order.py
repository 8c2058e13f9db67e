"""Which row of a head is which class: rows follow names, in training from weights, in a resumed run, in evaluation."""

from __future__ import annotations

import shutil
from pathlib import Path

from model_utils import checkpoint
from model_utils.class_order import class_indices, head_rows, reorder_heads, take_rows
from model_utils.classification.evaluation import match_classes
from model_utils.errors import DataError, UsageError
from model_utils.inference import description
from model_utils.pretrained import create_network
from toy.model import MODEL
from toy.programs import run_eval, run_train
from toy_runs import command_line, contents, last, small_run

import numpy as np
import pytest
from mindspore import Tensor

pytestmark = pytest.mark.usefixtures("programs")
DIGITS = [str(digit) for digit in range(10)]
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.mark.parametrize(
    "stored, names, outputs, expected",
    [
        ("abc", "abc", 3, None),
        ("abc", "ab", 3, None),  # a class without data
        ("aa", "aa", 2, None),  # names are labels where the lists are equal
        ("abc", "cab", 3, [2, 0, 1]),
        ("abc", "cb", 3, [2, 1, 0]),
        ("abc", "cdb", 3, [2, None, 1]),
        ("abcd", "xd", 4, [None, 3, 0, 1]),
        ("abc", "cba", 5, [2, 1, 0, 3, 4]),  # outputs 3 and 4 have no name
    ],
)
def test_rows_follow_names(stored, names, outputs, expected):
    rows, line = head_rows(list(stored), list(names), outputs, "w.ckpt")
    assert rows == expected and bool(line) == (expected is not None)
    new, gone = set(names) - set(stored), set(stored) - set(names)
    assert rows is None or (
        ("random values: " + "".join(new) in line) == bool(new) and ("there: " in line) == bool(gone)
    )


@pytest.mark.parametrize(
    "stored, names, message", [("abc", "xyz", "none in common"), ("aab", "baa", "'a'"), ("ab", "bb", "'b'")]
)
def test_lists_that_cannot_be_matched(stored, names, message):
    with pytest.raises(DataError, match=message):
        head_rows(list(stored), list(names), len(stored), "w.ckpt")


def test_weights_without_names_are_said_to_be_so():
    assert head_rows(None, ["x", "y"], 2, "w.ckpt") == (
        None,
        "w.ckpt names no classes: its output i is taken to be class i of x, y",
    )


def test_indices_of_classes():
    assert class_indices(["b", "a"], ["a", "b", "c"], "data") == [1, 0]
    assert class_indices(["a", "a", "b"], ["a", "a", "b"], "data") == [0, 1, 2]
    assert class_indices(["b"], ["a", "a", "b"], "data") == [2], "a double that nobody asks for does no harm"
    for names, outputs in ((["b", "a"], ["a", "a", "b"]), (["a", "a"], ["a", "a", "b"])):
        with pytest.raises(DataError, match="'a'"):
            class_indices(names, outputs, "data")


def test_rows_of_a_detector_are_taken_in_each_anchor():
    """Three anchors of two lines of their own and three classes: row 100 a + 10 + c is class c of anchor a."""
    head = np.array([[100 * a + r] for a in range(3) for r in (0, 1, 10, 11, 12)], np.float32)
    new = -head
    taken = take_rows(head, [2, None, 0], new, (3, 2))
    expected = [
        [value] for a in range(3) for value in (100 * a, 100 * a + 1, 100 * a + 12, -100 * a - 11, 100 * a + 10)
    ]
    assert taken.tolist() == expected


def test_what_optimizers_and_averages_keep_of_a_head_goes_with_it():
    head = Tensor(np.full((2, 1), 9, np.float32))
    state = {
        name: Tensor(np.array([[1], [2]], np.float32))
        for name in (
            "fc.weight",
            "train_state.optimizer.moments.fc.weight",
            "train_state.ema.fc.weight",
            "network.fc.weight",
        )
    }
    body = {"conv.weight": Tensor(np.array([[1], [2]], np.float32)), "train_state.scale": Tensor(np.float32(3))}
    result = reorder_heads({**state, **body}, {"fc.weight": head}, [1, None], (1, 0))
    assert result["fc.weight"].asnumpy().tolist() == result["network.fc.weight"].asnumpy().tolist() == [[2], [9]]
    assert result["train_state.optimizer.moments.fc.weight"].asnumpy().tolist() == [[2], [0]]
    assert all(result[name] is value for name, value in body.items())


# ---- In the programs --------------------------------------------------------------------------------------------------


def named_in_another_order(folder: Path, target: Path) -> Path:
    """The digits with folders named by words, which sort in another order than the digits themselves."""
    for split in ("train", "val"):
        for digit, word in zip(DIGITS, WORDS):
            shutil.copytree(folder / split / digit, target / split / word)
    return target


def with_names(path: Path, target: Path, names) -> Path:
    """A copy of a checkpoint with other class names."""
    parameters, metadata = checkpoint.load(path)
    checkpoint.save(target, parameters, {**metadata, "class_names": names})
    return target


def evaluated(data: Path, path: Path, out: Path, **options):
    return run_eval(command_line(val_data_dir=data / "val", checkpoint_path=path, run_dir=out, image_height=16,
                                 image_width=16, **options))  # fmt: skip


def test_training_on_from_weights_of_another_order(few_digits, toy_state, tmp_path):
    """With a learning rate of 0 and no batch statistics the network is that of the weights, with its rows moved."""
    data = named_in_another_order(few_digits, tmp_path / "words")
    source = with_names(toy_state, tmp_path / "words.ckpt", WORDS)
    names = sorted(WORDS)
    _, about, network = create_network(MODEL, MODEL.read_config(command_line(), ""), names, str(source))
    assert about["class_names"] == names
    head, before = network.parameters_dict()["fc.weight"].asnumpy(), contents(source)["fc.weight"]
    assert all(np.array_equal(head[names.index(word)], before[index]) for index, word in enumerate(WORDS))
    checkpoint.save(tmp_path / "moved.ckpt", network.parameters_dict(), about)
    assert evaluated(data, tmp_path / "moved.ckpt", tmp_path) == evaluated(data, source, tmp_path)


def test_reset_head_also_where_the_counts_are_equal(toy_state):
    options = {"seed": 5, "reset_head": True}
    _, _, network = create_network(MODEL, MODEL.read_config(command_line(**options), ""), DIGITS, str(toy_state))
    _, _, random = create_network(MODEL, MODEL.read_config(command_line(seed=5), ""), DIGITS, "")
    for name, value in random.parameters_dict().items():
        same = np.array_equal(network.parameters_dict()[name].asnumpy(), value.asnumpy())
        assert same == MODEL.is_head(name) or name.endswith((".beta", ".moving_mean", ".gamma", ".moving_variance"))


@pytest.mark.parametrize("names, message", [(list("abcdefghij"), "none in common"), (["0"] * 2 + DIGITS[2:], "'0'")])
def test_weights_whose_names_do_not_fit(toy_state, tmp_path, names, message):
    source = with_names(toy_state, tmp_path / "other.ckpt", names)
    with pytest.raises(DataError, match=message):
        create_network(MODEL, MODEL.read_config(command_line(), ""), DIGITS, str(source))


def test_a_resumed_run_with_classes_in_another_order(few_digits, tmp_path):
    """Bit for bit what the run without the interruption gives, but for the order of the rows: optimizer and average too."""
    data = named_in_another_order(few_digits, tmp_path / "words")
    options = {"epochs": 1, "ema_decay": 0.5, "lr": 0.01}
    assert run_train(small_run(data, tmp_path / "run", **options)) == 0
    path = last(tmp_path / "run")
    parameters, metadata = checkpoint.load(path)
    order = list(reversed(metadata["class_names"]))
    heads = {name: value for name, value in parameters.items() if MODEL.is_head(name)}
    turned = reorder_heads(parameters, heads, list(range(9, -1, -1)), (1, 0))
    checkpoint.save(tmp_path / "turned" / path.name, turned, {**metadata, "class_names": order})
    results = []
    for number, state in enumerate((path, tmp_path / "turned" / path.name)):
        run = small_run(data, tmp_path / str(number), **{**options, "epochs": 2}, resume=state)
        assert run_train(run) == 0
        results.append(contents(last(tmp_path / str(number))))
    assert results[0].keys() == results[1].keys()
    assert all(np.array_equal(results[0][name], results[1][name]) for name in results[0] if name != "metadata")


def test_a_resumed_run_with_other_classes(few_digits, toy_state, tmp_path):
    data = named_in_another_order(few_digits, tmp_path / "words")
    with pytest.raises(DataError, match="is of a run with the classes 0, 1, 2, 3, 4 and 5 more"):
        run_train(small_run(data, tmp_path, epochs=2, ema_decay=0.5, resume=toy_state))


# ---- Weights without names --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unnamed(toy_state, tmp_path_factory) -> Path:
    return with_names(toy_state, tmp_path_factory.mktemp("unnamed") / "unnamed.ckpt", None)


def test_fewer_classes_than_outputs_without_names(few_digits, unnamed, tmp_path):
    """Refused, unless a list says which output is which class."""
    for word in ("7", "3"):
        shutil.copytree(few_digits / "val" / word, tmp_path / "val" / word)
    with pytest.raises(DataError, match="has 2: which output is which of them is not known.*--class_names FILE"):
        evaluated(tmp_path, unnamed, tmp_path)
    (tmp_path / "names.yaml").write_text("".join(f"- '{digit}'\n" for digit in DIGITS))
    named = evaluated(tmp_path, unnamed, tmp_path, class_names=tmp_path / "names.yaml")
    assert named.images == 8
    whole = evaluated(few_digits, unnamed, tmp_path)  # as many classes as outputs
    assert whole.images == 40


def test_lists_of_names_that_cannot_be(few_digits, unnamed, toy_state, tmp_path):
    names = tmp_path / "names.yaml"
    names.write_text("- one\n- two\n")
    with pytest.raises(UsageError, match="has 2 names: 10 are needed"):
        evaluated(few_digits, unnamed, tmp_path, class_names=names)
    with pytest.raises(UsageError, match="contradicts"):
        evaluated(few_digits, toy_state, tmp_path, class_names=names)


def test_evaluation_by_a_name_that_stands_twice():
    about = description(MODEL, MODEL.read_config([], ""), ["crane", "heron", "crane"])
    about["network"]["num_classes"] = 3
    config = MODEL.read_config(["--val_data_dir", "birds"], "")
    assert match_classes(["heron"], about, config) == about["class_names"]
    with pytest.raises(DataError, match="'crane'"):
        match_classes(["crane", "heron"], about, config)
