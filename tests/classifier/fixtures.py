"""Fixtures and small helpers, imported by each folder's conftest.py."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest


def command_line(options: dict) -> list[str]:
    return [token for key, value in options.items() for token in (f"--{key}", str(value))]


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory) -> Path:
    """Folders train and val with JPEG digits, 40 pictures each, ten classes."""
    from digits import write_image_folder

    folder = tmp_path_factory.mktemp("few") / "imagenet"
    write_image_folder(folder, size=48, limit=40)
    return folder


@pytest.fixture
def configured(few_digits, tmp_path):
    """A function from options to the recipe of a small run with them."""
    from conftest import small_run
    from src.recipe import read_config

    return lambda **changes: read_config(small_run(few_digits, tmp_path, **changes), "")


@contextlib.contextmanager
def running(mode: str) -> Iterator[None]:
    """Inside, cells run in this mode of the framework; the programs leave the graph mode behind."""
    import mindspore as ms

    before = ms.get_context("mode")
    ms.set_context(mode=getattr(ms, mode))
    yield
    ms.set_context(mode=before)


@pytest.fixture(scope="module")
def eager():
    """Operators run one by one: hooks see the values, and nothing is compiled."""
    with running("PYNATIVE_MODE"):
        yield


def contents(path: Path) -> dict[str, np.ndarray]:
    """Name to array of everything in a checkpoint but its metadata."""
    from src.model_utils.checkpoint import load

    return {name: value.asnumpy() for name, value in load(path)[0].items()}


def same(one: dict, other: dict) -> bool:
    """Whether both hold the same bits under the same names."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
