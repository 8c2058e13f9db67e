"""Exports equal the network on inputs other than the traced one, with and without the decoding of the boxes."""

from __future__ import annotations

import json
from pathlib import Path

import export
from conftest import SMALL, WIDTH, randomize
from src.detect.prediction import load_predictor
from src.model_utils.checkpoint import save
from src.model_utils.errors import DataError, UsageError
from src.model_utils.inference import description, load_model, load_network
from src.recipe import MODEL, read_config
from src.yolo import Detector

import mindspore as ms
import numpy as np
import onnx
import pytest

NAMES = ["one", "two", "three"]
HEIGHT, WIDE = 64, 96


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Random weights of a small network with three classes, made for 96 pixels."""
    options = [*SMALL, "--num_classes", "3", "--testing_shape", "96"]
    about = description(MODEL, read_config(options, "").replace(category_ids=[2, 5, 9]), NAMES)
    network = MODEL.build_network(about["network"])
    randomize(network)
    for block in (network.big, network.medium, network.small):
        values = np.random.RandomState(2).standard_normal(block.output.weight.shape)
        block.output.weight.set_data(ms.Tensor(values, ms.float32))
    # Raw maps of a few units: no sigmoid is 0 or 1, and cells and images differ.
    ms.set_context(mode=ms.PYNATIVE_MODE)
    images = np.random.RandomState(3).standard_normal((1, 3, HEIGHT, WIDE))
    maps = network.set_train(False)(ms.Tensor(images, ms.float32))
    ms.set_context(mode=ms.GRAPH_MODE)
    for block, raw in zip((network.big, network.medium, network.small), maps):
        block.output.weight.set_data(block.output.weight / float(raw.asnumpy().std()))
    path = tmp_path_factory.mktemp("weights") / "weights.ckpt"
    save(path, network.parameters_dict(), about)
    return path


def run_export(checkpoint, target, *options):
    export.main(["--device_target", "CPU", "--ckpt_file", str(checkpoint), "--file_name", str(target), *options])


def outputs_of(checkpoint, images: np.ndarray, decoded: bool) -> list[np.ndarray]:
    """What the network itself computes, operator by operator."""
    network, _ = load_network(MODEL, checkpoint, read_config(["--device_target", "CPU"], ""))
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        outputs = (Detector(network).set_train(False) if decoded else network)(ms.Tensor(images))
        return [output.asnumpy() for output in outputs]
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)


def error(result: np.ndarray, expected: np.ndarray) -> float:
    assert result.shape == expected.shape and result.dtype == np.float32
    return np.abs(result - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    "file_format, decoded, fold_bn, batch_size", [("MINDIR", False, True, 2), ("ONNX", True, False, 1)]
)
def test_equals_the_network(weights, tmp_path, file_format, decoded, fold_bn, batch_size):
    run_export(weights, tmp_path / "m", "--file_format", file_format, "--keep_detect", str(decoded), "--fold_bn",
               str(fold_bn), "--export_batch_size", str(batch_size), "--testing_shape", f"{HEIGHT},{WIDE}")  # fmt: skip
    path = tmp_path / f"m.{file_format.lower()}"
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name, f"{path.name}.json"]
    model, about, fixed = load_model(MODEL, path, read_config(["--device_target", "CPU"], ""))
    assert fixed == batch_size
    fresh = np.random.RandomState(11).standard_normal((batch_size, 3, HEIGHT, WIDE)).astype(np.float32)
    results, expected = model(fresh), outputs_of(weights, fresh, decoded)
    shape = (batch_size, 2, 3, 3, 8) if decoded else (batch_size, 24, 2, 3)
    assert len(results) == 3 and results[0].shape == shape
    for result, reference, other in zip(results, expected, model(-fresh)):
        assert error(result, reference) <= 1e-5
        assert error(other, result) > 1e-2, "the input does not matter"
    if file_format == "ONNX":
        check_graph(path, fold_bn)
    check_description(path, batch_size, decoded)


def check_graph(path: Path, fold_bn: bool) -> None:
    """The graph went through `onnx_graph.simplify`: one LeakyRelu for each of the neck's 20 convolutions."""
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert ("BatchNormalization" in kinds) == (not fold_bn)
    assert kinds.count("LeakyRelu") == 3 * 6 + 2 and "Max" not in kinds


def check_description(path: Path, batch_size: int, decoded: bool) -> None:
    about = json.loads(path.with_name(path.name + ".json").read_text())
    assert about["network"]["num_classes"] == 3 and about["network"]["width_multiplier"] == WIDTH
    assert (about["input"]["height"], about["input"]["width"]) == (HEIGHT, WIDE) and about["input"]["keep_ratio"]
    assert about["input"]["category_ids"] == [2, 5, 9] and about["class_names"] == NAMES
    assert about["batch_size"] == batch_size and about["decoded"] == decoded
    options = ["--device_target", "CPU", "--model_file", str(path)]
    refusal = (UsageError, "--testing_shape 96,96 contradicts") if decoded else (DataError, "--keep_detect False")
    with pytest.raises(refusal[0], match=refusal[1]):
        load_predictor(MODEL, read_config([*options, "--testing_shape", "96"], ""), 1)


def test_refusals(weights, tmp_path):
    cases = (
        (UsageError, "AIR is written on Ascend only", "m", ["--file_format", "AIR"]),
        (UsageError, "batch_size=0", "m", ["--export_batch_size", "0"]),
        (UsageError, "file_format='PB': one of AIR, MINDIR, ONNX", "m", ["--file_format", "PB"]),
        (UsageError, "testing_shape=100: .*multiples of 32", "m", ["--testing_shape", "100"]),
        (UsageError, "--num_classes 4 contradicts", "m", ["--num_classes", "4"]),
        (UsageError, "only ONNX with keep_detect true is quantized", "m", ["--quantize", "int8"]),
        (UsageError, "--calibration_data DIR", "m", ["--quantize", "int8", "--file_format", "ONNX"]),
        (DataError, "cannot be written in", "none/m", []),
        (DataError, "is a folder", "folder.mindir", []),
    )
    (tmp_path / "folder.mindir").mkdir()
    for kind, message, name, options in cases:
        with pytest.raises(kind, match=message):
            run_export(weights, tmp_path / name, *options)
    with pytest.raises(DataError, match="none.ckpt is not a file"):
        run_export(tmp_path / "none.ckpt", tmp_path / "m")
    run_export(weights, tmp_path / "m", "--dry_run", "true")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.mindir"]
