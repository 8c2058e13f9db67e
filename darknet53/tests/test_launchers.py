"""The bash launchers of scripts/, run with recording stand-ins for python, msrun, mpirun and taskset.

The scripts are copied to a temporary model folder whose name has a blank, so that no run folder is made in the project.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
STAND_IN = Path(__file__).resolve().with_name("stand_in.py")
STANDALONE, DISTRIBUTE, EVAL = "run_standalone_train_gpu.sh", "run_distribute_train_gpu.sh", "run_eval_gpu.sh"
DATA = ["darknet53", "imagenet2012", "image net"]
CALLS = {STANDALONE: DATA, DISTRIBUTE: DATA, EVAL: ["image net", "best weights.ckpt"]}
# Those of the inference; tests/test_cpp_infer.py of the repository tests them.
INFERENCE = ["infer_common.sh", "run_infer_310.sh", "run_infer_cpu.sh"]
FOLDERS = ["image net/train", "image net/val"]


class Bench:
    """A model folder, a caller's folder with data, and stand-ins that come first on PATH."""

    def __init__(self, root: Path):
        self.model, self.caller, self.notes = root / "my model", root / "some where", root / "notes"
        for folder in (self.model, root / "bin", self.notes, *(self.caller / name for name in FOLDERS)):
            folder.mkdir(parents=True)
        shutil.copytree(SCRIPTS, self.model / "scripts")
        for name in ("python", "msrun", "mpirun", "taskset"):
            path = root / "bin" / name
            path.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-S", str(STAND_IN), name])} "$@"\n')
            path.chmod(0o755)
        (self.caller / "best weights.ckpt").touch()
        self.environment = {
            "PATH": f"{root / 'bin'}:{os.defpath}",
            "STAND_IN_DIR": str(self.notes),
            "LAUNCH_CHECK_SECONDS": "10",
            "LAUNCH_KILL_SECONDS": "1",
        }

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [shutil.which("bash"), str(self.model / "scripts" / script), *arguments],
            cwd=self.caller,
            env={**self.environment, **environment},
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=30,
        )

    def records(self, name: str = "python") -> list[dict]:
        found = [json.loads(path.read_text()) for path in self.notes.glob(f"{name}-*.json")]
        return sorted(found, key=lambda entry: int(entry["env"].get("RANK_ID", 0)))

    def record(self, name: str = "python") -> dict:
        (entry,) = self.records(name)
        return entry

    def files(self) -> list[str]:
        return sorted(path.relative_to(self.caller).as_posix() for path in self.caller.rglob("*"))


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def values(job: dict, names: str) -> list[str | None]:
    return [job["env"].get(name) for name in names.split()]


def of_msrun(job: dict) -> tuple[str, list[str]]:
    """The number of processes that msrun was to start, and the command of each."""
    assert job["argv"][:4:2] == ["--worker_num", "--local_worker_num"] and job["argv"][1] == job["argv"][3]
    return job["argv"][1], job["argv"][job["argv"].index("train.py") :]


# ---- Command lines, environment, folders -----------------------------------------------------------------------------

STALE = {"RANK_ID": "6", "RANK_SIZE": "8", "DEVICE_NUM": "8", "RANK_TABLE_FILE": "old.json"}
CHECKPOINTS = {"none": [], "relative": ["./best weights.ckpt"], "absolute": ["{caller}/best weights.ckpt"]}


def training(bench: Bench, folder: str, distributed: str, checkpoint: bool) -> list[str]:
    run_dir = f"{bench.caller}/{folder}"
    return [
        *["train.py", "--device_target", "GPU", "--run_distributed", distributed],
        *["--net", "darknet53", "--dataset", "imagenet2012", "--dataset_path", f"{bench.caller}/image net"],
        *["--save_checkpoint_path", run_dir, "--summary_dir", f"{run_dir}/summary_dir"],
        *(["--pre_trained", f"{bench.caller}/best weights.ckpt"] if checkpoint else []),
        *["--run_dir", run_dir],
    ]


@pytest.mark.parametrize("form", CHECKPOINTS)
@pytest.mark.parametrize("device", ["0", "3"])
def test_standalone_training(bench, form, device):
    checkpoint = [word.format(caller=bench.caller) for word in CHECKPOINTS[form]]
    environment = {**STALE, **({"DEVICE_ID": device} if device != "0" else {}), "STAND_IN_TEXT": "text"}
    result = bench.run(STANDALONE, *DATA, *checkpoint, **environment)
    assert (result.returncode, result.stderr) == (0, "")
    job = bench.record()
    assert job["argv"] == training(bench, "train", "false", bool(checkpoint))
    assert job["cwd"] == str(bench.model)
    assert values(job, "DEVICE_ID RANK_ID RANK_SIZE DEVICE_NUM RANK_TABLE_FILE") == [device, "0", "1", "1", None]
    assert (bench.caller / "train/log").read_text() == "text\ntext on stderr\n"
    assert f"DEVICE_ID={device}\n" in (bench.caller / "train/env.log").read_text()


@pytest.mark.parametrize("form", CHECKPOINTS)
@pytest.mark.parametrize("number", ["8", "2"])
def test_distributed_training(bench, form, number):
    checkpoint = [word.format(caller=bench.caller) for word in CHECKPOINTS[form]]
    environment = {"DEVICE_NUM": number} if number != "8" else {}
    result = bench.run(DISTRIBUTE, *DATA, *checkpoint, DEVICE_ID="6", STAND_IN_TEXT="text", **environment)
    assert (result.returncode, result.stderr) == (0, "")
    job = bench.record("msrun")
    assert of_msrun(job) == (number, training(bench, "train_parallel", "true", bool(checkpoint)))
    assert job["cwd"] == str(bench.model)
    assert values(job, "DEVICE_ID RANK_SIZE DEVICE_NUM") == [None, number, number]
    assert (bench.caller / "train_parallel/log").read_text() == "text\ntext on stderr\n"
    assert f"DEVICE_NUM={number}\n" in (bench.caller / "train_parallel/env.log").read_text()


def test_distributed_training_through_mpirun(bench):
    assert bench.run(DISTRIBUTE, *DATA, LAUNCHER="mpirun", DEVICE_NUM="2").returncode == 0
    argv = bench.record("mpirun")["argv"]
    log_output = f"{bench.caller}/train_parallel/log_output"
    words = argv[argv.index("-n") :]
    assert words[:6] == ["-n", "2", "--bind-to", "none", "bash", "-c"]
    assert words[7] == log_output and words[8].endswith("/bin/python")
    assert words[9:] == training(bench, "train_parallel", "true", False)


def test_distributed_training_on_one_device(bench):
    assert bench.run(DISTRIBUTE, *DATA, DEVICE_NUM="1", DEVICE_ID="6").returncode == 0
    assert bench.record()["argv"] == training(bench, "train_parallel", "true", False)
    assert values(bench.record(), "DEVICE_ID RANK_ID RANK_SIZE") == ["0", "0", "1"]


def test_evaluation(bench):
    result = bench.run(EVAL, "image net", "best weights.ckpt", STAND_IN_TEXT="text", DEVICE_ID="3", **STALE)
    assert (result.returncode, result.stderr) == (0, "")
    job, data = bench.record(), ["--dataset_path", f"{bench.caller}/image net"]
    assert job["argv"] == [
        *["eval.py", "--device_target", "GPU", "--run_distributed", "false", *data],
        *["--checkpoint_path", f"{bench.caller}/best weights.ckpt", "--run_dir", f"{bench.caller}/eval"],
    ]
    assert job["cwd"] == str(bench.model)
    assert values(job, "DEVICE_ID RANK_ID RANK_SIZE DEVICE_NUM RANK_TABLE_FILE") == ["3", "0", "1", "1", None]
    assert (bench.caller / "eval/log").read_text() == "text\ntext on stderr\n"
    assert (bench.caller / "eval/env.log").exists()


@pytest.mark.parametrize("script", CALLS)
def test_further_options_come_last(bench, script):
    options = ["--device_target", "CPU", "--lr=0.1", "--note", "two words"]
    result = bench.run(script, *CALLS[script], *options[:3], "--wait", *options[3:], DEVICE_NUM="2")
    assert (result.returncode, result.stderr) == (0, "")
    assert bench.record("msrun" if script == DISTRIBUTE else "python")["argv"][-len(options) :] == options


@pytest.mark.parametrize("script, name", [(STANDALONE, "train"), (DISTRIBUTE, "train"), (EVAL, "val")])
def test_data_folder_of_an_option(bench, script, name):
    """--train_data_dir and --val_data_dir free DATASET_PATH of its folder."""
    (bench.caller / "image net" / name).rmdir()
    option = f"--{name}_data_dir=/data/{name}"
    assert bench.run(script, *CALLS[script], option).returncode == 0
    assert bench.record("msrun" if script == DISTRIBUTE else "python")["argv"][-1] == option


# ---- Failures and wrong usage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", CALLS)
@pytest.mark.parametrize("options, status", [(["--wait"], 7), ([], 1)])
def test_failure(bench, script, options, status):
    """--wait returns the status of the job; without it a failure within the first seconds is reported."""
    result = bench.run(script, *CALLS[script], *options, STAND_IN_STATUS="7", STAND_IN_TEXT="last words")
    assert result.returncode == status
    assert "error: the job ended with status 7; the last lines of" in result.stderr and "last words" in result.stderr


def assert_refused(bench: Bench, result: subprocess.CompletedProcess, message: str, files: list[str]) -> None:
    assert (result.returncode, result.stdout) == (1, "")
    assert message in result.stderr
    assert list(bench.notes.iterdir()) == [] and bench.files() == files


@pytest.mark.parametrize(
    "script, count", [(s, n) for s in (STANDALONE, DISTRIBUTE) for n in (0, 2, 5)] + [(EVAL, 1), (EVAL, 3)]
)
def test_wrong_number_of_arguments(bench, script, count):
    result = bench.run(script, *["x"] * count)
    assert_refused(bench, result, f"error: got {count} arguments, expected ", bench.files())
    assert f"Usage: bash {script}" in result.stderr
    assert bench.run(script, "--help").stdout.startswith(f"Usage: bash {script}")


@pytest.mark.parametrize("script", [STANDALONE, DISTRIBUTE])
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["resnet50", *DATA[1:]], "error: NET=resnet50 is not one of: darknet53"),
        (["darknet53", "cifar10", "image net"], "error: DATASET=cifar10 is not one of: imagenet2012"),
        ([*DATA[:2], "no such"], "error: DATASET_PATH={caller}/no such is not a directory"),
        ([*DATA[:2], "image net/val"], "error: DATASET_PATH={caller}/image net/val has no folder train"),
        ([*DATA, "no.ckpt"], "error: PRETRAINED_CKPT_PATH={caller}/no.ckpt is not a file"),
        ([*DATA, "image net"], "error: PRETRAINED_CKPT_PATH={caller}/image net is not a file"),
    ],
)
def test_invalid_training(bench, script, arguments, message):
    assert_refused(bench, bench.run(script, *arguments), message.format(caller=bench.caller), bench.files())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["no such", "best weights.ckpt"], "error: DATASET_PATH={caller}/no such is not a directory"),
        (["image net/train", "best weights.ckpt"], "error: DATASET_PATH={caller}/image net/train has no folder val"),
        (["image net", "no.ckpt"], "error: CHECKPOINT_PATH={caller}/no.ckpt is not a file"),
    ],
)
def test_invalid_evaluation(bench, arguments, message):
    assert_refused(bench, bench.run(EVAL, *arguments), message.format(caller=bench.caller), bench.files())


@pytest.mark.parametrize("script, name, value", [(STANDALONE, "DEVICE_ID", "x"), (DISTRIBUTE, "DEVICE_NUM", "0")])
def test_invalid_environment(bench, script, name, value):
    message = f"error: {name}={value} is not an integer"
    assert_refused(bench, bench.run(script, *DATA, **{name: value}), message, bench.files())


@pytest.mark.parametrize("script, folder", [(STANDALONE, "train"), (DISTRIBUTE, "train_parallel")])
def test_inputs_in_the_run_folder_are_refused(bench, script, folder):
    """They would be renamed with it."""
    (bench.caller / folder).mkdir()
    (bench.caller / folder / "a.ckpt").touch()
    result = bench.run(script, *DATA, f"image net/../{folder}/a.ckpt")
    assert_refused(bench, result, f"{folder}/a.ckpt is in the run folder", bench.files())
    if script == STANDALONE:
        result = bench.run(script, *DATA[:2], ".")
        assert_refused(bench, result, f"{bench.caller}/./train is in the run folder", bench.files())


def test_every_launcher_is_tested():
    assert sorted([*CALLS, *INFERENCE, "common.sh"]) == sorted(path.name for path in SCRIPTS.iterdir())
