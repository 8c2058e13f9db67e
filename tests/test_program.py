"""How a program ends: exit status and last words, signals, and nothing that happens at import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from model_utils import program
from model_utils.errors import DataError, UsageError

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


@pytest.mark.parametrize("value, status", [(None, None), (0, 0), (130, 130)])
def test_status_of_the_program_is_kept(outcome, value, status):
    assert outcome(lambda: value) == (status, "")


def test_a_bug_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        program.run(lambda: 1 // 0)


@pytest.mark.parametrize(
    "argv, wanted",
    [
        ("--debug", True), ("--debug true", True), ("--debug=1", True), ("--debug --lr_init 1", True),
        ("--debug=false", False), ("--debug false", False), ("--debug 0", False), ("--debugger", False), ("", False),
        ("--debug --debug=off", False),
    ],
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
    """A program within a call that lasts until its output is read.

    It has a stand-in for the framework, which test_callbacks.py interrupts in the middle of a training.
    """
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
