"""The launchers of scripts/: each passes the documented program, flags and paths, and refuses wrong arguments."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1]
sys.path.append(str(FOLDER.parent / "tests"))  # last: it has files of the same names
lent = pytest.importorskip("launcher_bench", reason="the bench of the launchers is in the repository")

STANDALONE, DISTRIBUTE, EVAL = "run_standalone_train.sh", "run_distribute_train.sh", "run_eval.sh"
STANDALONE_GPU, DISTRIBUTE_GPU, EVAL_GPU = (
    "run_standalone_train_gpu.sh", "run_distribute_train_gpu.sh", "run_eval_gpu.sh"
)  # fmt: skip
ONE_DEVICE, EVALUATIONS = [STANDALONE, STANDALONE_GPU], [EVAL, EVAL_GPU]
DATA, BACKBONE, TABLE, BEST = "'coco 2017'", "'back bone.ckpt'", "'rank table.json'", "'best weights.ckpt'"
CPU = "--device_target CPU"
ENVIRONMENT = "DEVICE_ID RANK_ID RANK_SIZE DEVICE_NUM RANK_TABLE_FILE"


@pytest.fixture
def bench(tmp_path):
    bench = lent.Bench(tmp_path, FOLDER / "scripts")
    bench.make("coco 2017/train2017/", "back bone.ckpt", "best weights.ckpt")
    bench.rank_table([(4, 1), (5, 0)])
    yield bench
    bench.end_jobs()


def training(bench, script: str, folder: str, backbone: str = BACKBONE, run: str = "") -> list[str]:
    """The documented command, with the checkpoints in `folder`."""
    gpu = script in (STANDALONE_GPU, DISTRIBUTE_GPU)
    return bench.words(
        f"train.py {'--device_target=GPU' if gpu else ''} --is_distributed={int('distribute' in script)} --lr=0.001 "
        "--loss_scale=1024 --weight_decay=0.016 --T_max=320 --max_epoch=320 --warmup_epochs=4 "
        f"{'--training_shape=416' if gpu else ''} --lr_scheduler=cosine_annealing --data_dir='{{caller}}/coco 2017' "
        "--ckpt_path='{run}/outputs' "
        + (backbone and "--pretrained_backbone='{caller}/back bone.ckpt' ")
        + f"--run_dir '{{caller}}/{run or folder}'",
        folder,
    )


@pytest.mark.parametrize("script", ONE_DEVICE)
@pytest.mark.parametrize("backbone", ["", f"./{BACKBONE}", "'{caller}/back bone.ckpt'"])
def test_standalone_training(bench, script, backbone):
    environment = {**lent.STALE, "DEVICE_ID": "" if backbone else "03"}
    job = bench.job(*bench.words(f"{script} ./{DATA} {backbone} --note 'two words'"), **environment)
    assert job["argv"] == [*training(bench, script, "train", backbone), "--note", "two words"]
    assert lent.values(job, ENVIRONMENT) == ["0" if backbone else "3", "0", "1", "1", None]
    assert (bench.caller / "train/log.txt").read_text() == "text\ntext on stderr\n"


@pytest.mark.parametrize("script", EVALUATIONS)
@pytest.mark.parametrize("device", ["", "03"])
def test_evaluation(bench, script, device):
    call = f"{script} ./{DATA} '{{caller}}/best weights.ckpt' {CPU}"
    job = bench.job(*bench.words(call), **{**lent.STALE, "DEVICE_ID": device})
    data = "--data_dir='{caller}/coco 2017' --pretrained='{caller}/best weights.ckpt' --run_dir '{run}'"
    gpu = "--device_target=GPU" if script == EVAL_GPU else ""
    flags = f"eval.py {gpu} --is_distributed=0 --testing_shape=416"
    assert job["argv"] == bench.words(f"{flags} {data} {CPU}", "eval")
    assert lent.values(job, ENVIRONMENT) == ["3" if device else "0", "0", "1", "1", None]
    assert (bench.caller / "eval/log.txt").read_text() == "text\ntext on stderr\n"


@pytest.mark.parametrize("backbone", ["", BACKBONE])
def test_rank_table(bench, backbone):
    call = bench.words(f"{DISTRIBUTE} {DATA} {backbone} {TABLE} --device_num 2 --lr 0.1 --wait")
    assert bench.run(*call, DEVICE_NUM="8", STAND_IN_TEXT="text").returncode == 0
    for job, folder in zip(bench.records(), ["train_parallel1", "train_parallel0"]):
        expected = training(bench, DISTRIBUTE, "train_parallel0", backbone, folder)
        assert job["argv"] == [*expected, "--device_num", "2", "--lr", "0.1"]
        assert (bench.caller / folder / "log.txt").read_text() == "text\ntext on stderr\n"
    assert len(bench.records()) == 2


@pytest.mark.parametrize("options, environment, binds", [
    ("", "", True), ("", "0", False), ("--bind_cpu False", "", False), ("--bind_cpu=0", "1", False),
    ("--no-bind_cpu", "", False), ("--bind_cpu True", "0", True), ("--bind_cpu False --bind_cpu true", "", True),
])  # fmt: skip
def test_core_binding(bench, options, environment, binds):
    environment = {"BIND_CORES": environment} if environment else {}
    assert bench.run(*bench.words(f"{DISTRIBUTE} {DATA} {TABLE} --wait {options}"), **environment).returncode == 0
    enough_cores = len(os.sched_getaffinity(0)) >= 2
    assert len(bench.records("taskset")) == (2 if binds and enough_cores else 0)
    assert all(job["argv"][len(job["argv"]) - len(options.split()) :] == options.split() for job in bench.records())


@pytest.mark.parametrize(
    "script, arguments, options, environment, number",
    [
        (DISTRIBUTE, DATA, CPU, {"DEVICE_NUM": "3"}, "3"),
        (DISTRIBUTE, f"{DATA} {BACKBONE}", f"{CPU} --device_num=3", {"DEVICE_NUM": "4"}, "3"),
        (DISTRIBUTE, f"{DATA} {BACKBONE} {TABLE}", CPU, {"DEVICE_NUM": "4"}, "2"),
        (DISTRIBUTE, f"{DATA} {TABLE}", "--device_target GPU --device_num 02", {}, "2"),
        (DISTRIBUTE_GPU, DATA, "", {}, "8"),
        (DISTRIBUTE_GPU, f"{DATA} {BACKBONE}", f"--device_num 3 {CPU}", {"DEVICE_NUM": "2"}, "3"),
    ],
)
def test_distributed_training_through_msrun(bench, script, arguments, options, environment, number):
    folder = "train_parallel0" if script == DISTRIBUTE else "train_parallel"
    job = bench.job(*bench.words(f"{script} {arguments} {options}"), by="msrun", **environment)
    assert job["words"][:4] == ["--worker_num", number, "--local_worker_num", number]
    backbone = BACKBONE if BACKBONE in arguments else ""
    assert job["argv"] == [*training(bench, script, folder, backbone), *options.split()]
    assert (bench.caller / folder / "log.txt").read_text() == "text\ntext on stderr\n"


COUNTS = {**dict.fromkeys([*ONE_DEVICE, DISTRIBUTE_GPU], (0, 3)), **dict.fromkeys(EVALUATIONS, (0, 1, 3)),
          DISTRIBUTE: (0, 1, 4), f"{DISTRIBUTE} {CPU}": (0, 4)}  # fmt: skip


@pytest.mark.parametrize("call, count", [(call, n) for call, counts in COUNTS.items() for n in counts])
def test_wrong_number_of_arguments(bench, call, count):
    script, *options = call.split()
    errors = bench.refuse(script, *["x"] * count, *options)
    assert f"error: got {count} arguments, expected " in errors and f"Usage: bash {script}" in errors


@pytest.mark.parametrize(
    "call, message",
    [
        *[(f"{script} no {BACKBONE}", "DATASET_PATH={caller}/no is not a directory")
          for script in (*ONE_DEVICE, DISTRIBUTE_GPU, *EVALUATIONS)],
        (f"{DISTRIBUTE} no {TABLE}", "DATASET_PATH={caller}/no is not a directory"),
        *[(f"{script} {DATA} no", "PRETRAINED_BACKBONE={caller}/no is not a file") for script in ONE_DEVICE],
        *[(f"{script} {DATA} ''", "PRETRAINED_BACKBONE= is not a file") for script in ONE_DEVICE],
        *[(f"{script} {DATA} no", "CHECKPOINT_PATH={caller}/no is not a file") for script in EVALUATIONS],
        (f"{DISTRIBUTE_GPU} {DATA} {DATA}", "PRETRAINED_BACKBONE={caller}/coco 2017 is not a file"),
        (f"{DISTRIBUTE} {DATA} no {TABLE}", "PRETRAINED_BACKBONE={caller}/no is not a file"),
        (f"{DISTRIBUTE} {DATA} {BACKBONE} no", "RANK_TABLE_FILE={caller}/no is not a file"),
        (f"{DISTRIBUTE} {DATA} no", "RANK_TABLE_FILE={caller}/no is not a file"),
        (f"{DISTRIBUTE} {DATA} {BACKBONE}", "RANK_TABLE_FILE={caller}/back bone.ckpt is not a rank table"),
        (f"{DISTRIBUTE} {DATA} no {CPU}", "PRETRAINED_BACKBONE={caller}/no is not a file"),
        (f"{DISTRIBUTE} {DATA} no.json {CPU}", "RANK_TABLE_FILE={caller}/no.json is not a file"),
        (f"{DISTRIBUTE} {DATA} {BACKBONE} {CPU}", "set DEVICE_NUM to the number of processes, or give a rank table"),
        (f"{DISTRIBUTE} {DATA} {TABLE} --device_num 8", "--device_num 8, but {caller}/rank table.json lists 2 devices"),
        (f"{DISTRIBUTE} {DATA} {CPU} --device_num 0", "DEVICE_NUM=0 is not an integer of 1 or more"),
        (f"{DISTRIBUTE_GPU} {DATA} --device_num=x", "DEVICE_NUM=x is not an integer of 1 or more"),
    ],
)  # fmt: skip
def test_invalid_argument(bench, call, message):
    assert bench.refuse(*bench.words(call)).startswith(f"error: {message}")


@pytest.mark.parametrize(
    "call, name",
    [
        *[(f"{script} {DATA} {BEST}", "DEVICE_ID") for script in (*ONE_DEVICE, *EVALUATIONS)],
        *[(f"{script} {DATA} {CPU}", "DEVICE_NUM") for script in (DISTRIBUTE, DISTRIBUTE_GPU)],
    ],
)
def test_invalid_environment(bench, call, name):
    assert bench.refuse(*bench.words(call), **{name: "x"}).startswith(f"error: {name}=x is not an integer")
