# Shared file: source utils/model_utils/unzip.py; copy with: python scripts/sync_model_utils.py --write
"""Unpack a data set that came as a zip file: safely, wholly or not at all, and only once."""

from __future__ import annotations

import os
import re
import shutil
import stat
import struct
import time
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from .errors import DataError
from .files import reason, require_regular

MAX_RATIO = 200  # unpacked to packed size; more is a zip bomb
MARKER = ".unzipped"
END_LENGTH, END_64_LENGTH = 22, 56 + 20  # bytes of the end of a zip file; of what stands before it in a large one


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
    _require_zip(zip_path)
    try:
        with zipfile.ZipFile(zip_path) as archive:
            mark = _check_members(archive, zip_path, max_bytes)
            if (target / MARKER).is_file() and (target / MARKER).read_text() == mark:
                return target
            _remove(partial)  # of an unpacking that was killed
            _extract(archive, zip_path.name, partial)
        inner = partial / target.name
        source = inner if inner.is_dir() and len(list(partial.iterdir())) == 1 else partial
        (source / MARKER).write_text(mark)
        if target.exists():
            os.replace(target, f"{target}.before_{time.time_ns()}")
        os.replace(source, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
        raise DataError(f"{zip_path} cannot be unpacked: {error}; upload it again, without a password") from error
    except OSError as error:
        raise DataError(f"{zip_path} cannot be unpacked into {target}: {error.strerror or error}; mend that") from error
    finally:
        _remove(partial)
    return target


def _require_zip(path: Path) -> None:
    try:
        size = require_regular(path)
        with open(path, "rb") as file:
            state = "" if zipfile.is_zipfile(file) else f"({size} bytes) is no zip file, or cut short"
    except OSError as error:
        state = "is missing" if isinstance(error, FileNotFoundError) else reason(error)
    if state:
        raise DataError(f"{path} {state}; check data_url and modelarts_dataset_unzip_name")


def _remove(path: Path) -> None:
    """Remove what an unpacking has left, whatever it is."""
    shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path) and not path.is_dir():
        path.unlink()


def _check_members(archive: zipfile.ZipFile, zip_path: Path, max_bytes: int | None) -> str:
    """Refuse what must not be unpacked; return a text that identifies the content."""
    stated = _stated_members(zip_path, len(archive.comment))
    if stated != len(archive.infolist()):
        found = f"its end says {stated} members, {len(archive.infolist())} were found"
        raise DataError(f"{zip_path} is refused: {found}; the file is damaged")
    total, digest, names, files = 0, 0, set(), set()
    for member in archive.infolist():
        name, kind = member.filename, stat.S_IFMT(member.external_attr >> 16)
        if name.startswith("/") or "\\" in name or re.match("[A-Za-z]:", name) or ".." in name.split("/"):
            raise DataError(f"{zip_path} is refused: the path '{name}' leads outside, or has backslashes")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DataError(f"{zip_path} is refused: '{name}' is a link or a special file")
        parts = name.rstrip("/").split("/")
        if "" in parts or "." in parts or "\0" in member.orig_filename:
            raise DataError(f"{zip_path} is refused: the path '{name}' names no file")
        if member.is_dir() and (member.file_size or member.CRC):
            raise DataError(f"{zip_path} is refused: the folder '{name}' has content; the file is damaged")
        if "/".join(parts) in names:
            raise DataError(f"{zip_path} is refused: it holds '{name}' twice")
        names.add("/".join(parts))
        files |= set() if member.is_dir() else {"/".join(parts)}
        total += member.file_size
        digest = zlib.crc32(f"{name} {member.file_size} {member.CRC}\n".encode(), digest)
    both = next((parent for name in files for parent in _parents(name) if parent in files), "")
    if both:
        raise DataError(f"{zip_path} is refused: '{both}' is a file in it, and a folder too")
    limit = shutil.disk_usage(zip_path.parent).free if max_bytes is None else max_bytes
    limit = min(limit, MAX_RATIO * zip_path.stat().st_size)
    if not 0 < total <= limit:
        raise DataError(f"{zip_path} is refused: it unpacks to {total:,} bytes, 1 to {limit:,} are accepted")
    return f"{total} bytes, digest {digest:08x}\n"


def _parents(name: str) -> list[str]:
    return [str(parent) for parent in PurePosixPath(name).parents][:-1]


def _stated_members(zip_path: Path, comment: int) -> int:
    """The number of members that the end of a zip file states; `comment` bytes stand behind that."""
    with open(zip_path, "rb") as file:
        file.seek(-(END_LENGTH + comment), os.SEEK_END)
        count = int.from_bytes(file.read(END_LENGTH)[10:12], "little")
        if count == 0xFFFF:  # the number stands in the end record of large files, before its locator and this end
            file.seek(-(END_LENGTH + comment + END_64_LENGTH), os.SEEK_END)
            record = file.read(END_64_LENGTH)
            count = int.from_bytes(record[32:40], "little") if record.startswith(b"PK\x06\x06") else count
    return count


def _extract(archive: zipfile.ZipFile, name: str, folder: Path) -> None:
    """Extract all members, with a line for each tenth; zipfile compares the checksums."""
    members = archive.infolist()
    total, done, tenths = sum(member.file_size for member in members), 0, 0
    for member in members:
        with archive.open(member):  # compares the name with that at the member itself, of folders too
            _require_same_numbers(archive, member)
        written = Path(archive.extract(member, folder))
        if written.is_file() and written.stat().st_size != member.file_size:
            raise zipfile.BadZipFile(f"{member.filename!r} has {written.stat().st_size} bytes, not {member.file_size}")
        done += member.file_size
        if done * 10 // total > tenths:
            tenths = done * 10 // total
            print(f"unzip {name}: {10 * tenths}%", flush=True)


def _require_same_numbers(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Raise BadZipFile where the directory and the member itself state another method, checksum or size."""
    with open(archive.filename, "rb") as file:
        file.seek(member.header_offset + 6)
        flags, method, _, crc, _, size = struct.unpack("<HHIIII", file.read(20))
    comes_after = flags & 8  # then checksum and size follow the data; a large size stands elsewhere
    if (
        not comes_after
        and size != 0xFFFFFFFF
        and (method, crc, size) != (member.compress_type, member.CRC, member.file_size)
    ):
        raise zipfile.BadZipFile(f"the directory says something else of {member.filename!r} than its own header")
