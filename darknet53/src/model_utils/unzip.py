# Shared file: source utils/model_utils/unzip.py; copy with: python scripts/sync_model_utils.py --write
"""Unpack a data set that came as a zip file: safely, wholly or not at all, and only once."""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
import zipfile
import zlib
from pathlib import Path

from .errors import DataError

MAX_RATIO = 200  # unpacked to packed size; more is a zip bomb
MARKER = ".unzipped"


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
    total, digest, names = 0, 0, set()
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
