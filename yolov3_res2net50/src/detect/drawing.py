"""Boxes with labels drawn on pictures, for a person to look at: predictions of infer.py, training batches."""

from __future__ import annotations

import colorsys
import contextlib
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GOLDEN_RATIO = 0.6180339887498949  # of the colour circle between two classes: neighbours in the list differ most
SATURATION, BRIGHTNESS = (0.95, 0.55, 0.75), (1.0, 0.95, 0.75)  # of every third class
SMALLEST_FONT, FONT_SHARE = 10, 0.022  # font size in pixels, and as a share of the picture's longer side
# Pillow's built-in font has the ASCII letters only; the first of these that the system has draws other labels.
SYSTEM_FONTS = ("NotoSansCJK-Regular.ttc", "msyh.ttc", "Arial Unicode.ttf", "DejaVuSans.ttf", "arial.ttf")
LINE_SHARE = 0.0035  # width of a box's line as a share of the picture's longer side


def class_color(index: int) -> tuple[int, int, int]:
    """The colour (red, green, blue) 0-255 of a class; always the same for an index."""
    hue, kind = index * GOLDEN_RATIO % 1, index % len(SATURATION)
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, SATURATION[kind], BRIGHTNESS[kind]))


def draw_boxes(
    picture: np.ndarray, boxes: np.ndarray, labels: Sequence[str], class_indices: Sequence[int]
) -> np.ndarray:
    """A copy of a picture with boxes on it, each with its label on a ground of its class's colour.

    Labels lie above all boxes, inside the picture; one that is wider than the picture is cut. Lines and letters grow
    with the picture. Letters beyond ASCII are drawn with a font of the system; one that has none of SYSTEM_FONTS shows
    them without accents, or as empty rectangles.

    Args:
        picture: (H, W, 3) uint8 RGB; it is not changed.
        boxes: (k, 4) x1, y1, x2, y2 in pixels of the picture; what lies outside is not drawn. The first is on top.
        labels: k texts; an empty one draws no label.
        class_indices: k class indices, which choose the colours.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: another shape or type of picture, or numbers of boxes, labels and classes that differ.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(f"picture {picture.dtype} {picture.shape}: uint8 (H, W, 3) is accepted")
    if not len(boxes) == len(labels) == len(class_indices):
        raise ValueError(f"{len(boxes)} boxes, {len(labels)} labels, {len(class_indices)} classes: give equal numbers")
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    colors = [class_color(int(index)) for index in class_indices]
    corners = _pixels(boxes, image.size)
    line = max(1, round(LINE_SHARE * max(image.size)))
    for corner, color in reversed(list(zip(corners, colors))):
        draw.rectangle(corner, outline=color, width=line)
    for corner, label, color in reversed(list(zip(corners, labels, colors))):
        _draw_label(draw, corner, label, color, image.size)
    return np.array(image)


def _pixels(boxes: np.ndarray, size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """First and last column and row of each box as left, top, right, bottom; a box of 0 to 8 covers pixels 0 to 7."""
    limits = np.array([*size, *size])
    edges = np.clip(np.rint(np.nan_to_num(boxes)), 0, limits).astype(int)
    first = np.minimum(edges[:, :2], limits[:2] - 1)
    last = np.maximum(edges[:, 2:] - 1, first)
    return [tuple(corner) for corner in np.hstack([first, last]).tolist()]


def _draw_label(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int, int, int],
    label: str,
    color: tuple[int, int, int],
    size: tuple[int, int],
) -> None:
    """A text above the box, or inside its upper edge where the picture has no room above."""
    # Line breaks, and halves of characters from damaged names, are more than a font can draw.
    text = " ".join(label.encode("utf-8", "replace").decode("utf-8").split())
    text, font = _with_font(text, max(SMALLEST_FONT, round(FONT_SHARE * max(size))))
    margin = max(1, round(0.15 * font.size))
    text = _shortened(text, size[0] - 2 * margin, font)
    if not text:
        return
    ascent, descent = font.getmetrics()
    width, height = int(np.ceil(font.getlength(text))) + 2 * margin, ascent + descent
    left = max(0, min(corner[0], size[0] - width))
    top = corner[1] - height if corner[1] >= height else corner[1]
    top = max(0, min(top, size[1] - height))
    draw.rectangle((left, top, left + width - 1, top + height - 1), fill=color)
    draw.text((left + margin, top + ascent), text, _text_color(color), font, "ls")


def _with_font(text: str, size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """A text, and a font that can draw it; the text without accents where the system has no such font."""
    other = None if text.isascii() else _system_font(size)
    if other is None:
        parts = unicodedata.normalize("NFKD", text)
        return "".join(part for part in parts if not unicodedata.combining(part)), _built_in_font(size)
    return text, other


@lru_cache(maxsize=8)
def _built_in_font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


@lru_cache(maxsize=8)
def _system_font(size: int) -> ImageFont.FreeTypeFont | None:
    for name in SYSTEM_FONTS:
        with contextlib.suppress(OSError):
            return ImageFont.truetype(name, size)
    return None


def _shortened(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """As many of the first letters as `width` pixels hold."""
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text


def _text_color(ground: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever can be read better on a ground."""
    red, green, blue = ground
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else (255, 255, 255)
