"""Exports equal the network, with and without the decoding of the boxes; quantization to int8, its report and its files."""

from __future__ import annotations

import configparser
import hashlib
import json
import shutil
import sys
from pathlib import Path

import export as program
import infer
from conftest import SMALL, WIDTH, randomize
from src.data.pictures import read_picture
from src.dataset import eval_transform
from src.detect.prediction import load_predictor
from src.model_utils.checkpoint import save
from src.model_utils.errors import DataError, UsageError
from src.model_utils.inference import description, load_model, load_network
from src.quantize import calibration, comparison, int8
from src.recipe import MODEL, read_config
from src.yolo import Detector

import mindspore as ms
import numpy as np
import onnx
import pytest
from coco_digits import CLASS_NAMES
from onnx import numpy_helper

HEIGHT, WIDE = 64, 96
SIDE, BATCH = 96, 3  # of the quantized model
IDS = list(range(2, 22, 2))
CPU = ["--device_target", "CPU"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Random weights of a small network with ten classes, made for 96 pixels."""
    options = [*SMALL, "--num_classes", "10", "--testing_shape", str(SIDE)]
    about = description(MODEL, read_config(options, "").replace(category_ids=IDS), list(CLASS_NAMES))
    network = MODEL.build_network(about["network"])
    randomize(network)
    random = np.random.RandomState(2)
    for name, parameter in network.parameters_dict().items():
        if name.endswith("weight"):
            scale = (2 / parameter[0].size) ** 0.5
            parameter.set_data(ms.Tensor(scale * random.standard_normal(parameter.shape), ms.float32))
    # Raw maps of a few units: no sigmoid is 0 or 1, and cells and images differ.
    ms.set_context(mode=ms.PYNATIVE_MODE)
    maps = network.set_train(False)(ms.Tensor(random.standard_normal((1, 3, HEIGHT, WIDE)), ms.float32))
    ms.set_context(mode=ms.GRAPH_MODE)
    for block, raw in zip((network.big, network.medium, network.small), maps):
        block.output.weight.set_data(block.output.weight / float(raw.asnumpy().std()))
    path = tmp_path_factory.mktemp("weights") / "weights.ckpt"
    save(path, network.parameters_dict(), about)
    return path


def run_export(checkpoint, target, *options):
    program.main([*CPU, "--ckpt_file", str(checkpoint), "--file_name", str(target), *options])


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


# ---- Export ----------------------------------------------------------------------------------------------------------


def outputs_of(checkpoint, images: np.ndarray, decoded: bool) -> list[np.ndarray]:
    """What the network itself computes, operator by operator."""
    network, _ = load_network(MODEL, checkpoint, read_config(CPU, ""))
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
    """On an input other than the traced one; the description tells what was exported."""
    run_export(weights, tmp_path / "m", "--file_format", file_format, "--keep_detect", str(decoded), "--fold_bn",
               str(fold_bn), "--export_batch_size", str(batch_size), "--testing_shape", f"{HEIGHT},{WIDE}")  # fmt: skip
    path = tmp_path / f"m.{file_format.lower()}"
    assert names_in(tmp_path) == [path.name, f"{path.name}.json"]
    model, about, fixed = load_model(MODEL, path, read_config(CPU, ""))
    fresh = np.random.RandomState(11).standard_normal((batch_size, 3, HEIGHT, WIDE)).astype(np.float32)
    results, expected = model(fresh), outputs_of(weights, fresh, decoded)
    shape = (batch_size, 2, 3, 3, 15) if decoded else (batch_size, 45, 2, 3)
    assert fixed == batch_size and len(results) == 3 and results[0].shape == shape
    for result, reference, other in zip(results, expected, model(-fresh)):
        assert error(result, reference) <= 1e-5
        assert error(other, result) > 1e-2, "the input does not matter"
    assert about["network"]["num_classes"] == 10 and about["network"]["width_multiplier"] == WIDTH
    assert (about["input"]["height"], about["input"]["width"]) == (HEIGHT, WIDE) and about["input"]["keep_ratio"]
    assert about["input"]["category_ids"] == IDS and about["class_names"] == list(CLASS_NAMES)
    assert about["batch_size"] == batch_size and about["decoded"] == decoded
    kind, message = (UsageError, "--testing_shape 96,96 contradicts") if decoded else (DataError, "--keep_detect False")
    with pytest.raises(kind, match=message):
        load_predictor(MODEL, read_config([*CPU, "--model_file", str(path), "--testing_shape", "96"], ""), 1)
    if file_format == "ONNX":  # the graph went through `onnx_graph.simplify`
        kinds = [node.op_type for node in onnx.load(path).graph.node]
        assert ("BatchNormalization" in kinds) == (not fold_bn)
        assert kinds.count("LeakyRelu") == 3 * 6 + 2 and "Max" not in kinds  # one for each convolution of the neck


# ---- Quantization ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(few_digits, tmp_path_factory) -> Path:
    """16 calibration pictures, and one that is none."""
    folder = tmp_path_factory.mktemp("calibration") / "pictures"
    shutil.copytree(few_digits / "train2017", folder)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    return folder


def quantization(pictures, *more: str) -> list[str]:
    return ["--file_format", "ONNX", "--export_batch_size", str(BATCH), "--quantize", "int8", "--calibration_data",
            str(pictures), *more]  # fmt: skip


@pytest.fixture(scope="module")
def quantized(weights, pictures, few_digits) -> Path:
    """The folder of an export with everything: model.onnx and what belongs to it."""
    target = pictures.parent / "models"
    target.mkdir()
    run_export(weights, target / "model", *quantization(pictures, "--data_dir", str(few_digits)))
    return target


@pytest.fixture
def about(quantized) -> dict:
    return read_json(quantized / "model.onnx.json")


def inputs_of(folder: Path, about: dict) -> list[np.ndarray]:
    """What the network is fed of a folder's pictures."""
    return [
        eval_transform(read_picture(p), about["input"]) for p in sorted(folder.glob("*.jpg")) if "broken" not in p.name
    ]


def test_only_the_documented_files_are_written(quantized, about):
    assert names_in(quantized) == [
        "model.onnx", "model.onnx.json", "model_calibration", "model_converter.cfg",
        "model_int8.onnx", "model_int8.onnx.json", "model_int8_report.json",
    ]  # fmt: skip
    found, model = read_json(quantized / "model_int8.onnx.json"), (quantized / "model_int8.onnx").read_bytes()
    assert found == {**about, "quantized": "int8", "sha256": hashlib.sha256(model).hexdigest()}


def test_outputs_of_int8_are_close_to_those_of_float(quantized, about, few_digits):
    models = [load_model(MODEL, quantized / f"{name}.onnx", read_config([], ""))[0] for name in ("model", "model_int8")]
    images = np.stack(inputs_of(few_digits / "val2017", about)[:BATCH])
    for before, after in zip(*(model(images) for model in models)):
        assert before.shape == after.shape and after.dtype == np.float32
        before, after = before[..., 4:], after[..., 4:]  # probabilities: the sides are dominated by the largest ones
        spread = before - before.mean(axis=(0, 1, 2), keepdims=True)  # what depends on the place and the picture
        assert spread.std() > 0.05
        assert np.linalg.norm(after - before) < 0.3 * np.linalg.norm(spread)


def test_weights_are_int8_with_a_scale_for_each_channel_but_for_the_output_layers(quantized):
    graph = onnx.load(str(quantized / "model_int8.onnx")).graph
    producers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    plain = [node for node in convolutions if node.input[1] not in producers]
    for node in convolutions:
        if node not in plain:
            weight, scale = (constants[name] for name in producers[node.input[1]].input[:2])
            assert weight.dtype == np.int8 and scale.shape == weight.shape[:1]
            assert 60 < abs(weight.astype(int)).max() <= 64  # 7 bits
    assert len(plain) == 3 and len(convolutions) == 50
    assert all(constants[node.input[1]].shape[0] == 3 * (5 + 10) for node in plain)
    behind = [node.input[0] for node in graph.node if node.op_type in ("Sigmoid", "Exp", "Min")]
    assert len(behind) == 12 and all(producers[name].op_type != "DequantizeLinear" for name in behind)
    quantized_values = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    sums = {node.output[0] for node in graph.node if node.op_type == "Add"}
    assert sums and not sums & quantized_values  # their terms would share a scale


def test_infer_finds_the_same_with_every_kind_of_model(weights, quantized, few_digits, tmp_path):
    """A checkpoint and its exports; a quantized model runs."""
    run_export(weights, tmp_path / "m", "--file_format", "MINDIR", "--export_batch_size", "2")
    files = [weights, tmp_path / "m.mindir", quantized / "model.onnx", quantized / "model_int8.onnx"]
    found = []
    for number, file in enumerate(files):
        infer.main(["--model_file", str(file), "--input", str(few_digits / "val2017"), "--score_threshold", "0.1",
                    "--output_dir", str(tmp_path / str(number)), *CPU])  # fmt: skip
        found.append(read_json(tmp_path / str(number) / "predictions.json"))
    expected, *others, of_int8 = found
    assert len(expected) > 100 and len(of_int8) > 50
    for rows in others:
        for key, tolerance in {"image_id": 0, "category_id": 0, "bbox": 0.1, "score": 1e-4}.items():
            np.testing.assert_allclose([row[key] for row in rows], [row[key] for row in expected], atol=tolerance)


def test_report(quantized):
    report = read_json(quantized / "model_int8_report.json")
    for name, file in (("float32", "model.onnx"), ("int8", "model_int8.onnx")):
        assert report[name]["file"] == file and report[name]["bytes"] == (quantized / file).stat().st_size
        assert report[name]["latency_ms"] > 0
        assert 0 <= report[name]["mean_average_precision"] <= report[name]["AP50"] <= 1
    assert report["int8"]["bytes"] < 0.45 * report["float32"]["bytes"]
    assert report["latency"]["batch_size"] == BATCH and report["latency"]["calls"] >= 20
    assert report["calibration"]["pictures"] == 16 and report["evaluation"].endswith("instances_val2017.json")


def test_average_precision_before_and_after(few_digits, quantized, about, monkeypatch):
    """Objects that are found by 20 % beside their places count for AP50 and not for all of AP; so the loss is known."""
    about = {**about, "class_names": list(CLASS_NAMES)[::-1]}  # matched by their names
    truth = read_json(few_digits / "annotations/instances_val2017.json")["annotations"]
    calls, shifts = [], {}

    def model_of(name: str):
        return lambda images: [calls.append(name), np.float32([shifts[name]])][1:]

    def found(network, dataset, coco, spec, config, device, outputs) -> list[dict]:
        assert outputs == list(range(10))[::-1] and spec == about["input"] and config.per_batch_size == BATCH
        shift = float(network(ms.Tensor(np.zeros((BATCH, 3, SIDE, SIDE), np.float32)))[0].asnumpy()[0])
        moved = ((row, *row["bbox"]) for row in truth)
        return [{**row, "score": 0.9, "bbox": [x + shift * w, y, w, h]} for row, x, y, w, h in moved]

    monkeypatch.setattr(comparison, "load_model", lambda model, path, config: (model_of(path.stem), about, BATCH))
    monkeypatch.setattr(comparison, "evaluate", found)

    def compare(shift: float) -> dict:
        shifts.update(model=0.0, model_int8=shift)
        images, config = np.zeros((BATCH, 3, SIDE, SIDE)), read_config(["--data_dir", str(few_digits), *CPU], "")
        return comparison.compare(quantized / "model.onnx", quantized / "model_int8.onnx", images, config)

    report = compare(0.2)
    assert report["float32"]["mean_average_precision"] > 0.99 and report["AP50_loss"] < 0.01
    assert 0.1 < report["int8"]["mean_average_precision"] < 0.7
    timed = comparison.WARM_UP + comparison.CALLS
    assert calls == ["model", "model_int8"] * timed + [
        "model",
        "model_int8",
    ]  # in turn, as a busy machine slows down both
    report = compare(0.5)
    assert report["AP50_loss"] > 0.9
    lines = []
    monkeypatch.setattr(comparison.get_logger(), "info", lambda text, *values: lines.append(text % values))
    comparison.log_table(report)
    assert [line.split()[0] for line in lines] == ["float32", "size,", "latency,", "AP", "AP50", "latency:", "notice:"]


def test_converter_configuration(quantized):
    text = (quantized / "model_converter.cfg").read_text(encoding="utf-8")
    parsed = configparser.ConfigParser()
    parsed.read_string(text)
    assert dict(parsed["common_quant_param"]) == {"quant_type": "FULL_QUANT", "bit_num": "8"}
    data = parsed["data_preprocess_param"]
    assert data["calibrate_path"] == "images:./model_calibration" and data["input_type"] == "BIN"
    assert int(data["calibrate_size"]) == len(list((quantized / "model_calibration").iterdir())) == 6
    assert data["image_to_format"] == "RGB" and data["resize_method"] == "LINEAR"
    np.testing.assert_allclose(json.loads(data["normalize_mean"]), [123.675, 116.28, 103.53], atol=1e-6)
    np.testing.assert_allclose(json.loads(data["normalize_std"]), [58.395, 57.12, 57.375], atol=1e-6)
    assert (int(data["resize_width"]), int(data["resize_height"])) == (SIDE, SIDE)
    assert parsed["full_quant_param"]["target_device"] == "ASCEND"
    assert parsed["ascend_context"]["precision_mode"] == "preferred_fp32"
    command = "converter_lite --fmk=MINDIR --modelFile=model.mindir --outputFile=model_ascend_int8"
    assert command in text and f'--inputShape="images:{BATCH},3,{SIDE},{SIDE}"' in text
    assert "--optimize=ascend_oriented" in text and "--configFile=model_converter.cfg" in text
    assert str(quantized) not in text and "--modelFile=model.onnx" in text


def test_calibration_files_hold_what_the_network_is_fed(quantized, about, pictures, tmp_path):
    expected = inputs_of(pictures, about)
    files = sorted((quantized / "model_calibration").glob("*.bin"))
    found = np.concatenate([np.fromfile(file, "<f4").reshape(-1, 3, SIDE, SIDE) for file in files])
    np.testing.assert_array_equal(found, expected + expected[:2])  # 16 pictures fill six batches of three
    about["batch_size"] = 5  # fewer pictures than a batch
    (file,), count = calibration.write_batches(sorted(pictures.glob("*.jpg"))[:2], about, tmp_path / "few")
    assert count == 2
    np.testing.assert_array_equal(calibration.read_batch(file, about), [*expected[:2], *expected[:2], expected[0]])


def test_pictures_are_spread_over_the_folder(tmp_path):
    for number in range(250):
        (tmp_path / f"{number:03d}.jpg").touch()
    names = [file.stem for file in calibration.find_calibration_pictures(str(tmp_path))]
    assert len(names) == len(set(names)) == 100 and names[0] == "000" and names[-1] == "249"


# ---- Errors ----------------------------------------------------------------------------------------------------------


def test_refusals(weights, pictures, few_digits, tmp_path, monkeypatch):
    """Nothing is written."""
    (tmp_path / "folder.mindir").mkdir()
    (tmp_path / "mine_calibration").mkdir()
    (tmp_path / "mine_calibration" / "mine.txt").touch()
    (empty := tmp_path / "empty").mkdir()
    before, none = names_in(tmp_path), tmp_path / "none"
    cases = (
        (UsageError, "AIR is written on Ascend only", "m", ["--file_format", "AIR"]),
        (UsageError, "batch_size=0", "m", ["--export_batch_size", "0"]),
        (UsageError, "file_format='PB': one of AIR, MINDIR, ONNX", "m", ["--file_format", "PB"]),
        (UsageError, "testing_shape=100: .*multiples of 32", "m", ["--testing_shape", "100"]),
        (UsageError, "--num_classes 4 contradicts", "m", ["--num_classes", "4"]),
        (DataError, "none.ckpt is not a file", "m", ["--ckpt_file", str(tmp_path / "none.ckpt")]),
        (DataError, "cannot be written in", "none/m", []),
        (DataError, "is a folder", "folder.mindir", []),
        (UsageError, "only ONNX with keep_detect true", "m", quantization(pictures, "--file_format", "MINDIR")),
        (UsageError, "only ONNX with keep_detect true", "m", quantization(pictures, "--keep_detect", "false")),
        (UsageError, "folds batch norm", "m", quantization(pictures, "--fold_bn", "false")),
        (UsageError, "needs --calibration_data DIR", "m", quantization("")),
        (DataError, f"calibration_data={none} is not a folder", "m", quantization(none)),
        (DataError, f"calibration_data={empty} holds no picture", "m", quantization(empty)),
        (DataError, f"{none}", "m", quantization(pictures, "--data_dir", str(none))),
        (DataError, "move it away", "mine", quantization(pictures)),
    )
    for kind, message, name, options in cases:
        with pytest.raises(kind, match=message):
            run_export(weights, tmp_path / name, *options)
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    with pytest.raises(DataError, match="pip install onnxruntime"):
        run_export(weights, tmp_path / "m", *quantization(pictures))
    run_export(weights, tmp_path / "m", "--dry_run", "true")
    assert names_in(tmp_path) == before


@pytest.fixture
def float_model(quantized, tmp_path) -> Path:
    """A copy of the float model in a folder of its own."""
    for name in ("model.onnx", "model.onnx.json"):
        shutil.copy(quantized / name, tmp_path / name)
    return tmp_path / "model.onnx"


def quantize(model: Path, pictures: Path) -> dict:
    return int8.quantize(model, read_config(["--calibration_data", str(pictures)], ""))


def test_nothing_is_left_behind_where_something_fails(float_model, pictures, tmp_path_factory, monkeypatch):
    damaged = tmp_path_factory.mktemp("damaged")
    shutil.copy(pictures / "broken.jpg", damaged)
    with pytest.raises(DataError, match="none of the 1 calibration pictures can be read"):
        quantize(float_model, damaged)
    for error, match in ((RuntimeError("no such kernel\nmore"), "cannot be quantized: no such kernel$"),
                         (OSError(28, "No space left on device"), "No space left")):  # fmt: skip

        def fail(*_, problem=error, **__):
            raise problem

        monkeypatch.setattr(int8.import_quantizer(), "quantize_static", fail)
        with pytest.raises(DataError, match=match):
            quantize(float_model, pictures)
    assert names_in(float_model.parent) == ["model.onnx", "model.onnx.json"]


def test_without_evaluation_data_the_report_says_so_and_a_second_run_replaces_the_first(
    float_model, few_digits, monkeypatch
):
    monkeypatch.setattr(int8, "quantize_file", lambda path, target, _: shutil.copy(path, target))
    for split, number in (("train2017", 6), ("val2017", 4)):  # ten pictures, not sixteen
        report = quantize(float_model, few_digits / split)
        assert len(list((float_model.parent / "model_calibration").iterdir())) == number
    assert report["evaluation"].startswith("not evaluated: give --data_dir")
    assert "AP50" not in report["int8"] and "AP50_loss" not in report and len(names_in(float_model.parent)) == 7
