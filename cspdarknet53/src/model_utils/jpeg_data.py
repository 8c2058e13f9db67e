# Shared file: source utils/model_utils/jpeg_data.py; copy with: python scripts/sync_model_utils.py --write
"""Does a JPEG have the data of all its pixels: decoders fill what is missing with grey, and do not say so."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from .errors import DataError

GREY = 128  # of what a JPEG decoder has no data for
PADDING = bytes(range(1, 255)) * 2
MARKER = re.compile(rb"\xff+[^\0\xff]")
RESTARTS, START_OF_SCAN, END_OF_IMAGE = range(0xD0, 0xD8), 0xDA, 0xD9
SCAN, RESTARTS_FOLLOW = b"\xff\xda", b"\xff\xdd\0\4"
RESTART_INTERVAL, BASELINE = 0xDD, (0xC0, 0xC1)
LARGEST_LACK = 0.01  # share of the pixels for which a JPEG may lack data


def require_data(path: str | Path, image: Image.Image) -> None:
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
