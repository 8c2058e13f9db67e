"""DarkNet53: 52 convolutions in five stages of residual blocks, a global average and a dense layer.

Paper: Redmon and Farhadi, "YOLOv3: An Incremental Improvement", 2018, table 1. Reference implementations with whose
outputs it agrees: darknet's `cfg/darknet53.cfg` (leaky ReLU slope 0.1, the default here) and timm's `darknet53` (slope
0.01). The checkpoints of the older model zoo have ReLU.
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
from mindspore import nn
from mindspore.common.initializer import Normal, initializer

from .model_utils.layers import ConvBlock

STAGES = (1, 2, 8, 8, 4)  # residual blocks of each stage; the first has 64 channels, each next one twice as many
BRANCH_GAMMA = 0.2  # initial gamma of the last batch norm of each residual branch


class ResidualBlock(nn.Cell):
    """x + conv 3x3 (conv 1x1 to half the channels (x)): shape (N, C, H, W) is kept."""

    def __init__(self, channels: int, activation: str, negative_slope: float, bn_eps: float):
        super().__init__()
        self.conv1 = ConvBlock(channels, channels // 2, 1, 1, activation, negative_slope, bn_eps)
        self.conv2 = ConvBlock(channels // 2, channels, 3, 1, activation, negative_slope, bn_eps)
        # A branch that starts small trains from random weights at higher rates (Goyal et al. 2017, section 5.1, start at 0,
        # where the activation after the batch norm would have half a gradient at best).
        self.conv2.bn.gamma.set_data(initializer(BRANCH_GAMMA, (channels,), ms.float32))

    def construct(self, x):
        return x + self.conv2(self.conv1(x))


class DarkNet53(nn.Cell):
    """(N, 3, H, W) float32 images to (N, num_classes) float32 logits. Arguments: see `darknet53`."""

    def __init__(
        self, num_classes: int, activation: str, negative_slope: float, bn_eps: float, stage_blocks: Sequence[int]
    ):
        super().__init__()
        common = (activation, negative_slope, bn_eps)
        channels = 32
        self.conv0 = ConvBlock(3, channels, 3, 1, *common)
        for stage, blocks in enumerate(stage_blocks, start=1):
            setattr(self, f"conv{stage}", ConvBlock(channels, 2 * channels, 3, 2, *common))
            channels *= 2
            setattr(self, f"layer{stage}", nn.SequentialCell([ResidualBlock(channels, *common) for _ in range(blocks)]))
        self.fc = nn.Dense(channels, num_classes, weight_init=Normal(0.01), bias_init="zeros")

    def construct(self, images):
        x = self.conv0(images)
        x = self.layer1(self.conv1(x))  # (N, 64, H/2, W/2)
        x = self.layer2(self.conv2(x))  # (N, 128, H/4, W/4)
        x = self.layer3(self.conv3(x))  # (N, 256, H/8, W/8)
        x = self.layer4(self.conv4(x))  # (N, 512, H/16, W/16)
        x = self.layer5(self.conv5(x))  # (N, 1024, H/32, W/32)
        return self.fc(x.mean((2, 3))).astype(ms.float32)


def darknet53(
    num_classes: int = 1000,
    activation: str = "leaky_relu",
    negative_slope: float = 0.1,
    bn_eps: float = 1e-5,
    stage_blocks: Sequence[int] = STAGES,
) -> DarkNet53:
    """Build the network.

    Args:
        num_classes: width of the output, 1 or more.
        activation: leaky_relu (darknet, timm), relu (the older model zoo) or mish.
        negative_slope: slope of the leaky ReLU for x < 0, in [0, 1): 0.1 for darknet's weights, 0.01 for timm's.
        bn_eps: added to the batch-norm variance inside the root.
        stage_blocks: residual blocks of each of the five stages, 1 or more; fewer make a smaller network.

    Raises:
        ValueError: num_classes below 1, an activation or a slope that is not known, other stages than five.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes}: 1 or more is accepted")
    if len(stage_blocks) != len(STAGES) or min(stage_blocks) < 1:
        raise ValueError(f"stage_blocks={list(stage_blocks)}: five numbers of 1 or more are accepted")
    return DarkNet53(num_classes, activation, negative_slope, bn_eps, stage_blocks)
