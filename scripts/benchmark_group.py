"""Processes that train together: a side of benchmark.py with one core and one thread for each process, seen by the parent."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmark_worker import ROOT, SOCKET, BenchmarkError, Side, timed

START_SECONDS = 300  # in which the processes must do their first step, and every later one
SEARCH_PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
LOG_LINES = 12  # of a process that failed


class Group:
    """Processes that do the same step at the same time; they have the methods of a Worker.

    msrun starts them; a group of one is started without it. After its first step each connects to a socket of the parent,
    by which it is told what a Worker is told by its pipes.

    Args:
        script: file in scripts/ that calls `serve`.
        spec: what the processes need to know; spec["processes"] is their number.

    Raises:
        BenchmarkError: they ended, or were not ready in time; the message holds the end of their log.
    """

    def __init__(self, script: str, spec: dict[str, Any]):
        self.processes = spec["processes"]
        self.ranks: list[Any] = []  # files to read from and to write to
        self.folder = tempfile.TemporaryDirectory()
        self.log = Path(self.folder.name) / "log"
        start = time.perf_counter()
        with socket.socket(socket.AF_UNIX) as listener, self.log.open("wb") as log:
            listener.bind(str(Path(self.folder.name) / "socket"))
            listener.listen(self.processes)
            listener.settimeout(1.0)
            launcher = [sys.executable] if self.processes == 1 else msrun(self.processes, self.log.with_name("msrun"))
            self.process = subprocess.Popen(
                [*launcher, str(ROOT / "scripts" / script), json.dumps(spec)], env=environment(listener.getsockname()),
                cwd=self.folder.name, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
            try:
                facts = self._accept(listener)
            except BaseException:
                self.close()
                raise
        facts["images"] *= self.processes
        self.side = Side(facts, time.perf_counter() - start)

    def _accept(self, listener: socket.socket) -> dict[str, Any]:
        """Wait until all processes have done their first step; returns the facts of one."""
        deadline = time.monotonic() + START_SECONDS
        while len(self.ranks) < self.processes:
            try:
                connection, _ = listener.accept()
            except socket.timeout:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise self._failure("was not ready") from None
                continue
            connection.settimeout(START_SECONDS)
            with connection:
                self.ranks.append(connection.makefile("rw"))
        return [self._read(rank) for rank in self.ranks][0]

    def round(self, steps: int) -> None:
        """Do up to `steps` steps; notes the seconds until all processes have done each."""
        self.side.rounds.append(timed(self._step, steps))

    def _step(self) -> None:
        for rank in self.ranks:
            with contextlib.suppress(ConnectionError):  # it is dead; _read tells
                rank.write("1\n")
                rank.flush()
        for rank in self.ranks:
            self.side.peak_mb = max(self.side.peak_mb, self._read(rank)["peak_mb"])

    def _read(self, rank) -> dict[str, Any]:
        with contextlib.suppress(OSError):  # a lost connection, or nothing for START_SECONDS
            line = rank.readline()
            if line:
                return json.loads(line)
        raise self._failure("ended")

    def _failure(self, what: str) -> BenchmarkError:
        text = [f"the group of {self.processes} {what}; the last lines of its logs:"]
        for log in sorted(self.log.with_name("msrun").glob("worker_*.log")) or [self.log]:
            text += [f"{log.name}:", *log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]]
        return BenchmarkError("\n  ".join(text))

    def close(self) -> None:
        """End the processes, and msrun with its scheduler: they have nothing to save."""
        for rank in self.ranks:
            with contextlib.suppress(ConnectionError):
                rank.close()
        for pid in [*children(self.process.pid), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.folder.cleanup()


def environment(address: str) -> dict[str, str]:
    """Of the processes: one thread each, and nothing of another group that this process may belong to."""
    found = {**os.environ, "PATH": SEARCH_PATH, "OMP_NUM_THREADS": "1"}
    for name in ("RANK_ID", "RANK_SIZE", "DEVICE_ID", "MS_WORKER_NUM", "RANK_TABLE_FILE"):
        found.pop(name, None)
    return {**found, SOCKET: address}


def children(pid: int) -> list[int]:
    """All processes below a process; those of msrun are in groups of their own."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, path.read_text().split()):
                found += [*children(child), child]
    return found


def msrun(processes: int, folder: Path) -> list[str]:
    """The words before the program."""
    path = shutil.which("msrun", path=SEARCH_PATH)
    if path is None:
        raise BenchmarkError("msrun was not found beside the interpreter or on PATH; it comes with MindSpore")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [path, f"--worker_num={processes}", f"--local_worker_num={processes}", "--master_addr=127.0.0.1",
            f"--master_port={port}", f"--log_dir={folder}", "--join=True",
            f"--cluster_time_out={START_SECONDS}"]  # fmt: skip
