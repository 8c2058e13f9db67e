"""How a program ends: exit status and last words, signals; the log; nothing that happens at import."""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from model_utils import program
from model_utils.errors import DataError, UsageError, require_range
from model_utils.logger import get_logger, init_logger

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def same_signals():
    """`run` blocks SIGINT for the rest of a program; here the process goes on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.fixture
def outcome(monkeypatch, capsys):
    """Exit status and stderr of a program that does `action`."""

    def outcome(action, *argv: str) -> tuple:
        monkeypatch.setattr(sys, "argv", ["program", *argv])
        with pytest.raises(SystemExit) as stop:
            program.run(action)
        return stop.value.code, capsys.readouterr().err

    return outcome


def raiser(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    "error, status, text",
    [
        (UsageError("wrong flag"), 2, "error: wrong flag\n"),
        (DataError("wrong file"), 1, "error: wrong file\n"),
        (PermissionError(13, "Permission denied", "/x"), 1, "error: [Errno 13] Permission denied: '/x'\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (SystemExit(7), 7, ""),
    ],
)
def test_exit_status(outcome, error, status, text):
    assert outcome(raiser(error)) == (status, text)


@pytest.mark.parametrize("status", [None, 0, 130])
def test_status_of_the_program_is_kept(outcome, status):
    assert outcome(lambda: status) == (status, "")


def test_a_bug_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        program.run(lambda: 1 // 0)


@pytest.mark.parametrize(
    "argv, wanted",
    [("--debug", True), ("--debug true", True), ("--debug=1", True), ("--debug --lr_init 1", True),
     ("--debug=false", False), ("--debug 0", False), ("--debugger", False), ("", False), ("--debug --debug=off", False)],
)  # fmt: skip
def test_traceback_only_with_debug(outcome, argv, wanted):
    status, text = outcome(raiser(DataError("wrong file")), *argv.split())
    assert status == 1 and text.endswith("error: wrong file\n")
    assert ("Traceback" in text) is wanted


LONG_CALL = """
import os, time
from model_utils import program

def main():
    os.write(1, b"begun" + b"." * 1_000_000)  # waits for the reader, and no signal is delivered to this thread
    while True:
        time.sleep(0.01)

program.run(main)
"""


@pytest.fixture
def long_call():
    """A program within a call that lasts until its output is read, with a stand-in for the framework."""
    path = os.pathsep.join([str(ROOT / "utils"), str(ROOT / "tests/fake_mindspore")])
    process = subprocess.Popen(
        [sys.executable, "-c", LONG_CALL], env={**os.environ, "PYTHONPATH": path}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.read(5) == "begun"
    yield process
    process.kill()
    process.communicate()


def test_ctrl_c_waits_for_the_end_of_a_call(long_call):
    long_call.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert long_call.poll() is None
    _, errors = long_call.communicate(timeout=60)
    assert (long_call.returncode, errors) == (130, "interrupted\n")


def test_a_second_ctrl_c_ends_the_program_in_a_call(long_call):
    end = time.monotonic() + 60
    while long_call.poll() is None and time.monotonic() < end:
        long_call.send_signal(signal.SIGINT)  # more than twice where the first ones were taken as one
        time.sleep(0.1)
    assert long_call.returncode == 130
    assert long_call.stderr.read() == ""


def test_nothing_is_read_at_import(tmp_path):
    """The programs and the shared runtime can be imported under any command line."""
    modules = [f"src.model_utils.{path.stem}" for path in (ROOT / "utils/model_utils").glob("[a-z]*.py")]
    code = f"import {', '.join(modules)}, train, eval, export, infer, postprocess"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-such-flag", "stray"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT / "tinydarknet")}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(autouse=True)
def clean_logger():
    yield
    logger = get_logger()
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


def test_console_and_file_get_the_plain_line(tmp_path, capsys):
    logger = init_logger(tmp_path / "new" / "run", "train.log")
    logger.info("accuracy:  %s, 100 %% ünï ✓", {"a": 1})
    logger.debug("quiet")
    logger.warning("loud")
    assert logger is get_logger()
    text = (tmp_path / "new/run/train.log").read_text(encoding="utf-8")
    assert capsys.readouterr().out == text == "accuracy:  {'a': 1}, 100 % ünï ✓\nloud\n"


def test_a_second_init_replaces_the_first(tmp_path, capsys):
    """Without a folder there is no file; other ranks write one of their own and nothing on the console."""
    for folder, name, rank, line in (
        (tmp_path, "a.log", 0, "one"), (tmp_path, "b.log", 0, "two"), (tmp_path, "a.log", 0, "three"),
        (None, "c.log", 0, "four"), (tmp_path, "a.log", 3, "five"),
    ):  # fmt: skip
        init_logger(folder, name, rank=rank).info(line)
    assert capsys.readouterr().out == "one\ntwo\nthree\nfour\n"
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {"a.log": "one\nthree\n", "b.log": "two\n", "rank_3_a.log": "five\n"}


@pytest.mark.parametrize("name", ["train.log", "console.log"])
def test_nothing_is_written_twice(tmp_path, name):
    """A launcher redirects the console to the log file itself: `python train.py > run/train.log`."""
    code = f"from logger import init_logger; init_logger({str(tmp_path)!r}, 'train.log').info('hello')"
    with open(tmp_path / name, "a", encoding="utf-8") as console:
        subprocess.run([sys.executable, "-c", code], stdout=console, cwd=ROOT / "utils/model_utils", check=True)
    assert (tmp_path / name).read_text() == (tmp_path / "train.log").read_text() == "hello\n"


WORDINGS = [
    ({"low": 1}, 0, "1 or more"), ({"high": 8}, 9, "up to 8"), ({"above": 0}, 0, "above 0"),
    ({"below": 1}, 1, "below 1"), ({"low": 0, "high": 1}, 1.5, "0 to 1"), ({"low": 0, "high": 1}, 10**400, "0 to 1"),
    ({"low": 0, "below": 1}, 1, "0 or more and below 1"), ({"above": 0, "high": 1}, 0.0, "above 0 and up to 1"),
    ({"above": 0, "below": 1}, 1.0, "above 0 and below 1"), ({"low": -0.5}, -1, "-0.5 or more"),
    ({"low": 2, "above": 1}, 1.5, "2 or more"), ({"low": 1, "above": 1}, 1, "above 1"),
    ({"high": 1, "below": 2}, 1.5, "up to 1"), ({"high": 2, "below": 2}, 2, "below 2"),
    ({}, math.nan, "a finite number"), ({"low": 0}, [1, -2, 3], "0 or more"),
]  # fmt: skip


@pytest.mark.parametrize("limits, value, accepted", WORDINGS)
def test_message(limits, value, accepted):
    with pytest.raises(UsageError) as caught:
        require_range(**limits, crop_ratio=value)
    assert str(caught.value) == f"crop_ratio={value}: {accepted} is accepted"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("limits", [limits for limits, *_ in WORDINGS])
def test_what_is_not_a_finite_number_is_never_accepted(limits, value):
    for given in (value, [0.5, value]):
        with pytest.raises(UsageError, match="x="):
            require_range(**limits, x=given)


@pytest.mark.parametrize(
    "limits, values",
    [
        ({"low": 1}, [1, 1.0, 10**400, np.float32(2)]),
        ({"high": 8}, [8, -(10**30)]),
        ({"above": 0}, [5e-324, 1]),
        ({"below": 1}, [math.nextafter(1, 0), -1]),
        ({"low": 0, "high": 1}, [0, 1, -0.0, False]),
        ({"above": 0, "high": 1}, [1, 1e-9]),
        ({}, [0, -1e308]),
    ],
)
def test_values_up_to_the_limits_are_accepted(limits, values):
    for value in values:
        require_range(**limits, x=value)
    require_range(**limits, x=values, y=[])


def test_the_first_wrong_one_is_named():
    with pytest.raises(UsageError, match="^second=-1: "):
        require_range(low=0, first=1, second=-1, third=-2)
