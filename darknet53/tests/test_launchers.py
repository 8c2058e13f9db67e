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

STANDALONE, DISTRIBUTE, EVAL = "run_standalone_train_gpu.sh", "run_distribute_train_gpu.sh", "run_eval_gpu.sh"
DATA = "darknet53 imagenet2012 'image net'"
CALLS = {STANDALONE: DATA, DISTRIBUTE: DATA, EVAL: "'image net' 'best weights.ckpt'"}
PRE_TRAINED = "--pre_trained '{caller}/best weights.ckpt'"


@pytest.fixture
def bench(tmp_path):
    bench = lent.Bench(tmp_path, FOLDER / "scripts")
    bench.make("image net/train/", "image net/val/", "best weights.ckpt")
    yield bench
    bench.end_jobs()


def training(bench, folder: str, distributed: str, rest: str = "") -> list[str]:
    """The documented command, with `rest` between the paths and the run folder."""
    return bench.words(
        f"train.py --device_target GPU --run_distributed {distributed} --net darknet53 --dataset imagenet2012 "
        "--dataset_path '{caller}/image net' --save_checkpoint_path '{run}' --summary_dir '{run}/summary_dir' "
        f"{rest} --run_dir '{{run}}'",
        folder,
    )


@pytest.mark.parametrize("device", ["0", "3"])
@pytest.mark.parametrize("checkpoint", ["", "'./best weights.ckpt'", "'{caller}/best weights.ckpt'"])
def test_standalone_training(bench, checkpoint, device):
    environment = {**lent.STALE, "DEVICE_ID": "" if device == "0" else "03"}
    job = bench.job(*bench.words(f"{STANDALONE} {DATA} {checkpoint}"), **environment)
    assert job["argv"] == training(bench, "train", "false", PRE_TRAINED if checkpoint else "")
    assert lent.values(job, "DEVICE_ID RANK_ID RANK_SIZE DEVICE_NUM RANK_TABLE_FILE") == [device, "0", "1", "1", None]
    assert (bench.caller / "train/log").read_text() == "text\ntext on stderr\n"


@pytest.mark.parametrize("number", ["8", "2"])
@pytest.mark.parametrize("checkpoint", ["", "'best weights.ckpt'"])
def test_distributed_training(bench, checkpoint, number):
    environment = {"DEVICE_NUM": number} if number != "8" else {}
    job = bench.job(*bench.words(f"{DISTRIBUTE} {DATA} {checkpoint}"), by="msrun", **environment)
    assert job["words"][:4] == ["--worker_num", number, "--local_worker_num", number]
    assert job["argv"] == training(bench, "train_parallel", "true", PRE_TRAINED if checkpoint else "")
    assert (bench.caller / "train_parallel/log").read_text() == "text\ntext on stderr\n"


def test_evaluation(bench):
    job = bench.job(EVAL, "image net", "best weights.ckpt", **lent.STALE)
    data = "--dataset_path '{caller}/image net' --checkpoint_path '{caller}/best weights.ckpt' --run_dir '{run}'"
    assert job["argv"] == bench.words(f"eval.py --device_target GPU --run_distributed false {data}", "eval")
    assert lent.values(job, "DEVICE_ID RANK_ID RANK_SIZE DEVICE_NUM RANK_TABLE_FILE") == ["6", "0", "1", "1", None]
    assert (bench.caller / "eval/log").read_text() == "text\ntext on stderr\n"


@pytest.mark.parametrize("script, name", [(STANDALONE, "train"), (DISTRIBUTE, "train"), (EVAL, "val")])
def test_further_options_come_last(bench, script, name):
    """--train_data_dir and --val_data_dir free DATASET_PATH of its folder."""
    (bench.caller / "image net" / name).rmdir()
    options = ["--device_target", "CPU", f"--{name}_data_dir=/data/{name}", "--note", "two words"]
    by = "msrun" if script == DISTRIBUTE else "python"
    job = bench.job(*bench.words(f"{script} {CALLS[script]}"), *options, by=by)
    assert job["argv"][-len(options) :] == options


@pytest.mark.parametrize("script", CALLS)
def test_the_status_of_the_job_is_returned(bench, script):
    result = bench.run(*bench.words(f"{script} {CALLS[script]} --wait"), DEVICE_NUM="1", STAND_IN_STATUS="7")
    assert result.returncode == 7


@pytest.mark.parametrize(
    "script, count", [*[(script, n) for script in (STANDALONE, DISTRIBUTE) for n in (0, 2, 5)], (EVAL, 1), (EVAL, 3)]
)
def test_wrong_number_of_arguments(bench, script, count):
    errors = bench.refuse(script, *["x"] * count)
    assert f"error: got {count} arguments, expected " in errors and f"Usage: bash {script}" in errors


TRAININGS = [
    ("resnet50 imagenet2012 'image net'", "NET=resnet50 is not one of: darknet53"),
    ("darknet53 cifar10 'image net'", "DATASET=cifar10 is not one of: imagenet2012"),
    ("darknet53 imagenet2012 'no such'", "DATASET_PATH={caller}/no such is not a directory"),
    ("darknet53 imagenet2012 'image net/val'", "DATASET_PATH={caller}/image net/val has no folder train"),
    (f"{DATA} no.ckpt", "PRETRAINED_CKPT_PATH={caller}/no.ckpt is not a file"),
    (f"{DATA} 'image net'", "PRETRAINED_CKPT_PATH={caller}/image net is not a file"),
]


@pytest.mark.parametrize(
    "script, arguments, message",
    [
        *[(script, *case) for script in (STANDALONE, DISTRIBUTE) for case in TRAININGS],
        (EVAL, "'no such' 'best weights.ckpt'", "DATASET_PATH={caller}/no such is not a directory"),
        (EVAL, "'image net/train' 'best weights.ckpt'", "DATASET_PATH={caller}/image net/train has no folder val"),
        (EVAL, "'image net' no.ckpt", "CHECKPOINT_PATH={caller}/no.ckpt is not a file"),
    ],
)
def test_invalid_argument(bench, script, arguments, message):
    assert bench.refuse(*bench.words(f"{script} {arguments}")) == f"error: {message}\n"


@pytest.mark.parametrize("script, name, value", [(STANDALONE, "DEVICE_ID", "x"), (DISTRIBUTE, "DEVICE_NUM", "0")])
def test_invalid_environment(bench, script, name, value):
    errors = bench.refuse(*bench.words(f"{script} {DATA}"), **{name: value})
    assert f"error: {name}={value} is not an integer" in errors


def test_every_launcher_is_tested():
    found = {path.name for path in (FOLDER / "scripts").glob("*.sh")}
    assert found == {*CALLS, "run_infer_310.sh", "run_infer_cpu.sh"}
