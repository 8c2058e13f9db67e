# Shared file: source utils/model_utils/config.py; copy with: python scripts/sync_model_utils.py --write
"""Configuration: recipe files and the command line become one typed, read-only object.

The folder's default recipe defines which keys exist and their types; another recipe (`--config_path`) and the command
line only change values. The order of authority is: command line, other recipe, default recipe.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from . import command_line
from .command_line import nearest
from .errors import UsageError, in_short
from .files import home_path
from .option_values import BOOLEANS, convert, type_name
from .recipe_file import read_documents


class Config(Mapping):
    """Read-only settings: `config.lr_init`, `config["lr_init"]`; nested dictionaries are nested Config objects.

    `given` holds the keys that the command line named, so that a program can tell a wish from a default. An alias of a
    key, from `aliases`, reads and replaces it wherever a key does; iteration shows the keys only.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        given: frozenset[str] = frozenset(),
        aliases: Mapping[str, str] | None = None,
    ):
        nested = {key: Config(value) if isinstance(value, dict) else value for key, value in values.items()}
        aliases = dict(aliases or {})
        object.__setattr__(self, "_values", nested)
        object.__setattr__(self, "_aliases", aliases)
        object.__setattr__(self, "given", given | {alias for alias, key in aliases.items() if key in given})

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__") or self._aliases.get(key, key) not in self._values:
            raise AttributeError(f"the configuration has no key '{key}'{nearest(key, self._values)}")
        return self[key]

    def __setattr__(self, key: str, value: Any) -> None:
        raise AttributeError(f"the configuration is read-only: '{key}' was not set; use config.replace({key}=...)")

    def __getitem__(self, key: str) -> Any:
        value = self._values[self._aliases.get(key, key)]
        return list(value) if isinstance(value, list) else value  # a copy: the original is read-only

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __reduce__(self):
        return Config, (self.to_dict(), self.given, self._aliases)

    def replace(self, **changes: Any) -> Config:
        """A copy with other values; an unknown key is a KeyError."""
        changes = {self._aliases.get(key, key): value for key, value in changes.items()}
        unknown = sorted(set(changes) - set(self._values))
        if unknown:
            raise KeyError(f"the configuration has no key '{unknown[0]}'{nearest(unknown[0], self._values)}")
        return Config({**self.to_dict(), **changes}, self.given, self._aliases)

    def to_dict(self) -> dict[str, Any]:
        return {key: value.to_dict() if isinstance(value, Config) else value for key, value in self.items()}

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


def get_config(
    default_path: str | Path,
    argv: list[str] | None = None,
    recipe_key: str | None = None,
    aliases: Mapping[str, str] | None = None,
    description: str = "",
    shown: Sequence[str] | None = None,
) -> Config:
    """Read the default recipe, the chosen recipe and the command line.

    Args:
        default_path: the folder's default recipe.
        argv: command line without the program's name; None takes that of the process.
        recipe_key: a key K such that `--K NAME` without `--config_path` chooses the recipe NAME_config.yaml beside the
            default one.
        aliases: further spellings of keys, {"spelling": "key"}, on the command line and in the result.
        description: what the program does, for --help.
        shown: titles of sections of the recipe, and keys, that the program reads, for --help; None: all.

    Raises:
        UsageError: an unknown key, a wrong type, a value outside the choices, a duplicate key or broken YAML; the
            message names file, line, key, value and what is accepted.
    """
    argv = sys.argv[1:] if argv is None else [str(token) for token in argv]
    default_path = Path(default_path)
    values, helps, choices = read_documents(default_path)
    schema = {key: item.value for key, item in values.items()}
    given = command_line.parse(
        argv, schema,
        helps={key: str(item.text) for key, item in helps.items()},
        choices={key: item.text for key, item in choices.items()},
        sections={key: item.section for key, item in values.items()},
        aliases=aliases or {}, description=description, shown=shown,
    )  # fmt: skip
    recipe = given.pop("config_path", None) or _recipe_of(default_path, given.get(recipe_key))
    merged: dict[str, Any] = {}
    accepted: dict[str, list] = {}
    for path in [default_path] + ([home_path(recipe)] if recipe else []):
        _merge_file(path, schema, accepted, merged)
    for key, text in given.items():
        merged[key] = _checked(key, text, schema, accepted, "command line: ")
    return Config(_unflatten(merged), frozenset(given), aliases)


def _merge_file(path: Path, schema: Mapping[str, Any], accepted: dict[str, list], merged: dict[str, Any]) -> None:
    """Take over the choices and the values of a recipe."""
    values, _, choices = read_documents(path)
    lists = {key: default if isinstance(default, list) else [default] for key, default in schema.items()}
    for key, item in choices.items():
        accepted[key] = _checked(key, item.text, lists, {}, f"{path}:{item.line}: ")
    for key, item in values.items():
        merged[key] = _checked(key, item.text, schema, accepted, f"{path}:{item.line}: ")


def _unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, leaf = key.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = value
    return tree


def _recipe_of(default_path: Path, name: str | None) -> Path | None:
    """The recipe NAME_config.yaml beside the default one, where NAME was chosen and such a file exists."""
    path = default_path.parent / f"{name}_config.yaml"
    return path if name and path != default_path and path.is_file() else None


def _with_home(value: Any) -> Any:
    """A text that begins with ~ as the path that a shell makes of it."""
    if isinstance(value, list):
        return [_with_home(item) for item in value]
    return os.path.expanduser(value) if isinstance(value, str) and re.match(r"~[^/]*(/|$)", value) else value


def _with_levels(value: Any, choices: list) -> Any:
    """True and false, as older recipes have them, of a key that may be off: the first choice and off."""
    word = value.strip().lower() if isinstance(value, str) else ""
    if "off" not in choices or word not in BOOLEANS:
        return value
    return choices[0] if BOOLEANS[word] else "off"


def _checked(key: str, text: Any, schema: Mapping[str, Any], accepted: Mapping[str, list], place: str) -> Any:
    """The value of `key` in its type; of those in `accepted`, where the key is there."""
    if key not in schema:
        raise UsageError(f"{place}unknown key {in_short(key)}{nearest(key[:100], schema)}")
    try:
        value = _with_home(convert(text, schema[key]))
    except (ValueError, OverflowError):
        raise UsageError(f"{place}{key}={in_short(text)}: {type_name(schema[key])} is accepted") from None
    value = _with_levels(value, accepted.get(key, []))
    for item in value if isinstance(value, list) else [value]:
        if item not in accepted.get(key, [item]):
            raise UsageError(f"{place}{key}={in_short(text)}: one of {', '.join(map(str, accepted[key]))} is accepted")
    return value
