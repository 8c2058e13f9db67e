# Shared file: source utils/model_utils/logger.py; copy with: python scripts/sync_model_utils.py --write
"""One logger for console and file."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

LOGGER_NAME = "model"


def get_logger() -> logging.Logger:
    """The logger of this process; plain until `init_logger` has run."""
    return logging.getLogger(LOGGER_NAME)


def init_logger(run_dir: str | Path | None, file_name: str, rank: int = 0) -> logging.Logger:
    """Log to the console and to `run_dir/file_name` (ranks above 0: the file only, named with the rank).

    The message is the whole line: documented lines are searched for with grep. Nothing is written twice where the
    console already goes to that file.
    """
    logger = get_logger()
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if rank == 0:
        logger.addHandler(logging.StreamHandler(sys.stdout))
    if run_dir is not None:
        path = Path(run_dir) / (file_name if rank == 0 else f"rank_{rank}_{file_name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _is_console(path):
            logger.addHandler(logging.FileHandler(path, encoding="utf-8"))
    return logger


def _is_console(path: Path) -> bool:
    """Whether stdout is redirected to this file."""
    try:
        return path.exists() and os.path.samestat(os.fstat(sys.stdout.fileno()), path.stat())
    except (OSError, ValueError, AttributeError):
        return False
