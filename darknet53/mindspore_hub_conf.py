"""Entry point of MindSpore Hub."""

from __future__ import annotations

from src.darknet53 import darknet53

from mindspore import nn


def create_network(name: str, *args, **kwargs) -> nn.Cell:
    """The network called `name` ("darknet53"); further arguments are those of its builder.

    Raises:
        NotImplementedError: another name.
    """
    if name == "darknet53":
        return darknet53(*args, **kwargs)
    raise NotImplementedError(f"{name} is not implemented here; the network of this folder is darknet53")
