# Shared file: source utils/model_utils/classification/loss.py; copy with: python scripts/sync_model_utils.py --write
"""The loss of the image classifiers."""

from __future__ import annotations

from mindspore import nn

from ..errors import UsageError


def smoothed_cross_entropy(num_classes: int, label_smooth_factor: float = 0.0) -> nn.Cell:
    """Cell (logits (N, num_classes), labels (N,) int32) to the mean cross entropy, a scalar.

    Smoothing gives 1 - f to the true class and f / (classes - 1) to each other one, as Szegedy et al., "Rethinking the
    Inception Architecture", CVPR 2016, section 7, but for the share of the true class. The framework's own smoothing gives
    e / classes to all classes, so that e = f * classes / (classes - 1). A single class has no smoothing.

    Args:
        num_classes: width of the logits.
        label_smooth_factor: f, from 0 to (classes - 1) / classes; labels that are distributions (N, num_classes) float32
            are smoothed in the same way.

    Raises:
        UsageError: a factor out of its range.
    """
    if not label_smooth_factor or num_classes == 1:
        return nn.CrossEntropyLoss()
    smoothing = label_smooth_factor * num_classes / (num_classes - 1)
    if not 0 <= smoothing <= 1:
        raise UsageError(f"label_smooth_factor={label_smooth_factor}: 0 to (classes - 1) / classes is accepted")
    return nn.CrossEntropyLoss(label_smoothing=smoothing)
