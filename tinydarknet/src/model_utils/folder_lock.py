# Shared file: source utils/model_utils/folder_lock.py; copy with: python scripts/sync_model_utils.py --write
"""One run at a time in a folder, and a folder that cannot be written is found before the work."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from .errors import DataError
from .logger import get_logger

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def require_writable(folder: str | Path, option: str) -> None:
    """Raise DataError where no file could be made in a folder, which need not exist yet; nothing is written."""
    path = Path(folder).absolute()
    existing = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not existing.is_dir():
        reason = f"{existing} is not a folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
        reason = f"{existing} may not be written by this user, or its disk is read-only"
    else:
        return
    raise DataError(f"{option}={folder} cannot be written: {reason}; give --{option} a folder that can be")


@contextlib.contextmanager
def only_run(path: Path, option: str) -> Iterator[None]:
    """Inside, no other run can hold the lock file at `path`; the system frees it when this process ends, also by a kill.

    Raises:
        DataError: another run holds it, which the message names; or the file cannot be written.
    """
    file = _locked(path, option)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if _is_at(path, file):  # not where the folder was removed, and another run has its lock there now
                path.unlink()
        file.close()


def _locked(path: Path, option: str) -> TextIO:
    """The lock file, open and locked, with this process in it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
            _lock(file, path, option)
            if _is_at(path, file):  # else the run before has ended, and removed it, meanwhile
                break
            file.close()
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
    except OSError as error:
        raise DataError(
            f"{option}={path.parent} cannot be written: {error.strerror}; give --{option} a folder that can be"
        ) from error
    return file


def _lock(file: TextIO, path: Path, option: str) -> None:
    """Lock the file: by lockf, which other hosts see and the processes that this one forks do not inherit."""
    try:
        if fcntl is None:
            raise OSError("no locks on this system")
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        owner = file.read(200) or "a process that has just begun"
        file.close()
        raise DataError(
            f"{option}={path.parent} is in use by another run: {owner}; wait for its end, stop it, or give another --{option}"
        ) from None
    except OSError as error:
        reason = error.strerror or error
        get_logger().warning("%s cannot be locked (%s): a second run in this folder would not be noticed", path, reason)


def _is_at(path: Path, file: TextIO) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
