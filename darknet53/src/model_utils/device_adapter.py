# Shared file: source utils/model_utils/device_adapter.py; copy with: python scripts/sync_model_utils.py --write
"""The device: target, rank, collectives, and the settings of the framework that belong to it."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from .config import Config
from .errors import DataError, UsageError
from .ranks import number

BACKENDS = {"Ascend": "hccl", "GPU": "nccl", "CPU": "mccl"}
GATHERED = 65536  # values that ranks exchange at a time
# O2 hands whole graphs to the device, which only Ascend does.
JIT_LEVELS = {"Ascend": ("O0", "O1", "O2"), "GPU": ("O0", "O1"), "CPU": ("O0", "O1")}


@dataclass(frozen=True)
class Device:
    """Where this process runs: `rank` of `size` processes over all servers."""

    target: str
    device_id: int
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: list[float]) -> list[float]:
        """Element-wise sum over all ranks, in float32: exact for counts below 2 ** 24."""
        if self.size == 1:
            return list(values)
        return [float(value) for value in _all_reduce()(Tensor(values, ms.float32)).asnumpy()]

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """The rows (n, k) of all ranks, one rank behind the other, float32; n may differ between ranks, k may not."""
        rows = np.asarray(rows, np.float32)
        if self.size == 1:
            return rows
        counts = [int(count) for count in self.sum([float(rank == self.rank) * len(rows) for rank in range(self.size)])]
        everything = np.zeros((sum(counts), rows.shape[1]), np.float32)
        start = sum(counts[: self.rank])
        everything[start : start + len(rows)] = rows
        # One length, so that one graph serves: x + 0 + ... + 0 is x.
        flat = np.zeros(-(-everything.size // GATHERED) * GATHERED, np.float32)
        flat[: everything.size] = everything.ravel()
        parts = [_all_reduce()(Tensor(part)).asnumpy() for part in flat.reshape((-1, GATHERED))]
        return np.concatenate([*parts, []])[: everything.size].reshape(everything.shape).astype(np.float32)

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.sum([0.0])

    def amp_level(self, wanted: str) -> str:
        """The level of mixed precision: `auto` is O3 on Ascend, O2 on GPU, O0 on CPU.

        Raises:
            UsageError: half precision on CPU, where the operators have no float16 kernels.
        """
        if wanted == "auto":
            return {"Ascend": "O3", "GPU": "O2", "CPU": "O0"}[self.target]
        if self.target == "CPU" and wanted != "O0":
            raise UsageError(f"amp_level={wanted}: MindSpore's CPU kernels need float32; give O0 or auto")
        return wanted


def init(config: Config, distributed: bool = True) -> Device:
    """Choose the device and how graphs are compiled and, where a launcher has started several processes, join them.

    Size 1 never touches communication. The device index is that of the command line, else of the environment variable
    DEVICE_ID, else of the recipe. With `distributed` False this process works alone, whatever a launcher has announced.

    Raises:
        UsageError: a device index that cannot be, a `jit_level` that the device does not have.
        DataError: the target does not exist on this machine, or the processes did not find each other.
    """
    target, distributed = config.device_target, distributed and world_size(os.environ) > 1
    device_id = _device_id(config)
    if distributed:
        _require_rank(os.environ)
    if target == "CPU" and not distributed and device_id != 0:
        raise UsageError(f"device_id={device_id} (option or variable DEVICE_ID): the CPU is one device, index 0")
    _set_graph_mode(target, config.jit_level)
    try:
        if target == "CPU":
            device_id = 0
        elif distributed and "DEVICE_ID" not in os.environ:
            device_id = number(os.environ, device_id, "OMPI_COMM_WORLD_LOCAL_RANK")
        if ms.get_current_device() != (target, device_id):
            ms.set_device(target, device_id)
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"device_target={target} device_id={device_id} is not available on this machine: {_first_line(error)} "
            "Give --device_target CPU, or install the MindSpore that is built for the device"
        ) from error
    if not distributed:
        return Device(target, device_id)
    return _join(target, device_id)


def current_target() -> str:
    """The target that is set: Ascend, GPU or CPU."""
    return ms.get_context("device_target")


def _set_graph_mode(target: str, jit_level: str) -> None:
    """Have networks compiled as graphs, by the level of optimization that is asked for; `auto` is the framework's own."""
    ms.set_context(mode=ms.GRAPH_MODE)
    if jit_level == "auto":
        return
    if jit_level not in JIT_LEVELS[target]:
        raise UsageError(f"jit_level={jit_level}: on {target}, auto, {', '.join(JIT_LEVELS[target])} are accepted")
    ms.set_context(jit_config={"jit_level": jit_level})


def _set_data_parallel(size: int) -> None:
    """Have each of `size` ranks train on its own batches, with gradients averaged."""
    ms.set_auto_parallel_context(parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=True, device_num=size)


def world_size(environment: Mapping[str, str]) -> int:
    """Number of processes that the launcher (msrun, mpirun or a rank table script) announces; 1 without one.

    Raises:
        DataError: a variable that holds no number.
    """
    return number(environment, 1, "MS_WORKER_NUM", "OMPI_COMM_WORLD_SIZE", "RANK_SIZE")


def _require_rank(environment: Mapping[str, str]) -> None:
    """Raise DataError where the rank that the launcher announces cannot be; the framework would wait for minutes."""
    rank, size = number(environment, 0, "OMPI_COMM_WORLD_RANK", "RANK_ID"), world_size(environment)
    if rank >= size:
        raise DataError(
            f"the launcher's environment says rank {rank} of {size}: ranks count from 0; start the job anew"
        )


def _device_id(config: Config) -> int:
    text = "" if "device_id" in config.given else os.environ.get("DEVICE_ID", "")
    text = text or str(config.device_id)
    if not re.fullmatch("[0-9]{1,9}", text):
        raise UsageError(
            f"device_id={' '.join(text[:40].split())} (option or variable DEVICE_ID): an index, 0 or more, is accepted"
        )
    return int(text)


def _join(target: str, device_id: int) -> Device:
    from mindspore import communication

    try:
        communication.init(BACKENDS[target])
    except (RuntimeError, ValueError) as error:
        names = ("RANK_ID", "RANK_SIZE", "DEVICE_ID", "RANK_TABLE_FILE", "MS_WORKER_NUM", "MS_SCHED_HOST")
        seen = " ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)
        raise DataError(f"the processes did not find each other ({seen}): {_first_line(error)}") from error
    device = Device(target, device_id, communication.get_rank(), communication.get_group_size())
    _set_data_parallel(device.size)
    return device


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


class _AllReduce(nn.Cell):
    def __init__(self):
        super().__init__()
        self.all_reduce = ops.AllReduce()

    def construct(self, tensor):
        return self.all_reduce(tensor)


@functools.cache
def _all_reduce() -> nn.Cell:
    """One cell for the whole process: it is compiled once for each length."""
    return _AllReduce()
