"""A recipe with keys of every type, for the tests of the configuration."""

from __future__ import annotations

from pathlib import Path

from model_utils.config import Config, get_config

RECIPE = """\
# A recipe for tests.
# It says nothing of sense.

# Data
dataset_name: imagenet
mean: [0.5, 0, 1]
names: [cat, dog]
anchors: [[10, 13], [16, 30]]

# Training
lr_init: 0.1
weight_decay: 1e-4
epoch_size: 90
use_ema: False
lr_epochs: [30, 60]
optimizer:
    name: momentum
    inner:
        beta: 0.9

# Files
resume: ""
file_name: model
extra:
anything: []
---
lr_init: learning rate, 100 % of it
resume: checkpoint
---
dataset_name: [imagenet, cifar10]
names: [cat, dog, cow]
epoch_size: [1, 10, 90]
"""
ALIASES = {"dataset": "dataset_name", "e": "epoch_size", "ema": "use_ema"}


class SmallRecipe:
    """The recipe in a folder; `read` and `overlay` give configurations."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "imagenet_config.yaml"
        self.path.write_text(RECIPE, encoding="utf-8")

    def read(self, *argv: str, **options) -> Config:
        """With a command line, given as one text or as tokens."""
        tokens = argv[0].split() if len(argv) == 1 else list(argv)
        return get_config(self.path, tokens, recipe_key="dataset_name", aliases=ALIASES, **options)

    def overlay(self, text: str | bytes) -> Config:
        """With another recipe, mine.yaml, over it."""
        path = self.folder / "mine.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return get_config(self.path, ["--config_path", str(path)])
