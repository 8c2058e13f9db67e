"""Make a checkpoint of this folder from weights of another framework.

    python convert_checkpoint.py --input tiny.weights --output tinydarknet.ckpt

Reads darknet's `.weights` (of cfg/tiny.cfg), checkpoints of the older MindSpore model zoo (`.ckpt`), and state
dictionaries of PyTorch (`.safetensors`; `.pth` where torch is installed). Every weight must be filled and nothing may be
left over. What the weights were trained for (input size, mean, std ...) is stored with them.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.inference import NETWORK, build_network
from src.model_utils import checkpoint
from src.model_utils import config as configuration
from src.model_utils.config import DataError, UsageError

import numpy as np
import yaml

HEAD = "conv16"
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TORCH_LEAVES = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def network_description(num_classes: int, **changes: Any) -> dict[str, Any]:
    """The network part of a checkpoint's metadata."""
    return {"name": NETWORK, "num_classes": num_classes, "negative_slope": 0.1, "bn_eps": 1e-5, **changes}


def input_description(**changes: Any) -> dict[str, Any]:
    """The input part of a checkpoint's metadata: the ImageNet recipe, with changes."""
    return {
        "height": 224,
        "width": 224,
        "resize": "shorter_side",
        "crop_ratio": 0.875,
        "interpolation": "bilinear",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        **changes,
    }


def darknet_header(data: bytes, source: str) -> int:
    """Length of the header of a .weights file: int32 major, minor, revision, then images seen in 8 or (old) 4 bytes."""
    if len(data) < 16:
        raise DataError(f"{source} has {len(data)} bytes: no darknet weights file")
    major, minor, _ = struct.unpack("<iii", data[:12])
    if not (0 <= major < 1000 and 0 <= minor < 1000):
        raise DataError(f"{source} starts with version {major}.{minor}: no darknet weights file")
    return 12 + (8 if major * 10 + minor >= 2 else 4)


def read_darknet(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Weights and metadata of darknet's `.weights`: float32 in the order of the cfg, without names or lengths.

    A convolution with batch norm has beta, gamma, mean, variance, weights; the last one bias, weights. The number of
    classes follows from the length. darknet feeds RGB in 0-1, resizes the shorter side to 224 and crops the centre.

    Raises:
        DataError: a header or a length that does not belong to cfg/tiny.cfg.
    """
    data = path.read_bytes()
    start = darknet_header(data, str(path))
    body = [p for p in build_network({"network": network_description(1)}).get_parameters() if not _is_head(p.name)]
    body_size, left = sum(p.size for p in body), (len(data) - start) // 4
    features = body[-1].shape[0]
    num_classes = (left - body_size) // (features + 1)
    if (len(data) - start) % 4 or num_classes < 1 or body_size + num_classes * (features + 1) != left:
        raise DataError(
            f"{path} has {len(data)} bytes: {start} of header and {len(data) - start} of weights; tiny.cfg with C classes "
            f"has {4 * body_size} + {4 * (features + 1)} C (1000 classes: {4 * (body_size + 1000 * (features + 1))}); "
            "the file is truncated or belongs to another network"
        )
    metadata = {
        "network": network_description(num_classes),
        "input": input_description(crop_ratio=1.0, mean=[0.0] * 3, std=[1.0] * 3),
        "class_names": None,
    }
    shapes = {p.name: p.shape for p in build_network(metadata).get_parameters()}
    numbers = np.frombuffer(data, "<f4", offset=start)
    weights, used = {}, 0
    for name in _darknet_order(len([n for n in shapes if n.endswith("conv.weight")])):
        count = int(np.prod(shapes[name]))
        weights[name] = numbers[used : used + count].reshape(shapes[name]).copy()
        used += count
    return weights, metadata


def _darknet_order(convolutions: int) -> list[str]:
    names = []
    for index in range(1, convolutions):
        names += [f"conv{index}.bn.{leaf}" for leaf in ("beta", "gamma", "moving_mean", "moving_variance")]
        names.append(f"conv{index}.conv.weight")
    return [*names, f"{HEAD}.conv.bias", f"{HEAD}.conv.weight"]


def _is_head(name: str) -> bool:
    return name.startswith(HEAD + ".")


def read_zoo(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Weights and metadata of a checkpoint of the older model zoo: slope 0.2, eps 1e-3, batch norm on the logits."""
    parameters, metadata = checkpoint.load(path)
    weights = {name.removeprefix("network."): value.asnumpy() for name, value in parameters.items()}
    weights = {name: value for name, value in weights.items() if re.match(r"conv\d+\.", name)}
    if metadata:
        raise DataError(f"{path} is a checkpoint of this project already; eval.py and export.py read it as it is")
    if f"{HEAD}.conv.weight" not in weights:
        raise DataError(f"{path} has no {HEAD}.conv.weight: no TinyDarkNet of the older model zoo")
    legacy = f"{HEAD}.bn.gamma" in weights
    old = {"negative_slope": 0.2, "bn_eps": 1e-3, "legacy_head": True} if legacy else {}
    num_classes = weights[f"{HEAD}.conv.weight"].shape[0]
    return weights, {
        "network": network_description(num_classes, **old), "input": input_description(), "class_names": None,
    }  # fmt: skip


def read_torch(path: Path, name_map: Mapping[str, str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Weights and metadata of a PyTorch state dictionary.

    Its names are those of this network (conv1.conv.weight, conv1.bn.running_mean ...) once `name_map` has replaced the
    longest matching beginning of each, such as {"features.0": "conv1.conv"}.
    """
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pth(path)
    weights: dict[str, np.ndarray] = {}
    for name, value in state.items():
        if not name.endswith("num_batches_tracked"):
            weights[_torch_name(name.removeprefix("module."), name_map)] = np.asarray(value, np.float32)
    head = weights.get(f"{HEAD}.conv.weight")
    if head is None:
        raise DataError(
            f"{path}: no weight is called {HEAD}.conv.weight (the first names are {list(state)[:3]}); "
            'give --name_map FILE with lines such as "features.0: conv1.conv"'
        )
    return weights, {
        "network": network_description(head.shape[0]), "input": input_description(), "class_names": None,
    }  # fmt: skip


def _torch_name(name: str, name_map: Mapping[str, str]) -> str:
    beginnings = [old for old in name_map if name == old or name.startswith(old + ".")]
    if beginnings:
        longest = max(beginnings, key=len)
        name = name_map[longest] + name[len(longest) :]
    stem, _, leaf = name.rpartition(".")
    return f"{stem}.{TORCH_LEAVES[leaf]}" if stem.endswith(".bn") and leaf in TORCH_LEAVES else name


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    try:
        return load_file(str(path))
    except Exception as error:  # safetensors raises its own class, which older versions do not export
        raise DataError(f"{path} is not a sound safetensors file: {error}") from error


def _read_pth(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise DataError(
            f"{path}: reading it needs PyTorch; pip install torch, or convert it to .safetensors"
        ) from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler met
        raise DataError(f"{path} is not a sound PyTorch file: {str(error).splitlines()[0]}") from error
    state = state.get("state_dict", state)
    return {name: value.numpy() for name, value in state.items()}


def read(path: Path, name_map: Mapping[str, str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Weights by this network's names, and metadata, of a file of any kind that is known."""
    if not path.is_file():
        raise DataError(f"input={path} is not a file; give a .weights, .ckpt, .pth or .safetensors file")
    if path.suffix == ".weights":
        return read_darknet(path)
    if path.suffix == ".ckpt":
        return read_zoo(path)
    if path.suffix in (".pth", ".pt", ".safetensors"):
        return read_torch(path, name_map)
    raise UsageError(f"input={path}: the endings .weights, .ckpt, .pth, .pt and .safetensors are accepted")


def convert(
    weights: Mapping[str, np.ndarray], metadata: dict[str, Any], num_classes: int, source: str
) -> dict[str, Any]:
    """The network's parameters, all of them filled; another `num_classes` (0: as they are) gives a random head.

    Raises:
        DataError: a weight is missing, left over or of another shape.
    """
    has_new_head = num_classes not in (0, metadata["network"]["num_classes"])
    if has_new_head:
        metadata["network"]["num_classes"] = num_classes
        weights = {name: value for name, value in weights.items() if not _is_head(name)}
    network = build_network(metadata)
    wanted = {name: p.shape for name, p in network.parameters_dict().items() if not (has_new_head and _is_head(name))}
    problems = [f"{name} is missing" for name in wanted if name not in weights]
    problems += [f"{name} is left over" for name in weights if name not in wanted]
    problems += [
        f"{name} has shape {weights[name].shape}, the network {shape}"
        for name, shape in wanted.items()
        if name in weights and weights[name].shape != tuple(shape)
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(f"{source} does not fit TinyDarkNet: {problems[0]}{more}")
    return {**network.parameters_dict(), **weights}


def _read_lines(path: str | None, what: str) -> Any:
    if not path:
        return None
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"{what}={path} cannot be read as YAML: {error}") from error


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, type=Path, help=".weights, .ckpt, .pth or .safetensors file")
    parser.add_argument("--output", required=True, type=Path, help="checkpoint to write, ends in .ckpt")
    parser.add_argument("--num_classes", type=int, default=0, help="another number of classes re-initialises the head")
    parser.add_argument("--name_map", help="YAML file: beginning of a PyTorch name -> beginning of a name here")
    parser.add_argument("--class_names", help="YAML list of the class names, in the order of the outputs")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(argv)
    if options.output.suffix != ".ckpt":
        raise UsageError(f"output={options.output}: the ending .ckpt is accepted")
    if options.num_classes < 0:
        raise UsageError(f"num_classes={options.num_classes}: 1 or more is accepted")
    weights, metadata = read(options.input, _read_lines(options.name_map, "name_map") or {})
    parameters = convert(weights, metadata, options.num_classes, str(options.input))
    names = _read_lines(options.class_names, "class_names")
    if names is not None and len(names) != metadata["network"]["num_classes"]:
        raise UsageError(f"class_names={options.class_names}: {metadata['network']['num_classes']} names are needed")
    checkpoint.save(options.output, parameters, {**metadata, "class_names": names, "source": options.input.name})
    if names is None and options.input.suffix == ".weights":
        print(
            "notice: darknet orders the ImageNet classes by its data/imagenet.labels.list, not by folder name: give that "
            "list with --class_names before you evaluate or predict with these weights"
        )
    print(f"{len(weights)} weights of {options.input} -> {options.output}: {json.dumps(metadata['network'])}")


if __name__ == "__main__":
    configuration.run(main)
