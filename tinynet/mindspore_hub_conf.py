"""Entry point of MindSpore Hub."""

from __future__ import annotations

from src.tinynet import TWISTS, tinynet

from mindspore import nn


def create_network(name: str, *args, **kwargs) -> nn.Cell:
    """The network called `name`, "tinynet_a" to "tinynet_e", or "tinynet" for tinynet_c; the rest goes to its builder.

    Raises:
        NotImplementedError: another name.
    """
    model = "tinynet_c" if name == "tinynet" else name
    if model in TWISTS:
        return tinynet(model, *args, **kwargs)
    raise NotImplementedError(f"{name} is not implemented here; the networks of this folder are {', '.join(TWISTS)}")
