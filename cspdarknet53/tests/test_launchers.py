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
STANDALONE, DISTRIBUTE, EVAL = "run_standalone_train.sh", "run_distribute_train.sh", "run_eval.sh"
TABLE, DATA, CHECKPOINT = "rank table.json", "image net", "best weights.ckpt"
CALLS = {STANDALONE: ["3", DATA], DISTRIBUTE: [TABLE, DATA], EVAL: ["3", DATA, CHECKPOINT]}
# Those of the inference; tests/test_cpp_infer.py of the repository tests them.
INFERENCE = ["infer_common.sh", "run_infer_310.sh", "run_infer_cpu.sh"]
FOLDERS = ["image net/n01440764"]
ASCEND = "HCCL_CONNECT_TIMEOUT DEPLOY_MODE GE_USE_STATIC_MEMORY"


class Bench:
    """A model folder, a caller's folder with data and a rank table of two devices, and stand-ins that come first on PATH."""

    def __init__(self, root: Path):
        self.model, self.caller, self.notes = root / "my model", root / "some where", root / "notes"
        for folder in (self.model, root / "bin", self.notes, *(self.caller / name for name in FOLDERS)):
            folder.mkdir(parents=True)
        shutil.copytree(SCRIPTS, self.model / "scripts")
        for name in ("python", "msrun", "mpirun", "taskset"):
            path = root / "bin" / name
            path.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-S", str(STAND_IN), name])} "$@"\n')
            path.chmod(0o755)
        (self.caller / CHECKPOINT).touch()
        devices = [{"device_id": "4", "rank_id": "1"}, {"device_id": "5", "rank_id": "0"}]
        (self.caller / TABLE).write_text(json.dumps({"server_list": [{"device": devices}]}))
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


def training(bench: Bench, distributed: str, folder: str, checkpoint: list[str], run_dir: str) -> list[str]:
    return [
        *["train.py", f"--is_distributed={distributed}", f"--data_dir={bench.caller}/{DATA}"],
        f"--ckpt_path={bench.caller}/{folder}/checkpoint",
        *([f"--pretrained={bench.caller}/{CHECKPOINT}"] if checkpoint else []),
        *["--run_dir", f"{bench.caller}/{run_dir}"],
    ]


# ---- Command lines, environment, folders -----------------------------------------------------------------------------

STALE = {"DEVICE_ID": "6", "RANK_ID": "6", "RANK_SIZE": "8", "DEVICE_NUM": "8", "RANK_TABLE_FILE": "old.json"}
SINGLE = "DEVICE_ID RANK_ID RANK_SIZE DEVICE_NUM RANK_TABLE_FILE"


@pytest.mark.parametrize("checkpoint", [[], [f"./{CHECKPOINT}"], [f"{{caller}}/{CHECKPOINT}"]])
def test_standalone_training(bench, checkpoint):
    words = [word.format(caller=bench.caller) for word in checkpoint]
    result = bench.run(STANDALONE, "3", f"./{DATA}", *words, STAND_IN_TEXT="text", **STALE)
    assert (result.returncode, result.stderr) == (0, "")
    job = bench.record()
    assert job["argv"] == training(bench, "0", "train", checkpoint, "train")
    assert job["cwd"] == str(bench.model) and values(job, SINGLE) == ["3", "0", "1", "1", None]
    assert (bench.caller / "train/log.txt").read_text() == "text\ntext on stderr\n"
    assert "DEVICE_ID=3\n" in (bench.caller / "train/env.log").read_text()
    assert os.readlink(bench.caller / "log.txt") == "train/log.txt"


@pytest.mark.parametrize("kind", ["file", "link", "broken link"])
def test_link_of_standalone_training_replaces_what_was_there(bench, kind):
    link = bench.caller / "log.txt"
    link.write_text("mine") if kind == "file" else link.symlink_to(DATA if kind == "link" else "no such")
    for text in ("first", "second"):
        assert bench.run(STANDALONE, "0", DATA, STAND_IN_TEXT=text).returncode == 0
        assert link.is_symlink() and link.read_text() == f"{text}\ntext on stderr\n"
    kept = [path.read_text() for path in bench.caller.glob("old_*_log.txt")]
    assert kept == (["mine"] if kind == "file" else [])
    (old,) = bench.caller.glob("old_*_train")
    assert (old / "log.txt").read_text().startswith("first")


def test_evaluation(bench):
    for number, options in enumerate(([], ["--resume", "auto"], [])):
        arguments = ["03", f"./{DATA}", f"{bench.caller}/{CHECKPOINT}", *options]
        result = bench.run(EVAL, *arguments, STAND_IN_TEXT=f"run {number}", **STALE)
        assert (result.returncode, result.stderr) == (0, "")
        job, run_dir = bench.record(), bench.caller / "eval3"
        (bench.notes / f"python-{job['pid']}.json").unlink()
        assert job["argv"] == [
            *["eval.py", "--is_distributed=0", "--per_batch_size=1", f"--data_dir={bench.caller}/{DATA}"],
            *[f"--pretrained={bench.caller}/{CHECKPOINT}", "--run_dir", str(run_dir), *options],
        ]
        assert job["cwd"] == str(bench.model) and values(job, SINGLE) == ["3", "0", "1", "1", None]
        assert (run_dir / "eval.log").read_text().endswith(f"run {number}\ntext on stderr\n")
        assert os.readlink(run_dir / "log.txt") == "eval.log"
        assert "DEVICE_ID=3\n" in (run_dir / "env.log").read_text()
    (old,) = bench.caller.glob("old_*_eval3")
    assert (old / "log.txt").read_text().split("\n")[::2] == ["run 0", "run 1", ""]


@pytest.mark.parametrize("checkpoint", [[], [CHECKPOINT]])
def test_rank_table(bench, checkpoint):
    result = bench.run(DISTRIBUTE, TABLE, DATA, *checkpoint, "--lr", "0.1", STAND_IN_TEXT="text", DEPLOY_MODE="2")
    assert (result.returncode, result.stderr) == (0, "")
    names = f"DEVICE_ID RANK_ID RANK_SIZE DEVICE_NUM RANK_TABLE_FILE {ASCEND}"
    for job, rank, folder, device in zip(bench.records(), "01", ["train_parallel1", "train_parallel0"], "54"):
        expected = training(bench, "1", "train_parallel0", checkpoint, folder)
        assert job["argv"] == [*expected, "--lr", "0.1"] and job["cwd"] == str(bench.model)
        assert values(job, names) == [device, rank, "2", "2", f"{bench.caller}/{TABLE}", "600", "2", "1"]
        assert (bench.caller / folder / "log.txt").read_text() == "text\ntext on stderr\n"
        noted = (bench.caller / folder / "env.log").read_text()
        assert f"DEVICE_ID={device}\n" in noted and "DEPLOY_MODE=2\nGE_USE_STATIC_MEMORY=1\n" in noted
    assert len(bench.records()) == 2


@pytest.mark.parametrize("switch", ["0", "1"])
def test_core_binding(bench, switch):
    assert bench.run(DISTRIBUTE, TABLE, DATA, BIND_CORES=switch).returncode == 0
    enough_cores = len(os.sched_getaffinity(0)) >= 2
    assert len(bench.records("taskset")) == (2 if switch == "1" and enough_cores else 0)


@pytest.mark.parametrize("checkpoint", [[], [CHECKPOINT]])
@pytest.mark.parametrize("table", [[], [TABLE]])
@pytest.mark.parametrize("target", ["CPU", "GPU"])
def test_distributed_training_through_msrun(bench, target, table, checkpoint):
    environment = {} if table else {"DEVICE_NUM": "3"}
    options = ["--device_target", target]
    result = bench.run(DISTRIBUTE, *table, DATA, *checkpoint, *options, STAND_IN_TEXT="text", **environment)
    assert (result.returncode, result.stderr) == (0, "")
    job, number = bench.record("msrun"), "2" if table else "3"
    expected = training(bench, "1", "train_parallel0", checkpoint, "train_parallel0")
    assert of_msrun(job) == (number, [*expected, *options])
    assert job["cwd"] == str(bench.model)
    assert values(job, f"DEVICE_NUM RANK_TABLE_FILE {ASCEND}") == [number, None, "600", "0", "1"]
    assert (bench.caller / "train_parallel0/log.txt").read_text() == "text\ntext on stderr\n"
    assert (bench.caller / "train_parallel0/env.log").exists() and bench.records() == []


@pytest.mark.parametrize("script", [STANDALONE, EVAL])
def test_further_options_come_last(bench, script):
    options = ["--device_target=CPU", "--list_file", "two words.txt"]
    result = bench.run(script, *CALLS[script], *options[:2], "--wait", *options[2:])
    assert (result.returncode, result.stderr) == (0, "")
    assert bench.record()["argv"][-len(options) :] == options


# ---- Failures and wrong usage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", CALLS)
@pytest.mark.parametrize("options, status", [(["--wait"], 7), ([], 1)])
def test_failure(bench, script, options, status):
    """--wait returns the status of the job; without it a failure within the first seconds is reported."""
    result = bench.run(script, *CALLS[script], *options, STAND_IN_STATUS="7", STAND_IN_TEXT="last words")
    assert result.returncode == status
    assert "error: the job ended with status 7; the last lines of" in result.stderr and "last words" in result.stderr


def assert_refused(bench: Bench, script: str, arguments: list[str], message: str, **environment: str) -> str:
    files = bench.files()
    result = bench.run(script, *arguments, **environment)
    assert (result.returncode, result.stdout) == (1, "")
    assert message.format(caller=bench.caller) in result.stderr
    assert list(bench.notes.iterdir()) == [] and bench.files() == files
    return result.stderr


@pytest.mark.parametrize(
    "script, count, options",
    [
        *[(script, count, []) for script in (STANDALONE, DISTRIBUTE) for count in (1, 4)],
        *[(DISTRIBUTE, count, ["--device_target", "CPU"]) for count in (0, 4)],
        *[(EVAL, count, []) for count in (2, 4)],
    ],
)
def test_wrong_number_of_arguments(bench, script, count, options):
    errors = assert_refused(bench, script, ["x"] * count + options, f"error: got {count} arguments, expected ")
    assert f"Usage: bash {script}" in errors
    assert bench.run(script, "--help").stdout.startswith(f"Usage: bash {script}")


CPU = ["--device_target", "CPU"]


@pytest.mark.parametrize(
    "script, arguments, message",
    [
        (STANDALONE, ["x", DATA], "error: DEVICE_ID=x is not an integer"),
        (STANDALONE, ["0", "no"], "error: DATA_DIR={caller}/no is not a directory"),
        (STANDALONE, ["0", DATA, "no"], "error: PATH_CHECKPOINT={caller}/no is not a file"),
        (EVAL, ["-1", DATA, CHECKPOINT], "error: DEVICE_ID=-1 is not an integer"),
        (EVAL, ["0", CHECKPOINT, CHECKPOINT], f"error: DATA_DIR={{caller}}/{CHECKPOINT} is not a directory"),
        (EVAL, ["0", DATA, DATA], f"error: PATH_CHECKPOINT={{caller}}/{DATA} is not a file"),
        (DISTRIBUTE, ["no", DATA], "error: RANK_TABLE_FILE={caller}/no is not a file"),
        (DISTRIBUTE, [DATA, CHECKPOINT], f"error: RANK_TABLE_FILE={{caller}}/{DATA} is not a file"),
        (DISTRIBUTE, [CHECKPOINT, DATA], f"error: RANK_TABLE_FILE={{caller}}/{CHECKPOINT} is not a rank table"),
        (DISTRIBUTE, [TABLE, "no"], "error: DATA_DIR={caller}/no is not a directory"),
        (DISTRIBUTE, [TABLE, DATA, "no"], "error: PATH_CHECKPOINT={caller}/no is not a file"),
        (DISTRIBUTE, [DATA, *CPU], "error: DEVICE_NUM= is not an integer of 1 or more"),
        (DISTRIBUTE, ["no", *CPU], "error: DATA_DIR={caller}/no is not a directory"),
        (DISTRIBUTE, [DATA, "no", *CPU], "error: PATH_CHECKPOINT={caller}/no is not a file"),
        (DISTRIBUTE, [DATA, DATA, *CPU], f"error: PATH_CHECKPOINT={{caller}}/{DATA} is not a file"),
        (DISTRIBUTE, ["no", CHECKPOINT, *CPU], "error: DATA_DIR={caller}/no is not a directory"),
        (DISTRIBUTE, ["no", DATA, *CPU], "error: RANK_TABLE_FILE={caller}/no is not a file"),
        (DISTRIBUTE, [TABLE, "no", *CPU], "error: DATA_DIR={caller}/no is not a directory"),
        (DISTRIBUTE, [DATA, DATA, CHECKPOINT, *CPU], f"error: RANK_TABLE_FILE={{caller}}/{DATA} is not a file"),
    ],
)
def test_invalid_argument(bench, script, arguments, message):
    assert_refused(bench, script, arguments, message)


def test_invalid_environment(bench):
    assert_refused(bench, DISTRIBUTE, [DATA, *CPU], "error: DEVICE_NUM=0 is not an integer", DEVICE_NUM="0")


@pytest.mark.parametrize("script, folder", [(STANDALONE, "train"), (DISTRIBUTE, "train_parallel12")])
def test_inputs_in_the_run_folder_are_refused(bench, script, folder):
    """They would be renamed with it."""
    (bench.caller / folder).mkdir()
    (bench.caller / folder / "a.ckpt").touch()
    assert_refused(bench, script, [*CALLS[script], f"{DATA}/../{folder}/a.ckpt"], "a.ckpt is in ")
    if script == STANDALONE:
        assert_refused(bench, script, ["0", "train"], "error: {caller}/train is in the run folder")


def test_every_launcher_is_tested():
    assert sorted([*CALLS, *INFERENCE, "common.sh"]) == sorted(path.name for path in SCRIPTS.iterdir())
