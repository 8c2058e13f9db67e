"""Texts of a recipe or a command line as values in the type of the key's default."""

from __future__ import annotations

from model_utils.option_values import convert, example, type_name

import pytest

NUMBERS = {
    "0.5": 0.5, "-1e-3": -1e-3, "1e-3": 1e-3, "1E+2": 100.0, "-.5": -0.5, ".5": 0.5, "3": 3.0, "-3": -3.0, "+2": 2.0, "0": 0.0,
}  # fmt: skip
INTEGERS = {"10": 10, "90": 90, "1e1": 10, "10.0": 10, "010": 10, "+1": 1}
BOOLEANS = {
    word: word.strip().lower() in ("true", "1", "yes", "on")
    for word in ("true", "True", "TRUE", "1", "yes", "on", "false", "False", "0", "no", "off", "OFF", " true ")
}
LISTS = {
    "10,20": [10, 20],
    "[10, 20]": [10, 20],
    "10": [10],
    "[10]": [10],
    " 10 , 20 ": [10, 20],
    "": [],
    "[]": [],
    "-1,-2": [-1, -2],
}
UNTYPED = {"3": 3, "0.5": 0.5, "true": True, "": None, "null": None, "abc": "abc", "a=b": "a=b", "1e-3": 1e-3}
OF_A_TYPE = [(0.1, NUMBERS), (1, INTEGERS), (False, BOOLEANS), ([30, 60], LISTS), (None, UNTYPED)]


@pytest.mark.parametrize(
    "default, text, wanted",
    [(default, text, wanted) for default, values in OF_A_TYPE for text, wanted in values.items()],
)
def test_value_and_type(default, text, wanted):
    found = convert(text, default)
    assert found == wanted and type(found) is type(wanted)


@pytest.mark.parametrize("text", ["a", "", " ", "1e3", "007", "null", "True", "[1]", "ünï ✓ 中"])
def test_a_text_stays_as_it_is(text):
    assert convert(text, "default") == text


def test_lists_of_other_things():
    assert convert("1,2,3", [0.5, 0, 1]) == [1.0, 2.0, 3.0] and type(convert("1", [0.5])[0]) is float
    assert convert("-1,-2e-1", [0.5]) == [-1.0, -0.2]
    assert convert("cow", ["cat"]) == ["cow"] and convert("007,yes", ["cat"]) == ["007", "yes"]
    assert convert("[[1,2],[3,4]]", [[10, 13]]) == [[1, 2], [3, 4]]
    assert convert(["1", "2"], [3]) == [1, 2], "as a recipe file gives it"
    for default in ([], ["a"]):
        assert convert("*.bn.*, conv0.*", default) == ["*.bn.*", "conv0.*"], "which YAML takes for an alias"
        assert convert('["conv?.*"]', default) == ["conv?.*"]
    assert convert("1,0.5,a,true", []) == [1, 0.5, "a", True]


REFUSED = [
    (0.1, ["fast", "nan", "inf", "-inf", "true", "", "1,2", "9" * 400, "1e400", "0x10", ["1", "2"]]),
    (1, ["0.5", "1e400", "x", "", "true", "1.5e0", ".inf", ["1"]]),
    (False, ["2", "", "-1", "maybe", "none", ["true"]]),
    ("text", [["a", "b"]]),
    ([1], ["1,x", "1,,2", "[1", "[1,2],[3]", "[[1]]", "1,0.5"]),
    ([0.5], ["a", "1,nan"]),
    ([[1, 2]], ["[1,2]x", "[[a]]"]),
]


@pytest.mark.parametrize("default, text", [(default, text) for default, texts in REFUSED for text in texts])
def test_values_that_cannot_be(default, text):
    with pytest.raises((ValueError, OverflowError)):
        convert(text, default)


@pytest.mark.parametrize(
    "default, name, item",
    [
        (True, "true or false", None),
        (1, "integer", None),
        (0.1, "number", None),
        ("", "text", None),
        (None, "value", None),
        ([1, 2], "list a,b,c (integer each)", 1),
        ([0.5, 0, 1], "list a,b,c (number each)", 0.0),
        (["a"], "list a,b,c (text each)", "a"),
        ([[1]], "list a,b,c (list a,b,c (integer each) each)", [1]),
        ([], "list a,b,c (value each)", None),
        ([1, "a"], "list a,b,c (value each)", None),
    ],
)
def test_names_of_types(default, name, item):
    assert type_name(default) == name
    if isinstance(default, list):
        assert example(default) == item
