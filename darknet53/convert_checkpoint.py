"""Make a checkpoint of this folder from weights of another framework.

    python convert_checkpoint.py --input darknet53.weights --output darknet53.ckpt

Reads timm's `darknet53` (`.safetensors`; `.pth` where torch is installed) and darknet's `.weights` of cfg/darknet53.cfg,
with --num_classes N also `darknet53.conv.74`, which ends before the classifier. Every weight must be filled and nothing
may be left over. What the weights were trained for (slope, input size, mean, std ...) is stored with them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

from src.darknet53 import STAGES
from src.model_utils import program
from src.model_utils import weights as foreign
from src.model_utils.weights import Weights
from src.recipe import MODEL

HEAD = ["fc.bias", "fc.weight"]  # the order of darknet's file
# Names of the older model zoo, such as conv0.0.weight and layer1.0.conv1.1.gamma.
ZOO_NAME = r"(^|\.)(conv[0-5]|layer[1-5]\.\d\.conv[12])\.[01]\."


def describe(num_classes: int, negative_slope: float, spec: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's metadata."""
    network = {
        "name": MODEL.name,
        "num_classes": num_classes,
        "activation": "leaky_relu",
        "negative_slope": negative_slope,
        "bn_eps": 1e-5,
    }
    return {"network": network, "input": spec, "class_names": None}


def read_timm(path: Path, part: str = "") -> tuple[Weights, dict[str, Any]]:
    """Weights and metadata of timm's `darknet53`."""
    weights = {timm_name(name): value for name, value in foreign.read_state(path, part).items()}
    spec = foreign.input_description(256, 0.887, "bicubic")
    return weights, describe(foreign.class_count(weights, "fc.weight"), 0.01, spec)


def timm_name(name: str) -> str:
    """timm's name of a parameter to this network's."""
    name = re.sub(r"^stem\.conv1\.", "conv0.", name)
    name = re.sub(r"^stages\.(\d)\.conv_down\.", lambda match: f"conv{int(match[1]) + 1}.", name)
    name = re.sub(r"^stages\.(\d)\.blocks\.", lambda match: f"layer{int(match[1]) + 1}.", name)
    return foreign.torch_name(re.sub(r"^head\.fc\.", "fc.", name))


def read_darknet(path: Path) -> tuple[Weights, dict[str, Any]]:
    """Weights and metadata of darknet's `.weights` of cfg/darknet53.cfg."""
    network = describe(1, 0.1, {})["network"]
    weights, num_classes = foreign.read_darknet(
        MODEL, path, network, darknet_order(), HEAD, "darknet53.cfg", may_lack_head=True
    )
    return weights, describe(num_classes, 0.1, foreign.darknet_input(256))


def darknet_order() -> list[str]:
    """The convolutions with batch norm, in the order of darknet's cfg."""
    cells = ["conv0"]
    for stage, blocks in enumerate(STAGES, start=1):
        cells.append(f"conv{stage}")
        cells += [f"layer{stage}.{block}.{part}" for block in range(blocks) for part in ("conv1", "conv2")]
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
