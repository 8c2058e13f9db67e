"""Configuration: which source of a value wins, what a recipe over the default one may change, the read-only object."""

from __future__ import annotations

import copy
import pickle

from model_utils.config import Config
from model_utils.errors import UsageError
from small_recipe import SmallRecipe

import pytest
import yaml


@pytest.fixture
def recipe(tmp_path) -> SmallRecipe:
    return SmallRecipe(tmp_path)


def test_defaults_have_the_types_of_the_recipe(recipe):
    config = recipe.read("")
    assert config.to_dict() == {
        "dataset_name": "imagenet", "lr_init": 0.1, "weight_decay": 1e-4, "epoch_size": 90, "use_ema": False,
        "resume": "", "file_name": "model", "lr_epochs": [30, 60], "mean": [0.5, 0.0, 1.0], "names": ["cat", "dog"],
        "anchors": [[10, 13], [16, 30]], "extra": None, "anything": [],
        "optimizer": {"name": "momentum", "inner": {"beta": 0.9}},
    }  # fmt: skip
    assert type(config.epoch_size) is int and type(config.weight_decay) is float and config.given == frozenset()
    assert [type(value) for value in config.mean] == [float] * 3


def test_authority(recipe):
    """Command line, then --config_path, then the recipe of the chosen name, then the default one."""
    (recipe.folder / "cifar10_config.yaml").write_text("dataset_name: cifar10\nepoch_size: 10\nlr_init: 0.2\n")
    (recipe.folder / "mine.yaml").write_text("lr_init: 0.3\n")
    assert recipe.read("").lr_init == 0.1
    assert recipe.read("--dataset_name imagenet").lr_init == 0.1
    config = recipe.read("--dataset cifar10 --lr_init=0.4")
    assert (config.lr_init, config.epoch_size, config.given) == (0.4, 10, {"dataset_name", "dataset", "lr_init"})
    config = recipe.read(f"--config-path {recipe.folder}/mine.yaml --dataset_name cifar10")
    assert (config.lr_init, config.epoch_size, config.dataset_name) == (0.3, 90, "cifar10")


def test_nested_keys(recipe):
    config = recipe.read("--optimizer.inner.beta=0.5 --optimizer.name adam")
    assert (config.optimizer.inner.beta, config["optimizer"]["name"]) == (0.5, "adam")
    config = recipe.overlay("optimizer:\n  inner:\n    beta: 1\n")
    assert (config.optimizer.inner.beta, config.optimizer.name) == (1.0, "momentum")


# ---- recipes over the default one


@pytest.mark.parametrize(
    "text",
    [
        "yes", "007", "1e3", "1:30", "2024-01-01", "2024-99-99", "0x10", "True", "3.10", "a b", "obs://bucket/x?y=1&z",
        '"#x"', '"a: b"', "'[1]'",
    ],
)  # fmt: skip
def test_a_text_in_yaml_stays_as_it_is(recipe, text):
    assert recipe.overlay(f"file_name: {text}").file_name == text.strip("'\"")


@pytest.mark.parametrize("text", ["", "null", "~", '""'])
def test_nothing_in_yaml_is_the_empty_text(recipe, text):
    assert recipe.overlay(f"file_name: {text}").file_name == ""
    assert recipe.overlay(f"extra: {text}").extra is None


@pytest.mark.parametrize("text, wanted", [("1e-5", 1e-5), ("1", 1.0), ("-1", -1.0), ("1.5e3", 1500.0), ('"0.5"', 0.5)])
def test_numbers_in_yaml(recipe, text, wanted):
    found = recipe.overlay(f"lr_init: {text}").lr_init
    assert found == wanted and type(found) is float


def test_lists_in_yaml(recipe):
    config = recipe.overlay("anchors: [[1, 2]]\nlr_epochs: 5\nnames:\n  - cow")
    assert (config.anchors, config.lr_epochs, config.names) == ([[1, 2]], [5], ["cow"])


@pytest.mark.parametrize(
    "text, parts",
    [
        ("lr_init: 0.1\nlr_int: 0.2\n", [":2:", "unknown key 'lr_int'", "'lr_init'"]),
        ("\n\nlr_init: fast\n", [":3:", "lr_init='fast'", "number"]),
        ("lr_init:\n", [":1:", "lr_init=''", "number"]),
        ("lr_init: .inf\n", [":1:", "lr_init='.inf'", "number"]),
        ("epoch_size: .inf\n", [":1:", "epoch_size='.inf'", "integer"]),
        ("lr_init: [1, 2]\n", [":1:", "lr_init=['1', '2']", "number"]),
        ("lr_init: {a: 1}\n", [":1:", "unknown key 'lr_init.a'"]),
        ("optimizer: 5\n", [":1:", "unknown key 'optimizer'"]),
        ("file_name: [a, b]\n", [":1:", "file_name", "text"]),
        ("use_ema: maybe\n", [":1:", "use_ema='maybe'", "true or false"]),
        ("lr_epochs: [1, {a: 2}]\n", [":1:", "lr_epochs", "list"]),
        ("names: [bird]\n", [":1:", "names=['bird']", "cat, dog, cow"]),
        ("lr_init: 1\nlr_init: 2\n", [":2:", "duplicate key 'lr_init'"]),
        ("---\n---\n---\nlr_int: [1]\n", [":4:", "unknown key 'lr_int'"]),
        ("---\n---\n---\nlr_init: [a]\n", [":4:", "lr_init=['a']"]),
        ("lr_init: 3\n---\n---\nlr_init: [1, 2]\n", [":1:", "lr_init='3'", "1.0, 2.0"]),
        ("lr_init: 3\n---\n---\nlr_init: 2\n", [":1:", "lr_init='3'", "one of 2.0"]),
    ],
)
def test_refused_recipe(recipe, text, parts):
    with pytest.raises(UsageError) as caught:
        recipe.overlay(text)
    message = str(caught.value)
    assert all(part in message for part in [*parts, "mine.yaml"]) and "\n" not in message, message


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n---\n", "\ufefflr_init: 0.1\n", "lr_init: 0.1\r\n"])
def test_recipes_that_change_nothing(recipe, text):
    assert recipe.overlay(text) == recipe.read("")


def test_unsafe_yaml_is_text_at_most(recipe):
    for tag in ("!!python/object/apply:os.system", "!!python/name:os.system", "!x"):
        with pytest.raises(UsageError, match="file_name"):
            recipe.overlay(f"file_name: {tag} ['touch x']\n")
    assert recipe.overlay("file_name: !!python/name:os.system x\n").file_name == "x"


def test_printed_configuration_reads_back(recipe):
    config = recipe.read(
        "--resume=1e3", "--file_name=ünï: ✓", "--lr_init=1e-7", "--lr_epochs=", "--anchors=[[5,6]]", "--use_ema"
    )
    assert recipe.overlay(config.to_yaml()).to_dict() == config.to_dict()
    assert yaml.safe_load(config.to_yaml())["lr_init"] == 1e-7


# ---- the object


def test_an_alias_reads_and_replaces_its_key(recipe):
    config = recipe.read("--dataset cifar10")
    assert config.dataset == config["dataset"] == config.dataset_name == "cifar10" and "dataset" in config.given
    changed = pickle.loads(pickle.dumps(config)).replace(dataset="imagenet")
    assert changed.dataset_name == changed.dataset == "imagenet" and "dataset" not in dict(changed)
    assert "dataset" not in recipe.read("").given


def test_config_is_read_only(recipe):
    config = recipe.read("")
    for change in (
        lambda: setattr(config, "lr_init", 1.0),
        lambda: setattr(config.optimizer, "name", "x"),
        lambda: config.__setitem__("lr_init", 1.0),
        lambda: delattr(config, "lr_init"),
    ):
        with pytest.raises(AttributeError):
            change()
    config.lr_epochs.append(99)
    config["mean"].clear()
    config.to_dict()["lr_init"] = 5
    config.to_dict()["optimizer"]["name"] = "x"
    assert config == recipe.read("")


def test_config_is_a_mapping(recipe):
    config = recipe.read("--lr_init=2")
    assert len(config) == 14 and "lr_init" in config and "lr" not in config and list(config)[0] == "dataset_name"
    assert dict(config)["lr_init"] == 2.0 and config.get("lr") is None
    for clone in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert clone == config and clone.given == {"lr_init"} and clone.optimizer.inner.beta == 0.9
    with pytest.raises(AttributeError, match="'lr_int'.*'lr_init'"):
        _ = config.lr_int
    with pytest.raises(KeyError):
        _ = config["lr_int"]


def test_replace(recipe):
    config = recipe.read("--lr_init=2")
    other = config.replace(lr_init=3.0, resume="auto")
    assert (other.lr_init, other.resume, config.lr_init, other.given) == (3.0, "auto", 2.0, {"lr_init"})
    with pytest.raises(KeyError, match="'lr_init'"):
        config.replace(lr_int=1)
    assert Config({"a": {"b": 1}}).a.b == 1
