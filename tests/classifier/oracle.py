"""Weights and inputs of the expected values in a folder's tests/data, rebuilt from names and seeds (numpy only).

timm's values were computed in float64. The darknet logits come from AlexeyAB's C program (batch norm with eps 1e-5 inside
the root).
"""

from __future__ import annotations

import struct
import zlib

import numpy as np


def _normal(name: str, shape, seed: int) -> np.ndarray:
    return np.random.RandomState((zlib.crc32(name.encode()) ^ seed) & 0xFFFFFFFF).standard_normal(shape)


def _filters(name: str, shape, seed: int, gain: float) -> np.ndarray:
    """Weights of a convolution or dense layer, each filter of zero mean unless it sees few channels."""
    values = _normal(name, shape, seed)
    if len(shape) == 2 or shape[1] >= 8:
        values -= values.mean(axis=tuple(range(1, len(shape))), keepdims=True)
    return values * (gain / np.sqrt(np.prod(shape[1:])))


def _timm_value(name: str, shape, seed: int, gain: float = 1.0) -> np.ndarray:
    leaf = name.rpartition(".")[2]
    if leaf == "weight" and len(shape) > 1:
        return _filters(name, shape, seed, gain).astype(np.float32)
    values = 0.1 * _normal(name, shape, seed)
    offset = {"weight": 1.0, "bias": 0.3, "running_mean": 0.0, "running_var": 1.0}[leaf]
    return (offset + (np.abs(values) if leaf == "running_var" else values)).astype(np.float32)


def timm_state(expected: dict) -> dict[str, np.ndarray]:
    """timm's state dictionary, float32, with the counters of its batch norms."""
    state = {}
    for name, shape, *gain in expected["state_dict"]:
        state[name] = _timm_value(name, shape, expected["seed"], *gain)
        if name.endswith("running_var"):
            state[name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return state


def darknet_header(version=(0, 2, 0), seen: int = 32013312) -> bytes:
    """The header of a .weights file; `seen` takes 8 bytes from version 0.2 on."""
    wide = version[0] * 10 + version[1] >= 2
    return struct.pack("<iii", *version) + struct.pack("<Q" if wide else "<I", seen)


def darknet_numbers(expected: dict) -> bytes:
    """What follows the header of the .weights file."""
    records = [dict(zip(expected["records_fields"], row)) for row in expected["records"]]
    arrays = [array for record in records for array in _darknet_arrays(record, expected["seed"])]
    return b"".join(array.astype("<f4").tobytes() for array in arrays)


def _darknet_arrays(record: dict, seed: int) -> list[np.ndarray]:
    prefix, n, bn = f"w{record['k']}.", record["n"], record["bn"]
    shape = (n, record["c"], record["size"], record["size"])
    weights = _filters(prefix + "weights", shape, seed, record["gain"] * (0.1 if bn else 1.0))
    biases = 0.3 + 0.1 * _normal(prefix + "biases", (n,), seed)
    if not bn:
        return [biases, weights]
    scales = 1 + 0.1 * _normal(prefix + "scales", (n,), seed)
    mean = 0.01 * _normal(prefix + "rolling_mean", (n,), seed)
    variance = 0.01 * (1 + 0.1 * np.abs(_normal(prefix + "rolling_variance", (n,), seed)))
    return [biases, scales, mean, variance, weights]


def _images(state: np.random.RandomState, shape) -> np.ndarray:
    n, c, height, width = shape
    fine = state.standard_normal((n, c, height, width))
    coarse = state.standard_normal((n, c, 4, 4))
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    return (0.5 * fine + coarse[:, :, rows][:, :, :, columns]).astype(np.float32)


def model_input(shape, seed: int) -> np.ndarray:
    """Half white noise, plus a coarse 4x4 pattern; (N, C, H, W) float32."""
    return _images(np.random.RandomState(seed), shape)


def train_batch(shape, num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Such images and their labels."""
    state = np.random.RandomState(seed + 1000)
    return _images(state, shape), state.randint(0, num_classes, size=shape[0]).astype(np.int32)


def projection(array) -> float:
    """Dot product with sin(1), sin(2) ...: sees a permutation, which a norm does not."""
    flat = np.asarray(array, np.float64).ravel()
    return float(flat @ np.sin(np.arange(1, flat.size + 1, dtype=np.float64)))


def check_statistics(array, expected: dict, name: str) -> None:
    """Compare a tensor with its summary: mean, std, sum of the absolute values, projection, first and last values."""
    flat = np.asarray(array, np.float64).ravel()
    std = expected["std"]
    assert list(np.shape(array)) == expected["shape"], name
    assert abs(flat.mean() - expected["mean"]) <= 1e-5 * std, name
    assert abs(flat.std() - std) <= 1e-5 * std, name
    assert abs(np.abs(flat).sum() - expected["abs_sum"]) <= 1e-5 * expected["abs_sum"], name
    assert abs(projection(flat) - expected["proj"]) <= 1e-4 * std * np.sqrt(flat.size), name
    ends = np.concatenate([flat[: len(expected["head"])], flat[-len(expected["tail"]) :]])
    assert np.abs(ends - [*expected["head"], *expected["tail"]]).max() <= 2e-4 * std, name
