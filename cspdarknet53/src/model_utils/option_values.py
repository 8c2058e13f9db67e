# Shared file: source utils/model_utils/option_values.py; copy with: python scripts/sync_model_utils.py --write
"""A value of a recipe or of the command line: from its text to the type of the key's default."""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

BOOLEANS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def type_name(default: Any) -> str:
    if isinstance(default, list):
        return f"list a,b,c ({type_name(example(default))} each)"
    return {bool: "true or false", int: "integer", float: "number", str: "text"}.get(type(default), "value")


def convert(text: Any, default: Any) -> Any:
    """A text or list of texts as the type of `default`; ValueError where that cannot be."""
    if isinstance(default, list):
        return _to_list(text, default)
    if default is None:
        return _guess(text)
    if not isinstance(text, str):
        raise ValueError(text)
    if isinstance(default, str):
        return text
    word, kind = text.strip().lower(), type(default)
    if kind is bool:
        if word not in BOOLEANS:
            raise ValueError(text)
        return BOOLEANS[word]
    number = float(word) if set(word) & set(".en") else int(word)
    if not math.isfinite(number) or kind(number) != number:
        raise ValueError(text)
    return kind(number)


def _to_list(text: Any, default: list) -> list:
    """From `1,2` or `[1, 2]` or a list of texts; lists in a list need all their brackets."""
    if isinstance(text, str):
        items = _yaml_list(text) if text.strip().startswith("[") else None
        if items is None and isinstance(example(default), list):
            raise ValueError(text)
        text = _split(text) if items is None else items
    return [convert(item, example(default)) for item in text]


def _yaml_list(text: str) -> list | None:
    """The list that a text in brackets is; None for one that is not, such as the pattern [ab]*."""
    try:
        items = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError):
        return None
    return items if isinstance(items, list) and not any(isinstance(item, dict) for item in items) else None


def _split(text: str) -> list[str]:
    """The items between commas, but for those in brackets, without quotation marks around them."""
    items = [item.strip() for item in re.split(r",(?![^\[\]]*\])", text)] if text.strip() else []
    return [item[1:-1] if len(item) > 1 and item[0] == item[-1] and item[0] in "'\"" else item for item in items]


def example(default: list) -> Any:
    """What has the type of a list's items; None where they may be of any."""
    kinds = {type(item) for item in default}
    return 0.0 if kinds == {int, float} else default[0] if len(kinds) == 1 else None


def _guess(text: Any) -> Any:
    """The value of a key whose default has no type: integer, number, boolean, nothing or text."""
    if isinstance(text, list):
        return [_guess(item) for item in text]
    for default in (0, 0.0, False):
        try:
            return convert(text, default)
        except (ValueError, OverflowError):
            continue
    return None if text in ("", "null") else text
