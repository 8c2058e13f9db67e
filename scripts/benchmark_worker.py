"""One side of a comparison in benchmark.py: a child process that repeats a step on demand, seen from both ends.

Says over its pipes, one JSON text a line: the child its facts after the first step; the parent a number of steps; the
child {"seconds": [...], "peak_mb": ...}; and so on until the parent closes the pipe.
"""

from __future__ import annotations

import json
import os
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
    """A child process that repeats one step on demand; see `serve` for what is said over its pipes."""

    def __init__(self, script: str, spec: dict[str, Any], python: str, environment: dict[str, str]):
        self.name = f"{script} {spec['task']}"
        self.errors = tempfile.TemporaryFile()
        start = time.perf_counter()
        self.process = subprocess.Popen(
            [python, str(ROOT / "scripts" / script), json.dumps(spec)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
        )  # fmt: skip
        try:
            facts = self._read()
        except BaseException:
            self.close()
            raise
        self.side = Side(facts, time.perf_counter() - start)

    def round(self, steps: int) -> None:
        """Do up to `steps` steps, fewer where they would take more than ROUND_SECONDS."""
        try:
            self.process.stdin.write(f"{steps}\n")
            self.process.stdin.flush()
        except OSError:  # it is dead; _read tells why
            pass
        answer = self._read()
        self.side.rounds.append(answer["seconds"])
        self.side.peak_mb = answer["peak_mb"]

    def _read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        status = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        raise BenchmarkError("\n  ".join([f"{self.name} ended with status {status}; its last lines:", *lines[-8:]]))

    def close(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def serve(job: Callable[[dict[str, Any]], tuple[Callable[[], Any], dict[str, Any]]]) -> None:
    """The child's side: do a first step, tell the facts, then do as many steps as each line of stdin asks for.

    Args:
        job: from the specification in argv[1] to a function that does one step, and facts for the parent, among them
            "images", the images of a step.
    """
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else the framework prints goes to the log
    step, facts = job(json.loads(sys.argv[1]))
    step()
    print(json.dumps(facts), file=channel, flush=True)
    for line in sys.stdin:
        answer = {"seconds": _timed(step, int(line)), "peak_mb": _peak_mb()}
        print(json.dumps(answer), file=channel, flush=True)


def _timed(step: Callable[[], Any], steps: int) -> list[float]:
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
