"""The device, the ranks, how graphs are compiled, and the threads of a pipeline."""

from __future__ import annotations

import os

from model_utils import device_adapter, workers
from model_utils.config import Config
from model_utils.device_adapter import Device, world_size
from model_utils.errors import DataError, UsageError
from model_utils.logger import get_logger

import mindspore as ms
import pytest

LAUNCHERS = (
    "MS_WORKER_NUM",
    "DEVICE_NUM",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "RANK_SIZE",
    "RANK_ID",
    "DEVICE_ID",
)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    mode = ms.get_context("mode")
    yield
    ms.set_context(mode=mode)


def settings(target: str = "CPU", device_id: int = 0, given: bool = False, jit_level: str = "auto") -> Config:
    values = {"device_target": target, "device_id": device_id, "jit_level": jit_level}
    return Config(values, frozenset(["device_id"] if given else []))


def test_one_process_needs_no_communication(monkeypatch):
    """A program may also work alone whatever a launcher has announced: an export, for example."""
    monkeypatch.setattr(device_adapter, "_join", lambda *_: pytest.fail("communication was started"))
    for size in ("", "0", "1", "x"):
        monkeypatch.setenv("RANK_SIZE", size)
        device = device_adapter.init(settings())
        assert device == Device("CPU", 0, 0, 1) and device.is_main
        assert ms.get_context("mode") == ms.GRAPH_MODE and ms.get_context("device_target") == "CPU"
        assert device.sum([1, 2.5, 2**30 + 1]) == [1, 2.5, 2**30 + 1]
        device.barrier()
    monkeypatch.setenv("RANK_SIZE", "8")
    assert device_adapter.init(settings(), distributed=False) == device


@pytest.mark.parametrize("target", ["GPU", "Ascend"])
@pytest.mark.skipif(os.path.exists("/dev/davinci0") or os.path.exists("/dev/nvidia0"), reason="the device is there")
def test_unavailable_target(target):
    with pytest.raises(DataError) as caught:
        device_adapter.init(settings(target, 1))
    message = str(caught.value)
    assert f"device_target={target} device_id=1" in message and "--device_target CPU" in message and "\n" not in message


def test_cpu_has_one_device(monkeypatch):
    with pytest.raises(UsageError, match="device_id=1.*one device"):
        device_adapter.init(settings(device_id=1))
    monkeypatch.setenv("DEVICE_ID", "8")
    with pytest.raises(UsageError, match="device_id=8.*DEVICE_ID"):
        device_adapter.init(settings())


@pytest.mark.parametrize("text", ["-1", "a", "²"])
def test_device_index_that_cannot_be(text, monkeypatch):
    monkeypatch.setenv("DEVICE_ID", text)
    with pytest.raises(UsageError, match="device_id="):
        device_adapter.init(settings())
    with pytest.raises(UsageError, match="device_id=-1"):
        device_adapter.init(settings(device_id=-1, given=True))


@pytest.mark.parametrize(
    "environment, recipe, given, wanted",
    [(None, 3, False, 3), ("5", 3, False, 5), ("5", 3, True, 3), ("", 3, False, 3), ("5", 0, True, 0)],
)
def test_authority_of_the_device_index(environment, recipe, given, wanted, monkeypatch):
    """Command line, then DEVICE_ID, then recipe."""
    if environment is not None:
        monkeypatch.setenv("DEVICE_ID", environment)
    chosen = []
    monkeypatch.setattr(ms, "set_device", lambda target, index: chosen.append((target, index)))
    assert device_adapter.init(settings("GPU", recipe, given)) == Device("GPU", wanted)
    assert chosen == [("GPU", wanted)]


@pytest.mark.parametrize(
    "environment, wanted",
    [
        ({}, 1), ({"MS_WORKER_NUM": "4", "RANK_SIZE": "8"}, 4), ({"OMPI_COMM_WORLD_SIZE": "2"}, 2),
        ({"MS_WORKER_NUM": "", "RANK_SIZE": "8"}, 8), ({"RANK_SIZE": "²"}, 1),
    ],
)  # fmt: skip
def test_world_size(environment, wanted):
    assert world_size(environment) == wanted


def test_several_processes_join(monkeypatch):
    """On a device the index is that of the rank on its server, unless DEVICE_ID says otherwise; CPU has index 0 always."""
    monkeypatch.setattr(device_adapter, "_join", lambda target, index: (target, index))
    monkeypatch.setattr(ms, "set_device", lambda target, index: None)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "3")
    assert device_adapter.init(settings("GPU")) == ("GPU", 3)
    monkeypatch.setenv("DEVICE_ID", "2")
    assert device_adapter.init(settings("GPU")) == ("GPU", 2)
    assert device_adapter.init(settings("CPU")) == ("CPU", 0)


def test_processes_that_do_not_meet(monkeypatch):
    def fail(_backend):
        raise RuntimeError("no scheduler\nmore")

    monkeypatch.setattr("mindspore.communication.init", fail)
    monkeypatch.setenv("RANK_SIZE", "2")
    monkeypatch.setenv("RANK_ID", "1")
    with pytest.raises(DataError) as caught:
        device_adapter.init(settings())
    assert "did not find each other (RANK_ID=1 RANK_SIZE=2): no scheduler" in str(caught.value)


def test_mixed_precision_level():
    for target, automatic in (("Ascend", "O3"), ("GPU", "O2"), ("CPU", "O0")):
        assert Device(target, 0).amp_level("auto") == automatic
        assert Device(target, 0).amp_level("O0") == "O0"
    assert [Device("GPU", 0).amp_level(level) for level in ("O1", "O2", "O3")] == ["O1", "O2", "O3"]
    for level in ("O1", "O2", "O3"):
        with pytest.raises(UsageError, match=f"amp_level={level}"):
            Device("CPU", 0).amp_level(level)


@pytest.fixture
def contexts(monkeypatch):
    """What was handed to ms.set_context, which cannot take back a level; no device is set."""
    given = []
    monkeypatch.setattr(ms, "set_context", lambda **options: given.append(options))
    monkeypatch.setattr(ms, "set_device", lambda *_: None)
    yield given
    monkeypatch.undo()


@pytest.mark.parametrize("target", ["CPU", "GPU", "Ascend"])
def test_level_of_compilation(contexts, target):
    """`auto` sets nothing but graph mode; O2 is for Ascend only."""
    device_adapter.init(settings(target))
    assert contexts == [{"mode": ms.GRAPH_MODE}]
    for level in ("O0", "O1") if target != "Ascend" else ("O0", "O1", "O2"):
        contexts.clear()
        device_adapter.init(settings(target, jit_level=level))
        assert contexts == [{"mode": ms.GRAPH_MODE}, {"jit_config": {"jit_level": level}}]
    if target != "Ascend":
        with pytest.raises(UsageError, match=f"jit_level=O2: on {target}, auto, O0, O1 are accepted"):
            device_adapter.init(settings(target, jit_level="O2"))


@pytest.mark.parametrize(
    "wanted, cores, ranks, expected",
    [(1, 8, 1, 1), (8, 8, 1, 8), (9, 8, 1, 8), (8, 8, 3, 2), (8, 2, 8, 1), (3, 8, 2, 3)],
)
def test_threads_are_at_most_the_share_of_the_cores(monkeypatch, wanted, cores, ranks, expected):
    """The log says once that a wish was clipped."""
    lines = []
    monkeypatch.setattr(get_logger(), "info", lambda text, *values: lines.append(text % values))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(workers.worker_threads, "noticed", False)
    monkeypatch.setenv("RANK_SIZE", str(ranks))
    for _ in range(2):
        assert workers.worker_threads(Config({"num_parallel_workers": wanted})) == expected
    line = f"num_parallel_workers={wanted} clipped to the {expected} cores of this process"
    assert lines == [line] * (wanted > expected)
    with pytest.raises(UsageError, match="num_parallel_workers=0: 1 or more is accepted"):
        workers.worker_threads(Config({"num_parallel_workers": 0}))
