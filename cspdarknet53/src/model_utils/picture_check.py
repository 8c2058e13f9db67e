# Shared file: source utils/model_utils/picture_check.py; copy with: python scripts/sync_model_utils.py --write
"""Are these files pictures that training will see as they are: every one is decoded once, and what was found remembered.

MindData's decoder may end the process at a damaged JPEG, and shows what is missing as grey without a word. Pillow refuses
all that end the process; what is grey is found by decoding twice, see `_lacks_data`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from .errors import DataError, UsageError
from .files import reason, require_regular
from .image_folder import some
from .logger import get_logger
from .option_values import BOOLEANS
from .workers import own_cores

Image.MAX_IMAGE_PIXELS = None  # `require_pixels` is the limit, below and above Pillow's own

FORMATS = ("JPEG", "PNG", "BMP", "TIFF")  # MindData decodes these; it refuses GIF, WebP and JPEG 2000
LEVELS = ("full", "fast", "off")
MAX_PIXELS = 400_000_000  # width times height; cameras of 200 megapixels are real
# Which modes and compressions of TIFF MindData decodes to the same pixels as Pillow; it turns LAB into other colours, and
# refuses the others or makes zeros of them.
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L")
TIFF_COMPRESSIONS = ("raw", "jpeg", "packbits", "group3", "group4", "tiff_ccitt", "tiff_lzw", "tiff_adobe_deflate",
                     "tiff_deflate")  # fmt: skip
BITS_PER_SAMPLE = 258  # tag of TIFF
HEAD, TAIL = 4096, 12  # bytes that the fast check reads
CHUNK, READERS = 100, 16
REPORT_INTERVAL = 30.0  # seconds
GREY = 128  # of what a JPEG decoder has no data for
PADDING = bytes(range(1, 255)) * 2
MARKER = re.compile(rb"\xff+[^\0\xff]")
RESTARTS, START_OF_SCAN, END_OF_IMAGE = range(0xD0, 0xD8), 0xDA, 0xD9
SCAN, RESTARTS_FOLLOW = b"\xff\xda", b"\xff\xdd\0\4"
RESTART_INTERVAL, BASELINE = 0xDD, (0xC0, 0xC1)
NEXT_LINE = "\n    "
LARGEST_LACK = 0.01  # share of the pixels for which a JPEG may lack data
CHECK_VERSION = 1  # a higher one forgets what was remembered

# ---- Options ---------------------------------------------------------------------------------------------------------


def check_level(value: str | bool) -> str:
    """How thoroughly pictures are checked: full, fast or off; true and false, of older recipes, are full and off.

    Raises:
        UsageError: another text.
    """
    level = str(value).strip().lower()
    if level in BOOLEANS:
        level = "full" if BOOLEANS[level] else "off"
    if level not in LEVELS:
        raise UsageError(f"check_images={value}: one of {', '.join(LEVELS)} is accepted")
    return level


def require_pixels(size: tuple[int, int], max_pixels: int) -> None:
    """Raise DataError for a picture of more pixels than `max_pixels`; 0: of any number.

    Args:
        size: width and height, as the header of the file says.
        max_pixels: the recipe's.
    """
    if max_pixels < 0:
        raise UsageError(f"max_pixels={max_pixels}: 0 or more is accepted; 0 = no limit")
    if 0 < max_pixels < size[0] * size[1]:
        raise DataError(
            f"its header says {size[0]} x {size[1]} pixels, more than max_pixels={max_pixels}; "
            "raise that where the picture is real"
        )


def require_header(path: str | Path, max_pixels: int) -> None:
    """Raise DataError for what is no regular file, or a picture whose header says more pixels than `max_pixels`."""
    require_regular(path, "it")
    try:
        with Image.open(path) as image:
            size = image.size
    except Exception as error:  # noqa: BLE001 (Pillow's readers raise errors of many kinds on damaged files)
        if isinstance(error, OSError) and error.errno is not None:
            raise
        return  # its reader knows more kinds, or says what is wrong
    require_pixels(size, max_pixels)


# ---- One picture -----------------------------------------------------------------------------------------------------


class Finding(NamedTuple):
    """What is wrong with a picture (empty: nothing), whether it has 16 bits a channel, and whether its upper 8 are empty."""

    fault: str = ""
    is_deep: bool = False
    is_dark: bool = False


def examine(path: str | Path, level: str = "full", max_pixels: int = MAX_PIXELS) -> Finding:
    """Decode a picture (full), or look at its header and its end and decode where these are unusual (fast)."""
    size = 0
    try:
        size = require_regular(path, "it")
        with open(path, "rb") as file, Image.open(file, formats=FORMATS) as image:
            require_pixels(image.size, max_pixels)
            _require_faithful(image)
            is_deep = _has_16_bits(path, image)
            if level == "full" or is_deep or not _ends_well(path):
                image.load()
                _require_data(path, image)
            return Finding("", is_deep, is_deep and _is_dark(image))
    except Exception as error:  # noqa: BLE001 (Pillow's readers raise errors of many kinds on damaged files)
        return Finding(explain(error, size))


def explain(error: Exception, size: int) -> str:
    """What an error that came up while a picture was decoded says about its file of so many bytes."""
    if isinstance(error, UnidentifiedImageError):
        return f"not one of {', '.join(FORMATS)}, or of a kind that is not read" if size else "empty file"
    if isinstance(error, OSError) and error.errno is not None:  # Pillow's own errors have no number
        return reason(error)
    return str(error) if isinstance(error, DataError) else f"damaged: {error}"


def _require_faithful(image: Image.Image) -> None:
    compression = image.info.get("compression", "raw") if image.format == "TIFF" else "raw"
    if image.mode not in MODES or compression not in TIFF_COMPRESSIONS:
        kind = image.mode if image.mode not in MODES else compression
        raise DataError(
            f"{image.format} of the kind {kind}, which training does not read as it is; save it as 8-bit RGB"
        )


def _has_16_bits(path: str | Path, image: Image.Image) -> bool:
    if image.format == "TIFF":
        return bool(np.max(image.tag_v2.get(BITS_PER_SAMPLE, 1)) > 8)
    if image.format == "PNG":  # Pillow gives RGB of 16 bits as 8 bits
        with open(path, "rb") as file:
            return file.read(25)[24:] == b"\x10"
    return False


def _is_dark(image: Image.Image) -> bool:
    """Whether little is left of a picture of 16 bits in its upper 8 bits: 12-bit data fill 16 of 256 values."""
    ranges = image.getextrema()
    highest = max(high for _, high in ranges) if isinstance(ranges[0], tuple) else ranges[1]
    return highest < (4096 if image.mode.startswith("I;16") else 16)


def _require_data(path: str | Path, image: Image.Image) -> None:
    """Raise DataError for a JPEG of which the decoder made up a part."""
    if image.format not in ("JPEG", "MPO"):
        return
    with open(path, "rb") as file:
        data = file.read()
    if _is_plain(data, image) and not _ends_in_grey(image):
        return
    segments = list(_segments(data))
    if not _restarts_are_whole(segments, image.size):
        raise DataError("damaged: restart markers are missing, so that parts of the picture are made up or misplaced")
    lack = _lack(data, [segment.end for segment in segments if segment.end], image)
    if lack > LARGEST_LACK:
        raise DataError(f"damaged: {lack:.0%} of the picture are made up, because its data end too early")


def _is_plain(data: bytes, image: Image.Image) -> bool:
    """Whether a JPEG is surely of one scan without restarts: what such a one lacks is at its end."""
    return image.mode in ("L", "RGB") and data.count(SCAN) == 1 and RESTARTS_FOLLOW not in data


def _ends_in_grey(image: Image.Image) -> bool:
    width, height = image.size
    corner = image.crop((max(0, width - 4), max(0, height - 4), width, height))
    return set(corner.tobytes()) == {GREY}


def _lack(data: bytes, ends: Sequence[int], image: Image.Image) -> float:
    """The share of a JPEG's pixels for which the file has no data.

    Bytes are put before each marker at which a decoder's data end. Where a decoder has had all it needs, it skips them;
    where not, it takes them for what is missing, and the picture is another one.
    """
    parts = [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)])]
    with Image.open(io.BytesIO(PADDING.join(parts)), formats=["JPEG"]) as other:
        other.load()
        differs = np.asarray(image) != np.asarray(other)
    return float(differs.any(axis=2).mean() if differs.ndim == 3 else differs.mean())


class _Segment(NamedTuple):
    """A part of a JPEG: its marker, what belongs to it, and where coded data that follow end (0: none follow)."""

    code: int
    content: bytes
    end: int


def _segments(data: bytes) -> Iterator[_Segment]:
    """The segments of a JPEG up to the end of its first image."""
    position = 2
    while (found := MARKER.search(data, position)) and found[0][-1] != END_OF_IMAGE:
        code, start, end = found[0][-1], found.end(), 0
        position = start if code in RESTARTS else start + int.from_bytes(data[start : start + 2], "big")
        content = data[start + 2 : position]
        if code in RESTARTS or code == START_OF_SCAN:
            following = MARKER.search(data, position)
            position = end = following.end() - 2 if following else len(data)
        yield _Segment(code, content, end)


def _restarts_are_whole(segments: Sequence[_Segment], size: tuple[int, int]) -> bool:
    """Whether the restart markers of each scan count from 0 to 7 and on from 0, and are as many as a baseline scan has."""
    expected = number = 0
    for code in (segment.code for segment in segments):
        if code == START_OF_SCAN:
            expected = 0
        elif code in RESTARTS:
            if code - RESTARTS[0] != expected:
                return False
            expected, number = (expected + 1) % 8, number + 1
    wanted = _restarts_of_baseline({segment.code: segment.content for segment in segments}, size)
    return wanted is None or number == wanted or [s.code for s in segments].count(START_OF_SCAN) != 1


def _restarts_of_baseline(contents: Mapping[int, bytes], size: tuple[int, int]) -> int | None:
    """How many restart markers a picture of one scan needs; None where it is no such picture."""
    interval = int.from_bytes(contents.get(RESTART_INTERVAL, b""), "big")
    frame = next((contents[code] for code in BASELINE if code in contents), b"")
    if not interval or len(frame) < 9:
        return None
    sampling = frame[7::3] if frame[5] > 1 else b"\x11"  # a single channel goes by blocks of 8 x 8
    width, height = (8 * max(kind >> 4 for kind in sampling), 8 * max(kind & 15 for kind in sampling))
    units = -(-size[0] // width) * -(-size[1] // height)
    return -(-units // interval) - 1


# ---- The fast look at a file's end -----------------------------------------------------------------------------------


def _ends_well(path: str | Path) -> bool:
    """Whether a file has the end of its format at its very end. False only asks for a full decode."""
    with open(path, "rb", buffering=0) as file:
        head = file.read(HEAD)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL))
        tail = file.read(TAIL)
        if head.startswith(b"\x89PNG\r\n\x1a\n"):
            return tail == b"\0\0\0\0IEND\xaeB`\x82"
        if head.startswith(b"BM"):
            return int.from_bytes(head[2:6], "little") == size
        return head.startswith(b"\xff\xd8\xff") and tail.endswith(b"\xff\xd9") and _reaches_scan(file, head)


def _reaches_scan(file: BinaryIO, head: bytes) -> bool:
    """Whether a JPEG's header segments are whole: a file cut just after its thumbnail has that one's end marker."""
    position, start = 2, 0  # in the file: of the segment, of `head`
    while True:
        marker = head[position - start : position - start + 4]
        if len(marker) == 4 and marker[0] == 0xFF:
            if marker[1] == START_OF_SCAN:
                return True
            position += 2 + int.from_bytes(marker[2:], "big")
        elif len(marker) == 4 or position == start:
            return False
        else:
            file.seek(position)
            head, start = file.read(HEAD), position


# ---- Many pictures ---------------------------------------------------------------------------------------------------


def check_image_files(
    root: str | Path,
    paths: Sequence[str],
    *,
    level: str | bool = "full",
    max_pixels: int = MAX_PIXELS,
    shard: tuple[int, int] = (0, 1),
) -> None:
    """See that each file is a whole JPEG, PNG, BMP or TIFF that training reads as it is.

    What a full check found sound is remembered in the user's cache folder, and not read again until it changes.

    Args:
        root: folder of the data set.
        paths: of the files.
        level: of `check_level`.
        max_pixels: see `require_pixels`.
        shard: (rank, size): this process opens every size-th file.

    Raises:
        DataError: the files that are not.
        UsageError: an option that cannot be.
    """
    level = check_level(level)
    require_pixels((0, 0), max_pixels)
    if level == "off":
        return
    paths = paths[shard[0] :: shard[1]]
    memory = Memory(root, shard, max_pixels) if level == "full" else None
    findings = dict(zip(paths, _examine_all(paths, level, max_pixels, memory)))
    faults = [f"{path}: {finding.fault}" for path, finding in findings.items() if finding.fault]
    report_16_bits(findings)
    if faults:
        problem = f"{len(faults):,} of {len(paths):,} files are not readable images; mend or remove them"
        raise DataError(f"{root}: {problem}:\n    {some(faults, NEXT_LINE)}")


def _examine_all(paths: Sequence[str], level: str, max_pixels: int, memory: Memory | None) -> list[Finding]:
    """Findings in the order of the paths; a line now and then says how far it has come."""
    findings: list[Finding] = []
    pool = ThreadPoolExecutor(own_cores() if level == "full" else READERS)
    progress = Progress(len(paths))
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    try:
        for found in pool.map(lambda chunk: [_recall(path, level, max_pixels, memory) for path in chunk], chunks):
            findings += found
            progress.report(len(findings))
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the remaining files
        if memory:
            memory.save()
    return findings


def _recall(path: str, level: str, max_pixels: int, memory: Memory | None) -> Finding:
    """What is remembered of a file, or found now."""
    if memory is None:
        return examine(path, level, max_pixels)
    key = memory.key(path)
    finding = memory.known(key)
    if finding is None:
        finding = examine(path, level, max_pixels)
        memory.add(key, finding)
    return finding


def report_16_bits(findings: Mapping[Path | str, Finding]) -> None:
    """Say once that pictures of 16 bits a channel lose the lower ones."""
    deep = [path for path, finding in findings.items() if finding.is_deep]
    if not deep:
        return
    dark = sum(finding.is_dark for finding in findings.values())
    black = f"; {dark:,} of them are almost black then, as 12-bit data is" if dark else ""
    get_logger().info(
        f"notice: {len(deep):,} of {len(findings):,} pictures have 16 bits a channel, the first is {deep[0]}: only the "
        f"upper 8 bits are used{black}; scale such pictures to 8 bits if the lower ones matter"
    )


class Progress:
    """Writes how many of the pictures have been checked, from the first half minute on."""

    def __init__(self, total: int):
        self.total, self.start = total, time.monotonic()
        self.next = self.start + REPORT_INTERVAL

    def report(self, done: int) -> None:
        now = time.monotonic()
        if now >= self.next:
            self.next = now + REPORT_INTERVAL
            left = (now - self.start) * (self.total - done) / done
            get_logger().info("checked %s of %s pictures, %.0f s left", f"{done:,}", f"{self.total:,}", left)


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

    def known(self, key: int) -> Finding | None:
        flags = self.before.get(key)
        if flags is None:
            return None
        self.now.append(key << 2 | flags)
        return Finding("", bool(flags & 1), bool(flags & 2))

    def add(self, key: int, finding: Finding) -> None:
        if key and not finding.fault:
            self.now.append(key << 2 | finding.is_deep | finding.is_dark << 1)

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
