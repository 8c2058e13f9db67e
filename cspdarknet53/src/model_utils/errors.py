# Shared file: source utils/model_utils/errors.py; copy with: python scripts/sync_model_utils.py --write
"""The two errors that end a program with one line, see `program.run`, and the check of a number's range."""

from __future__ import annotations

import math


class UsageError(Exception):
    """Wrong usage: an option or a value that cannot be. Exit status 2."""

    exit_status = 2


class DataError(Exception):
    """Data, files or an environment that cannot be used. Exit status 1."""

    exit_status = 1


def in_short(value: object, limit: int = 120) -> str:
    """A value as a message shows it: in full, or its beginning where it is long."""
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "..."


def require_range(
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    **values: float | list[float],
) -> None:
    """Check options: `require_range(above=0, high=1, crop_ratio=0.875)`.

    Args:
        low: smallest value that is accepted.
        high: largest one.
        above: values are larger than this.
        below: values are smaller than this.
        **values: names and numbers, or lists of numbers. Infinity and what is not a number are never accepted.

    Raises:
        UsageError: the first value outside the range.
    """
    for name, value in values.items():
        numbers = value if isinstance(value, list) else [value]
        if not all(
            (isinstance(n, int) or math.isfinite(n)) and low <= n <= high and above < n < below for n in numbers
        ):
            start = f"{low:g}" if low > above else f"above {above:g}" if above > -math.inf else ""
            end = f"{high:g}" if high < below else f"below {below:g}" if below < math.inf else ""
            if start.startswith("above") or end.startswith("below") or not (start and end):
                start += " or more" if start == f"{low:g}" else ""
                end = "up to " + end if end == f"{high:g}" else end
                accepted = " and ".join(part for part in (start, end) if part) or "a finite number"
            else:
                accepted = f"{start} to {end}"
            raise UsageError(f"{name}={value}: {accepted} is accepted")


def require_seed(seed: int) -> None:
    """Check the seed of random numbers: an integer that NumPy takes.

    Raises:
        UsageError: another number.
    """
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed={seed}: 0 to {2**32 - 1} is accepted")
