"""Several processes against one: weights after each step, shards, collectives, evaluation, and the death of a rank.

The jobs run tests/distributed_worker.py, started by run_cluster_job of utils/launchers/common.sh with the real msrun.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("distributed_worker.py")
LAUNCHER = """#!/usr/bin/env bash
set -euo pipefail
USAGE="Usage: bash run.sh NUMBER"
source "$(dirname -- "${BASH_SOURCE[0]}")/shared/common.sh"
parse_arguments "$@"
JOB=(distributed_worker.py)
run_cluster_job train log "${ARGS[0]}"
"""
# msrun starts its scheduler on the server that has the address of the first one. Here both servers are this machine, so
# the first one is told an address that the second one, by its routes, does not have.
FIRST_ADDRESS = "127.0.0.2"
ADDRESSES = f"""#!/bin/sh
echo '[{{"ifname": "lo", "addr_info": [{{"family": "inet", "local": "{FIRST_ADDRESS}"}}]}}]'
"""
pytestmark = pytest.mark.skipif(
    not (Path(sys.executable).parent / "msrun").exists() and shutil.which("msrun") is None,
    reason="msrun comes with MindSpore",
)
IMAGES, ODD_IMAGES, GLOBAL_BATCH, STEPS = 320, 317, 32, 20  # as in distributed_worker.py
SECONDS = 600  # after which a job is taken to hang, on however slow a machine


class Server:
    """A folder that a job is started in; `processes` of the job run there."""

    def __init__(self, root: Path, processes: int, **environment: str):
        self.folder, self.processes = root / "some where", processes
        scripts = root / "model" / "scripts"
        for folder in (self.folder, scripts, root / "bin"):
            folder.mkdir(parents=True)
        shutil.copytree(ROOT / "utils/launchers", scripts / "shared")
        (scripts / "run.sh").write_text(LAUNCHER)
        shutil.copy(WORKER, root / "model")
        self.command = ["bash", str(scripts / "run.sh"), str(processes), "--wait"]
        self.environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT / "utils"),
                            "OMP_NUM_THREADS": "1", "GLOG_v": "3", "LAUNCH_KILL_SECONDS": "1", **environment}  # fmt: skip
        if environment.get("NODE_RANK") == "0":
            (root / "bin" / "ip").write_text(ADDRESSES)
            (root / "bin" / "ip").chmod(0o755)
            self.environment["PATH"] = f"{root / 'bin'}:{os.environ['PATH']}"

    def start(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*self.command, *arguments], cwd=self.folder, env=self.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def path(self, name: str) -> Path:
        return self.folder / "train" / name

    def log(self) -> str:
        logs = sorted(self.path("msrun_log").glob("*.log"))
        return "".join(f"\n== {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in logs)


def two_servers(root: Path, processes: int) -> list[Server]:
    with socket.socket() as free:
        free.bind((FIRST_ADDRESS, 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": FIRST_ADDRESS, "MASTER_PORT": port, "WORKER_NUM": str(2 * processes)}
    return [Server(root / f"server{rank}", processes, NODE_RANK=str(rank), **common) for rank in (0, 1)]


def read(servers: list[Server]) -> list[dict[str, np.ndarray]]:
    """What each rank of a job has noted, by rank."""
    files = [path for server in servers for path in server.path("ranks").glob("*.npz")]
    found = [dict(np.load(path)) for path in sorted(files, key=lambda path: int(path.stem))]
    assert [tuple(rank["rank"]) for rank in found] == [(number, len(found)) for number in range(len(found))]
    return found


@dataclass
class Job:
    """A job at its end: what its ranks have noted, and how its launchers, one on each server, ended."""

    servers: list[Server]
    ranks: list[dict[str, np.ndarray]]
    statuses: list[int]
    outputs: list[str]
    pids: list[int] | None  # of the ranks, the second of which was killed; None: the job ended by itself


def run(servers: list[Server], kill: bool) -> Job:
    """Run a job; with `kill`, rank 1 is killed when all have noted their results and go on exchanging."""
    jobs = [server.start(*["--go_on"] * kill) for server in servers]
    try:
        pids = None
        if kill:
            places = [server for server in servers for _ in range(server.processes)]
            pids = [awaited_pid(server.path(f"ranks/{rank}.pid"), jobs) for rank, server in enumerate(places)]
            os.kill(pids[1], signal.SIGKILL)
        outputs = [job.communicate(timeout=SECONDS)[0] for job in jobs]
    finally:
        for job in jobs:
            if job.poll() is None:
                job.terminate()
                job.wait(SECONDS)
    statuses = [job.returncode for job in jobs]
    assert kill or statuses == [0] * len(jobs), "".join(outputs + [server.log() for server in servers])
    return Job(servers, read(servers), statuses, outputs, pids)


def awaited_pid(path: Path, jobs: list[subprocess.Popen]) -> int:
    deadline = time.monotonic() + SECONDS
    while not (path.is_file() and path.read_text()):
        for job in jobs:
            assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < deadline, f"{path} is not there"
        time.sleep(0.1)
    return int(path.read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, np.ndarray]:
    """One process, without msrun."""
    return run([Server(tmp_path_factory.mktemp("one"), 1)], kill=False).ranks[0]


LONG = [pytest.param(name, marks=pytest.mark.long) for name in ("4 processes", "2 servers")]


@pytest.fixture(scope="module", params=["2 processes", *LONG])
def job(request, tmp_path_factory) -> Job:
    root = tmp_path_factory.mktemp("several")
    if request.param == "2 servers":
        return run(two_servers(root, 1), kill=True)
    return run([Server(root, int(request.param[0]))], kill=request.param == "2 processes")


@pytest.fixture
def ranks(job) -> list[dict[str, np.ndarray]]:
    return job.ranks


def test_weights_after_each_step(alone, ranks):
    """All ranks have the same bits; they are those of one process with the batches of all, up to rounding."""
    one = {name: value for name, value in alone.items() if name.startswith("weights/")}
    assert ranks[0].keys() == alone.keys() and {name.split("/")[1] for name in one} == set(
        map(str, range(1, STEPS + 1))
    )
    for name, value in one.items():
        for other in ranks[1:]:
            np.testing.assert_array_equal(ranks[0][name], other[name], err_msg=name)
        assert np.abs(ranks[0][name] - value).max() <= 1e-5 * np.abs(value).max(), name
    np.testing.assert_allclose(np.mean([rank["losses"] for rank in ranks], axis=0), alone["losses"], rtol=1e-5)
    assert alone["losses"][-1] < 0.5 * alone["losses"][0]


@pytest.mark.parametrize("epoch", [1, 2])
def test_shards_cover_the_data_set_once(alone, ranks, epoch):
    """The batches of a step are, over all ranks, those of one process; an epoch holds every digit once."""
    for images in (IMAGES, ODD_IMAGES):
        key = f"train/{images}/{epoch}"
        together = np.concatenate([rank[key] for rank in ranks], axis=1)
        assert together.shape == alone[key].shape == (images // GLOBAL_BATCH, GLOBAL_BATCH)
        np.testing.assert_array_equal(np.sort(together, axis=1), np.sort(alone[key], axis=1))
        assert len(np.unique(together)) == together.size
    assert not np.array_equal(alone[f"train/{IMAGES}/1"], alone[f"train/{IMAGES}/2"])


def test_evaluation_equals_that_of_one_process(alone, ranks):
    """Every digit once, although the ranks have unequal shares; number, hits and loss to the last digit."""
    np.testing.assert_array_equal(np.sort(np.concatenate([rank["eval"] for rank in ranks])), np.arange(ODD_IMAGES))
    for rank in ranks:
        assert rank["totals"].tolist() == alone["totals"].tolist()
    assert alone["totals"][0] == ODD_IMAGES and alone["totals"][3] > 1


def test_sum_and_gather_are_exact(ranks):
    """More values than are exchanged at a time, ranks with different numbers of rows, with four ranks one without any."""
    size, everything = len(ranks), np.concatenate([rank["given"] for rank in ranks])
    assert everything.size > 65536 and len({len(rank["given"]) for rank in ranks}) == size
    assert size == 2 or len(ranks[1]["given"]) == 0
    for rank in ranks:
        assert rank["sum"].tolist() == [size * (size + 1) / 2, 2.0**23, -size * (size - 1) / 2, 0.0]
        np.testing.assert_array_equal(rank["gathered"], everything)
        assert rank["gathered"].dtype == np.float32
        assert rank["gathered_nothing"].shape == (0, everything.shape[1])


def test_end_of_the_job(job):
    """A dead rank ends the whole job: its launcher names it and its log, the one of another server ends with an error too."""
    if job.pids is None:
        assert job.statuses == [0]
        return
    assert job.statuses[-1] == 137 and 0 not in job.statuses, job.outputs
    log = job.servers[-1].path("msrun_log/worker_1.log")
    assert f"rank 1 ended with status 137; its log: {log}" in job.outputs[-1]
    assert not any(map(is_alive, job.pids))


def is_alive(pid: int) -> bool:
    try:
        return b"distributed_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
