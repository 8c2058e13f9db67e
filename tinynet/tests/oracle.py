"""Weights, inputs and expected values of data/tinynet_*.json, rebuilt from names and seeds (numpy only).

The expected values are those of timm, computed in float64.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"
MODELS = ("tinynet_a", "tinynet_b", "tinynet_c", "tinynet_d", "tinynet_e")
EXPECTED = {model: json.loads((DATA / f"{model}.json").read_text()) for model in MODELS}


def _normal(name: str, shape, seed: int) -> np.ndarray:
    return np.random.RandomState((zlib.crc32(name.encode()) ^ seed) & 0xFFFFFFFF).standard_normal(shape)


def timm_value(name: str, shape, seed: int, gain: float = 1.0) -> np.ndarray:
    """A parameter of timm's state dictionary, float32; a filter has zero mean unless it sees few channels."""
    values, leaf = _normal(name, shape, seed), name.rpartition(".")[2]
    if leaf == "weight" and len(shape) > 1:
        if len(shape) == 2 or shape[1] >= 8:
            values -= values.mean(axis=tuple(range(1, len(shape))), keepdims=True)
        return (values * (gain / np.sqrt(np.prod(shape[1:])))).astype(np.float32)
    offset = {"weight": 1.0, "bias": 0.3, "running_mean": 0.0, "running_var": 1.0}[leaf]
    return (offset + 0.1 * (np.abs(values) if leaf == "running_var" else values)).astype(np.float32)


def timm_state(model: str) -> dict[str, np.ndarray]:
    """timm's state dictionary, with the counters of its batch norms."""
    state = {}
    for name, shape, *gain in EXPECTED[model]["state_dict"]:
        state[name] = timm_value(name, shape, EXPECTED[model]["seed"], *gain)
        if name.endswith("running_var"):
            state[name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return state


def by_our_names(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """timm's state dictionary by the names that its parameters have here."""
    leaves = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    weights = {}
    for name, value in state.items():
        stem, leaf = name.rsplit(".", 1)
        if leaf != "num_batches_tracked":
            weights[f"{stem}.{leaves[leaf] if stem[-3:-1] == 'bn' else leaf}"] = value
    return weights


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


def relative_error(result, expected) -> float:
    """Largest difference, of the largest expected value."""
    return float(np.abs(np.ravel(result) - np.ravel(expected)).max() / np.abs(expected).max())


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
