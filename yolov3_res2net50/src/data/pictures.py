"""Image files as RGB pixels, and pixels as the network's input.

Files may have any number of channels and bits; damage is noticed, and they are rotated as the data set means it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..model_utils.errors import DataError
from ..model_utils.files import require_regular
from ..model_utils.picture_check import MAX_PIXELS, require_header
from .sizes import mismatch, same_aspect

REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
HEAD = 1 << 16  # bytes; the EXIF segment of a JPEG is within them
TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


def read_picture(path: str | Path, size: tuple[int, int] | None = None, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A picture as (height, width, 3) uint8 RGB, 0-255.

    One-channel, 16-bit (its upper 8 bits), palette and CMYK pictures become RGB, an alpha channel is dropped.

    Args:
        path: file.
        size: height and width that the data set states. A picture that is stored in that size, or with that aspect
            ratio, is not rotated; any other one is rotated as its EXIF orientation says, also a square one. None is scaled.
        max_pixels: that the header of the file may say; 0: any number.

    Raises:
        ValueError: why the file is not a sound picture.
        OSError: the file cannot be read.
    """
    try:
        require_header(path, max_pixels)
    except DataError as error:
        raise ValueError(str(error)) from error
    return decode(path, size)[0]


def decode(path: str | Path, size: tuple[int, int] | None = None, reduce: int = 1) -> tuple[np.ndarray, int]:
    """As read_picture, at a fraction of the resolution where that saves time.

    Args:
        path: file.
        size: see `read_picture`.
        reduce: 1, 2, 4 or 8: a JPEG that is not rotated may be decoded to so many times fewer pixels a side.

    Returns:
        The picture, and by how much it was reduced: pixel i of it covers the pixels i * f to (i + 1) * f.
    """
    _require_regular(path)
    data = np.fromfile(path, np.uint8)
    _require_complete(data)
    if not _may_be_rotated(data) or _is_used_as_stored(data, size):
        reduce = reduce if data[:3].tobytes() == JPEG else 1
        picture = _decode(data, REDUCED[reduce] | cv2.IMREAD_IGNORE_ORIENTATION)
        if picture is not None:
            return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), reduce
    picture = _decode(data, cv2.IMREAD_COLOR)
    return (_decode_with_pillow(data) if picture is None else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)), 1


def _require_regular(path: str | Path) -> None:
    """Raise ValueError for a pipe or device, which would be waited for."""
    try:
        require_regular(path, "it")
    except DataError as error:
        raise ValueError(str(error)) from error


def _is_used_as_stored(data: np.ndarray, stated: tuple[int, int] | None) -> bool:
    """As `keeps_orientation`, of the bytes of a file."""
    try:
        with Image.open(io.BytesIO(data.tobytes())) as image:
            stored = image.size[::-1]
    except UnidentifiedImageError:  # OpenCV knows a few more kinds
        picture = _decode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        stored = (0, 0) if picture is None else picture.shape[:2]
    return keeps_orientation(stored, stated)


def keeps_orientation(stored: tuple[int, int], stated: tuple[int, int] | None) -> bool:
    """Whether a picture is used without the rotation of its EXIF orientation: the data set means it as it is stored.

    Args:
        stored: height and width in the file.
        stated: those that the data set states; None: it does not.
    """
    if stated is None or stated[0] == stated[1]:
        return False
    return same_aspect(stored, stated) and mismatch(stored, stated) <= mismatch(stored[::-1], stated)


def picture_size(path: str | Path, stated: tuple[int, int] | None = None) -> tuple[int, int]:
    """Height and width of what `read_picture` gives; reads the file's header only.

    Args:
        path: file.
        stated: see `read_picture`.

    Raises:
        ValueError: the file is no picture.
        OSError: the file cannot be read.
    """
    stored, orientation = read_header(path)
    turned = orientation in TRANSPOSED and not keeps_orientation(stored, stated)
    return stored[::-1] if turned else stored


def read_header(path: str | Path) -> tuple[tuple[int, int], int]:
    """Height and width of a picture as it is stored, and EXIF's orientation, 1 to 8; raises as `picture_size`."""
    _require_regular(path)
    try:
        with Image.open(path) as image:
            orientation = image.getexif().get(0x0112)
            return (image.size[1], image.size[0]), orientation if orientation in range(1, 9) else 1
    except UnidentifiedImageError:
        picture = read_picture(path)  # such as a TIFF of three 16-bit channels
        return (picture.shape[0], picture.shape[1]), 1
    except OSError:
        raise
    except Exception as error:  # Pillow's readers raise errors of many kinds on damaged files
        raise ValueError(str(error) or type(error).__name__) from error


def input_tables(mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """What becomes of each red, green and blue value 0-255: (3, 256) float32 (value / 255 - mean) / std."""
    return ((np.arange(256) / 255 - np.array(mean)[:, None]) / np.array(std)[:, None]).astype(np.float32)


def to_input(picture: np.ndarray, tables: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """A (H, W, 3) uint8 picture as the network's (3, H, W) float32 input, in `out` where it is given."""
    out = np.empty((3, *picture.shape[:2]), np.float32) if out is None else out
    for channel, plane in enumerate(cv2.split(picture)):
        cv2.LUT(plane, tables[channel], dst=out[channel])
    return out


def _decode(data: np.ndarray, flags: int) -> np.ndarray | None:
    """BGR pixels, or None where OpenCV does not know the format."""
    try:
        return cv2.imdecode(data, flags)
    except cv2.error:
        return None


def _decode_with_pillow(data: np.ndarray) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data.tobytes())) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # Pillow's readers raise errors of many kinds
        raise ValueError("not a picture that can be read") from error


def _require_complete(data: np.ndarray) -> None:
    """Raise ValueError for a file that was cut off: OpenCV fills what is missing with grey and says nothing.

    A file with the end marker of its format at its end is taken for complete; any other is decoded by Pillow.
    """
    if not data.size:
        raise ValueError("the file is empty")
    head, tail = data[:8].tobytes(), data[-len(PNG_END) :].tobytes()
    if (head[:3] == JPEG and tail.endswith(b"\xff\xd9")) or (head == PNG and tail == PNG_END):
        return
    try:
        with Image.open(io.BytesIO(data.tobytes())) as image:
            image.load()
    except UnidentifiedImageError:
        return  # OpenCV knows a few more kinds
    except Exception as error:  # Pillow's readers raise errors of many kinds on damaged files
        raise ValueError(str(error)) from error


def _may_be_rotated(data: np.ndarray) -> bool:
    """Whether the file may hold an orientation: anything but a JPEG or PNG without EXIF."""
    head = data[:HEAD].tobytes()
    return not head.startswith((JPEG, PNG)) or b"Exif\0" in head or b"eXIf" in head
