"""Entry point of MindSpore Hub."""

from __future__ import annotations

from src.tinydarknet import tinydarknet

from mindspore import nn


def create_network(name: str, *args, **kwargs) -> nn.Cell:
    """The network called `name` ("tinydarknet"); further arguments are those of its builder.

    Raises:
        NotImplementedError: another name.
    """
    if name == "tinydarknet":
        return tinydarknet(*args, **kwargs)
    raise NotImplementedError(f"{name} is not implemented here; the network of this folder is tinydarknet")
