"""One run at a time in a folder; folders that cannot be written are found before the work."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from model_utils import folder_lock
from model_utils.errors import DataError
from model_utils.folder_lock import only_run, require_writable
from toy.programs import run_train
from toy_runs import PROGRAMS, small_run, start, states

import pytest

ROOT = Path(__file__).resolve().parents[1]
OWNER = r"process (\d+) on \S+ since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
HOLD = """
import os, sys, time
from pathlib import Path
from model_utils.folder_lock import only_run
with only_run(Path(sys.argv[1]), "ckpt_save_dir"):
    if len(sys.argv) > 2 and os.fork() == 0:
        time.sleep(60)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold():
    """Starts another process that holds a lock until its stdin ends."""
    path = os.pathsep.join([str(ROOT / "utils"), str(ROOT / "tests/fake_mindspore")])
    started = []

    def hold(lock: Path, *more: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(lock), *more], env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_the_second_run_is_refused_with_the_first_one(tmp_path, hold):
    process = hold(tmp_path / "new/.lock")
    for _ in range(2):
        with pytest.raises(DataError, match=f"is in use by another run: {OWNER}; .*another --ckpt_save_dir") as caught:
            only_run(tmp_path / "new/.lock", "ckpt_save_dir").__enter__()
        assert re.search(OWNER, str(caught.value))[1] == str(process.pid)


@pytest.mark.parametrize("more", [[], ["fork"]])
@pytest.mark.parametrize("end", ["order", "kill"])
def test_the_lock_ends_with_its_process(tmp_path, hold, end, more):
    """Also where a process that it had forked lives on."""
    lock = tmp_path / ".lock"
    process = hold(lock, *more)
    if end == "kill":
        process.kill()
    else:
        process.stdin.close()
    process.wait()
    assert lock.exists() is (end == "kill")
    with only_run(lock, "x"):
        assert re.fullmatch(OWNER, lock.read_text())
    assert not lock.exists()


@pytest.mark.parametrize("content", ["", "process 1 on elsewhere since 2001-01-01 00:00:00", "\0" * 5000])
def test_what_an_earlier_run_has_left_is_taken_over(tmp_path, content):
    (tmp_path / ".lock").write_text(content)
    with only_run(tmp_path / ".lock", "x"):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()


def test_a_folder_that_was_removed_and_taken_by_another_run(tmp_path, hold):
    lock = tmp_path / ".lock"
    with only_run(lock, "x"):
        lock.unlink()
        hold(lock)
    assert lock.exists(), "the lock of the other run was removed"


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(folder_lock, "fcntl", None)
    with only_run(tmp_path / ".lock", "x"):
        assert "a second run in this folder would not be noticed" in caplog.text


@pytest.mark.parametrize("place", ["file", "file/below/it", "/proc/x/y"])
def test_a_folder_that_cannot_be_made(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="^x=.* cannot be written: .*; give --x a folder that can be"):
        only_run(tmp_path / place / ".lock", "x").__enter__()


def test_writable_folders_are_told_from_others_without_writing(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "broken link").symlink_to(tmp_path / "nowhere")
    for good in (tmp_path, tmp_path / "a/b/c", "relative/path"):
        require_writable(good, "x")
    for bad in ("file", "file/below", "broken link", "broken link/below"):
        with pytest.raises(
            DataError, match=f"^x={re.escape(str(tmp_path / bad))} cannot be written: .* is not a folder"
        ):
            require_writable(tmp_path / bad, "x")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(DataError, match=f"{tmp_path} may not be written by this user, or its disk is read-only"):
        require_writable(tmp_path / "a/b", "x")
    assert len(list(tmp_path.iterdir())) == 2


# ---- The training ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("key", ["ckpt_save_dir", "summary_dir", "run_dir"])
def test_folders_that_cannot_be_written_are_found_before_the_first_step(few_digits, tmp_path, key, dry_run, caplog):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=f"cannot be written: .*; give --{key} a folder"):
        run_train(small_run(few_digits, tmp_path, dry_run=dry_run, **{key: tmp_path / "file/below"}))
    assert not (tmp_path / "checkpoints").exists() and not (tmp_path / "run/curves.csv").exists()


def test_a_second_training_in_the_folder_is_refused_and_disturbs_nothing(few_digits, tmp_path):
    options = small_run(few_digits, tmp_path, epochs=500, keep_checkpoint_max=2)
    first = start("train", *options, until="checkpoint:")
    second = subprocess.run(
        [sys.executable, str(PROGRAMS), "train", *options, "--run_dir", str(tmp_path / "other")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert second.returncode == 1
    assert re.search(rf"error: .*checkpoints is in use by another run: process {first.pid} on", second.stderr)
    assert not list((tmp_path / "checkpoints").glob("earlier_*"))
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=60) == 143
    first.stdout.close()
    assert len(states(tmp_path)) == 2 and not (tmp_path / "checkpoints/.toy.lock").exists()


def test_a_training_whose_folders_are_removed_makes_them_anew(few_digits, tmp_path):
    process = start("train", *small_run(few_digits, tmp_path, epochs=500), until="checkpoint:")
    subprocess.run(["rm", "-rf", str(tmp_path / "checkpoints"), str(tmp_path / "run")], check=False)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert states(tmp_path) and (tmp_path / "run/train.log").is_file()
