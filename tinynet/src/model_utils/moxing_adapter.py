# Shared file: source utils/model_utils/moxing_adapter.py; copy with: python scripts/sync_model_utils.py --write
"""ModelArts: bring data and checkpoint in once per server, unzip safely, put the results out, also after a failure.

The first rank of each server copies, the others wait for it. They meet in a private folder whose name follows from the
user, JOB_ID and the local paths, equal for all ranks of a job on a server. What a killed job left there does no harm:
the first rank empties it, and a waiting rank accepts only an answer that repeats the random token of this very process.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import stat
import sys
import tempfile
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from mindspore.train import Callback, RunContext

from .callbacks import Position
from .config import Config, DataError, UsageError
from .logger import get_logger

TIMEOUT = 7200.0  # seconds until a rank gives up waiting for the data
END_WAIT, FAILURE_WAIT = 600.0, 10.0  # seconds that the first rank waits for the others at the end, and after a failure
POLL = 0.5
MAX_RATIO = 200  # unpacked to packed size; more is a zip bomb
MARKER = ".unzipped"


@contextmanager
def job(config: Config, adapt: Callable[[Config], Config], timeout: float = TIMEOUT) -> Iterator[Config]:
    """Run the block as a ModelArts job, with the configuration that `adapt` returns; else, only run the block.

    When all ranks of the server have ended the block, also by an error or an interrupt, output_path goes to train_url.

    Args:
        config: with the ModelArts keys (enable_modelarts, data_url, train_url, checkpoint_url, data_path, output_path,
            load_path, modelarts_dataset_unzip_name, upload_interval).
        adapt: called when the data is there; replaces paths by local ones, see `data_dir` and `checkpoint_file`.
        timeout: seconds until a rank gives up waiting for the data, and the first rank for the start of the others.

    Raises:
        UsageError: an address that is not one of object storage, an upload_interval below 0.
        DataError: moxing is missing, a copy failed, a zip file is refused, or another rank failed or did not come.
    """
    if not config.enable_modelarts or os.environ.get("MS_ROLE") == "MS_SCHED":  # msrun's scheduler is no rank
        yield config
        return
    _check_options(config)
    ranks = _Ranks(config)
    try:
        with _exit_on_sigterm():
            ranks.once(lambda: _bring_in(config), timeout)
        Path(config.output_path).mkdir(parents=True, exist_ok=True)
        try:
            yield adapt(config)
            ranks.wait_for_others(END_WAIT)
        except BaseException as failure:
            _log(failure)
            ranks.wait_for_others(FAILURE_WAIT)
            try:
                upload(config)
            except DataError as error:  # the first error is the one to report
                _warn(str(error))
            raise
        upload(config)
    finally:
        ranks.leave()


def upload(config: Config) -> None:
    """Copy output_path to train_url, from the first rank of a ModelArts job; else do nothing.

    Those of other servers than the first go to train_url/rank_<first rank of the server>.
    """
    on_server, _, rank = local_rank(os.environ)
    if config.enable_modelarts and config.train_url and on_server == 0:
        address = config.train_url.rstrip("/") + (f"/rank_{rank}" if rank else "")
        _copy("copy_parallel", config.output_path, address)


def _log(failure: BaseException) -> None:
    """Have the log that goes out say why the job ended; the program prints it later."""
    if isinstance(failure, Exception) and get_logger().handlers:
        trace = None if isinstance(failure, (UsageError, DataError)) else failure
        get_logger().error("the job failed: %s: %s", type(failure).__name__, failure, exc_info=trace)


class Upload(Callback):
    """Uploads every `upload_interval` epochs what a ModelArts job has written so far; 0: never, and nothing elsewhere.

    It goes behind the callbacks that write. A failure is a warning: the next upload, or that at the end, tries again.

    Args:
        config: of the job.
        position: where the run is.
        epochs: of the whole run; after the last one comes the upload of `job`.
        barrier: waits for the other ranks, which may be writing.
    """

    def __init__(self, config: Config, position: Position, epochs: int, barrier: Callable[[], None]):
        self.config, self.position, self.epochs, self.barrier = config, position, epochs, barrier
        self.interval = config.upload_interval if config.enable_modelarts and config.train_url else 0

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        at = self.position
        if not self.interval or at.epoch % self.interval or at.epoch == self.epochs or at.step < at.steps_per_epoch:
            return
        self.barrier()
        try:
            upload(self.config)
        except DataError as error:
            _warn(f"{error}; training goes on")


def data_dir(config: Config) -> str:
    """Local folder of the data set: data_path, or the folder in it where the zip file is unpacked."""
    name = config.modelarts_dataset_unzip_name.removesuffix(".zip")
    return os.path.join(config.data_path, name) if name else config.data_path


def checkpoint_file(config: Config) -> str:
    """Local path of the checkpoint at checkpoint_url (a file, or a folder with one); else checkpoint_path."""
    if not config.checkpoint_url:
        return config.checkpoint_path
    named = Path(config.load_path, config.checkpoint_url.rsplit("/", 1)[1])
    found = [named] if named.is_file() else sorted(Path(config.load_path).rglob("*.ckpt"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "no .ckpt file"
        raise DataError(f"checkpoint_url={config.checkpoint_url} holds {names}; give the address of one .ckpt file")
    return str(found[0])


def local_rank(environment: Mapping[str, str]) -> tuple[int, int, int]:
    """Rank on this server, number of ranks on this server, rank over all servers.

    From mpirun's variables, else from RANK_ID, RANK_SIZE and DEVICE_NUM (ranks on each server; unset: one server).
    msrun sets DEVICE_ID to the rank on the server, and RANK_ID only where it knows it.
    """

    def number(default: int, *names: str) -> int:
        name, text = next(((name, environment[name]) for name in names if environment.get(name)), ("", str(default)))
        if not text.isdigit():
            raise DataError(f"environment variable {name}={text}: a number is expected")
        return int(text)

    size = max(1, number(1, "OMPI_COMM_WORLD_SIZE", "MS_WORKER_NUM", "RANK_SIZE"))
    rank = number(0, "OMPI_COMM_WORLD_RANK", "RANK_ID", "DEVICE_ID") if size > 1 else 0
    local_size = max(1, min(size, number(size, "OMPI_COMM_WORLD_LOCAL_SIZE", "DEVICE_NUM")))
    return number(rank % local_size, "OMPI_COMM_WORLD_LOCAL_RANK"), local_size, rank


def unzip_dataset(zip_path: str | Path, target: str | Path, max_bytes: int | None = None) -> Path:
    """Unpack a zip file as the folder `target`, wholly or not at all, and not again where that has been done.

    A single folder of the same name at the top of the zip file becomes `target` itself. Another `target` that is in the
    way is renamed.

    Raises:
        DataError: no zip file, or a damaged one; a member that is a link or leads outside; more than `max_bytes`
            (default: what is free on the disk) or than MAX_RATIO times the packed size.
    """
    zip_path, target = Path(zip_path), Path(target)
    partial = target.with_name(f".{target.name}.partial")
    if not zipfile.is_zipfile(zip_path):
        state = f"({zip_path.stat().st_size} bytes) is no zip file, or cut short" if zip_path.exists() else "is missing"
        raise DataError(f"{zip_path} {state}; check data_url and modelarts_dataset_unzip_name")
    try:
        with zipfile.ZipFile(zip_path) as archive:
            mark = _check_members(archive, zip_path, max_bytes)
            if (target / MARKER).is_file() and (target / MARKER).read_text() == mark:
                return target
            shutil.rmtree(partial, ignore_errors=True)  # of an unpacking that was killed
            _extract(archive, zip_path.name, partial)
        inner = partial / target.name
        source = inner if inner.is_dir() and len(list(partial.iterdir())) == 1 else partial
        (source / MARKER).write_text(mark)
        if target.exists():
            os.replace(target, f"{target}.before_{time.time_ns()}")
        os.replace(source, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
        raise DataError(f"{zip_path} cannot be unpacked: {error}; upload it again, without a password") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _check_members(archive: zipfile.ZipFile, zip_path: Path, max_bytes: int | None) -> str:
    """Refuse what must not be unpacked; return a text that identifies the content."""
    total, digest = 0, 0
    for member in archive.infolist():
        name, kind = member.filename, stat.S_IFMT(member.external_attr >> 16)
        if name.startswith("/") or "\\" in name or re.match("[A-Za-z]:", name) or ".." in name.split("/"):
            raise DataError(f"{zip_path} is refused: the path '{name}' leads outside, or has backslashes")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DataError(f"{zip_path} is refused: '{name}' is a link or a special file")
        total += member.file_size
        digest = zlib.crc32(f"{name} {member.file_size} {member.CRC}\n".encode(), digest)
    limit = shutil.disk_usage(zip_path.parent).free if max_bytes is None else max_bytes
    limit = min(limit, MAX_RATIO * zip_path.stat().st_size)
    if not 0 < total <= limit:
        raise DataError(f"{zip_path} is refused: it unpacks to {total:,} bytes, 1 to {limit:,} are accepted")
    return f"{total} bytes, digest {digest:08x}\n"


def _extract(archive: zipfile.ZipFile, name: str, folder: Path) -> None:
    """Extract all members, with a line for each tenth; zipfile compares sizes and checksums."""
    members = archive.infolist()
    total, done, tenths = sum(member.file_size for member in members), 0, 0
    for member in members:
        archive.extract(member, folder)
        done += member.file_size
        if done * 10 // total > tenths:
            tenths = done * 10 // total
            print(f"unzip {name}: {10 * tenths}%", flush=True)


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Inside, SIGTERM is a SystemExit, so that what has been begun is cleared away.

    Not while the block of a job runs: a rank that hangs in a collective would not come to its handler.
    """
    owner = os.getpid()

    def leave(number: int, _frame: object) -> None:
        if os.getpid() != owner:  # a process that moxing has forked
            os._exit(128 + number)
        sys.exit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not in the main thread: the caller owns the signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)  # None stands for a handler that is not Python's


def _check_options(config: Config) -> None:
    for key in ("data_url", "train_url", "checkpoint_url"):
        if config[key] and not config[key].startswith(("s3://", "obs://")):
            raise UsageError(f"{key}={config[key]}: an address s3://... or obs://... is accepted")
    if config.upload_interval < 0:
        raise UsageError(f"upload_interval={config.upload_interval}: 0 (only at the end) or more is accepted")
    if not config.train_url:
        _warn(f"train_url is empty: the results stay in {config.output_path}")


def _moxing():
    try:
        import moxing
    except ImportError as error:
        raise DataError("enable_modelarts needs the package moxing, which ModelArts' own images have") from error
    return moxing


def _bring_in(config: Config) -> None:
    for key, folder in (("data_url", config.data_path), ("checkpoint_url", config.load_path)):
        address, files = config[key], _moxing().file
        if not address:
            continue
        if not files.exists(address):
            raise DataError(f"{key}={address} does not exist")
        Path(folder).mkdir(parents=True, exist_ok=True)
        if files.is_directory(address):
            _copy("copy_parallel", address, folder)
        else:
            _copy("copy", address, os.path.join(folder, address.rsplit("/", 1)[1]))
    packed = data_dir(config) + ".zip"
    # An export needs no data: without data_url, a recipe may name a zip file that is not there.
    if config.modelarts_dataset_unzip_name and (config.data_url or os.path.exists(packed)):
        unzip_dataset(packed, data_dir(config))


def _copy(function: str, source: str, target: str) -> None:
    print(f"copying {source} to {target}", flush=True)
    try:
        getattr(_moxing().file, function)(source, target)
    except Exception as error:  # moxing documents no exception types
        raise DataError(f"copying {source} to {target} failed: {type(error).__name__}: {error}") from error


class _Ranks:
    """The ranks of this server. Files: `rank<N>` = it waits, `answer` = go on or what failed, `done<N>` = it ended."""

    def __init__(self, config: Config):
        self.rank, self.size, _ = local_rank(os.environ)
        self.token, self.inside = uuid.uuid4().hex, False
        self.others: dict[int, str] = {}  # at the first rank: tokens of those that have come
        self.answer: dict[str, str] = {}  # at the others: what the first rank said
        scope = [os.environ.get("JOB_ID", ""), os.path.abspath(config.data_path), os.path.abspath(config.output_path)]
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
            _warn(f"not all ranks of this server have ended within {limit:g} s")
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


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
