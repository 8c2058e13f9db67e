"""A log whose file or folder goes, or whose disk is full."""

from __future__ import annotations

import logging
import resource
import shutil
from pathlib import Path

from model_utils.errors import DataError
from model_utils.logger import get_logger, init_logger

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def clean_logger():
    yield
    logger = get_logger()
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("gone", ["file", "folder", "parent"])
def test_a_log_that_is_removed_is_made_anew(tmp_path, gone):
    path = tmp_path / "a" / "b" / "train.log"
    logger = init_logger(path.parent, path.name)
    logger.info("one")
    path.unlink() if gone == "file" else shutil.rmtree(path.parents[gone == "parent"])
    logger.info("two")
    logger.info("three")
    assert text_of(path) == "two\nthree\n"


def test_a_folder_that_cannot_be_made_anew_is_one_warning(tmp_path, capsys):
    logger = init_logger(tmp_path / "run", "train.log")
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").touch()
    logger.info("one")
    logger.info("two")
    out, errors = capsys.readouterr()
    assert out == "one\ntwo\n"
    assert errors.count("\n") == 1 and errors.startswith(f"warning: {tmp_path}/run/train.log lacks lines: ")


def test_a_full_disk_is_one_warning(tmp_path, capsys):
    logger = init_logger(tmp_path, "train.log")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        for line in ("first", "second", "third"):
            logger.info(line)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    out, errors = capsys.readouterr()
    assert out == "first\nsecond\nthird\n"
    assert errors.count("\n") == 1 and "train.log lacks lines: File too large; the work goes on" in errors
    logger.info("fourth")
    assert text_of(tmp_path / "train.log").endswith("fourth\n")


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/run", "\0", "x" * 300])
def test_a_folder_that_cannot_be_written_names_the_option(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(
        (DataError, ValueError), match="train.log cannot be written: .*; give --run_dir a folder|null byte"
    ):
        init_logger(tmp_path / place, "train.log")


def test_names_of_any_bytes_are_logged(tmp_path):
    init_logger(tmp_path, "a.log").info("caf\udce9")
    assert text_of(tmp_path / "a.log") == "caf\\udce9\n"
