"""Tests of the task `scale` of scripts/benchmark.py and of the groups of processes that it measures."""

from __future__ import annotations

import json
import os
import sys
import time

import benchmark
import benchmark_group
from benchmark_group import Group
from benchmark_worker import BenchmarkError, Side

import pytest

JOB = """
import os, sys
sys.path.insert(0, {scripts!r})
from benchmark_worker import serve

def job(spec):
    rank = int(os.environ.get("RANK_ID", "0"))
    print("chatter of a framework")
    count = []

    def step():
        count.append(1)
        if len(count) > spec["lives"] and rank == spec["processes"] - 1:
            sys.exit("out of lives")

    return step, {{"images": 4, "rank": rank, "threads": os.environ["OMP_NUM_THREADS"], "pid": os.getpid()}}

serve(job)
"""
# In place of msrun: starts each rank in a process group of its own, its log where msrun has it; ends them with the first.
MSRUN = """#!{python}
import os, subprocess, sys, time
options = dict(word[2:].split("=") for word in sys.argv[1:] if word.startswith("--"))
command = [word for word in sys.argv[1:] if not word.startswith("--")]
os.mkdir(options["log_dir"])
ranks = [
    subprocess.Popen([sys.executable, *command], env={{**os.environ, "RANK_ID": str(rank)}}, start_new_session=True,
                     stdout=open(f"{{options['log_dir']}}/worker_{{rank}}.log", "w"), stderr=subprocess.STDOUT)
    for rank in range(int(options["worker_num"]))
]
while all(rank.poll() is None for rank in ranks):
    time.sleep(0.01)
for rank in ranks:
    rank.kill()
sys.exit(max(rank.wait() for rank in ranks))
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A group whose last process lives for so many steps."""
    script, msrun = tmp_path / "job.py", tmp_path / "msrun"
    script.write_text(JOB.format(scripts=str(benchmark.ROOT / "scripts")))
    msrun.write_text(MSRUN.format(python=sys.executable))
    msrun.chmod(0o755)
    monkeypatch.setattr(benchmark_group, "SEARCH_PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("RANK_ID", "7")  # of a group that this process belongs to
    return lambda processes, lives: Group(str(script), {"processes": processes, "lives": lives})


def gone(pids):
    """Whether the processes end within ten seconds; the system may be slow to bury those without a parent."""
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("processes", [1, 3])
def test_all_processes_step_and_are_gone_at_the_end(start, processes):
    group = start(processes, lives=100)
    try:
        pids = benchmark_group.children(group.process.pid) or [group.process.pid]
        group.round(3)
        group.round(1)
    finally:
        group.close()
    assert [len(steps) for steps in group.side.rounds] == [3, 1]
    assert group.side.facts["images"] == 4 * processes and group.side.facts["threads"] == "1"
    assert group.side.peak_mb > 1 and group.side.first_step_s > 0
    assert len(pids) == processes
    assert gone(pids)
    assert not os.path.exists(group.folder.name)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_dead_process_is_an_error_with_its_last_lines(start, processes):
    with pytest.raises(BenchmarkError, match=rf"the group of {processes} was not ready; the last lines of its logs:\n"):
        start(processes, lives=0)
    group = start(processes, lives=2)
    try:
        with pytest.raises(BenchmarkError, match=rf"the group of {processes} ended; [\s\S]*chatter"):
            group.round(5)
    finally:
        group.close()


def test_a_group_that_never_comes_is_an_error(start, monkeypatch, tmp_path):
    (tmp_path / "msrun").write_text("#!/bin/sh\necho no such option >&2\nexit 3\n")
    with pytest.raises(BenchmarkError, match="the group of 2 was not ready; [\\s\\S]*no such option"):
        start(2, lives=1)
    (tmp_path / "msrun").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(benchmark_group, "START_SECONDS", 0)
    with pytest.raises(BenchmarkError, match="was not ready"):
        start(2, lives=1)
    monkeypatch.setattr(benchmark_group, "SEARCH_PATH", str(tmp_path / "none"))
    with pytest.raises(BenchmarkError, match="msrun was not found"):
        start(2, lives=1)


def test_efficiency_is_the_ratio_of_the_steps(monkeypatch):
    """Groups of 2 and 4 for 5 cores; time of a step of one process over that of the group, the median of the rounds."""
    seconds = {1: [1.0, 2.0, 1.0], 2: [1.25, 2.5, 1.0], 4: [2.0, 4.0, 3.0]}

    class Measured:
        def __init__(self, script, spec):
            size = spec["processes"]
            rounds = [[second] for second in seconds[size]]
            self.side = Side({"images": 8 * size, "batch_size": 8}, 1.0, rounds, 100.0)

        def round(self, steps):
            pass

        def close(self):
            pass

    monkeypatch.setattr(benchmark, "Group", Measured)
    monkeypatch.setattr(benchmark, "cores", lambda: [0, 1, 2, 3, 4])
    options = benchmark.parse(["--model", "tinynet_e", "--tasks", "scale"])
    rows = list(benchmark.Benchmark("tinynet_e", options, has_torch=False).rows())
    notes = ["2 processes: 80.0% of 2 times one", "4 processes: 50.0% of 4 times one"]
    assert [row.note.split(",")[0] for row in rows] == notes
    assert [row.images_per_second for row in rows] == pytest.approx([12.8, 32 / 3])
    options = benchmark.parse(["--model", "tinynet_e", "--tasks", "scale", "--threads", "1"])
    (row,) = benchmark.Benchmark("tinynet_e", options, has_torch=False).rows()
    assert row.images_per_second is None and row.note == "needs two cores or more"


@pytest.mark.long
@pytest.mark.skipif(len(benchmark.cores()) < 2, reason="a core for each of two processes is needed")
def test_two_processes_for_real(tmp_path, capfd):
    """TinyDarkNet with msrun and the exchange of the gradients."""
    path = tmp_path / "figures.json"
    arguments = ["--tasks", "scale", "--threads", "2", "--image_size", "32", "--batch_size", "2", "--steps", "1"]
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        assert benchmark.main(["--model", "tinydarknet", *arguments, "--rounds", "1", "--json", str(path)]) == 0
    finally:
        if allowed:
            os.sched_setaffinity(0, allowed)
    rows = json.loads(path.read_text())["rows"]
    assert [row["note"][:11] for row in rows] == ["2 processes"]
    assert all(row["images_per_second"] > 0 for row in rows)
    assert "2 processes" in capfd.readouterr().out
