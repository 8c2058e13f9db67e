"""The network at the start of a training: weights that follow from the seed, or those of a checkpoint with what they need."""

from __future__ import annotations

from pathlib import Path

from model_utils.checkpoint import load, save
from model_utils.errors import DataError, UsageError
from model_utils.inference import description
from model_utils.pretrained import create_network
from toy.model import MODEL
from toy.programs import run_eval, run_train
from toy_runs import command_line, contents, last, small_run

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("programs")
CLASSES = [str(digit) for digit in range(10)]
TWELVE = [str(digit) for digit in range(12)]


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """Weights with another activation, width, mean and std than those of the recipe."""
    about = description(MODEL, MODEL.read_config(["--activation", "mish", "--width", "4"], ""), CLASSES)
    about["input"].update(mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0])
    path = tmp_path_factory.mktemp("other") / "other.ckpt"
    save(path, MODEL.build_network(about["network"]).parameters_dict(), about)
    return path


def create(path="", names=CLASSES, **options):
    return create_network(MODEL, MODEL.read_config(command_line(**options), ""), names, str(path))


def values(network) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy() for name, parameter in network.parameters_dict().items()}


def test_random_weights_follow_from_the_seed():
    (config, about, network), (*_, again), (*_, other) = (create(seed=seed) for seed in (3, 3, 4294967295))
    first, again, other = values(network), values(again), values(other)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first if name.endswith(".weight"))
    assert about == description(MODEL, config, CLASSES) and network.training


@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_seeds_that_cannot_be(seed):
    with pytest.raises(UsageError, match=f"seed={seed}: 0 to 4294967295 is accepted"):
        create(seed=seed)


def test_weights_bring_their_network_and_input(other):
    """The command line goes before the input; another network than that of the weights cannot be."""
    config, about, network = create(other)
    assert about["network"] == load(other)[1]["network"]
    assert (config.activation, config.width, config.mean, config.std) == ("mish", 4, [0.0] * 3, [1.0] * 3)
    assert about["input"]["mean"] == [0.0] * 3 and about["input"]["std"] == [1.0] * 3
    loaded, stored = values(network), contents(other)
    assert all(np.array_equal(loaded[name], value) for name, value in stored.items())
    _, about, _ = create(other, std="0.5,0.5,0.5")
    assert about["input"]["mean"] == [0.0] * 3 and about["input"]["std"] == [0.5] * 3
    for option, value in {"activation": "relu", "width": 8}.items():
        with pytest.raises(UsageError, match=f"--{option} {value} contradicts .*other.ckpt, which has"):
            create(other, **{option: value})


def test_a_training_stores_what_its_weights_were_made_for(few_digits, other, tmp_path):
    """And the training pipeline normalizes in that way: with a learning rate of 0 the evaluation sees the same network."""
    options = {"epochs": 1, "batch_size": 40, "pretrained": other, "lr": 0, "eval_interval": 1}
    assert run_train(small_run(few_digits, tmp_path, **options)) == 0
    about = load(last(tmp_path))[1]
    assert about["network"] == load(other)[1]["network"] and about["input"]["std"] == [1.0] * 3
    trained, before = contents(last(tmp_path)), contents(other)
    for name, value in before.items():
        assert np.array_equal(trained[name], value) != name.endswith(("moving_mean", "moving_variance")), name
    totals = run_eval(command_line(checkpoint_path=last(tmp_path), val_data_dir=few_digits / "val", run_dir=tmp_path))
    said = load(tmp_path / "checkpoints/toy_best.ckpt")[1]["metrics"]
    assert said["top_1_accuracy"] == totals.accuracies()["top_1_accuracy"]


def test_another_class_count(other):
    """Only the head is new, and only when that is asked for; the fitting parts keep their values."""
    with pytest.raises(DataError, match="fc.weight has shape.*--reset_head true"):
        create(other, names=TWELVE, num_classes=12)
    _, about, network = create(other, names=TWELVE, num_classes=12, reset_head=True)
    assert about["network"]["num_classes"] == 12 and about["class_names"] == TWELVE
    found, before = values(network), contents(other)
    for name, value in before.items():
        assert found[name].shape[0] == 12 if MODEL.is_head(name) else np.array_equal(found[name], value)


def test_weights_that_do_not_fit(other, tmp_path):
    parameters, about = load(other)
    save(tmp_path / "plain.ckpt", parameters, {})
    save(tmp_path / "foreign.ckpt", parameters, {**about, "network": {"name": "resnet", "num_classes": 10}})
    del parameters["stem.conv.weight"]
    save(tmp_path / "lacking.ckpt", parameters, about)
    for name, message in (
        ("none", "none.ckpt is not a file"),
        ("plain", "has shape"),  # without a description: it has the network of the recipe, or of the command line
        ("foreign", "is of the network resnet; one of toy is accepted here"),
        ("lacking", "lacks 1 of .*--allow_partial_load true"),
    ):
        with pytest.raises(DataError, match=message):
            create(tmp_path / f"{name}.ckpt")
    _, _, network = create(tmp_path / "lacking.ckpt", allow_partial_load=True)
    assert np.array_equal(values(network)["body.conv.weight"], contents(other)["body.conv.weight"])
    config, about, _ = create(tmp_path / "plain.ckpt", width=4, activation="relu")
    assert about["network"]["activation"] == "relu" and config.mean == [0.5] * 3


def test_frozen_parts(other):
    _, _, network = create(other, freeze="stem.*,*.bn.*")
    assert {p.name for p in network.trainable_params()} == {"body.conv.weight", "fc.weight", "fc.bias"}
    assert network.stem.bn.use_batch_statistics is False and network.training
    with pytest.raises(UsageError, match="no parameter matches '7'"):
        create(other, freeze="7")
