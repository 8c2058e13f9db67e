# Shared file: source utils/model_utils/moxing_adapter.py; rewrite the copies with: python scripts/sync_model_utils.py --write
"""ModelArts: bring data and checkpoint in once per server, unzip safely, put the results out, also after a failure.

Local rank 0 of each server copies and the other ranks wait for it. They meet through files in a private folder whose
name follows from user, JOB_ID and local paths, which are the same for all ranks of a job on a server. What a killed job
left there does no harm: local rank 0 empties the folder when it starts, and a waiting rank accepts only an answer that
repeats the random token that this very process wrote.
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
import zipfile
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Callable, Iterator

from .config import Config, DataError, UsageError

TIMEOUT = 7200.0  # seconds that a rank waits for the others
FAILURE_WAIT = 10.0  # the same, when the job has already failed
POLL = 0.5
MAX_RATIO = 200  # unpacked to packed size; more is a zip bomb
MARKER = ".unzipped"


@contextmanager
def job(config: Config, adapt: Callable[[Config], Config], timeout: float = TIMEOUT) -> Iterator[Config]:
    """Runs the block as a ModelArts job; gives the configuration with local paths, as `adapt` sets them.

    Without enable_modelarts it gives `config` and does nothing. At the end, also after an exception or an interrupt, the
    first rank of each server waits for its other ranks and copies output_path to train_url.

    Args:
        config: has the ModelArts keys (enable_modelarts, data_url, train_url, checkpoint_url, data_path, output_path,
            load_path, modelarts_dataset_unzip_name).
        adapt: called when the data is there: config -> config with local paths; see data_dir and checkpoint_file.
        timeout: seconds that a rank waits for the others before it gives up.

    Raises:
        UsageError: an address that is not one of object storage.
        DataError: no moxing, a failed copy, a wrong zip file, or another rank that failed or did not come.
    """
    if not config.enable_modelarts or os.environ.get("MS_ROLE") == "MS_SCHED":  # msrun's scheduler runs the program too
        yield config
        return
    _check_addresses(config)
    _moxing()
    server = _Server(config, timeout)
    try:
        server.once(lambda: _bring_in(config))
        Path(config.output_path).mkdir(parents=True, exist_ok=True)
        try:
            yield adapt(config)
            server.wait_for_others(timeout)
        except BaseException:
            server.wait_for_others(FAILURE_WAIT)
            try:
                upload(config)
            except DataError as error:  # the first error is the one to report
                print(f"warning: {error}", file=sys.stderr, flush=True)
            raise
        upload(config)
    finally:
        server.leave()


def upload(config: Config) -> None:
    """Copy output_path to train_url: by the first rank of a server, where enable_modelarts is set; else do nothing.

    The results of a second server go to train_url/server_1, and so on.
    """
    rank, _, server = local_rank(os.environ)
    if config.enable_modelarts and config.train_url and rank == 0:
        address = config.train_url if server == 0 else f"{config.train_url.rstrip('/')}/server_{server}"
        _copy("copy_parallel", config.output_path, address)


def data_dir(config: Config) -> str:
    """Local folder of the data set: data_path, or the folder in it that holds the unpacked zip file."""
    return os.path.join(config.data_path, config.modelarts_dataset_unzip_name.removesuffix(".zip"))


def checkpoint_file(config: Config) -> str:
    """Local path of the checkpoint behind checkpoint_url (a file, or a folder of one); checkpoint_path without one."""
    if not config.checkpoint_url:
        return config.checkpoint_path
    named = Path(config.load_path, config.checkpoint_url.rsplit("/", 1)[-1])
    found = [named] if named.is_file() else sorted(Path(config.load_path).rglob("*.ckpt"))
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(config.load_path)) for path in found) or "no .ckpt file"
        raise DataError(f"checkpoint_url={config.checkpoint_url} holds {names}; give the address of one .ckpt file")
    return str(found[0])


def local_rank(environment) -> tuple[int, int, int]:
    """Rank on this server, ranks on this server, number of this server.

    mpirun announces them. Otherwise they follow from RANK_ID, RANK_SIZE and DEVICE_NUM, the ranks on each server (without
    it there is one server). msrun without --node_rank sets no RANK_ID, its DEVICE_ID is the rank on the server.
    """

    def number(default: int, *names: str) -> int:
        name = next((name for name in names if environment.get(name)), None)
        if name is not None and not environment[name].isdigit():
            raise DataError(f"environment variable {name}={environment[name]}: a number is expected")
        return int(environment[name]) if name else default

    size = number(1, "OMPI_COMM_WORLD_SIZE", "MS_WORKER_NUM", "RANK_SIZE")
    rank = number(0, "OMPI_COMM_WORLD_RANK", "RANK_ID", "DEVICE_ID") if size > 1 else 0
    local_size = max(1, min(size, number(size, "OMPI_COMM_WORLD_LOCAL_SIZE", "DEVICE_NUM")))
    return number(rank % local_size, "OMPI_COMM_WORLD_LOCAL_RANK"), local_size, rank // local_size


def unzip_dataset(zip_path: str | Path, target: str | Path, max_bytes: int | None = None) -> Path:
    """Unpack a zip file to the folder `target`, wholly or not at all; nothing is done where that has been done.

    A single folder of the same name at the top of the zip file becomes `target` itself. Another `target` that is in the
    way is renamed.

    Raises:
        DataError: not a zip file, a damaged one, a member that would land outside or is a link, or more than `max_bytes`
            (by default what is free on the disk) or than MAX_RATIO times the packed size.
    """
    zip_path, target = Path(zip_path), Path(target)
    if not zipfile.is_zipfile(zip_path):
        state = f"is not a zip file, or cut short ({zip_path.stat().st_size} bytes)" if zip_path.exists() else "is missing"
        raise DataError(f"{zip_path} {state}; check data_url and modelarts_dataset_unzip_name")
    partial = target.with_name(f".{target.name}.partial")
    try:
        with zipfile.ZipFile(zip_path) as archive:
            mark = _check_members(archive, zip_path, target.parent, max_bytes)
            if (target / MARKER).is_file() and (target / MARKER).read_text() == mark:
                return target
            shutil.rmtree(partial, ignore_errors=True)  # of an unpacking that was killed
            _extract(archive, zip_path, partial)
        inner = partial / target.name
        source = inner if inner.is_dir() and len(list(partial.iterdir())) == 1 else partial
        (source / MARKER).write_text(mark)
        if target.exists():
            os.replace(target, f"{target}.before_{time.strftime('%Y%m%d_%H%M%S')}")
        os.replace(source, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
        raise DataError(f"{zip_path} cannot be unpacked: {error}; upload it again, without a password") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _check_members(archive: zipfile.ZipFile, zip_path: Path, folder: Path, max_bytes: int | None) -> str:
    """Refuses what must not be unpacked; returns a text that stands for the content."""
    total, digest = 0, 0
    for member in archive.infolist():
        name, kind = member.filename, stat.S_IFMT(member.external_attr >> 16)
        if name.startswith("/") or "\\" in name or re.match("[A-Za-z]:", name) or ".." in name.split("/"):
            raise DataError(f"{zip_path} holds '{name}', a path that leads outside or is not portable; nothing was unpacked")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DataError(f"{zip_path} holds '{name}', a link or special file; nothing was unpacked")
        total += member.file_size
        digest = zlib.crc32(f"{name} {member.file_size} {member.CRC}\n".encode(), digest)
    free = shutil.disk_usage(folder).free if max_bytes is None else max_bytes
    limit = min(free, MAX_RATIO * zip_path.stat().st_size)
    if total > limit or not total:
        raise DataError(f"{zip_path} unpacks to {total:,} bytes, 1 to {limit:,} are accepted (disk, or zip bomb); nothing was unpacked")
    return f"{total} bytes, digest {digest:08x}\n"


def _extract(archive: zipfile.ZipFile, zip_path: Path, folder: Path) -> None:
    """Extracts all members, with a line for each tenth; zipfile checks sizes and checksums."""
    members = archive.infolist()
    total, done, shown = sum(member.file_size for member in members), 0, 0
    for member in members:
        archive.extract(member, folder)
        done += member.file_size
        if done * 10 // total > shown:
            shown = done * 10 // total
            print(f"unzip {zip_path.name}: {10 * shown}%", flush=True)


def _check_addresses(config: Config) -> None:
    for key in ("data_url", "train_url", "checkpoint_url"):
        if config[key] and not config[key].startswith(("s3://", "obs://")):
            raise UsageError(f"{key}={config[key]}: an address s3://... or obs://... is accepted")
    if not config.train_url:
        print(f"warning: train_url is empty: the results stay in {config.output_path}", file=sys.stderr, flush=True)


def _moxing():
    try:
        import moxing
    except ImportError as error:
        raise DataError("enable_modelarts needs the package moxing, which the images of ModelArts hold") from error
    return moxing


def _bring_in(config: Config) -> None:
    _fetch("data_url", config.data_url, config.data_path)
    _fetch("checkpoint_url", config.checkpoint_url, config.load_path)
    if config.modelarts_dataset_unzip_name:
        unzip_dataset(data_dir(config) + ".zip", data_dir(config))


def _fetch(key: str, address: str, folder: str) -> None:
    """Copies a file or a folder of object storage into a local folder."""
    if not address:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    files = _moxing().file
    if not files.exists(address):
        raise DataError(f"{key}={address} does not exist in object storage")
    if files.is_directory(address):
        _copy("copy_parallel", address, folder)
    else:
        _copy("copy", address, os.path.join(folder, address.rsplit("/", 1)[-1]))


def _copy(function: str, source: str, target: str) -> None:
    print(f"copying {source} to {target}", flush=True)
    try:
        getattr(_moxing().file, function)(source, target)
    except Exception as error:  # noqa: BLE001 (moxing documents no exception types)
        raise DataError(f"copying {source} to {target} failed: {type(error).__name__}: {error}") from error


class _Server:
    """The ranks of this server. Files: `rank<N>` = I am waiting, `answer` = rank 0 is ready, `done<N>` = I have ended."""

    def __init__(self, config: Config, timeout: float):
        self.rank, self.size, _ = local_rank(os.environ)
        self.timeout = timeout
        job_id = [os.environ.get("JOB_ID", "")] + [os.path.abspath(config[key]) for key in ("data_path", "output_path")]
        name = hashlib.sha256("\n".join(job_id).encode()).hexdigest()[:16]
        self.folder = Path(tempfile.gettempdir(), f"modelarts-{os.getuid()}-{name}")
        self.token = f"{os.getpid()} {uuid.uuid4().hex}"
        self.tokens: dict[int, str] = {}  # of the other ranks, at rank 0

    def once(self, work: Callable[[], None]) -> None:
        """Rank 0 does the work; the others return when it is done, and fail when it has failed."""
        if self.size == 1:
            work()
        elif self.rank > 0:
            self._follow()
        else:
            self._make_folder()
            for path in self.folder.iterdir():
                path.unlink()
            failure = ""
            try:
                work()
            except BaseException as error:
                failure = f"{type(error).__name__}: {error}"
                raise
            finally:
                self._answer(failure)

    def wait_for_others(self, limit: float) -> None:
        """Rank 0 waits until every other rank has ended its block, or died; the others only say that they have."""
        if self.rank > 0:
            with suppress(OSError):  # rank 0 has given up and is gone
                (self.folder / f"done{self.rank}").write_text(self.token)
        elif not _wait(limit, lambda: all(self._has_ended(rank) for rank in self.tokens)):
            print("warning: not all ranks of this server have ended; copying what is there", file=sys.stderr, flush=True)

    def leave(self) -> None:
        """Rank 0 removes the folder; another rank only what it wrote, where rank 0 never answered."""

    def _follow(self) -> None: ...
