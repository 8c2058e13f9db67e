"""As much of PyTorch as the reading of its files needs, where it is not installed: tensors, saved and loaded with pickle."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np


class Tensor:
    """An array that is asked for with detach().float().numpy()."""

    def __init__(self, values: np.ndarray):
        self.values = values

    def detach(self) -> Tensor:
        return self

    def float(self) -> Tensor:
        return Tensor(self.values.astype(np.float32))

    def numpy(self) -> np.ndarray:
        return self.values


def from_numpy(values: np.ndarray) -> Tensor:
    return Tensor(values)


def zeros(*shape: int) -> Tensor:
    return Tensor(np.zeros(shape, np.float32))


def save(content: object, path: str | Path) -> None:
    Path(path).write_bytes(pickle.dumps(content))


def load(path: str | Path, *, map_location: str, weights_only: bool) -> object:
    assert map_location == "cpu" and weights_only, "a file of a stranger must not run code"
    return pickle.loads(Path(path).read_bytes())
