"""Near names: which one is there, and how it differs."""

import unicodedata

from model_utils.near_names import near_name

import pytest

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    "name, other, kinds",
    [
        ("cat", "Cat", "upper and lower case"),
        (COMPOSED, DECOMPOSED, "another Unicode normal form"),
        ("hot dog", "hot%20dog", "%20 and the like instead of the characters"),
        (COMPOSED, "caf%C3%A9", "%20 and the like instead of the characters"),
        ("cat", "cat ", "blanks"),
        ("cat", "\u00a0cat", "blanks"),
        ("cat", "cat\n", "blanks"),
        ("train/1.jpg", "train\\1.jpg", "a backslash or ./"),
        ("1.jpg", "./1.jpg", "a backslash or ./"),
        ("hot dog", "hot_dog", "underscores or hyphens instead of blanks"),
        ("hot dog", "Hot_Dog", "underscores or hyphens instead of blanks, upper and lower case"),
        ("train/hot dog.jpg", "train\\hot%20dog.JPG",
         "%20 and the like instead of the characters, a backslash or ./, upper and lower case"),
    ],
)  # fmt: skip
def test_the_difference_is_named(name, other, kinds):
    for wanted, there in ((name, other), (other, name)):
        hint = near_name(wanted, ["dog", wanted, there])
        assert hint.endswith(f" is there, which differs in: {kinds}") and hint.startswith("; '"), hint
        assert f"{there!r}" in hint or f"{ascii(there)}" in hint


def test_names_that_look_alike_are_shown_with_escapes():
    assert "'cafe\\u0301'" in near_name(COMPOSED, [DECOMPOSED]) and "'cat\\xa0'" in near_name("cat", ["cat\u00a0"])


@pytest.mark.parametrize("known", [[], ["dog", "cats", "ca t"], ["cat"]])
def test_no_near_name(known):
    assert near_name("cat", known) == ""


def test_names_that_are_not_utf_8():
    assert "blanks" in near_name("caf\udce9", ["caf\udce9 "])
