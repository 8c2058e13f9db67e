"""Configuration: values and their types, recipe files, the command line and --help, the read-only object."""

from __future__ import annotations

import copy
import os
import pickle
import re
import time
from pathlib import Path

from model_utils import command_line
from model_utils.config import Config, get_config
from model_utils.errors import UsageError
from model_utils.option_values import convert, example, type_name
from model_utils.recipe_file import read_documents

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
RECIPE = """\
# A recipe for tests.
# It says nothing of sense.

# Data
dataset_name: imagenet
mean: [0.5, 0, 1]
names: [cat, dog]
anchors: [[10, 13], [16, 30]]

# Training
lr_init: 0.1
weight_decay: 1e-4
epoch_size: 90
use_ema: False
lr_epochs: [30, 60]
optimizer:
    name: momentum
    inner:
        beta: 0.9

# Files
resume: ""
file_name: model
extra:
anything: []
---
lr_init: learning rate, 100 % of it
resume: checkpoint
---
dataset_name: [imagenet, cifar10]
names: [cat, dog, cow]
epoch_size: [1, 10, 90]
"""
DEFAULTS = {
    "dataset_name": "imagenet", "lr_init": 0.1, "weight_decay": 1e-4, "epoch_size": 90, "use_ema": False, "resume": "",
    "file_name": "model", "lr_epochs": [30, 60], "mean": [0.5, 0.0, 1.0], "names": ["cat", "dog"],
    "anchors": [[10, 13], [16, 30]], "extra": None, "anything": [],
    "optimizer": {"name": "momentum", "inner": {"beta": 0.9}},
}  # fmt: skip


class Recipe:
    """The recipe in a folder; `read`, `overlay` and `documents` take texts."""

    def __init__(self, folder: Path):
        self.folder, self.path, self.mine = folder, folder / "imagenet_config.yaml", folder / "mine.yaml"
        self.path.write_text(RECIPE, encoding="utf-8")

    def read(self, *argv: str, **options) -> Config:
        """With a command line, given as one text or as tokens."""
        tokens = argv[0].split() if len(argv) == 1 else list(argv)
        aliases = {"dataset": "dataset_name", "e": "epoch_size", "ema": "use_ema"}
        return get_config(self.path, tokens, recipe_key="dataset_name", aliases=aliases, **options)

    def overlay(self, text: str | bytes) -> Config:
        """With another recipe over it."""
        self.mine.write_bytes(text if isinstance(text, bytes) else text.encode())
        return get_config(self.path, ["--config_path", str(self.mine)])

    def documents(self, text: str) -> list:
        self.mine.write_bytes(text.encode())
        return read_documents(self.mine)

    def refusal(self, read, text) -> str:
        with pytest.raises(UsageError) as caught:
            read(text)
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    return Recipe(tmp_path)


# ---- values in the type of a default


@pytest.mark.parametrize(
    "default, values",
    [
        (0.1, {"-1e-3": -1e-3, "1E+2": 100.0, "-.5": -0.5, "3": 3.0, "+2": 2.0, "0": 0.0}),
        (1, {"10": 10, "1e1": 10, "10.0": 10, "010": 10, "+1": 1}),
        (False, dict.fromkeys(("True", "TRUE", "1", "yes", "on", " true "), True)),
        (False, dict.fromkeys(("False", "0", "no", "OFF"), False)),
        ([30, 60], {"[10, 20]": [10, 20], "10": [10], " 10 , 20 ": [10, 20], "": [], "[]": [], "-1,-2": [-1, -2]}),
        ([0.5, 0, 1], {"1,2": [1.0, 2.0], "-1,-2e-1": [-1.0, -0.2]}),
        (["cat"], {"cow": ["cow"], "007,yes": ["007", "yes"], "*.bn.*, conv0.*": ["*.bn.*", "conv0.*"]}),
        ([[10, 13]], {"[[1,2],[3,4]]": [[1, 2], [3, 4]]}),
        ([], {"1,0.5,a,true": [1, 0.5, "a", True], "*.bn.*": ["*.bn.*"], '["conv?.*"]': ["conv?.*"]}),
        (None, {"3": 3, "0.5": 0.5, "true": True, "": None, "null": None, "abc": "abc", "a=b": "a=b", "1e-3": 1e-3}),
        ("text", {text: text for text in ("a", "", " ", "1e3", "007", "null", "True", "[1]", "ünï ✓ 中")}),
    ],
)
def test_value_and_type(default, values):
    for text, wanted in values.items():
        assert repr(convert(text, default)) == repr(wanted), text


@pytest.mark.parametrize(
    "default, texts",
    [
        (0.1, ["fast", "nan", "-inf", "true", "", "1,2", "9" * 400, "1e400", "0x10", ["1", "2"]]),
        (1, ["0.5", "1e400", "x", "", "true", ".inf", ["1"]]),
        (False, ["2", "", "-1", "maybe", ["true"]]),
        ("text", [["a", "b"]]),
        ([1], ["1,x", "1,,2", "[1", "[1,2],[3]", "[[1]]", "1,0.5"]),
        ([0.5], ["1,nan"]),
        ([[1, 2]], ["[1,2]x", "[[a]]"]),
    ],
)
def test_values_that_cannot_be(default, texts):
    for text in texts:
        with pytest.raises((ValueError, OverflowError)):
            convert(text, default)


@pytest.mark.parametrize(
    "default, name, item",
    [
        (True, "true or false", None), (1, "integer", None), (0.1, "number", None), ("", "text", None),
        (None, "value", None), ([1, 2], "list a,b,c (integer each)", 1), ([0.5, 0], "list a,b,c (number each)", 0.0),
        (["a"], "list a,b,c (text each)", "a"), ([[1]], "list a,b,c (list a,b,c (integer each) each)", [1]),
        ([], "list a,b,c (value each)", None), ([1, "a"], "list a,b,c (value each)", None),
    ],
)  # fmt: skip
def test_names_of_types(default, name, item):
    assert type_name(default) == name
    assert not isinstance(default, list) or example(default) == item


# ---- recipe files


def test_documents(recipe):
    values, helps, choices = recipe.documents("\na: 1e-4\nb: {c: yes, d:}\n---\na: help, 5 %\n---\na: [1e-4, 2]\n")
    assert {key: (item.text, item.line, item.value) for key, item in values.items()} == {
        "a": ("1e-4", 2, 1e-4), "b.c": ("yes", 3, True), "b.d": ("", 3, None)
    }  # fmt: skip
    assert helps["a"].value == "help, 5 %" and choices["a"].value == [1e-4, 2] and choices["a"].text == ["1e-4", "2"]


SECTIONS = """\
# What this is, in a comment
# of two lines.

zero: 0

# Data
one: 1
# a remark within the section
two:
    three: 3

    # indented

    four: 4

#NoSection
five: 5

# Above a blank line

six: 6

# Training of networks
seven: 7
"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_sections(recipe, end):
    """A comment of one line between a blank line and a key begins one; it lasts until the next one."""
    values, *_ = recipe.documents(SECTIONS.replace("\n", end))
    assert {key: item.section for key, item in values.items()} == {
        "zero": "", "one": "Data", "two.three": "Data", "two.four": "Data", "five": "Data", "six": "Data",
        "seven": "Training of networks",
    }  # fmt: skip
    assert recipe.documents("# Data\none: 1\n")[0]["one"].section == "Data", "a section in the first line"


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/*_config.yaml")), ids=lambda path: path.name)
def test_recipes_of_the_models(path):
    """Each is accepted; in the default one each key has a line of help and stands in a section of the help."""
    names = ("default_config.yaml", "imagenet_config.yaml")
    default = next(path.with_name(name) for name in names if path.with_name(name).is_file())
    config = get_config(default, ["--config_path", str(path)])
    values, helps, choices = read_documents(default)
    assert set(helps) == set(values) >= set(choices) and all(item.section for item in values.values())
    assert set(config) == {key.split(".")[0] for key in values}


# ---- which source of a value wins; recipes over the default one


def test_defaults_have_the_types_of_the_recipe(recipe):
    config = recipe.read("")
    assert repr(sorted(config.to_dict().items())) == repr(sorted(DEFAULTS.items())) and config.given == frozenset()


def test_authority(recipe):
    """Command line, then --config_path, then the recipe of the chosen name, then the default one."""
    (recipe.folder / "cifar10_config.yaml").write_text("dataset_name: cifar10\nepoch_size: 10\nlr_init: 0.2\n")
    recipe.mine.write_text("lr_init: 0.3\n")
    assert recipe.read("--dataset_name imagenet").lr_init == 0.1
    config = recipe.read("--dataset cifar10 --lr_init=0.4")
    assert (config.lr_init, config.epoch_size, config.given) == (0.4, 10, {"dataset_name", "dataset", "lr_init"})
    config = recipe.read(f"--config-path {recipe.mine} --dataset_name cifar10")
    assert (config.lr_init, config.epoch_size, config.dataset_name) == (0.3, 90, "cifar10")


@pytest.mark.parametrize(
    "text",
    ["yes", "007", "1e3", "1:30", "2024-99-99", "0x10", "a b", "obs://bucket/x?y=1&z", '"#x"', '"a: b"', "'[1]'"],
)
def test_a_text_in_yaml_stays_as_it_is(recipe, text):
    assert recipe.overlay(f"file_name: {text}").file_name == text.strip("'\"")


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("~/x", "{home}/x"), ("~", "{home}"), ("~/a b/*.jpg", "{home}/a b/*.jpg"), ("~root/x", "{root}/x"),
        ("~no such user/x", "~no such user/x"), ("x/~/y", "x/~/y"), ("a~", "a~"), ("./~/x", "./~/x"), ("s3://~/x", "s3://~/x"),
    ],
)  # fmt: skip
def test_the_home_folder(recipe, monkeypatch, text, wanted):
    """A shell expands it in `--file_name ~/x` only; a recipe and `--file_name=~/x` mean the same."""
    monkeypatch.setenv("HOME", str(recipe.folder))
    wanted = wanted.format(home=recipe.folder, root=os.path.expanduser("~root"))
    overlay = recipe.overlay(f"file_name: '{text}'")
    for config in (recipe.read(f"--file_name={text}", "-e=1"), recipe.read("--file_name", text), overlay):
        assert config.file_name == wanted


def test_the_recipe_in_the_home_folder(recipe, monkeypatch):
    monkeypatch.setenv("HOME", str(recipe.folder))
    (recipe.folder / "other.yaml").write_text("lr_init: 7.0")
    assert recipe.read("--config_path=~/other.yaml").lr_init == 7.0


@pytest.mark.parametrize("text", ["", "null", "~", '""'])
def test_nothing_in_yaml_is_the_empty_text(recipe, text):
    assert recipe.overlay(f"file_name: {text}").file_name == ""
    assert recipe.overlay(f"extra: {text}").extra is None


def test_numbers_lists_and_nested_keys_in_yaml(recipe):
    for text, wanted in (("1e-5", 1e-5), ("1", 1.0), ('"0.5"', 0.5)):
        assert repr(recipe.overlay(f"lr_init: {text}").lr_init) == repr(wanted)
    config = recipe.overlay("anchors: [[1, 2]]\nlr_epochs: 5\nnames:\n  - cow\noptimizer:\n  inner:\n    beta: 1\n")
    assert (config.anchors, config.lr_epochs, config.names) == ([[1, 2]], [5], ["cow"])
    assert (config.optimizer.inner.beta, config.optimizer.name) == (1.0, "momentum")


@pytest.mark.parametrize(
    "text, parts",
    [
        ("lr_init: {}\n", [":1:", "mapping"]),
        ("optimizer: {name: a}\noptimizer: {inner: {beta: 1}}\n", [":2:", "duplicate key 'optimizer'"]),
        ("optimizer:\n  name: a\n  name: b\n", [":3:", "duplicate key 'optimizer.name'"]),
        ("lr_init: 1\n\tuse_ema: 1\n", [":2:", "broken YAML"]),
        ("lr_init: *x\n", [":1:", "broken YAML"]),
        ("lr_init: &x [*x]\n", [":1:", "broken YAML"]),
        ("lr_init: 1\x07\n", ["broken YAML"]),
        ("- 1\n- 2\n", [":1:", "mapping"]),
        ("lr_init: 1\n---\n---\n---\na: 1\n", ["4 YAML documents", "three"]),
        (b"file_name: \xff\xfe\n", ["UTF-8"]),
        ("lr_init: 0.1\nlr_int: 0.2\n", [":2:", "unknown key 'lr_int'", "'lr_init'"]),
        ("\n\nlr_init: fast\n", [":3:", "lr_init='fast'", "number"]),
        ("lr_init:\n", [":1:", "lr_init=''", "number"]),
        ("epoch_size: .inf\n", [":1:", "epoch_size='.inf'", "integer"]),
        ("lr_init: [1, 2]\n", [":1:", "lr_init=['1', '2']", "number"]),
        ("lr_init: {a: 1}\n", [":1:", "unknown key 'lr_init.a'"]),
        ("optimizer: 5\n", [":1:", "unknown key 'optimizer'"]),
        ("lr_epochs: [1, {a: 2}]\n", [":1:", "lr_epochs", "list"]),
        ("names: [bird]\n", [":1:", "names=['bird']", "cat, dog, cow"]),
        ("---\n---\n---\nlr_int: [1]\n", [":4:", "unknown key 'lr_int'"]),
        ("---\n---\n---\nlr_init: [a]\n", [":4:", "lr_init=['a']"]),
        ("lr_init: 3\n---\n---\nlr_init: [1, 2]\n", [":1:", "lr_init='3'", "1.0, 2.0"]),
    ],
)
def test_refused_recipe(recipe, text, parts):
    message = recipe.refusal(recipe.overlay, text)
    assert all(part in message for part in [*parts, "mine.yaml"]), message


LONG_NUMBERS = ["9" * 5000, "0x" + "f" * 5000, "1" + ":59" * 999]
DEEP = [opened * depth + closed * depth for depth in (40, 1500) for opened, closed in ("[]", ("{a: ", "}"), ("[", ""))]


def bomb(levels: int) -> str:
    """Nine times the level before it, at each level."""
    lists = [f"&a{level} [{','.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels)]
    return f"names: [&a0 [x, x], {', '.join(lists)}]\n"


@pytest.mark.parametrize(
    "text",
    [
        *(f"names: {deep}" for deep in DEEP),
        "\n".join(" " * level + "a:" for level in range(1300)),
        *map(bomb, (3, 9, 30, 200)),
        "names: &a [*a]",
        "extra: &a {b: *a}",
        *(f"{key}: {number}" for key in ("epoch_size", "lr_init") for number in LONG_NUMBERS),
        "epoch_size: " + "9" * 4000 + "\nepoch_size: 1",
        f"lr_epochs: [{'9' * 5000}]",
        "k" * 5000 + ": 1",
        "? " + "k" * 5000 + "\n: 1",
        "#" * (2 << 20),
        "names: [" + "cow, " * 300_000 + "cow]",
        "use_ema: " + "x" * 100_000,
    ],
    ids=lambda text: f"{text[:20]!r} {len(text)}",
)  # fmt: skip
def test_recipes_without_end(recipe, text):
    """Levels, repetitions, digits and bytes: refused in a moment, in one short line."""
    start = time.monotonic()
    message = recipe.refusal(recipe.overlay, text)
    assert "mine.yaml" in message and len(message) < 800
    assert time.monotonic() - start < 20


def test_aliases_are_accepted(recipe):
    assert recipe.overlay("lr_epochs: &a [1, 2]\nanchors: [*a, *a]\n").anchors == [[1, 2], [1, 2]]


@pytest.mark.parametrize("key", ["epoch_size", "lr_init", "lr_epochs", "use_ema", "unknown"])
def test_digits_without_end_on_the_command_line(recipe, key):
    with pytest.raises(UsageError) as caught:
        recipe.read(f"--{key}", "9" * 5000)
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n---\n", "\ufefflr_init: 0.1\n", "lr_init: 0.1\r\n"])
def test_recipes_that_change_nothing(recipe, text):
    assert recipe.overlay(text) == recipe.read("")


def test_unsafe_yaml_is_text_at_most(recipe):
    for tag in ("!!python/object/apply:os.system", "!!python/name:os.system", "!x"):
        assert "file_name" in recipe.refusal(recipe.overlay, f"file_name: {tag} ['touch x']\n")
    assert recipe.overlay("file_name: !!python/name:os.system x\n").file_name == "x"


def test_printed_configuration_reads_back(recipe):
    options = "--file_name=ünï: ✓", "--lr_init=1e-7", "--lr_epochs=", "--anchors=[[5,6]]", "--use_ema"
    config = recipe.read("--resume=1e3", *options)
    assert recipe.overlay(config.to_yaml()).to_dict() == config.to_dict()
    assert yaml.safe_load(config.to_yaml())["lr_init"] == 1e-7


# ---- the command line


@pytest.mark.parametrize(
    "key, text, wanted",
    [
        ("lr_init", "-1e-3", -1e-3), ("lr_init", "-.5", -0.5), ("epoch_size", "1e1", 10), ("use_ema", "0", False),
        ("lr_epochs", "-1,-2", [-1, -2]), ("lr_epochs", "[10, 20]", [10, 20]), ("mean", "-1,-2e-1", [-1.0, -0.2]),
        ("anchors", "[[1,2],[3,4]]", [[1, 2], [3, 4]]), ("extra", "0.5", 0.5), ("optimizer.inner.beta", "-1", -1.0),
    ],
)  # fmt: skip
def test_flag_with_blank_and_with_equals_sign(recipe, key, text, wanted):
    for argv in ([f"--{key}={text}"], [f"--{key}", text], [f"--{key.replace('_', '-')}", text]):
        found = recipe.read(*argv, "--file_name", "x")
        for part in key.split("."):
            found = found[part]
        assert repr(found) == repr(wanted), argv


@pytest.mark.parametrize(
    "text",
    ["", " ", "a b", "x=", "=", "1e3", "007", "[1]", "ünï ✓ 中", "a: b", "#x", "obs://bucket/x?y=1&z", "%d %s",
     "'quoted'", '"', "C:\\x", "*.jpg", "-x y"],
)  # fmt: skip
def test_texts_stay_as_they_are(recipe, text):
    assert recipe.read(f"--file_name={text}", "--use_ema").file_name == text
    if not text.startswith("-"):
        assert recipe.read("--file_name", text, "--use_ema").file_name == text


def test_the_last_one_counts(recipe):
    assert recipe.read("--lr_init 1 --lr_init 2").lr_init == 2.0
    assert recipe.read("--resume=").given == {"resume"}


def test_aliases(recipe):
    assert recipe.read("-e 10").epoch_size == recipe.read("-e=10").epoch_size == 10
    config = recipe.read("--dataset cifar10")
    assert config.dataset == config["dataset"] == config.dataset_name == "cifar10" and "dataset" in config.given
    changed = pickle.loads(pickle.dumps(config)).replace(dataset="imagenet")
    assert changed.dataset_name == changed.dataset == "imagenet" and "dataset" not in dict(changed)


def test_boolean_flags(recipe):
    for flag in ("--use_ema", "--use-ema", "--ema"):
        assert recipe.read(f"{flag} --resume auto").use_ema is True
    for flag in ("--no-use_ema", "--no-use-ema", "--no-ema"):
        config = recipe.read(f"--use_ema true {flag}")
        assert config.use_ema is False and "use_ema" in config.given
    assert "unknown option '--no-resume'" in recipe.refusal(recipe.read, "--no-resume")


@pytest.mark.parametrize(
    "argv, parts",
    [
        ("--lr_int 0.1", ["unknown option '--lr_int'", "'--lr_init'", "--help"]),
        ("--use-emma=1", ["unknown option '--use-emma=1'", "'--use_ema'"]),
        ("--lr 0.1", ["unknown option '--lr'"]),
        ("stray", ["unknown option 'stray'"]),
        ("--lr_init fast", ["command line", "lr_init='fast'", "number"]),
        ("--lr_init", ["lr_init", "expected one argument"]),
        ("--lr_init --use_ema", ["lr_init", "expected one argument"]),
        ("--epoch_size 2", ["epoch_size='2'", "1, 10, 90"]),
        ("--use_ema=", ["use_ema=''", "true or false"]),
        ("--use_ema -1", ["use_ema='-1'", "true or false"]),
        ("--dataset_name ../x", ["dataset_name='../x'", "imagenet, cifar10"]),
        ("--names cat,bird", ["names='cat,bird'", "cat, dog, cow"]),
        ("--config_path missing.yaml", ["missing.yaml", "existing YAML file"]),
        ("--config_path .", ["config_path=.", "is a folder"]),
    ],
)
def test_refused_command_line(recipe, argv, parts):
    message = recipe.refusal(recipe.read, argv)
    assert all(part in message for part in parts), message


@pytest.fixture
def help_of(recipe, capsys):
    """The sections of --help by their titles; options of none stand under "options", where argparse has --help."""

    def help_of(shown=None) -> dict[str, str]:
        with pytest.raises(SystemExit) as stop:
            recipe.read("--help", description="Trains 5 % faster.", shown=shown)
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert "Trains 5 % faster." in text and "--no-KEY is short for --KEY false" in text
        text = text.replace("optional arguments:", "options:")  # Python 3.9
        parts = re.split(r"^(\w[^\n]*):$", text[text.index("\noptions:") :], flags=re.MULTILINE)
        return dict(zip(parts[1::2], parts[2::2]))

    return help_of


DATA = ["--dataset_name", "--mean", "--names", "--anchors"]
TRAINING = ["--lr_init", "--weight_decay", "--epoch_size", "--use_ema", "--lr_epochs", "--optimizer.name"]
FILES = ["--resume", "--file_name", "--extra", "--anything"]


@pytest.mark.parametrize(
    "shown, wanted",
    [
        (None, {"Data": DATA, "Training": [*TRAINING, "--optimizer.inner.beta"], "Files": FILES}),
        (["resume", "Data"], {"Data": DATA, "Files": ["--resume"]}),
        (["optimizer.inner.beta"], {"Training": ["--optimizer.inner.beta"]}),
        (["dataset", "e"], {"Data": ["--dataset_name"], "Training": ["--epoch_size"]}),
        (["Files", "file_name"], {"Files": FILES}),
        ([], {}),
    ],
)
def test_only_what_a_program_reads_is_listed(help_of, shown, wanted):
    """In a group for each section; other spellings are accepted but not listed."""
    found = {title: re.findall(r"(?m)^  (-[^ \n,]+)", text) for title, text in help_of(shown).items()}
    assert found == {"options": ["-h", "--config_path"], **wanted}


def test_what_is_said_of_an_option(help_of):
    sections = {title: " ".join(text.split()) for title, text in help_of().items()}
    assert "--lr_init NUMBER learning rate, 100 % of it [0.1]" in sections["Training"]
    assert "--epoch_size INT, -e INT (one of 1, 10, 90) [90]" in sections["Training"]
    assert "--use_ema [BOOL]" in sections["Training"] and "also --ema [False]" in sections["Training"]
    assert "--dataset_name TEXT (one of imagenet, cifar10); also --dataset [imagenet]" in sections["Data"]
    assert "--config_path FILE YAML recipe that changes values" in sections["options"]


def test_what_is_not_shown_is_accepted_all_the_same(recipe):
    config = recipe.read("--lr-init 2 --no-ema -e 10 --optimizer.name adam", shown=["Files"])
    assert (config.lr_init, config.use_ema, config.epoch_size) == (2.0, False, 10)
    assert config.optimizer.name == "adam"


@pytest.mark.parametrize("shown", [["Data", "Dta"], ["lr_int"], ["data"], [""]])
def test_an_unknown_name_is_an_error_of_the_program(recipe, shown):
    """Not of the user: whatever the command line is."""
    with pytest.raises(KeyError, match=f"no section and no key of the recipe: {shown[-1]}"):
        recipe.read("", shown=shown)


def test_keys_without_a_section_stand_with_the_other_options(capsys):
    options = {"sections": {"lr": "", "width": "Size"}, "helps": {}, "choices": {}, "aliases": {}, "description": ""}
    with pytest.raises(SystemExit):
        command_line.parse(["--help"], {"lr": 1, "width": 2}, shown=None, **options)
    text = capsys.readouterr().out
    assert re.search(r"--config_path.*\n  --lr INT.*\n\nSize:\n  --width INT", text, flags=re.DOTALL)


# ---- the object


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


# ---- Keys that may be off --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, level",
    [("", "full"), ("--check_images full", "full"), ("--check_images fast", "fast"), ("--check_images off", "off"),
     ("--check_images true", "full"), ("--check_images=False", "off"), ("--check_images", "full"),
     ("--no-check_images", "off"), ("--no-check-images", "off"), ("--check-images no", "off"), ("--check_images=1", "full")],
)  # fmt: skip
def test_a_key_that_was_true_or_false_before_it_had_levels(recipe, line, level):
    """The lines and the recipes of that time are read as before."""
    recipe.path.write_text("check_images: full\n---\ncheck_images: how\n---\ncheck_images: [full, fast, off]\n")
    assert recipe.read(line).check_images == level
    for text, expected in (("True", "full"), ("false", "off"), ("fast", "fast"), ("off", "off"), ("on", "full")):
        assert recipe.overlay(f"check_images: {text}\n").check_images == expected


def test_other_texts_of_such_a_key(recipe):
    recipe.path.write_text(
        "check_images: full\nname: a\n---\ncheck_images: how\n---\ncheck_images: [full, fast, off]\n"
    )
    text = recipe.refusal(recipe.read, "--check_images quick")
    assert "check_images='quick': one of full, fast, off is accepted" in text
    assert recipe.read("--name off").name == "off" and recipe.read("--name true").name == "true"
    assert "unknown option '--no-name'" in recipe.refusal(recipe.read, "--no-name")
