"""The launchers of scripts/: each passes the documented program, flags and paths, and refuses wrong arguments.

What all launchers share is tested in tests/ of the repository, which lends its bench; inference in its test_cpp_infer.py.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1]
sys.path.append(str(FOLDER.parent / "tests"))  # last: it has files of the same names
lent = pytest.importorskip("launcher_bench", reason="the bench of the launchers is in the repository")

STANDALONE, DISTRIBUTE, EVAL = "run_standalone_train.sh", "run_distribute_train.sh", "run_eval.sh"
TABLE, DATA, BEST = "'rank table.json'", "'image net'", "'best weights.ckpt'"
PRETRAINED = "--pretrained='{caller}/best weights.ckpt'"
SINGLE = "DEVICE_ID RANK_ID RANK_SIZE DEVICE_NUM RANK_TABLE_FILE"
ASCEND = "HCCL_CONNECT_TIMEOUT DEPLOY_MODE GE_USE_STATIC_MEMORY"
CPU = "--device_target CPU"


@pytest.fixture
def bench(tmp_path):
    bench = lent.Bench(tmp_path, FOLDER / "scripts")
    bench.make("image net/n01440764/", "best weights.ckpt")
    bench.rank_table([(4, 1), (5, 0)])
    yield bench
    bench.end_jobs()


def training(bench, distributed: int, folder: str, rest: str = "", run: str = "") -> list[str]:
    """The documented command, with the checkpoints in `folder` and `rest` before the run folder."""
    return bench.words(
        f"train.py --is_distributed={distributed} --data_dir='{{caller}}/image net' --ckpt_path='{{run}}/checkpoint' "
        f"{rest} --run_dir '{{caller}}/{run or folder}'",
        folder,
    )


@pytest.mark.parametrize("checkpoint", ["", f"./{BEST}", "'{caller}/best weights.ckpt'"])
def test_standalone_training(bench, checkpoint):
    job = bench.job(*bench.words(f"{STANDALONE} 03 ./{DATA} {checkpoint}"), **lent.STALE)
    assert job["argv"] == training(bench, 0, "train", PRETRAINED if checkpoint else "")
    assert lent.values(job, SINGLE) == ["3", "0", "1", "1", None]
    assert (bench.caller / "train/log.txt").read_text() == "text\ntext on stderr\n"
    assert os.readlink(bench.caller / "log.txt") == "train/log.txt"


@pytest.mark.parametrize("kind", ["file", "link", "broken link"])
def test_link_of_standalone_training_replaces_what_was_there(bench, kind):
    link = bench.caller / "log.txt"
    link.write_text("mine") if kind == "file" else link.symlink_to("image net" if kind == "link" else "no such")
    for text in ("first", "second"):
        assert bench.run(*bench.words(f"{STANDALONE} 0 {DATA} --wait"), STAND_IN_TEXT=text).returncode == 0
        assert link.is_symlink() and link.read_text() == f"{text}\ntext on stderr\n"
    assert [path.read_text() for path in bench.old("log.txt")] == (["mine"] if kind == "file" else [])
    (old,) = bench.old("train")
    assert (old / "log.txt").read_text().startswith("first")


def test_neither_log_nor_folder_is_renamed_for_the_other(bench):
    bench.make("log.txt", "train/a.ckpt")
    for used in ("log.txt", "train/a.ckpt"):
        assert f"asked to use {{caller}}/{used}, but" in bench.refuse(*bench.words(f"{STANDALONE} 0 {DATA} {used}"))


def test_evaluation(bench):
    for number, options in enumerate(([], ["--resume", "auto"], [])):
        call = bench.words(f"{EVAL} 03 ./{DATA} '{{caller}}/best weights.ckpt'")
        job = bench.job(*call, *options, STAND_IN_TEXT=f"run {number}", **lent.STALE)
        flags = "eval.py --is_distributed=0 --per_batch_size=1 --data_dir='{caller}/image net'"
        assert job["argv"] == [*bench.words(f"{flags} {PRETRAINED} --run_dir '{{run}}'", "eval3"), *options]
        assert lent.values(job, SINGLE) == ["3", "0", "1", "1", None]
        run_dir = bench.caller / "eval3"
        assert (run_dir / "eval.log").read_text().endswith(f"run {number}\ntext on stderr\n")
        assert os.readlink(run_dir / "log.txt") == "eval.log" and (run_dir / "env.log").exists()
        bench.forget()
    (old,) = bench.old("eval3")
    assert (old / "log.txt").read_text().split("\n")[::2] == ["run 0", "run 1", ""]


@pytest.mark.parametrize("checkpoint", ["", BEST])
def test_rank_table(bench, checkpoint):
    call = bench.words(f"{DISTRIBUTE} {TABLE} {DATA} {checkpoint} --lr 0.1 --wait")
    assert bench.run(*call, STAND_IN_TEXT="text", DEPLOY_MODE="2").returncode == 0
    for job, folder in zip(bench.records(), ["train_parallel1", "train_parallel0"]):
        expected = training(bench, 1, "train_parallel0", PRETRAINED if checkpoint else "", folder)
        assert job["argv"] == [*expected, "--lr", "0.1"] and lent.values(job, ASCEND) == ["600", "2", "1"]
        assert (bench.caller / folder / "log.txt").read_text() == "text\ntext on stderr\n"
        assert "DEPLOY_MODE=2\nGE_USE_STATIC_MEMORY=1\n" in (bench.caller / folder / "env.log").read_text()
    assert len(bench.records()) == 2


@pytest.mark.parametrize("checkpoint", ["", BEST])
@pytest.mark.parametrize("table, options", [("", CPU), (TABLE, CPU), ("", "--device_target=GPU"), ("", "")])
def test_distributed_training_through_msrun(bench, table, options, checkpoint):
    environment = {} if table else {"DEVICE_NUM": "3"}
    call = bench.words(f"{DISTRIBUTE} {table} {DATA} {checkpoint} {options}")
    job, number = bench.job(*call, by="msrun", **environment), "2" if table else "3"
    assert job["words"][:4] == ["--worker_num", number, "--local_worker_num", number]
    expected = training(bench, 1, "train_parallel0", PRETRAINED if checkpoint else "")
    assert job["argv"] == [*expected, *options.split()] and lent.values(job, ASCEND) == ["600", "0", "1"]
    assert (bench.caller / "train_parallel0/log.txt").read_text() == "text\ntext on stderr\n"


COUNTS = {STANDALONE: (1, 4), DISTRIBUTE: (1, 4), EVAL: (2, 4), f"{DISTRIBUTE} {CPU}": (0, 4)}


@pytest.mark.parametrize("call, count", [(call, n) for call, counts in COUNTS.items() for n in counts])
def test_wrong_number_of_arguments(bench, call, count):
    script, *options = call.split()
    errors = bench.refuse(script, *["x"] * count, *options)
    assert f"error: got {count} arguments, expected " in errors and f"Usage: bash {script}" in errors


@pytest.mark.parametrize(
    "call, message",
    [
        (f"{STANDALONE} x {DATA}", "DEVICE_ID=x is not an integer"),
        (f"{STANDALONE} 0 no", "DATA_DIR={caller}/no is not a directory"),
        (f"{STANDALONE} 0 {DATA} no", "PATH_CHECKPOINT={caller}/no is not a file"),
        (f"{EVAL} -1 {DATA} {BEST}", "DEVICE_ID=-1 is not an integer"),
        (f"{EVAL} 0 {BEST} {BEST}", "DATA_DIR={caller}/best weights.ckpt is not a directory"),
        (f"{EVAL} 0 {DATA} {DATA}", "PATH_CHECKPOINT={caller}/image net is not a file"),
        (f"{DISTRIBUTE} no {DATA}", "RANK_TABLE_FILE={caller}/no is not a file"),
        (f"{DISTRIBUTE} {DATA} {BEST}", "RANK_TABLE_FILE={caller}/image net is not a file"),
        (f"{DISTRIBUTE} {BEST} {DATA}", "RANK_TABLE_FILE={caller}/best weights.ckpt is not a rank table"),
        (f"{DISTRIBUTE} {TABLE} no", "DATA_DIR={caller}/no is not a directory"),
        (f"{DISTRIBUTE} {TABLE} {DATA} no", "PATH_CHECKPOINT={caller}/no is not a file"),
        (f"{DISTRIBUTE} {DATA} {CPU}", "DEVICE_NUM= is not an integer of 1 or more"),
        (f"{DISTRIBUTE} no {CPU}", "DATA_DIR={caller}/no is not a directory"),
        (f"{DISTRIBUTE} {DATA} no {CPU}", "PATH_CHECKPOINT={caller}/no is not a file"),
        (f"{DISTRIBUTE} {DATA} {DATA} {CPU}", "PATH_CHECKPOINT={caller}/image net is not a file"),
        (f"{DISTRIBUTE} no {BEST} {CPU}", "DATA_DIR={caller}/no is not a directory"),
        (f"{DISTRIBUTE} no {DATA} {CPU}", "RANK_TABLE_FILE={caller}/no is not a file"),
        (f"{DISTRIBUTE} {TABLE} no {CPU}", "DATA_DIR={caller}/no is not a directory"),
        (f"{DISTRIBUTE} {DATA} {DATA} {BEST} {CPU}", "RANK_TABLE_FILE={caller}/image net is not a file"),
    ],
)
def test_invalid_argument(bench, call, message):
    assert bench.refuse(*bench.words(call)).startswith(f"error: {message}")
