"""The launchers of scripts/, run with recording stand-ins for python, msrun, mpirun and taskset.

The scripts are copied to a temporary model folder whose name has a blank, so that no run folder is made in the project.
The documents call them with sh, so what matters is run by dash, by bash, and by a bash that is called sh.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
STAND_IN = Path(__file__).resolve().with_name("stand_in.py")
TRAIN, DISTRIBUTED, EVAL = "train_1p_gpu.sh", "train_distributed_gpu.sh", "eval.sh"
LAUNCHERS = [TRAIN, DISTRIBUTED, EVAL]
# Those of the inference; tests/test_cpp_infer.py of the repository tests them.
INFERENCE = ["infer_common.sh", "run_infer_310.sh", "run_infer_cpu.sh"]
SHELLS = ["dash", "bash", "bash as sh"]
DATA, CHECKPOINT = "image net", "best weights.ckpt"
FLAGS = ["--GPU", "--dataset_sink"]


class Bench:
    """A model folder, a caller's folder with data, and stand-ins that come first on PATH."""

    def __init__(self, root: Path):
        self.root, self.model, self.caller, self.notes = root, root / "my model", root / "some where", root / "notes"
        folders = [self.caller / DATA / "train", self.caller / DATA / "val"]
        for folder in (self.model, root / "bin", root / "shell", self.notes, *folders):
            folder.mkdir(parents=True)
        shutil.copytree(SCRIPTS, self.model / "scripts")
        for name in ("python", "msrun", "mpirun", "taskset"):
            path = root / "bin" / name
            path.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-S", str(STAND_IN), name])} "$@"\n')
            path.chmod(0o755)
        (self.caller / CHECKPOINT).touch()
        (root / "shell/sh").symlink_to(shutil.which("bash"))
        self.shell = shutil.which("sh")
        self.environment = {
            "PATH": f"{root / 'bin'}:{os.defpath}",
            "STAND_IN_DIR": str(self.notes),
            "LAUNCH_CHECK_SECONDS": "10",
            "LAUNCH_KILL_SECONDS": "1",
        }
        self.use(DATA, CHECKPOINT)

    def use(self, data: str | Path, checkpoint: str | Path) -> None:
        self.environment.update(DATA_PATH=str(data), CKPT=str(checkpoint))

    def use_shell(self, name: str) -> None:
        self.shell = str(self.root / "shell/sh") if name == "bash as sh" else shutil.which(name)
        if self.shell is None:
            pytest.skip(f"there is no {name}")

    def start(self, script: str, *arguments: str, place: Path | None = None, **environment: str) -> subprocess.Popen:
        """Starts a launcher with what it cannot do without, in the caller's folder or in `place`."""
        number = ["-n", "2"] if script == DISTRIBUTED and "-n" not in arguments else []
        inside = place is not None and (place / script).exists()
        return subprocess.Popen(
            [self.shell, script if inside else str(self.model / "scripts" / script), *number, *arguments],
            cwd=place or self.caller,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def run(self, script: str, *arguments: str, **details) -> subprocess.CompletedProcess:
        process = self.start(script, *arguments, **details)
        output, errors = process.communicate(timeout=30)
        return subprocess.CompletedProcess(script, process.returncode, output, errors)

    def records(self, name: str = "python") -> list[dict]:
        return [json.loads(path.read_text()) for path in self.notes.glob(f"{name}-*.json")]

    def record(self, script: str = TRAIN, name: str = "") -> dict:
        """What the stand-in noted that the launcher has started; "argv" without the words of msrun."""
        (entry,) = self.records(name or ("msrun" if script == DISTRIBUTED else "python"))
        entry["words"] = entry["argv"]
        program = "eval.py" if script == EVAL else "train.py"
        entry["argv"] = entry["words"][entry["words"].index(program) :]
        return entry

    def files(self) -> list[str]:
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*"))


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


@pytest.fixture(params=SHELLS)
def shell_bench(bench, request):
    bench.use_shell(request.param)
    return bench


def values(job: dict, names: str) -> list[str | None]:
    return [job["env"].get(name) for name in names.split()]


def run_folder(script: str, place: Path) -> Path:
    """The only run folder of a launcher in `place`."""
    if script == EVAL:
        (folder,) = place.glob("device0_*")
        assert re.fullmatch(r"device0_\d{8}-\d{6}", folder.name)
        return folder
    return place / ("device_0" if script == TRAIN else "device_parallel")


def expected_job(bench: Bench, script: str, run_dir: Path, flags: list[str] = FLAGS) -> list[str]:
    """The documented command: DATA_PATH and CKPT from the environment, the rest left to the defaults."""
    data, checkpoint = f"--data_path={bench.caller}/{DATA}", f"--ckpt={bench.caller}/{CHECKPOINT}"
    if script == EVAL:
        return ["eval.py", data, "--model=tinynet_c", checkpoint, *flags, "--run_dir", str(run_dir)]
    return [
        *["train.py", data, "--model=tinynet_c", f"--ckpt_save_dir={run_dir}", *flags, checkpoint],
        *(["--distributed"] if script == DISTRIBUTED else []),
        *["--run_dir", str(run_dir)],
    ]


# ---- Command lines, environment, folders -----------------------------------------------------------------------------

STALE = {"RANK_ID": "start", "RANK_SIZE": "8", "DEVICE_NUM": "8", "RANK_TABLE_FILE": "old.json", "SECRET_TOKEN": "x"}


@pytest.mark.parametrize("place", ["caller", "scripts"])
@pytest.mark.parametrize("script", LAUNCHERS)
def test_documented_call(shell_bench, script, place):
    """Without arguments; run folders are made in the model's folder when called in the folder of the launchers."""
    bench = shell_bench
    if place == "scripts":
        bench.use(f"../../some where/{DATA}", f"{bench.caller}/{CHECKPOINT}")
    folder = {"caller": bench.caller, "scripts": bench.model / "scripts"}[place]
    files = set(bench.files())
    result = bench.run(script, place=folder, STAND_IN_TEXT="text", **STALE)
    assert (result.returncode, result.stderr) == (0, "")
    run_dir = run_folder(script, bench.model if place == "scripts" else bench.caller)
    job = bench.record(script)
    expected = expected_job(bench, script, run_dir)
    assert [re.sub(r"/my model/scripts/\.\./\.\./", "/", word) for word in job["argv"]] == expected
    assert job["cwd"] == str(bench.model)
    log = run_dir / ("tinynet_c_eval.log" if script == EVAL else "tinynet_c.log")
    assert log.read_text() == "text\ntext on stderr\n" and str(log) in result.stdout
    new = {name for name in set(bench.files()) - files if not name.startswith("notes/")}
    assert new == {p.relative_to(bench.root).as_posix() for p in (run_dir, log, run_dir / "env.log")}
    noted = (run_dir / "env.log").read_text()
    assert f"DATA_PATH={bench.environment['DATA_PATH']}\n" in noted and "TOKEN" not in noted
    if script == DISTRIBUTED:
        assert job["words"][:4] == ["--worker_num", "2", "--local_worker_num", "2"]
        names = "SLOG_PRINT_TO_STDOUT RANK_SIZE DEVICE_NUM DEVICE_ID RANK_ID RANK_TABLE_FILE"
        assert values(job, names) == ["0", "2", "2", None, None, None]
        assert "SLOG_PRINT_TO_STDOUT=0\n" in noted
    else:
        assert values(job, "DEVICE_ID RANK_ID RANK_SIZE DEVICE_NUM RANK_TABLE_FILE") == ["0", "0", "1", "1", None]


def test_folder_of_the_launchers_through_a_link(bench):
    (bench.model / "script").symlink_to("scripts")
    bench.use(bench.caller / DATA, bench.caller / CHECKPOINT)
    assert bench.run(TRAIN, place=bench.model / "script").returncode == 0
    assert (bench.model / "device_0").is_dir() and not (bench.model / "scripts/device_0").exists()


@pytest.mark.parametrize("script", LAUNCHERS)
def test_variables(bench, script):
    """MODEL chooses the log's name too; EPOCHS goes to a training only; an empty variable is none."""
    checkpoint = CHECKPOINT if script == EVAL else ""
    result = bench.run(script, DATA_PATH=f"./{DATA}/", MODEL="tinynet_a", CKPT=checkpoint, EPOCHS="03")
    assert (result.returncode, result.stderr) == (0, "")
    argv, run_dir = bench.record(script)["argv"], run_folder(script, bench.caller)
    assert argv[1:3] == [f"--data_path={bench.caller}/{DATA}/", "--model=tinynet_a"]
    assert ("--epochs=3" in argv) == (script != EVAL)
    assert (f"--ckpt={bench.caller}/{CHECKPOINT}" in argv) == (script == EVAL)
    assert (run_dir / ("tinynet_a_eval.log" if script == EVAL else "tinynet_a.log")).exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--data_path", "other", "--model", "tinynet_e", "--ckpt", "o.ckpt", "--epochs", "7"],
        ["--epochs=7", "--ckpt=./o.ckpt", "--model=tinynet_e", "--data_path=./other"],
        ["--model", "tinynet_b", "--data-path", "{caller}/other", "--model=tinynet_e", "--ckpt=o.ckpt", "--epochs=7"],
    ],
)
@pytest.mark.parametrize("script", LAUNCHERS)
def test_options_win_over_variables(bench, script, arguments):
    """Both forms; the last one counts; options for the program around them keep their order and come last."""
    shutil.copytree(bench.caller / DATA, bench.caller / "other")
    (bench.caller / "o.ckpt").touch()
    rest = ["-b", "32", "--lr=-1", "--note", "two words"]
    arguments = [*rest[:2], *(word.format(caller=bench.caller) for word in arguments), *rest[2:]]
    if script == EVAL:
        arguments = [word for word in arguments if word not in ("--epochs", "7", "--epochs=7")]
    result = bench.run(script, *arguments, "--wait", MODEL="tinynet_z", EPOCHS="x", CKPT="no", DATA_PATH="no")
    assert (result.returncode, result.stderr) == (0, "")
    argv = bench.record(script)["argv"]
    end = argv.index("--run_dir")
    assert {"--model=tinynet_e", f"--ckpt={bench.caller}/o.ckpt", f"--data_path={bench.caller}/other"} < set(argv[:end])
    assert ("--epochs=7" in argv[:end]) == (script != EVAL)
    assert len(argv[:end]) == {TRAIN: 8, DISTRIBUTED: 9, EVAL: 6}[script]
    assert argv[end + 2 :] == rest


@pytest.mark.parametrize("script", LAUNCHERS)
@pytest.mark.parametrize("device", [["--device_target", "CPU"], ["--device-target=CPU"]])
def test_named_device(shell_bench, script, device):
    """--GPU and --dataset_sink are left out."""
    result = shell_bench.run(script, *device)
    assert (result.returncode, result.stderr) == (0, "")
    run_dir = run_folder(script, shell_bench.caller)
    assert shell_bench.record(script)["argv"] == [*expected_job(shell_bench, script, run_dir, []), *device]


@pytest.mark.parametrize("script, folder", [(TRAIN, "device_3"), (EVAL, "device3_*")])
def test_device_id(bench, script, folder):
    assert bench.run(script, DEVICE_ID="03").returncode == 0
    assert bench.record(script)["env"]["DEVICE_ID"] == "3"
    (run_dir,) = bench.caller.glob(folder)
    assert "DEVICE_ID=3\n" in (run_dir / "env.log").read_text()


@pytest.mark.parametrize("arguments", [["-n", "3"], ["--epochs", "2", "-n", "03", "--seed", "1"]])
def test_number_of_processes(bench, arguments):
    assert bench.run(DISTRIBUTED, *arguments).returncode == 0
    job = bench.record(DISTRIBUTED)
    assert job["words"][:4] == ["--worker_num", "3", "--local_worker_num", "3"] and "-n" not in job["argv"]


def test_training_through_mpirun(bench):
    assert bench.run(DISTRIBUTED, LAUNCHER="mpirun").returncode == 0
    job, run_dir = bench.record(DISTRIBUTED, "mpirun"), bench.caller / "device_parallel"
    words = job["words"][job["words"].index("-n") :]
    assert words[:6] == ["-n", "2", "--bind-to", "none", "bash", "-c"]
    assert words[7] == f"{run_dir}/log_output" and words[8].endswith("/bin/python")
    assert words[9:] == expected_job(bench, DISTRIBUTED, run_dir)
    assert job["env"]["SLOG_PRINT_TO_STDOUT"] == "0"


def test_distributed_training_on_one_device(bench):
    assert bench.run(DISTRIBUTED, "-n", "1", DEVICE_ID="6").returncode == 0
    job = bench.record(TRAIN)
    assert job["argv"] == expected_job(bench, DISTRIBUTED, bench.caller / "device_parallel")
    assert values(job, "DEVICE_ID RANK_ID RANK_SIZE") == ["0", "0", "1"]


@pytest.mark.parametrize("script, name, options", [
    (TRAIN, "val", ["--eval_interval", "0"]), (DISTRIBUTED, "val", ["--eval-interval=0"]),
    (TRAIN, "val", ["--val_data_dir", "/v"]), (TRAIN, "train", ["--train_data_dir=/t"]), (EVAL, "train", []),
    (EVAL, "val", ["--val-data-dir", "/v"]),
])  # fmt: skip
def test_data_folder_that_is_not_needed(bench, script, name, options):
    (bench.caller / DATA / name).rmdir()
    result = bench.run(script, *options)
    assert (result.returncode, result.stderr) == (0, "")
    argv = bench.record(script)["argv"]
    assert argv[len(argv) - len(options) :] == options


@pytest.mark.parametrize("script", [TRAIN, DISTRIBUTED])
def test_second_run(shell_bench, script):
    """The folder of an earlier run is renamed; a run that resumes goes on in it."""
    folder = run_folder(script, shell_bench.caller)
    for text, options in [("one", []), ("two", []), ("three", ["--resume", "auto"])]:
        assert shell_bench.run(script, *options, STAND_IN_TEXT=text).returncode == 0
    (old,) = shell_bench.caller.glob(f"old_*_{folder.name}")
    assert (old / "tinynet_c.log").read_text() == "one\ntext on stderr\n"
    assert (folder / "tinynet_c.log").read_text() == "two\ntext on stderr\nthree\ntext on stderr\n"


def test_evaluations_in_the_same_second(bench):
    started = [bench.start(EVAL, STAND_IN_SECONDS="0.3") for _ in range(3)]
    assert [process.communicate(timeout=30)[1] for process in started] == [""] * 3
    folders = list(bench.caller.glob("*device0_*"))
    assert all(re.fullmatch(r"device0_\d{8}-\d{6}", folder.name) for folder in folders)
    assert sorted(job["argv"][-1] for job in bench.records()) == sorted(map(str, folders)) and len(folders) == 3


# ---- Failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", LAUNCHERS)
@pytest.mark.parametrize("options, status", [(["--wait"], 7), ([], 1)])
def test_failure(shell_bench, script, options, status):
    """--wait returns the status of the job; without it a failure within the first seconds is reported."""
    result = shell_bench.run(script, *options, STAND_IN_STATUS="7", STAND_IN_TEXT="last words")
    assert result.returncode == status
    assert "error: the job ended with status 7; the last lines of" in result.stderr and "last words" in result.stderr


def test_failure_of_a_rank(shell_bench):
    """msrun waits for its scheduler after the failure; the launcher does not."""
    begin = time.monotonic()
    result = shell_bench.run(DISTRIBUTED, "--wait", STAND_IN_RANKS="1", STAND_IN_RANK="1", STAND_IN_STATUS="7",
                             STAND_IN_SECONDS="1")  # fmt: skip
    assert result.returncode == 7 and "launcher: error: rank 1 ended with status 7" in result.stderr
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("script", LAUNCHERS)
@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_reach_the_job(shell_bench, script, number, status):
    launcher = shell_bench.start(script, "--wait", STAND_IN_SECONDS="20", STAND_IN_SIGNALS="exit", STAND_IN_RANKS="1")
    count, limit = 2 if script == DISTRIBUTED else 1, time.monotonic() + 20
    while len(shell_bench.records()) < count and time.monotonic() < limit:
        time.sleep(0.05)
    launcher.send_signal(number)
    launcher.communicate(timeout=15)
    assert launcher.returncode == status
    pids = [entry["pid"] for entry in shell_bench.records()]
    assert [(shell_bench.notes / f"signal-{pid}").read_text() for pid in pids] == [f"{number.name}\n"] * count


def test_job_outlives_the_launcher(shell_bench):
    result = shell_bench.run(TRAIN, STAND_IN_SECONDS="20", LAUNCH_CHECK_SECONDS="1")
    assert (result.returncode, result.stderr) == (0, "")
    pid = int(re.search(r"started, PID (\d+), log ", result.stdout)[1])
    os.kill(pid, signal.SIGKILL)


# ---- Wrong usage -----------------------------------------------------------------------------------------------------


def assert_refused(bench: Bench, script: str, arguments: list[str], message: str, **environment: str) -> str:
    files = bench.files()
    result = bench.run(script, *arguments, **environment)
    assert (result.returncode, result.stdout) == (1, "")
    assert message.format(caller=bench.caller) in result.stderr
    assert bench.files() == files
    return result.stderr


@pytest.mark.parametrize("script", LAUNCHERS)
def test_missing_data_path(shell_bench, script):
    del shell_bench.environment["DATA_PATH"]
    errors = assert_refused(shell_bench, script, [], "error: no data: ")
    assert "variable DATA_PATH" in errors and "--data_path DIR" in errors and f"Usage: sh {script}" in errors


@pytest.mark.parametrize("script", LAUNCHERS)
def test_help(shell_bench, script):
    result = shell_bench.run(script, "--help")
    assert (result.returncode, result.stderr) == (0, "") and result.stdout.startswith(f"Usage: sh {script}")


@pytest.mark.parametrize("script", LAUNCHERS)
@pytest.mark.parametrize(
    "arguments, environment, message",
    [
        ([], {"DATA_PATH": "no"}, "error: DATA_PATH={caller}/no is not a directory"),
        (["--data_path", CHECKPOINT], {}, f"error: --data_path={{caller}}/{CHECKPOINT} is not a directory"),
        (["--data_path=."], {}, "error: --data_path={caller}/. has no folder "),
        (["--data_path="], {}, "error: --data_path needs a value"),
        (["--data_path", "--model", "tinynet_a"], {}, "error: --data_path needs a value"),
        (["--data_path"], {}, "error: --data_path needs a value"),
        ([], {"CKPT": "no.ckpt"}, "error: CKPT={caller}/no.ckpt is not a file"),
        (["--ckpt", DATA], {}, f"error: --ckpt={{caller}}/{DATA} is not a file"),
        ([], {"MODEL": "tinynet_z"}, "error: MODEL=tinynet_z is not one of: tinynet_a tinynet_b "),
        (["--model", "tinynet"], {}, "error: --model=tinynet is not one of: tinynet_a "),
        (["stray"], {}, "error: unexpected argument stray"),
        (["--model", "tinynet_a", "stray"], {}, "error: unexpected argument stray"),
        (["--lr", "0.1", "-n8"], {}, "error: unexpected argument -n8"),
        (["-n=8"], {}, "error: unexpected argument -n=8"),
        ([], {"PYTHON": "no-such-python"}, "error: PYTHON=no-such-python was not found"),
    ],
)
def test_invalid_call(bench, script, arguments, environment, message):
    assert_refused(bench, script, arguments, message, **environment)


@pytest.mark.parametrize(
    "script, arguments, environment, message",
    [
        (DISTRIBUTED, ["-n"], {}, "error: -n needs a value"),
        (DISTRIBUTED, ["-n", "0"], {}, "error: -n=0 is not an integer of 1 or more"),
        (DISTRIBUTED, ["-n", "-2"], {}, "error: -n=-2 is not an integer of 1 or more"),
        (DISTRIBUTED, ["-n", "two"], {}, "error: -n=two is not an integer of 1 or more"),
        (DISTRIBUTED, ["-n", "2"], {"WORKER_NUM": "1"}, "error: WORKER_NUM=1 (all servers) is less than the 2"),
        (TRAIN, ["-n", "2"], {}, "error: unexpected argument -n"),
        (TRAIN, [], {"DEVICE_ID": "start"}, "error: DEVICE_ID=start is not an integer"),
        (EVAL, [], {"DEVICE_ID": "start"}, "error: DEVICE_ID=start is not an integer"),
        (EVAL, [], {"CKPT": ""}, "error: no checkpoint: set the environment variable CKPT or give --ckpt FILE"),
        (TRAIN, [], {"EPOCHS": "0"}, "error: EPOCHS=0 is not an integer of 1 or more"),
        (DISTRIBUTED, ["--epochs", "1.5"], {}, "error: --epochs=1.5 is not an integer of 1 or more"),
    ],
)
def test_invalid_value(bench, script, arguments, environment, message):
    assert_refused(bench, script, arguments, message, **environment)


def test_number_is_required(shell_bench):
    """Bench.start adds the number where it is missing, so the launcher is called as it is."""
    launcher = shell_bench.model / "scripts" / DISTRIBUTED
    result = subprocess.run([shell_bench.shell, launcher], cwd=shell_bench.caller, env=shell_bench.environment,
                            capture_output=True, text=True, timeout=30)  # fmt: skip
    assert result.returncode == 1 and "error: the number of GPUs is missing: -n N\nUsage: " in result.stderr
    assert not (shell_bench.caller / "device_parallel").exists()


@pytest.mark.parametrize("script, name", [(TRAIN, "train"), (TRAIN, "val"), (DISTRIBUTED, "val"), (EVAL, "val")])
def test_missing_folder_of_the_data(bench, script, name):
    (bench.caller / DATA / name).rmdir()
    assert_refused(bench, script, ["--lr", "1"], f"error: DATA_PATH={{caller}}/{DATA} has no folder {name}")


@pytest.mark.parametrize("script", [TRAIN, DISTRIBUTED])
@pytest.mark.parametrize("link", [False, True])
def test_inputs_in_the_run_folder_are_refused(bench, script, link):
    """They would be renamed with it, unless the run goes on in the folder."""
    folder = run_folder(script, bench.caller)
    folder.mkdir()
    if link:
        (folder / "data").symlink_to(bench.caller / DATA)
        (folder / "a.ckpt").symlink_to(bench.caller / CHECKPOINT)
    else:
        shutil.copytree(bench.caller / DATA, folder / "data")
        (folder / "a.ckpt").touch()
    message = " is in the run folder {caller}/" + folder.name
    assert_refused(bench, script, ["--ckpt", f"{DATA}/../{folder.name}/a.ckpt"], f"{folder.name}/a.ckpt{message}")
    assert_refused(bench, script, ["--data_path", f"{folder.name}/data"], f"{folder.name}/data{message}")
    inputs = ["--ckpt", f"{folder.name}/a.ckpt", "--data_path", f"{folder.name}/data"]
    assert bench.run(script, *inputs, "--resume", "auto").returncode == 0


def test_every_launcher_is_tested():
    expected = [*LAUNCHERS, *INFERENCE, "common.sh", "tinynet_common.sh"]
    assert sorted(expected) == sorted(path.name for path in SCRIPTS.iterdir())
