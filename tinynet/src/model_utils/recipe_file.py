# Shared file: source utils/model_utils/recipe_file.py; copy with: python scripts/sync_model_utils.py --write
"""A recipe as a file: YAML with the line of each key, and the section in which it stands.

A recipe has up to three documents: values, one line of help for each key, the choices of a key. A comment of one line
between a blank line and a key begins a section of the values: `# Data`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from .errors import DataError, UsageError
from .files import read_text

LARGEST = 1 << 20  # bytes of a recipe


class Item(NamedTuple):
    """A YAML value: what the file says, a text or list of texts, where, in which section and of which type."""

    node: yaml.Node
    text: Any
    line: int
    section: str

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


def read_documents(path: Path) -> list[dict[str, Item]]:
    """The values, help and choices documents of a recipe; absent ones are empty.

    Raises:
        UsageError: a file that cannot be read, broken YAML, a duplicate key.
    """
    try:
        text = read_text(path, f"config_path={path}", expected="an existing YAML file", largest=LARGEST)
        nodes = list(yaml.compose_all(text, Loader=_Loader))
        documents = [_items(node, path, _sections(text)) for node in nodes]
    except DataError as error:
        raise UsageError(str(error)) from error
    except RecursionError as error:
        raise UsageError(f"{path}: broken YAML: nested too deeply") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UsageError(f"{place}: broken YAML: {problem}") from error
    if len(nodes) > 3:
        raise UsageError(f"{path}: {len(nodes)} YAML documents; at most three are accepted: values, help, choices")
    return documents + [{} for _ in range(3 - len(nodes))]


def _sections(text: str) -> list[str]:
    """The section of each line."""
    lines, result, title = text.splitlines(), [], ""
    for before, line, after in zip(["", *lines], lines, [*lines[1:], ""]):
        if line.startswith("# ") and not before.strip() and after[:1].isalpha():
            title = line[2:].strip()
        result.append(title)
    return result


def _items(node: yaml.Node | None, path: Path, sections: list[str], prefix: str = "") -> dict[str, Item]:
    """The values of a mapping; the key of a nested one is `outer.inner`."""
    if node is None or (not prefix and isinstance(node, yaml.ScalarNode) and node.value == ""):
        return {}
    if not isinstance(node, yaml.MappingNode) or (prefix and not node.value):
        raise UsageError(f"{path}:{node.start_mark.line + 1}: a mapping of key: value lines is expected here")
    result: dict[str, Item] = {}
    seen = set()
    for key_node, value_node in node.value:
        key, line = f"{prefix}{key_node.value}", key_node.start_mark.line + 1
        if key in seen:
            raise UsageError(f"{path}:{line}: duplicate key '{key}'; keep one of the two lines")
        seen.add(key)
        if isinstance(value_node, yaml.MappingNode):
            result.update(_items(value_node, path, sections, key + "."))
        else:
            is_null = value_node.tag == "tag:yaml.org,2002:null"
            text = "" if is_null else yaml.BaseLoader("").construct_object(value_node, deep=True)
            result[key] = Item(value_node, text, line, sections[line - 1])
    return result
