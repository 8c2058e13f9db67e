"""YOLOv3 with a Res2Net50 backbone: neck, output layers, and the decoding of the raw maps into boxes.

Paper: Redmon and Farhadi, "YOLOv3: An Incremental Improvement", 2018, sections 2.1 to 2.3. The three scales are named big,
medium and small after the objects that they find: strides 32, 16 and 8, anchors 6-8, 3-5 and 0-2.
Deviation: the objectness starts at a probability of 1 % (Lin et al., "Focal Loss for Dense Object Detection", ICCV
2017, section 3.3), so that the loss of the background does not swamp the first steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import HeNormal, Normal

from .model_utils.layers import leaky_relu
from .res2net import BLOCKS, Res2Net, scaled

STRIDES = (32, 16, 8)  # of big, medium and small
BOXES = 3  # anchors of a cell
ANCHORS = (
    (10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326)
)  # width, height in pixels of the network's input  # fmt: skip
OBJECT_PRIOR = 0.01
LARGEST_LOG = 20.0  # of a side over its anchor: a box of any picture is smaller, and exp stays finite


def scales(anchors: Sequence[Sequence[float]]) -> list[tuple[np.ndarray, int]]:
    """Anchors, (3, 2) float64 widths and heights in pixels, and stride of big, medium and small."""
    groups = np.array(anchors, np.float64).reshape((len(STRIDES), BOXES, 2))
    return list(zip(groups[::-1], STRIDES))


class ConvBlock(nn.Cell):
    """Convolution, batch norm, leaky ReLU 0.1: (N, C, H, W) to (N, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size,
            pad_mode="pad", padding=kernel_size // 2, weight_init=HeNormal(),
        )  # fmt: skip
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-5, momentum=0.9)  # keeps 0.9 of the old statistics
        self.activation = leaky_relu(0.1)

    def construct(self, x):
        return self.activation(self.bn(self.conv(x)))


class YoloBlock(nn.Cell):
    """(N, in, h, w) to the route (N, c, h, w) for the next scale, and the raw map (N, outputs, h, w)."""

    def __init__(self, in_channels: int, channels: int, outputs: int):
        super().__init__()
        convs, before = [], in_channels
        for index in range(5):
            out, kernel_size = (channels, 1) if index % 2 == 0 else (2 * channels, 3)
            convs.append(ConvBlock(before, out, kernel_size))
            before = out
        self.route = nn.SequentialCell(convs)
        self.last = ConvBlock(channels, 2 * channels, 3)
        bias = np.zeros((BOXES, outputs // BOXES), np.float32)
        bias[:, 4] = -math.log((1 - OBJECT_PRIOR) / OBJECT_PRIOR)
        self.output = nn.Conv2d(
            2 * channels, outputs, 1, has_bias=True, weight_init=Normal(0.01), bias_init=Tensor(bias.ravel())
        )

    def construct(self, x):
        route = self.route(x)
        return route, self.output(self.last(route)).astype(ms.float32)


class Upsample(nn.Cell):
    """Each value four times: (N, C, h, w) to (N, C, 2h, 2w)."""

    def construct(self, x):
        n, c, h, w = x.shape
        return ops.broadcast_to(x.reshape((n, c, h, 1, w, 1)), (n, c, h, 2, w, 2)).reshape((n, c, 2 * h, 2 * w))


class YOLOv3(nn.Cell):
    """(N, 3, H, W) float32 images to the raw maps big, medium and small, float32 (N, 3 (5 + classes), H/s, W/s).

    The channels of a map are, for each of its three anchors, x, y, width, height, objectness and classes; H and W are
    multiples of 32. Arguments: see `yolov3_res2net50`.
    """

    def __init__(
        self,
        num_classes: int,
        anchors: Sequence[Sequence[float]],
        shortcut: str,
        width: float,
        stage_blocks: Sequence[int],
    ):
        super().__init__()
        self.num_classes, self.anchors = num_classes, [list(pair) for pair in anchors]
        outputs = BOXES * (5 + num_classes)
        self.backbone = Res2Net(shortcut, width, stage_blocks)
        c3, c4, c5 = self.backbone.out_channels
        big, medium, small = (scaled(channels, width) for channels in (1024, 512, 256))
        self.big = YoloBlock(c5, big, outputs)
        self.to_medium = ConvBlock(big, medium, 1)
        self.medium = YoloBlock(medium + c4, medium, outputs)
        self.to_small = ConvBlock(medium, small, 1)
        self.small = YoloBlock(small + c3, small, outputs)
        self.upsample = Upsample()

    def construct(self, images):
        c3, c4, c5 = self.backbone(images)
        route, big = self.big(c5)
        route, medium = self.medium(ops.cat((self.upsample(self.to_medium(route)), c4), 1))
        _, small = self.small(ops.cat((self.upsample(self.to_small(route)), c3), 1))
        return big, medium, small


class Decode(nn.Cell):
    """A raw map (N, 3 (5 + C), h, w) to boxes and probabilities (N, h, w, 3, 5 + C), all but width and height in 0-1.

    The last axis is x and y of the centre, width, height (fractions of the input's width and height), objectness,
    classes. Redmon and Farhadi 2018, section 2.1.

    Args:
        anchors: (3, 2) widths and heights in pixels of the input.
        stride: pixels of the input for a cell.
    """

    def __init__(self, anchors: np.ndarray, stride: int):
        super().__init__()
        self.anchors = Tensor((anchors / stride).astype(np.float32).reshape((1, 1, 1, BOXES, 2)))  # in cells
        self.sigmoid = nn.Sigmoid()

    def construct(self, raw):
        n, channels, h, w = raw.shape
        maps = raw.reshape((n, BOXES, channels // BOXES, h, w)).transpose((0, 3, 4, 1, 2))
        grid = cell_grid(h, w)  # (1, h, w, 1, 2)
        sides = Tensor([w, h], ms.float32)
        centres = (self.sigmoid(maps[..., :2]) + grid) / sides
        sizes = ops.exp(ops.minimum(maps[..., 2:4], LARGEST_LOG)) * self.anchors / sides
        return ops.cat((centres, sizes, self.sigmoid(maps[..., 4:])), -1)


@ops.constexpr
def cell_grid(h: int, w: int) -> Tensor:
    """Column and row of each cell, (1, h, w, 1, 2) float32."""
    rows, columns = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
    return Tensor(np.stack([columns, rows], -1).astype(np.float32).reshape((1, h, w, 1, 2)))


class Detector(nn.Cell):
    """The network with its decoding: (N, 3, H, W) images to three maps (N, H/s, W/s, 3, 5 + classes); see `Decode`."""

    def __init__(self, network: YOLOv3):
        super().__init__(auto_prefix=False)
        self.network = network
        self.decoders = nn.CellList([Decode(pairs, stride) for pairs, stride in scales(network.anchors)])

    def construct(self, images):
        big, medium, small = self.network(images)
        return self.decoders[0](big), self.decoders[1](medium), self.decoders[2](small)


def yolov3_res2net50(
    num_classes: int = 80,
    anchors: Sequence[Sequence[float]] = ANCHORS,
    shortcut: str = "avg_pool",
    width: float = 1.0,
    stage_blocks: Sequence[int] = BLOCKS,
) -> YOLOv3:
    """Build the network that gives raw maps; `Detector(network)` decodes them.

    Args:
        num_classes: 1 or more.
        anchors: nine pairs of width and height in pixels of the input, from small to large.
        shortcut: of the backbone, avg_pool (timm) or max_pool (the older model zoo).
        width: factor of the channels of backbone and neck, above 0.
        stage_blocks: blocks of each of the backbone's four layers; fewer make a smaller network.

    Raises:
        ValueError: an argument out of its range.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes}: 1 or more is accepted")
    if len(anchors) != 3 * BOXES or any(len(pair) != 2 or min(pair) <= 0 for pair in anchors):
        raise ValueError(f"anchors={list(anchors)}: nine pairs of width and height above 0 are accepted")
    return YOLOv3(num_classes, anchors, shortcut, width, stage_blocks)
