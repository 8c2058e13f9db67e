"""Weights and inputs of the expected values in data/tiny.json, rebuilt from names and seeds (numpy only).

The expected logits come from darknet's C program (AlexeyAB's, batch norm with eps 1e-5 inside the root).
"""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np

TINY = json.loads((Path(__file__).parent / "data" / "tiny.json").read_text())


def _normal(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.RandomState((zlib.crc32(name.encode()) ^ seed) & 0xFFFFFFFF).standard_normal(shape)


def weights_file(records: list[dict], seed: int, version=(0, 2, 0), seen: int = 32013312) -> bytes:
    """A darknet .weights file; `seen` takes 8 bytes from version 0.2 on."""
    wide = version[0] * 10 + version[1] >= 2
    parts = [struct.pack("<iii", *version), struct.pack("<Q" if wide else "<I", seen)]
    for record in records:
        parts += [array.astype("<f4").tobytes() for array in _arrays(record, seed)]
    return b"".join(parts)


def _arrays(record: dict, seed: int) -> list[np.ndarray]:
    prefix, n, bn = f"w{record['k']}.", record["n"], record["bn"]
    shape = (n, record["c"], record["size"], record["size"])
    weights = _normal(prefix + "weights", shape, seed)
    if shape[1] >= 8:
        weights = weights - weights.mean(axis=(1, 2, 3), keepdims=True)
    weights = weights * (record["gain"] * (0.1 if bn else 1.0) / np.sqrt(np.prod(shape[1:])))
    biases = 0.3 + 0.1 * _normal(prefix + "biases", (n,), seed)
    if not bn:
        return [biases, weights]
    scales = 1 + 0.1 * _normal(prefix + "scales", (n,), seed)
    mean = 0.01 * _normal(prefix + "rolling_mean", (n,), seed)
    variance = 0.01 * (1 + 0.1 * np.abs(_normal(prefix + "rolling_variance", (n,), seed)))
    return [biases, scales, mean, variance, weights]


def tiny_records(num_classes: int = 1000) -> list[dict]:
    records = [dict(zip(TINY["records_fields"], row)) for row in TINY["records"]]
    records[-1]["n"] = num_classes
    return records


def tiny_weights(**header) -> bytes:
    return weights_file(tiny_records(), TINY["seed"], **header)


def model_input(shape, seed: int) -> np.ndarray:
    """Half white noise, plus a coarse 4x4 pattern; (N, C, H, W) float32."""
    state = np.random.RandomState(seed)
    n, c, height, width = shape
    fine = state.standard_normal((n, c, height, width))
    coarse = state.standard_normal((n, c, 4, 4))
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    return (0.5 * fine + coarse[:, :, rows][:, :, :, columns]).astype(np.float32)
