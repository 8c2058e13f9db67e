# Shared file: source utils/model_utils/workers.py; copy with: python scripts/sync_model_utils.py --write
"""How many threads a data pipeline gets."""

from __future__ import annotations

import os

from .config import Config
from .errors import require_range
from .logger import get_logger
from .ranks import local_rank


def own_cores() -> int:
    """Cores of this machine that this process has to itself, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // local_rank(os.environ)[1])


def worker_threads(config: Config) -> int:
    """Threads of the pipeline: at least 1, at most this process's share of the cores."""
    cores = own_cores()
    require_range(low=1, num_parallel_workers=config.num_parallel_workers)
    if config.num_parallel_workers > cores and not worker_threads.noticed:
        worker_threads.noticed = True
        get_logger().info(
            "num_parallel_workers=%d clipped to the %d cores of this process", config.num_parallel_workers, cores
        )
    return min(config.num_parallel_workers, cores)


worker_threads.noticed = False
