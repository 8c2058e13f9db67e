"""The documented lines about the accuracy after each evaluation while training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .model_utils.logger import get_logger

DOCUMENTED = {"validation_loss": "Validation-Loss", "top_1_accuracy": "Top1-Acc", "top_5_accuracy": "Top5-Acc"}
BEST_LISTED = 10


def documented_metrics(metrics: Mapping[str, float], prefix: str = "") -> dict[str, float]:
    """The metrics of the raw weights, or with the prefix ema_ of the averaged ones, by their documented names."""
    return {name: metrics[prefix + key] for key, name in DOCUMENTED.items()}


def report_accuracies(metrics: Mapping[str, float], epoch: int, metadata: dict[str, Any]) -> None:
    """Print accuracies, best epochs and the ten best ones; epochs count from 0 in these lines.

    Args:
        metrics: of this evaluation.
        epoch: that is complete, from 1.
        metadata: of the training state; its list `accuracies` holds [epoch, raw top-1, averaged top-1 or None] of all
            evaluations.
    """
    logger, has_average = get_logger(), "ema_top_1_accuracy" in metrics
    history = metadata.setdefault("accuracies", [])
    history.append([epoch - 1, metrics["top_1_accuracy"], metrics.get("ema_top_1_accuracy")])
    logger.info("Model Accuracy: %s", documented_metrics(metrics))
    if has_average:
        logger.info("EMA-Model Accuracy: %s", documented_metrics(metrics, "ema_"))
    best = max(history, key=lambda row: row[1])
    logger.info("Best Model Accuracy: %s, at epoch %d", best[1], best[0])
    averaged = sorted((row for row in history if row[2] is not None), key=lambda row: -row[2])
    if averaged:
        logger.info("Best EMA-Model Accuracy: %s, at epoch %d", averaged[0][2], averaged[0][0])
        ten = [f"epoch {row[0]}: {row[2]}" for row in averaged[:BEST_LISTED]]
        logger.info("Top 10 EMA-Model Accuracies: \n%s", "\n".join(ten))
