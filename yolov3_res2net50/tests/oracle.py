"""Weights, inputs and expected values of data/timm.json and data/yolo.json, rebuilt from names and seeds (numpy only).

timm's values and those of the loss were computed in float64.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"
TIMM = json.loads((DATA / "timm.json").read_text())
YOLO = json.loads((DATA / "yolo.json").read_text())
CASES = {case["name"]: case for case in YOLO["cases"]}
SCALES = "lms"  # the names of data/yolo.json for big, medium and small: in the order of the network's outputs

# Modules of timm in the stem, in a block, and the leaves of a batch norm -> cells and leaves here.
STEM = {
    "conv1.0": "stem.0.conv", "conv1.1": "stem.0.bn", "conv1.3": "stem.2.conv", "conv1.4": "stem.2.bn",
    "conv1.6": "stem.4.conv", "bn1": "stem.4.bn",
}  # fmt: skip
BLOCK = {
    "conv1": "conv1.conv", "bn1": "conv1.bn", "conv3": "conv3.conv", "bn3": "conv3.bn",
    **{f"convs.{i}": f"branches.{i}.conv" for i in range(3)}, **{f"bns.{i}": f"branches.{i}.bn" for i in range(3)},
    "downsample.1": "shortcut.1.conv", "downsample.2": "shortcut.1.bn",
}  # fmt: skip
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def our_cell(module: str) -> str:
    """The cell of the backbone that does what a module of timm with parameters does."""
    if module in STEM:
        return STEM[module]
    layer, block, part = module.split(".", 2)
    return f"{layer}.{block}.{BLOCK[part]}"


def our_name(name: str) -> str:
    """The name of timm's parameter in the backbone's parameters_dict()."""
    module, _, leaf = name.rpartition(".")
    cell = our_cell(module)
    return f"{cell}.{NORM[leaf] if cell.endswith('.bn') else leaf}"


def _normal(name: str, shape, seed: int) -> np.ndarray:
    return np.random.RandomState((zlib.crc32(name.encode()) ^ seed) & 0xFFFFFFFF).standard_normal(shape)


def _filters(name: str, shape, seed: int, gain: float) -> np.ndarray:
    """Weights of a convolution or dense layer, each filter of zero mean unless it is one of the image's 3 channels."""
    values = _normal(name, shape, seed)
    if len(shape) == 2 or shape[1] >= 8:
        values -= values.mean(axis=tuple(range(1, len(shape))), keepdims=True)
    return values * (gain / np.sqrt(np.prod(shape[1:])))


def timm_value(name: str, shape, seed: int, gain: float = 1.0) -> np.ndarray:
    """A parameter of timm's state dictionary, float32."""
    leaf = name.rpartition(".")[2]
    if leaf == "weight" and len(shape) > 1:
        return _filters(name, shape, seed, gain).astype(np.float32)
    values = 0.1 * _normal(name, shape, seed)
    offset = {"weight": 1.0, "bias": 0.3, "running_mean": 0.0, "running_var": 1.0}[leaf]
    return (offset + (np.abs(values) if leaf == "running_var" else values)).astype(np.float32)


def timm_state() -> dict[str, np.ndarray]:
    """timm's state dictionary, with the counters of its batch norms."""
    state = {}
    for name, *shape_and_gain in TIMM["state_dict"]:
        state[name] = timm_value(name, shape_and_gain[0], TIMM["seed"], *shape_and_gain[1:])
        if name.endswith("running_var"):
            state[name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return state


def backbone_weights(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The values of timm's state dictionary that the backbone has, by its own names."""
    return {
        our_name(name): value
        for name, value in state.items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }


def _images(state: np.random.RandomState, shape) -> np.ndarray:
    """Half white noise, plus a coarse 4x4 pattern; (N, C, H, W) float32."""
    n, c, height, width = shape
    fine = state.standard_normal((n, c, height, width))
    coarse = state.standard_normal((n, c, 4, 4))
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    return (0.5 * fine + coarse[:, :, rows][:, :, :, columns]).astype(np.float32)


def model_input(shape, seed: int) -> np.ndarray:
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


def yolo_arrays(case: dict) -> dict[str, np.ndarray]:
    """Raw maps, targets and boxes of a case, by names such as l_raw."""
    with np.load(DATA / case["arrays"]) as arrays:
        return dict(arrays)


def boxes_of(case: dict, image: int) -> np.ndarray:
    """(n, 5) x1, y1, x2, y2 in pixels of the input, class."""
    return np.array(case["boxes_xyxy_class"][image], np.float64).reshape((-1, 5))
