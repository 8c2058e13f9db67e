"""Situations of processes that users have met."""

from __future__ import annotations

import subprocess
import sys

from model_utils.device_adapter import world_size
from model_utils.errors import DataError
from model_utils.folder_lock import only_run
from model_utils.ranks import local_rank
from toy.programs import run_train
from toy_runs import PROGRAMS, command_line, last, small_run

import pytest

pytestmark = pytest.mark.usefixtures("programs")


def test_a_training_whose_output_goes_through_head(few_digits, tmp_path):
    """Nobody reads the second line: the run goes on to its end, without a word of a traceback."""
    arguments = small_run(few_digits, tmp_path, epochs=1)
    command = [sys.executable, str(PROGRAMS), "train", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 0 and "Traceback" not in errors and last(tmp_path).is_file()


def test_a_second_run_in_the_same_folder(few_digits, tmp_path):
    """Refused, with the process and the start of the first one."""
    holder = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[1]); from model_utils.folder_lock import "
        "only_run\nwith only_run(Path(sys.argv[2]), 'ckpt_save_dir'): print('held', flush=True); time.sleep(60)"
    )
    utils = str(PROGRAMS.parents[2] / "utils")
    lock = tmp_path / "checkpoints/.toy.lock"
    with subprocess.Popen([sys.executable, "-c", holder, utils, str(lock)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        try:
            with pytest.raises(DataError, match=f"in use by another run: process {first.pid} on .* since "):
                run_train(small_run(few_digits, tmp_path, epochs=1))
        finally:
            first.kill()
    with only_run(lock, "ckpt_save_dir"):
        pass  # a killed process holds nothing


def test_a_checkpoint_folder_that_is_a_file_is_found_before_the_first_step(few_digits, tmp_path):
    (tmp_path / "checkpoints").write_text("not a folder")
    for dry_run in (True, False):
        with pytest.raises(DataError, match="checkpoints.* is not a folder"):
            run_train(small_run(few_digits, tmp_path, epochs=1, dry_run=dry_run))
    assert not list((tmp_path / "run").glob("curves.csv"))


@pytest.mark.parametrize("text", ["²", "9" * 5000, "-1", "0x1"])
def test_a_rank_that_is_no_number(text):
    for read in (local_rank, world_size):
        with pytest.raises(DataError, match="RANK_SIZE="):
            read({"RANK_SIZE": text, "RANK_ID": "0"})


def test_a_rank_above_the_number_of_ranks():
    with pytest.raises(DataError, match="rank 8 of 8.*stay below their number"):
        local_rank({"RANK_SIZE": "8", "RANK_ID": "8"})


def test_an_earlier_result_is_kept_when_the_new_call_is_wrong(toy_state, few_digits, tmp_path):
    """The folder is renamed only when all arguments are known to be sound."""
    from model_utils.errors import UsageError
    from toy.programs import run_infer

    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("x")
    for wrong in ({"top_k": 0}, {"batch_size": 0}):
        options = {"model_file": toy_state, "input": few_digits / "val", "output_dir": tmp_path / "out", **wrong}
        with pytest.raises(UsageError):
            run_infer(command_line(**options))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"] and (tmp_path / "out/mine.txt").is_file()
