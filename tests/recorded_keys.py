"""Which keys of a configuration a program reads, so that its --help can be compared with it."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterable, Iterator
from unittest import mock


@contextlib.contextmanager
def recorded_keys(config_class: type) -> Iterator[set[str]]:
    """Inside, each key that is read from a configuration is added to the set, by its name in the recipe.

    Not counted: the copies that `replace`, `to_dict` and `to_yaml` make, and the question whether there is such a key.
    `config_class` is model_utils.config.Config of the package whose programs are called.
    """
    keys: set[str] = set()
    silent: list[str] = []  # names of the methods that are running and do not count
    read = config_class.__getitem__

    def recorded(config, key):
        value = read(config, key)  # a KeyError is no reading
        if not silent:
            keys.add(config._aliases.get(key, key))
        return value

    def silenced(name: str) -> Callable:
        method = getattr(config_class, name)

        def call(config, *arguments, **options):
            silent.append(name)
            try:
                return method(config, *arguments, **options)
            finally:
                silent.pop()

        return call

    quiet = {name: silenced(name) for name in ("replace", "to_dict", "to_yaml", "__contains__", "__reduce__")}
    with mock.patch.multiple(config_class, __getitem__=recorded, **quiet):
        yield keys


def listed_options(main: Callable[[list[str]], object]) -> set[str]:
    """The options that --help of a program lists, without the dashes."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main(["--help"])
    return set(re.findall(r"(?m)^  (?:-\w \w+, )?--([\w.]+)", output.getvalue()))


def hidden_keys(main: Callable, command_lines: Iterable[list[str]], config_class: type) -> tuple[set[str], set[str]]:
    """The keys that a program reads, called with each of these command lines, and those of them that --help hides."""
    with recorded_keys(config_class) as keys:
        for argv in command_lines:
            main(argv)
    return keys, keys - listed_options(main)
