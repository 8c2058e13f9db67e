"""Tests of scripts/benchmark_detection_data.py: the reference does what it says, and the program runs."""

import colorsys
import re
import subprocess
import sys
from pathlib import Path

import benchmark_detection_data as benchmark

import numpy as np


def test_colour_conversions_are_those_of_colorsys():
    rgb = np.random.default_rng(0).random((200, 3)).astype(np.float32)
    rgb[:20, 1], rgb[20:40], rgb[40] = rgb[:20, 0], rgb[20:40, :1], 0  # equal channels, greys, black
    hsv = benchmark.rgb_to_hsv(rgb)
    np.testing.assert_allclose(hsv, [colorsys.rgb_to_hsv(*colour) for colour in rgb.tolist()], atol=1e-6)
    np.testing.assert_allclose(benchmark.hsv_to_rgb(hsv), rgb, atol=1e-5)


def test_both_make_the_same_kind_of_input(tmp_path):
    paths, boxes = benchmark.write_photographs(tmp_path, 2)
    means = []
    for work in (benchmark.PillowReference(paths, boxes, 96), benchmark.Project(paths, boxes, 96)):
        inputs = [work(index, np.random.default_rng([seed, index])) for index in range(2) for seed in range(30)]
        assert all(values.shape == (3, 96, 96) and values.dtype == np.float32 for values in inputs)
        means.append(np.mean(inputs))
    assert abs(means[0] - means[1]) < 0.25


def test_program_prints_a_table():
    command = [sys.executable, benchmark.__file__, "--size", "64", "--images", "2", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"\| Pillow \| \d+ \| \d+-\d+ \| [\d.]+ \| 1.0x \|\n\| yolov3_res2net50 \| .* \| [\d.]+x \|", done.stdout
    )
