# Shared file: source utils/model_utils/weights.py; copy with: python scripts/sync_model_utils.py --write
"""Weights of other frameworks: files to arrays, a check that they fill the network, and a checkpoint from them."""

from __future__ import annotations

import argparse
import json
import os
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import mindspore as ms
import numpy as np
import yaml

from . import checkpoint
from .errors import DataError, UsageError
from .files import home_path, read_text
from .model import Model

Weights = dict[str, np.ndarray]
Reader = Callable[..., tuple[Weights, dict[str, Any]]]  # of a path; that of PyTorch's own format of a path and a part
BN_LEAVES = ("beta", "gamma", "moving_mean", "moving_variance")  # the order of darknet's files
TORCH_LEAVES = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
HEAD_SEED = 0
TORCH_ENDINGS = (".pth", ".pt")
PREFIXES = ("module.", "model.")  # of all names, from wrappers of several devices and of trainers
PARTS = ("state_dict", "model_state_dict", "model", "network", "net", "module", "state_dict_ema", "model_ema", "ema")
PART_HELP = "dictionary of a .pth or .pt file that holds several, such as state_dict_ema"
COUNTERS = ("num_batches_tracked", "n_averaged")  # in a state dictionary, which are no weights


def input_description(side: int, crop_ratio: float, interpolation: str, **changes: Any) -> dict[str, Any]:
    """The input part of a checkpoint's metadata: square, shorter side resized, ImageNet's mean and std; with changes."""
    return {
        "height": side,
        "width": side,
        "resize": "shorter_side",
        "crop_ratio": crop_ratio,
        "interpolation": interpolation,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        **changes,
    }


def darknet_input(side: int) -> dict[str, Any]:
    """The input of darknet's classifiers: the shorter side resized, the centre cropped, RGB in 0-1."""
    return input_description(side, 1.0, "bilinear", mean=[0.0] * 3, std=[1.0] * 3)


def darknet_header(data: bytes, source: str) -> int:
    """Length of the header of a .weights file: int32 major, minor, revision, then images seen in 8 or (old) 4 bytes."""
    if len(data) < 16:
        raise DataError(f"{source} has {len(data)} bytes: no darknet weights file")
    major, minor, _ = struct.unpack("<iii", data[:12])
    if not (0 <= major < 1000 and 0 <= minor < 1000):
        raise DataError(f"{source} starts with version {major}.{minor}: no darknet weights file")
    return 12 + (8 if major * 10 + minor >= 2 else 4)


def read_darknet(
    model: Model,
    path: Path,
    network: Mapping[str, Any],
    convolutions: Iterable[str],
    head: Sequence[str],
    cfg: str,
    *,
    may_lack_head: bool = False,
) -> tuple[Weights, int]:
    """Weights of a darknet `.weights` file: float32 in the order of the cfg, without names or lengths.

    A convolution with batch norm has beta, gamma, mean, variance, weights. The number of classes follows from the length.

    Args:
        model: whose weights they are.
        path: file.
        network: description of the network, but for its number of classes.
        convolutions: cells of a convolution with batch norm, in the order of the cfg, without the classifier.
        head: parameters of the classifier, in the order of the file.
        cfg: name of the cfg file, for messages.
        may_lack_head: accept a file that ends before the classifier, as darknet's `partial` writes it.

    Returns:
        Parameter names to arrays, and the number of classes: 0 where the file ends before the classifier.

    Raises:
        DataError: a header or a length that does not belong to the cfg.
    """
    data = path.read_bytes()
    start = darknet_header(data, str(path))
    shapes = {p.name: p.shape for p in model.build_network({**network, "num_classes": 1}).get_parameters()}
    names = [
        f"{cell}.{leaf}" for cell in convolutions for leaf in (*(f"bn.{leaf}" for leaf in BN_LEAVES), "conv.weight")
    ]
    body_size, per_class = (sum(int(np.prod(shapes[name])) for name in group) for group in (names, head))
    num_classes, rest = divmod(len(data) - start - 4 * body_size, 4 * per_class)
    if rest or num_classes < (0 if may_lack_head else 1):
        partial = f", without its classifier {4 * body_size}" if may_lack_head else ""
        raise DataError(
            f"{path} has {len(data)} bytes: {start} of header and {len(data) - start} of weights; {cfg} with C classes "
            f"has {4 * body_size} + {4 * per_class} C (1000 classes: {4 * (body_size + 1000 * per_class)}{partial}); "
            "the file is truncated or belongs to another network"
        )
    if num_classes:
        names += head
        shapes.update({name: (num_classes, *shapes[name][1:]) for name in head})
    numbers = np.frombuffer(data, "<f4", offset=start)
    weights, used = {}, 0
    for name in names:
        count = int(np.prod(shapes[name]))
        weights[name] = numbers[used : used + count].reshape(shapes[name]).copy()
        used += count
    return weights, num_classes


def read_state(path: Path, part: str = "") -> Weights:
    """A PyTorch state dictionary (`.safetensors`, else PyTorch's own format), without the counters of batch norms.

    What a training puts before all names (`module.`, `_orig_mod.`, `model.`) is taken off, and printed.

    Args:
        path: file.
        part: which dictionary of a file that holds several, see `_part_of`.

    Raises:
        DataError: a damaged file, something else than a state dictionary, or the reader is not installed.
    """
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pth(path, part)
    state = {name: value for name, value in state.items() if name.rpartition(".")[2] not in COUNTERS}
    return {name: np.asarray(value, np.float32) for name, value in _without_prefixes(state, path).items()}


def _without_prefixes(state: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The names without what all of them begin with, and without `_orig_mod.` of compiled parts."""
    names, taken = [name.replace("_orig_mod.", "") for name in state], ""
    while prefix := next((p for p in PREFIXES if names and all(name.startswith(p) for name in names)), ""):
        names, taken = [name[len(prefix) :] for name in names], taken + prefix
    if len(set(names)) < len(names):
        raise DataError(f"{path} has names that differ in _orig_mod. only; save the state dictionary of one network")
    for prefix in PREFIXES:
        others = [name for name in names if not name.startswith(prefix)]
        if 0 < len(others) < len(names) / 2:
            print(
                f"notice: most names of {path} begin with {prefix}, which is kept: {', '.join(others[:3])} ... do not"
            )
    if taken or names != list(state):
        print(f"notice: the names of {path} are read without {taken or '_orig_mod.'}")
    return dict(zip(names, state.values()))


def _read_safetensors(path: Path) -> Weights:
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise DataError(f"{path}: reading it needs safetensors; pip install safetensors") from error
    try:
        return load_file(str(path))
    except Exception as error:  # safetensors raises its own class, which older versions do not export
        raise DataError(f"{path} is not a sound safetensors file: {_first_line(error)}") from error


def _read_pth(path: Path, part: str) -> Weights:
    try:
        import torch
    except ImportError as error:
        raise DataError(
            f"{path}: reading it needs PyTorch; pip install torch, or convert it to .safetensors"
        ) from error
    # Values of options, which timm stores: plain data once the class may be made. PyTorch before 2.4 refuses them.
    if hasattr(torch.serialization, "add_safe_globals"):
        torch.serialization.add_safe_globals([argparse.Namespace])
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler met
        raise DataError(_torch_problem(path, error)) from error
    state = _part_of(content, torch.Tensor, path, part)
    return {name: value.detach().float().numpy() for name, value in state.items()}


def _torch_problem(path: Path, error: Exception) -> str:
    """What is wrong with a file that PyTorch does not load."""
    stranger = re.search(r"(?:GLOBAL|[Uu]nsupported class) ([\w.]+)", str(error))
    if stranger or "TorchScript" in str(error):
        what = f"objects of a program ({stranger[1]})" if stranger else "a program (TorchScript)"
        return (
            f"{path} holds {what}, and only tensors and plain values are loaded from a file: they might run code; where it "
            "was made, save the tensors alone: torch.save(network.state_dict(), FILE)"
        )
    return f"{path} is not a sound PyTorch file: {_first_line(error)}"


def _part_of(content: Any, tensor: type, path: Path, part: str) -> dict[str, Any]:
    """The state dictionary (name to tensor) in what a file holds: all of it, or one of its parts.

    A part is a key, or two keys with a point between them (model_ema.module). Without `part` the first one of PARTS that
    is there is taken, else the only one; which it is, and which others there are, is printed.
    """
    if _is_state(content, tensor) and not part:
        return content
    parts = {}
    for key, value in content.items() if isinstance(content, dict) else ():
        inner = {f"{key}.{name}": item for name, item in value.items()} if isinstance(value, dict) else {}
        parts.update({name: item for name, item in {key: value, **inner}.items() if _is_state(item, tensor)})
    if not parts:
        raise DataError(f"{path} holds no state dictionary (name to tensor), neither as it is nor as one of its parts")
    known = [name for name in PARTS if name in parts] or (list(parts) if len(parts) == 1 else [])
    taken = part or next(iter(known), "")
    if taken not in parts:
        given = f"part={part}: " if part else ""
        raise DataError(
            f"{given}{path} holds the state dictionaries {', '.join(map(str, parts))}; give one with --part NAME"
        )
    others = [str(name) for name in parts if name != taken]
    print(f"notice: {taken} of {path} is read" + (f"; --part takes another one: {', '.join(others)}" if others else ""))
    return parts[taken]


def _is_state(value: Any, tensor: type) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(item, tensor) for name, item in value.items())
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def torch_name(name: str) -> str:
    """A PyTorch name with the leaf of MindSpore's batch norm, where it is one of a cell called bn."""
    stem, _, leaf = name.rpartition(".")
    return f"{stem}.{TORCH_LEAVES[leaf]}" if stem.endswith(".bn") and leaf in TORCH_LEAVES else name


def read_checkpoint(path: Path) -> Weights:
    """Weights of a checkpoint (`.ckpt`) that is not of this project.

    Raises:
        DataError: a damaged file, or a checkpoint of this project.
    """
    parameters, metadata = checkpoint.load(path)
    if metadata:
        raise DataError(f"{path} is a checkpoint of this project already; eval.py and export.py read it as it is")
    return {name.removeprefix("network."): value.asnumpy() for name, value in parameters.items()}


def refuse_checkpoint(path: Path, zoo_name: str) -> NoReturn:
    """Refuse a checkpoint (`.ckpt`), for a network that pads in another way than that of the older model zoo.

    Args:
        path: file.
        zoo_name: regular expression of a parameter name of the older model zoo.

    Raises:
        DataError: always, with the reason.
    """
    names = list(read_checkpoint(path))
    if any(re.search(zoo_name, name) for name in names):
        raise DataError(
            f"{path} is of the older model zoo and cannot be converted: its stride-2 convolutions pad at the bottom and "
            "right only (pad_mode same), this network's on all sides, as darknet's and timm's do, so that the outputs "
            "would be wrong; give weights of darknet or timm"
        )
    raise DataError(
        f"{path} holds no weights of another framework (the first names are {names[:3]}); train.py, eval.py and "
        "export.py read a checkpoint that has the names of this network as it is"
    )


def read(path: Path, readers: Mapping[str, Reader], part: str = "") -> tuple[Weights, dict[str, Any]]:
    """Weights by this network's names, and metadata, of a file with one of the endings in `readers`.

    Args:
        path: file.
        readers: by the ending; those of PyTorch's own format take a part too.
        part: see `read_state`.

    Raises:
        UsageError: another ending, or a part of a file that has none.
        DataError: no such file, one of another kind, or what its reader raises.
    """
    endings = sorted(readers)
    if not path.is_file():
        raise DataError(f"input={path} is not a file; give a file that ends in {', '.join(endings)}")
    ending = ".weights" if is_darknet(path) else path.suffix
    if ending not in readers:
        raise UsageError(f"input={path}: the endings {', '.join(endings)} are accepted")
    if part and ending not in TORCH_ENDINGS:
        raise UsageError(f"part={part}: only files that end in {' or '.join(TORCH_ENDINGS)} have parts; leave it out")
    checkpoint.require_weights(path, "PyTorch" if ending in TORCH_ENDINGS else "")
    return readers[ending](path, part) if part else readers[ending](path)


def is_darknet(path: Path) -> bool:
    """Whether the name is one of darknet's: NAME.weights, or NAME.conv.N of a file that ends after N layers."""
    return path.suffix == ".weights" or re.search(r"\.conv\.\d+$", path.name) is not None


def fill(
    model: Model, weights: Mapping[str, np.ndarray], metadata: dict[str, Any], num_classes: int, source: str
) -> dict[str, Any]:
    """The network's parameters, all of them filled; another `num_classes` (0: as they are) gives a random head.

    The head's values follow from a fixed seed. `metadata` gets the number of classes.

    Raises:
        DataError: a weight is missing, left over, of another shape or of impossible values.
    """
    stored = metadata["network"]["num_classes"]
    if not (stored or num_classes):
        raise DataError(f"{source} holds no classifier; give --num_classes N, which adds a random one for N classes")
    has_new_head = num_classes not in (0, stored)
    if has_new_head:
        metadata["network"]["num_classes"] = num_classes
        weights = {name: value for name, value in weights.items() if not model.is_head(name)}
        ms.set_seed(HEAD_SEED)
    network = model.build_network(metadata["network"])
    wanted = {
        name: p.shape for name, p in network.parameters_dict().items() if not (has_new_head and model.is_head(name))
    }
    problems = [f"{name} is missing" for name in wanted if name not in weights]
    problems += [f"{name} is left over" for name in weights if name not in wanted]
    problems += [
        f"{name} has shape {weights[name].shape}, the network {shape}"
        for name, shape in wanted.items()
        if name in weights and weights[name].shape != tuple(shape)
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(f"{source} does not fit {model.name}: {problems[0]}{more}")
    for name, value in weights.items():
        if not np.isfinite(value).all() or (name.endswith(".moving_variance") and value.min() < 0):
            raise DataError(
                f"{source}: {name} has values that are not finite, or negative variances; the file is damaged or "
                "belongs to another network"
            )
    return {**network.parameters_dict(), **weights}


def class_count(weights: Mapping[str, np.ndarray], head_weight: str) -> int:
    """Outputs of the classifier among the weights; 0 where there is none."""
    return weights[head_weight].shape[0] if head_weight in weights and weights[head_weight].ndim else 0


def read_yaml(path: str | None, option: str, kind: type) -> Any:
    """A YAML file of texts, a list or a dictionary; None where there is no path.

    Raises:
        UsageError: it cannot be read, or is something else.
    """
    if not path:
        return None
    try:  # BaseLoader leaves 007 and no as they are
        content = yaml.load(read_text(path, f"{option}={path}"), Loader=yaml.BaseLoader)
    except DataError as error:
        raise UsageError(str(error)) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{option}={path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    values = content.values() if isinstance(content, dict) else content
    if not isinstance(content, kind) or not all(isinstance(value, str) for value in values):
        lines = '"- NAME"' if kind is list else '"OLD: NEW"'
        raise UsageError(f"{option}={path}: lines such as {lines} are accepted")
    return content


def argument_parser(description: str) -> argparse.ArgumentParser:
    """The options that every folder's convert_checkpoint.py has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, type=home_path, help="file with the weights")
    parser.add_argument("--output", required=True, type=home_path, help="checkpoint to write, ends in .ckpt")
    parser.add_argument("--part", default="", help=PART_HELP)
    parser.add_argument("--num_classes", type=int, default=0, help="another number of classes re-initialises the head")
    parser.add_argument(
        "--class_names", type=os.path.expanduser, help="YAML list of the class names, in the order of the outputs"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def convert(model: Model, options: argparse.Namespace, readers: Mapping[str, Reader]) -> None:
    """Read `options.input` with the reader of its ending and write the checkpoint.

    Raises:
        UsageError: an option that cannot be.
        DataError: a file that cannot be read or does not fit; nothing is written.
    """
    if options.output.suffix != ".ckpt":
        raise UsageError(f"output={options.output}: the ending .ckpt is accepted")
    if options.num_classes < 0:
        raise UsageError(f"num_classes={options.num_classes}: 1 or more is accepted")
    names = read_yaml(options.class_names, "class_names", list)
    weights, metadata = read(options.input, readers, options.part)
    stored = metadata["network"]["num_classes"]
    parameters = fill(model, weights, metadata, options.num_classes, str(options.input))
    num_classes = metadata["network"]["num_classes"]
    if names is not None and len(names) != num_classes:
        raise UsageError(
            f"class_names={options.class_names} has {len(names)} names: {num_classes} names are needed, one for each output"
        )
    checkpoint.save(options.output, parameters, {**metadata, "class_names": names, "source": options.input.name})
    if names is None and is_darknet(options.input) and num_classes == stored:
        print(
            "notice: darknet orders the ImageNet classes by its data/imagenet.labels.list, not by folder name: give that "
            "list with --class_names before you evaluate or predict with these weights"
        )
    print(f"{len(weights)} weights of {options.input} -> {options.output}: {json.dumps(metadata['network'])}")
