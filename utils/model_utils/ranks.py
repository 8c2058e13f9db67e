# Shared file: source utils/model_utils/ranks.py; copy with: python scripts/sync_model_utils.py --write
"""The ranks of one server: which this one is, and how they meet where one of them works for all.

The first rank of each server works, the others wait for it. They meet in a private folder whose name follows from the
user, JOB_ID and the local paths, equal for all ranks of a job on a server. What a killed job left there does no harm:
the first rank empties it, and a waiting rank accepts only an answer that repeats the random token of this very process.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from .errors import DataError

FAILURE_WAIT = 10.0  # seconds that the first rank waits for the others after a failure
POLL = 0.5


def number(environment: Mapping[str, str], default: int, *names: str) -> int:
    """The number in the first of these variables that is set; DataError where it is none."""
    name, text = next(((name, environment[name]) for name in names if environment.get(name)), ("", str(default)))
    if not re.fullmatch("[0-9]{1,9}", text):
        raise DataError(f"environment variable {name}={text[:40]!r}: a number of at most nine digits is expected")
    return int(text)


def local_rank(environment: Mapping[str, str]) -> tuple[int, int, int]:
    """Rank on this server, number of ranks on this server, rank over all servers.

    From mpirun's variables, else from RANK_ID, RANK_SIZE and DEVICE_NUM (ranks on each server; unset: one server).
    msrun sets DEVICE_ID to the rank on the server, and RANK_ID only where it knows it.
    """
    size = max(1, number(environment, 1, "OMPI_COMM_WORLD_SIZE", "MS_WORKER_NUM", "RANK_SIZE"))
    rank = number(environment, 0, "OMPI_COMM_WORLD_RANK", "RANK_ID", "DEVICE_ID") if size > 1 else 0
    local_size = max(1, min(size, number(environment, size, "OMPI_COMM_WORLD_LOCAL_SIZE", "DEVICE_NUM")))
    local = number(environment, rank % local_size, "OMPI_COMM_WORLD_LOCAL_RANK")
    if rank >= size or local >= local_size:
        raise DataError(
            f"the launcher's environment says rank {rank} of {size}, on this server rank {local} of {local_size}: ranks count "
            "from 0 and stay below their number"
        )
    return local, local_size, rank


class Ranks:
    """The ranks of this server. Files: `rank<N>` = it waits, `answer` = go on or what failed, `done<N>` = it ended."""

    def __init__(self, *paths: str):
        """Arguments: local paths that only ranks of the same job share."""
        self.rank, self.size, _ = local_rank(os.environ)
        self.token, self.inside = uuid.uuid4().hex, False
        self.others: dict[int, str] = {}  # at the first rank: tokens of those that have come
        self.answer: dict[str, str] = {}  # at the others: what the first rank said
        scope = [os.environ.get("JOB_ID", ""), *map(os.path.abspath, paths)]
        name = hashlib.sha256("\n".join(scope).encode()).hexdigest()[:16]
        self.folder = Path(tempfile.gettempdir(), f"modelarts-{os.getuid()}-{name}")

    def once(self, work: Callable[[], None], timeout: float) -> None:
        """The first rank does the work; the others return when it is done, and fail when it has failed."""
        if self.size == 1:
            work()
        elif self.rank == 0:
            self._lead(work, timeout)
        elif not _wait(timeout, self._is_answered):
            raise DataError(f"the first rank of this server gave no answer within {timeout:g} s; see its log")
        elif self.answer["failure"]:
            raise DataError(f"the first rank of this server failed: {self.answer['failure']}")

    def _lead(self, work: Callable[[], None], timeout: float) -> None:
        self._make_folder()
        for path in self.folder.iterdir():
            path.unlink()
        try:
            work()
            if not _wait(timeout, self._have_come):
                raise DataError(
                    f"{1 + len(self.others)} of {self.size} ranks came within {timeout:g} s; see their logs"
                )
        except BaseException as error:
            _wait(FAILURE_WAIT, self._have_come)
            self._tell(f"{type(error).__name__}: {error}")
            raise
        self._tell("")

    def _tell(self, failure: str) -> None:
        draft = self.folder / "draft"
        draft.write_text(json.dumps({"failure": failure, "tokens": list(self.others.values())}))
        os.replace(draft, self.folder / "answer")

    def _have_come(self) -> bool:
        tokens = {rank: _read(self.folder / f"rank{rank}") for rank in range(1, self.size)}
        self.others = {rank: token for rank, token in tokens.items() if len(token) == len(self.token)}
        return len(self.others) == self.size - 1

    def _is_answered(self) -> bool:
        answer = json.loads(_read(self.folder / "answer") or '{"tokens": []}')
        if self.token in answer["tokens"]:
            self.answer = answer
            return True
        own = self.folder / f"rank{self.rank}"
        if _read(own) != self.token:  # also when the first rank has emptied the folder since
            self._make_folder()
            with suppress(FileNotFoundError):
                own.write_text(self.token)
        return False

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        status = self.folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise DataError(f"{self.folder} must be a folder that only this user can enter; remove it")
        self.inside = True

    def wait_for_others(self, limit: float) -> None:
        """At the first rank: until each of the others has ended."""
        if not _wait(limit, lambda: all(_read(self.folder / f"done{rank}") for rank in self.others)):
            warn(f"not all ranks of this server have ended within {limit:g} s")
        self.others = {}

    def leave(self) -> None:
        """The first rank removes the folder, when the others have read its answer; they say that they have ended."""
        if self.inside and self.rank == 0:
            self.wait_for_others(FAILURE_WAIT)
            shutil.rmtree(self.folder, ignore_errors=True)
        elif self.inside:
            with suppress(OSError):  # the first rank has gone, or never came
                if self.answer:
                    (self.folder / f"done{self.rank}").write_text(self.token)
                else:
                    (self.folder / f"rank{self.rank}").unlink()
                    self.folder.rmdir()


def _wait(seconds: float, condition: Callable[[], bool]) -> bool:
    """Whether the condition came true within that time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(POLL)
    return True


def _read(path: Path) -> str:
    """Text of a file; empty while it does not exist."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def warn(text: str) -> None:
    """A warning on stderr, also where the logger is not set up yet."""
    print(f"warning: {text}", file=sys.stderr, flush=True)
