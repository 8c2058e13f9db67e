"""Pictures with their classes below them: readable in every size, nothing cut off, bars as long as the scores."""

from __future__ import annotations

from model_utils.classification import annotate as module
from model_utils.classification.annotate import annotate, readable_size

import numpy as np
import pytest

LONG = "a name that is far too long for the width of the picture, " * 2
GREY = (90, 120, 90)


def picture(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def entries(**scores: float) -> list[dict]:
    return [{"class_name": name, "score": score} for name, score in scores.items()]


@pytest.mark.parametrize(
    "size, shown",
    [((32, 32), (320, 320)), ((100, 30), (400, 120)), ((7, 300), (14, 600)), ((3000, 1500), (1280, 640)),
     ((640, 480), (640, 480)), ((1, 5000), (1, 1280)), ((320, 1), (320, 1)), ((1280, 1280), (1280, 1280))],
)  # fmt: skip
def test_readable_size(size, shown):
    """Small pictures are enlarged by a whole factor, which keeps their pixels sharp; large ones get smaller."""
    values = picture(*size)
    values[0, 0] = (255, 0, 0)
    found = readable_size(values)
    assert found.size == shown
    factor = shown[0] // size[0]
    if factor > 1:
        assert (np.asarray(found)[:factor, :factor] == (255, 0, 0)).all() and found.getpixel((factor, factor)) == GREY


@pytest.mark.parametrize("size, width", [((32, 32), 320), ((100, 30), 400), ((7, 300), 320), ((3000, 1500), 1280)])
def test_text_is_on_the_picture(size, width):
    """Name and score of each class, nothing at the edges, the picture above in the middle."""
    shown = readable_size(picture(*size))
    canvas = annotate(shown, entries(flower=0.9, temple=0.1, **{LONG: 0.0}))
    assert canvas.width == width and canvas.height >= shown.height + 3 * 14
    assert canvas.getpixel((canvas.width // 2, shown.height // 2)) == GREY
    text = np.asarray(canvas)[shown.height :, :, :].min(axis=2) > 200
    assert text[:, : canvas.width // 2].any() and text[:, -canvas.width // 4 :].any()
    assert not text[:, :5].any() and not text[:, -5:].any()


def test_bar_is_as_long_as_the_score():
    shown = readable_size(picture(320, 320))
    lengths = []
    for score in (0.25, 0.75):
        canvas = np.asarray(annotate(shown, entries(**{"": score})))
        lengths.append((canvas[320:] == module.FIRST_BAR).all(axis=2).any(axis=0).sum())
    assert lengths[1] - lengths[0] == pytest.approx(0.5 * (320 - 28), abs=2)


def test_rows():
    """The first bar has a colour of its own; no more than five classes are written."""
    shown = readable_size(picture(320, 320))
    heights = [
        annotate(shown, entries(**{str(number): 0.1 for number in range(count)})).height for count in (1, 4, 5, 9)
    ]
    assert heights[0] < heights[1] < heights[2] == heights[3]
    canvas = np.asarray(annotate(shown, entries(a=0.5, b=0.5)))[320:]
    first, other = (
        (canvas == colour).all(axis=2).any(axis=1).nonzero()[0] for colour in (module.FIRST_BAR, module.OTHER_BAR)
    )
    assert first.max() < other.min()


def test_long_names_are_shortened():
    """The shortest text that fits; a name that fits stays whole."""
    asked = []

    def fits(text: str) -> bool:
        asked.append(text)
        return len(text) <= 8

    assert module._shortened("12345678", fits) == "12345678"
    assert module._shortened("123456789", fits) == "12345..."
    assert module._shortened("123456789", lambda text: False) == "..."
