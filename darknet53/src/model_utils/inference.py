# Shared file: source utils/model_utils/inference.py; copy with: python scripts/sync_model_utils.py --write
"""From a checkpoint or an exported model to its outputs: one way for eval.py, export.py and infer.py."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any, BinaryIO, Callable

import mindspore as ms
import numpy as np
from mindspore import nn

from . import checkpoint
from .config import Config
from .errors import DataError, UsageError
from .files import require_text_name
from .logger import get_logger
from .model import Model
from .schema import built, read_json, require_description, require_like
from .weights import read_yaml

ABOUT = ("network", "input", "class_names")  # parts of a description


def description(model: Model, config: Config, class_names: list[str] | None) -> dict[str, Any]:
    """What is stored with the weights: what builds the network, what it is fed, the names of its classes."""
    return {
        "network": model.describe_network(config),
        "input": model.input_spec(config),
        "class_names": class_names,
    }


def load_network(
    model: Model, path: str | Path, config: Config, use_ema: bool = False
) -> tuple[nn.Cell, dict[str, Any]]:
    """Build the network that a checkpoint belongs to, with its weights, in evaluation mode.

    Returns:
        The network and its description; a foreign checkpoint without one has that of the recipe.

    Raises:
        UsageError: an option of the command line contradicts the checkpoint.
        DataError: a damaged file, or weights of another network.
    """
    parameters, metadata = checkpoint.load(path)
    about = {key: metadata[key] for key in ABOUT if key in metadata}
    if not about:
        get_logger().info("%s holds weights only: network and preprocessing are those of the recipe", path)
    if len(about) < len(ABOUT):
        about = {**description(model, config, None), **about}
    require_own(model, about, f"checkpoint {path}")
    refuse_contradiction(config, about, path)
    about["class_names"] = stored_classes(config, about, path)
    network = built(model.build_network, about["network"], f"checkpoint {path}")
    checkpoint.load_weights(network, parameters, path, allow_partial=config.allow_partial_load, use_ema=use_ema)
    return network.set_train(False), about


def stored_classes(config: Config, about: dict[str, Any], path: str | Path) -> list[str] | None:
    """The class names of weights: those in their file, else those of the list --class_names; None where there are none.

    Raises:
        UsageError: a list that cannot be read, of another length, or other names than the file has.
    """
    stored, given, outputs = about.get("class_names"), config.get("class_names"), about["network"]["num_classes"]
    if not given:
        return stored
    names = read_yaml(given, "class_names", list)
    if stored is not None and names != stored:
        raise UsageError(f"class_names={given} contradicts {path}, which has names of its own; leave the option out")
    if len(names) != outputs:
        raise UsageError(f"class_names={given} has {len(names)} names: {outputs} are needed, one for each output")
    return names


def refuse_contradiction(config: Config, about: dict[str, Any], path: str | Path) -> None:
    """Raise UsageError where the command line asks for another network or input than the file was made for."""
    network = {key: value for key, value in about["network"].items() if key != "name"}
    stored = {**network, **_input_options(config, about)}
    for key, value in stored.items():
        if key in config.given and config[key] != value:
            raise UsageError(
                f"--{key} {config[key]} contradicts {path}, which was made for {value}; leave the option out"
            )


def with_input(config: Config, about: dict[str, Any]) -> Config:
    """The recipe with the input and the classes that the weights were made for."""
    return config.replace(num_classes=about["network"]["num_classes"], **_input_options(config, about))


def _input_options(config: Config, about: dict[str, Any]) -> dict[str, Any]:
    """The input of a description as keys of the recipe, of those that it has."""
    options = {f"image_{key}" if key in ("height", "width") else key: value for key, value in about["input"].items()}
    return {key: value for key, value in options.items() if key in config}


def predict(network: Callable, images: np.ndarray, batch_size: int) -> tuple[np.ndarray, ...]:
    """Outputs (n, ...) of n <= batch_size images; a short batch is padded, so that one compiled graph serves all."""
    missing = batch_size - len(images)
    if missing:
        images = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
    return tuple(output[: batch_size - missing] for output in as_arrays(network(ms.Tensor(images))))


def as_arrays(outputs: ms.Tensor | tuple[ms.Tensor, ...]) -> tuple[np.ndarray, ...]:
    """The float32 arrays of a network's output or outputs."""
    outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    return tuple(output.asnumpy().astype(np.float32) for output in outputs)


def load_model(
    model: Model, path: str | Path, config: Config, wrap: Callable[[nn.Cell], nn.Cell] | None = None
) -> tuple[Callable[[np.ndarray], tuple[np.ndarray, ...]], dict[str, Any], int | None]:
    """A .ckpt, .mindir or .onnx file as a function from images (n, 3, H, W) to its outputs, (n, ...) float32 each.

    Args:
        model: whose files these are.
        path: file.
        config: recipe.
        wrap: what export.py puts around the network of a checkpoint.

    Returns:
        The function, the description of the model, and the batch size that it insists on (None: any).

    Raises:
        DataError: no such file, an ending that is not known, a damaged file, a missing description.
    """
    path = Path(path)
    if path.suffix == ".ckpt":
        network, about = load_network(model, path, config)
        network = wrap(network).set_train(False) if wrap else network
        return lambda images: as_arrays(network(ms.Tensor(images))), about, None
    if not path.is_file():
        raise DataError(f"model_file={path} is not a file; give a .mindir, .onnx or .ckpt file")
    loaders = {".mindir": _load_mindir, ".onnx": _load_onnx}
    if path.suffix not in loaders:
        raise DataError(f"model_file={path}: the endings .mindir, .onnx and .ckpt are accepted")
    checkpoint.require_weights(path)
    require_text_name(path, "model_file")
    about = read_description(model, path)
    refuse_contradiction(config, about, path)
    return loaders[path.suffix](path), about, about["batch_size"]


def read_description(model: Model, model_path: Path) -> dict[str, Any]:
    """The JSON file that export.py writes beside a model.

    Raises:
        DataError: it is not there, describes something else, or another file than the one that lies beside it now.
    """
    path = model_path.with_name(model_path.name + ".json")
    if not path.is_file():
        raise DataError(
            f"{path}, the description that export.py writes beside {model_path.name}, cannot be read (it is not there); "
            "keep the two files together"
        )
    about = read_json(path, f"the description of {model_path.name}")
    require_own(model, about, path)
    require_like(about.get("batch_size"), 1, f"{path}: batch_size")
    if about["batch_size"] < 1:
        raise DataError(f"{path}: batch_size is {about['batch_size']}; 1 or more is accepted")
    about.setdefault("class_names", None)
    if not model_path.is_file():
        raise DataError(f"{model_path} is not a file; give a model that export.py wrote")
    if "sha256" in about and about["sha256"] != digest(model_path):
        raise DataError(
            f"{model_path} is not the file that {path.name} was written for: it is damaged, or was changed or replaced; "
            f"export it again, or, where it was changed on purpose, remove sha256 from {path.name}"
        )
    return about


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return _sha256(file).hexdigest()


def _sha256(file: BinaryIO) -> Any:
    result = hashlib.sha256()
    while block := file.read(1 << 20):
        result.update(block)
    return result


def require_own(model: Model, about: Any, source: str | Path) -> None:
    """Raise DataError where what was read does not describe a model of this folder."""
    require_description(about, *_examples(model), source)


@functools.cache
def _examples(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """The network and the input of the default recipe: which members a description has, and of which type."""
    config = model.read_config([], "")
    return model.describe_network(config), model.input_spec(config)


def _load_mindir(path: Path) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
    try:
        network = nn.GraphCell(ms.load(str(path)))
    except (RuntimeError, ValueError, TypeError) as error:
        raise DataError(f"model_file={path} is not a sound MINDIR file: {str(error).splitlines()[0]}") from error
    return _runner(path, lambda images: as_arrays(network(ms.Tensor(images))))


def _runner(path: Path, run: Callable) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
    """A function that runs a model; what it raises where its input is not as described is a DataError."""

    def checked(images: np.ndarray) -> tuple[np.ndarray, ...]:
        try:
            return run(images)
        except Exception as error:  # onnxruntime's exceptions have no common public base
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(f"model_file={path} cannot be run on an input of shape {images.shape}: {text}") from error

    return checked


def _load_onnx(path: Path) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
    try:
        import onnxruntime
    except ImportError as error:
        raise DataError(f"model_file={path}: reading it needs ONNX Runtime; pip install onnxruntime") from error
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common public base
        raise DataError(f"model_file={path} is not a sound ONNX file: {str(error).splitlines()[0]}") from error
    name = session.get_inputs()[0].name
    return _runner(path, lambda images: tuple(session.run(None, {name: images})))
