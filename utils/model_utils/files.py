# Shared file: source utils/model_utils/files.py; copy with: python scripts/sync_model_utils.py --write
"""Text files and modes of files: one rule for all that is read and written."""

from __future__ import annotations

import codecs
import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from .errors import DataError

LARGEST_TEXT = 64 << 20  # bytes
MARKS = (  # with which a text may begin, and what it is then
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


KINDS = (  # of what is no regular file
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def require_regular(path: str | Path, what: str = "") -> int:
    """The size in bytes of a regular file; opening a named pipe or a device could wait for ever.

    Raises:
        DataError: the path, or `what` in its place, is something else.
        OSError: nothing is there, or nothing that this user may look at.
    """
    state = os.stat(path)
    if not stat.S_ISREG(state.st_mode):
        kind = next((name for is_kind, name in KINDS if is_kind(state.st_mode)), "something else")
        raise DataError(f"{what or path} is {kind}, not a regular file")
    return state.st_size


def reason(error: OSError, done: str = "read") -> str:
    """What an error of the operating system says about a file that was to be read, or what else is `done` with it."""
    if isinstance(error, PermissionError):
        return f"may not be {done} by this user"
    return (error.strerror or str(error)).lower()


def read_text(
    path: str | Path,
    what: str = "",
    *,
    expected: str = "a text file",
    errors: str = "strict",
    largest: int = LARGEST_TEXT,
) -> str:
    """The text of a file: UTF-8, or what a byte order mark at its start says.

    Args:
        path: file.
        what: of it, for messages, such as `label_file=labels.txt`; empty: the path.
        expected: what is wanted, for messages.
        errors: surrogateescape for lists of file names, which may be of any bytes.
        largest: bytes that are accepted.

    Raises:
        DataError: no such file or no regular one, one that is too large, cannot be read or is no text.
    """
    path, what = Path(path), what or str(path)
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{what} is {'a folder' if path.is_dir() else 'no regular file'}; give {expected}")
        with open(path, "rb") as file:
            content = file.read(largest + 1)
    except OSError as error:
        raise DataError(f"{what} cannot be read: {error.strerror}; give {expected}") from error
    if len(content) > largest:
        raise DataError(f"{what} has more than {largest:,} bytes; give {expected} of at most that")
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding, errors if encoding.startswith("utf-8") else "strict")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{what} is no text in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error


def require_text_name(path: str | Path, what: str) -> None:
    """Raise DataError for a path that is no text in UTF-8, which the framework takes no other of."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{what}={str(path)!a} is no name in UTF-8, and the framework takes no other; rename it"
        ) from error


def home_path(text: str) -> Path:
    """The path of a text, which may begin with ~ or ~user, as a shell would expand it."""
    return Path(os.path.expanduser(text))


def plain_path(name: str) -> tuple[str, bool]:
    """A relative path without `.` and needless `..`, and whether it leads out of the folder that it is relative to."""
    plain = os.path.normpath(name)
    return plain, os.path.isabs(plain) or plain.split(os.sep)[0] == ".."


def apply_umask(path: str | Path) -> None:
    """Give a file or folder the mode that the user's umask gives new ones; the framework makes private ones."""
    mask = os.umask(0o077)
    os.umask(mask)
    os.chmod(path, (0o777 if os.path.isdir(path) else 0o666) & ~mask)


def make_folder(path: Path) -> None:
    """Make a folder and those above it; DataError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path} cannot be made: {reason(error, 'made')}; make room or give another place") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all.

    Raises:
        DataError: it cannot be written, such as where the disk is full.
    """
    partial = path.with_name(f".{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {reason(error, 'written')}; make room or give another place"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def move(file: Path, target: Path) -> None:
    """Move a file, also to another disk: the target appears whole, with the mode of a new file, or not at all."""
    apply_umask(file)
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        shutil.move(file, temporary)
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path, which becomes `path` at the end: the file appears whole, or not at all.

    Raises:
        DataError: it cannot be written; an OSError inside is taken for that.
    """
    temporary = path.with_name(f".{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}; is the disk full?") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
