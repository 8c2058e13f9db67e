"""A model before and after its quantization: size, time of a call, average precision."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Callable

import mindspore as ms
import numpy as np

from ..data.coco import data_paths, read_split
from ..dataset import create_dataset
from ..detect.coco_eval import evaluate_results
from ..detect.evaluation import METRIC, evaluate, match_outputs
from ..model_utils.config import Config
from ..model_utils.device_adapter import Device
from ..model_utils.inference import load_model, with_input
from ..model_utils.logger import get_logger
from ..recipe import MODEL

CALLS, WARM_UP = 30, 3  # timed calls of each model, calls before them
LARGEST_LOSS = 0.03  # of AP50; more is worth a notice
NOT_EVALUATED = "not evaluated: give --data_dir, or --img_path and --annFile, for the AP before and after"


def compare(before: Path, after: Path, images: np.ndarray, config: Config) -> dict[str, Any]:
    """Size, time and, where evaluation data is given, AP of a model before and after.

    Args:
        before: float model.
        after: int8 model.
        images: input of a call, (batch_size, 3, height, width) float32.
        config: recipe.
    """
    (floats, about, batch_size), (integers, _, _) = load_model(MODEL, before, config), load_model(MODEL, after, config)
    models = {"float32": floats, "int8": integers}
    report: dict[str, Any] = {}
    for (name, model), file, milliseconds in zip(models.items(), (before, after), latencies(models.values(), images)):
        report[name] = {"file": file.name, "bytes": file.stat().st_size, "latency_ms": round(milliseconds, 3)}
        scores = average_precision(model, about, config) if evaluation_data(config) else {}
        report[name].update({key: round(value, 6) for key, value in scores.items()})
    report["latency"] = {"calls": CALLS, "batch_size": batch_size, "cores": _cores(), "runtime": "onnxruntime, CPU"}
    if "AP50" in report["int8"]:
        report["AP50_loss"] = round(report["float32"]["AP50"] - report["int8"]["AP50"], 6)
        report["evaluation"] = str(evaluation_data(config)[1])
    else:
        report["evaluation"] = NOT_EVALUATED
    return report


def latencies(models: Iterable[Callable], images: np.ndarray) -> Iterator[float]:
    """Median milliseconds of a call of each model; they are called in turn, so that a busy machine slows down all."""
    models = list(models)
    times: list[list[float]] = [[] for _ in models]
    for number in range(WARM_UP + CALLS):
        for model, own in zip(models, times):
            start = time.perf_counter()
            model(images)
            own += [1000 * (time.perf_counter() - start)] if number >= WARM_UP else []
    return map(statistics.median, times)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def average_precision(model: Callable, about: dict[str, Any], config: Config) -> dict[str, float]:
    """AP and AP50 of an exported model, by the evaluation of eval.py, each image once."""
    spec, device = about["input"], Device("CPU", 0)
    config = with_input(config, about).replace(
        test_img_shape=[spec["height"], spec["width"]], testing_shape="", per_batch_size=about["batch_size"]
    )
    coco = read_split(config, "val")
    source, ids = coco.annotations.source, {"ids": coco.category_ids, "output_ids": spec.get("category_ids") or []}
    outputs = match_outputs(coco.class_names, about["class_names"], config.num_classes, source, **ids)
    dataset = create_dataset(config, "val", device, coco.class_names)

    def network(batch: ms.Tensor) -> tuple[ms.Tensor, ...]:
        return tuple(ms.Tensor(output) for output in model(batch.asnumpy()))

    results = evaluate(network, dataset, coco, spec, config, device, outputs)
    metrics = evaluate_results(coco.annotations, results).metrics()
    return {key: metrics[key] for key in (METRIC, "AP50")}


def evaluation_data(config: Config) -> tuple[Path, Path] | None:
    """Folder of the images and annotation file, where they are given."""
    return data_paths(config, "val") if config.data_dir or config.img_path else None


def log_table(report: dict[str, Any]) -> None:
    """The report of `compare` as a table."""
    logger = get_logger()
    rows = {"bytes": "size, bytes", "latency_ms": "latency, ms", METRIC: "AP", "AP50": "AP50"}
    logger.info("%-12s%14s%14s", "", "float32", "int8")
    for key, title in rows.items():
        if key in report["int8"]:
            values = (report[name][key] for name in ("float32", "int8"))
            texts = [f"{value:14d}" if isinstance(value, int) else f"{value:14.4f}" for value in values]
            logger.info("%-12s%s%s", title, *texts)
    facts = report["latency"]
    logger.info(
        "latency: median of %d calls of %d image(s), %d cores", facts["calls"], facts["batch_size"], facts["cores"]
    )
    if "AP50_loss" not in report:
        logger.info("AP %s", NOT_EVALUATED)
    elif report["AP50_loss"] > LARGEST_LOSS:
        advice = "calibrate with pictures like those that the model will see, some hundred of them"
        logger.info("notice: the loss of AP50, %.4f, is above %s; %s", report["AP50_loss"], LARGEST_LOSS, advice)
