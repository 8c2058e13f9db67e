"""The launchers of scripts/: each passes the documented program, flags and paths, and refuses wrong arguments."""

from __future__ import annotations

import launcher_bench as lent
from classifier.launchers import Launchers, check_group, check_process

import pytest

STANDALONE, DISTRIBUTE, EVAL = "run_standalone_train_gpu.sh", "run_distribute_train_gpu.sh", "run_eval_gpu.sh"
DATA = "darknet53 imagenet2012 'image net'"
CALLS = {STANDALONE: DATA, DISTRIBUTE: DATA, EVAL: "'image net' 'best weights.ckpt'"}
TRAININGS = [
    ("resnet50 imagenet2012 'image net'", "NET=resnet50 is not one of: darknet53"),
    ("darknet53 cifar10 'image net'", "DATASET=cifar10 is not one of: imagenet2012"),
    ("darknet53 imagenet2012 'no such'", "DATASET_PATH={caller}/no such is not a directory"),
    ("darknet53 imagenet2012 'image net/val'", "DATASET_PATH={caller}/image net/val has no folder train"),
    (f"{DATA} no.ckpt", "PRETRAINED_CKPT_PATH={caller}/no.ckpt is not a file"),
]


def training(bench, folder: str, distributed: str, checkpoint: str) -> list[str]:
    """The documented command."""
    return bench.words(
        f"train.py --device_target GPU --run_distributed {distributed} --net darknet53 --dataset imagenet2012 "
        "--dataset_path '{caller}/image net' --save_checkpoint_path '{run}' --summary_dir '{run}/summary_dir' "
        + ("--pre_trained '{caller}/best weights.ckpt' " if checkpoint else "")
        + "--run_dir '{run}'",
        folder,
    )


class TestLaunchers(Launchers):
    FILES = ("image net/train/", "image net/val/", "best weights.ckpt")
    COUNTS = {STANDALONE: (0, 2, 5), DISTRIBUTE: (0, 2, 5), EVAL: (1, 3)}
    INVALID = [
        *[(f"{script} {call}", message) for script in (STANDALONE, DISTRIBUTE) for call, message in TRAININGS],
        (f"{EVAL} 'no such' 'best weights.ckpt'", "DATASET_PATH={caller}/no such is not a directory"),
        (f"{EVAL} 'image net/train' 'best weights.ckpt'", "DATASET_PATH={caller}/image net/train has no folder val"),
        (f"{EVAL} 'image net' no.ckpt", "CHECKPOINT_PATH={caller}/no.ckpt is not a file"),
    ]

    @pytest.mark.parametrize(
        "checkpoint, device", [("", "0"), ("'./best weights.ckpt'", "3"), ("'{caller}/best weights.ckpt'", "3")]
    )
    def test_standalone_training(self, bench, checkpoint, device):
        environment = {**lent.STALE, "DEVICE_ID": "" if device == "0" else "03"}
        job = bench.job(*bench.words(f"{STANDALONE} {DATA} {checkpoint}"), **environment)
        check_process(bench, job, training(bench, "train", "false", checkpoint), "train/log", device)

    @pytest.mark.parametrize("checkpoint, number", [("", "8"), ("'best weights.ckpt'", "2")])
    def test_distributed_training(self, bench, checkpoint, number):
        environment = {"DEVICE_NUM": number} if number != "8" else {}
        job = bench.job(*bench.words(f"{DISTRIBUTE} {DATA} {checkpoint}"), by="msrun", **environment)
        command = training(bench, "train_parallel", "true", checkpoint)
        check_group(bench, job, command, "train_parallel/log", number)

    def test_evaluation(self, bench):
        job = bench.job(*bench.words(f"{EVAL} {CALLS[EVAL]}"), **lent.STALE)
        data = "--dataset_path '{caller}/image net' --checkpoint_path '{caller}/best weights.ckpt' --run_dir '{run}'"
        command = bench.words(f"eval.py --device_target GPU --run_distributed false {data}", "eval")
        check_process(bench, job, command, "eval/log", "6")

    @pytest.mark.parametrize("script, name", [(STANDALONE, "train"), (DISTRIBUTE, "train"), (EVAL, "val")])
    def test_further_options_come_last(self, bench, script, name):
        """--train_data_dir and --val_data_dir free DATASET_PATH of its folder; the job's status is returned."""
        (bench.caller / "image net" / name).rmdir()
        options = ["--device_target", "CPU", f"--{name}_data_dir=/data/{name}", "--note", "two words"]
        by, call = "msrun" if script == DISTRIBUTE else "python", bench.words(f"{script} {CALLS[script]}")
        assert bench.job(*call, *options, by=by)["argv"][-len(options) :] == options
        assert bench.run(*call, *options, "--wait", STAND_IN_STATUS="7").returncode == 7

    @pytest.mark.parametrize("script, name, value", [(STANDALONE, "DEVICE_ID", "x"), (DISTRIBUTE, "DEVICE_NUM", "0")])
    def test_invalid_environment(self, bench, script, name, value):
        errors = bench.refuse(*bench.words(f"{script} {DATA}"), **{name: value})
        assert f"error: {name}={value} is not an integer" in errors
