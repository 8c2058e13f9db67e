# Shared file: source utils/model_utils/logger.py; copy with: python scripts/sync_model_utils.py --write
"""One logger for console and file."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from pathlib import Path
from typing import TextIO

from .errors import DataError

LOGGER_NAME = "model"


def get_logger() -> logging.Logger:
    """The logger of this process; plain until `init_logger` has run."""
    return logging.getLogger(LOGGER_NAME)


def init_logger(run_dir: str | Path | None, file_name: str, rank: int = 0) -> logging.Logger:
    """Log to the console and to `run_dir/file_name` (ranks above 0: the file only, named with the rank).

    The message is the whole line: documented lines are searched for with grep. Nothing is written twice where the
    console already goes to that file.

    Raises:
        DataError: the file cannot be written.
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
        if not _is_console(path):
            logger.addHandler(_log_file(path))
    return logger


def _log_file(path: Path) -> logging.Handler:
    try:
        return _LogFile(path, encoding="utf-8", errors="backslashreplace")
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        reason = f"cannot be written: {getattr(error, 'strerror', None) or error}"
        raise DataError(f"the log {path} {reason}; give --run_dir a folder that can be") from error


class _LogFile(logging.handlers.WatchedFileHandler):
    """A log that is made anew where it, or its folder, has been removed; what cannot be written is one line, once."""

    has_failed = False

    def _open(self) -> TextIO:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the name that logging calls)
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.has_failed:
            self.has_failed = True
            print(f"warning: {self.baseFilename} lacks lines: {error.strerror}; the work goes on", file=sys.stderr)

    def close(self) -> None:
        try:
            super().close()
        except OSError:  # what is left in the buffer of a full disk
            self.handleError(logging.makeLogRecord({}))


def _is_console(path: Path) -> bool:
    """Whether stdout is redirected to this file."""
    try:
        return path.exists() and os.path.samestat(os.fstat(sys.stdout.fileno()), path.stat())
    except (OSError, ValueError, AttributeError):
        return False
