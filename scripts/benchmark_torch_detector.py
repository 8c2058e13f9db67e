"""PyTorch's side of benchmark.py for the detector: YOLOv3 with Res2Net50, its decoding and its loss in eager mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmark_worker import OBJECTS

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

STRIDES = (32, 16, 8)  # of the maps big, medium and small
BLOCKS, CHANNELS = (3, 4, 6, 3), (256, 512, 1024, 2048)  # of the four layers of the backbone
LARGEST_LOG = 20.0  # of a side over its anchor
Maps = tuple[torch.Tensor, ...]  # big, medium, small, (N, 3 (5 + C), H/s, W/s)


def conv_norm(in_channels: int, channels: int, kernel_size: int = 1, stride: int = 1) -> nn.Module:
    """Convolution and batch norm."""
    conv = nn.Conv2d(in_channels, channels, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


def conv_block(in_channels: int, channels: int, kernel_size: int) -> nn.Module:
    """Convolution, batch norm, leaky ReLU 0.1."""
    return nn.Sequential(conv_norm(in_channels, channels, kernel_size), nn.LeakyReLU(0.1, inplace=True))


class Bottle2neck(nn.Module):
    """timm's block of res2net50d."""

    def __init__(self, in_channels: int, channels: int, stride: int, is_first: bool):
        super().__init__()
        self.part, self.is_first = channels // 4 * 26 // 64, is_first
        self.conv1 = conv_norm(in_channels, 4 * self.part)
        self.branches = nn.ModuleList([conv_norm(self.part, self.part, 3, stride) for _ in range(3)])
        self.conv3 = conv_norm(4 * self.part, channels)
        if is_first:
            self.pool = nn.AvgPool2d(3, stride, 1)
            halve = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
            self.shortcut = nn.Sequential(halve, conv_norm(in_channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = torch.split(F.relu(self.conv1(x)), self.part, 1)
        results: list[torch.Tensor] = []
        for branch, part in zip(self.branches, parts):
            part = part if self.is_first or not results else part + results[-1]
            results.append(F.relu(branch(part)))
        results.append(self.pool(parts[3]) if self.is_first else parts[3])
        return F.relu(self.conv3(torch.cat(results, 1)) + (self.shortcut(x) if self.is_first else x))


class YoloBlock(nn.Module):
    """(N, in, h, w) to the route (N, c, h, w) and the raw map (N, outputs, h, w)."""

    def __init__(self, in_channels: int, channels: int, outputs: int):
        super().__init__()
        layers = []
        for index in range(5):
            wide = index % 2
            layers.append(conv_block(in_channels, channels * (1 + wide), 1 + 2 * wide))
            in_channels = channels * (1 + wide)
        self.route = nn.Sequential(*layers)
        self.output = nn.Sequential(conv_block(channels, 2 * channels, 3), nn.Conv2d(2 * channels, outputs, 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        route = self.route(x)
        return route, self.output(route)


class YOLOv3(nn.Module):
    """(N, 3, H, W) images to the raw maps."""

    def __init__(self, num_classes: int):
        super().__init__()
        stem, channels = [], 3
        for index, width in enumerate((32, 32, 64)):
            stem += [conv_norm(channels, width, 3, 1 if index else 2), nn.ReLU(inplace=True)]
            channels = width
        self.stem = nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1))
        self.layers = nn.ModuleList()
        for index, (blocks, width) in enumerate(zip(BLOCKS, CHANNELS)):
            first = Bottle2neck(channels, width, 2 if index else 1, True)
            self.layers.append(nn.Sequential(first, *(Bottle2neck(width, width, 1, False) for _ in range(blocks - 1))))
            channels = width
        outputs = 3 * (5 + num_classes)
        self.big, self.to_medium = YoloBlock(2048, 1024, outputs), conv_block(1024, 512, 1)
        self.medium, self.to_small = YoloBlock(512 + 1024, 512, outputs), conv_block(512, 256, 1)
        self.small = YoloBlock(256 + 512, 256, outputs)

    def forward(self, images: torch.Tensor) -> Maps:
        c3 = self.layers[1](self.layers[0](self.stem(images)))
        c4 = self.layers[2](c3)
        route, big = self.big(self.layers[3](c4))
        route, medium = self.medium(torch.cat((F.interpolate(self.to_medium(route), scale_factor=2), c4), 1))
        _, small = self.small(torch.cat((F.interpolate(self.to_small(route), scale_factor=2), c3), 1))
        return big, medium, small


def yolov3_res2net50(num_classes: int = 80) -> nn.Module:
    """The network of the folder yolov3_res2net50."""
    return YOLOv3(num_classes)


def by_scale(anchors: Sequence[Sequence[float]]) -> torch.Tensor:
    """Nine anchors, from small to large, to those of big, medium and small: (3, 3, 2) pixels."""
    return torch.tensor(anchors, dtype=torch.float32).view(3, 3, 2).flip(0)


def cell_grid(h: int, w: int) -> torch.Tensor:
    """Column and row of each cell, (h, w, 2)."""
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return torch.stack((columns, rows), -1).float()


class Detector(nn.Module):
    """The network with its decoding: three maps (N, H/s, W/s, 3, 5 + C) of boxes in 0-1, objectness, classes."""

    def __init__(self, network: nn.Module, anchors: Sequence[Sequence[float]]):
        super().__init__()
        self.network, self.anchors = network, by_scale(anchors)

    def forward(self, images: torch.Tensor) -> Maps:
        maps = zip(self.network(images), self.anchors, STRIDES)
        return tuple(self._decode(raw, anchors / stride) for raw, anchors, stride in maps)

    @staticmethod
    def _decode(raw: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        n, channels, h, w = raw.shape
        maps = raw.view(n, 3, channels // 3, h, w).permute(0, 3, 4, 1, 2)
        sides = torch.tensor([w, h], dtype=torch.float32)
        centres = (maps[..., :2].sigmoid() + cell_grid(h, w).view(1, h, w, 1, 2)) / sides
        sizes = maps[..., 2:4].clamp(max=LARGEST_LOG).exp() * anchors / sides
        return torch.cat((centres, sizes, maps[..., 4:].sigmoid()), -1)


class YoloLoss(nn.Module):
    """The loss of src/loss.py: (raw maps, target rows (B, M, 7 + C)) to a scalar.

    Args:
        anchors: nine, from small to large, in pixels of the input.
        ignore_threshold: IoU in 0-1.
    """

    def __init__(self, anchors: Sequence[Sequence[float]], ignore_threshold: float):
        super().__init__()
        self.anchors, self.ignore_threshold = by_scale(anchors), ignore_threshold

    def forward(self, maps: Maps, rows: torch.Tensor) -> torch.Tensor:
        grid, sides, anchors = self._cells(maps)
        outputs = torch.cat([raw.flatten(2) for raw in maps], 2)
        outputs = outputs.unflatten(1, (3, -1)).transpose(2, 3)  # (B, 3, N, 5 + C)
        image, row = torch.nonzero(rows[..., 0] >= 0, as_tuple=True)
        wanted = rows[image, row]  # (K, 7 + C)
        anchor, cell = wanted[:, 1].long(), wanted[:, 0].long()
        share = torch.zeros(outputs.shape[:3])
        share[image, anchor, cell] = wanted[:, 6]
        with torch.no_grad():
            centres = (outputs[..., :2].sigmoid() + grid) / sides
            sizes = outputs[..., 2:4].clamp(max=LARGEST_LOG).exp() * anchors
            background = (share == 0) & (overlap(centres, sizes, rows) < self.ignore_threshold)
        objectness = cross_entropy(outputs[..., 4], (share > 0).float()) * (share + background)
        objects = object_loss(outputs[image, anchor, cell], wanted, grid[cell], sides[cell], anchors[anchor, cell])
        return (objects + objectness.sum()) / len(rows)

    def _cells(self, maps: Maps) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of the N cells: column and row (N, 2), columns and rows of their grid (N, 2), anchors in 0-1 (3, N, 2)."""
        grid, sides, anchors = [], [], []
        for raw, pairs, stride in zip(maps, self.anchors, STRIDES):
            h, w = raw.shape[2:]
            grid.append(cell_grid(h, w).view(-1, 2))
            sides.append(torch.tensor([w, h], dtype=torch.float32).expand(h * w, 2))
            anchors.append((pairs / stride)[:, None] / sides[-1])
        return torch.cat(grid), torch.cat(sides), torch.cat(anchors, 1)


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Element by element, of the logits' sigmoid."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def object_loss(
    own: torch.Tensor, wanted: torch.Tensor, grid: torch.Tensor, sides: torch.Tensor, anchors: torch.Tensor
) -> torch.Tensor:
    """Position, size and classes of K objects, summed: outputs (K, 5 + C), rows (K, 7 + C), cells and anchors (K, 2)."""
    logs = torch.log(wanted[:, 4:6] / anchors)
    position = cross_entropy(own[:, :2], wanted[:, 2:4] * sides - grid).sum(1)
    position = position + 0.5 * (logs - own[:, 2:4]).square().sum(1)
    classes = cross_entropy(own[:, 5:], wanted[:, 7:]).sum(1)
    return (wanted[:, 6] * ((2 - wanted[:, 4] * wanted[:, 5]) * position + classes)).sum()


def overlap(centres: torch.Tensor, sizes: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Largest IoU of each predicted box, (B, 3, N, 2) centres and sizes, with one of its image's rows: (B, 3, N)."""
    boxes = rows[:, :, None, None, 2:6]  # (B, M, 1, 1, 4)
    centres, sizes = centres[:, None], sizes[:, None]
    low = torch.maximum(centres - sizes / 2, boxes[..., :2] - boxes[..., 2:] / 2)
    high = torch.minimum(centres + sizes / 2, boxes[..., :2] + boxes[..., 2:] / 2)
    both = (high - low).clamp(min=0).prod(-1)  # (B, M, 3, N)
    union = sizes.prod(-1) + boxes[..., 2:].prod(-1) - both
    return (both / union.clamp(min=1e-12)).amax(1)


def loss_and_rows(spec: dict[str, Any]) -> tuple[nn.Module, torch.Tensor]:
    """The loss, and fixed target rows of a batch."""
    recipe = spec["recipe"]
    rows = random_rows(spec["batch_size"], spec["image_size"], recipe["num_classes"], recipe["max_box"])
    return YoloLoss(recipe["anchor_scales"], recipe["ignore_threshold"]), rows


def random_rows(batch: int, side: int, num_classes: int, max_box: int) -> torch.Tensor:
    """Fixed target rows (B, max_box, 7 + C) of OBJECTS random boxes an image, for inputs of `side` pixels.

    The project's are made by src/data/targets.py, which needs MindSpore. These have the same form, not the same values:
    anchor and scale are drawn instead of chosen by the size of the box.
    """
    random = np.random.RandomState(0)
    rows = np.zeros((batch, max_box, 7 + num_classes), np.float32)
    rows[..., 0] = -1
    grids = side // np.array(STRIDES)
    before = np.concatenate([[0], np.cumsum(grids**2)])
    for image in rows[:, :OBJECTS]:
        count = len(image)
        scales, centres = random.randint(3, size=count), random.uniform(0, 1, (count, 2))
        places = (centres * grids[scales, None]).astype(int)
        image[:, 0] = before[scales] + places[:, 1] * grids[scales] + places[:, 0]
        image[:, 1] = random.randint(3, size=count)
        image[:, 2:4], image[:, 4:6], image[:, 6] = centres, random.uniform(0.05, 0.5, (count, 2)), 1
        image[np.arange(count), 7 + random.randint(num_classes, size=count)] = 1
    return torch.from_numpy(rows)
