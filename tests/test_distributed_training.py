"""Two processes on one machine train as one run: one set of checkpoints, one stop, the evaluation of one process."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from model_utils.checkpoint import load
from model_utils.errors import DataError
from toy.programs import run_eval, run_train
from toy_runs import command_line, last, place, small_run, states

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = f"""
import sys
sys.path[:0] = {[str(ROOT / "utils"), str(ROOT / "tests")]}
from toy.programs import program, run_train
program.run(run_train)
"""
LAUNCHER = """#!/usr/bin/env bash
set -euo pipefail
USAGE="Usage: bash run.sh"
source "$(dirname -- "${BASH_SOURCE[0]}")/shared/common.sh"
parse_arguments "$@"
JOB=(train.py)
run_cluster_job job log 2
"""
TWO = {"batch_size": 2, "epochs": 4, "eval_interval": 1, "ema_decay": 0.9}  # 10 steps of two batches of 2
pytestmark = [
    pytest.mark.usefixtures("programs"),
    pytest.mark.skipif(
        not (Path(sys.executable).parent / "msrun").exists() and shutil.which("msrun") is None,
        reason="msrun comes with MindSpore",
    ),
]


def launch(folder: Path, data: Path, **options) -> subprocess.Popen:
    """Two ranks, whose launcher runs in `folder`."""
    scripts = folder / "model" / "scripts"
    if not scripts.exists():
        shutil.copytree(ROOT / "utils/launchers", scripts / "shared")
        (scripts / "run.sh").write_text(LAUNCHER)
        (folder / "model/train.py").write_text(PROGRAM)
    arguments = small_run(data, folder, **TWO, device_target="CPU", **options)
    place = arguments.index("--run_dir")
    del arguments[place : place + 2]
    return subprocess.Popen(
        ["bash", str(scripts / "run.sh"), "--wait", *arguments],
        cwd=folder, env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "GLOG_v": "3"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def logs(folder: Path) -> list[str]:
    """What the two ranks have printed."""
    return [path.read_text(errors="replace") for path in sorted((folder / "job/msrun_log").glob("worker_*.log"))]


@pytest.fixture(scope="module")
def run(few_digits, tmp_path_factory) -> Path:
    """A run that Ctrl-C has stopped within an epoch, and that was resumed to its end."""
    folder = tmp_path_factory.mktemp("ranks")
    process, curves = launch(folder, few_digits), folder / "job/curves.csv"
    while not curves.is_file() or curves.read_text().count("loss") <= 3:
        assert process.poll() is None, process.communicate()[0] + "".join(logs(folder))
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output + "".join(logs(folder))
    first, second = ((folder / "job" / name).read_text() for name in ("train.log", "rank_1_train.log"))
    assert "stopping on signal" in first and "stopping on signal" in second
    assert place(last(folder)) != "4_10", "it was over before it was stopped"
    assert last(folder).name in first and "checkpoint: " not in second, "one rank saves, the first one"
    process = launch(folder, few_digits, resume="auto")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output + "".join(logs(folder))
    return folder


def test_one_set_of_checkpoints(run):
    assert place(last(run)) == "4_10", "40 pictures make ten steps of two batches of two"
    assert [path.parent for path in states(run)] == [run / "checkpoints"] * len(states(run))
    about = load(last(run))[1]
    assert about["devices"] == 2 and about["steps_per_epoch"] == 10
    log = (run / "job/train.log").read_text()
    assert re.search(r"(?m)^resumed from \S+: epoch \d step \d+$", log) and log.count("validation after epoch 4") == 1


def test_the_evaluation_is_that_of_one_process(run, few_digits, tmp_path):
    """Also of the moving average: the ranks have evaluated the weights that are saved, on all pictures."""
    said = re.search(r"validation after epoch 4: (.*);", (run / "job/train.log").read_text())[1]
    for prefix, use_ema in (("", False), ("ema_", True)):
        options = command_line(
            checkpoint_path=last(run), val_data_dir=few_digits / "val", run_dir=tmp_path, use_ema=use_ema
        )
        totals = run_eval(options)
        for name, value in totals.accuracies().items():
            assert f"{prefix}{name} {value:.4f}" in said


def test_the_run_goes_on_with_another_number_of_processes(run, few_digits, tmp_path):
    """With a batch as large as that of both; else the steps of an epoch are others, which is refused."""
    shutil.copytree(run / "checkpoints", tmp_path / "checkpoints")
    longer = {**TWO, "epochs": 5, "eval_interval": 0, "resume": "auto"}
    with pytest.raises(DataError, match=r"10 steps an epoch, this run has 20: .* of devices \(2 then, 1 now\)"):
        run_train(small_run(few_digits, tmp_path, **longer))
    assert run_train(small_run(few_digits, tmp_path, **{**longer, "batch_size": 4})) == 0
    assert "devices were 2, are 1" in (tmp_path / "run/train.log").read_text() and place(last(tmp_path)) == "5_10"
