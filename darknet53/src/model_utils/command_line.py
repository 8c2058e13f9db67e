# Shared file: source utils/model_utils/command_line.py; copy with: python scripts/sync_model_utils.py --write
"""The command line of a program: each key of the recipe is a flag; --help shows those that the program reads, in groups."""

from __future__ import annotations

import argparse
import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .errors import UsageError, in_short

METAVARS = {bool: "BOOL", int: "INT", float: "NUMBER", str: "TEXT", list: "LIST"}


def parse(
    argv: Sequence[str],
    schema: Mapping[str, Any],
    *,
    helps: Mapping[str, str],
    choices: Mapping[str, list],
    sections: Mapping[str, str],
    aliases: Mapping[str, str],
    description: str,
    shown: Sequence[str] | None,
) -> dict[str, str]:
    """The keys that the command line names, with their texts; --help prints and ends the process.

    Args:
        argv: command line without the program's name.
        schema: the default of each key, from which its type follows.
        helps: one line for each key.
        choices: what a key accepts, where not everything of its type.
        sections: the title under which --help lists a key.
        aliases: further spellings of keys, {"spelling": "key"}.
        description: what the program does.
        shown: titles of sections, and keys or aliases, that --help lists; None: all. The others are accepted all the same.

    Raises:
        UsageError: an option that is none, or has no value.
    """
    tokens: list[str] = []
    for token in argv:
        if re.match(r"-\.?\d", token) and tokens and re.fullmatch(r"--[^=]+", tokens[-1]):
            tokens[-1] += "=" + token  # argparse takes -1e-3 for an option
        else:
            tokens.append(token)
    parser = _build_parser(schema, helps, choices, sections, aliases, description, shown)
    known, unknown = parser.parse_known_args(tokens)
    if unknown:
        name = unknown[0].lstrip("-").split("=")[0].replace("-", "_")
        raise UsageError(
            f"command line: unknown option {in_short(unknown[0])}{nearest(name[:100], schema, '--')}; --help lists all"
        )
    return {key: text for key, text in vars(known).items() if text is not None}


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a message about an unknown name: the known one that is most like it, if there is one."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; the nearest known one is '{prefix}{close[0]}'" if close else ""


def _build_parser(schema, helps, choices, sections, aliases, description, shown) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        usage="%(prog)s [--KEY VALUE ...]", description=description, allow_abbrev=False,
        formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=32),
        epilog="--no-KEY is short for --KEY false; - and _ are the same in a key.",
    )  # fmt: skip
    parser.error = _raise_usage  # type: ignore[method-assign]
    help_text = "YAML recipe that changes values of the default one"
    _add(parser, ["config_path"], "config_path", metavar="FILE", help=help_text)
    if shown is not None:
        shown = {aliases.get(name, name) for name in shown}
    unknown = set(shown or ()) - set(sections.values()) - set(schema)
    if unknown:
        raise KeyError(f"no section and no key of the recipe: {', '.join(sorted(unknown))}")
    groups: dict[str, Any] = {}
    for key, default in schema.items():
        title = sections.get(key, "")
        names = [key, *(alias for alias, target in aliases.items() if target == key)]
        text = helps.get(key, "") + (f" (one of {', '.join(map(str, choices[key]))})" if key in choices else "")
        also = [f"--{name}" for name in names[1:] if len(name) > 1]
        text += f"; also {', '.join(also)}" if also else ""
        is_shown = shown is None or key in shown or title in shown
        if is_shown and title not in groups:
            groups[title] = parser.add_argument_group(title) if title else parser
        _add(
            groups[title] if is_shown else parser, names, key,
            is_switch=isinstance(default, bool) or "off" in choices.get(key, []),
            metavar=METAVARS.get(type(default), "VALUE"),
            help=f"{text} [{default}]".replace("%", "%%").strip() if is_shown else argparse.SUPPRESS,
        )  # fmt: skip
    return parser


def _add(group: Any, names: Sequence[str], key: str, *, is_switch: bool = False, **options: str) -> None:
    """A flag by its name and by a letter for --help; by its other spellings, and as --no-KEY, without a line there."""
    flags = [("-" if len(name) == 1 else "--") + name for name in names]
    listed = [flag for flag in flags if flag == f"--{key}" or not flag.startswith("--")]
    others = [*flags, *(flag.replace("_", "-") for flag in flags)]
    bare = {"nargs": "?", "const": "true"} if is_switch else {}
    common = {"dest": key, "default": argparse.SUPPRESS}
    group.add_argument(*listed, **common, **bare, **options)
    hidden = [flag for flag in dict.fromkeys(others) if flag not in listed]
    if hidden:
        group.add_argument(*hidden, **common, **bare, help=argparse.SUPPRESS)
    if bare:
        negations = [flag.replace("--", "--no-", 1) for flag in dict.fromkeys(others) if flag.startswith("--")]
        group.add_argument(*negations, **common, action="store_const", const="false", help=argparse.SUPPRESS)


def _raise_usage(message: str) -> None:
    raise UsageError(f"command line: {message}")
