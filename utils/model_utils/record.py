# Shared file: source utils/model_utils/record.py; copy with: python scripts/sync_model_utils.py --write
"""The record of a run: curves as CSV and PNG, summaries for MindInsight."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw

from .logger import get_logger

HEADER = b"step,name,value\r\n"


class RunRecord:
    """Curves of a run: `curves.csv` and `curves.png` in `run_dir`, MindInsight events in `summary_dir`.

    A resumed run continues the CSV from the step at which it resumes. A folder that is removed meanwhile is made anew;
    what cannot be written, as on a full disk, is left out, and the first time a warning says so.
    """

    def __init__(self, run_dir: str | Path, summary_dir: str | Path, first_step: int = 0):
        self.csv_path, self.png_path = Path(run_dir) / "curves.csv", Path(run_dir) / "curves.png"
        self._summary, self._warned = SummaryWriter(summary_dir), False
        earlier = [row for row in self._rows() if row[0] <= first_step]
        self.csv_path.parent.mkdir(parents=True, exist_ok=True)
        self.csv_path.write_bytes(HEADER + _lines(earlier))

    def add(self, step: int, **values: float) -> None:
        """Record values of a global step (steps count from 1 over the whole run)."""
        new = [(step, name, float(value)) for name, value in values.items()]
        with self._leaving_out():
            _append(self.csv_path, HEADER, _lines(new))
        with self._leaving_out():
            self._summary.add(step, new)

    def close(self) -> None:
        """Draw the curves."""
        with self._leaving_out():
            draw_curves(self._rows(), self.png_path)

    @contextlib.contextmanager
    def _leaving_out(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._warned:
                get_logger().warning("curves and summaries lack values: %s; the training goes on", error)
            self._warned = True

    def _rows(self) -> list[tuple[int, str, float]]:
        rows = []
        if self.csv_path.is_file():
            with open(self.csv_path, newline="", encoding="utf-8") as file:
                for row in csv.reader(file):
                    with contextlib.suppress(ValueError):  # the header, or a line that a full disk has cut short
                        step, name, value = row
                        rows.append((int(step), name, float(value)))
        return rows


def _lines(rows: list[tuple[int, str, float]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _append(path: Path, head: bytes, content: bytes) -> None:
    """Append to a file, all of it or nothing; a file that is not there begins with `head`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab", buffering=0) as file:
        start = file.seek(0, os.SEEK_END)
        left = content if start else head + content
        try:
            while left:
                left = left[file.write(left) :]
        except OSError as error:
            file.truncate(start)
            raise OSError(error.errno, error.strerror, str(path)) from error


class SummaryWriter:
    """Scalars in MindInsight's event files: records of mindspore.Event (summary.proto) in TFRecord frames.

    The framework's own SummaryRecord is not used: its writer process is forked from a threaded one, which may deadlock,
    and polls its queue without a pause, which takes a core from the training.
    """

    def __init__(self, folder: str | Path):
        Path(folder).mkdir(parents=True, exist_ok=True)
        now = time.time()
        self.path = Path(folder) / f"events.out.events.summary.{now:.6f}.{socket.gethostname()}_MS"
        self._head = _frame(b"\x09" + struct.pack("<d", now) + _field(3, b"MindSpore.Event:1"))
        _append(self.path, b"", self._head)

    def add(self, step: int, rows: list[tuple[int, str, float]]) -> None:
        values = b"".join(_field(1, _field(1, n.encode()) + b"\x1d" + struct.pack("<f", v)) for _, n, v in rows)
        event = b"\x09" + struct.pack("<d", time.time()) + b"\x10" + _varint(step) + _field(5, values)
        _append(self.path, self._head, _frame(event))


def _frame(event: bytes) -> bytes:
    length = struct.pack("<Q", len(event))
    return length + _masked_crc(length) + event + _masked_crc(event)


def _varint(number: int) -> bytes:
    groups = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _masked_crc(data: bytes) -> bytes:
    """CRC-32C (polynomial 0x82F63B78, reflected), rotated and shifted as the TFRecord format has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def draw_curves(rows: list[tuple[int, str, float]], path: str | Path) -> None:
    """One panel a name: the values over the global step, those that are finite."""
    rows = [row for row in rows if math.isfinite(row[2])]
    if not rows:
        return
    names = list(dict.fromkeys(name for _, name, _ in rows))
    width, height, margin = 640, 200, 48
    image = Image.new("RGB", (width, height * len(names)), "white")
    draw = ImageDraw.Draw(image)
    for index, name in enumerate(names):
        points = [(step, value) for step, row_name, value in rows if row_name == name]
        box = (margin * 2, index * height + 24, width - 16, (index + 1) * height - 28)
        _draw_panel(draw, name, points, box)
    image.save(path)


def _draw_panel(draw: ImageDraw.ImageDraw, name: str, points: list[tuple[int, float]], box) -> None:
    left, top, right, bottom = box
    steps, values = [step for step, _ in points], [value for _, value in points]
    low, high = min(values), max(values)
    first, last = min(steps), max(steps)
    draw.rectangle(box, outline="black")
    draw.text((left, top - 16), f"{name}: last {values[-1]:.5g}", fill="black")
    draw.text((4, top - 4), f"{high:.5g}", fill="black")
    draw.text((4, bottom - 8), f"{low:.5g}", fill="black")
    draw.text((left, bottom + 4), f"step {first}", fill="black")
    draw.text((right - 80, bottom + 4), f"{last:>10}", fill="black")
    line = [
        (
            left + (right - left) * (step - first) / max(last - first, 1),
            bottom - (bottom - top) * ((value - low) / (high - low) if high > low else 0.5),
        )
        for step, value in points
    ]
    draw.line(line * 2 if len(line) == 1 else line, fill="blue", width=1)
