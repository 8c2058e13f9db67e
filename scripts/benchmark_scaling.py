"""Throughput of data-parallel training on the CPU by the number of processes, one core and one thread each.

    python scripts/benchmark_scaling.py                                1, 2 and 4 processes
    python scripts/benchmark_scaling.py --processes 1,2 --rounds 9 --json figures.json

Every process trains tinynet_e on a fixed batch of its own: forward, backward, all-reduce of the gradients, update. msrun
starts the groups; all of them live at the same time, and take turns, a few steps each, while the others sleep, so that a
change of the machine's load meets all of them. Process i of a group is bound to core i. Efficiency is the time of a step
of one process over that of a step of the group, the median of the rounds: 100 % means that N processes train N times as
many images a second. Figures of a busy machine are worth little: the first line tells its load.

Exit status: 0 measured, 1 a process failed or an efficiency is below --least, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from benchmark import cores, machine
from benchmark_worker import ROOT, BenchmarkError

START_SECONDS = 300  # in which a group must have done its first step
LOG_LINES = 30  # of a process that failed
MODEL, CLASSES = "tinynet_e", 100


# ---- A process of a group ----------------------------------------------------------------------------------------------


def run_rank(address: str, batch_size: int, image_size: int) -> None:
    """Train on demand: for each number that the parent sends, do as many steps and answer with the seconds."""
    number = int(os.environ.get("RANK_ID", "0"))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cores()[number]})  # before the framework counts the cores
    step = training_step(batch_size, image_size)
    step()
    with contextlib.suppress(EOFError), Client(address, "AF_UNIX", bytes.fromhex(os.environ["SCALING_KEY"])) as parent:
        parent.send((int(os.environ["SCALING_GROUP"]), number))
        while True:
            steps = parent.recv()
            start = time.perf_counter()
            for _ in range(steps):
                step()
            parent.send(time.perf_counter() - start)
    os._exit(0)  # without the framework's farewell to the scheduler, which takes seconds


def training_step(batch_size: int, image_size: int):
    """The compiled step on a batch of random images, in one thread."""
    sys.path.insert(0, str(ROOT / "tinynet"))
    from src.model_utils import device_adapter
    from src.model_utils.config import Config
    from src.model_utils.train_step import TrainStep
    from src.tinynet import tinynet

    import mindspore as ms
    import numpy as np
    from mindspore import nn

    device = device_adapter.init(Config({"device_target": "CPU", "device_id": 0}))
    ms.device_context.cpu.op_tuning.threads_num(1)
    ms.set_seed(1)
    network = tinynet(MODEL, num_classes=CLASSES).set_train()
    optimizer = nn.Momentum(network.trainable_params(), 0.01, 0.9)
    step = TrainStep(network, nn.CrossEntropyLoss(), optimizer, size=device.size).set_train()
    random = np.random.RandomState(device.rank)
    images = ms.Tensor(random.standard_normal((batch_size, 3, image_size, image_size)).astype(np.float32))
    labels = ms.Tensor(random.randint(CLASSES, size=batch_size), ms.int32)
    return lambda: step(images, labels)[0].asnumpy()


# ---- The groups --------------------------------------------------------------------------------------------------------


class Group:
    """Processes that train together; they live until `close`.

    Args:
        processes: their number.
        folder: for their logs.
        listener: what they connect to, one after the other, when they have done their first step.
        options: command line.

    Raises:
        BenchmarkError: they ended, or were not ready in time; the message holds the end of their log.
    """

    def __init__(self, processes: int, folder: Path, listener: Listener, key: bytes, options: argparse.Namespace):
        self.processes, self.seconds = processes, []
        self.ranks: list[Connection] = []
        self.log = folder / f"{processes}.log"
        python = Path(sys.executable)
        environment = {
            **os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}", "OMP_NUM_THREADS": "1",
            "SCALING_KEY": key.hex(), "SCALING_GROUP": str(processes),
        }  # fmt: skip
        for name in ("RANK_ID", "RANK_SIZE", "DEVICE_ID", "MS_WORKER_NUM", "RANK_TABLE_FILE"):
            environment.pop(name, None)
        command = [__file__, "rank", listener.address, str(options.batch_size), str(options.image_size)]
        launcher = [str(python)] if processes == 1 else msrun(processes, folder)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*launcher, *command], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        try:
            self._accept(listener)
        except BaseException:
            self.close()
            raise

    def _accept(self, listener: Listener) -> None:
        deadline = time.monotonic() + START_SECONDS
        found: dict[int, Connection] = {}
        while len(found) < self.processes:
            try:
                connection = listener.accept()
            except socket.timeout:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise BenchmarkError(self._failure("was not ready")) from None
                continue
            group, rank = connection.recv()
            if group == self.processes:
                found[rank] = connection
        self.ranks = [found[rank] for rank in sorted(found)]

    def round(self, steps: int) -> None:
        """Do as many steps; notes the seconds of one, of the slowest process."""
        try:
            for rank in self.ranks:
                rank.send(steps)
            self.seconds.append(max(rank.recv() for rank in self.ranks) / steps)
        except (EOFError, OSError):
            raise BenchmarkError(self._failure("ended")) from None

    def _failure(self, what: str) -> str:
        worker = self.log.with_name(f"msrun_{self.processes}") / "worker_0.log"
        log = worker if worker.is_file() else self.log
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return "\n  ".join([f"the group of {self.processes} {what}; the last lines of its log:", *lines[-LOG_LINES:]])

    def close(self) -> None:
        """End the processes: they leave when their connection closes; msrun and its scheduler are killed."""
        for rank in self.ranks:
            rank.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=3)
        for child in children(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


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
    path = shutil.which("msrun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if path is None:
        raise BenchmarkError("msrun was not found beside the interpreter or on PATH; it comes with MindSpore")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [path, f"--worker_num={processes}", f"--local_worker_num={processes}", "--master_addr=127.0.0.1",
            f"--master_port={port}", f"--log_dir={folder / f'msrun_{processes}'}", "--join=True",
            f"--cluster_time_out={START_SECONDS}"]  # fmt: skip


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each number of processes."""
    groups, key = [], secrets.token_bytes(16)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        listener = stack.enter_context(Listener(str(Path(folder) / "socket"), "AF_UNIX", authkey=key))
        listener._listener._socket.settimeout(1.0)
        for processes in options.processes:
            groups.append(Group(processes, Path(folder), listener, key, options))
            stack.callback(groups[-1].close)
        for _ in range(options.rounds):
            for group in groups:
                group.round(options.steps)
    alone = next(group.seconds for group in groups if group.processes == 1)
    return [
        {
            "processes": group.processes,
            "images_per_second": group.processes * options.batch_size / statistics.median(group.seconds),
            "efficiency": statistics.median(one / many for one, many in zip(alone, group.seconds)),
            "seconds": group.seconds,
        }
        for group in groups
    ]


# ---- Command line ------------------------------------------------------------------------------------------------------


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers from 1 up, like 1,2,4")
    return sorted({1, *map(int, parts)})


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--processes", type=_numbers, default=[1, 2, 4], help="sizes of the groups; 1 is always one of them [1,2,4]")
    add("--batch_size", type=int, default=32, help="images of a step of each process [32]")
    add("--image_size", type=int, default=64, help="side of the images in pixels, a multiple of 32 [64]")
    add("--steps", type=int, default=5, help="steps of each group in a round [5]")
    add("--rounds", type=int, default=9, help="rounds, in which the groups take turns [9]")
    add("--least", type=float, default=0.0, metavar="PERCENT", help="efficiency below which the exit status is 1 [0]")
    add("--json", metavar="FILE", help="write all figures to FILE as well")
    options = parser.parse_args(argv)
    if options.image_size < 32 or options.image_size % 32 or min(options.batch_size, options.steps, options.rounds) < 1:
        parser.error("--image_size takes a multiple of 32; --batch_size, --steps and --rounds 1 or more")
    if max(options.processes) > len(cores()):
        parser.error(f"--processes {max(options.processes)}: this process may use {len(cores())} cores, one for each")
    if options.json and not Path(options.json).absolute().parent.is_dir():
        parser.error(f"--json {options.json} is not a file name in an existing folder")
    return options


def main(argv: list[str] | None = None) -> int:
    options, about = parse(argv), machine()
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    if about["load"] > 0.5:
        print(f"the machine is busy (load {about['load']} on {about['cores']} cores): the figures vary", flush=True)
    try:
        rows = measure(options)
    except (BenchmarkError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{'processes':>9} {'images/s':>9} {'ms a step':>10} {'efficiency':>11}")
    for row in rows:
        milliseconds = 1e3 * statistics.median(row["seconds"])
        print(f"{row['processes']:9d} {row['images_per_second']:9.1f} {milliseconds:10.1f} {row['efficiency']:11.1%}")
    if options.json:
        figures = json.dumps({"machine": about, "options": vars(options), "rows": rows}, indent=2)
        Path(options.json).write_text(figures + "\n", encoding="utf-8")
    return int(min(row["efficiency"] for row in rows) < options.least / 100)


if __name__ == "__main__":
    if sys.argv[1:2] == ["rank"]:
        run_rank(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # leave through the clean-up of the children
    sys.exit(main())
