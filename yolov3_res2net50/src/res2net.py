"""Res2Net50 26w x 4s with a deep stem (v1b): the backbone of the detector, and the image classifier that it comes from.

Paper: Gao et al., "Res2Net: A New Multi-scale Backbone Architecture", TPAMI 2021, section 3. Reference implementation
with whose outputs it agrees: timm's `res2net50d` (shortcut avg_pool). With shortcut max_pool it is the variant of the
older model zoo, whose first blocks pool differently as well; convolutions here always pad on all sides.
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
from mindspore import nn, ops
from mindspore.common.initializer import HeNormal, Normal, initializer

from .model_utils.layers import spatial_mean

BLOCKS = (3, 4, 6, 3)  # of each of the four layers
CHANNELS = (256, 512, 1024, 2048)  # outputs of each layer
STEM = (32, 32, 64)
SCALE = 4  # parts of the channels inside a block
SHORTCUTS = ("avg_pool", "max_pool")


def scaled(channels: int, width: float) -> int:
    """Channels of a network `width` times as wide: a multiple of 8, 8 or more."""
    return max(8, int(channels * width / 8 + 0.5) * 8)


class ConvNorm(nn.Cell):
    """Convolution with symmetric padding and batch norm: (N, C, H, W) to (N, out, ceil(H/s), ceil(W/s))."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride,
            pad_mode="pad", padding=kernel_size // 2, weight_init=HeNormal(mode="fan_out"),
        )  # fmt: skip
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-5, momentum=0.9)  # keeps 0.9 of the old statistics

    def construct(self, x):
        return self.bn(self.conv(x))


class Pool3x3(nn.Cell):
    """Pool 3x3 with zeros around the picture: (N, C, H, W) to (N, C, ceil(H/s), ceil(W/s)).

    The average counts the zeros (divisor 9). For the maximum the inputs are 0 or more, so that zeros do not matter.
    """

    def __init__(self, kind: str, stride: int):
        super().__init__()
        pool = {"average": nn.AvgPool2d, "maximum": nn.MaxPool2d}[kind]
        self.pool = pool(kernel_size=3, stride=stride, pad_mode="valid")

    def construct(self, x):
        # On CPU nn.Pad takes ten times as long, and ops.pad never returns from its seventh call where the sides are small.
        n, c, h, w = x.shape
        row, column = ops.zeros((n, c, 1, w), x.dtype), ops.zeros((n, c, h + 2, 1), x.dtype)
        return self.pool(ops.cat((column, ops.cat((row, x, row), 2), column), 3))


class Bottle2neck(nn.Cell):
    """A residual block in which 3x3 convolutions see the sum of a part of the channels and the result before it.

    (N, in, H, W) to (N, out, ceil(H/s), ceil(W/s)). In the first block of a layer the parts are independent, and the last
    part is pooled instead of passed on.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: str, *, is_first: bool):
        super().__init__()
        part = out_channels // 4 * 26 // 64
        self.conv1 = ConvNorm(in_channels, SCALE * part)
        self.branches = nn.CellList([ConvNorm(part, part, 3, stride) for _ in range(SCALE - 1)])
        self.conv3 = ConvNorm(SCALE * part, out_channels)
        # A block starts as its shortcut (Goyal et al. 2017, section 5.1).
        self.conv3.bn.gamma.set_data(initializer("zeros", (out_channels,), ms.float32))
        self.is_first = is_first
        self.parts = ops.Split(1, SCALE)
        if is_first:
            padded_average = shortcut == "avg_pool"
            self.pool = Pool3x3("average", stride) if padded_average else nn.AvgPool2d(3, stride, pad_mode="same")
            self.shortcut = _shortcut(in_channels, out_channels, stride, shortcut)

    def construct(self, x):
        parts = self.parts(ops.relu(self.conv1(x)))
        previous, results = None, ()
        for index in range(SCALE - 1):
            fresh = self.is_first or index == 0
            part = parts[index] if fresh else parts[index] + previous
            previous = ops.relu(self.branches[index](part))
            results += (previous,)
        last = self.pool(parts[SCALE - 1]) if self.is_first else parts[SCALE - 1]
        identity = self.shortcut(x) if self.is_first else x
        return ops.relu(self.conv3(ops.cat((*results, last), 1)) + identity)


def _shortcut(in_channels: int, out_channels: int, stride: int, kind: str) -> nn.Cell:
    """1x1 convolution, where the sides are halved behind a 2x2 pool; an odd side has a half window at its end."""
    conv = ConvNorm(in_channels, out_channels)
    if stride == 1:
        return nn.SequentialCell([nn.Identity(), conv])
    pool = nn.AvgPool2d if kind == "avg_pool" else nn.MaxPool2d
    return nn.SequentialCell([pool(kernel_size=2, stride=2, pad_mode="same"), conv])


class Res2Net(nn.Cell):
    """(N, 3, H, W) images to the features of layer2, layer3 and layer4: (N, C, ceil(H/s), ceil(W/s)), s = 8, 16, 32.

    Args:
        shortcut: avg_pool or max_pool.
        width: factor of all channels, above 0; the outputs have 512, 1024 and 2048 of them at 1.
        stage_blocks: blocks of each of the four layers, 1 or more; fewer make a smaller network.

    Raises:
        ValueError: another shortcut or width, other layers than four.
    """

    def __init__(self, shortcut: str = "avg_pool", width: float = 1.0, stage_blocks: Sequence[int] = BLOCKS):
        super().__init__()
        if shortcut not in SHORTCUTS:
            raise ValueError(f"shortcut={shortcut}: {' and '.join(SHORTCUTS)} are accepted")
        if not 0 < width <= 4:
            raise ValueError(f"width={width}: above 0 and up to 4 is accepted")
        if len(stage_blocks) != len(BLOCKS) or min(stage_blocks) < 1:
            raise ValueError(f"stage_blocks={list(stage_blocks)}: four numbers of 1 or more are accepted")
        channels, stem = 3, []
        for index, out in enumerate(STEM):
            out = scaled(out, width)
            stem += [ConvNorm(channels, out, 3, 2 if index == 0 else 1), nn.ReLU()]
            channels = out
        self.stem = nn.SequentialCell(stem)
        self.pool = Pool3x3("maximum", 2)
        outputs = [scaled(out, width) for out in CHANNELS]
        self.out_channels = outputs[1:]  # of the features
        layers = []
        for index, (blocks, out) in enumerate(zip(stage_blocks, outputs)):
            stride = 1 if index == 0 else 2
            cells = [Bottle2neck(channels, out, stride, shortcut, is_first=True)]
            cells += [Bottle2neck(out, out, 1, shortcut, is_first=False) for _ in range(blocks - 1)]
            layers.append(nn.SequentialCell(cells))
            channels = out
        self.layer1, self.layer2, self.layer3, self.layer4 = layers

    def construct(self, images):
        c3 = self.layer2(self.layer1(self.pool(self.stem(images))))
        c4 = self.layer3(c3)
        return c3, c4, self.layer4(c4)


class Res2NetClassifier(nn.Cell):
    """(N, 3, H, W) float32 images to (N, num_classes) float32 logits."""

    def __init__(self, backbone: Res2Net, num_classes: int):
        super().__init__()
        self.backbone = backbone
        self.mean = spatial_mean()
        self.fc = nn.Dense(backbone.out_channels[-1], num_classes, weight_init=Normal(0.01), bias_init="zeros")

    def construct(self, images):
        features = self.mean(self.backbone(images)[2])
        return self.fc(features.reshape((features.shape[0], -1))).astype(ms.float32)


def res2net50(
    num_classes: int = 1000,
    shortcut: str = "avg_pool",
    width: float = 1.0,
    stage_blocks: Sequence[int] = BLOCKS,
) -> Res2NetClassifier:
    """Build the image classifier whose backbone the detector takes.

    Args:
        num_classes: width of the output, 1 or more.
        shortcut: avg_pool (timm's `res2net50d`) or max_pool (the older model zoo).
        width: factor of all channels.
        stage_blocks: see `Res2Net`.

    Raises:
        ValueError: an argument out of its range.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes}: 1 or more is accepted")
    return Res2NetClassifier(Res2Net(shortcut, width, stage_blocks), num_classes)
