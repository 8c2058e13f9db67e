"""One side of a comparison in benchmark.py: a child process that repeats a step on demand, seen from both ends.

Says over its pipes, one JSON text a line: the child its facts after the first step; the parent a number of steps; the
child {"seconds": [...], "peak_mb": ...}; and so on until the parent closes the pipe. A child in whose environment SOCKET
is says the same over the Unix socket of that address.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ROUND_SECONDS = 10.0  # a slow side does fewer steps a round, at least one
SOCKET = "BENCHMARK_SOCKET"
OBJECTS = 7  # boxes of each training image of a detector

Step = Callable[[], Any]
Job = tuple[Step, dict[str, Any]]


class BenchmarkError(Exception):
    """A side could not be measured."""


@dataclass
class Side:
    """The figures of one process: seconds of each step, round by round."""

    facts: dict[str, Any]
    first_step_s: float
    rounds: list[list[float]] = field(default_factory=list)
    peak_mb: float = 0.0

    @property
    def seconds(self) -> float:
        return statistics.median(second for steps in self.rounds for second in steps)

    @property
    def images_per_second(self) -> float:
        return self.facts["images"] / self.seconds


class Worker:
    """A child process that repeats one step on demand. Its current directory and its log vanish when it is closed.

    Args:
        script: file in scripts/ that calls `serve`.
        spec: what the child needs to know, see the scripts.
        python: interpreter.
        environment: its environment variables.

    Raises:
        BenchmarkError: the child ended; the message holds the last lines of its log.
    """

    def __init__(self, script: str, spec: dict[str, Any], python: str, environment: dict[str, str]):
        self.name = f"{script} {spec['task']}"
        self.folder = tempfile.TemporaryDirectory()
        self.log = Path(self.folder.name) / "log"
        start = time.perf_counter()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [python, str(ROOT / "scripts" / script), json.dumps(spec)],
                env=environment, cwd=self.folder.name, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        try:
            facts = self._read()
        except BaseException:
            self.close()
            raise
        self.side = Side(facts, time.perf_counter() - start)

    def round(self, steps: int) -> None:
        """Do up to `steps` steps, fewer where they would take more than ROUND_SECONDS."""
        with contextlib.suppress(BrokenPipeError):  # it is dead; _read tells why
            self.process.stdin.write(f"{steps}\n")
            self.process.stdin.flush()
        answer = self._read()
        self.side.rounds.append(answer["seconds"])
        self.side.peak_mb = answer["peak_mb"]

    def _read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        status = self.process.wait()
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise BenchmarkError("\n  ".join([f"{self.name} ended with status {status}; its last lines:", *lines[-12:]]))

    def close(self) -> None:
        """End the child: it leaves when its standard input closes; one in the middle of a long step is killed."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.folder.cleanup()


def serve(job: Callable[[dict[str, Any]], Job]) -> None:
    """The child's side: do a first step, tell the facts, then do as many steps as each line of stdin asks for.

    Args:
        job: from the specification in argv[1] to a function that does one step, and facts for the parent, among them
            "images", the images of a step.
    """
    orders, channel = sys.stdin, os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else the framework prints goes to the log
    step, facts = job(json.loads(sys.argv[1]))
    step()
    if SOCKET in os.environ:  # only now: the scheduler of a group runs this program too, and never comes here
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(os.environ[SOCKET])
        orders, channel = connection.makefile("r"), connection.makefile("w")
    print(json.dumps(facts), file=channel, flush=True)
    for line in orders:
        answer = {"seconds": timed(step, int(line)), "peak_mb": _peak_mb()}
        print(json.dumps(answer), file=channel, flush=True)


def timed(step: Step, steps: int) -> list[float]:
    """Seconds of each of `steps` steps, fewer where they would take more than ROUND_SECONDS, but one at least."""
    seconds: list[float] = []
    while len(seconds) < steps and (not seconds or sum(seconds) + seconds[-1] < ROUND_SECONDS):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds


def _peak_mb() -> float:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
