"""The loss of YOLOv3: position, size, objectness and classes of all scales, from raw maps and target rows.

Redmon and Farhadi 2018, sections 2.1 and 2.2, in the form of the older model zoo: for each object, on its cell and anchor,

    (2 - w h) [BCE(x) + BCE(y) + ((ln target - output of the width)^2 + (... of the height)^2) / 2] + sum of BCE(classes)

and for every anchor of every cell BCE(objectness), which is left out where no object belongs and the predicted box
overlaps one with an IoU of ignore_threshold or more. The sum is divided by the batch size. Deviations from the old
zoo: centres are exact instead of whole pixels, and the overlap is taken with the objects of all scales, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from .data.targets import FIELDS
from .model_utils.config import Config
from .model_utils.errors import require_range
from .yolo import BOXES, LARGEST_LOG, scales


class BinaryCrossEntropy(nn.Cell):
    """-t ln s - (1 - t) ln(1 - s), s = sigmoid(logit), element by element: the gradient by the logit is s - t everywhere."""

    def construct(self, logits, targets):
        return ops.relu(logits) - logits * targets + ops.log1p(ops.exp(-ops.abs(logits)))

    def bprop(self, logits, targets, _, gradient):
        return gradient * (ops.sigmoid(logits) - targets), ops.zeros_like(targets)


@ops.constexpr
def cell_table(sides: tuple[tuple[int, int], ...], scales: tuple[tuple[tuple, int], ...]) -> Tensor:
    """(10, cells) float32: column, row, columns and rows of the grid, then width and height of the three anchors in 0-1."""
    parts = []
    for (h, w), (pairs, stride) in zip(sides, scales):
        rows, columns = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
        part = np.empty((4 + 2 * BOXES, h * w))
        part[0], part[1], part[2], part[3] = columns.ravel(), rows.ravel(), w, h
        sizes = np.array(pairs) / (np.array([w, h]) * stride)
        part[4:] = sizes.ravel()[:, None]
        parts.append(part)
    return Tensor(np.concatenate(parts, 1).astype(np.float32))


class YoloLoss(nn.Cell):
    """(raw maps, targets) to the loss, a float32 scalar.

    Called with the maps big, medium and small, (B, 3 (5 + C), h, w) each, and the rows of `targets.encode`, (B, M, 7 + C).

    Args:
        scales: of `yolo.scales`, one for each map.
        ignore_threshold: IoU in 0-1.
    """

    def __init__(self, scales: Sequence[tuple[np.ndarray, int]], ignore_threshold: float = 0.7):
        super().__init__()
        self.scales = tuple((tuple(map(tuple, anchors.tolist())), stride) for anchors, stride in scales)
        self.ignore_threshold = ignore_threshold
        self.cross_entropy = BinaryCrossEntropy()

    def construct(self, maps, targets):
        batch, channels = maps[0].shape[0], maps[0].shape[1]
        sides = ()
        flat = ()
        for raw in maps:
            sides += ((raw.shape[2], raw.shape[3]),)
            flat += (raw.reshape((batch, channels, -1)),)
        table = cell_table(sides, self.scales)  # (10, N)
        outputs = ops.cat(flat, 2) if len(flat) > 1 else flat[0]  # (B, 3 (5 + C), N)
        weights = targets[..., 6] * (targets[..., 0] >= 0).astype(ms.float32)  # (B, M)
        anchor = ops.one_hot(targets[..., 1].astype(ms.int32), BOXES)  # (B, M, 3)
        anchor = anchor.transpose((0, 2, 1)).astype(ms.float32)  # (B, 3, M)
        cell = ops.maximum(targets[..., 0], 0.0).astype(ms.int32)  # (B, M)
        objects = self._objects(outputs, table, targets, weights, anchor, cell)
        return (objects + self._objectness(outputs, table, targets, weights, cell)) / batch

    def _objects(self, outputs, table, targets, weights, anchor, cell):
        """Position, size and classes of the objects, summed."""
        batch, channels, _ = outputs.shape
        rows = cell.shape[1]
        index = ops.broadcast_to(cell.reshape((batch, 1, rows)), (batch, channels, rows))
        own = ops.gather_elements(outputs, 2, index).reshape((batch, BOXES, channels // BOXES, rows))
        own = (own * anchor.reshape((batch, BOXES, 1, rows))).sum(1)  # (B, 5 + C, M)
        place = ops.gather(table, cell, 1)  # (10, B, M)
        sizes = place[4:].reshape((BOXES, 2, batch, rows)).transpose((2, 0, 1, 3))  # (B, 3, 2, M)
        sizes = (sizes * anchor.reshape((batch, BOXES, 1, rows))).sum(1)  # (B, 2, M)
        wanted = targets.transpose((0, 2, 1))  # (B, 7 + C, M)
        centres = wanted[:, 2:4] * place[2:4].transpose((1, 0, 2)) - place[0:2].transpose((1, 0, 2))
        logs = ops.log(ops.select(wanted[:, 4:6] > 0, wanted[:, 4:6] / sizes, ops.ones_like(sizes)))
        position = self.cross_entropy(own[:, 0:2], centres).sum(1) + 0.5 * ops.square(logs - own[:, 2:4]).sum(1)
        classes = self.cross_entropy(own[:, 5:], wanted[:, FIELDS:]).sum(1)
        scale = 2.0 - wanted[:, 4] * wanted[:, 5]
        return (weights * (scale * position + classes)).sum()

    def _objectness(self, outputs, table, targets, weights, cell):
        """Cross entropy of all anchors, summed."""
        batch, channels, cells = outputs.shape
        maps = outputs.reshape((batch, BOXES, channels // BOXES, cells))
        # A row without a cell goes to a further place, which is cut off.
        own = ops.select(
            weights > 0, targets[..., 1].astype(ms.int32) * cells + cell, ops.full_like(cell, BOXES * cells)
        )
        share = ops.zeros((batch, BOXES * cells + 1), ms.float32)
        share = ops.tensor_scatter_elements(share, own, weights, 1)[:, : BOXES * cells].reshape((batch, BOXES, cells))
        free = self._overlap(ops.stop_gradient(maps[:, :, 0:4]), table, targets) < self.ignore_threshold
        background = ops.logical_and(share == 0, free).astype(ms.float32)
        has_object = (share > 0).astype(ms.float32)
        return (self.cross_entropy(maps[:, :, 4], has_object) * (share + background)).sum()

    def _overlap(self, maps, table, targets):
        """Largest IoU of each predicted box (B, 3, N) with an object."""
        batch, _, _, cells = maps.shape
        sizes = ops.exp(ops.minimum(maps[:, :, 2:4], LARGEST_LOG)) * table[4:].reshape((1, BOXES, 2, cells))
        centres = (ops.sigmoid(maps[:, :, 0:2]) + table[0:2]) / table[2:4]
        low, high = centres - sizes / 2, centres + sizes / 2  # (B, 3, 2, N)
        area = sizes[:, :, 0] * sizes[:, :, 1]  # (B, 3, N)
        rows = targets.shape[1]
        boxes = targets[..., 2:6].reshape((batch, rows, 4, 1, 1))
        box_low, box_high = boxes[:, :, 0:2] - boxes[:, :, 2:4] / 2, boxes[:, :, 0:2] + boxes[:, :, 2:4] / 2

        def common(axis):
            highest = ops.minimum(high[:, None, :, axis], box_high[:, :, axis])  # (B, M, 3, N)
            return ops.relu(highest - ops.maximum(low[:, None, :, axis], box_low[:, :, axis]))

        both = common(0) * common(1)
        union = area[:, None] + boxes[:, :, 2] * boxes[:, :, 3] - both
        return (both / ops.maximum(union, 1e-12)).max(axis=1)


def create_loss(config: Config) -> YoloLoss:
    """The loss of a recipe; label smoothing is part of the targets."""
    require_range(low=0, high=1, ignore_threshold=config.ignore_threshold)
    return YoloLoss(scales(config.anchor_scales), config.ignore_threshold)
