# Shared file: source utils/model_utils/config.py; rewrite the copies with: python scripts/sync_model_utils.py --write
"""Configuration: YAML and command line become one typed, read-only object; errors become one line and an exit status.

A recipe is a YAML file of up to three documents: values, one line of help for each key, the choices of a key. The
folder's default recipe defines which keys exist and their types; another recipe (`--config_path`) and the command line
only change values. The order of authority is: command line, other recipe, default recipe.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
import traceback
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

import yaml


class UsageError(Exception):
    """Wrong usage: an option or a value that cannot be. Exit status 2."""

    exit_status = 2


class DataError(Exception):
    """Data, files or an environment that cannot be used. Exit status 1."""

    exit_status = 1


class Config(Mapping):
    """Read-only settings: `config.lr_init`, `config["lr_init"]`; nested dictionaries are nested Config objects.

    `given` holds the keys that the command line named, so that a program can tell a wish from a default.
    """

    def __init__(self, values: Mapping[str, Any], given: frozenset[str] = frozenset()):
        nested = {key: Config(value) if isinstance(value, dict) else value for key, value in values.items()}
        object.__setattr__(self, "_values", nested)
        object.__setattr__(self, "given", given)

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__") or key not in self._values:
            raise AttributeError(f"the configuration has no key '{key}'{_nearest(key, self._values)}")
        return self._values[key]

    def __setattr__(self, key: str, value: Any) -> None:
        raise AttributeError(f"the configuration is read-only: '{key}' was not set; use config.replace({key}=...)")

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __reduce__(self):
        return Config, (self.to_dict(), self.given)

    def replace(self, **changes: Any) -> Config:
        """A copy with other values; an unknown key is a KeyError."""
        unknown = sorted(set(changes) - set(self._values))
        if unknown:
            raise KeyError(f"the configuration has no key '{unknown[0]}'{_nearest(unknown[0], self._values)}")
        return Config({**self.to_dict(), **changes}, self.given)

    def to_dict(self) -> dict[str, Any]:
        return {key: value.to_dict() if isinstance(value, Config) else value for key, value in self._values.items()}

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
        aliases: further spellings of keys, {"spelling": "key"}.
        description: what the program does, for --help.

    Raises:
        UsageError: an unknown key, a wrong type, a value outside the choices, a duplicate key or broken YAML; the
            message names file, line, key, value and what is accepted.
    """
    argv = sys.argv[1:] if argv is None else [str(token) for token in argv]
    default_path = Path(default_path)
    values, helps, choices = _read_documents(default_path)
    schema = {key: item.value for key, item in _flatten(values).items()}
    parser = _build_parser(schema, _flatten(helps), _flatten(choices), aliases or {}, description)
    given = _parse(parser, argv, schema)
    recipe = given.pop("config_path", None) or _recipe_of(default_path, given.get(recipe_key))
    merged = dict(schema)
    for layer in [default_path] + ([Path(recipe)] if recipe else []):
        layer_values, _, layer_choices = _read_documents(layer)
        allowed = {**_flatten(choices), **_flatten(layer_choices)}
        for key, item in _flatten(layer_values).items():
            merged[key] = _checked(key, item.value, schema, allowed, f"{layer}:{item.line}: ")
    for key, text in given.items():
        merged[key] = _checked(key, text, schema, allowed, "command line: ")
    return Config(_unflatten(merged), frozenset(given))


def run(main: Callable[[], Any]) -> None:
    """Run a program: a UsageError or DataError becomes one line on stderr and its exit status; --debug adds the traceback."""
    try:
        status = main()
    except (UsageError, DataError, OSError) as error:
        if any(re.fullmatch(r"--debug(=(true|1|yes|on))?", token, re.IGNORECASE) for token in sys.argv):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr, flush=True)
        status = getattr(error, "exit_status", 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        status = 130
    sys.exit(status)


class _Item:
    """A YAML value with the line it stands on."""

    def __init__(self, value: Any, line: int):
        self.value, self.line = value, line


class _Loader(yaml.SafeLoader):
    """Safe loader that reads 1e-4 as a number (YAML 1.1 asks for 1.0e-4)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _read_documents(path: Path) -> list[dict[str, Any]]:
    """The values, help and choices documents, each {key: _Item or nested dictionary}; absent ones are empty."""
    try:
        nodes = list(yaml.compose_all(path.read_text(encoding="utf-8"), Loader=_Loader))
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
    return [_mapping(node, path) for node in nodes] + [{} for _ in range(3 - len(nodes))]


def _mapping(node: yaml.Node | None, path: Path) -> dict[str, Any]:
    if node is None or (isinstance(node, yaml.ScalarNode) and node.value == ""):
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{path}:{node.start_mark.line + 1}: a mapping of key: value lines is expected here")
    result: dict[str, Any] = {}
    loader = _Loader("")
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in result:
            raise UsageError(f"{path}:{line}: duplicate key '{key}'; keep one of the two lines")
        if isinstance(value_node, yaml.MappingNode):
            result[key] = _mapping(value_node, path)
        else:
            result[key] = _Item(loader.construct_object(value_node, deep=True), line)
    return result


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat


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
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.error = _raise_usage  # type: ignore[method-assign]
    parser.add_argument("--config_path", metavar="FILE", help="YAML recipe that changes values of the default one")
    spellings: dict[str, list[str]] = {key: [key] for key in schema}
    for alias, key in aliases.items():
        spellings[key].append(alias)
    for key, default in schema.items():
        flags = []
        for name in spellings[key]:
            prefix = "-" if len(name) == 1 else "--"
            flags += dict.fromkeys([prefix + name, prefix + name.replace("_", "-")])
        text = str(helps[key].value) if key in helps else ""
        if key in choices:
            text += f" (one of {', '.join(map(str, choices[key].value))})"
        bare = {"nargs": "?", "const": "true"} if isinstance(default, bool) else {}
        parser.add_argument(
            *flags, dest=key, default=argparse.SUPPRESS, metavar=_type_name(default).upper().replace(" ", "_"),
            help=f"{text} [{default}]".replace("%", "%%").strip(), **bare,
        )  # fmt: skip
    return parser


def _parse(parser: argparse.ArgumentParser, argv: list[str], schema: Mapping[str, Any]) -> dict[str, str]:
    known, unknown = parser.parse_known_args(argv)
    if unknown:
        name = unknown[0].lstrip("-").split("=")[0].replace("-", "_")
        raise UsageError(f"command line: unknown option '{unknown[0]}'{_nearest(name, schema, '--')}; --help lists all")
    return {key: value for key, value in vars(known).items() if value is not None}


def _raise_usage(message: str) -> None:
    raise UsageError(f"command line: {message}")


def _recipe_of(default_path: Path, name: str | None) -> Path | None:
    """The recipe NAME_config.yaml beside the default one, where NAME was chosen and such a file exists."""
    path = default_path.with_name(f"{name}_config.yaml")
    return path if name and path != default_path and path.is_file() else None


def _nearest(name: str, known: Any, prefix: str = "") -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; the nearest known one is '{prefix}{close[0]}'" if close else ""


def _checked(key: str, value: Any, schema: Mapping[str, Any], choices: Mapping[str, Any], place: str) -> Any:
    if key not in schema:
        raise UsageError(f"{place}unknown key '{key}'{_nearest(key, schema)}")
    try:
        value = _convert(value, schema[key])
    except ValueError:
        raise UsageError(f"{place}{key}={value!r}: {_type_name(schema[key])} is accepted") from None
    if key in choices and value not in choices[key].value:
        raise UsageError(f"{place}{key}={value!r}: one of {', '.join(map(str, choices[key].value))} is accepted")
    return value


def _type_name(default: Any) -> str:
    if default is None:
        return "value"
    names = {bool: "true or false", int: "integer", float: "number", str: "text", list: "list a,b,c"}
    return names[type(default)]


def _convert(value: Any, default: Any) -> Any:
    """`value` (from YAML, or text of the command line) as the type of `default`; ValueError where that cannot be."""
    if isinstance(default, bool):
        return _to_bool(value)
    if isinstance(default, list):
        return _to_list(value, default)
    if isinstance(default, str):
        if isinstance(value, (list, dict)):
            raise ValueError(value)
        return "" if value is None else str(value)
    if isinstance(value, str):
        value = _scalar(value)
    if default is None:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(value)
    if isinstance(default, float):
        return float(value)
    if value != int(value):
        raise ValueError(value)
    return int(value)


def _to_bool(value: Any) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    text = str(value).strip().lower()
    if text not in words:
        raise ValueError(value)
    return words[text]


def _to_list(value: Any, default: list) -> list:
    """A YAML list, or text such as `1,2` or `[1, 2]`; its items take the type of the default's items."""
    if isinstance(value, str):
        text = value.strip()
        text = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        if "[" in text:  # nested lists are YAML
            value = _scalar(f"[{text}]")
        else:
            value = [_scalar(item.strip()) for item in text.split(",") if item.strip()]
    items = value if isinstance(value, list) else [value]
    kinds = {type(item) for item in default}
    example = default[0] if len(kinds) == 1 and not kinds & {list, dict, type(None)} else None
    return [item if example is None else _convert(item, example) for item in items]


def _scalar(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        return text
