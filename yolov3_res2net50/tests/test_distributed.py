"""Two processes on one machine: one training, and the evaluation of one process. (test_evaluation.py simulates ranks.)"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from conftest import FOLDER, contents, small_run

import numpy as np
import pytest

BESIDE = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, "PATH": f"{BESIDE}:{os.environ['PATH']}", "GLOG_v": "3", "DEVICE_NUM": "2",
               "OMP_NUM_THREADS": "1"}  # fmt: skip


@pytest.mark.long
@pytest.mark.skipif(
    not (BESIDE / "msrun").exists() and shutil.which("msrun") is None, reason="msrun comes with MindSpore"
)
def test_two_processes(few_digits, tmp_path):
    """One epoch of 16 / (2 * 4) steps, in two sizes, in which both ranks save; then ten images on one and two processes."""
    changes = {"max_epoch": 1, "is_distributed": 1, "is_save_on_master": False, "seed": 4, "log_interval": 1}
    options = small_run(few_digits, tmp_path, **changes)
    del options[options.index("--log_path") : options.index("--log_path") + 2]  # the launcher's own
    run(["bash", FOLDER / "scripts/run_distribute_train.sh", few_digits, "--wait", *options], tmp_path)
    check_weights(tmp_path)
    check_lines(tmp_path / "train_parallel0")
    checkpoint = next((tmp_path / "outputs").rglob("0-1_2.ckpt"))
    one, two = (evaluation(command, few_digits, checkpoint, tmp_path) for command in (["python"], msrun(tmp_path)))
    assert one == two and len(one[0]) > 1000 and len(one[1]) == 12


def run(command: list, out: Path) -> None:
    result = subprocess.run(
        [*map(str, command)], cwd=out, env=ENVIRONMENT, capture_output=True, text=True, timeout=600
    )  # fmt: skip
    logs = "".join(path.read_text(errors="replace") for path in sorted(out.rglob("*log*")) if path.is_file())
    assert result.returncode == 0, result.stdout + result.stderr + logs[-3000:]


def check_weights(out: Path) -> None:
    """Both ranks have the same weights; the running statistics are those of the images that a rank has seen."""
    (folder,) = (out / "outputs").iterdir()
    files = sorted(folder.rglob("*.ckpt"))
    assert [str(path.relative_to(folder)) for path in files] == ["ckpt_0/0-1_2.ckpt", "ckpt_1/1-1_2.ckpt"]
    first, second = map(contents, files)
    assert first.keys() == second.keys()
    for name, value in first.items():
        own = name.endswith((".moving_mean", ".moving_variance"))
        assert np.array_equal(value, second[name]) != own, name


def check_lines(folder: Path) -> None:
    """Both ranks see the same sizes; the first one writes the documented lines."""
    for name in ("log.txt", "rank_1_train.log"):
        lines = re.findall(r"(?m)^iter\[\d+\], shape\d+$", (folder / name).read_text())
        assert lines == ["iter[0], shape64", "iter[1], shape96"]
    documented = r"(?m)^\S+ \S+:INFO:epoch\[0\], iter\[1\], loss:\S+, \S+ imgs/sec, lr:\S+, per step time:\S+ms$"
    assert re.search(documented, (folder / "log.txt").read_text())


def msrun(out: Path) -> list[str]:
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    return ["msrun", "--worker_num=2", "--local_worker_num=2", "--master_addr=127.0.0.1", f"--master_port={port}",
            f"--log_dir={out / 'msrun'}", "--join=True", "--cluster_time_out=300"]  # fmt: skip


def evaluation(command: list[str], data: Path, checkpoint: Path, out: Path) -> tuple[bytes, list[str]]:
    """The detections of eval.py, byte for byte, and its measures."""
    folder = out / command[0]
    run([*command, FOLDER / "eval.py", "--data_dir", data, "--pretrained", checkpoint, "--device_target", "CPU",
         "--per_batch_size", 4, "--log_path", folder], out)  # fmt: skip
    (predictions,) = folder.glob("predict_*.json")
    return predictions.read_bytes(), re.findall(r"(?m)^ Average .*$", (folder / "eval.log").read_text())
