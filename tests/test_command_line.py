"""The command line: each key is a flag in several spellings; --help shows what a program reads, section by section."""

from __future__ import annotations

import re

from model_utils import command_line
from model_utils.errors import UsageError
from small_recipe import SmallRecipe

import pytest

TEXTS = (
    "a", "", " ", "a b", "a=b", "x=", "=", "1e3", "007", "null", "yes", "~", "2024-99-99", "[1]", "ünï ✓ 中", "a: b", "#x",
    "obs://bucket/x?y=1&z", "%d %s", "'quoted'", '"', "C:\\x", "*.jpg", "-x y",
)  # fmt: skip


@pytest.fixture
def recipe(tmp_path) -> SmallRecipe:
    return SmallRecipe(tmp_path)


# ---- values


@pytest.mark.parametrize(
    "key, text, wanted",
    [
        ("lr_init", "0.5", 0.5), ("lr_init", "-1e-3", -1e-3), ("lr_init", "-.5", -0.5), ("lr_init", "-3", -3.0),
        ("epoch_size", "1e1", 10), ("use_ema", "yes", True), ("use_ema", "0", False), ("lr_epochs", "10,20", [10, 20]),
        ("lr_epochs", "-1,-2", [-1, -2]), ("lr_epochs", "[10, 20]", [10, 20]), ("mean", "-1,-2e-1", [-1.0, -0.2]),
        ("anchors", "[[1,2],[3,4]]", [[1, 2], [3, 4]]), ("extra", "0.5", 0.5), ("optimizer.inner.beta", "-1", -1.0),
    ],
)  # fmt: skip
def test_flag_with_blank_and_with_equals_sign(recipe, key, text, wanted):
    for argv in ([f"--{key}={text}"], [f"--{key}", text], [f"--{key.replace('_', '-')}", text]):
        found = recipe.read(*argv, "--file_name", "x")
        for part in key.split("."):
            found = found[part]
        assert found == wanted and type(found) is type(wanted), argv


@pytest.mark.parametrize("text", TEXTS)
def test_texts_stay_as_they_are(recipe, text):
    assert recipe.read(f"--file_name={text}", "--use_ema").file_name == text
    if not text.startswith("-"):
        assert recipe.read("--file_name", text, "--use_ema").file_name == text


def test_the_last_one_counts(recipe):
    assert recipe.read("--lr_init 1 --lr_init 2").lr_init == 2.0
    assert recipe.read("--resume=").given == {"resume"}


def test_aliases(recipe):
    assert recipe.read("-e 10").epoch_size == recipe.read("-e=10").epoch_size == 10
    for flag in ("--dataset", "--dataset_name", "--dataset-name"):
        assert recipe.read(f"{flag}=cifar10").dataset_name == "cifar10"


def test_bare_boolean_flag(recipe):
    assert recipe.read("--use_ema").use_ema is recipe.read("--use-ema").use_ema is recipe.read("--ema").use_ema is True
    assert recipe.read("--use_ema --resume auto").resume == "auto"


@pytest.mark.parametrize("flag", ["--no-use_ema", "--no-use-ema", "--no-ema"])
def test_negated_boolean_flag(recipe, flag):
    config = recipe.read(f"--use_ema true {flag}")
    assert config.use_ema is False and "use_ema" in config.given
    with pytest.raises(UsageError, match="unknown option '--no-resume'"):
        recipe.read("--no-resume")


@pytest.mark.parametrize(
    "argv, parts",
    [
        ("--lr_int 0.1", ["unknown option '--lr_int'", "'--lr_init'", "--help"]),
        ("--use-emma=1", ["unknown option '--use-emma=1'", "'--use_ema'"]),
        ("--lr 0.1", ["unknown option '--lr'"]),
        ("stray", ["unknown option 'stray'"]),
        ("--lr_init fast", ["command line", "lr_init='fast'", "number"]),
        ("--lr_init=", ["lr_init=''", "number"]),
        ("--lr_init", ["lr_init", "expected one argument"]),
        ("--lr_init --use_ema", ["lr_init", "expected one argument"]),
        ("--epoch_size 0.5", ["epoch_size='0.5'", "integer"]),
        ("--epoch_size 1e400", ["epoch_size='1e400'", "integer"]),
        ("--epoch_size 2", ["epoch_size='2'", "1, 10, 90"]),
        ("--use_ema 2", ["use_ema='2'", "true or false"]),
        ("--use_ema=", ["use_ema=''", "true or false"]),
        ("--use_ema -1", ["use_ema='-1'", "true or false"]),
        ("--dataset_name coco", ["dataset_name='coco'", "imagenet, cifar10"]),
        ("--dataset_name ../x", ["dataset_name='../x'", "imagenet, cifar10"]),
        ("--lr_epochs 1,x", ["lr_epochs='1,x'", "list", "integer"]),
        ("--names cat,bird", ["names='cat,bird'", "cat, dog, cow"]),
        ("--config_path missing.yaml", ["missing.yaml", "existing YAML file"]),
        ("--config_path .", ["config_path=.", "cannot be read"]),
    ],
)
def test_refused(recipe, argv, parts):
    with pytest.raises(UsageError) as caught:
        recipe.read(argv)
    message = str(caught.value)
    assert all(part in message for part in parts) and "\n" not in message, message


# ---- help


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


def listed(text: str) -> list[str]:
    """The first flags of each option in a part of the help."""
    return re.findall(r"^  (-[^ \n,]+)", text, flags=re.MULTILINE)


def test_a_group_for_each_section(help_of):
    sections = help_of()
    assert {title: listed(text) for title, text in sections.items()} == {
        "options": ["-h", "--config_path"],
        "Data": ["--dataset_name", "--mean", "--names", "--anchors"],
        "Training": [
            "--lr_init", "--weight_decay", "--epoch_size", "--use_ema", "--lr_epochs", "--optimizer.name",
            "--optimizer.inner.beta",
        ],
        "Files": ["--resume", "--file_name", "--extra", "--anything"],
    }  # fmt: skip


def test_what_is_said_of_an_option(help_of):
    sections = help_of()
    training, data = (" ".join(sections[title].split()) for title in ("Training", "Data"))
    assert "--lr_init NUMBER learning rate, 100 % of it [0.1]" in training
    assert "--epoch_size INT, -e INT (one of 1, 10, 90) [90]" in training
    assert "--use_ema [BOOL]" in training and "also --ema [False]" in training
    assert "--dataset_name TEXT (one of imagenet, cifar10); also --dataset [imagenet]" in data
    assert "--config_path FILE YAML recipe that changes values" in " ".join(sections["options"].split())


def test_other_spellings_are_accepted_but_not_listed(help_of):
    flags = [flag for text in help_of().values() for flag in listed(text)]
    assert not [flag for flag in flags if "-" in flag.lstrip("-") or flag.startswith("--no")]
    assert "--dataset" not in flags and "--ema" not in flags


@pytest.mark.parametrize(
    "shown, wanted",
    [
        (["Data"], {"Data": ["--dataset_name", "--mean", "--names", "--anchors"]}),
        (["resume", "Data"], {"Data": ["--dataset_name", "--mean", "--names", "--anchors"], "Files": ["--resume"]}),
        (["lr_init", "mean"], {"Data": ["--mean"], "Training": ["--lr_init"]}),
        (["optimizer.inner.beta"], {"Training": ["--optimizer.inner.beta"]}),
        (["dataset", "e"], {"Data": ["--dataset_name"], "Training": ["--epoch_size"]}),
        (["Files", "file_name"], {"Files": ["--resume", "--file_name", "--extra", "--anything"]}),
        ([], {}),
    ],
)
def test_only_what_a_program_reads_is_listed(help_of, shown, wanted):
    found = {title: listed(text) for title, text in help_of(shown).items()}
    assert found == {"options": ["-h", "--config_path"], **wanted}


def test_what_is_not_shown_is_accepted_all_the_same(recipe):
    config = recipe.read("--lr-init 2 --no-ema -e 10 --dataset=cifar10 --optimizer.name adam", shown=["Files"])
    assert (config.lr_init, config.use_ema, config.epoch_size, config.dataset_name) == (2.0, False, 10, "cifar10")
    assert config.optimizer.name == "adam"
    with pytest.raises(UsageError, match="unknown option '--lr_int'.*'--lr_init'"):
        recipe.read("--lr_int 2", shown=["Files"])


@pytest.mark.parametrize("shown", [["Data", "Dta"], ["lr_int"], ["data"], [""], ["config"]])
def test_an_unknown_name_is_an_error_of_the_program(recipe, shown):
    """Not of the user: whatever the command line is."""
    with pytest.raises(KeyError, match=f"no section and no key of the recipe: {shown[-1]}"):
        recipe.read("", shown=shown)


def test_keys_without_a_section_stand_with_the_other_options(capsys):
    nothing = {"helps": {}, "choices": {}, "aliases": {}, "description": ""}
    with pytest.raises(SystemExit):
        command_line.parse(
            ["--help"], {"lr": 1, "width": 2}, sections={"lr": "", "width": "Size"}, shown=None, **nothing
        )
    text = capsys.readouterr().out
    assert re.search(r"--config_path.*\n  --lr INT.*\n\nSize:\n  --width INT", text, flags=re.DOTALL)


@pytest.mark.parametrize("name, end", [("lr_int", "; the nearest known one is '--lr_init'"), ("zzz", "")])
def test_nearest(name, end):
    assert command_line.nearest(name, ["lr_init", "mean"], "--") == end
