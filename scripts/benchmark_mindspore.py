"""The project's side of benchmark.py: a child process that repeats one step of MindSpore or ONNX Runtime."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from pathlib import Path
from typing import Any

from benchmark_worker import OBJECTS, ROOT, Job, serve

import numpy as np


def images_of(spec: dict[str, Any]) -> np.ndarray:
    """A fixed batch of normalised images, (B, 3, H, W) float32."""
    shape = (spec["batch_size"], 3, spec["image_size"], spec["image_size"])
    return np.random.RandomState(0).standard_normal(shape).astype(np.float32)


def prepare(spec: dict[str, Any]) -> dict[str, Any]:
    """Import the model folder's runtime, which sets the environment, then MindSpore; returns facts."""
    sys.path.insert(0, str(ROOT / spec["folder"]))
    importlib.import_module("src.model_utils")
    if not spec["measures"]:
        os.environ.pop("ONEDNN_MAX_CPU_ISA", None)  # oneDNN reads it at its first operator
    import mindspore as ms
    from mindspore.communication import init

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    ms.set_seed(1)
    if spec.get("task") == "scale":
        ms.device_context.cpu.op_tuning.threads_num(1)
        if spec["processes"] > 1:
            init()
    return {"images": spec["batch_size"], "batch_size": spec["batch_size"], "mindspore": ms.__version__}


def build(spec: dict[str, Any]):
    """The network of the specification, and facts."""
    facts = prepare(spec)
    from src.model_utils.layers import portable_operators

    builder = getattr(importlib.import_module(spec["module"]), spec["builder"])
    with contextlib.nullcontext() if spec["measures"] else portable_operators():
        network = builder(**spec["arguments"])
    facts["parameters"] = sum(parameter.size for parameter in network.trainable_params())
    return network, facts


def target_rows(spec: dict[str, Any]) -> np.ndarray:
    """Fixed targets of OBJECTS random boxes an image, (B, max_box, 7 + C) float32."""
    from src.data.targets import encode

    random, recipe, side = np.random.RandomState(0), spec["recipe"], spec["image_size"]
    rows = []
    for _ in range(spec["batch_size"]):
        centres, sizes = random.uniform(0, side, (OBJECTS, 2)), random.uniform(side / 20, side / 2, (OBJECTS, 2))
        boxes = np.clip(np.hstack([centres - sizes / 2, centres + sizes / 2]), 0, side)
        classes = random.randint(recipe["num_classes"], size=OBJECTS)
        options = {"anchors": recipe["anchor_scales"], "num_classes": recipe["num_classes"]}
        rows.append(encode(boxes, classes, (side, side), max_box=recipe["max_box"], **options))
    return np.stack(rows)


def loss_and_targets(spec: dict[str, Any]):
    """The loss of the specification's task, and fixed targets of a batch."""
    import mindspore as ms
    from mindspore import nn

    recipe = spec["recipe"]
    if spec["is_detector"]:
        from src.loss import YoloLoss
        from src.yolo import scales

        return YoloLoss(scales(recipe["anchor_scales"]), recipe["ignore_threshold"]), ms.Tensor(target_rows(spec))
    labels = ms.Tensor(np.arange(spec["batch_size"]) % recipe["num_classes"], ms.int32)
    return nn.CrossEntropyLoss(label_smoothing=recipe["label_smooth_factor"]), labels


def for_inference(network, spec: dict[str, Any]):
    """The network in evaluation mode, that of a detector with its decoding."""
    if spec["is_detector"]:
        from src.yolo import Detector

        network = Detector(network)
    return network.set_train(False)


def create_optimizer(network, spec: dict[str, Any]):
    """The optimizer of the recipe: momentum SGD, or RMSProp where it says so."""
    from src.model_utils.optimizers import parameter_groups

    import mindspore as ms
    from mindspore import nn

    recipe = spec["recipe"]
    rates = np.full(1 << 16, recipe["lr"] if "opt" in recipe or spec["is_detector"] else 0.1, np.float32)
    groups = parameter_groups(network.trainable_params(), rates, float(recipe["weight_decay"]), lambda name: False, 1.0)
    if recipe.get("opt") == "rmsprop":
        from src.optimizer import rmsprop

        return rmsprop(groups, ms.Tensor(rates), 0.9, recipe["momentum"], recipe["opt_eps"])
    return nn.Momentum(groups, ms.Tensor(rates), recipe["momentum"])


def train(spec: dict[str, Any]) -> Job:
    """The compiled training step of the project."""
    network, facts = build(spec)
    from src.model_utils.train_step import TrainStep

    import mindspore as ms

    optimizer, (loss_fn, targets) = create_optimizer(network, spec), loss_and_targets(spec)
    step = TrainStep(
        network.set_train(), loss_fn, optimizer, loss_scale=spec["recipe"]["loss_scale"], ema_decay=spec["ema_decay"],
        size=spec.get("processes", 1),
    ).set_train()  # fmt: skip
    images = ms.Tensor(images_of(spec))
    return lambda: step(images, targets)[0].asnumpy(), facts


def scale(spec: dict[str, Any]) -> Job:
    """The training step of one process of a group, on a core of its own and in one thread."""
    if hasattr(os, "sched_setaffinity"):
        mine = sorted(os.sched_getaffinity(0))[int(os.environ.get("RANK_ID", "0"))]
        os.sched_setaffinity(0, {mine})  # before the framework counts the cores
    return train(spec)


def infer(spec: dict[str, Any]) -> Job:
    """The network in evaluation mode."""
    network, facts = build(spec)
    import mindspore as ms

    network, images = for_inference(network, spec), ms.Tensor(images_of(spec))

    def step() -> list[np.ndarray]:
        outputs = network(images)
        return [output.asnumpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]

    return step, facts


def export(spec: dict[str, Any]) -> Job:
    """Writes the ONNX file of the network to the path of the specification, as export.py does."""
    network, facts = build({**spec, "measures": False})
    from src.model_utils.folding import fold_batch_norm
    from src.model_utils.onnx_graph import simplify

    import mindspore as ms

    network = for_inference(fold_batch_norm(network.set_train(False)), spec)
    images = ms.Tensor(images_of(spec))

    def write() -> None:
        ms.export(network, images, file_name=spec["path"], file_format="ONNX")
        simplify(Path(spec["path"]))

    return write, facts


def onnx(spec: dict[str, Any]) -> Job:
    """The exported network in ONNX Runtime, as infer.py runs it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec["threads"]
    session = onnxruntime.InferenceSession(spec["path"], options, providers=["CPUExecutionProvider"])
    name, images = session.get_inputs()[0].name, images_of(spec)
    facts = {"images": len(images), "batch_size": len(images), "onnxruntime": onnxruntime.__version__}
    return lambda: session.run(None, {name: images}), facts


def read_input(spec: dict[str, Any]) -> Job:
    """An epoch of the training pipeline; an epoch because a pipeline prepares batches while nobody asks for them."""
    facts = prepare(spec)
    from src.model_utils.device_adapter import Device
    from src.recipe import MODEL

    options = {
        "device_target": "CPU", "train_data_dir": spec["path"], "check_images": "false",
        "batch_size": spec["batch_size"], "image_height": spec["image_size"],
        "image_width": spec["image_size"], "num_parallel_workers": spec["threads"],
    }  # fmt: skip
    config = MODEL.read_config([f"--{key}={value}" for key, value in options.items()], "benchmark")
    device = Device("CPU", 0)
    names = MODEL.find_classes(config, "train", device)

    def epoch() -> None:
        dataset = MODEL.create_dataset(config, "train", device, names)
        for _ in dataset.create_tuple_iterator(num_epochs=1, output_numpy=True):
            pass

    steps = MODEL.create_dataset(config, "train", device, names).get_dataset_size()
    facts["images"] = steps * spec["batch_size"]
    return epoch, facts


JOBS = {"train": train, "scale": scale, "infer": infer, "export": export, "onnx": onnx, "input": read_input}

if __name__ == "__main__":
    serve(lambda spec: JOBS[spec["task"]](spec))
