"""Two processes on one machine: one run, identical weights, one set of checkpoints, the evaluation of one process."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import FOLDER, program, states

import pytest

MSRUN = Path(sys.executable).parent / "msrun"


def launch(cwd: Path, *arguments) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHON": sys.executable, "DEVICE_NUM": "2", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", str(FOLDER / "scripts/run_distribute_train.sh"), *map(str, arguments)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.skipif(not MSRUN.exists() and shutil.which("msrun") is None, reason="msrun comes with MindSpore")
def test_two_processes_train_as_one(few_digits, tmp_path):
    options = [
        "--wait", "--device_target", "CPU", "--dataset_name", "cifar10", "--train_data_dir", few_digits,
        "--val_data_dir", few_digits, "--image_height", 32, "--image_width", 32, "--batch_size", 8, "--epoch_size", 1,
        "--cutout_ratio", 0, "--eval_interval", 1, "--ckpt_save_dir", tmp_path / "checkpoints",
    ]  # fmt: skip
    result = launch(tmp_path, *options)
    logs = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*log*") if path.is_file())
    assert result.returncode == 0, result.stdout + result.stderr + logs[-3000:]
    assert [path.name for path in states(tmp_path)] == ["train_tinydarknet_cifar10-1_7.ckpt"]  # 112 / (2 * 8)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["0"]
    found = re.search(r"validation after epoch 1: top_1_accuracy (\S+),", logs)
    alone = program(
        "eval.py", "--dataset_name", "cifar10", "--val_data_dir", few_digits, "--device_target", "CPU",
        "--checkpoint_path", states(tmp_path)[-1], "--run_dir", tmp_path / "eval", cwd=tmp_path,
    )  # fmt: skip
    top_1 = re.search(r"'top_1_accuracy': ([0-9.]+)", alone.stdout)
    assert f"{float(top_1[1]):.4f}" == found[1]


@pytest.mark.skipif(not MSRUN.exists() and shutil.which("msrun") is None, reason="msrun comes with MindSpore")
def test_interrupt_stops_both_at_one_step(few_digits, tmp_path):
    """The launcher passes Ctrl-C on; the ranks agree on the step, save once, and their status is the launcher's."""
    environment = {**os.environ, "PYTHON": sys.executable, "DEVICE_NUM": "2", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        ["bash", str(FOLDER / "scripts/run_distribute_train.sh"), "--wait", "--device_target", "CPU",
         "--dataset_name", "cifar10", "--train_data_dir", str(few_digits), "--image_height", "48", "--image_width", "48",
         "--batch_size", "2", "--epoch_size", "50", "--log_interval", "1",
         "--ckpt_save_dir", str(tmp_path / "checkpoints")],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    curves = tmp_path / "train_parallel0/curves.csv"
    while not curves.is_file() or curves.read_text().count("loss") <= 5:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    logs = [path.read_text(errors="replace") for path in sorted(tmp_path.rglob("worker_*.log"))]
    assert process.returncode == 130, output + "".join(logs)[-3000:]
    assert len(logs) == 2 and len(states(tmp_path)) >= 1
    assert "stopping on signal" in logs[0] and states(tmp_path)[-1].name in logs[0]


def pid_of_rank(rank: int, folder: Path) -> int:
    """The process of a rank whose command line names `folder`."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, variables = (process / "cmdline").read_bytes(), (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(folder) in command and {b"MS_ROLE=MS_WORKER", b"RANK_ID=%d" % rank} <= set(variables):
            return int(process.name)
    raise AssertionError(f"no process of rank {rank}")


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits for its parent has no command line any more."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


@pytest.mark.skipif(not MSRUN.exists() and shutil.which("msrun") is None, reason="msrun comes with MindSpore")
def test_killed_rank_and_resumption(few_digits, tmp_path):
    """The launcher ends the other rank and names the dead one; --resume auto goes on to the end, on one device too."""
    common = [
        "--device_target", "CPU", "--dataset_name", "cifar10", "--train_data_dir", few_digits, "--image_height", 32,
        "--image_width", 32, "--epoch_size", 6, "--ckpt_save_dir", tmp_path / "checkpoints",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHON": sys.executable, "DEVICE_NUM": "2", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        ["bash", str(FOLDER / "scripts/run_distribute_train.sh"), "--wait", *map(str, common), "--batch_size", "2"],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    while not states(tmp_path):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    pids = [pid_of_rank(rank, tmp_path) for rank in (0, 1)]
    os.kill(pids[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 137, output
    log = tmp_path / "train_parallel0/msrun_log/worker_1.log"
    assert f"rank 1 ended with status 137; its log: {log}" in output
    deadline = time.monotonic() + 10
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, "a rank runs on"
        time.sleep(0.1)
    assert not [path for path in states(tmp_path) if path.name.endswith("-6_28.ckpt")], (
        "it was over before it was killed"
    )

    resumed = launch(tmp_path, "--wait", *common, "--batch_size", 2, "--resume", "auto")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert states(tmp_path)[-1].name == "train_tinydarknet_cifar10-6_28.ckpt"  # 112 / (2 * 2)
    assert "resumed from" in (tmp_path / "train_parallel0/train.log").read_text()

    # One device: the same number of steps with a batch as large as that of both, else it is refused.
    longer = [*common[:-3], 7, *common[-2:], "--resume", "auto", "--run_dir", tmp_path / "one"]
    refused = program("train.py", *longer, "--batch_size", 2, cwd=tmp_path)
    assert refused.returncode == 1
    assert "28 steps an epoch, this run has 56: " in refused.stderr and "of devices (2 then, 1 now)" in refused.stderr
    alone = program("train.py", *longer, "--batch_size", 4, cwd=tmp_path)
    assert alone.returncode == 0 and "devices were 2, are 1" in alone.stdout, alone.stdout + alone.stderr
    assert states(tmp_path)[-1].name == "train_tinydarknet_cifar10-7_28.ckpt"
