"""Make a checkpoint of this folder from weights of another framework.

    python convert_checkpoint.py --input csdarknet53-omega_final.weights --output cspdarknet53.ckpt

Reads timm's `cspdarknet53` (`.safetensors`; `.pth` where torch is installed) and darknet's `.weights` of
cfg/csdarknet53-omega.cfg. Every weight must be filled and nothing may be left over. What the weights were trained for
(activation, input size, mean, std ...) is stored with them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

from src.cspdarknet53 import STAGES
from src.model_utils import program
from src.model_utils import weights as foreign
from src.model_utils.weights import Weights
from src.recipe import MODEL

import numpy as np

HEAD = ["fc.bias", "fc.weight"]  # the order of darknet's file
# Names of the older model zoo, such as backbone.conv0.0.weight and backbone.layer2.0.conv1.1.gamma.
ZOO_NAME = r"(^|\.)(conv\d+|layer[2-5]\.\d\.conv[12])\.[01]\."


def describe(num_classes: int, activation: str, negative_slope: float, spec: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's metadata."""
    network = {
        "name": MODEL.name,
        "num_classes": num_classes,
        "activation": activation,
        "negative_slope": negative_slope,
        "bn_eps": 1e-5,
    }
    return {"network": network, "input": spec, "class_names": None}


def read_timm(path: Path, part: str = "") -> tuple[Weights, dict[str, Any]]:
    """Weights and metadata of timm's `cspdarknet53`."""
    weights: Weights = {}
    for name, value in foreign.read_state(path, part).items():
        weights.update(from_timm(name, value))
    spec = foreign.input_description(256, 0.887, "bilinear")
    return weights, describe(foreign.class_count(weights, "fc.weight"), "leaky_relu", 0.01, spec)


def from_timm(name: str, value: np.ndarray) -> Weights:
    """A parameter of timm as parameters of this network.

    timm has one convolution conv_exp for both parts of a stage: its first outputs are the part that passes the blocks
    by, the others the part through the blocks. Its conv_transition takes them in that order, this network's merge (and
    darknet's) in the opposite one.
    """
    name = re.sub(r"^stem\.conv1\.", "stem.", name)
    name = re.sub(r"^head\.fc\.", "fc.", name)
    name = re.sub(r"^(stages\.\d)\.conv_down\.", r"\1.down.", name)
    name = foreign.torch_name(re.sub(r"^(stages\.\d)\.conv_transition_b\.", r"\1.main_end.", name))
    stage, part, leaf = re.fullmatch(r"(stages\.\d\.)?(conv_exp|conv_transition)?(.*)", name, re.DOTALL).groups()
    if stage and part == "conv_exp" and value.ndim:
        half = len(value) // 2
        return {f"{stage}shortcut{leaf}": value[:half], f"{stage}main{leaf}": value[half:]}
    if stage and part == "conv_transition":
        is_convolution = leaf == ".conv.weight" and value.ndim > 1
        return {f"{stage}merge{leaf}": np.roll(value, value.shape[1] // 2, 1) if is_convolution else value}
    return {name: value}


def read_darknet(path: Path) -> tuple[Weights, dict[str, Any]]:
    """Weights and metadata of darknet's `.weights` of cfg/csdarknet53-omega.cfg."""
    network = describe(1, "mish", 0.1, {})["network"]
    weights, num_classes = foreign.read_darknet(MODEL, path, network, darknet_order(), HEAD, "csdarknet53-omega.cfg")
    return weights, describe(num_classes, "mish", 0.1, foreign.darknet_input(256))


def darknet_order() -> list[str]:
    """The convolutions with batch norm, in the order of darknet's cfg."""
    cells = ["stem"]
    for stage, blocks in enumerate(STAGES):
        parts = ["down", "shortcut", "main"]
        parts += [f"blocks.{block}.{part}" for block in range(blocks) for part in ("conv1", "conv2")]
        cells += [f"stages.{stage}.{part}" for part in (*parts, "main_end", "merge")]
    return cells


def refuse_zoo(path: Path) -> NoReturn:
    """Refuse a checkpoint (.ckpt), with the reason."""
    foreign.refuse_checkpoint(path, ZOO_NAME)


def main(argv: list[str] | None = None) -> None:
    options = foreign.argument_parser(__doc__).parse_args(argv)
    timm_readers = {ending: read_timm for ending in (".pth", ".pt", ".safetensors")}
    foreign.convert(MODEL, options, {".weights": read_darknet, ".ckpt": refuse_zoo, **timm_readers})


if __name__ == "__main__":
    program.run(main)
