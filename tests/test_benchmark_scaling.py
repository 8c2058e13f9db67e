"""Tests of scripts/benchmark_scaling.py: its options and its figures. Nothing here measures anything."""

from __future__ import annotations

import json
from types import SimpleNamespace

import benchmark_scaling

import pytest


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--processes", "0,2"], "is not a list of numbers"), (["--processes", "x"], "is not a list of numbers"),
        (["--processes", "4096"], "cores, one for each"), (["--image_size", "40"], "a multiple of 32"),
        (["--rounds", "0"], "1 or more"), (["--json", "no/such/folder.json"], "existing folder"),
    ],
)  # fmt: skip
def test_wrong_usage(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        benchmark_scaling.main(arguments)
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_figures(monkeypatch, tmp_path, capsys):
    """One process is always measured; the ratio is that of the rounds; --least decides the status."""
    seconds = {1: [1.0, 2.0, 1.0], 2: [1.25, 2.5, 1.0], 4: [2.0, 4.0, 3.0]}

    def group(processes, *_):
        times, noted = iter(seconds[processes]), []
        return SimpleNamespace(
            processes=processes, seconds=noted, round=lambda steps: noted.append(next(times)), close=lambda: None
        )

    monkeypatch.setattr(benchmark_scaling, "Group", group)
    monkeypatch.setattr(benchmark_scaling, "cores", lambda: list(range(8)))
    arguments = ["--processes", "2,4", "--rounds", "3", "--batch_size", "8", "--json", str(tmp_path / "figures.json")]
    assert benchmark_scaling.main([*arguments, "--least", "50"]) == 0
    assert benchmark_scaling.main([*arguments, "--least", "51"]) == 1
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert [row["processes"] for row in rows] == [1, 2, 4]
    assert [row["efficiency"] for row in rows] == [1.0, 0.8, 0.5]
    assert [row["images_per_second"] for row in rows] == pytest.approx([8.0, 12.8, 32 / 3])
    assert "50.0%" in capsys.readouterr().out
