# Shared file: source utils/model_utils/classification/annotate.py; copy with: python scripts/sync_model_utils.py --write
"""Pictures with the classes that a network sees in them, for a person to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SMALLEST_SIDE, LARGEST_SIDE = 320, 1280  # of the longer side of an annotated picture, in pixels
ROWS = 5  # classes written on a picture, at most
BACKGROUND, TEXT, FIRST_BAR, OTHER_BAR = (24, 26, 32), (245, 245, 245), (30, 110, 200), (70, 78, 94)


def annotate(image: Image.Image, top: Sequence[dict[str, Any]]) -> Image.Image:
    """A picture with its likeliest classes below it: name, score, and a bar as long as the score."""
    width = max(image.width, SMALLEST_SIDE)
    size = max(14, width // 32)
    font, row = ImageFont.load_default(size=size), int(1.7 * size)
    entries = top[:ROWS]
    canvas = Image.new("RGB", (width, image.height + row * len(entries) + size), BACKGROUND)
    canvas.paste(image, ((width - image.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    for place, entry in enumerate(entries):
        y = image.height + size // 2 + place * row
        right = size + entry["score"] * (width - 2 * size)
        draw.rectangle((size // 2, y + 1, right, y + row - 3), OTHER_BAR if place else FIRST_BAR)
        score = f"{entry['score']:.1%}"
        space = width - 3 * size - draw.textlength(score, font)
        name = _shortened(entry["class_name"], lambda text, space=space: draw.textlength(text, font) <= space)
        draw.text((size, y + row // 2), name, TEXT, font, "lm")
        draw.text((width - size, y + row // 2), score, TEXT, font, "rm")
    return canvas


def readable_size(picture: np.ndarray) -> Image.Image:
    """A picture (H, W, 3) uint8 as large as text on it needs and not much larger; a whole factor keeps pixels sharp."""
    image = Image.fromarray(picture)
    longer = max(image.size)
    if longer < SMALLEST_SIDE:
        factor = -(-SMALLEST_SIDE // longer)
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    if longer > LARGEST_SIDE:
        size = [max(1, side * LARGEST_SIDE // longer) for side in image.size]
        return image.resize(tuple(size), Image.Resampling.LANCZOS)
    return image


def _shortened(text: str, fits: Callable[[str], bool]) -> str:
    if fits(text):
        return text
    while text and not fits(text + "..."):
        text = text[:-1]
    return text + "..."
