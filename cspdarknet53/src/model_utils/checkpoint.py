# Shared file: source utils/model_utils/checkpoint.py; copy with: python scripts/sync_model_utils.py --write
"""Checkpoints: written whole or not at all, kept N, resumed from, and loaded with a report of what fitted.

A file holds parameters and the metadata, a JSON text as bytes: {"network": what builds it, "input": what it was trained
for, "class_names", and for a training state "epoch", "step", "steps_per_epoch", "devices", "config"}. The weights of a
training state have the network's plain names, so that evaluation and export read both kinds; the rest (optimizer,
moving average, loss scale) carries a prefix.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from . import checkpoint_format
from .errors import DataError, require_range
from .files import apply_umask, require_text_name
from .logger import get_logger

META = "metadata"
STATE_PREFIX = "train_state."
EMA_PREFIX = STATE_PREFIX + "ema."
OTHER_CONTENTS = {  # by how a file begins
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself (git lfs pull gets it)",
    b"PK\x03\x04": "a zip file or PyTorch's format, as Lightning has it too (convert_checkpoint.py reads it as NAME.pth)",
    b"\x80\x02": "a pickle, PyTorch's old format (convert_checkpoint.py reads it as NAME.pth)",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "a gzip archive (unpack it)",
    b"{": "a JSON text",
}
WEB_PAGE = re.compile(rb"\s*<(!doctype|html|\?xml|head)", re.IGNORECASE)
OTHER_FORMATS = {".onnx": "an ONNX model", ".mindir": "a MINDIR model", ".air": "an AIR model"}
NO_WEIGHTS = re.compile(  # the rest of a training state, here and in checkpoints of MindSpore's own callbacks
    STATE_PREFIX + r".*|(moments?|moment1|moment2|accum|stat|mean_grad|mean_square)\..*|learning_rate.*|beta[12]_power"
    "|(current|last_overflow)_iterator_step|momentum|weight_decay|global_step|epoch_num|step_num|loss_scale|scale_sense"
)


def save(path: str | Path, parameters: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Write a checkpoint to a temporary name, flush it, rename it; an existing file is replaced only then.

    Args:
        path: ends in .ckpt.
        parameters: name to Parameter, Tensor or array.
        metadata: what JSON can hold.

    Raises:
        DataError: the file cannot be written (full disk, no permission); files that existed are untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.ckpt")
    # First, so that a file that is cut short still shows that it should have a checksum.
    rows = [{"name": META, "data": Tensor(np.frombuffer(json.dumps(metadata).encode(), np.uint8))}]
    rows += [{"name": name, "data": _tensor(value)} for name, value in parameters.items()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        ms.save_checkpoint(rows, str(temporary), crc_check=True)
        apply_umask(temporary)
        _flush(temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise DataError(
            f"checkpoint {path} cannot be written: {_reason(error)}; earlier files are untouched"
        ) from error
    finally:
        for leftover in (temporary, temporary.with_suffix(".tmp")):  # the framework writes to the second one
            with contextlib.suppress(OSError):
                leftover.unlink()
    with contextlib.suppress(OSError):  # some file systems cannot flush a folder
        _flush(path.parent)


def load(path: str | Path) -> tuple[dict[str, Parameter], dict[str, Any]]:
    """Parameters and metadata of a checkpoint; the metadata of a foreign file is empty.

    Raises:
        DataError: no such file, a file of another kind, a truncated or damaged file.
    """
    path = Path(path)
    if not path.is_file() or path.suffix != ".ckpt":
        kind = "of another kind" if path.is_file() else "a folder" if path.is_dir() else "not a file"
        raise DataError(f"checkpoint {path} is {OTHER_FORMATS.get(path.suffix, kind)}; give the path of a .ckpt file")
    require_text_name(path, "checkpoint")
    try:
        checkpoint_format.require_sound(path)
        parameters = dict(ms.load_checkpoint(str(path), crc_check=True))
        metadata = _metadata(path, parameters.pop(META)) if META in parameters else {}
    except PermissionError as error:
        raise DataError(f"checkpoint {path} may not be read by this user; change its permissions") from error
    except Exception as error:  # the framework raises whatever its parser met
        raise DataError(
            f"checkpoint {path} ({path.stat().st_size} bytes) is {kind_of(path) or 'truncated or damaged'}: {_reason(error)}; "
            "give another one"
        ) from error
    return parameters, metadata


def kind_of(path: Path) -> str:
    """What else than weights a file is, by how it begins; empty where that is not known."""
    with open(path, "rb") as file:
        head = file.read(256)
    if WEB_PAGE.match(head):
        return "a web page or XML, not the file that it should lead to (get the file itself)"
    return next((kind for start, kind in OTHER_CONTENTS.items() if head.startswith(start)), "")


def require_weights(path: Path, own: str = "") -> None:
    """Check how a file of weights begins, so that its reader need not guess what is wrong.

    Args:
        path: file that exists.
        own: a word of the kinds in OTHER_CONTENTS that its reader takes.

    Raises:
        DataError: it is of another kind, or may not be read.
    """
    try:
        kind = kind_of(path)
    except PermissionError as error:
        raise DataError(f"{path} may not be read by this user; change its permissions") from error
    if kind and not (own and own in kind):
        raise DataError(f"{path} ({path.stat().st_size} bytes) is {kind}, no file of weights; give another one")


def _metadata(path: Path, packed: Parameter) -> dict[str, Any]:
    with open(path, "rb") as file:
        file.seek(-checkpoint_format.CHECKSUM_LENGTH, os.SEEK_END)
        if not checkpoint_format.has_checksum(file.read()):
            raise ValueError("it has no checksum")
    return json.loads(packed.asnumpy().tobytes())


def load_weights(
    network: nn.Cell,
    parameters: Mapping[str, Parameter],
    source: str | Path,
    *,
    allow_partial: bool = False,
    reset_head: Iterable[str] = (),
    use_ema: bool = False,
) -> dict[str, list[str]]:
    """Copy weights into the network and report which names were loaded, missing, unexpected, of another shape or reset.

    Args:
        network: its parameter names are the file's, apart from a common prefix such as `network.`.
        parameters: name to value, as `load` returns them.
        source: where they come from, for messages.
        allow_partial: accept missing weights.
        reset_head: names that keep their initial values, whatever the file has for them.
        use_ema: take the moving average that a training state holds instead of the raw weights.

    Raises:
        DataError: a missing weight or another shape; the message names the option that accepts it.
    """
    wanted = network.parameters_dict()
    weights = _without_common_prefix(_weights(parameters, wanted, source, use_ema), wanted)
    reset_head = set(reset_head)
    report: dict[str, list[str]] = {"loaded": [], "missing": [], "unexpected": [], "wrong_shape": [], "reset": []}
    report["unexpected"] = sorted(name for name in weights if name not in wanted)
    for name, parameter in wanted.items():
        if name in reset_head:
            report["reset"].append(name)
        elif name not in weights:
            report["missing"].append(name)
        elif tuple(weights[name].shape) != tuple(parameter.shape):
            report["wrong_shape"].append(name)
        else:
            report["loaded"].append(name)
    _refuse(report, wanted, weights, source, allow_partial)
    for name in report["loaded"]:
        wanted[name].set_data(_tensor(weights[name]).astype(wanted[name].dtype))
    counts = [f"{len(names)} {kind}" for kind, names in report.items() if names or kind != "reset"]
    get_logger().info("weights of %s: %s", source, ", ".join(counts))
    return report


def _weights(parameters, wanted, source, use_ema) -> dict[str, Any]:
    """The raw or averaged weights among the parameters of a file."""
    weights = {name: value for name, value in parameters.items() if name in wanted or not NO_WEIGHTS.fullmatch(name)}
    averages = {name[len(EMA_PREFIX) :]: value for name, value in parameters.items() if name.startswith(EMA_PREFIX)}
    if use_ema and not averages:
        raise DataError(f"checkpoint {source} holds no moving average; leave --use_ema out")
    return {**weights, **averages} if use_ema else weights


def _refuse(report, wanted, weights, source, allow_partial) -> None:
    wrong = report["wrong_shape"]
    if wrong:
        name = wrong[0]
        raise DataError(
            f"checkpoint {source}: {name} has shape {tuple(weights[name].shape)}, the network {tuple(wanted[name].shape)}"
            f"{f' (and {len(wrong) - 1} more)' if len(wrong) > 1 else ''}; it belongs to another network or class count: "
            "give the matching --num_classes, or start a training from it with --reset_head true"
        )
    if report["missing"] and not (allow_partial and report["loaded"]):
        raise DataError(
            f"checkpoint {source} lacks {len(report['missing'])} of {len(wanted)} weights, the first is "
            f"{report['missing'][0]} (it has {', '.join(list(weights)[:3]) or 'none'} ...); it belongs to another network"
            f"{'' if allow_partial else ', or give --allow_partial_load true'}"
        )


def _without_common_prefix(weights: dict[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Names without the prefix that a training wrapper put before all of them (`network.`, `yolo_network.`)."""
    if any(name in wanted for name in weights):
        return weights
    first = next(iter(wanted))
    for name in weights:
        if name.endswith("." + first):
            prefix = name[: -len(first)]
            return {n[len(prefix) :] if n.startswith(prefix) else n: value for n, value in weights.items()}
    return weights


class CheckpointFolder:
    """The checkpoints `<folder>/<prefix>-<epoch>_<step>.ckpt` of one run, of which the newest `keep` (1 or more) stay.

    The step in a name counts from the start of the epoch, with `counts_all_steps` from the start of the run.
    """

    def __init__(self, folder: str | Path, prefix: str, keep: int, *, counts_all_steps: bool = False):
        require_range(low=1, keep_checkpoint_max=keep)
        self.folder, self.prefix, self.keep = Path(folder), prefix, keep
        self.counts_all_steps = counts_all_steps

    @property
    def best(self) -> Path:
        return self.folder / f"{self.prefix}_best.ckpt"

    @property
    def lock(self) -> Path:
        """What a run holds while it is going on, see `folder_lock`."""
        return self.folder / f".{self.prefix}.lock"

    def files(self) -> list[Path]:
        """Training states, oldest first."""
        pattern = re.compile(re.escape(self.prefix) + r"-\d+_\d+\.ckpt")
        return sorted((path for path in self.folder.glob("*.ckpt") if pattern.fullmatch(path.name)), key=_place)

    def save(self, epoch: int, step: int, parameters: Mapping[str, Any], metadata: Mapping[str, Any]) -> Path:
        """Save the state after `step` steps of `epoch` (counted from 1), then remove older ones over the limit."""
        epoch, shown = self._shown(epoch, step, metadata)
        path = self.folder / f"{self.prefix}-{epoch}_{shown}.ckpt"
        save(path, parameters, {**metadata, "epoch": epoch, "step": step})
        files = self.files()
        leftovers = self.folder.glob(f".{self.prefix}*.tmp.*")  # of processes that were killed while they wrote
        for old in [*files[: max(0, files.index(path) + 1 - self.keep)], *leftovers]:
            old.unlink(missing_ok=True)
        return path

    def start_fresh(self) -> None:
        """Move the checkpoints of an earlier run aside, so that nothing is written over."""
        self._set_aside([*self.files(), self.best], "checkpoints of an earlier run")

    def _shown(self, epoch: int, step: int, metadata: Mapping[str, Any]) -> tuple[int, int]:
        """Epoch and step as a file name has them."""
        return epoch, step + (epoch - 1) * metadata["steps_per_epoch"] if self.counts_all_steps else step

    def set_aside_after(self, metadata: Mapping[str, Any]) -> None:
        """Move the states later than that of this metadata aside: they belong to a run that is not continued."""
        place = self._shown(metadata["epoch"], metadata["step"], metadata)
        self._set_aside([path for path in self.files() if _place(path) > place], "later checkpoints")

    def _set_aside(self, paths: list[Path], what: str) -> None:
        """Into a folder beside the checkpoints, which may share theirs with other files."""
        paths = [path for path in paths if path.exists()]
        if paths:
            aside = _room_for(paths, self.folder / f"earlier_{time.strftime('%Y%m%d-%H%M%S')}")
            for path in paths:
                path.rename(aside / path.name)
            get_logger().info("%d %s moved to %s", len(paths), what, aside)

    def find(self, resume: str) -> tuple[dict[str, Parameter], dict[str, Any], Path] | None:
        """The state to resume from: the named file, or with `auto` the newest sound one (None where there is none).

        Raises:
            DataError: the named file is damaged or holds no training state; with `auto`, all files are damaged.
        """
        if resume != "auto":
            return self._state(Path(resume))
        files = self.files()
        for path in reversed(files):
            try:
                return self._state(path)
            except DataError as error:
                get_logger().warning("%s; the one before it is tried", error)
        if files:
            raise DataError(
                f"none of the {len(files)} checkpoints in {self.folder} can be read; remove them to start anew"
            )
        return None

    @staticmethod
    def _state(path: Path) -> tuple[dict[str, Parameter], dict[str, Any], Path]:
        parameters, metadata = load(path)
        if "epoch" not in metadata:
            raise DataError(
                f"checkpoint {path} holds weights only, no training state; start a new training from it as pretrained weights"
            )
        return parameters, metadata, path


def _room_for(paths: list[Path], folder: Path) -> Path:
    """The folder of this name, or of this name with a number, that has no files of these names; it is made."""
    for number in itertools.count(1):
        place = folder.with_name(f"{folder.name}_{number}") if number > 1 else folder
        if not any((place / path.name).exists() for path in paths):
            break
    place.mkdir(exist_ok=True)
    return place


def _place(path: Path) -> tuple[int, int]:
    """Epoch and step in the name of a training state."""
    epoch, step = path.stem.rpartition("-")[2].split("_")
    return int(epoch), int(step)


def restore(train_step: nn.Cell, parameters: Mapping[str, Parameter], source: str | Path) -> None:
    """Put a training state back into the network, the optimizer, the moving average and the loss scale, all of it.

    Raises:
        DataError: a name or shape of the state differs from what this run needs.
    """
    wanted = train_step.training_state()
    problems = [f"{name} is missing" for name in wanted if name not in parameters]
    problems += [f"{name} is unexpected" for name in parameters if name not in wanted]
    for name in wanted.keys() & parameters.keys():
        here, there = ((tuple(p.shape), p.dtype) for p in (wanted[name], parameters[name]))
        if here != there:
            problems.append(f"{name} has shape {there[0]} of {there[1]}, not {here[0]} of {here[1]}")
    if problems:
        raise DataError(
            f"checkpoint {source} does not fit this run: {problems[0]} (and {len(problems) - 1} more such faults); "
            "resume with the options that the run was started with"
        )
    for name, parameter in wanted.items():
        parameter.set_data(_tensor(parameters[name]))


def _tensor(value: Any) -> Tensor:
    return Tensor(value) if isinstance(value, np.ndarray) else Tensor(value.asnumpy())


def _flush(path: Path) -> None:
    """Force the file (or the folder's entries) to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200].rstrip(". ;")
