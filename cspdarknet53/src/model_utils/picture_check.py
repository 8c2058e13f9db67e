# Shared file: source utils/model_utils/picture_check.py; copy with: python scripts/sync_model_utils.py --write
"""Are these files pictures that training will see as they are: every one is decoded once, and what was found remembered.

MindData's decoder may end the process at a damaged JPEG, and shows what is missing as grey without a word. Pillow refuses
all that end the process; what is grey is found by decoding twice, see `jpeg_data.py`; the rest by comparing the two.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageChops, UnidentifiedImageError

from .check_memory import Memory
from .errors import DataError, UsageError
from .files import reason, require_regular
from .image_folder import some
from .jpeg_data import require_data
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
MANY = 10_000  # files from which on processes are worth their start
REPORT_INTERVAL = 30.0  # seconds
FAR, LARGEST_DIFFERENCE = 64, 0.01  # of 255: values that differ; share of the pixels that may
START_OF_SCAN = 0xDA  # marker of JPEG
NEXT_LINE = "\n    "

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
                require_data(path, image)
                _require_agreement(path, image)
            return Finding("", is_deep, is_deep and _is_dark(image))
    except Exception as error:  # noqa: BLE001 (Pillow's readers raise errors of many kinds on damaged files)
        return Finding(explain(error, size))


def _require_agreement(path: str | Path, image: Image.Image) -> None:
    """Raise DataError where the decoder of the pipelines refuses a picture or sees another one than Pillow.

    Where data are damaged the two go on in different ways, each without a word. Pillow has accepted the file: none of
    those that end the process comes this far.
    """
    from mindspore.dataset import vision  # what checks no picture needs no framework

    try:
        seen = vision.Decode()(Path(path).read_bytes())
    except RuntimeError as error:
        remove_dump(str(error))
        raise DataError("damaged, or of a kind that training cannot decode") from None
    if seen.shape[:2] != image.size[::-1]:
        raise DataError("damaged: two decoders see different sizes")
    if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
        counts = ImageChops.difference(image.convert("RGB"), Image.fromarray(seen)).histogram()
        apart = np.reshape(counts, (3, 256))[:, FAR + 1 :].sum(axis=1).max()  # pixels, in the channel with the most
        if apart > LARGEST_DIFFERENCE * image.width * image.height:
            raise DataError("damaged: two decoders see different pictures")


def remove_dump(text: str) -> None:
    """Remove the copy of a damaged image that MindData has written into the current directory, as its message says."""
    dump = re.search(r"Dump the abnormal image to \[(.+?)\]", text)
    if dump:
        Path(dump[1]).unlink(missing_ok=True)


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
    keys = {path: memory.key(path) for path in paths} if memory else {}
    bits = {path: memory.known(key) for path, key in keys.items()} if memory else {}
    findings = {
        path: Finding("", bool(known & 1), bool(known & 2)) for path, known in bits.items() if known is not None
    }
    left = [path for path in paths if path not in findings]
    chunks = [left[start : start + CHUNK] for start in range(0, len(left), CHUNK)]
    pool, progress = _pool(level, len(left)), Progress(len(paths))
    try:
        examine_chunk = functools.partial(_examine_chunk, level=level, max_pixels=max_pixels)
        for chunk, found in zip(chunks, pool.map(examine_chunk, chunks)):
            findings.update(zip(chunk, found))
            for path, finding in zip(chunk, found):
                if memory and not finding.fault:
                    memory.add(keys[path], finding.is_deep | finding.is_dark << 1)
            progress.report(len(findings))
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the remaining files
        if memory:
            memory.save()
    return [findings[path] for path in paths]


def _pool(level: str, files: int) -> Executor:
    """Threads; for many files processes, since MindData decodes a single picture with Python's lock held."""
    if level == "full" and files >= MANY and own_cores() > 2:
        return ProcessPoolExecutor(own_cores(), multiprocessing.get_context("spawn"))
    return ThreadPoolExecutor(own_cores() if level == "full" else READERS)


def _examine_chunk(paths: Sequence[str], level: str, max_pixels: int) -> list[Finding]:
    return [examine(path, level, max_pixels) for path in paths]


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
