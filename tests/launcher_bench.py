"""A bench for the tests of the launchers: a model folder, a caller's folder, and stand-ins that record how they are called.

The scripts are copied to a model folder whose name has a blank, so that no run folder is made in the project.
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
from collections.abc import Iterator
from pathlib import Path

STAND_IN = Path(__file__).resolve().with_name("stand_in.py")
# All that the launchers need of the system.
TOOLS = "bash cat chmod date dirname env grep id ln mkdir mv sed sleep tail tr wc".split()
AT_WORK = {"STAND_IN_SECONDS": "60", "STAND_IN_SIGNALS": "exit", "LAUNCH_CHECK_SECONDS": "1"}
STALE = {"DEVICE_ID": "6", "RANK_ID": "6", "RANK_SIZE": "8", "DEVICE_NUM": "8", "RANK_TABLE_FILE": "old.json"}


class Bench:
    """Runs launchers in `caller`. PATH holds stand-ins for python, msrun, mpirun and taskset, and TOOLS."""

    def __init__(self, root: Path, scripts: Path):
        self.root, self.model, self.caller = root, root / "my model", root / "some where"
        self.bin, self.notes = root / "bin", root / "notes"
        for folder in (self.caller, self.bin, self.notes, root / "tools"):
            folder.mkdir(parents=True)
        shutil.copytree(scripts, self.model / "scripts")
        for tool in TOOLS:
            (root / "tools" / tool).symlink_to(shutil.which(tool))
        for name in ("python", "msrun", "mpirun", "taskset"):
            self.add_stand_in(name)
        self.shell = shutil.which("bash")
        self.environment = {
            "PATH": f"{self.bin}:{root / 'tools'}",
            "STAND_IN_DIR": str(self.notes),
            "LAUNCH_CHECK_SECONDS": "60",  # only while the job runs
            "LAUNCH_KILL_SECONDS": "20",  # only where a rank does not end
        }

    def add_stand_in(self, name: str, folder: Path | None = None, role: str | None = None) -> None:
        path = (folder or self.bin) / name
        command = [sys.executable, "-S", str(STAND_IN), role or name]
        path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        path.chmod(0o755)

    def make(self, *names: str) -> None:
        """Makes files, and for names that end in / folders, in the caller's folder."""
        for name in names:
            path = self.caller / name
            (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                path.touch()

    def rank_table(self, *servers: list[tuple[int, int]], name: str = "rank table.json") -> str:
        """Writes a rank table; each server is a list of (device id, rank id). Returns its name, relative to caller."""
        entries = [{"device": [{"device_id": str(d), "rank_id": str(r)} for d, r in devices]} for devices in servers]
        (self.caller / name).write_text(json.dumps({"version": "1.0", "server_list": entries}))
        return name

    def words(self, text: str, folder: str = "") -> list[str]:
        """The words of a command line, with {caller} for the caller's folder and {run} for its subfolder `folder`."""
        return shlex.split(text.format(caller=self.caller, run=self.caller / folder))

    # ---- Calls

    def start(self, script: str, *arguments: str, **environment: str) -> subprocess.Popen:
        path = script if (self.caller / script).exists() else str(self.model / "scripts" / script)
        return subprocess.Popen(
            [self.shell, path, *arguments],
            cwd=self.caller, env={**self.environment, **environment},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        process = self.start(script, *arguments, **environment)
        output, errors = process.communicate(timeout=120)
        return subprocess.CompletedProcess(script, process.returncode, output, errors)

    def job(self, script: str, *arguments: str, by: str = "python", **environment: str) -> dict:
        """Runs a launcher to its end, without an error. What the one program that it starts `by` python or msrun notes:
        "argv", "cwd", "env", "pid", and in "words" what stands before the program."""
        result = self.run(script, *arguments, "--wait", **{"STAND_IN_TEXT": "text", **environment})
        assert (result.returncode, result.stderr) == (0, "")
        (entry,) = self.records(by)
        start = next(i for i, word in enumerate(entry["argv"]) if word.endswith(".py"))
        entry["words"], entry["argv"] = entry["argv"][:start], entry["argv"][start:]
        assert entry["cwd"] == str(self.model)
        return entry

    def refuse(self, script: str, *arguments: str, **environment: str) -> str:
        """Runs a launcher that starts nothing, moves nothing and writes nothing. What it prints on stderr."""
        files = self.files()
        result = self.run(script, *arguments, **environment)
        assert (result.returncode, result.stdout) == (1, ""), result.stderr
        assert list(self.notes.iterdir()) == [] and self.files() == files
        return result.stderr.replace(str(self.caller), "{caller}")

    # ---- What came of it

    def files(self) -> list[str]:
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*"))

    def old(self, name: str) -> list[Path]:
        """What has been set aside under this name."""
        pattern = re.compile(rf"old_\d{{8}}-\d{{6}}(_\d+)?_{re.escape(name)}")
        return sorted(path for path in self.caller.iterdir() if pattern.fullmatch(path.name))

    def records(self, name: str = "python") -> list[dict]:
        """What stand-ins have noted, that of ranks in their order."""
        found = [json.loads(path.read_text()) for path in self.notes.glob(f"{name}-*.json")]
        return sorted(found, key=lambda e: int(e["env"].get("RANK_ID", e["env"].get("OMPI_COMM_WORLD_RANK", 0))))

    def wait_for_records(self, number: int, name: str = "python") -> list[dict]:
        wait_until(lambda: len(self.records(name)) == number)
        return self.records(name)

    def signals(self, job: dict) -> list[str]:
        path = self.notes / f"signal-{job['pid']}"
        return path.read_text().split() if path.exists() else []

    def forget(self) -> None:
        for path in self.notes.iterdir():
            path.unlink()

    def end_jobs(self) -> None:
        for path in self.notes.glob("*.json"):
            job = json.loads(path.read_text())
            if is_alive(job):
                os.kill(job["pid"], signal.SIGKILL)


def values(job: dict, names: str) -> list[str | None]:
    """Environment variables that a program has got."""
    return [job["env"].get(name) for name in names.split()]


def option(argv: list[str], name: str) -> str:
    return argv[argv.index(name) + 1]


def is_alive(job: dict) -> bool:
    """Is the stand-in that noted this still running? A zombie, or another program with its number, is not."""
    try:
        command = Path(f"/proc/{job['pid']}/cmdline").read_text()
    except OSError:
        return False
    return str(STAND_IN) in command


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


# ---- Launchers of a model that does nothing, which use all of utils/launchers ---------------------------------------

SOURCE = Path(__file__).resolve().parents[1] / "utils/launchers"
TOYS = {
    "one.sh [DATA_DIR] [FILE] [COLOUR]": """
expect_arguments 0 3
JOB=(train.py)
if ((${#ARGS[@]} == 3)); then
    data_dir="$(directory_argument DATA_DIR "${ARGS[0]}")"
    file="$(file_argument FILE "${ARGS[1]}")"
    colour="$(choice_argument COLOUR "${ARGS[2]}" red blue)"
    JOB+=(--data_dir "$data_dir" --file="$file" --colour "$colour")
fi
JOB+=(--ckpt_save_dir "$CALLER_DIR/run/checkpoints")
device_id="$(integer_argument DEVICE_ID "${DEVICE_ID:-0}")"

single_process_environment
export DEVICE_ID="$device_id"
run_job run log
""",
    "ranks.sh [RANK_TABLE_FILE]": """
expect_arguments 1
table="$(file_argument RANK_TABLE_FILE "${ARGS[0]}")"
JOB=(train.py)
run_rank_table_job ranks log "$table"
""",
    "group.sh [NUMBER]": """
expect_arguments 1
number="$(positive_argument NUMBER "${ARGS[0]}")"
JOB=(train.py --shared)
run_cluster_job group log "$number"
""",
    "numbered.sh [NUMBER]": """
expect_arguments 1
number="$(positive_argument NUMBER "${ARGS[0]}")"
JOB=(train.py --shared)
run_cluster_job group0 log "$number"
""",
    "infer.sh [MODEL] [DATA_DIR]": """
source "$(dirname -- "${BASH_SOURCE[0]}")/shared/infer_common.sh"
expect_arguments 2
model="$(file_argument MODEL "${ARGS[0]}")"
data_dir="$(directory_argument DATA_DIR "${ARGS[1]}")"
RESULTS+=(accuracy)
run_infer "$model" "$data_dir"
run_postprocess --log_path="$CALLER_DIR/accuracy"
""",
    "app.sh [MODEL] [DATA_DIR]": """
source "$(dirname -- "${BASH_SOURCE[0]}")/shared/infer_common.sh"
expect_arguments 2
parse_app_options
model="$(file_argument MODEL "${ARGS[0]}")"
data_dir="$(directory_argument DATA_DIR "${ARGS[1]}")"
read_description "$model"
run_app "$model" "$data_dir" 3
run_postprocess --result_path="$CALLER_DIR/result_Files"
""",
}
TOY = """#!/usr/bin/env bash
set -euo pipefail
USAGE="Usage: bash {call} [OPTIONS]"
source "$(dirname -- "${{BASH_SOURCE[0]}}")/shared/common.sh"
parse_arguments "$@"
{body}"""


def toy_bench(root: Path) -> Iterator[Bench]:
    """A bench with the toys, and data for them in the caller's folder; its jobs are ended at last."""
    scripts = root / "toys"
    scripts.mkdir()
    shutil.copytree(SOURCE, scripts / "shared")
    for call, body in TOYS.items():
        (scripts / call.split()[0]).write_text(TOY.format(call=call, body=body.lstrip()))
    bench = Bench(root, scripts)
    bench.make("some data/", "best weights.ckpt")
    yield bench
    bench.end_jobs()
