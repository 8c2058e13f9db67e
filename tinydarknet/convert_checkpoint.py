"""Make a checkpoint of this folder from weights of another framework.

    python convert_checkpoint.py --input tiny.weights --output tinydarknet.ckpt

Reads darknet's `.weights` (of cfg/tiny.cfg), checkpoints of the older MindSpore model zoo (`.ckpt`), and state
dictionaries of PyTorch (`.safetensors`; `.pth` where torch is installed). Every weight must be filled and nothing may be
left over. What the weights were trained for (input size, mean, std ...) is stored with them.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.model_utils import program
from src.model_utils import weights as foreign
from src.model_utils.errors import DataError
from src.model_utils.weights import Weights
from src.recipe import MODEL

HEAD = "conv16"


def describe(num_classes: int, spec: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A checkpoint's metadata: the network with changes, and its input, ImageNet's unless another `spec` is given."""
    network = {"name": MODEL.name, "num_classes": num_classes, "negative_slope": 0.1, "bn_eps": 1e-5, **changes}
    spec = spec or foreign.input_description(224, 0.875, "bilinear")
    return {"network": network, "input": spec, "class_names": None}


def read_darknet(path: Path) -> tuple[Weights, dict[str, Any]]:
    """Weights and metadata of darknet's `.weights` of cfg/tiny.cfg."""
    weights, num_classes = foreign.read_darknet(
        MODEL,
        path,
        describe(1)["network"],
        [f"conv{index}" for index in range(1, 16)],
        [f"{HEAD}.conv.bias", f"{HEAD}.conv.weight"],
        "tiny.cfg",
    )
    return weights, describe(num_classes, foreign.darknet_input(224))


def read_zoo(path: Path) -> tuple[Weights, dict[str, Any]]:
    """Weights and metadata of a checkpoint of the older model zoo: slope 0.2, eps 1e-3, batch norm on the logits."""
    weights = {name: value for name, value in foreign.read_checkpoint(path).items() if re.match(r"conv\d+\.", name)}
    if f"{HEAD}.conv.weight" not in weights:
        raise DataError(f"{path} has no {HEAD}.conv.weight: no TinyDarkNet of the older model zoo")
    legacy = f"{HEAD}.bn.gamma" in weights
    old = {"negative_slope": 0.2, "bn_eps": 1e-3, "legacy_head": True} if legacy else {}
    return weights, describe(foreign.class_count(weights, f"{HEAD}.conv.weight"), **old)


def read_torch(path: Path, part: str = "", *, name_map: Mapping[str, str]) -> tuple[Weights, dict[str, Any]]:
    """Weights and metadata of a PyTorch state dictionary.

    Its names are those of this network (conv1.conv.weight, conv1.bn.running_mean ...) once `name_map` has replaced the
    longest matching beginning of each, such as {"features.0": "conv1.conv"}.
    """
    state = foreign.read_state(path, part)
    weights = {foreign.torch_name(_mapped(name, name_map)): value for name, value in state.items()}
    if f"{HEAD}.conv.weight" not in weights:
        raise DataError(
            f"{path}: no weight is called {HEAD}.conv.weight (the first names are {list(state)[:3]}); "
            'give --name_map FILE with lines such as "features.0: conv1.conv"'
        )
    return weights, describe(foreign.class_count(weights, f"{HEAD}.conv.weight"))


def _mapped(name: str, name_map: Mapping[str, str]) -> str:
    beginnings = [old for old in name_map if name == old or name.startswith(old + ".")]
    if not beginnings:
        return name
    longest = max(beginnings, key=len)
    return name_map[longest] + name[len(longest) :]


def main(argv: list[str] | None = None) -> None:
    parser = foreign.argument_parser(__doc__)
    parser.add_argument(
        "--name_map", type=os.path.expanduser, help="YAML file: beginning of a PyTorch name -> beginning of a name here"
    )
    options = parser.parse_args(argv)
    name_map = foreign.read_yaml(options.name_map, "name_map", dict) or {}
    from_torch = functools.partial(read_torch, name_map=name_map)
    torch_readers = {ending: from_torch for ending in (".pth", ".pt", ".safetensors")}
    foreign.convert(MODEL, options, {".weights": read_darknet, ".ckpt": read_zoo, **torch_readers})


if __name__ == "__main__":
    program.run(main)
