"""Two processes on one machine: one training, and the evaluation of one process."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from conftest import FOLDER, SHALLOW, contents, small_run

import numpy as np
import pytest

BESIDE = Path(sys.executable).parent
pytestmark = pytest.mark.skipif(
    not (BESIDE / "msrun").exists() and shutil.which("msrun") is None, reason="msrun comes with MindSpore"
)
# What the word python means here: this interpreter, whose programs have the shallow network.
PYTHON = f"""#!/usr/bin/env bash
case "$1" in
    *.py) exec {sys.executable} -c "{SHALLOW}import runpy, sys; sys.argv = sys.argv[1:]; \
runpy.run_path(sys.argv[0], run_name='__main__')" "$@" ;;
    *) exec {sys.executable} "$@" ;;
esac
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("bin")
    (folder / "python").write_text(PYTHON)
    (folder / "python").chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{BESIDE}:{os.environ['PATH']}", "PYTHONPATH": str(FOLDER), "GLOG_v": "3",
            "DEVICE_NUM": "2", "OMP_NUM_THREADS": "1"}  # fmt: skip


@pytest.fixture(scope="module")
def trained(few_digits, environment, tmp_path_factory) -> Path:
    """One epoch of 16 / (2 * 4) steps, in two sizes; both ranks save."""
    out = tmp_path_factory.mktemp("distributed")
    changes = {"max_epoch": 1, "is_distributed": 1, "is_save_on_master": False, "seed": 4, "log_interval": 1}
    options = small_run(few_digits, out, **changes)
    del options[options.index("--log_path") : options.index("--log_path") + 2]
    result = subprocess.run(
        ["bash", str(FOLDER / "scripts/run_distribute_train.sh"), str(few_digits), "--wait", *options],
        cwd=out, env=environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr + logs_of(out)[-3000:]
    return out


def logs_of(out: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in sorted(out.rglob("*log*")) if path.is_file())


def test_both_ranks_have_the_same_weights(trained):
    (run,) = (trained / "outputs").iterdir()
    assert sorted(str(path.relative_to(run)) for path in run.rglob("*.ckpt")) == [
        "ckpt_0/0-1_2.ckpt",
        "ckpt_1/1-1_2.ckpt",
    ]
    first, second = contents(run / "ckpt_0/0-1_2.ckpt"), contents(run / "ckpt_1/1-1_2.ckpt")
    assert first.keys() == second.keys()
    for name, value in first.items():
        own = name.endswith((".moving_mean", ".moving_variance"))  # of the images that the rank has seen
        assert np.array_equal(value, second[name]) != own, name


def test_both_ranks_see_the_same_sizes(trained):
    folder = trained / "train_parallel0"
    lines = [re.findall(r"(?m)^iter\[\d+\], shape\d+$", (folder / name).read_text())
             for name in ("log.txt", "rank_1_train.log")]  # fmt: skip
    assert lines[0] == lines[1] == ["iter[0], shape64", "iter[1], shape96"]
    documented = r"(?m)^\S+ \S+:INFO:epoch\[0\], iter\[1\], loss:\S+, \S+ imgs/sec, lr:\S+, per step time:\S+ms$"
    assert re.search(documented, (folder / "log.txt").read_text())


def test_evaluation_equals_that_of_one_process(trained, few_digits, environment, tmp_path):
    """Ten images, five for each rank: the same detections, byte for byte, and the same measures."""
    checkpoint = next((trained / "outputs").rglob("0-1_2.ckpt"))
    arguments = ["eval.py", "--data_dir", str(few_digits), "--pretrained", str(checkpoint), "--device_target", "CPU",
                 "--per_batch_size", "4"]  # fmt: skip
    found, measures = [], []
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    msrun = ["msrun", "--worker_num=2", "--local_worker_num=2", "--master_addr=127.0.0.1", f"--master_port={port}",
             f"--log_dir={tmp_path / 'msrun'}", "--join=True", "--cluster_time_out=300"]  # fmt: skip
    for name, command in (("one", ["python"]), ("two", msrun)):
        result = subprocess.run(
            [*command, *arguments, "--log_path", str(tmp_path / name)],
            cwd=FOLDER, env=environment, capture_output=True, text=True, timeout=400,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout + result.stderr + logs_of(tmp_path)[-3000:]
        (predictions,) = (tmp_path / name).glob("predict_*.json")
        found.append(predictions.read_bytes())
        measures.append(re.findall(r"(?m)^ Average .*$", (tmp_path / name / "eval.log").read_text()))
    assert found[0] == found[1] and len(found[0]) > 1000
    assert len(measures[0]) == 12 and measures[0] == measures[1]
