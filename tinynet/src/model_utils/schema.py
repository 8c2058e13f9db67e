# Shared file: source utils/model_utils/schema.py; copy with: python scripts/sync_model_utils.py --write
"""What a description of a model must hold, wherever it was read: in a checkpoint, or in the file beside an export."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import DataError

LARGEST_FILE = 64 << 20  # bytes of a JSON file that describes something
MOST_CLASSES = 1_000_000
LARGEST_SIDE = 16384  # pixels of an input
KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "a text", list: "a list", dict: "an object"}


def read_json(path: Path, what: str, largest: int = LARGEST_FILE) -> Any:
    """The content of a JSON file.

    Args:
        path: file.
        what: of it, for messages.
        largest: bytes that are accepted.

    Raises:
        DataError: it cannot be read, is too large, no UTF-8, no JSON, or nested too deeply.
    """
    try:
        if not path.is_file():
            raise DataError(f"{path}, {what}, is not a file")
        if path.stat().st_size > largest:
            raise DataError(f"{path}, {what}, has {path.stat().st_size:,} bytes; up to {largest:,} are accepted")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}, {what}, cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, {what}, is not JSON: {str(error) or type(error).__name__}") from error


def require_like(value: Any, example: Any, place: str) -> None:
    """Check that a JSON value is of the type of an example, and so are its members.

    Args:
        value: what was read.
        example: an empty list or None stands for any members, and for anything.
        place: of the value, for messages.

    Raises:
        DataError: another type, or a number that is not finite.
    """
    if example is None:
        return
    kind = type(example)
    accepted = (int, float) if kind is float else (kind,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise DataError(f"{place} is {_short(value)}; {KINDS[kind]} is accepted")
    if isinstance(value, (int, float)) and not math.isfinite(_as_float(value)):
        raise DataError(f"{place} is {_short(value)}; a finite number is accepted")
    if kind is list and example:
        for number, item in enumerate(value):
            require_like(item, float(example[0]) if type(example[0]) is int else example[0], f"{place}[{number}]")


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def require_description(about: Any, network: dict[str, Any], spec: dict[str, Any], source: object) -> None:
    """Check what was read about a model.

    Args:
        about: it.
        network: a description of a network of this folder, from which names and types follow.
        spec: that of an input.
        source: of `about`, for messages.

    Raises:
        DataError: another name of a network; a value that is missing, of another type or out of its range;
            a part of the input that is unknown.
    """
    for part in ("network", "input"):
        found = about.get(part) if isinstance(about, dict) else None
        if not isinstance(found, dict):
            raise DataError(f"{source} does not describe a model: its {part} is {_short(found)}; an object is accepted")
    if about["network"].get("name") != network["name"]:
        name = about["network"].get("name")
        name = name if isinstance(name, str) else f"of no name ({_short(name)})"
        raise DataError(f"{source} is of the network {name}; one of {network['name']} is accepted here")
    known = {key: value for key, value in about["network"].items() if key in network}  # of others the builder decides
    _require_members(known, network, ("name", "num_classes"), f"{source}: network")
    _require_members(about["input"], spec, [key for key in spec if spec[key] != []], f"{source}: input")
    _require_number(about["network"], "num_classes", MOST_CLASSES, source)
    for side in ("height", "width"):
        _require_number(about["input"], side, LARGEST_SIDE, source)
    for key in ("mean", "std"):
        values = about["input"][key]
        if len(values) != 3 or (key == "std" and min(values) <= 0):
            raise DataError(f"{source}: input.{key} is {_short(values)}; three numbers are accepted, a std above 0")
    names = about.get("class_names")
    if names is not None:
        require_like(names, [""], f"{source}: class_names")
        if len(names) > about["network"]["num_classes"]:
            outputs = about["network"]["num_classes"]
            raise DataError(f"{source}: class_names has {len(names)} names, the network {outputs} classes")


def _require_members(values: dict, examples: dict, needed: Any, place: str) -> None:
    missing, unknown = [key for key in needed if key not in values], [key for key in values if key not in examples]
    if missing or unknown:
        problem = f"lacks {', '.join(missing)}" if missing else f"has the unknown {', '.join(map(repr, unknown[:5]))}"
        raise DataError(f"{place} {problem}; it is of another version of this software, or damaged")
    for key, value in values.items():
        require_like(value, examples[key], f"{place}.{key}")


def _require_number(values: dict, key: str, largest: int, source: object) -> None:
    if not 1 <= values[key] <= largest:
        raise DataError(f"{source}: {key} is {_short(values[key])}; 1 to {largest:,} is accepted")


def built(build: Callable[[dict[str, Any]], Any], network: dict[str, Any], source: object) -> Any:
    """The network of a description; DataError where there is none."""
    try:
        return build(network)
    except (ValueError, TypeError, KeyError) as error:
        text = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{source} describes a network that cannot be: {text}") from error
