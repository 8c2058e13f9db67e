"""Entry point of MindSpore Hub."""

from __future__ import annotations

from src.cspdarknet53 import cspdarknet53

from mindspore import nn


def create_network(name: str, *args, **kwargs) -> nn.Cell:
    """The network called `name` ("cspdarknet53"); further arguments are those of its builder.

    Raises:
        NotImplementedError: another name.
    """
    if name == "cspdarknet53":
        return cspdarknet53(*args, **kwargs)
    raise NotImplementedError(f"{name} is not implemented here; the network of this folder is cspdarknet53")
