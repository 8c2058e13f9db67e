"""Tests of scripts/benchmark_postprocess.py: it runs, and its outputs are what it says."""

import re
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[1] / "scripts" / "benchmark_postprocess.py"


def run(*arguments):
    return subprocess.run([sys.executable, str(PROGRAM), *arguments], capture_output=True, text=True, timeout=300)


def test_program_prints_a_row_for_each_kind():
    """At 64 pixels there are 84 cells of 3 anchors; all of them are candidates of an untrained network, in each class."""
    done = run("--side", "64", "--classes", "3", "--rounds", "1")
    assert done.returncode in (0, 1), done.stderr  # 1: a slow machine
    rows = {
        name: (int(count), int(kept)) for name, count, kept in re.findall(r"(?m)^(\w+) +(\d+) +(\d+) ", done.stdout)
    }
    assert list(rows) == ["trained", "crowded", "untrained", "collapsed"]
    assert rows["untrained"] == (3 * 84 * 3, 100) and rows["collapsed"] == (3 * 84 * 3, 3)
    assert rows["trained"][0] < rows["crowded"][0] < rows["untrained"][0]


def test_wrong_usage_has_status_2():
    done = run("--side", "40")
    assert done.returncode == 2 and "--side takes a multiple of 32" in done.stderr
