"""The loss of the classifiers, value and gradient, against float64 arithmetic."""

from __future__ import annotations

import math

from model_utils.classification.loss import smoothed_cross_entropy
from model_utils.errors import UsageError

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor


@pytest.fixture(autouse=True)
def eager_mode():
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=mode)


def exact(logits: np.ndarray, targets: np.ndarray, factor: float) -> tuple[float, np.ndarray]:
    """Loss and gradient by the logits; `targets` are distributions (N, classes) before the smoothing."""
    count, classes = logits.shape
    smoothed = (1 - factor) * targets + (factor / (classes - 1) * (1 - targets) if classes > 1 else 0)
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    log_scores = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    gradient = (np.exp(log_scores) * smoothed.sum(1, keepdims=True) - smoothed) / count
    return -(smoothed * log_scores).sum(1).mean(), gradient


def agree(cell, logits, labels, targets, factor) -> None:
    loss, gradient = ms.value_and_grad(lambda x: cell(x, Tensor(labels)), 0)(Tensor(logits))
    assert loss.shape == () and loss.dtype == ms.float32
    wanted, wanted_gradient = exact(logits, targets, factor)
    assert float(loss.asnumpy()) == pytest.approx(wanted, rel=1e-5)
    np.testing.assert_allclose(gradient.asnumpy(), wanted_gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("classes, factor", [(7, 0.0), (7, 0.1), (7, 6 / 7), (2, 0.5), (1000, 0.1)])
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_class_indices(classes, factor, size):
    random = np.random.default_rng(1)
    logits = (random.normal(size=(6, classes)) * size).astype(np.float32)
    labels = random.integers(0, classes, 6).astype(np.int32)
    agree(smoothed_cross_entropy(classes, factor), logits, labels, np.eye(classes)[labels], factor)


@pytest.mark.parametrize("factor", [0.0, 0.8])
def test_labels_that_are_distributions(factor):
    """As MixUp and CutMix give them: they are smoothed in the same way as one-hot ones."""
    random = np.random.default_rng(2)
    logits = random.normal(size=(6, 5)).astype(np.float32)
    labels = random.dirichlet(np.ones(5), 6).astype(np.float32)
    agree(smoothed_cross_entropy(5, factor), logits, labels, labels.astype(np.float64), factor)


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_one_class_has_no_smoothing(factor):
    logits, labels = np.float32([[2.0], [-3.0]]), np.int32([0, 0])
    agree(smoothed_cross_entropy(1, factor), logits, labels, np.ones((2, 1)), 0.0)


@pytest.mark.parametrize("classes, factor", [(3, 0.67), (10, 1.0), (10, -0.1), (10, math.nan)])
def test_factors_that_cannot_be(classes, factor):
    with pytest.raises(UsageError) as caught:
        smoothed_cross_entropy(classes, factor)
    assert str(caught.value) == f"label_smooth_factor={factor}: 0 to (classes - 1) / classes is accepted"
