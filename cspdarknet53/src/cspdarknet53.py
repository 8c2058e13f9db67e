"""CSPDarkNet53: DarkNet53 whose stages send half of their channels past the residual blocks, and a dense layer.

Paper: Wang et al., "CSPNet: A New Backbone that can Enhance Learning Capability of CNN", CVPR Workshops 2020, section 3.
Reference implementations with whose outputs it agrees: darknet's `cfg/csdarknet53-omega.cfg` (Mish, the default here)
and timm's `cspdarknet53` (leaky ReLU slope 0.01).
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
from mindspore import nn, ops
from mindspore.common.initializer import Normal, initializer

from .model_utils.layers import ConvBlock

STAGES = (1, 2, 8, 8, 4)  # residual blocks of each stage; the first has 64 channels, each next one twice as many
BRANCH_GAMMA = 0.2  # initial gamma of the last batch norm of each residual branch


class ResidualBlock(nn.Cell):
    """x + conv 3x3 (conv 1x1 to `hidden` channels (x)): shape (N, C, H, W) is kept."""

    def __init__(self, channels: int, hidden: int, activation: str, negative_slope: float, bn_eps: float):
        super().__init__()
        self.conv1 = ConvBlock(channels, hidden, 1, 1, activation, negative_slope, bn_eps)
        self.conv2 = ConvBlock(hidden, channels, 3, 1, activation, negative_slope, bn_eps)
        # A branch that starts small trains from random weights at higher rates (Goyal et al. 2017, section 5.1, start at 0,
        # where the activation after the batch norm would have half a gradient at best).
        self.conv2.bn.gamma.set_data(initializer(BRANCH_GAMMA, (channels,), ms.float32))

    def construct(self, x):
        return x + self.conv2(self.conv1(x))


class CSPStage(nn.Cell):
    """Halve the sides; residual blocks on one part of the channels; merge with the other part.

    (N, in, H, W) to (N, out, ceil(H/2), ceil(W/2)). The first stage gives both parts all channels, as the references do.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        blocks: int,
        is_first: bool,
        activation: str,
        negative_slope: float,
        bn_eps: float,
    ):
        super().__init__()
        common = (activation, negative_slope, bn_eps)
        part = out_channels if is_first else out_channels // 2
        hidden = part // 2 if is_first else part
        self.down = ConvBlock(in_channels, out_channels, 3, 2, *common)
        self.shortcut = ConvBlock(out_channels, part, 1, 1, *common)
        self.main = ConvBlock(out_channels, part, 1, 1, *common)
        self.blocks = nn.SequentialCell([ResidualBlock(part, hidden, *common) for _ in range(blocks)])
        self.main_end = ConvBlock(part, part, 1, 1, *common)
        self.merge = ConvBlock(2 * part, out_channels, 1, 1, *common)

    def construct(self, x):
        x = self.down(x)
        main = self.main_end(self.blocks(self.main(x)))
        return self.merge(ops.cat((main, self.shortcut(x)), 1))  # (N, 2 part, H/2, W/2) before the merge


class CSPDarkNet53(nn.Cell):
    """(N, 3, H, W) float32 images to (N, num_classes) float32 logits. Arguments: see `cspdarknet53`."""

    def __init__(
        self, num_classes: int, activation: str, negative_slope: float, bn_eps: float, stage_blocks: Sequence[int]
    ):
        super().__init__()
        common = (activation, negative_slope, bn_eps)
        channels = 32
        self.stem = ConvBlock(3, channels, 3, 1, *common)
        stages = []
        for index, blocks in enumerate(stage_blocks):
            stages.append(CSPStage(channels, 2 * channels, blocks, index == 0, *common))
            channels *= 2
        self.stages = nn.SequentialCell(stages)
        self.fc = nn.Dense(channels, num_classes, weight_init=Normal(0.01), bias_init="zeros")

    def construct(self, images):
        x = self.stages(self.stem(images))  # (N, 1024, H/32, W/32)
        return self.fc(x.mean((2, 3))).astype(ms.float32)


def cspdarknet53(
    num_classes: int = 1000,
    activation: str = "mish",
    negative_slope: float = 0.1,
    bn_eps: float = 1e-5,
    stage_blocks: Sequence[int] = STAGES,
) -> CSPDarkNet53:
    """Build the network.

    Args:
        num_classes: width of the output, 1 or more.
        activation: mish (darknet), leaky_relu (timm) or relu.
        negative_slope: slope of the leaky ReLU for x < 0, in [0, 1); timm's weights need 0.01.
        bn_eps: added to the batch-norm variance inside the root.
        stage_blocks: residual blocks of each of the five stages, 1 or more; fewer make a smaller network.

    Raises:
        ValueError: num_classes below 1, an activation or a slope that is not known, other stages than five.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes}: 1 or more is accepted")
    if len(stage_blocks) != len(STAGES) or min(stage_blocks) < 1:
        raise ValueError(f"stage_blocks={list(stage_blocks)}: five numbers of 1 or more are accepted")
    return CSPDarkNet53(num_classes, activation, negative_slope, bn_eps, stage_blocks)
