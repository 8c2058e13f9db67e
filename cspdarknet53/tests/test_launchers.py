"""The launchers of scripts/: each passes the documented program, flags and paths, and refuses wrong arguments."""

from __future__ import annotations

import os

import launcher_bench as lent
from classifier.launchers import Launchers, check_group, check_process

import pytest

STANDALONE, DISTRIBUTE, EVAL = "run_standalone_train.sh", "run_distribute_train.sh", "run_eval.sh"
TABLE, DATA, BEST = "'rank table.json'", "'image net'", "'best weights.ckpt'"
PRETRAINED = "--pretrained='{caller}/best weights.ckpt'"
ASCEND = "HCCL_CONNECT_TIMEOUT DEPLOY_MODE GE_USE_STATIC_MEMORY"
CPU = "--device_target CPU"


def training(bench, distributed: int, folder: str, checkpoint: str, run: str = "") -> list[str]:
    """The documented command, with the checkpoints in `folder`."""
    return bench.words(
        f"train.py --is_distributed={distributed} --data_dir='{{caller}}/image net' --ckpt_path='{{run}}/checkpoint' "
        f"{PRETRAINED if checkpoint else ''} --run_dir '{{caller}}/{run or folder}'",
        folder,
    )


class TestLaunchers(Launchers):
    FILES = ("image net/n01440764/", "best weights.ckpt")
    COUNTS = {STANDALONE: (1, 4), DISTRIBUTE: (1, 4), EVAL: (2, 4), f"{DISTRIBUTE} {CPU}": (0, 4)}
    INVALID = [
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
        (f"{DISTRIBUTE} no {BEST} {CPU}", "DATA_DIR={caller}/no is not a directory"),
        (f"{DISTRIBUTE} no {DATA} {CPU}", "RANK_TABLE_FILE={caller}/no is not a file"),
        (f"{DISTRIBUTE} {DATA} {DATA} {BEST} {CPU}", "RANK_TABLE_FILE={caller}/image net is not a file"),
    ]

    @pytest.mark.parametrize("checkpoint", ["", f"./{BEST}", "'{caller}/best weights.ckpt'"])
    def test_standalone_training(self, bench, checkpoint):
        job = bench.job(*bench.words(f"{STANDALONE} 03 ./{DATA} {checkpoint}"), **lent.STALE)
        check_process(bench, job, training(bench, 0, "train", checkpoint), "train/log.txt", "3")
        assert os.readlink(bench.caller / "log.txt") == "train/log.txt"

    @pytest.mark.parametrize("kind", ["file", "link", "broken link"])
    def test_link_of_standalone_training_replaces_what_was_there(self, bench, kind):
        link = bench.caller / "log.txt"
        link.write_text("mine") if kind == "file" else link.symlink_to("image net" if kind == "link" else "no such")
        for text in ("first", "second"):
            assert bench.run(*bench.words(f"{STANDALONE} 0 {DATA} --wait"), STAND_IN_TEXT=text).returncode == 0
            assert link.is_symlink() and link.read_text() == f"{text}\ntext on stderr\n"
        assert [path.read_text() for path in bench.old("log.txt")] == (["mine"] if kind == "file" else [])
        (old,) = bench.old("train")
        assert (old / "log.txt").read_text().startswith("first")

    def test_neither_log_nor_folder_is_renamed_for_the_other(self, bench):
        bench.make("log.txt", "train/a.ckpt")
        for used in ("log.txt", "train/a.ckpt"):
            assert f"asked to use {{caller}}/{used}, but" in bench.refuse(*bench.words(f"{STANDALONE} 0 {DATA} {used}"))

    def test_evaluation(self, bench):
        for number, options in enumerate(([], ["--resume", "auto"], [])):
            call = bench.words(f"{EVAL} 03 ./{DATA} '{{caller}}/best weights.ckpt'")
            job = bench.job(*call, *options, STAND_IN_TEXT="text" if number == 0 else f"run {number}", **lent.STALE)
            flags = "eval.py --is_distributed=0 --per_batch_size=1 --data_dir='{caller}/image net'"
            command = [*bench.words(f"{flags} {PRETRAINED} --run_dir '{{run}}'", "eval3"), *options]
            run_dir = bench.caller / "eval3"
            if number == 0:
                check_process(bench, job, command, "eval3/eval.log", "3")
            else:
                assert job["argv"] == command
                assert (run_dir / "eval.log").read_text().endswith(f"run {number}\ntext on stderr\n")
            assert os.readlink(run_dir / "log.txt") == "eval.log" and (run_dir / "env.log").exists()
            bench.forget()
        (old,) = bench.old("eval3")
        assert (old / "log.txt").read_text().split("\n")[::2] == ["text", "run 1", ""]

    @pytest.mark.parametrize("checkpoint", ["", BEST])
    def test_rank_table(self, bench, checkpoint):
        call = bench.words(f"{DISTRIBUTE} {TABLE} {DATA} {checkpoint} --lr 0.1 --wait")
        assert bench.run(*call, STAND_IN_TEXT="text", DEPLOY_MODE="2").returncode == 0
        for job, folder in zip(bench.records(), ["train_parallel1", "train_parallel0"]):
            assert job["argv"] == [*training(bench, 1, "train_parallel0", checkpoint, folder), "--lr", "0.1"]
            assert lent.values(job, ASCEND) == ["600", "2", "1"]
            assert (bench.caller / folder / "log.txt").read_text() == "text\ntext on stderr\n"
            assert "DEPLOY_MODE=2\nGE_USE_STATIC_MEMORY=1\n" in (bench.caller / folder / "env.log").read_text()
        assert len(bench.records()) == 2

    @pytest.mark.parametrize(
        "table, options, checkpoint",
        [
            ("", CPU, ""),
            ("", CPU, BEST),
            (TABLE, CPU, ""),
            (TABLE, CPU, BEST),
            ("", "--device_target=GPU", ""),
            ("", "", ""),
        ],
    )
    def test_distributed_training_through_msrun(self, bench, table, options, checkpoint):
        environment = {} if table else {"DEVICE_NUM": "3"}
        call = bench.words(f"{DISTRIBUTE} {table} {DATA} {checkpoint} {options}")
        job = bench.job(*call, by="msrun", **environment)
        command = [*training(bench, 1, "train_parallel0", checkpoint), *options.split()]
        check_group(bench, job, command, "train_parallel0/log.txt", "2" if table else "3")
        assert lent.values(job, ASCEND) == ["600", "0", "1"]
