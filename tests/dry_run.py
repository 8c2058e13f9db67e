"""What a program says to values that may be out of range: for the tests of a dry run, which finds what a run would find."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping
from typing import Any

ERRORS = {"UsageError": 2, "DataError": 1}  # what a program may raise, and its exit status
NUMBERS = {
    int: ("-1", "0", "7", "1000000000", "99999999999999999999", "-99999999999999999999"),
    float: ("-1", "0", "1e-9", "1.5", "1e9", "1e38", "1e300", "-1e300"),
}
HUGE = 1e6  # numbers beyond it cost memory or time where they are a size


def numeric_keys(recipe: Mapping[str, Any], leave_out: Iterable[str] = ()) -> dict[str, Any]:
    """The keys of a recipe that hold numbers or lists, with their defaults; without those that the program does not read."""
    return {
        key: value for key, value in recipe.items()
        if isinstance(value, (int, float, list)) and not isinstance(value, bool) and key not in leave_out
    }  # fmt: skip


def values_of(default: Any) -> list[str]:
    """Texts for a key with such a default: numbers out of range, and lists that are empty, of them, short and long."""
    if not isinstance(default, list):
        return list(NUMBERS[type(default)])
    length = max(len(default), 1)
    numbers = [",".join([number] * length) for number in ("-1", "0", "1.5", "7", "1e9")]
    return ["[]", *numbers, "1", ",".join(["1"] * (length + 1))]


def try_values(
    main: Callable[[list[str]], Any], argv: list[str], keys: Mapping[str, Any], sizes: Iterable[str] = ()
) -> tuple[list[str], list[str]]:
    """Call a program with a sound command line and each of the values of each key; `sizes` are given no huge numbers.

    Returns the options `--KEY=VALUE` that were accepted, and the faults: those with an error that no program may raise.
    """
    accepted, faults = [], []
    for key, default in keys.items():
        gc.collect()  # each network refers to itself; hundreds of them would fill the memory
        for text in values_of(default):
            if key in sizes and any(abs(float(number)) > HUGE for number in text.strip("[]").split(",") if number):
                continue
            option = f"--{key}={text}"
            problem = problem_of(main, [*argv, option])
            if problem is None:
                accepted.append(option)
            elif problem:
                faults.append(f"{option}: {problem}")
    return accepted, faults


def problem_of(main: Callable[[list[str]], Any], argv: list[str]) -> str | None:
    """None: the program ran; empty: it raised an error that it may raise; else the error that it may not raise."""
    try:
        main(argv)
    except Exception as error:  # noqa: BLE001 (whatever it is, a user would see a traceback)
        name = type(error).__name__
        if name in ERRORS and ERRORS[name] == getattr(error, "exit_status", None):
            return "" if str(error).strip() else f"{name} without a message"
        return f"{name}: {str(error).strip()[:300]}"
    return None
