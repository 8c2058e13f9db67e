"""The launcher with OpenMPI's own mpirun: ranks that are no training, but a program that notes what it got.

MindSpore joins processes of mpirun on GPU and Ascend only, so that a training cannot be run here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAUNCHER = ROOT / "tinydarknet/scripts/run_distribute_train_gpu.sh"
MPIRUN = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
# The launcher itself runs small programs with -c.
RANK = """#!{python}
import os, sys, time
if sys.argv[1] == "-c":
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
print("rank", rank, "of", os.environ["OMPI_COMM_WORLD_SIZE"], "on", cores, "cores", os.getpid(), flush=True)
print("DEVICE_ID" in os.environ, sys.argv[1], file=sys.stderr, flush=True)
if rank == int(os.environ.get("BAD_RANK", "-1")):
    time.sleep(0.5)
    if os.environ["BAD_STATUS"] == "9":
        os.kill(os.getpid(), 9)
    sys.exit(int(os.environ["BAD_STATUS"]))
time.sleep(float(os.environ["SECONDS_TO_LIVE"]))
"""

pytestmark = pytest.mark.skipif(MPIRUN is None, reason="no mpirun beside the interpreter or on PATH")


@pytest.fixture
def start(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text(RANK.format(python=sys.executable))
    (tmp_path / "bin/python").chmod(0o755)

    def run(**environment):
        path = f"{tmp_path / 'bin'}{os.pathsep}{Path(MPIRUN).parent}{os.pathsep}{os.environ['PATH']}"
        # More ranks than cores are refused by default.
        variables = {"PATH": path, "LAUNCHER": "mpirun", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
                     "OMPI_MCA_rmaps_base_oversubscribe": "1", "DEVICE_ID": "6",
                     "LAUNCH_KILL_SECONDS": "1"}  # fmt: skip
        return subprocess.run(
            ["bash", str(LAUNCHER), "3", "--wait"], env={**os.environ, **variables, **environment}, cwd=tmp_path,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    return run


def logs(folder):
    found = sorted((folder / "distribute_train_gpu/log_output").iterdir())
    assert [path.name for path in found] == ["worker_0.log", "worker_1.log", "worker_2.log"]
    return [path.read_text().split() for path in found]


def test_every_rank_has_its_number_all_cores_and_a_log(start, tmp_path):
    result = start(SECONDS_TO_LIVE="0.2")
    assert result.returncode == 0, result.stdout + result.stderr
    cores = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0)
    for rank, words in enumerate(logs(tmp_path)):
        assert words[:7] == ["rank", str(rank), "of", "3", "on", cores, "cores"]
        assert words[8:] == ["False", "train.py"]


@pytest.mark.parametrize("status, expected", [("7", 7), ("9", 137)])
def test_a_dead_rank_ends_the_others_and_is_named(start, tmp_path, status, expected):
    begin = time.monotonic()
    result = start(SECONDS_TO_LIVE="100", BAD_RANK="1", BAD_STATUS=status)
    assert result.returncode == expected
    log = tmp_path / "distribute_train_gpu/log_output/worker_1.log"
    assert f"launcher: error: rank 1 ended with status {expected}; its log: {log}" in result.stderr
    pids = [words[7] for words in logs(tmp_path)]
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() - begin < 60:
        time.sleep(0.05)
    assert time.monotonic() - begin < 60
