# Shared file: source utils/model_utils/model.py; copy with: python scripts/sync_model_utils.py --write
"""The contract between the zoo and a model: all that the shared code asks about the model of a folder.

`src/recipe.py` of each folder fills it in as MODEL, and its programs hand MODEL to the functions of this package. A sixth
model is a folder with a network, a data set, a recipe file, and these members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable, Protocol

import mindspore.dataset as ds
from mindspore import nn

from .checkpoint import CheckpointFolder
from .config import Config
from .device_adapter import Device


class ReadConfig(Protocol):
    """How a program reads its configuration."""

    def __call__(self, argv: list[str] | None, description: str, shown: Sequence[str] | None = None) -> Config:
        """The configuration from the folder's recipe files and the command line, see `config.get_config`."""


class CreateDataset(Protocol):
    """How a pipeline is made."""

    def __call__(
        self,
        config: Config,
        split: str,
        device: Device,
        class_names: list[str],
        *,
        epoch: int = 1,
        skip_steps: int = 0,
        reshuffled: bool = False,
    ) -> ds.Dataset:
        """The batches of this rank.

        Args:
            config: recipe.
            split: "train" or "val".
            device: rank and size.
            class_names: names in the order of the class indices.
            epoch: training epoch, from 1: order and augmentation follow from it, the seed and the rank.
            skip_steps: batches of the epoch that were already trained on.
            reshuffled: the pipeline serves several epochs (data-sink mode).
        """


@dataclass(frozen=True)
class Lines:
    """Documented log lines of a model beyond those that all have, as templates of `str.format`; empty: none."""

    epoch: str = ""
    """At the end of each training epoch; fields: see `progress.Progress`."""

    step: str = ""
    """At each point of the curves; fields: see `progress.Progress`."""

    result: str = ""
    """Of postprocess.py, of a classifier; fields total (images), top_1 and top_5 (shares, 0-1)."""


@dataclass(frozen=True)
class Model:
    """A model as the zoo sees it; only `head_layout` and `lines` have defaults."""

    name: str
    """The network's name: written into its checkpoints and exports, whose name must be this one."""

    read_config: ReadConfig
    """Reads the configuration of a program."""

    describe_network: Callable[[Config], dict[str, Any]]
    """The description of the recipe's network, plain JSON values; "name" and "num_classes" are among them. It is stored
    with the weights, and `build_network` needs nothing else."""

    build_network: Callable[[dict[str, Any]], nn.Cell]
    """The network of a description, with random weights; it maps (N, 3, H, W) float32 to its outputs."""

    is_head: Callable[[str], bool]
    """Whether the parameter of this name belongs to the head, whose shape follows from the number of classes."""

    input_spec: Callable[[Config], dict[str, Any]]
    """What the network is fed in evaluation, plain JSON values: "height" and "width" in pixels, "mean" and "std" on the
    scale 0-1, and what else the preprocessing needs. It is stored with the weights."""

    find_classes: Callable[[Config, str, Device], list[str]]
    """Checks the data of a split, "train" or "val", and returns its class names in the order of their indices; raises
    DataError with what was expected and what was found."""

    count_images: Callable[[Config, str], int]
    """Images of a split over all ranks, those that its pipeline gives."""

    create_dataset: CreateDataset
    """The pipeline of a split; training batches are what loss and network take."""

    validate: Callable[[Config, nn.Cell, Device, list[str]], dict[str, float]]
    """Measures {name: value} of a network in evaluation mode over the validation data, the same on all ranks."""

    metric: str
    """Which of these measures decides about the best checkpoint; higher is better."""

    checkpoint_folder: Callable[[Config, Device], CheckpointFolder]
    """Where this rank reads training states, and writes them if `saves_checkpoints`."""

    saves_checkpoints: Callable[[Config, Device], bool]
    """Whether this rank writes training states."""

    head_layout: tuple[int, int] = (1, 0)
    """How the rows (axis 0) of the head's parameters are classes: in so many equal groups, of which each begins with so
    many rows that belong to no class. A classifier's are its classes, (1, 0)."""

    lines: Lines = Lines()
    """Documented log lines of this model beyond those that all have."""
