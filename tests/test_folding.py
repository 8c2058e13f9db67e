"""Folded batch norm computes what the network computes, on random weights and statistics."""

from __future__ import annotations

from model_utils.folding import fold_batch_norm
from model_utils.layers import ConvBlock, portable_operators
from toy.model import ToyNet

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

pytestmark = pytest.mark.usefixtures("programs")
TOLERANCE = 1e-5


class Block(nn.Cell):
    """A convolution with a bias, a stride, a dilation and groups, batch norm, activation."""

    def __init__(self, channels: int = 4, **options):
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 3, 2, "pad", 1, **{"group": 2, "has_bias": True, **options})
        self.bn = nn.BatchNorm2d(6, eps=1e-2)

    def construct(self, x):
        return ms.ops.relu(self.bn(self.conv(x)))


class OtherNames(nn.Cell):
    """Two convolutions in one cell, which says which batch norm follows which; the third norm follows none."""

    norm_of = {"first": "norm1", "second": "norm2"}

    def __init__(self):
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 4, 3, pad_mode="pad", padding=1), nn.BatchNorm2d(4)
        self.second, self.norm2 = nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5)
        self.last = nn.BatchNorm2d(5)

    def construct(self, x):
        return self.last(ms.ops.tanh(self.norm2(self.second(ms.ops.relu(self.norm1(self.first(x)))))))


class Chain(nn.Cell):
    """Cells within cells, and in a list."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.SequentialCell([ConvBlock(4, 4, 3), ConvBlock(4, 6, 1, activation="relu")])
        self.end = Block(6, group=3)

    def construct(self, x):
        return self.end(self.blocks(x))


def with_random_values(network: nn.Cell) -> nn.Cell:
    """In evaluation mode; the same network gets the same values each time; negative gammas are among them."""
    random = np.random.RandomState(3)
    for parameter in network.get_parameters():
        shape, leaf = parameter.shape, parameter.name.rpartition(".")[2]
        value = random.normal(0, (2 / np.prod(shape[1:])) ** 0.5 if len(shape) == 4 else 0.3, shape)
        if leaf in ("moving_variance", "gamma"):
            value = random.uniform(0.5, 1.5, shape) * (random.choice([-1, 1], shape) if leaf == "gamma" else 1)
        parameter.set_data(ms.Tensor(value.astype(np.float32)))
    return network.set_train(False)


def images(*shape: int) -> ms.Tensor:
    return ms.Tensor(np.random.RandomState(5).standard_normal(shape).astype(np.float32))


def portable_toy() -> nn.Cell:
    with portable_operators():
        return ToyNet(7, 4, "leaky_relu")


CONV, NORM = ("weight", "bias"), ("gamma", "beta", "moving_mean", "moving_variance")
NETWORKS = [  # how to make it, the shape of its input, the cells of which these leaves are left
    (Block, (2, 4, 9, 9), {"conv": CONV}),
    (lambda: Block(has_bias=False), (2, 4, 9, 9), {"conv": CONV}),
    (lambda: Block(dilation=2), (2, 4, 12, 12), {"conv": CONV}),
    (OtherNames, (2, 3, 8, 8), {"first": CONV, "second": CONV, "last": NORM}),
    (Chain, (2, 4, 9, 9), {"blocks.0.conv": CONV, "blocks.1.conv": CONV, "end.conv": CONV}),
    (portable_toy, (2, 3, 16, 16), {"stem.conv": CONV, "body.conv": CONV, "fc": CONV}),
]


@pytest.mark.parametrize("make, shape, left", NETWORKS)
def test_equals_the_network(make, shape, left):
    """The convolutions keep the names of their weights; no batch norm is left that follows one; a second time is none."""
    expected = with_random_values(make())(images(*shape)).asnumpy()
    network = with_random_values(make())
    assert fold_batch_norm(network) is network and not network.training
    found = network(images(*shape)).asnumpy()
    assert np.isfinite(expected).all() and np.abs(expected).max() > 0.1
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
    names = {f"{cell}.{leaf}" for cell, leaves in left.items() for leaf in leaves}
    assert {parameter.name for parameter in network.get_parameters()} == names
    norms = sum(isinstance(cell, nn.BatchNorm2d) for _, cell in network.cells_and_names())
    assert norms == list(left.values()).count(NORM)
    np.testing.assert_array_equal(fold_batch_norm(network)(images(*shape)).asnumpy(), found)


def test_half_precision_stays():
    network = with_random_values(Block())
    network.conv.weight.set_dtype(ms.float16)
    folded = fold_batch_norm(network)
    assert folded.conv.weight.dtype == folded.conv.bias.dtype == ms.float16


def test_training_mode_is_refused():
    network = with_random_values(portable_toy())
    network.body.bn.set_train()
    for trained in (with_random_values(Block()).set_train(), network):
        with pytest.raises(ValueError, match=r"evaluation mode only; call set_train\(False\)"):
            fold_batch_norm(trained)
