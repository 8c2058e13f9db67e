"""TinyDarkNet: 16 convolutions, four max pools, a global average and no dense layer.

Reference: darknet's `cfg/tiny.cfg` (https://pjreddie.com/darknet/tiny-darknet/), with whose outputs it agrees. The first 15
convolutions carry batch norm and leaky ReLU; the last one (1x1, to the classes) has a bias and nothing else.
"""

from __future__ import annotations

from mindspore import nn
from mindspore.common.initializer import HeNormal, Normal

from .model_utils.layers import leaky_relu, max_pool_2x2

# (kernel size, output channels, max pool after it); the input has 3 channels.
LAYERS = (
    (3, 16, True),
    (3, 32, True),
    (1, 16, False),
    (3, 128, False),
    (1, 16, False),
    (3, 128, True),
    (1, 32, False),
    (3, 256, False),
    (1, 32, False),
    (3, 256, True),
    (1, 64, False),
    (3, 512, False),
    (1, 64, False),
    (3, 512, False),
    (1, 128, False),
)


class ConvBlock(nn.Cell):
    """Convolution (stride 1, symmetric padding), batch norm, optional 2x2 max pool, leaky ReLU.

    (N, C, H, W) to (N, out, H, W), or to (N, out, ceil(H/2), ceil(W/2)) with the pool. The pool stands before the
    activation, which costs less and gives the same bits as after it: the leaky ReLU is monotonic.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        has_pool: bool,
        negative_slope: float,
        bn_eps: float,
    ):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, pad_mode="pad", padding=kernel_size // 2, weight_init=HeNormal()
        )
        self.bn = nn.BatchNorm2d(out_channels, eps=bn_eps, momentum=0.9)  # keeps 0.9 of the old statistics
        self.pool = max_pool_2x2() if has_pool else None
        self.activation = leaky_relu(negative_slope)

    def construct(self, x):
        x = self.bn(self.conv(x))
        if self.pool is not None:
            x = self.pool(x)
        return self.activation(x)


class Head(nn.Cell):
    """Global average, then 1x1 convolution with a bias: (N, C, H, W) to (N, num_classes).

    darknet averages after the convolution; both are linear, so the order changes the cost only.
    """

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, num_classes, 1, has_bias=True, weight_init=Normal(0.01), bias_init="zeros")

    def construct(self, x):
        return self.conv(x.mean((2, 3), keep_dims=True)).flatten(start_dim=1)


class LegacyHead(ConvBlock):
    """1x1 convolution, batch norm, leaky ReLU, then the global average: what the older model zoo trained."""

    def __init__(self, in_channels: int, num_classes: int, negative_slope: float, bn_eps: float):
        super().__init__(in_channels, num_classes, 1, has_pool=False, negative_slope=negative_slope, bn_eps=bn_eps)

    def construct(self, x):
        return self.activation(self.bn(self.conv(x))).mean((2, 3))


class TinyDarkNet(nn.Cell):
    """(N, 3, H, W) float32 images to (N, num_classes) float32 logits. Arguments: see `tinydarknet`."""

    def __init__(self, num_classes: int, negative_slope: float, bn_eps: float, legacy_head: bool):
        super().__init__()
        channels = 3
        for index, (kernel_size, out_channels, has_pool) in enumerate(LAYERS, start=1):
            block = ConvBlock(channels, out_channels, kernel_size, has_pool, negative_slope, bn_eps)
            setattr(self, f"conv{index}", block)
            channels = out_channels
        if legacy_head:
            self.conv16 = LegacyHead(channels, num_classes, negative_slope, bn_eps)
        else:
            self.conv16 = Head(channels, num_classes)
        self.layers = tuple(getattr(self, f"conv{index}") for index in range(1, len(LAYERS) + 2))

    def construct(self, images):
        x = images
        for layer in self.layers:
            x = layer(x)
        return x


def tinydarknet(
    num_classes: int = 1000, negative_slope: float = 0.1, bn_eps: float = 1e-5, legacy_head: bool = False
) -> TinyDarkNet:
    """Build the network.

    Args:
        num_classes: width of the output, 1 or more.
        negative_slope: slope of the leaky ReLU for x < 0.
        bn_eps: added to the batch-norm variance inside the root.
        legacy_head: batch norm and leaky ReLU after the last convolution, and no bias: what checkpoints of the older
            model zoo hold.

    Raises:
        ValueError: num_classes below 1.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes}: 1 or more is accepted")
    return TinyDarkNet(num_classes, negative_slope, bn_eps, legacy_head)
