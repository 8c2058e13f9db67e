"""Recipe files: documents, sections, lines, and what is no recipe."""

from __future__ import annotations

from pathlib import Path

from model_utils.config import get_config
from model_utils.errors import UsageError
from model_utils.recipe_file import read_documents

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEFAULTS = ("default_config.yaml", "imagenet_config.yaml")


@pytest.fixture
def read(tmp_path):
    """The documents of a recipe that is given as text or bytes."""

    def read(text):
        path = tmp_path / "mine.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_documents(path)

    return read


def test_documents(read):
    values, helps, choices = read("\na: 1e-4\nb: {c: yes, d:}\n---\na: help, 5 %\n---\na: [1e-4, 2]\n")
    assert {key: (item.text, item.line) for key, item in values.items()} == {
        "a": ("1e-4", 2), "b.c": ("yes", 3), "b.d": ("", 3)
    }  # fmt: skip
    assert (values["a"].value, values["b.c"].value, values["b.d"].value) == (1e-4, True, None)
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
---
# Help

one: text
"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_sections(read, end):
    """A comment of one line between a blank line and a key begins one; it lasts until the next one."""
    values, *_ = read(SECTIONS.replace("\n", end))
    assert {key: item.section for key, item in values.items()} == {
        "zero": "", "one": "Data", "two.three": "Data", "two.four": "Data", "five": "Data", "six": "Data",
        "seven": "Training of networks",
    }  # fmt: skip


def test_a_section_in_the_first_line(read):
    assert read("# Data\none: 1\n")[0]["one"].section == "Data"


@pytest.mark.parametrize(
    "text, parts",
    [
        ("lr_init: {}\n", [":1:", "mapping"]),
        ("lr_init: 1\nuse_ema: 1\nlr_init: 2\n", [":3:", "duplicate key 'lr_init'"]),
        ("optimizer: {name: a}\noptimizer: {inner: {beta: 1}}\n", [":2:", "duplicate key 'optimizer'"]),
        ("optimizer:\n  name: a\n  name: b\n", [":3:", "duplicate key 'optimizer.name'"]),
        ("lr_init: [1,\nuse_ema: 1\n", ["broken YAML"]),
        ("lr_init: 1\n\tuse_ema: 1\n", [":2:", "broken YAML"]),
        ("lr_init: 'x\n", ["broken YAML"]),
        ("lr_init: *x\n", [":1:", "broken YAML"]),
        ("lr_init: &x [*x]\n", [":1:", "broken YAML"]),
        ("lr_init: 1\x07\n", ["broken YAML"]),
        ("- 1\n- 2\n", [":1:", "mapping"]),
        ("text\n", [":1:", "mapping"]),
        ("lr_init: 1\n---\n---\n---\na: 1\n", ["4 YAML documents", "three"]),
        (b"file_name: \xff\xfe\n", ["UTF-8"]),
    ],
)
def test_refused(read, text, parts):
    with pytest.raises(UsageError) as caught:
        read(text)
    message = str(caught.value)
    assert all(part in message for part in [*parts, "mine.yaml"]) and "\n" not in message, message


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(UsageError, match="config_path=.* cannot be read .*; give an existing YAML file"):
            read_documents(path)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "---\n---\n---\n"])
def test_a_recipe_may_be_empty(read, text):
    assert read(text) == [{}, {}, {}]


@pytest.mark.parametrize("recipe", sorted(ROOT.glob("*/*_config.yaml")), ids=lambda path: path.name)
def test_recipes_of_the_models(recipe):
    """Each is accepted; in the default one each key has a line of help and stands in a section of the help."""
    default = next(recipe.with_name(name) for name in DEFAULTS if recipe.with_name(name).is_file())
    config = get_config(default, ["--config_path", str(recipe)])
    values, helps, choices = read_documents(default)
    assert (
        set(helps) == set(values)
        and set(choices) <= set(values)
        and set(config) == {key.split(".")[0] for key in values}
    )
    assert all(item.section for item in values.values())
