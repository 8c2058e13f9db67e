"""The record of a run is whole after every kind of end, and readable by others."""

from __future__ import annotations

import csv
from pathlib import Path

from model_utils import record as module
from model_utils.record import RunRecord, SummaryWriter, draw_curves

import numpy as np
import pytest
from PIL import Image


def rows(folder: Path) -> list[tuple[int, str, float]]:
    with open(folder / "curves.csv", newline="", encoding="utf-8") as file:
        return [(int(row["step"]), row["name"], float(row["value"])) for row in csv.DictReader(file)]


def losses(folder: Path) -> list[int]:
    """The steps with a loss."""
    return [step for step, name, _ in rows(folder) if name == "loss"]


def recorded(folder: Path, steps, first_step: int = 0, close: bool = True) -> None:
    record = RunRecord(folder, folder / "summary", first_step)
    for step in steps:
        record.add(step, loss=1 / step, learning_rate=0.1)
    if close:
        record.close()


def test_record_leaves_csv_png_and_events(tmp_path):
    recorded(tmp_path / "run", range(1, 4), close=False)
    lines = (tmp_path / "run/curves.csv").read_text(encoding="utf-8").splitlines()
    assert lines[:3] == ["step,name,value", "1,loss,1.0", "1,learning_rate,0.1"] and len(lines) == 7, "as if killed"
    recorded(tmp_path / "run", range(1, 6))
    assert [row for row in rows(tmp_path / "run") if row[1] == "loss"] == [(n, "loss", 1 / n) for n in range(1, 6)]
    assert Image.open(tmp_path / "run/curves.png").size == (640, 400)
    assert len(list((tmp_path / "run/summary").iterdir())) == 2
    recorded(tmp_path / "empty", [])
    assert rows(tmp_path / "empty") == [] and not (tmp_path / "empty/curves.png").exists()


def test_a_resumed_run_goes_on_without_duplicates(tmp_path):
    """A new one starts anew; without a record, a resumed one has its own steps."""
    for steps, first_step, wanted in (
        (range(7, 11), 6, range(7, 11)), (range(1, 11), 0, range(1, 11)), (range(7, 13), 6, range(1, 13)),
        ([13], 12, range(1, 14)), ([1, 2], 0, [1, 2]),
    ):  # fmt: skip
        recorded(tmp_path, steps, first_step)
        assert losses(tmp_path) == list(wanted)


@pytest.mark.parametrize("end", ["4", "4,loss", "4,loss,", "4,loss,x", "4,loss,1,1", "\0"])
def test_a_line_that_was_cut_short_is_left_out(tmp_path, end):
    recorded(tmp_path, range(1, 4), close=False)
    with open(tmp_path / "curves.csv", "a", encoding="utf-8") as file:
        file.write(end)
    recorded(tmp_path, [4, 5], first_step=3)
    assert losses(tmp_path) == [1, 2, 3, 4, 5]


def blue(image: Image.Image) -> np.ndarray:
    """Positions (row, column) of the curve."""
    pixels = np.asarray(image.convert("RGB")).astype(int)
    return np.argwhere((pixels[..., 2] > 150) & (pixels[..., 0] < 100))


def test_curves_rise_where_values_rise(tmp_path):
    draw_curves([(step, "loss", float(step)) for step in range(100)], tmp_path / "c.png")
    place = blue(Image.open(tmp_path / "c.png"))
    left, right = place[place[:, 1].argmin()], place[place[:, 1].argmax()]
    assert right[1] - left[1] > 400 and left[0] - right[0] > 100


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [float("nan")], [1.0, float("inf"), 3.0], [1e38, -1e38], []])
def test_curves_of_odd_values(tmp_path, values):
    draw_curves([(step, "loss", value) for step, value in enumerate(values)], tmp_path / "c.png")
    assert (tmp_path / "c.png").exists() is any(np.isfinite(values))


def test_checksum_of_the_event_files():
    """CRC-32C of "123456789" is e3069283; TFRecord rotates it by 15 bits and adds a282ead8."""
    masked = ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert module._masked_crc(b"123456789") == masked.to_bytes(4, "little")


def test_event_files_are_read_by_the_frameworks_definition(tmp_path):
    summary_pb2 = pytest.importorskip("mindspore.train.summary_pb2")
    writer = SummaryWriter(tmp_path)
    writer.add(1, [(1, "loss", 0.5), (1, "learning_rate", 1e-4)])
    writer.add(300_000, [(300_000, "loss", -2.0)])
    content, events = writer.path.read_bytes(), []
    while content:
        length = int.from_bytes(content[:8], "little")
        assert content[8:12] == module._masked_crc(content[:8])
        event, content = content[12 : 12 + length], content[12 + length :]
        assert content[:4] == module._masked_crc(event)
        events.append(summary_pb2.Event.FromString(event))
        content = content[4:]
    assert events[0].version == "MindSpore.Event:1" and events[0].wall_time > 1.6e9
    found = [(event.step, [(v.tag, v.scalar_value) for v in event.summary.value]) for event in events[1:]]
    assert found == [(1, [("loss", 0.5), ("learning_rate", pytest.approx(1e-4))]), (300_000, [("loss", -2.0)])]
    assert "summary" in writer.path.name and writer.path.name.endswith("_MS")
