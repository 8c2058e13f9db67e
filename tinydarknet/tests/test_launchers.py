"""The launchers of scripts/: each passes the documented program, flags and paths, and refuses wrong arguments."""

from __future__ import annotations

import launcher_bench as lent
from classifier.launchers import Launchers, check_group, check_process

import pytest

TRAIN, VAL = "--dataset_name cifar10 --train_data_dir '{caller}/train data'", "--val_data_dir '{caller}/val data'"
BEST = "--checkpoint_path '{caller}/best weights.ckpt'"
SAVE, RUN = "--ckpt_save_dir '{run}/checkpoints' --run_dir '{run}'", "--run_dir '{run}'"
GPU, CPU = "--device_target GPU", "--device_target CPU"
EVAL, EVAL_CPU, EVAL_GPU = "run_eval.sh", "run_eval_cpu.sh", "run_eval_gpu.sh"
ONE, ONE_GPU, ONE_CPU = "run_standalone_train.sh", "run_standalone_train_gpu.sh", "run_train_cpu.sh"
ALL, ALL_GPU, TABLE = "run_distribute_train.sh", "run_distribute_train_gpu.sh", "'rank table.json'"
SINGLES = [  # call, log, command
    (f"{ONE} 3", "train_single/train.log", f"train.py {SAVE}"),
    (f"{ONE} 03 'train data' cifar10", "train_single/train.log", f"train.py {TRAIN} {SAVE}"),
    (f"{ONE_GPU} 3", "train_single_gpu/train.log", f"train.py {GPU} {SAVE}"),
    (f"{ONE_GPU} 3 './train data' cifar10 --a 1", "train_single_gpu/train.log", f"train.py {GPU} {TRAIN} {SAVE} --a 1"),
    (f"{ONE_CPU} 'train data' cifar10", "train_cpu/train.log", f"train.py {CPU} {TRAIN} {SAVE}"),
    (EVAL, "eval/eval.log", f"eval.py {RUN}"),
    (
        f"{EVAL} 'val data' imagenet 'best weights.ckpt'",
        "eval/eval.log",
        f"eval.py --dataset_name imagenet {VAL} {BEST} {RUN}",
    ),
    (EVAL_CPU, "eval/eval.log", f"eval.py {CPU} {RUN}"),
    (
        f"{EVAL_CPU} '{{caller}}/val data' cifar10 '{{caller}}/best weights.ckpt'",
        "eval/eval.log",
        f"eval.py {CPU} --dataset_name cifar10 {VAL} {BEST} {RUN}",
    ),
    (EVAL_GPU, "eval/eval.log", f"eval.py {GPU} {RUN}"),
    (
        f"{EVAL_GPU} 'val data' cifar10 'best weights.ckpt' --seed=1",
        "eval/eval.log",
        f"eval.py {GPU} --dataset_name cifar10 {VAL} {BEST} {RUN} --seed=1",
    ),
]
GROUPS = [  # call, log, number of processes, command
    (f"{ALL_GPU} 4", "distribute_train_gpu/log.txt", "4", f"train.py {GPU} {SAVE}"),
    (
        f"{ALL_GPU} 4 'train data' cifar10 --a=2",
        "distribute_train_gpu/log.txt",
        "4",
        f"train.py {GPU} {TRAIN} {SAVE} --a=2",
    ),
    (ALL, "train_parallel0/log", "3", f"train.py {SAVE}"),
    (f"{ALL} cifar10 'train data'", "train_parallel0/log", "3", f"train.py {TRAIN} {SAVE}"),
    (f"{ALL} {TABLE} {CPU}", "train_parallel0/log", "2", f"train.py {SAVE} {CPU}"),
    (f"{ALL} {TABLE} cifar10 'train data' {CPU}", "train_parallel0/log", "2", f"train.py {TRAIN} {SAVE} {CPU}"),
]


class TestLaunchers(Launchers):
    FILES = ("train data/", "val data/", "best weights.ckpt")
    COUNTS = {
        **dict.fromkeys([ONE, ONE_GPU, ALL, ALL_GPU], (0, 2, 4)),
        ONE_CPU: (0, 1, 3),
        **dict.fromkeys([EVAL, EVAL_CPU, EVAL_GPU], (1, 2, 4)),
    }
    INVALID = [
        (f"{ONE} x", "DEVICE_ID=x is not an integer"),
        (f"{ONE} 0 no cifar10", "TRAIN_DATA_DIR={caller}/no is not a directory"),
        (f"{ONE} 0 'train data' cifar", "DATASET=cifar is not one of: cifar10 imagenet"),
        (f"{ONE_GPU} -1", "DEVICE_ID=-1 is not an integer"),
        (f"{ONE_GPU} 0 no cifar10", "TRAIN_DATA_DIR={caller}/no is not a directory"),
        (f"{ONE_CPU} 'best weights.ckpt' cifar10", "TRAIN_DATA_DIR={caller}/best weights.ckpt is not a dir"),
        (f"{ONE_CPU} 'train data' ''", "DATASET= is not one of"),
        (f"{EVAL} /no imagenet 'best weights.ckpt'", "VAL_DATA_DIR=/no is not a directory"),
        (f"{EVAL} 'val data' CIFAR10 'best weights.ckpt'", "DATASET=CIFAR10 is not one of"),
        (f"{EVAL_CPU} 'val data' cifar10 no.ckpt", "CHECKPOINT_PATH={caller}/no.ckpt is not a file"),
        (f"{EVAL_GPU} 'val data' cifar10 'val data'", "CHECKPOINT_PATH={caller}/val data is not a file"),
        (f"{ALL} no.json", "RANK_TABLE_FILE={caller}/no.json is not a file"),
        (f"{ALL} no.json --device_target=CPU", "RANK_TABLE_FILE={caller}/no.json is not a file"),
        (f"{ALL} --device_target=CPU", "DEVICE_NUM= is not"),
        (f"{ALL} {TABLE} cifar 'train data'", "DATASET=cifar is not one of"),
        (f"{ALL} {TABLE} cifar10 no", "TRAIN_DATA_DIR={caller}/no is not a directory"),
        (f"{ALL_GPU} 0", "RANK_SIZE=0 is not an integer of 1 or more"),
        (f"{ALL_GPU} 2 no cifar10", "TRAIN_DATA_DIR={caller}/no is not a directory"),
        (f"{ALL_GPU} 2 'train data' x", "DATASET=x is not one of"),
    ]

    @pytest.mark.parametrize("call, log, command", SINGLES)
    def test_one_process(self, bench, call, log, command):
        """DEVICE_ID is an argument of a training on one device, else that of the environment."""
        job = bench.job(*bench.words(call), **lent.STALE)
        command = bench.words(command, log.split("/")[0])
        check_process(bench, job, command, log, "3" if "standalone" in call else "6")

    @pytest.mark.parametrize("call, log, number, command", GROUPS)
    def test_ranks_through_msrun(self, bench, call, log, number, command):
        job = bench.job(*bench.words(call), by="msrun", DEVICE_NUM="3")
        check_group(bench, job, bench.words(command, log.split("/")[0]), log, number)

    @pytest.mark.parametrize("data, flags", [("", ""), ("cifar10 'train data'", TRAIN)])
    def test_ranks_of_a_table(self, bench, data, flags):
        """Each in a folder of its own; the checkpoints are in the first one."""
        call = bench.words(f"{ALL} {TABLE} {data} --epoch_size 2 --wait")
        assert bench.run(*call, STAND_IN_TEXT="text").returncode == 0
        for job, folder in zip(bench.records(), ["train_parallel1", "train_parallel0"]):
            save = f"--ckpt_save_dir '{{caller}}/train_parallel0/checkpoints' --run_dir '{{caller}}/{folder}'"
            assert job["argv"] == bench.words(f"train.py {flags} {save} --epoch_size 2")
            assert (bench.caller / folder / "log").read_text() == "text\ntext on stderr\n"
        assert len(bench.records()) == 2
