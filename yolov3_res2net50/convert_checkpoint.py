"""Make a backbone checkpoint, which a training starts from, out of weights that were trained elsewhere.

    python convert_checkpoint.py --input res2net50d.safetensors --output backbone_res2net50.ckpt
    python train.py --pretrained_backbone backbone_res2net50.ckpt ...

It reads timm's `res2net50d` (.safetensors; .pth and .pt need PyTorch), and of the older model zoo the `res2net50`
classifier and the backbone that its own conversion made of that (.ckpt). Each of the 435 parameters of the backbone must
be filled; the classifier and what an optimizer left in the file are skipped on purpose, and nothing else may be left over.
The older zoo's weights need `--shortcut max_pool` in train.py. Their features are not those of its classifier, whose 3x3
convolutions with stride 2 padded at the bottom and right only, and whose batch norms had an eps of 1e-4. Its detector
had given up both, but in the stem: its features were those that the picture has here when it is moved by 3 pixels.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from src.model_utils import checkpoint, program
from src.model_utils import weights as foreign
from src.model_utils.errors import DataError, UsageError
from src.model_utils.files import home_path
from src.model_utils.weights import IMAGENET_MEAN, IMAGENET_STD, Weights
from src.res2net import BLOCKS, Res2Net

import numpy as np

ACCEPTED = "timm's res2net50d, or of the older model zoo a res2net50 classifier or its converted backbone"
CLASSIFIER = ("fc.weight", "fc.bias", "end_point.weight", "end_point.bias")  # of timm, of the older model zoo
STEM = ("stem.0.conv", "stem.0.bn", "stem.2.conv", "stem.2.bn", "stem.4.conv", "stem.4.bn")
TIMM_STEM = ("conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1")
ZOO_STEM = ("conv1_0", "bn1_0", "conv1_1", "bn1_1", "conv1_2", "bn1")
BLOCK = {  # timm and the older zoo have the same names there, but for the shortcut
    "conv1": "conv1.conv", "bn1": "conv1.bn",
    "convs.0": "branches.0.conv", "convs.1": "branches.1.conv", "convs.2": "branches.2.conv",
    "bns.0": "branches.0.bn", "bns.1": "branches.1.bn", "bns.2": "branches.2.bn",
    "conv3": "conv3.conv", "bn3": "conv3.bn",
}  # fmt: skip
ZOO_BACKBONE = re.compile(r"(yolo_network\.)?feature_map\.backbone\.")  # begins the names in the older zoo's detector
ZOO_DETECTOR = re.compile(r"(yolo_network\.)?feature_map\.(?!backbone\.)")


def cell_table(stem: Sequence[str], shortcut: str, shortcut_of_layer1: str) -> dict[str, str]:
    """Foreign modules to the cells of the backbone.

    Args:
        stem: the modules that do what the cells STEM do.
        shortcut: convolution and batch norm of a shortcut, separated by a space.
        shortcut_of_layer1: the same in layer1, which has no pool before them.
    """
    table = dict(zip(stem, STEM))
    for layer, blocks in enumerate(BLOCKS, 1):
        conv, bn = (shortcut_of_layer1 if layer == 1 else shortcut).split()
        table.update({f"layer{layer}.0.{conv}": f"layer{layer}.0.shortcut.1.conv"})
        table.update({f"layer{layer}.0.{bn}": f"layer{layer}.0.shortcut.1.bn"})
        for block in (f"layer{layer}.{index}." for index in range(blocks)):
            table.update({block + theirs: block + ours for theirs, ours in BLOCK.items()})
    return table


TIMM_CELLS = cell_table(TIMM_STEM, "downsample.1 downsample.2", "downsample.1 downsample.2")
ZOO_CELLS = cell_table(ZOO_STEM, "down_sample_layer.1 down_sample_layer.2", "down_sample_layer.0 down_sample_layer.1")
ZOO_DETECTOR_CELLS = cell_table(ZOO_STEM, "conv_down_sample bn_down_sample", "conv_down_sample bn_down_sample")


def from_timm(name: str) -> str:
    """The backbone's name of timm's parameter; another text where it has none."""
    module, _, leaf = name.rpartition(".")
    return foreign.torch_name(f"{TIMM_CELLS.get(module)}.{leaf}")


def from_zoo(name: str) -> str:
    """The backbone's name of a parameter of the older zoo; another text where it has none."""
    plain = ZOO_BACKBONE.sub("", name, count=1)
    module, _, leaf = plain.rpartition(".")
    cells = ZOO_CELLS if plain == name else ZOO_DETECTOR_CELLS
    return f"{cells.get(module)}.{leaf}"


def fill(state: Weights, rename: Callable[[str], str], shortcut: str, source: Path) -> Weights:
    """The backbone's parameters out of foreign ones, all of them filled, without the classifier.

    Raises:
        DataError: a parameter is missing, left over, there twice, of another shape or of impossible values.
    """
    wanted = {name: tuple(p.shape) for name, p in Res2Net(shortcut).parameters_dict().items()}
    weights: Weights = {}
    strangers, faults = [], []
    for name, value in state.items():
        ours = rename(name)
        if ours in weights:
            faults.append(f"{name} is there twice")
        elif ours in wanted:
            weights[ours] = value
            if value.shape != wanted[ours]:
                faults.append(f"{name} has shape {value.shape}, the network {wanted[ours]}")
        elif name not in CLASSIFIER:
            strangers.append(f"{name} is left over")
    problems = [f"{name} is missing" for name in wanted if name not in weights] + strangers + faults
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(f"{source} does not fit the Res2Net50 backbone: {problems[0]}{more}; give {ACCEPTED}")
    _check_values(weights, source)
    return weights


def _check_values(weights: Weights, source: Path) -> None:
    for name, value in weights.items():
        if not np.isfinite(value).all() or (name.endswith(".moving_variance") and value.min() < 0):
            raise DataError(
                f"{source}: {name} has values that are not finite, or negative variances; the file is damaged or "
                "belongs to another network"
            )


def describe(shortcut: str) -> dict[str, Any]:
    """A backbone checkpoint's metadata."""
    return {
        "backbone": {"name": "res2net50", "shortcut": shortcut, "bn_eps": 1e-5},
        "input": {"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
    }


def read_timm(path: Path, part: str = "") -> tuple[Weights, dict[str, Any]]:
    """Weights and metadata of timm's `res2net50d`."""
    state = foreign.read_state(path, part)
    if "conv1.weight" in state:
        raise DataError(
            f"{path} begins with one convolution (conv1.weight, {state['conv1.weight'].shape}), as timm's "
            "res2net50_26w_4s; this backbone begins with three 3x3 convolutions: give timm's res2net50d"
        )
    return fill(state, from_timm, "avg_pool", path), describe("avg_pool")


def read_zoo(path: Path) -> tuple[Weights, dict[str, Any]]:
    """Weights and metadata of the older zoo's `res2net50` classifier, or of the backbone that it made of that."""
    state = {
        name: value
        for name, value in foreign.read_checkpoint(path).items()
        if not checkpoint.NO_WEIGHTS.fullmatch(name)
    }
    if any(ZOO_DETECTOR.match(name) for name in state):
        raise DataError(
            f"{path} is a whole detector of the older model zoo and cannot be converted: its stem normalised with the "
            "statistics of each batch, in evaluation too, and its convolutions pad in another way, so that its boxes "
            "would be wrong here; give the res2net50 classifier that its training started from"
        )
    return fill(state, from_zoo, "max_pool", path), describe("max_pool")


def halved(weights: Weights, source: Path) -> Weights:
    """float16 values; training and evaluation compute with them in the type of their network.

    Raises:
        DataError: a value is too large for float16.
    """
    limit = np.finfo(np.float16).max
    for name, value in weights.items():
        if np.abs(value).max() > limit:
            raise DataError(f"{source}: {name} has values above {limit:.0f}, the largest of float16; leave --fp16 out")
    return {name: value.astype(np.float16) for name, value in weights.items()}


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", "--input_file", required=True, type=home_path, help="file with the weights")
    parser.add_argument(
        "--output", "--output_file", type=home_path, default=Path("backbone_res2net50.ckpt"),
        help="checkpoint to write, ends in .ckpt; default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--part", default="", help=foreign.PART_HELP)
    parser.add_argument("--fp16", action="store_true", help="store half precision: half the size")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: list[str] | None = None) -> None:
    options = argument_parser().parse_args(argv)
    if options.output.suffix != ".ckpt":
        raise UsageError(f"output={options.output}: the ending .ckpt is accepted")
    readers = {".ckpt": read_zoo, **{ending: read_timm for ending in (".pth", ".pt", ".safetensors")}}
    weights, metadata = foreign.read(options.input, readers, options.part)
    if options.fp16:
        weights = halved(weights, options.input)
    checkpoint.save(options.output, weights, {**metadata, "source": options.input.name})
    backbone = json.dumps(metadata["backbone"])
    print(f"{len(weights)} weights of {options.input} -> {options.output}: {backbone}; its classifier is left out")


if __name__ == "__main__":
    program.run(main)
