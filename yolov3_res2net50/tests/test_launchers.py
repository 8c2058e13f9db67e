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
STANDALONE_GPU, DISTRIBUTE_GPU = "run_standalone_train_gpu.sh", "run_distribute_train_gpu.sh"
EVAL_GPU = "run_eval_gpu.sh"
ONE_DEVICE, EVALUATIONS = [STANDALONE, STANDALONE_GPU], [EVAL, EVAL_GPU]
TABLE, DATA, BACKBONE, CHECKPOINT = "rank table.json", "coco 2017", "back bone.ckpt", "best weights.ckpt"
CALLS = {
    STANDALONE: [DATA, BACKBONE],
    STANDALONE_GPU: [DATA, BACKBONE],
    DISTRIBUTE: [DATA, BACKBONE, TABLE],
    DISTRIBUTE_GPU: [DATA, BACKBONE],
    EVAL: [DATA, CHECKPOINT],
    EVAL_GPU: [DATA, CHECKPOINT],
}
# Those of the inference; tests/test_cpp_infer.py of the repository tests them.
INFERENCE = ["infer_common.sh", "run_infer_310.sh", "run_infer_cpu.sh"]
CPU, GPU = ["--device_target", "CPU"], ["--device_target", "GPU"]


class Bench:
    """A model folder, a caller's folder with data and a rank table of two devices, and stand-ins that come first on PATH."""

    def __init__(self, root: Path):
        self.model, self.caller, self.notes = root / "my model", root / "some where", root / "notes"
        for folder in (self.model, root / "bin", self.notes, self.caller / DATA / "train2017"):
            folder.mkdir(parents=True)
        shutil.copytree(SCRIPTS, self.model / "scripts")
        for name in ("python", "msrun", "mpirun", "taskset"):
            path = root / "bin" / name
            path.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-S", str(STAND_IN), name])} "$@"\n')
            path.chmod(0o755)
        for name in (BACKBONE, CHECKPOINT):
            (self.caller / name).touch()
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

    def succeed(self, script: str, *arguments: str, **environment: str) -> None:
        """Run a launcher whose stand-ins print "text"."""
        result = self.run(script, *arguments, **{"STAND_IN_TEXT": "text", **environment})
        assert (result.returncode, result.stderr) == (0, "")

    def records(self, name: str = "python") -> list[dict]:
        found = [json.loads(path.read_text()) for path in self.notes.glob(f"{name}-*.json")]
        return sorted(found, key=lambda entry: int(entry["env"].get("RANK_ID", 0)))

    def record(self, name: str = "python") -> dict:
        (entry,) = self.records(name)
        assert entry["cwd"] == str(self.model)
        return entry

    def forget(self) -> None:
        for path in self.notes.iterdir():
            path.unlink()

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


def training(bench: Bench, script: str, folder: str, run_dir: str = "", backbone: bool = True) -> list[str]:
    """The documented command of a training, with the checkpoints in `folder`."""
    gpu = script in (STANDALONE_GPU, DISTRIBUTE_GPU)
    distributed = int(script in (DISTRIBUTE, DISTRIBUTE_GPU))
    return [
        *["train.py", *(["--device_target=GPU"] if gpu else []), f"--is_distributed={distributed}"],
        *["--lr=0.001", "--loss_scale=1024", "--weight_decay=0.016"],
        *["--T_max=320", "--max_epoch=320", "--warmup_epochs=4", *(["--training_shape=416"] if gpu else [])],
        *["--lr_scheduler=cosine_annealing", f"--data_dir={bench.caller}/{DATA}"],
        f"--ckpt_path={bench.caller}/{folder}/outputs",
        *([f"--pretrained_backbone={bench.caller}/{BACKBONE}"] if backbone else []),
        *["--run_dir", f"{bench.caller}/{run_dir or folder}"],
    ]


def evaluation(bench: Bench, script: str) -> list[str]:
    return [
        *["eval.py", *(["--device_target=GPU"] if script == EVAL_GPU else []), "--is_distributed=0"],
        *["--testing_shape=416", f"--data_dir={bench.caller}/{DATA}", f"--pretrained={bench.caller}/{CHECKPOINT}"],
        *["--run_dir", f"{bench.caller}/eval"],
    ]


def assert_logs(bench: Bench, folder: str, *noted: str) -> None:
    assert (bench.caller / folder / "log.txt").read_text() == "text\ntext on stderr\n"
    environment = (bench.caller / folder / "env.log").read_text().splitlines()
    assert [line for line in noted if line not in environment] == []


# ---- One process -----------------------------------------------------------------------------------------------------

STALE = {"RANK_ID": "6", "RANK_SIZE": "8", "DEVICE_NUM": "8", "RANK_TABLE_FILE": "old.json"}
SINGLE = "DEVICE_ID RANK_ID RANK_SIZE DEVICE_NUM RANK_TABLE_FILE"


@pytest.mark.parametrize("script", ONE_DEVICE)
@pytest.mark.parametrize("backbone", [[], [f"./{BACKBONE}"], [f"{{caller}}/{BACKBONE}"]])
def test_standalone_training(bench, script, backbone):
    words = [word.format(caller=bench.caller) for word in backbone]
    bench.succeed(script, f"./{DATA}", *words, **STALE)
    job = bench.record()
    assert job["argv"] == training(bench, script, "train", backbone=bool(backbone))
    assert values(job, SINGLE) == ["0", "0", "1", "1", None]
    assert_logs(bench, "train", "DEVICE_ID=0", "RANK_SIZE=1")


@pytest.mark.parametrize("script", EVALUATIONS)
def test_evaluation(bench, script):
    bench.succeed(script, f"./{DATA}", f"{bench.caller}/{CHECKPOINT}", **STALE)
    job = bench.record()
    assert job["argv"] == evaluation(bench, script)
    assert values(job, SINGLE) == ["0", "0", "1", "1", None]
    assert_logs(bench, "eval", "DEVICE_ID=0", "RANK_SIZE=1")


@pytest.mark.parametrize("script", [*ONE_DEVICE, *EVALUATIONS])
def test_device_of_the_environment(bench, script):
    bench.succeed(script, *CALLS[script], DEVICE_ID="03")
    assert values(bench.record(), "DEVICE_ID RANK_ID") == ["3", "0"]


# ---- Several processes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", [[], [BACKBONE]])
def test_rank_table(bench, backbone):
    bench.succeed(DISTRIBUTE, DATA, *backbone, TABLE, "--device_num", "2", "--lr", "0.1", DEVICE_NUM="8")
    for job, rank, folder, device in zip(bench.records(), "01", ["train_parallel1", "train_parallel0"], "54"):
        expected = training(bench, DISTRIBUTE, "train_parallel0", folder, bool(backbone))
        assert job["argv"] == [*expected, "--device_num", "2", "--lr", "0.1"]
        assert job["cwd"] == str(bench.model)
        names = "DEVICE_ID RANK_ID RANK_SIZE DEVICE_NUM RANK_TABLE_FILE"
        assert values(job, names) == [device, rank, "2", "2", f"{bench.caller}/{TABLE}"]
        assert_logs(bench, folder, f"DEVICE_ID={device}", f"RANK_ID={rank}")
    assert len(bench.records()) == 2


@pytest.mark.parametrize(
    "options, environment, binds",
    [
        ([], {}, True),
        ([], {"BIND_CORES": "0"}, False),
        (["--bind_cpu", "False"], {}, False),
        (["--bind_cpu=0"], {"BIND_CORES": "1"}, False),
        (["--no-bind_cpu"], {}, False),
        (["--bind_cpu", "True"], {"BIND_CORES": "0"}, True),
        (["--bind_cpu", "False", "--bind_cpu", "true"], {}, True),
    ],
)
def test_core_binding(bench, options, environment, binds):
    bench.succeed(DISTRIBUTE, DATA, TABLE, *options, **environment)
    enough_cores = len(os.sched_getaffinity(0)) >= 2
    assert len(bench.records("taskset")) == (2 if binds and enough_cores else 0)
    assert all(job["argv"][-len(options) :] == options for job in bench.records() if options)


@pytest.mark.parametrize("backbone", [[], [BACKBONE]])
@pytest.mark.parametrize("target", [CPU, GPU])
@pytest.mark.parametrize(
    "table, options, environment, number",
    [
        ([], [], {"DEVICE_NUM": "3"}, "3"),
        ([], ["--device_num=3"], {"DEVICE_NUM": "4"}, "3"),
        ([TABLE], [], {"DEVICE_NUM": "4"}, "2"),
        ([TABLE], ["--device_num", "02"], {}, "2"),
    ],
)
def test_distributed_training_through_msrun(bench, target, backbone, table, options, environment, number):
    (bench.caller / "train_parallel1").mkdir()
    bench.succeed(DISTRIBUTE, DATA, *backbone, *table, *target, *options, **environment)
    job = bench.record("msrun")
    expected = training(bench, DISTRIBUTE, "train_parallel0", backbone=bool(backbone))
    assert of_msrun(job) == (number, [*expected, *target, *options])
    assert values(job, "RANK_SIZE DEVICE_NUM DEVICE_ID RANK_TABLE_FILE") == [number, number, None, None]
    assert_logs(bench, "train_parallel0", f"DEVICE_NUM={number}")
    assert bench.records() == [] and not (bench.caller / "train_parallel1").exists()


@pytest.mark.parametrize("backbone", [[], [f"./{BACKBONE}"]])
@pytest.mark.parametrize(
    "options, environment, number",
    [
        ([], {}, "8"),
        ([], {"DEVICE_NUM": "2"}, "2"),
        (["--device_num", "3", *CPU], {"DEVICE_NUM": "2"}, "3"),
    ],
)
def test_distributed_training_on_gpus(bench, backbone, options, environment, number):
    bench.succeed(DISTRIBUTE_GPU, DATA, *backbone, *options, DEVICE_ID="6", **environment)
    job = bench.record("msrun")
    expected = training(bench, DISTRIBUTE_GPU, "train_parallel", backbone=bool(backbone))
    assert of_msrun(job) == (number, [*expected, *options])
    assert values(job, "RANK_SIZE DEVICE_NUM DEVICE_ID") == [number, number, None]
    assert_logs(bench, "train_parallel", f"DEVICE_NUM={number}")


def test_distributed_training_through_mpirun(bench):
    bench.succeed(DISTRIBUTE_GPU, *CALLS[DISTRIBUTE_GPU], LAUNCHER="mpirun", DEVICE_NUM="2")
    argv = bench.record("mpirun")["argv"]
    log_output = f"{bench.caller}/train_parallel/log_output"
    words = argv[argv.index("-n") :]
    assert words[:6] == ["-n", "2", "--bind-to", "none", "bash", "-c"]
    assert words[7] == log_output and words[8].endswith("/bin/python")
    assert words[9:] == training(bench, DISTRIBUTE_GPU, "train_parallel")
    assert ("--allow-run-as-root" in argv) == (os.getuid() == 0)


@pytest.mark.parametrize("script, call", [(DISTRIBUTE, [DATA, BACKBONE, *CPU]), (DISTRIBUTE_GPU, [DATA, BACKBONE])])
def test_one_process_needs_no_msrun(bench, script, call):
    bench.succeed(script, *call, DEVICE_NUM="1", DEVICE_ID="6")
    folder = "train_parallel0" if script == DISTRIBUTE else "train_parallel"
    assert bench.record()["argv"] == [*training(bench, script, folder), *call[2:]]
    assert values(bench.record(), "DEVICE_ID RANK_ID RANK_SIZE") == ["0", "0", "1"]


@pytest.mark.parametrize("script, call", [(DISTRIBUTE, [DATA, *CPU]), (DISTRIBUTE_GPU, [DATA, *CPU])])
def test_ranks_of_msrun(bench, script, call):
    """All of them run the same command in the same run folder."""
    bench.succeed(script, *call, "--wait", DEVICE_NUM="2", STAND_IN_RANKS="1")
    folder = "train_parallel0" if script == DISTRIBUTE else "train_parallel"
    expected = [*training(bench, script, folder, backbone=False), *CPU]
    assert [job["argv"] for job in bench.records()] == [expected, expected]
    assert [values(job, "RANK_ID RANK_SIZE") for job in bench.records()] == [["0", "2"], ["1", "2"]]


# ---- Options, run folders, resume ------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", CALLS)
def test_further_options_come_last(bench, script):
    options = ["--device_target=CPU", "--lr", "0.1", "--note", "two words"]
    bench.succeed(script, *CALLS[script], *options[:3], "--wait", *options[3:], DEVICE_NUM="2")
    several = script in (DISTRIBUTE, DISTRIBUTE_GPU)
    assert bench.record("msrun" if several else "python")["argv"][-len(options) :] == options


@pytest.mark.parametrize("script", CALLS)
def test_paths_of_another_directory(bench, script, tmp_path):
    """Absolute paths with blanks, and run folders where the launcher is called."""
    call = [str(bench.caller / word) for word in CALLS[script]]
    bench.caller = tmp_path / "else where"
    bench.caller.mkdir()
    bench.succeed(script, *call, "--wait", DEVICE_NUM="2")
    logs = [path.relative_to(bench.caller).as_posix() for path in bench.caller.glob("*/log.txt")]
    numbered = ["train_parallel0/log.txt", "train_parallel1/log.txt"]
    single = {DISTRIBUTE_GPU: "train_parallel/log.txt", EVAL: "eval/log.txt", EVAL_GPU: "eval/log.txt"}
    assert sorted(logs) == (numbered if script == DISTRIBUTE else [single.get(script, "train/log.txt")])


@pytest.mark.parametrize("script, folder", [*((s, "train") for s in ONE_DEVICE), (DISTRIBUTE_GPU, "train_parallel")])
def test_resumed_run_finds_its_checkpoints(bench, script, folder):
    """With --resume the run folder stays, and with it the checkpoints below --ckpt_path; a new run renames it."""
    bench.succeed(script, *CALLS[script], DEVICE_NUM="2")
    checkpoint = Path(folder, "outputs/2026-01-02_time_03_04_05/ckpt_0/0-1_2.ckpt")
    (bench.caller / checkpoint).parent.mkdir(parents=True)
    (bench.caller / checkpoint).touch()
    bench.succeed(script, *CALLS[script], "--resume", "auto", DEVICE_NUM="2")
    assert (bench.caller / checkpoint).exists()
    assert (bench.caller / folder / "log.txt").read_text() == "text\ntext on stderr\n" * 2
    bench.succeed(script, *CALLS[script], DEVICE_NUM="2")
    (old,) = bench.caller.glob(f"old_*_{folder}")
    assert (old / checkpoint.relative_to(folder)).exists() and not (bench.caller / checkpoint).exists()


@pytest.mark.parametrize("call", [[DATA, TABLE], [DATA, *CPU, "--device_num", "2"]])
def test_resumed_ranks_find_their_checkpoints(bench, call):
    bench.succeed(DISTRIBUTE, *call)
    checkpoint = bench.caller / "train_parallel0/outputs/time/ckpt_0/0-1_2.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    bench.forget()
    bench.succeed(DISTRIBUTE, *call, "--resume=auto")
    jobs = bench.records() or bench.records("msrun")
    assert checkpoint.exists() and all(f"--ckpt_path={checkpoint.parents[2]}" in job["argv"] for job in jobs)
    bench.succeed(DISTRIBUTE, *call)
    assert not checkpoint.exists() and len(list(bench.caller.glob("old_*_train_parallel0"))) == 1


# ---- Failures and wrong usage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", CALLS)
@pytest.mark.parametrize("options, status", [(["--wait"], 7), ([], 1)])
def test_failure(bench, script, options, status):
    """--wait returns the status of the job; without it a failure within the first seconds is reported."""
    result = bench.run(script, *CALLS[script], *options, STAND_IN_STATUS="7", STAND_IN_TEXT="last words")
    assert result.returncode == status
    assert "error: the job ended with status 7; the last lines of" in result.stderr and "last words" in result.stderr


def test_rank_that_dies_ends_the_others(bench):
    """The stand-in of the other rank would run for 20 seconds."""
    environment = {"STAND_IN_RANK": "1", "STAND_IN_STATUS": "3", "STAND_IN_TEXT": "last words"}
    result = bench.run(DISTRIBUTE, *CALLS[DISTRIBUTE], "--wait", **environment)
    assert result.returncode == 3
    log = f"{bench.caller}/train_parallel0/log.txt"
    assert f"rank 1 (device 4) ended with status 3; its log: {log}" in result.stderr and "last words" in result.stderr


@pytest.mark.parametrize("script", [STANDALONE, EVAL_GPU])
def test_running_job_stays_in_the_background(bench, script):
    environment = {"STAND_IN_SECONDS": "1.5", "LAUNCH_CHECK_SECONDS": "0"}
    result = bench.run(script, *CALLS[script], **environment)
    folder = "train" if script == STANDALONE else "eval"
    assert result.returncode == 0 and f", log {bench.caller}/{folder}/log.txt\n" in result.stdout
    assert "the job has finished" not in result.stdout


def assert_refused(bench: Bench, script: str, arguments: list[str], message: str, **environment: str) -> str:
    """The launcher ends with status 1 and the message, starts nothing and writes nothing."""
    files = bench.files()
    result = bench.run(script, *arguments, **environment)
    assert (result.returncode, result.stdout) == (1, "")
    assert message.format(caller=bench.caller) in result.stderr
    assert list(bench.notes.iterdir()) == [] and bench.files() == files
    return result.stderr


@pytest.mark.parametrize(
    "script, count, options",
    [
        *[(script, count, []) for script in (*ONE_DEVICE, DISTRIBUTE_GPU) for count in (0, 3)],
        *[(script, count, []) for script in EVALUATIONS for count in (0, 1, 3)],
        *[(DISTRIBUTE, count, []) for count in (0, 1, 4)],
        *[(DISTRIBUTE, count, CPU) for count in (0, 4)],
    ],
)
def test_wrong_number_of_arguments(bench, script, count, options):
    errors = assert_refused(bench, script, ["x"] * count + options, f"error: got {count} arguments, expected ")
    assert f"Usage: bash {script}" in errors
    assert bench.run(script, "--help").stdout.startswith(f"Usage: bash {script}")


NO_DIRECTORY, NO_FILE = "={caller}/no such is not a directory", "={caller}/no such is not a file"
DATA_IS_NO_FILE = f"={{caller}}/{DATA} is not a file"


@pytest.mark.parametrize(
    "script, arguments, message",
    [
        *[(script, ["no such", *CALLS[script][1:]], f"error: DATASET_PATH{NO_DIRECTORY}") for script in CALLS],
        *[(script, [DATA, "no such"], f"error: PRETRAINED_BACKBONE{NO_FILE}") for script in ONE_DEVICE],
        *[(script, [DATA, ""], "error: PRETRAINED_BACKBONE= is not a file") for script in ONE_DEVICE],
        (DISTRIBUTE_GPU, [DATA, DATA], f"error: PRETRAINED_BACKBONE{DATA_IS_NO_FILE}"),
        *[(script, [DATA, "no such"], f"error: CHECKPOINT_PATH{NO_FILE}") for script in EVALUATIONS],
        *[(script, [CHECKPOINT, DATA], f"error: DATASET_PATH={{caller}}/{CHECKPOINT} is") for script in EVALUATIONS],
        (DISTRIBUTE, [DATA, "no such", TABLE], f"error: PRETRAINED_BACKBONE{NO_FILE}"),
        (DISTRIBUTE, [DATA, BACKBONE, "no such"], f"error: RANK_TABLE_FILE{NO_FILE}"),
        (DISTRIBUTE, [DATA, "no such"], f"error: RANK_TABLE_FILE{NO_FILE}"),
        (DISTRIBUTE, [DATA, BACKBONE], f"error: RANK_TABLE_FILE={{caller}}/{BACKBONE} is not a rank table"),
        (DISTRIBUTE, [DATA, "no such", *CPU], f"error: PRETRAINED_BACKBONE{NO_FILE}"),
        (DISTRIBUTE, [DATA, "no.json", *CPU], "error: RANK_TABLE_FILE={caller}/no.json is not a file"),
        (DISTRIBUTE, [DATA, BACKBONE, DATA, *CPU], f"error: RANK_TABLE_FILE{DATA_IS_NO_FILE}"),
        (DISTRIBUTE, [DATA, BACKBONE, *CPU], "error: set DEVICE_NUM to the number of processes, or give a rank table"),
        (DISTRIBUTE, [DATA, *CPU, "--device_num", "0"], "error: DEVICE_NUM=0 is not an integer of 1 or more"),
        (DISTRIBUTE, [DATA, TABLE, "--device_num", "8"], f"--device_num 8, but {{caller}}/{TABLE} lists 2 devices"),
        (DISTRIBUTE_GPU, [DATA, "--device_num=x"], "error: DEVICE_NUM=x is not an integer of 1 or more"),
    ],
)
def test_invalid_argument(bench, script, arguments, message):
    assert_refused(bench, script, arguments, message)


@pytest.mark.parametrize("script", [*ONE_DEVICE, *EVALUATIONS])
def test_invalid_device(bench, script):
    assert_refused(bench, script, CALLS[script], "error: DEVICE_ID=x is not an integer", DEVICE_ID="x")


@pytest.mark.parametrize("script, call", [(DISTRIBUTE, [DATA, *CPU]), (DISTRIBUTE_GPU, [DATA])])
def test_invalid_number_of_devices(bench, script, call):
    assert_refused(bench, script, call, "error: DEVICE_NUM=0 is not an integer of 1 or more", DEVICE_NUM="0")


@pytest.mark.parametrize(
    "script, folder",
    [
        *[(script, "train") for script in ONE_DEVICE],
        *[(script, "eval") for script in EVALUATIONS],
        (DISTRIBUTE, "train_parallel12"),
        (DISTRIBUTE_GPU, "train_parallel"),
    ],
)
def test_inputs_in_the_run_folder_are_refused(bench, script, folder):
    """They would be renamed with it."""
    run_dir = bench.caller / folder
    (run_dir / DATA).mkdir(parents=True)
    (run_dir / "a.ckpt").touch()
    call = CALLS[script]
    assert_refused(bench, script, [DATA, f"{DATA}/../{folder}/a.ckpt", *call[2:]], "a.ckpt is in ")
    assert_refused(bench, script, [f"{folder}/{DATA}", *call[1:]], f"error: {{caller}}/{folder}/{DATA} is in ")
    if script not in EVALUATIONS:
        for path in (f"{run_dir}/a.ckpt", f"../{bench.caller.name}/{folder}/a.ckpt"):
            assert_refused(bench, script, [*call, "--resume_yolov3", path], "a.ckpt is in ")
    if script == DISTRIBUTE:
        shutil.copy(bench.caller / TABLE, run_dir)
        assert_refused(bench, script, [*call[:2], f"{folder}/{TABLE}"], f"{TABLE} is in ")


@pytest.mark.parametrize("script", ONE_DEVICE)
def test_images_in_the_run_folder_are_refused(bench, script):
    """The folder train of a data set, when the launcher is called there; unless the images lie elsewhere."""
    (bench.caller / "train").mkdir()
    assert_refused(bench, script, ["."], "error: {caller}/./train is in the run folder {caller}/train")
    bench.succeed(script, ".", "--train_img_dir", str(bench.caller / DATA))
    (bench.caller / "train2017").mkdir()
    bench.succeed(script, ".")
    assert len(list(bench.caller.glob("old_*_train"))) == 2


# ---- The scripts themselves ------------------------------------------------------------------------------------------


def test_every_launcher_is_tested():
    assert sorted([*CALLS, *INFERENCE, "common.sh"]) == sorted(path.name for path in SCRIPTS.iterdir())
