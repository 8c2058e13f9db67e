# Shared file: source utils/model_utils/moxing_adapter.py; copy with: python scripts/sync_model_utils.py --write
"""ModelArts: bring data and checkpoint in once per server, and put the results out, also after a failure."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mindspore.train import Callback, RunContext

from .config import Config
from .errors import DataError, UsageError
from .logger import get_logger
from .program import message
from .progress import Position
from .ranks import FAILURE_WAIT, Ranks, local_rank, warn
from .unzip import unzip_dataset

TIMEOUT = 7200.0  # seconds until a rank gives up waiting for the data
END_WAIT = 600.0  # seconds that the first rank waits for the others at the end


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
    ranks = Ranks(config.data_path, config.output_path)
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
                warn(str(error))
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
        trace = None if message(failure) else failure
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
            warn(f"{error}; training goes on")


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
        warn(f"train_url is empty: the results stay in {config.output_path}")


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
