# Shared file: source utils/model_utils/check_memory.py; copy with: python scripts/sync_model_utils.py --write
"""Which pictures of a data set were found sound: remembered in the user's cache folder, never in the data set."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np

from .files import reason
from .logger import get_logger

CHECK_VERSION = 1  # a higher one forgets what was remembered


class Memory:
    """Which files of a data set were found sound, by path, size and times: 8 bytes a file in the user's cache folder."""

    def __init__(self, root: str | Path, shard: tuple[int, int], max_pixels: int):
        place = hashlib.sha256(
            f"{CHECK_VERSION} {max_pixels} {os.path.abspath(root)}".encode("utf-8", "surrogateescape")
        )
        self.folder, self.name = cache_folder(), place.hexdigest()[:24]
        self.file = self.folder / f"{self.name}-{shard[0]}-{shard[1]}.checked"
        self.root = str(root)
        before = self._read()
        self.before = dict(zip((before >> np.uint64(2)).tolist(), (before & np.uint64(3)).tolist()))
        self.now: list[int] = []

    def key(self, path: str) -> int:
        """62 bits that change with the file, 0 where there is none."""
        try:
            state = os.stat(path)
        except OSError:
            return 0
        text = f"{path.removeprefix(self.root).lstrip(os.sep)} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"
        return int.from_bytes(hashlib.sha256(os.fsencode(text)).digest()[:8], "little") >> 2

    def known(self, key: int) -> int | None:
        """Two bits that were remembered of a file; None: nothing is known of it."""
        bits = self.before.get(key)
        if bits is not None:
            self.add(key, bits)
        return bits

    def add(self, key: int, bits: int) -> None:
        """Remember that a file is sound, and two bits of it."""
        if key:
            self.now.append(key << 2 | bits)

    def save(self) -> None:
        """Write the file anew; where that cannot be, the next check takes as long as this one."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
                file.write(np.array(self.now, np.uint64).tobytes())
            os.replace(file.name, self.file)
        except OSError as error:
            get_logger().info("notice: the check of the pictures is not remembered: %s %s", self.folder, reason(error))

    def _read(self) -> np.ndarray:
        found = [np.zeros(0, np.uint64)]
        for file in self.folder.glob(f"{self.name}-*.checked"):
            with contextlib.suppress(OSError):
                content = file.read_bytes()
                found.append(np.frombuffer(content[: len(content) // 8 * 8], np.uint64))
        return np.concatenate(found)


def cache_folder() -> Path:
    """Of the user; nothing in it is needed."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "mindspore_model_zoo"
