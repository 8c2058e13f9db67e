# Shared file: source utils/model_utils/config.py; copy with: python scripts/sync_model_utils.py --write
"""Configuration: YAML and command line become one typed, read-only object; errors become one line and an exit status.

A recipe is a YAML file of up to three documents: values, one line of help for each key, the choices of a key. The
folder's default recipe defines which keys exist and their types; another recipe (`--config_path`) and the command line
only change values. The order of authority is: command line, other recipe, default recipe.
"""

from __future__ import annotations

import _thread
import argparse
import difflib
import math
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

BOOLEANS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


class UsageError(Exception):
    """Wrong usage: an option or a value that cannot be. Exit status 2."""

    exit_status = 2


class DataError(Exception):
    """Data, files or an environment that cannot be used. Exit status 1."""

    exit_status = 1


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
            raise AttributeError(f"the configuration has no key '{key}'{_nearest(key, self._values)}")
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
            raise KeyError(f"the configuration has no key '{unknown[0]}'{_nearest(unknown[0], self._values)}")
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
) -> Config:
    """Read the default recipe, the chosen recipe and the command line.

    Args:
        default_path: the folder's default recipe.
        argv: command line without the program's name; None takes that of the process.
        recipe_key: a key K such that `--K NAME` without `--config_path` chooses the recipe NAME_config.yaml beside the
            default one.
        aliases: further spellings of keys, {"spelling": "key"}, on the command line and in the result.
        description: what the program does, for --help.

    Raises:
        UsageError: an unknown key, a wrong type, a value outside the choices, a duplicate key or broken YAML; the
            message names file, line, key, value and what is accepted.
    """
    argv = sys.argv[1:] if argv is None else [str(token) for token in argv]
    default_path = Path(default_path)
    values, helps, choices = _read_documents(default_path)
    schema = {key: item.value for key, item in values.items()}
    parser = _build_parser(schema, helps, choices, aliases or {}, description)
    given = _parse(parser, argv, schema)
    recipe = given.pop("config_path", None) or _recipe_of(default_path, given.get(recipe_key))
    lists = {key: default if isinstance(default, list) else [default] for key, default in schema.items()}
    merged: dict[str, Any] = {}
    accepted: dict[str, list] = {}
    for path in [default_path] + ([Path(recipe)] if recipe else []):
        values, _, choices = _read_documents(path)
        for key, item in choices.items():
            accepted[key] = _checked(key, item.text, lists, {}, f"{path}:{item.line}: ")
        for key, item in values.items():
            merged[key] = _checked(key, item.text, schema, accepted, f"{path}:{item.line}: ")
    for key, text in given.items():
        merged[key] = _checked(key, text, schema, accepted, "command line: ")
    return Config(_unflatten(merged), frozenset(given), aliases)


def run(main: Callable[[], Any]) -> None:
    """Run a program: a UsageError or DataError becomes one line on stderr and its exit status; --debug adds the traceback."""
    _watch_for_interrupts()
    try:
        status = main()
    except (UsageError, DataError, OSError) as error:
        if _wants_traceback(sys.argv):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr, flush=True)
        status = getattr(error, "exit_status", 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        status = 130
    sys.exit(status)


def _watch_for_interrupts() -> None:
    """Have a thread of its own wait for SIGINT and hand it to the Python handler of the main thread.

    While a graph runs, MindSpore's own handler of SIGINT turns it into SIGTERM. A blocked signal reaches no handler. The
    second SIGINT ends the process from here: the main thread may be in a compilation of minutes.
    """

    def watch() -> None:
        signal.sigwait({signal.SIGINT})
        _thread.interrupt_main()
        signal.sigwait({signal.SIGINT})
        os._exit(130)

    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        threading.Thread(target=watch, daemon=True).start()


def _wants_traceback(argv: list[str]) -> bool:
    """The last --debug of the command line: an error may come before it is parsed."""
    wanted = False
    for token, following in zip(argv, [*argv[1:], ""]):
        name, _, value = token.partition("=")
        if name == "--debug":
            wanted = BOOLEANS.get((value or following).lower(), True)
    return wanted


class _Item(NamedTuple):
    """A YAML value: what the file says, a text or list of texts, where and of which type."""

    node: yaml.Node
    text: Any
    line: int

    @property
    def value(self) -> Any:
        return _Loader("").construct_object(self.node, deep=True)


class _Loader(yaml.SafeLoader):
    """Safe loader that reads 1e-4 as a number (YAML 1.1 asks for 1.0e-4)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _read_documents(path: Path) -> list[dict[str, _Item]]:
    """The values, help and choices documents; absent ones are empty."""
    try:
        nodes = list(yaml.compose_all(path.read_text(encoding="utf-8"), Loader=_Loader))
        documents = [_items(node, path) for node in nodes]
    except OSError as error:
        raise UsageError(f"config_path={path} cannot be read ({error.strerror}); give an existing YAML file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"config_path={path} is not UTF-8 text; give a YAML file") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UsageError(f"{place}: broken YAML: {problem}") from error
    if len(nodes) > 3:
        raise UsageError(f"{path}: {len(nodes)} YAML documents; at most three are accepted: values, help, choices")
    return documents + [{} for _ in range(3 - len(nodes))]


def _items(node: yaml.Node | None, path: Path, prefix: str = "") -> dict[str, _Item]:
    """The values of a mapping; the key of a nested one is `outer.inner`."""
    if node is None or (not prefix and isinstance(node, yaml.ScalarNode) and node.value == ""):
        return {}
    if not isinstance(node, yaml.MappingNode) or (prefix and not node.value):
        raise UsageError(f"{path}:{node.start_mark.line + 1}: a mapping of key: value lines is expected here")
    result: dict[str, _Item] = {}
    seen = set()
    for key_node, value_node in node.value:
        key, line = f"{prefix}{key_node.value}", key_node.start_mark.line + 1
        if key in seen:
            raise UsageError(f"{path}:{line}: duplicate key '{key}'; keep one of the two lines")
        seen.add(key)
        if isinstance(value_node, yaml.MappingNode):
            result.update(_items(value_node, path, key + "."))
        else:
            is_null = value_node.tag == "tag:yaml.org,2002:null"
            text = "" if is_null else yaml.BaseLoader("").construct_object(value_node, deep=True)
            result[key] = _Item(value_node, text, line)
    return result


def _unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, leaf = key.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = value
    return tree


def _build_parser(schema, helps, choices, aliases, description) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, allow_abbrev=False, epilog="--no-KEY is short for --KEY false."
    )
    parser.error = _raise_usage  # type: ignore[method-assign]
    parser.add_argument(
        "--config_path", "--config-path", metavar="FILE", help="YAML recipe that changes values of the default one"
    )
    spellings: dict[str, list[str]] = {key: [key] for key in schema}
    for alias, key in aliases.items():
        spellings[key].append(alias)
    for key, default in schema.items():
        flags = []
        for name in spellings[key]:
            prefix = "-" if len(name) == 1 else "--"
            flags += dict.fromkeys([prefix + name, prefix + name.replace("_", "-")])
        text = str(helps[key].text) if key in helps else ""
        if key in choices:
            text += f" (one of {choices[key].value})"
        bare = {"nargs": "?", "const": "true"} if isinstance(default, bool) else {}
        parser.add_argument(
            *flags, dest=key, default=argparse.SUPPRESS, metavar=_type_name(default).split(" (")[0].replace(" ", "_").upper(),
            help=f"{text} [{default}]".replace("%", "%%").strip(), **bare,
        )  # fmt: skip
        if isinstance(default, bool):
            negations = [flag.replace("--", "--no-", 1) for flag in flags if flag.startswith("--")]
            parser.add_argument(
                *negations, dest=key, action="store_const", const="false", default=argparse.SUPPRESS, help=argparse.SUPPRESS
            )  # fmt: skip
    return parser


def _parse(parser: argparse.ArgumentParser, argv: list[str], schema: Mapping[str, Any]) -> dict[str, str]:
    tokens: list[str] = []
    for token in argv:
        if re.match(r"-\.?\d", token) and tokens and re.fullmatch(r"--[^=]+", tokens[-1]):
            tokens[-1] += "=" + token  # argparse takes -1e-3 for an option
        else:
            tokens.append(token)
    known, unknown = parser.parse_known_args(tokens)
    if unknown:
        name = unknown[0].lstrip("-").split("=")[0].replace("-", "_")
        raise UsageError(f"command line: unknown option '{unknown[0]}'{_nearest(name, schema, '--')}; --help lists all")
    return {key: text for key, text in vars(known).items() if text is not None}


def _raise_usage(message: str) -> None:
    raise UsageError(f"command line: {message}")


def _recipe_of(default_path: Path, name: str | None) -> Path | None:
    """The recipe NAME_config.yaml beside the default one, where NAME was chosen and such a file exists."""
    path = default_path.parent / f"{name}_config.yaml"
    return path if name and path != default_path and path.is_file() else None


def _nearest(name: str, known: Any, prefix: str = "") -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; the nearest known one is '{prefix}{close[0]}'" if close else ""


def _checked(key: str, text: Any, schema: Mapping[str, Any], accepted: Mapping[str, list], place: str) -> Any:
    """The value of `key` in its type; of those in `accepted`, where the key is there."""
    if key not in schema:
        raise UsageError(f"{place}unknown key '{key}'{_nearest(key, schema)}")
    try:
        value = _convert(text, schema[key])
    except (ValueError, OverflowError):
        raise UsageError(f"{place}{key}={text!r}: {_type_name(schema[key])} is accepted") from None
    for item in value if isinstance(value, list) else [value]:
        if item not in accepted.get(key, [item]):
            raise UsageError(f"{place}{key}={text!r}: one of {', '.join(map(str, accepted[key]))} is accepted")
    return value


def _type_name(default: Any) -> str:
    if isinstance(default, list):
        return f"list a,b,c ({_type_name(_example(default))} each)"
    return {bool: "true or false", int: "integer", float: "number", str: "text"}.get(type(default), "value")


def _convert(text: Any, default: Any) -> Any:
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
    try:
        if isinstance(text, str):
            text = yaml.load(text if text.strip().startswith("[") else f"[{text}]", Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ValueError(text) from error
    return [_convert(item, _example(default)) for item in text]


def _example(default: list) -> Any:
    """What has the type of a list's items; None where they may be of any."""
    kinds = {type(item) for item in default}
    return 0.0 if kinds == {int, float} else default[0] if len(kinds) == 1 else None


def _guess(text: Any) -> Any:
    """The value of a key whose default has no type: integer, number, boolean, nothing or text."""
    if isinstance(text, list):
        return [_guess(item) for item in text]
    for default in (0, 0.0, False):
        try:
            return _convert(text, default)
        except (ValueError, OverflowError):
            continue
    return None if text in ("", "null") else text
