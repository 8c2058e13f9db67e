"""Threads of a data pipeline: as many as wanted, at most this process's share of the cores."""

from __future__ import annotations

import logging

from model_utils import workers
from model_utils.config import Config
from model_utils.errors import UsageError
from model_utils.logger import get_logger

import pytest


@pytest.fixture
def threads(monkeypatch, caplog):
    """Threads for a wish, on so many cores that so many ranks share."""

    def threads(wanted: int, cores: int = 8, ranks: int = 1) -> int:
        monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
        monkeypatch.setenv("RANK_SIZE", str(ranks))
        return workers.worker_threads(Config({"num_parallel_workers": wanted}))

    for name in ("RANK_ID", "DEVICE_ID", "DEVICE_NUM", "MS_WORKER_NUM", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(workers.worker_threads, "noticed", False)
    get_logger().addHandler(caplog.handler)
    caplog.set_level(logging.INFO, get_logger().name)
    yield threads
    get_logger().removeHandler(caplog.handler)


@pytest.mark.parametrize(
    "wanted, cores, ranks, expected",
    [(1, 8, 1, 1), (8, 8, 1, 8), (9, 8, 1, 8), (8, 8, 3, 2), (8, 2, 8, 1), (3, 8, 2, 3)],
)
def test_threads(threads, wanted, cores, ranks, expected):
    assert threads(wanted, cores, ranks) == expected


def test_the_log_says_it_once(threads, caplog):
    threads(8, 8)
    assert caplog.records == []
    for _ in range(2):
        threads(12, 8, 2)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["num_parallel_workers=12 clipped to the 4 cores of this process"]


def test_none_is_refused(threads):
    with pytest.raises(UsageError, match="num_parallel_workers=0: 1 or more is accepted"):
        threads(0)
