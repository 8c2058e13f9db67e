# Shared file: source utils/model_utils/near_names.py; copy with: python scripts/sync_model_utils.py --write
"""Names that should match and do not: which near one is there, and how it differs."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from urllib.parse import unquote


def _with_slashes(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


DIFFERENCES: tuple[tuple[str, Callable[[str], str]], ...] = (  # in the order in which they are undone
    ("%20 and the like instead of the characters", unquote),
    ("another Unicode normal form", lambda name: unicodedata.normalize("NFC", name)),
    ("a backslash or ./", _with_slashes),
    ("underscores or hyphens instead of blanks", lambda name: name.replace("_", " ").replace("-", " ")),
    ("blanks", lambda name: " ".join(name.split())),
    ("upper and lower case", str.casefold),
)


def near_name(name: str, known: Iterable[str]) -> str:
    """A hint for a message: `; 'Cat' is there, which differs in: upper and lower case`, empty where no name is near.

    Args:
        name: what was not found.
        known: names that are there, such as class names or relative paths.
    """
    wanted = _plain(name)
    found = next((other for other in known if other != name and _plain(other) == wanted), None)
    return f"; {_shown(found, name)} is there, which differs in: {_differences(name, found)}" if found else ""


def _shown(name: str, other: str) -> str:
    """A name in quotation marks; with escapes where on a screen it looks like the other one."""
    alike = unicodedata.normalize("NFC", name).strip() == unicodedata.normalize("NFC", other).strip()
    return ascii(name) if alike else repr(name)


def _plain(name: str, kept: str = "") -> str:
    """A name without all the differences but the one of the kind that is kept."""
    for kind, undo in DIFFERENCES:
        name = name if kind == kept else undo(name)
    return name


def _differences(name: str, other: str) -> str:
    """The kinds of difference without which two names are not equal yet."""
    needed = [kind for kind, _ in DIFFERENCES if _plain(name, kind) != _plain(other, kind)]
    return ", ".join(needed) or "several ways"
