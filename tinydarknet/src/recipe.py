"""Where the recipes of this folder are, and how its programs read them."""

from __future__ import annotations

from pathlib import Path

from .model_utils.config import Config, get_config

FOLDER = Path(__file__).resolve().parents[1]


def read_config(argv: list[str] | None, description: str) -> Config:
    """The configuration of a program: imagenet_config.yaml, the chosen recipe over it, the command line over both."""
    return get_config(
        FOLDER / "imagenet_config.yaml",
        argv,
        recipe_key="dataset_name",
        aliases={"dataset": "dataset_name"},
        description=description,
    )
