"""The bash launchers of scripts/, run with recording stand-ins for python, msrun, mpirun and taskset.

The scripts are copied to a temporary model folder whose name has a blank, so that no run folder is made in the project.
"""

from __future__ import annotations

import json
import os
import pty
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
LAUNCHERS = [
    "run_standalone_train.sh",
    "run_distribute_train.sh",
    "run_train_cpu.sh",
    "run_eval.sh",
    "run_eval_cpu.sh",
    "run_standalone_train_gpu.sh",
    "run_distribute_train_gpu.sh",
    "run_eval_gpu.sh",
]
# Those of the inference; tests/test_cpp_infer.py of the repository tests them.
INFERENCE = ["infer_common.sh", "run_infer_310.sh", "run_infer_cpu.sh"]
TOOLS = [
    "bash",
    "cat",
    "chmod",
    "date",
    "dirname",
    "env",
    "grep",
    "id",
    "mkdir",
    "mv",
    "sed",
    "sleep",
    "tail",
    "tr",
    "wc",
]
CORES = sorted(os.sched_getaffinity(0))
AT_WORK = {"STAND_IN_SECONDS": "20", "STAND_IN_SIGNALS": "exit", "LAUNCH_CHECK_SECONDS": "1"}


class Bench:
    """A model folder, a caller's folder with data, and a PATH that holds stand-ins and the standard tools only."""

    def __init__(self, root: Path):
        self.model = root / "my model"
        self.caller = root / "some where"
        self.bin = root / "bin"
        self.notes = root / "notes"
        for folder in (self.model / "scripts", self.caller, self.bin, self.notes, root / "tools"):
            folder.mkdir(parents=True)
        for script in SCRIPTS.glob("*.sh"):
            shutil.copy(script, self.model / "scripts")
        for tool in TOOLS:
            (root / "tools" / tool).symlink_to(shutil.which(tool))
        for name in ("python", "msrun", "mpirun", "taskset"):
            self.add_stand_in(name)
        self.environment = {
            "PATH": f"{self.bin}:{root / 'tools'}",
            "STAND_IN_DIR": str(self.notes),
            "LAUNCH_CHECK_SECONDS": "10",
            "LAUNCH_KILL_SECONDS": "1",
        }
        self.use(self.caller)

    def use(self, caller: Path) -> None:
        """Makes `caller` the directory that the launchers are called in, with the data that the tests name."""
        self.caller = caller
        for name in ("train data", "val data"):
            (caller / name).mkdir(parents=True)
        (caller / "best weights.ckpt").touch()

    def add_stand_in(self, name: str, folder: Path | None = None, role: str | None = None) -> Path:
        path = (folder or self.bin) / name
        command = [sys.executable, "-S", str(STAND_IN), role or name]
        path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        path.chmod(0o755)
        return path

    def start(self, script: str, *arguments: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", str(self.model / "scripts" / script), *arguments],
            cwd=self.caller,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        process = self.start(script, *arguments, **environment)
        output, errors = process.communicate(timeout=30)
        return subprocess.CompletedProcess(script, process.returncode, output, errors)

    def records(self, name: str = "python") -> list[dict]:
        found = [json.loads(path.read_text()) for path in self.notes.glob(f"{name}-*.json")]
        return sorted(found, key=lambda entry: int(entry["env"].get("RANK_ID", 0)))

    def record(self, name: str = "python") -> dict:
        (entry,) = self.records(name)
        return entry

    def wait_for_records(self, number: int, name: str = "python") -> list[dict]:
        wait_until(lambda: len(self.records(name)) == number)
        return self.records(name)

    def signals(self, pid: int) -> list[str]:
        path = self.notes / f"signal-{pid}"
        return path.read_text().split() if path.exists() else []

    def rank_table(self, *servers: list[tuple[int, int]]) -> str:
        """Writes a rank table; each server is a list of (device id, rank id). Returns the name, relative to caller."""
        entries = [
            {"server_id": f"10.0.0.{number}", "device": [{"device_id": str(d), "rank_id": str(r)} for d, r in devices]}
            for number, devices in enumerate(servers)
        ]
        table = {"version": "1.0", "server_count": str(len(servers)), "server_list": entries, "status": "completed"}
        (self.caller / "rank table.json").write_text(json.dumps(table))
        return "rank table.json"

    def old_folders(self, name: str) -> list[Path]:
        return [
            path for path in self.caller.iterdir() if re.fullmatch(rf"old_\d{{8}}-\d{{6}}(_\d+)?_{name}", path.name)
        ]

    def end_jobs(self) -> None:
        for path in self.notes.glob("*.json"):
            pid = json.loads(path.read_text())["pid"]
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Is a stand-in with this PID running? A zombie, or another program with the number, is not."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False
    return str(STAND_IN) in command


def wait_until(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.end_jobs()


# ---- One process: exact arguments, environment, folders --------------------------------------------------------------

SINGLE_RUNS = {
    "standalone short": ("run_standalone_train.sh", ["3"], "train_single", "train.log", ["train.py"]),
    "standalone long": (
        "run_standalone_train.sh",
        ["3", "train data", "cifar10"],
        "train_single",
        "train.log",
        ["train.py", "--dataset_name", "cifar10", "--train_data_dir", "{caller}/train data"],
    ),
    "gpu short": (
        "run_standalone_train_gpu.sh",
        ["3"],
        "train_single_gpu",
        "train.log",
        ["train.py", "--device_target", "GPU"],
    ),
    "gpu long": (
        "run_standalone_train_gpu.sh",
        ["3", "./train data", "imagenet"],
        "train_single_gpu",
        "train.log",
        ["train.py", "--device_target", "GPU", "--dataset_name", "imagenet", "--train_data_dir", "{caller}/train data"],
    ),
    "cpu": (
        "run_train_cpu.sh",
        ["train data", "cifar10"],
        "train_cpu",
        "train.log",
        ["train.py", "--device_target", "CPU", "--dataset_name", "cifar10", "--train_data_dir", "{caller}/train data"],
    ),
    "eval short": ("run_eval.sh", [], "eval", "eval.log", ["eval.py"]),
    "eval long": (
        "run_eval.sh",
        ["val data", "imagenet", "best weights.ckpt"],
        "eval",
        "eval.log",
        ["eval.py", "--dataset_name", "imagenet", "--val_data_dir", "{caller}/val data"]
        + ["--checkpoint_path", "{caller}/best weights.ckpt"],
    ),
    "eval cpu short": ("run_eval_cpu.sh", [], "eval", "eval.log", ["eval.py", "--device_target", "CPU"]),
    "eval cpu long": (
        "run_eval_cpu.sh",
        ["{caller}/val data", "cifar10", "{caller}/best weights.ckpt"],
        "eval",
        "eval.log",
        ["eval.py", "--device_target", "CPU", "--dataset_name", "cifar10", "--val_data_dir", "{caller}/val data"]
        + ["--checkpoint_path", "{caller}/best weights.ckpt"],
    ),
    "eval gpu long": (
        "run_eval_gpu.sh",
        ["val data", "cifar10", "best weights.ckpt"],
        "eval",
        "eval.log",
        ["eval.py", "--device_target", "GPU", "--dataset_name", "cifar10", "--val_data_dir", "{caller}/val data"]
        + ["--checkpoint_path", "{caller}/best weights.ckpt"],
    ),
}


@pytest.mark.parametrize("place", ["elsewhere", "model root", "scripts"])
@pytest.mark.parametrize("case", SINGLE_RUNS)
def test_single_process_gets_exact_arguments_and_environment(bench, case, place):
    script, arguments, folder, log, expected = SINGLE_RUNS[case]
    if place != "elsewhere":
        bench.use(bench.model if place == "model root" else bench.model / "scripts")
    run_dir = bench.caller / folder
    arguments, expected = ([word.format(caller=bench.caller) for word in words] for words in (arguments, expected))
    if expected[0] == "train.py":
        expected += ["--ckpt_save_dir", f"{run_dir}/checkpoints"]

    result = bench.run(script, *arguments, STAND_IN_TEXT="text on stdout", DEVICE_ID="6", RANK_SIZE="8")

    assert (result.returncode, result.stderr) == (0, "")
    job = bench.record()
    assert job["argv"] == [*expected, "--run_dir", str(run_dir)]
    assert job["cwd"] == str(bench.model)
    device = "3" if "standalone" in script else "6"
    names = ("DEVICE_ID", "RANK_ID", "RANK_SIZE", "DEVICE_NUM")
    assert [job["env"][name] for name in names] == [device, "0", "1", "1"]
    assert (run_dir / log).read_text() == "text on stdout\ntext on stderr\n"
    assert f"DEVICE_ID={device}\n" in (run_dir / "env.log").read_text()
    assert f"PID {job['pid']}, log {run_dir / log}\n" in result.stdout


def test_launcher_called_by_a_relative_path(bench):
    script = os.path.relpath(bench.model / "scripts" / "run_eval.sh", bench.caller)
    subprocess.run(["bash", script], cwd=bench.caller, env=bench.environment, check=True, timeout=30)
    assert bench.record()["cwd"] == str(bench.model)


def test_further_options_reach_the_program_unchanged_and_last(bench):
    options = ["--epoch_size", "2", "--lr_init=0.1", "--note", "two words", "--note=", "--flag"]
    assert bench.run("run_train_cpu.sh", "train data", "cifar10", *options[:3], "--wait", *options[3:]).returncode == 0
    assert bench.record()["argv"][-len(options) :] == options


def test_wait_may_stand_before_the_positional_arguments(bench):
    assert bench.run("run_train_cpu.sh", "--wait", "train data", "cifar10", STAND_IN_STATUS="5").returncode == 5


def test_python_of_a_relative_path(bench):
    (bench.caller / "env").mkdir()
    bench.add_stand_in("python3.9", bench.caller / "env", role="python")
    (bench.bin / "python").unlink()
    assert bench.run("run_eval.sh", PYTHON="env/python3.9").returncode == 0
    assert bench.record()["argv"][0] == "eval.py"


# ---- Wrong usage -----------------------------------------------------------------------------------------------------


def assert_refused(bench, result, message):
    assert result.returncode == 1
    assert message in result.stderr
    assert bench.records() == bench.records("msrun") == bench.records("mpirun") == []
    assert sorted(path.name for path in bench.caller.iterdir() if path.name != "rank table.json") == [
        "best weights.ckpt",
        "train data",
        "val data",
    ]


@pytest.mark.parametrize("script", LAUNCHERS)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(bench, script, option):
    result = bench.run(script, option)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"Usage: bash {script}") and "--wait" in result.stdout
    assert bench.records() == []


WRONG_COUNTS = {
    "run_standalone_train.sh": (0, 2, 4),
    "run_standalone_train_gpu.sh": (0, 2, 4),
    "run_distribute_train.sh": (0, 2, 4),
    "run_distribute_train_gpu.sh": (0, 2, 4),
    "run_train_cpu.sh": (0, 1, 3),
    "run_eval.sh": (1, 2, 4),
    "run_eval_cpu.sh": (1, 2, 4),
    "run_eval_gpu.sh": (1, 2, 4),
}


@pytest.mark.parametrize("script, count", [(script, n) for script, counts in WRONG_COUNTS.items() for n in counts])
def test_wrong_number_of_arguments(bench, script, count):
    result = bench.run(script, *["1"] * count)
    assert_refused(bench, result, f"error: got {count} arguments, expected ")
    assert f"Usage: bash {script}" in result.stderr and result.stdout == ""


@pytest.mark.parametrize(
    "call, message",
    [
        (["run_standalone_train.sh", "x"], "error: DEVICE_ID=x is not an integer"),
        (["run_standalone_train.sh", "-1"], "error: DEVICE_ID=-1 is not an integer"),
        (["run_standalone_train.sh", ""], "error: DEVICE_ID= is not an integer"),
        (["run_standalone_train.sh", "0", "no such", "cifar10"], "TRAIN_DATA_DIR={caller}/no such is not a directory"),
        (["run_standalone_train.sh", "0", "", "cifar10"], "error: TRAIN_DATA_DIR= is not a directory"),
        (["run_standalone_train.sh", "0", "train data", "cifar"], "DATASET=cifar is not one of: cifar10 imagenet"),
        (["run_standalone_train.sh", "0", "train data", "cifar10 "], "DATASET=cifar10  is not one of"),
        (["run_standalone_train_gpu.sh", "0", "no", "cifar10"], "TRAIN_DATA_DIR={caller}/no is not a directory"),
        (["run_train_cpu.sh", "best weights.ckpt", "cifar10"], "{caller}/best weights.ckpt is not a directory"),
        (["run_train_cpu.sh", "train data", ""], "error: DATASET= is not one of"),
        (["run_eval.sh", "/no", "imagenet", "best weights.ckpt"], "error: VAL_DATA_DIR=/no is not a directory"),
        (["run_eval.sh", "val data", "CIFAR10", "best weights.ckpt"], "error: DATASET=CIFAR10 is not one of"),
        (["run_eval_cpu.sh", "val data", "cifar10", "no.ckpt"], "CHECKPOINT_PATH={caller}/no.ckpt is not a file"),
        (["run_eval_gpu.sh", "val data", "cifar10", "val data"], "CHECKPOINT_PATH={caller}/val data is not a file"),
        (["run_distribute_train.sh", "no.json"], "error: RANK_TABLE_FILE={caller}/no.json is not a file"),
        (["run_distribute_train.sh", "rank table.json", "cifar", "train data"], "error: DATASET=cifar is not one of"),
        (["run_distribute_train.sh", "rank table.json", "cifar10", "no"], "TRAIN_DATA_DIR={caller}/no is not a"),
        (["run_distribute_train_gpu.sh", "0"], "error: RANK_SIZE=0 is not an integer of 1 or more"),
        (["run_distribute_train_gpu.sh", "two"], "error: RANK_SIZE=two is not an integer of 1 or more"),
        (["run_distribute_train_gpu.sh", "2", "no", "cifar10"], "TRAIN_DATA_DIR={caller}/no is not a directory"),
        (["run_distribute_train_gpu.sh", "2", "train data", "x"], "error: DATASET=x is not one of"),
    ],
)
def test_invalid_argument(bench, call, message):
    bench.rank_table([(0, 0)])
    assert_refused(bench, bench.run(*call), message.format(caller=bench.caller))


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"PYTHON": "no/python"}, "error: PYTHON={caller}/no/python was not found"),
        ({"PYTHON": "nopython"}, "error: PYTHON=nopython was not found"),
        ({"LAUNCH_CHECK_SECONDS": "0.5"}, "error: LAUNCH_CHECK_SECONDS=0.5 is not an integer"),
    ],
)
def test_invalid_environment(bench, environment, message):
    assert_refused(bench, bench.run("run_eval.sh", **environment), message.format(caller=bench.caller))


# ---- Start, early death, --wait, signals -----------------------------------------------------------------------------


def test_early_death_is_reported_with_the_last_lines_of_the_log(bench):
    text = "\n".join(f"line {number}." for number in range(30))
    result = bench.run("run_eval.sh", STAND_IN_TEXT=text, STAND_IN_STATUS="7", STAND_IN_SECONDS="0.3")
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert lines[0] == f"error: the job ended with status 7; the last lines of {bench.caller}/eval/eval.log:"
    assert lines[1:] == [f"line {number}." for number in range(11, 30)] + ["text on stderr"]


def test_job_killed_at_the_start_is_reported(bench):
    process = bench.start("run_eval.sh", STAND_IN_SECONDS="20")
    os.kill(bench.wait_for_records(1)[0]["pid"], signal.SIGKILL)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1 and "status 137" in errors


def test_running_job_stays_in_the_background(bench):
    begin = time.monotonic()
    result = bench.run("run_train_cpu.sh", "train data", "cifar10", **AT_WORK)
    assert 1 <= time.monotonic() - begin < 8
    assert (result.returncode, result.stderr) == (0, "")
    assert is_alive(bench.record()["pid"])
    os.kill(bench.record()["pid"], signal.SIGTERM)
    wait_until(lambda: bench.signals(bench.record()["pid"]) == ["SIGTERM"])


def test_zero_check_seconds_returns_at_once(bench):
    assert bench.run("run_eval.sh", STAND_IN_STATUS="7", LAUNCH_CHECK_SECONDS="0").returncode == 0
    bench.wait_for_records(1)


@pytest.mark.parametrize("status", [0, 1, 2, 7, 130])
def test_wait_returns_the_exact_status(bench, status):
    timing = {"LAUNCH_CHECK_SECONDS": "0", "STAND_IN_SECONDS": "0.2"}
    result = bench.run("run_eval.sh", "--wait", STAND_IN_STATUS=str(status), **timing)
    assert result.returncode == status
    assert (f"status {status}" in result.stderr) == (status != 0)


@pytest.mark.parametrize("name, status, received", [("INT", 130, "INT"), ("TERM", 143, "TERM"), ("HUP", 143, "TERM")])
def test_signal_is_forwarded_in_wait_mode(bench, name, status, received):
    process = bench.start("run_eval.sh", "--wait", **AT_WORK)
    (job,) = bench.wait_for_records(1)
    process.send_signal(getattr(signal, f"SIG{name}"))
    process.communicate(timeout=10)
    assert process.returncode == status
    assert bench.signals(job["pid"]) == [f"SIG{received}"]


def test_launcher_waits_for_a_job_that_takes_time_to_stop(bench):
    process = bench.start("run_eval.sh", "--wait", STAND_IN_SECONDS="2", STAND_IN_SIGNALS="ignore", STAND_IN_STATUS="9")
    (job,) = bench.wait_for_records(1)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    process.communicate(timeout=10)
    assert process.returncode == 9
    assert bench.signals(job["pid"]) == ["SIGINT", "SIGINT"]


def test_job_outlives_the_terminal_and_its_ctrl_c(bench):
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(bench.caller)
        command = f"bash {shlex.quote(str(bench.model))}/scripts/run_eval.sh"
        os.execve(shutil.which("bash"), ["bash", "--norc", "-ic", f"{command}; cat"], {**bench.environment, **AT_WORK})
    output = b""
    while b"started" not in output:
        output += os.read(terminal, 4096)
    time.sleep(1.5)
    os.write(terminal, b"\x03")
    time.sleep(0.2)
    os.close(terminal)
    os.waitpid(pid, 0)
    job = bench.record()["pid"]
    os.kill(job, signal.SIGHUP)  # what a shell sends to its jobs when the terminal ends
    time.sleep(0.3)
    assert is_alive(job)
    assert bench.signals(job) == []


# ---- Run folders -----------------------------------------------------------------------------------------------------


def test_earlier_run_folders_are_kept(bench):
    for number in range(3):
        assert bench.run("run_eval.sh", STAND_IN_TEXT=f"run {number}").returncode == 0
    logs = [folder / "eval.log" for folder in (*bench.old_folders("eval"), bench.caller / "eval")]
    assert sorted(log.read_text().split("\n")[0] for log in logs) == ["run 0", "run 1", "run 2"]
    assert (bench.caller / "eval" / "eval.log").read_text().startswith("run 2")


@pytest.mark.parametrize("options", [["--resume", "auto"], ["--resume=auto"], ["--resume", "", "--resume", "a b"]])
def test_resumed_run_goes_on_in_its_folder(bench, options):
    for number, extra in enumerate([[], options]):
        result = bench.run("run_train_cpu.sh", "train data", "cifar10", *extra, STAND_IN_TEXT=f"run {number}")
        assert result.returncode == 0
    assert bench.old_folders("train_cpu") == []
    assert re.findall(r"run \d", (bench.caller / "train_cpu" / "train.log").read_text()) == ["run 0", "run 1"]


@pytest.mark.parametrize("options", [["--resume", ""], ["--resume="], ["--resume", "--debug"], ["--resume_x", "a"]])
def test_empty_resume_starts_a_new_folder(bench, options):
    for extra in ([], options):
        assert bench.run("run_train_cpu.sh", "train data", "cifar10", *extra).returncode == 0
    assert len(bench.old_folders("train_cpu")) == 1


def test_failed_resume_reports_the_lines_of_this_run_only(bench):
    bench.run("run_train_cpu.sh", "train data", "cifar10", STAND_IN_TEXT="earlier run")
    result = bench.run(
        "run_train_cpu.sh", "train data", "cifar10", "--resume=auto", STAND_IN_TEXT="this run", STAND_IN_STATUS="1"
    )
    assert result.returncode == 1
    assert "this run" in result.stderr and "earlier run" not in result.stderr


@pytest.mark.parametrize("script", ["run_eval.sh", "run_distribute_train_gpu.sh", "run_distribute_train.sh"])
def test_env_log_holds_no_secrets(bench, script):
    arguments = {"run_distribute_train_gpu.sh": ["2"], "run_distribute_train.sh": [bench.rank_table([(0, 0)])]}
    secrets = {"API_TOKEN": "hush-1", "AWS_SECRET_ACCESS_KEY": "hush-2", "PASSWORD": "hush-3"}
    result = bench.run(script, *arguments.get(script, []), LD_LIBRARY_PATH="/opt/lib", **secrets)
    assert result.returncode == 0
    (log,) = bench.caller.glob("*/env.log")
    assert "hush" not in log.read_text()
    assert "LD_LIBRARY_PATH=/opt/lib\n" in log.read_text() and f"PATH={bench.bin}" in log.read_text()


def test_run_folder_that_cannot_be_created(bench):
    (bench.caller / "eval").touch()
    result = bench.run("run_eval.sh", "--resume", "auto")
    assert result.returncode == 1
    assert f"error: cannot create the run folder {bench.caller}/eval" in result.stderr
    assert bench.records() == []


# ---- Rank table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["short", "long"])
def test_rank_table_starts_one_process_for_each_device(bench, form):
    table = bench.rank_table([(4, 1), (5, 0)])
    arguments, data = {
        "short": ([], []),
        "long": (
            ["cifar10", "train data"],
            ["--dataset_name", "cifar10", "--train_data_dir", f"{bench.caller}/train data"],
        ),
    }[form]
    result = bench.run(
        "run_distribute_train.sh", table, *arguments, "--epoch_size", "2", STAND_IN_TEXT="text on stdout"
    )
    assert (result.returncode, result.stderr) == (0, "")
    jobs = bench.records()
    for job, folder, device in zip(jobs, ["train_parallel1", "train_parallel0"], ["5", "4"]):
        run_dir = bench.caller / folder
        checkpoints = ["--ckpt_save_dir", f"{bench.caller}/train_parallel0/checkpoints"]
        assert job["argv"] == ["train.py", *data, *checkpoints, "--run_dir", str(run_dir), "--epoch_size", "2"]
        assert job["cwd"] == str(bench.model)
        names = ("DEVICE_ID", "RANK_SIZE", "DEVICE_NUM", "SERVER_ID", "RANK_TABLE_FILE")
        assert [job["env"][name] for name in names] == [device, "2", "2", "0", f"{bench.caller}/{table}"]
        assert (run_dir / "log").read_text() == "text on stdout\ntext on stderr\n"
        assert f"DEVICE_ID={device}\nRANK_ID={job['env']['RANK_ID']}\n" in (run_dir / "env.log").read_text()
    assert [job["env"]["RANK_ID"] for job in jobs] == ["0", "1"]


def test_rank_table_of_several_servers(bench):
    table = bench.rank_table([(0, 0), (1, 1)], [(2, 2)])
    assert bench.run("run_distribute_train.sh", table, SERVER_ID="1").returncode == 0
    names = ("DEVICE_ID", "RANK_ID", "RANK_SIZE", "DEVICE_NUM", "SERVER_ID")
    assert [bench.record()["env"][name] for name in names] == ["2", "2", "3", "1", "1"]
    assert (bench.caller / "train_parallel0").is_dir() and not (bench.caller / "train_parallel1").exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("not json", "is not a rank table"),
        ("{}", "is not a rank table"),
        ('{"server_list": [{"device": [{"device_id": "x", "rank_id": "0"}]}]}', "is not a rank table"),
        ('{"server_list": []}', "has no entry for SERVER_ID=0"),
        ('{"server_list": [{"device": []}]}', "lists no device"),
        (
            '{"server_list": [{"device": [{"device_id": "0", "rank_id": "0"}, {"device_id": "1", "rank_id": "0"}]}]}',
            "must list the rank ids 0 to 1, each once; it lists [0, 0]",
        ),
        (
            '{"server_list": [{"device": [{"device_id": "0", "rank_id": "0"}, {"device_id": "0", "rank_id": "1"}]}]}',
            "lists a device id twice",
        ),
    ],
)
def test_invalid_rank_table(bench, text, message):
    (bench.caller / "rank table.json").write_text(text)
    result = bench.run("run_distribute_train.sh", "rank table.json")
    assert_refused(bench, result, f"error: RANK_TABLE_FILE={bench.caller}/rank table.json {message}")


@pytest.mark.parametrize("server", ["1", "-1", "x"])
def test_server_that_is_not_in_the_rank_table(bench, server):
    result = bench.run("run_distribute_train.sh", bench.rank_table([(0, 0)]), SERVER_ID=server)
    assert_refused(bench, result, f"SERVER_ID={server}")


def test_each_device_is_bound_to_its_share_of_the_cores(bench):
    share = len(CORES) // 2
    assert bench.run("run_distribute_train.sh", bench.rank_table([(0, 0), (1, 1)])).returncode == 0
    bound = [(entry["argv"][:2], entry["argv"][2:4]) for entry in bench.records("taskset")]
    slices = [",".join(map(str, CORES[i * share : (i + 1) * share])) for i in range(2)] if share else []
    assert bound == [(["-c", cores], ["python", "train.py"]) for cores in slices]
    assert len(bench.records()) == 2


@pytest.mark.parametrize("reason", ["switched off", "no taskset", "too few cores"])
def test_no_core_binding(bench, reason):
    devices = len(CORES) + 1 if reason == "too few cores" else 1
    if reason == "no taskset":
        (bench.bin / "taskset").unlink()
    extra = {"BIND_CORES": "0"} if reason == "switched off" else {}
    table = bench.rank_table([(number, number) for number in range(devices)])
    assert bench.run("run_distribute_train.sh", table, "--wait", **extra).returncode == 0
    assert bench.records("taskset") == []
    assert len(bench.records()) == devices


@pytest.mark.parametrize("stubborn", [False, True])
def test_one_rank_dying_at_the_start_ends_the_others(bench, stubborn):
    """Also when the others outlive the time in which the launcher watches the start."""
    table = bench.rank_table([(0, 0), (5, 1), (2, 2)])
    script = {"STAND_IN_RANK": "1", "STAND_IN_STATUS": "7", "STAND_IN_TEXT": "last words"}
    if stubborn:
        script.update(STAND_IN_SIGNALS="ignore", LAUNCH_CHECK_SECONDS="2", LAUNCH_KILL_SECONDS="4")
    result = bench.run("run_distribute_train.sh", table, **script)
    assert result.returncode == 1
    assert f"rank 1 (device 5) ended with status 7; its log: {bench.caller}/train_parallel1/log" in result.stderr
    assert "last words" in result.stderr
    assert not any(is_alive(job["pid"]) for job in bench.records())


@pytest.mark.parametrize("stubborn", [False, True])
def test_wait_returns_the_status_of_the_rank_that_died(bench, stubborn):
    table = bench.rank_table([(0, 0), (1, 1)])
    begin = time.monotonic()
    signals = {"STAND_IN_SIGNALS": "ignore" if stubborn else "exit"}
    result = bench.run(
        "run_distribute_train.sh",
        table,
        "--wait",
        STAND_IN_RANK="1",
        STAND_IN_STATUS="7",
        STAND_IN_SECONDS="1",
        **signals,
    )
    assert result.returncode == 7
    assert "rank 1 (device 1) ended with status 7" in result.stderr
    other = bench.records()[0]["pid"]
    assert bench.signals(other) == ["SIGTERM"] and not is_alive(other)
    assert time.monotonic() - begin < 10


def test_supervisor_outlives_the_launcher(bench):
    table = bench.rank_table([(0, 0), (1, 1)])
    script = {"STAND_IN_RANK": "0", "STAND_IN_STATUS": "3", "STAND_IN_SECONDS": "3.5"}
    result = bench.run("run_distribute_train.sh", table, LAUNCH_CHECK_SECONDS="1", **script)
    assert result.returncode == 0
    assert all(is_alive(job["pid"]) for job in bench.records())
    wait_until(lambda: not any(is_alive(job["pid"]) for job in bench.records()))
    log = (bench.caller / "train_parallel_supervisor.log").read_text()
    assert "launcher: error: rank 0 (device 0) ended with status 3" in log


@pytest.mark.parametrize("name, status", [("INT", 130), ("TERM", 143)])
def test_signal_reaches_every_rank(bench, name, status):
    table = bench.rank_table([(0, 0), (1, 1)])
    process = bench.start("run_distribute_train.sh", table, "--wait", **AT_WORK)
    jobs = bench.wait_for_records(2)
    process.send_signal(getattr(signal, f"SIG{name}"))
    process.communicate(timeout=10)
    assert process.returncode == status
    assert [bench.signals(job["pid"]) for job in jobs] == [[f"SIG{name}"]] * 2


def test_termination_of_the_printed_pid_ends_every_rank(bench):
    table = bench.rank_table([(0, 0), (1, 1)])
    result = bench.run("run_distribute_train.sh", table, **AT_WORK)
    os.kill(int(re.search(r"PID (\d+)", result.stdout)[1]), signal.SIGTERM)
    wait_until(lambda: [bench.signals(job["pid"]) for job in bench.records()] == [["SIGTERM"]] * 2)


def test_folders_of_an_earlier_run_with_more_devices_are_set_aside(bench):
    (bench.caller / "train_parallel_notes").mkdir()
    (bench.caller / "train_parallel0_mine").mkdir()
    bench.run("run_distribute_train.sh", bench.rank_table([(0, 0), (1, 1), (2, 2)]))
    bench.run("run_distribute_train.sh", bench.rank_table([(0, 0)]))
    for name in ("train_parallel0", "train_parallel1", "train_parallel2", "train_parallel_supervisor.log"):
        assert len(bench.old_folders(name)) == 1
    present = sorted(path.name for path in bench.caller.glob("train_parallel*"))
    assert present == [
        "train_parallel0",
        "train_parallel0_mine",
        "train_parallel_notes",
        "train_parallel_supervisor.log",
    ]


def test_resumed_ranks_go_on_in_their_folders(bench):
    table = bench.rank_table([(0, 0), (1, 1)])
    for options in ([], ["--resume", "auto"]):
        assert bench.run("run_distribute_train.sh", table, *options, STAND_IN_TEXT="text").returncode == 0
    assert not list(bench.caller.glob("old_*"))
    for number in range(2):
        assert (bench.caller / f"train_parallel{number}" / "log").read_text().count("text on stderr") == 2


# ---- msrun and mpirun ------------------------------------------------------------------------------------------------


def option(argv: list[str], name: str) -> str:
    return argv[argv.index(name) + 1]


@pytest.mark.parametrize("form", ["short", "long"])
def test_gpu_ranks_through_msrun(bench, form):
    run_dir = bench.caller / "distribute_train_gpu"
    arguments, data = {
        "short": ([], []),
        "long": (
            ["train data", "cifar10"],
            ["--dataset_name", "cifar10", "--train_data_dir", f"{bench.caller}/train data"],
        ),
    }[form]
    stale = {"DEVICE_ID": "6", "RANK_ID": "6", "RANK_SIZE": "8", "RANK_TABLE_FILE": "x"}
    result = bench.run("run_distribute_train_gpu.sh", "4", *arguments, "--seed=2", STAND_IN_TEXT="text", **stale)
    assert (result.returncode, result.stderr) == (0, "")
    job = bench.record("msrun")
    port = option(job["argv"], "--master_port")
    assert 1024 <= int(port) <= 65535
    assert job["argv"] == [
        *["--worker_num", "4", "--local_worker_num", "4", "--master_addr", "127.0.0.1", "--master_port", port],
        *["--log_dir", f"{run_dir}/msrun_log", "--join=True", "--cluster_time_out=600"],
        *["train.py", "--device_target", "GPU", *data, "--ckpt_save_dir", f"{run_dir}/checkpoints"],
        *["--run_dir", str(run_dir), "--seed=2"],
    ]
    assert job["cwd"] == str(bench.model)
    assert (job["env"]["RANK_SIZE"], job["env"]["DEVICE_NUM"]) == ("4", "4")
    assert not {"DEVICE_ID", "RANK_ID", "RANK_TABLE_FILE"} & set(job["env"])
    assert (run_dir / "log.txt").read_text() == "text\ntext on stderr\n"
    assert (run_dir / "env.log").exists() and bench.records("mpirun") == []


@pytest.mark.parametrize("user", ["0", "1000"])
def test_gpu_ranks_through_mpirun(bench, user):
    bench.add_stand_in("id")
    (bench.bin / "msrun").unlink()
    run_dir = bench.caller / "distribute_train_gpu"
    assert bench.run("run_distribute_train_gpu.sh", "2", STAND_IN_USER=user, DEVICE_ID="6").returncode == 0
    job = bench.record("mpirun")
    words = job["argv"][: job["argv"].index("-c")]
    assert words == [*(["--allow-run-as-root"] if user == "0" else []), "-n", "2", "--bind-to", "none", "bash"]
    assert job["argv"][len(words) + 2 :] == [
        *[f"{run_dir}/log_output", f"{bench.bin}/python", "train.py", "--device_target", "GPU"],
        *["--ckpt_save_dir", f"{run_dir}/checkpoints", "--run_dir", str(run_dir)],
    ]
    assert job["env"]["RANK_SIZE"] == "2" and "DEVICE_ID" not in job["env"]


def test_launcher_and_port_may_be_chosen(bench):
    assert bench.run("run_distribute_train_gpu.sh", "2", LAUNCHER="mpirun").returncode == 0
    assert len(bench.records("mpirun")) == 1 and bench.records("msrun") == []
    assert bench.run("run_distribute_train_gpu.sh", "2", LAUNCHER="msrun", MASTER_PORT="8200").returncode == 0
    assert option(bench.record("msrun")["argv"], "--master_port") == "8200"


def test_several_servers(bench):
    servers = {"MASTER_ADDR": "10.0.0.1", "NODE_RANK": "1", "WORKER_NUM": "8"}
    assert bench.run("run_distribute_train_gpu.sh", "4", **servers).returncode == 0
    job = bench.record("msrun")
    values = [option(job["argv"], f"--{key}") for key in ("worker_num", "local_worker_num", "master_addr", "node_rank")]
    assert values == ["8", "4", "10.0.0.1", "1"]
    assert option(job["argv"], "--master_port") == "8118"  # the same on every server
    assert (job["env"]["RANK_SIZE"], job["env"]["DEVICE_NUM"]) == ("8", "4")


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"LAUNCHER": "slurm"}, "error: LAUNCHER=slurm is not one of: msrun mpirun"),
        ({"WORKER_NUM": "1"}, "error: WORKER_NUM=1 (all servers) is less than the 2 processes"),
        ({"WORKER_NUM": "x"}, "error: WORKER_NUM=x is not an integer"),
        ({"WORKER_NUM": "4", "MASTER_ADDR": "10.0.0.1"}, "error: NODE_RANK= is not an integer"),
        ({"WORKER_NUM": "4", "NODE_RANK": "1"}, "error: MASTER_ADDR (address of the first server) must be set"),
        ({"WORKER_NUM": "4", "NODE_RANK": "2", "MASTER_ADDR": "10.0.0.1"}, "error: NODE_RANK=2 is too large"),
        ({"WORKER_NUM": "4", "LAUNCHER": "mpirun"}, "error: several servers need msrun"),
        (
            {"LAUNCHER": "mpirun", "CPU": "1"},
            "error: LAUNCHER=mpirun: on CPU MindSpore joins only processes that msrun",
        ),
        ({"MASTER_PORT": "x"}, "error: MASTER_PORT=x is not an integer"),
    ],
)
def test_invalid_cluster(bench, environment, message):
    target = ["--device_target", "CPU"] if "CPU" in environment else []
    assert_refused(bench, bench.run("run_distribute_train_gpu.sh", "2", *target, **environment), message)


def test_neither_msrun_nor_mpirun(bench):
    (bench.bin / "msrun").unlink()
    assert_refused(
        bench, bench.run("run_distribute_train_gpu.sh", "2", LAUNCHER="msrun"), "LAUNCHER=msrun was not found"
    )
    result = bench.run("run_distribute_train_gpu.sh", "2", "--device_target", "CPU")
    assert_refused(bench, result, "error: msrun was not found")
    (bench.bin / "mpirun").unlink()
    assert_refused(bench, bench.run("run_distribute_train_gpu.sh", "2"), "error: neither msrun")


def test_msrun_beside_the_interpreter_and_its_python(bench):
    """msrun starts its ranks as "python"; that must be the interpreter that PYTHON names."""
    folder = bench.caller / "the env"
    folder.mkdir()
    bench.add_stand_in("python3", folder, role="python")
    bench.add_stand_in("msrun", folder)
    for name in ("msrun", "python"):
        (bench.bin / name).unlink()
    result = bench.run("run_distribute_train_gpu.sh", "2", "--wait", PYTHON=str(folder / "python3"), STAND_IN_RANKS="1")
    assert (result.returncode, result.stderr) == (0, "")
    assert [job["argv"][0] for job in bench.records()] == ["train.py"] * 2


def test_one_gpu_needs_no_cluster(bench):
    assert bench.run("run_distribute_train_gpu.sh", "1").returncode == 0
    job = bench.record()
    assert job["argv"][:3] == ["train.py", "--device_target", "GPU"]
    assert [job["env"][name] for name in ("DEVICE_ID", "RANK_ID", "RANK_SIZE")] == ["0", "0", "1"]
    assert bench.records("msrun") == []


@pytest.mark.parametrize("form", ["nothing", "data", "table", "table and data"])
def test_distributed_training_on_the_cpu(bench, form):
    arguments = ["cifar10", "train data"] if "data" in form else []
    environment = {} if "table" in form else {"DEVICE_NUM": "2"}
    if "table" in form:
        arguments.insert(0, bench.rank_table([(0, 0), (1, 1)]))
    (bench.caller / "train_parallel1").mkdir()
    result = bench.run("run_distribute_train.sh", *arguments, "--device_target", "CPU", **environment)
    assert (result.returncode, result.stderr) == (0, "")
    job = bench.record("msrun")
    run_dir = bench.caller / "train_parallel0"
    data = ["--dataset_name", "cifar10", "--train_data_dir", f"{bench.caller}/train data"] if "data" in form else []
    assert option(job["argv"], "--worker_num") == option(job["argv"], "--local_worker_num") == "2"
    assert job["argv"][job["argv"].index("train.py") :] == [
        *["train.py", *data, "--ckpt_save_dir", f"{run_dir}/checkpoints", "--run_dir", str(run_dir)],
        *["--device_target", "CPU"],
    ]
    assert (run_dir / "log").exists() and len(bench.old_folders("train_parallel1")) == 1
    assert "RANK_TABLE_FILE" not in job["env"]


@pytest.mark.parametrize("arguments, message", [([], "DEVICE_NUM= is not"), (["x.json"], "RANK_TABLE_FILE=")])
def test_distributed_training_on_the_cpu_refused(bench, arguments, message):
    result = bench.run("run_distribute_train.sh", *arguments, "--device_target=CPU")
    assert_refused(bench, result, f"error: {message}")


@pytest.mark.parametrize("wait", [True, False])
def test_rank_of_msrun_dying(bench, wait):
    """msrun itself would return 1, and only after its scheduler has given up."""
    begin = time.monotonic()
    script = {"STAND_IN_RANKS": "1", "STAND_IN_RANK": "1", "STAND_IN_STATUS": "2", "STAND_IN_SECONDS": "1"}
    options = ["--wait"] if wait else []
    result = bench.run("run_distribute_train_gpu.sh", "2", *options, **script)
    assert result.returncode == (2 if wait else 1)
    log = f"{bench.caller}/distribute_train_gpu/msrun_log/worker_1.log"
    assert f"launcher: error: rank 1 ended with status 2; its log: {log}" in result.stderr
    assert time.monotonic() - begin < 10
    assert not any(is_alive(job["pid"]) for job in bench.records() + bench.records("msrun"))


def test_status_of_a_dead_mpirun(bench):
    result = bench.run("run_distribute_train_gpu.sh", "2", "--wait", LAUNCHER="mpirun", STAND_IN_STATUS="7")
    assert result.returncode == 7
    assert "ended with status 7; the logs of the ranks are in" in result.stderr


@pytest.mark.parametrize("name, status", [("INT", 130), ("TERM", 143)])
def test_signal_reaches_the_ranks_of_msrun(bench, name, status):
    process = bench.start("run_distribute_train_gpu.sh", "2", "--wait", STAND_IN_RANKS="1", **AT_WORK)
    jobs = bench.wait_for_records(2)
    process.send_signal(getattr(signal, f"SIG{name}"))
    process.communicate(timeout=10)
    assert process.returncode == status
    assert [f"SIG{name}"] in [bench.signals(job["pid"]) for job in jobs]
    assert not any(is_alive(job["pid"]) for job in jobs + bench.records("msrun"))


# ---- The scripts themselves ------------------------------------------------------------------------------------------


def test_every_launcher_is_tested_and_parses():
    assert sorted([*LAUNCHERS, *INFERENCE, "common.sh"]) == sorted(path.name for path in SCRIPTS.iterdir())
    for script in SCRIPTS.glob("*.sh"):
        subprocess.run(["bash", "-n", str(script)], check=True)
        assert script.read_text().startswith("#!/usr/bin/env bash\n")


def test_shared_functions_name_no_model_and_no_data_set():
    text = (SCRIPTS / "common.sh").read_text().lower()
    assert not re.search("darknet|tinynet|yolo|cifar|imagenet|coco", text)
