# Shared file: source utils/model_utils/record.py; copy with: python scripts/sync_model_utils.py --write
"""The record of a run: curves as CSV and PNG, summaries for MindInsight."""

from __future__ import annotations

import contextlib
import csv
import math
import socket
import struct
import time
from pathlib import Path

from PIL import Image, ImageDraw


class RunRecord:
    """Curves of a run: `curves.csv` and `curves.png` in `run_dir`, MindInsight events in `summary_dir`.

    A resumed run continues the CSV from the step at which it resumes.
    """

    def __init__(self, run_dir: str | Path, summary_dir: str | Path, first_step: int = 0):
        self.csv_path, self.png_path = Path(run_dir) / "curves.csv", Path(run_dir) / "curves.png"
        self._summary = SummaryWriter(summary_dir)
        earlier = [row for row in self._rows() if row[0] <= first_step]
        self.csv_path.parent.mkdir(parents=True, exist_ok=True)
        self._write("w", [("step", "name", "value"), *earlier])

    def add(self, step: int, **values: float) -> None:
        """Record values of a global step (steps count from 1 over the whole run)."""
        new = [(step, name, float(value)) for name, value in values.items()]
        self._write("a", new)
        self._summary.add(step, new)

    def close(self) -> None:
        """Draw the curves."""
        draw_curves(self._rows(), self.png_path)

    def _rows(self) -> list[tuple[int, str, float]]:
        rows = []
        if self.csv_path.is_file():
            with open(self.csv_path, newline="", encoding="utf-8") as file:
                for row in csv.reader(file):
                    with contextlib.suppress(ValueError):  # the header, or a line that a full disk has cut short
                        step, name, value = row
                        rows.append((int(step), name, float(value)))
        return rows

    def _write(self, mode: str, rows: list[tuple]) -> None:
        with open(self.csv_path, mode, newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)


class SummaryWriter:
    """Scalars in MindInsight's event files: records of mindspore.Event (summary.proto) in TFRecord frames.

    The framework's own SummaryRecord is not used: its writer process is forked from a threaded one, which may deadlock,
    and polls its queue without a pause, which takes a core from the training.
    """

    def __init__(self, folder: str | Path):
        Path(folder).mkdir(parents=True, exist_ok=True)
        now = time.time()
        self.path = Path(folder) / f"events.out.events.summary.{now:.6f}.{socket.gethostname()}_MS"
        self._write(b"\x09" + struct.pack("<d", now) + _field(3, b"MindSpore.Event:1"))

    def add(self, step: int, rows: list[tuple[int, str, float]]) -> None:
        values = b"".join(_field(1, _field(1, n.encode()) + b"\x1d" + struct.pack("<f", v)) for _, n, v in rows)
        self._write(b"\x09" + struct.pack("<d", time.time()) + b"\x10" + _varint(step) + _field(5, values))

    def _write(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        with open(self.path, "ab") as file:
            file.write(length + _masked_crc(length) + event + _masked_crc(event))


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
