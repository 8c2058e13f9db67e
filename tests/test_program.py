"""How a program ends: exit status and last words, signals; the log; nothing that happens at import."""

from __future__ import annotations

import logging
import math
import os
import shutil
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


MINDDATA = "Exception thrown from dataset pipeline. Refer to 'Dataset Pipeline Error Message'.\n\n"
DAMAGED = "a/b.jpg cannot be used: decode failed; mend it or remove it from the data set\n"
NO_TEXT = (
    "a text or file name cannot be read or written: 'utf-8' codec can't decode byte 0xff in position 0: invalid start "
    "byte; save texts as UTF-8 and rename such files\n"
)
LESS = "; lower the batch size or num_parallel_workers, or use a smaller input or network\n"


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
        (
            OSError(28, "No space left on device", "a", 0, "b"),
            1,
            "error: [Errno 28] No space left on device: 'a' -> 'b'\n",
        ),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), 1, f"error: {NO_TEXT}"),
        (RuntimeError(MINDDATA + "[ERROR] the data file is: a/b.jpg. decode failed.\n\n"), 1, f"error: {DAMAGED}"),
        (RuntimeError(MINDDATA + "[ERROR] no space left.\n"), 1, "error: data set: no space left.\n"),
        (MemoryError(), 1, f"error: not enough memory{LESS}"),
        (MemoryError("Unable to allocate 4 GiB"), 1, f"error: not enough memory: Unable to allocate 4 GiB{LESS}"),
        (
            RuntimeError("Memory not enough: x.\n\n- C++ Call Stack"),
            1,
            f"error: not enough memory: Memory not enough: x{LESS}",
        ),
        (RuntimeError("Device(id:0) memory isn't enough and alloc failed"), 1, None),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (SystemExit(7), 7, ""),
    ],
)
def test_exit_status(outcome, error, status, text):
    found, line = outcome(raiser(error))
    assert found == status and line.count("\n") <= 1
    assert text is None or line == text


@pytest.mark.parametrize("status", [None, 0, 130])
def test_status_of_the_program_is_kept(outcome, status):
    assert outcome(lambda: status) == (status, "")


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), KeyError("x"), RuntimeError("x"), RecursionError(), ValueError("x")]
)
def test_a_bug_is_not_hidden(error):
    with pytest.raises(type(error)):
        program.run(raiser(error))


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
    code = f"from model_utils.logger import init_logger; init_logger({str(tmp_path)!r}, 'train.log').info('hello')"
    path = os.pathsep.join([str(ROOT / "utils"), str(ROOT / "tests/fake_mindspore")])
    with open(tmp_path / name, "a", encoding="utf-8") as console:
        subprocess.run([sys.executable, "-c", code], stdout=console, env={**os.environ, "PYTHONPATH": path}, check=True)
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


# ---- The programs of the toy model -----------------------------------------------------------------------------------


@pytest.fixture
def broken_data(few_digits, tmp_path):
    """A data set of which each picture begins as a JPEG and is none, which the quick checks do not open."""
    folder = tmp_path / "data"
    shutil.copytree(few_digits, folder)
    for path in folder.rglob("*.jpg"):
        path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(200))
    return folder


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("name", ["train", "eval"])
def test_damaged_data_is_one_line_in_each_program_that_reads_it(outcome, broken_data, toy_state, tmp_path, name):
    from toy import programs
    from toy_runs import small_run

    options = small_run(broken_data, tmp_path, check_images=False, checkpoint_path=toy_state)
    status, text = outcome(lambda: getattr(programs, f"run_{name}")(options))
    assert status == 1 and text.startswith("error: ") and text.count("\n") == 1, text
    assert ".jpg cannot be used" in text


READERS = {  # what each program reads first with
    "train": "toy.model.check_image_folder",
    "eval": "model_utils.checkpoint.load",
    "export": "model_utils.checkpoint.load",
    "infer": "model_utils.checkpoint.load",
    "postprocess": "model_utils.classification.postprocess.find_results",
    "label_list": "model_utils.classification.label_list.check_image_folder",
}


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("error", [MemoryError(), PermissionError(13, "Permission denied", "/x"), UnicodeError("x")])
@pytest.mark.parametrize("name", READERS)
def test_each_program_ends_with_one_line(outcome, monkeypatch, few_digits, tmp_path, name, error):
    from toy import programs
    from toy_runs import command_line, small_run

    monkeypatch.setattr(READERS[name], lambda *_, **__: raiser(error)())
    (tmp_path / "m.ckpt").touch()
    files = {"model_file": tmp_path / "m.ckpt", "checkpoint_path": tmp_path / "m.ckpt", "label_file": tmp_path / "list"}
    options = command_line(**files, input=few_digits / "val", output_dir=tmp_path / "out", file_name=tmp_path / "m")
    argv = [*small_run(few_digits, tmp_path), *options]
    status, text = outcome(lambda: getattr(programs, f"run_{name}")(argv))
    assert status == 1 and text.startswith("error: ") and text.count("\n") == 1, text


@pytest.mark.usefixtures("programs")
def test_each_program_knows_the_home_folder(few_digits, toy_state, tmp_path, monkeypatch):
    """Nothing named ~ is made where they run; modes follow the user's mask."""
    from toy import programs
    from toy_runs import command_line

    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home, here):
        folder.mkdir()
    (home / "data").symlink_to(few_digits)
    (home / "m.ckpt").symlink_to(toy_state)
    (home / "recipe.yaml").write_text("run_dir: ~/run\nckpt_save_dir: ~/checkpoints\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(here)
    data, checkpoint = ["--train_data_dir=~/data/train", "--val_data_dir=~/data/val"], "--checkpoint_path=~/m.ckpt"
    options = [*command_line(num_parallel_workers=1, batch_size=8, epochs=1), *data, "--config_path=~/recipe.yaml"]
    before = os.umask(0o027)
    try:
        assert programs.run_train([*options, "--eval_interval=1"]) == 0
        programs.run_eval([*options, checkpoint])
        programs.run_export([*options, checkpoint, "--file_name=~/toy"])
        programs.run_infer([*options, "--model_file=~/toy.mindir", "--input=~/data/val", "--output_dir=~/out"])
        programs.run_label_list([*options, "--input=~/data/val", "--label_file=~/list.txt"])
        programs.run_postprocess([*options, "--result_path=~/out/result_Files", "--label_file=~/list.txt"])
    finally:
        os.umask(before)
    assert list(here.iterdir()) == []
    made = [path for path in home.rglob("*") if not path.is_symlink() and path.name != "recipe.yaml"]
    assert {path.name for path in made} >= {
        "train.log",
        "eval.log",
        "curves.csv",
        "curves.png",
        "config.yaml",
        "toy_best.ckpt",
    }
    wrong = [str(path) for path in made if path.stat().st_mode & 0o777 != (0o750 if path.is_dir() else 0o640)]
    assert wrong == []
