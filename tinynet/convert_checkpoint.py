"""Make a checkpoint of this folder from weights that were trained elsewhere.

    python convert_checkpoint.py --input tinynet_c.safetensors --output tinynet_c.ckpt
    python convert_checkpoint.py --input tinynet_e.pth --output ten.ckpt --num_classes 10

It reads timm's `tinynet_a` to `tinynet_e` (.safetensors; .pth and .pt need PyTorch) and the checkpoints (.ckpt) of the older
model zoo, whose network computes the same. Which of the five it is follows from the shapes. The checkpoint says which
input the weights were trained for: the model's own size, shorter side resized with crop ratio 0.875, bicubic, ImageNet's
mean and std; eval.py, export.py and infer.py obey it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from src.model_utils import program
from src.model_utils import weights as foreign
from src.model_utils.checkpoint import NO_WEIGHTS
from src.model_utils.weights import Weights
from src.recipe import MODEL
from src.tinynet import TWISTS, input_side, tinynet


def model_of(weights: Weights) -> str:
    """The network that most of the weights fit; of equals the smallest, as tinynet_c has all that tinynet_d has."""

    def fitting(model: str) -> tuple[int, int]:
        shapes = {name: p.shape for name, p in tinynet(model, 1).parameters_dict().items()}
        return sum(shapes.get(name) == value.shape for name, value in weights.items()), -len(shapes)

    return max(TWISTS, key=fitting)


def described(weights: Weights) -> tuple[Weights, dict[str, Any]]:
    """Weights and their checkpoint's metadata."""
    model = model_of(weights)
    network = {
        "name": MODEL.name,
        "model": model,
        "num_classes": foreign.class_count(weights, "classifier.weight"),
        "bn_momentum": 0.1,
        "bn_eps": 1e-5,
    }
    spec = foreign.input_description(input_side(model), 0.875, "bicubic")
    return weights, {"network": network, "input": spec, "class_names": None}


def read_timm(path: Path, part: str = "") -> tuple[Weights, dict[str, Any]]:
    """Weights and metadata of timm's `tinynet_*`; the names differ in the leaves of the batch norms."""
    return described({from_timm(name): value for name, value in foreign.read_state(path, part).items()})


def from_timm(name: str) -> str:
    """The name that a parameter of timm has here."""
    stem, _, leaf = name.rpartition(".")
    is_norm = re.search(r"(^|\.)bn\d$", stem) is not None
    return f"{stem}.{foreign.TORCH_LEAVES[leaf]}" if is_norm and leaf in foreign.TORCH_LEAVES else name


def read_zoo(path: Path) -> tuple[Weights, dict[str, Any]]:
    """Weights and metadata of a checkpoint of the older model zoo; what its optimizer left there is skipped."""
    weights = {
        re.sub(r"(^|\.)blocks\.layer\.", r"\1blocks.", name): value
        for name, value in foreign.read_checkpoint(path).items()
        if not NO_WEIGHTS.fullmatch(name)
    }
    return described(weights)


def main(argv: list[str] | None = None) -> None:
    options = foreign.argument_parser(__doc__).parse_args(argv)
    timm_readers = {ending: read_timm for ending in (".pth", ".pt", ".safetensors")}
    foreign.convert(MODEL, options, {".ckpt": read_zoo, **timm_readers})


if __name__ == "__main__":
    program.run(main)
