"""The launchers of scripts/: each passes the documented program, flags and paths, and refuses wrong arguments.

What all launchers share is tested in tests/ of the repository, which lends its bench; inference in its test_cpp_infer.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1]
sys.path.append(str(FOLDER.parent / "tests"))  # last: it has files of the same names
lent = pytest.importorskip("launcher_bench", reason="the bench of the launchers is in the repository")

TRAIN, VAL = "--dataset_name cifar10 --train_data_dir '{caller}/train data'", "--val_data_dir '{caller}/val data'"
BEST = "--checkpoint_path '{caller}/best weights.ckpt'"
SAVE = "--ckpt_save_dir '{run}/checkpoints' --run_dir '{run}'"
LAUNCHERS = sorted(path.name for path in (FOLDER / "scripts").glob("*.sh") if "infer" not in path.name)


@pytest.fixture
def bench(tmp_path):
    bench = lent.Bench(tmp_path, FOLDER / "scripts")
    bench.make("train data/", "val data/", "best weights.ckpt")
    bench.rank_table([(4, 1), (5, 0)])
    yield bench
    bench.end_jobs()


@pytest.mark.parametrize(
    "call, log, device, command",
    [
        ("run_standalone_train.sh 3", "train_single/train.log", "3", f"train.py {SAVE}"),
        ("run_standalone_train.sh 03 'train data' cifar10", "train_single/train.log", "3", f"train.py {TRAIN} {SAVE}"),
        ("run_standalone_train_gpu.sh 3", "train_single_gpu/train.log", "3", f"train.py --device_target GPU {SAVE}"),
        (
            "run_standalone_train_gpu.sh 3 './train data' cifar10 --seed 1",
            "train_single_gpu/train.log", "3", f"train.py --device_target GPU {TRAIN} {SAVE} --seed 1",
        ),
        ("run_train_cpu.sh 'train data' cifar10", "train_cpu/train.log", "6", f"train.py --device_target CPU {TRAIN} {SAVE}"),
        ("run_eval.sh", "eval/eval.log", "6", "eval.py --run_dir '{run}'"),
        (
            "run_eval.sh 'val data' imagenet 'best weights.ckpt'",
            "eval/eval.log", "6", f"eval.py --dataset_name imagenet {VAL} {BEST} --run_dir '{{run}}'",
        ),
        ("run_eval_cpu.sh", "eval/eval.log", "6", "eval.py --device_target CPU --run_dir '{run}'"),
        (
            "run_eval_cpu.sh '{caller}/val data' cifar10 '{caller}/best weights.ckpt'",
            "eval/eval.log", "6", f"eval.py --device_target CPU --dataset_name cifar10 {VAL} {BEST} --run_dir '{{run}}'",
        ),
        ("run_eval_gpu.sh", "eval/eval.log", "6", "eval.py --device_target GPU --run_dir '{run}'"),
        (
            "run_eval_gpu.sh 'val data' cifar10 'best weights.ckpt' --seed=1",
            "eval/eval.log", "6",
            f"eval.py --device_target GPU --dataset_name cifar10 {VAL} {BEST} --run_dir '{{run}}' --seed=1",
        ),
    ],
)  # fmt: skip
def test_one_process(bench, call, log, device, command):
    job = bench.job(*bench.words(call), **lent.STALE)
    assert job["argv"] == bench.words(command, log.split("/")[0])
    names = "DEVICE_ID RANK_ID RANK_SIZE DEVICE_NUM RANK_TABLE_FILE"
    assert lent.values(job, names) == [device, "0", "1", "1", None]
    assert (bench.caller / log).read_text() == "text\ntext on stderr\n"


@pytest.mark.parametrize("data, flags", [("", ""), ("cifar10 'train data'", TRAIN)])
def test_ranks_of_a_table(bench, data, flags):
    """Each in a folder of its own; the checkpoints are in the first one."""
    call = bench.words(f"run_distribute_train.sh 'rank table.json' {data} --epoch_size 2 --wait")
    assert bench.run(*call, STAND_IN_TEXT="text").returncode == 0
    for job, folder in zip(bench.records(), ["train_parallel1", "train_parallel0"]):
        save = f"--ckpt_save_dir '{{caller}}/train_parallel0/checkpoints' --run_dir '{{caller}}/{folder}'"
        assert job["argv"] == bench.words(f"train.py {flags} {save} --epoch_size 2")
        assert (bench.caller / folder / "log").read_text() == "text\ntext on stderr\n"
    assert len(bench.records()) == 2


@pytest.mark.parametrize(
    "call, log, number, command",
    [
        ("run_distribute_train_gpu.sh 4", "distribute_train_gpu/log.txt", "4", f"train.py --device_target GPU {SAVE}"),
        (
            "run_distribute_train_gpu.sh 4 'train data' cifar10 --seed=2",
            "distribute_train_gpu/log.txt", "4", f"train.py --device_target GPU {TRAIN} {SAVE} --seed=2",
        ),
        ("run_distribute_train.sh", "train_parallel0/log", "3", f"train.py {SAVE}"),
        ("run_distribute_train.sh cifar10 'train data'", "train_parallel0/log", "3", f"train.py {TRAIN} {SAVE}"),
        *[
            (f"run_distribute_train.sh {data} --device_target CPU", "train_parallel0/log", number,
             f"train.py {flags} {SAVE} --device_target CPU")
            for data, number, flags in (
                ("", "3", ""), ("cifar10 'train data'", "3", TRAIN),
                ("'rank table.json'", "2", ""), ("'rank table.json' cifar10 'train data'", "2", TRAIN),
            )
        ],
    ],
)  # fmt: skip
def test_ranks_through_msrun(bench, call, log, number, command):
    job = bench.job(*bench.words(call), by="msrun", DEVICE_NUM="3")
    assert job["words"][:4] == ["--worker_num", number, "--local_worker_num", number]
    assert job["argv"] == bench.words(command, log.split("/")[0])
    assert (bench.caller / log).read_text() == "text\ntext on stderr\n"


COUNTS = {
    "run_train_cpu.sh": (0, 1, 3),
    **dict.fromkeys(["run_eval.sh", "run_eval_cpu.sh", "run_eval_gpu.sh"], (1, 2, 4)),
}


@pytest.mark.parametrize("script, count", [(name, n) for name in LAUNCHERS for n in COUNTS.get(name, (0, 2, 4))])
def test_wrong_number_of_arguments(bench, script, count):
    errors = bench.refuse(script, *["1"] * count)
    assert f"error: got {count} arguments, expected " in errors and f"Usage: bash {script}" in errors


@pytest.mark.parametrize(
    "call, message",
    [
        ("run_standalone_train.sh x", "DEVICE_ID=x is not an integer"),
        ("run_standalone_train.sh 0 no cifar10", "TRAIN_DATA_DIR={caller}/no is not a directory"),
        ("run_standalone_train.sh 0 'train data' cifar", "DATASET=cifar is not one of: cifar10 imagenet"),
        ("run_standalone_train_gpu.sh 0 no cifar10", "TRAIN_DATA_DIR={caller}/no is not a directory"),
        ("run_standalone_train_gpu.sh -1", "DEVICE_ID=-1 is not an integer"),
        ("run_train_cpu.sh 'best weights.ckpt' cifar10", "TRAIN_DATA_DIR={caller}/best weights.ckpt is not a dir"),
        ("run_train_cpu.sh 'train data' ''", "DATASET= is not one of"),
        ("run_eval.sh /no imagenet 'best weights.ckpt'", "VAL_DATA_DIR=/no is not a directory"),
        ("run_eval.sh 'val data' CIFAR10 'best weights.ckpt'", "DATASET=CIFAR10 is not one of"),
        ("run_eval_cpu.sh 'val data' cifar10 no.ckpt", "CHECKPOINT_PATH={caller}/no.ckpt is not a file"),
        ("run_eval_gpu.sh 'val data' cifar10 'val data'", "CHECKPOINT_PATH={caller}/val data is not a file"),
        ("run_distribute_train.sh no.json", "RANK_TABLE_FILE={caller}/no.json is not a file"),
        ("run_distribute_train.sh no.json --device_target=CPU", "RANK_TABLE_FILE={caller}/no.json is not a file"),
        ("run_distribute_train.sh --device_target=CPU", "DEVICE_NUM= is not"),
        ("run_distribute_train.sh 'rank table.json' cifar 'train data'", "DATASET=cifar is not one of"),
        ("run_distribute_train.sh 'rank table.json' cifar10 no", "TRAIN_DATA_DIR={caller}/no is not a directory"),
        ("run_distribute_train_gpu.sh 0", "RANK_SIZE=0 is not an integer of 1 or more"),
        ("run_distribute_train_gpu.sh 2 no cifar10", "TRAIN_DATA_DIR={caller}/no is not a directory"),
        ("run_distribute_train_gpu.sh 2 'train data' x", "DATASET=x is not one of"),
    ],
)
def test_invalid_argument(bench, call, message):
    assert bench.refuse(*bench.words(call)).startswith(f"error: {message}")
