"""Quantization to int8: mechanics on a small network with random weights, the report, the converter's configuration."""

from __future__ import annotations

import configparser
import json
import shutil
import sys
from pathlib import Path

import export as program
import infer
from conftest import SMALL
from src.data.coco import read_coco
from src.data.pictures import read_picture
from src.dataset import eval_transform
from src.model_utils import checkpoint
from src.model_utils.errors import DataError, UsageError
from src.model_utils.inference import description, load_model
from src.quantize import calibration, comparison, int8
from src.recipe import MODEL, read_config

import mindspore as ms
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

SIDE, BATCH = 96, 3
NAMES = [f"class {digit}" for digit in range(10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("quantization")


@pytest.fixture(scope="module")
def weights(folder: Path) -> Path:
    """A checkpoint with one block in each layer; its batch norms and output layers are not those of a fresh network."""
    config = read_config([*SMALL, "--num_classes", "10", "--testing_shape", str(SIDE)], "")
    about = description(MODEL, config, NAMES)
    network, random = MODEL.build_network(about["network"]), np.random.default_rng(5)
    values = {}
    for name, parameter in network.parameters_dict().items():
        value = parameter.asnumpy().copy()
        if value.ndim == 4:
            value = random.normal(0, (2 / value[0].size) ** 0.5, value.shape).astype(np.float32)
        elif name.endswith(("gamma", "beta", "moving_mean")):
            value += random.normal(0, 0.2, value.shape).astype(np.float32)
        values[name] = value
    path = folder / "random.ckpt"
    checkpoint.save(path, {name: ms.Tensor(value) for name, value in values.items()}, about)
    return path


def options(weights: Path, name: Path, pictures: Path, *more: str) -> list[str]:
    return ["--ckpt_file", str(weights), "--file_name", str(name), "--file_format", "ONNX", "--device_target", "CPU",
            "--export_batch_size", str(BATCH), "--quantize", "int8", "--calibration_data", str(pictures), *more]  # fmt: skip


@pytest.fixture(scope="module")
def quantized(folder: Path, weights: Path, few_digits: Path) -> Path:
    """The folder of an export with everything: model.onnx and what belongs to it."""
    data = folder / "data"
    shutil.copytree(few_digits, data)
    content = json.loads((data / "annotations" / "instances_val2017.json").read_text(encoding="utf-8"))
    for row, name in zip(sorted(content["categories"], key=lambda category: category["id"]), NAMES):
        row["name"] = name
    (data / "annotations" / "instances_val2017.json").write_text(json.dumps(content), encoding="utf-8")
    (data / "train2017" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    target = folder / "models"
    target.mkdir()
    program.main(options(weights, target / "model", data / "train2017", "--data_dir", str(data)))
    return target


def pictures_of(folder: Path) -> list[np.ndarray]:
    return [read_picture(path) for path in sorted(folder.glob("*.jpg")) if path.name != "broken.jpg"]


# ---- Files -----------------------------------------------------------------------------------------------------------


def test_only_the_documented_files_are_written(quantized):
    assert sorted(path.name for path in quantized.iterdir()) == [
        "model.onnx", "model.onnx.json", "model_calibration", "model_converter.cfg",
        "model_int8.onnx", "model_int8.onnx.json", "model_int8_report.json",
    ]  # fmt: skip
    before, after = (
        json.loads((quantized / f"{name}.onnx.json").read_text(encoding="utf-8")) for name in ("model", "model_int8")
    )
    assert after == {**before, "quantized": "int8"} and before["batch_size"] == BATCH


def test_outputs_of_int8_are_close_to_those_of_float(quantized, folder):
    config = read_config([], "")
    (floats, about, _), (integers, _, _) = (
        load_model(MODEL, quantized / f"{name}.onnx", config) for name in ("model", "model_int8")
    )
    pictures = pictures_of(folder / "data" / "val2017")[:BATCH]
    images = np.stack([eval_transform(picture, about["input"]) for picture in pictures])
    for before, after in zip(floats(images), integers(images)):
        assert before.shape == after.shape and after.dtype == np.float32
        before, after = before[..., 4:], after[..., 4:]  # probabilities: the sides are dominated by the largest ones
        spread = before - before.mean(axis=(0, 1, 2), keepdims=True)  # what depends on the place and the picture
        assert spread.std() > 0.05
        assert np.linalg.norm(after - before) < 0.2 * np.linalg.norm(spread)


def test_weights_are_int8_with_a_scale_for_each_channel_but_for_the_output_layers(quantized):
    graph = onnx.load(str(quantized / "model_int8.onnx")).graph
    producers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    plain = []
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    for node in convolutions:
        source = producers.get(node.input[1])
        if source is None:
            plain.append(node)
            continue
        weight, scale = (constants[name] for name in source.input[:2])
        assert weight.dtype == np.int8 and scale.shape == weight.shape[:1]
        assert 60 < abs(weight.astype(int)).max() <= 64  # 7 bits
    assert len(plain) == 3 and len(convolutions) == 50
    assert all(constants[node.input[1]].shape[0] == 3 * (5 + 10) for node in plain)
    sums = {node.output[0] for node in graph.node if node.op_type == "Add"}
    assert sums and all(constants.get(name, np.zeros(())).dtype.kind == "f" for name in sums)
    behind = [node.input[0] for node in graph.node if node.op_type in ("Sigmoid", "Exp", "Min")]
    assert len(behind) == 12 and all(producers[name].op_type != "DequantizeLinear" for name in behind)


def test_infer_runs_the_quantized_model(quantized, folder, tmp_path):
    infer.main(["--model_file", str(quantized / "model_int8.onnx"), "--input", str(folder / "data" / "val2017"),
                "--output_dir", str(tmp_path / "out"), "--score_threshold", "0.01", "--device_target", "CPU"])  # fmt: skip
    found = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))
    assert len({row["image_id"] for row in found}) == 10


# ---- Report ----------------------------------------------------------------------------------------------------------


def test_report(quantized):
    report = json.loads((quantized / "model_int8_report.json").read_text(encoding="utf-8"))
    for name, file in (("float32", "model.onnx"), ("int8", "model_int8.onnx")):
        assert report[name]["file"] == file
        assert report[name]["bytes"] == (quantized / file).stat().st_size
        assert report[name]["latency_ms"] > 0
        assert 0 <= report[name]["mean_average_precision"] <= report[name]["AP50"] <= 1
    assert report["int8"]["bytes"] < 0.45 * report["float32"]["bytes"]
    assert report["AP50_loss"] == pytest.approx(report["float32"]["AP50"] - report["int8"]["AP50"], abs=2e-6)
    assert report["latency"]["batch_size"] == BATCH and report["latency"]["calls"] >= 20
    assert report["calibration"]["pictures"] == 16
    assert report["evaluation"].endswith("instances_val2017.json")


class Finder:
    """Stands for a model: it knows the boxes of each picture, and moves them by a share of their widths."""

    def __init__(self, coco, spec: dict, order: list[int], shift: float):
        self.sides, self.order, self.shift, self.calls = (spec["height"], spec["width"]), order, shift, 0
        self.known = {
            eval_transform(read_picture(path), spec).tobytes(): (size, boxes, classes)
            for path, size, boxes, classes in zip(coco.paths, coco.sizes, coco.boxes, coco.classes)
        }

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        assert images.shape == (BATCH, 3, *self.sides)
        self.calls += 1
        maps = [np.zeros((BATCH, side, side, 3, 15), np.float32) for side in (3, 6, 12)]
        for number, image in enumerate(images):
            (height, width), boxes, classes = self.known.get(image.tobytes(), ((1, 1), [], []))
            for place, (box, index) in enumerate(zip(boxes, classes)):
                wide, high = box[2] - box[0], box[3] - box[1]
                cell = maps[2][number, place // 12, place % 12, 1]
                x, y = (box[0] + wide / 2 + self.shift * wide) / width, (box[1] + high / 2) / height
                cell[:5] = x, y, wide / width, high / height, 0.9
                cell[5 + self.order[index]] = 0.9
        return tuple(maps)


def test_average_precision_before_and_after(folder, quantized, monkeypatch):
    """Objects that are found by 20 % beside their places count for AP50 and not for all of AP; so the loss is known."""
    about = json.loads((quantized / "model.onnx.json").read_text(encoding="utf-8"))
    about["class_names"] = NAMES[::-1]  # matched by their names
    data = folder / "data"
    coco = read_coco(data / "val2017", data / "annotations" / "instances_val2017.json", check_images=False)
    order = list(range(10))[::-1]
    config = read_config(["--data_dir", str(data), "--device_target", "CPU"], "")

    def compare(shift: float) -> dict:
        models = {"model.onnx": Finder(coco, about["input"], order, 0.0)}
        models["model_int8.onnx"] = Finder(coco, about["input"], order, shift)
        monkeypatch.setattr(comparison, "load_model", lambda model, path, config: (models[path.name], about, BATCH))
        images = np.zeros((BATCH, 3, SIDE, SIDE), np.float32)
        report = comparison.compare(quantized / "model.onnx", quantized / "model_int8.onnx", images, config)
        calls = -(-len(coco.paths) // BATCH) + comparison.WARM_UP + comparison.CALLS
        assert [model.calls for model in models.values()] == [calls, calls]
        return report

    report = compare(0.2)
    assert report["float32"]["mean_average_precision"] > 0.99 and report["AP50_loss"] < 0.01
    assert 0.1 < report["int8"]["mean_average_precision"] < 0.7
    report = compare(0.5)
    assert report["AP50_loss"] > 0.9
    lines = []
    monkeypatch.setattr(comparison.get_logger(), "info", lambda text, *values: lines.append(text % values))
    comparison.log_table(report)
    assert [line.split()[0] for line in lines] == ["float32", "size,", "latency,", "AP", "AP50", "latency:", "notice:"]


def test_latency_is_a_median_of_calls_in_turn():
    order = []
    milliseconds = list(comparison.latencies([lambda _: order.append(0), lambda _: order.append(1)], np.zeros(1)))
    assert len(milliseconds) == 2 and order == [0, 1] * (comparison.CALLS + comparison.WARM_UP)


# ---- Calibration and the converter's configuration ---------------------------------------------------------------------


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
    assert onnx.load(str(quantized / "model.onnx")).graph.input[0].name == "images"


def test_calibration_files_hold_what_the_network_is_fed(quantized, folder):
    about = json.loads((quantized / "model.onnx.json").read_text(encoding="utf-8"))
    pictures = pictures_of(folder / "data" / "train2017")
    expected = [eval_transform(picture, about["input"]) for picture in pictures]
    files = sorted((quantized / "model_calibration").glob("*.bin"))
    found = np.concatenate([np.fromfile(file, "<f4").reshape(-1, 3, SIDE, SIDE) for file in files])
    np.testing.assert_array_equal(found, expected + expected[:2])  # 16 pictures fill six batches of three


def test_calibration_of_fewer_pictures_than_a_batch(quantized, folder, tmp_path):
    about = {**json.loads((quantized / "model.onnx.json").read_text(encoding="utf-8")), "batch_size": 5}
    files = sorted((folder / "data" / "val2017").glob("*.jpg"))[:2]
    written, count = calibration.write_batches(files, about, tmp_path / "few")
    first, second = (eval_transform(read_picture(file), about["input"]) for file in files)
    assert len(written) == 1 and count == 2
    np.testing.assert_array_equal(calibration.read_batch(written[0], about), [first, second, first, second, first])


def test_pictures_are_spread_over_the_folder(tmp_path):
    for number in range(250):
        (tmp_path / f"{number:03d}.jpg").touch()
    names = [file.stem for file in calibration.find_calibration_pictures(str(tmp_path))]
    assert len(names) == len(set(names)) == 100 and names[0] == "000" and names[-1] == "249"


# ---- Errors ------------------------------------------------------------------------------------------------------------


def refused(kind: type, match: str, argv: list[str], target: Path) -> str:
    """The message of an export that ends before anything is written."""
    with pytest.raises(kind, match=match) as caught:
        program.main(argv)
    assert not list(target.iterdir())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_usage_errors(weights, few_digits, tmp_path):
    pictures, name = few_digits / "train2017", tmp_path / "m"
    refused(UsageError, "only ONNX", options(weights, name, pictures, "--file_format", "MINDIR"), tmp_path)
    refused(UsageError, "only ONNX", options(weights, name, pictures, "--keep_detect", "false"), tmp_path)
    refused(UsageError, "folds batch norm", options(weights, name, pictures, "--fold_bn", "false"), tmp_path)
    refused(UsageError, "needs --calibration_data", options(weights, name, ""), tmp_path)


def test_calibration_data_that_cannot_be_used_ends_before_the_export(weights, tmp_path):
    empty, target = tmp_path / "empty", tmp_path / "target"
    empty.mkdir()
    target.mkdir()
    for place, problem in ((tmp_path / "none", "is not a folder"), (empty, "holds no picture")):
        message = refused(DataError, problem, options(weights, target / "m", place), target)
        assert message.startswith(f"calibration_data={place} ")


def test_missing_evaluation_data_ends_before_the_export(weights, few_digits, tmp_path):
    (tmp_path / "target").mkdir()
    argv = options(weights, tmp_path / "target" / "m", few_digits / "train2017", "--data_dir", str(tmp_path / "none"))
    with pytest.raises(DataError, match="none"):
        program.main(argv)
    assert not list((tmp_path / "target").iterdir())


def test_missing_onnxruntime(weights, few_digits, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    refused(DataError, "pip install onnxruntime", options(weights, tmp_path / "m", few_digits / "train2017"), tmp_path)


def test_foreign_files_in_the_place_of_the_calibration_data(weights, few_digits, tmp_path):
    (tmp_path / "m_calibration").mkdir()
    (tmp_path / "m_calibration" / "mine.txt").touch()
    with pytest.raises(DataError, match="move it away"):
        program.main(options(weights, tmp_path / "m", few_digits / "train2017"))
    assert [path.name for path in tmp_path.rglob("*")] == ["m_calibration", "mine.txt"]


@pytest.fixture
def float_model(quantized, tmp_path) -> Path:
    """A copy of the float model in a folder of its own."""
    for name in ("model.onnx", "model.onnx.json"):
        shutil.copy(quantized / name, tmp_path / name)
    return tmp_path / "model.onnx"


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_is_left_behind_where_no_picture_is_sound(float_model, tmp_path_factory):
    pictures = tmp_path_factory.mktemp("damaged")
    (pictures / "a.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match="none of the 1 calibration pictures can be read"):
        int8.quantize(float_model, read_config(["--calibration_data", str(pictures)], ""))
    assert contents(float_model.parent) == ["model.onnx", "model.onnx.json"]


def test_nothing_is_left_behind_where_the_quantizer_or_the_disk_fails(float_model, few_digits, monkeypatch):
    config = read_config(["--calibration_data", str(few_digits / "train2017")], "")
    for error, match in ((RuntimeError("no such kernel\nmore"), "cannot be quantized: no such kernel$"),
                         (OSError(28, "No space left on device"), "No space left")):  # fmt: skip

        def fail(*_, problem=error, **__):
            raise problem

        monkeypatch.setattr(int8.import_quantizer(), "quantize_static", fail)
        with pytest.raises(DataError, match=match):
            int8.quantize(float_model, config)
        assert contents(float_model.parent) == ["model.onnx", "model.onnx.json"]


def test_without_evaluation_data_the_report_says_so_and_a_second_run_replaces_the_first(
    float_model, few_digits, monkeypatch
):
    def run(pictures: Path) -> dict:
        return int8.quantize(float_model, read_config(["--calibration_data", str(pictures)], ""))

    monkeypatch.setattr(int8, "quantize_file", lambda path, target, _: shutil.copy(path, target))
    run(few_digits / "train2017")
    assert len(list((float_model.parent / "model_calibration").iterdir())) == 6
    report = run(few_digits / "val2017")
    assert len(list((float_model.parent / "model_calibration").iterdir())) == 4  # ten pictures, not sixteen
    assert report["evaluation"].startswith("not evaluated: give --data_dir")
    assert "AP50" not in report["int8"] and "AP50_loss" not in report
    assert len(contents(float_model.parent)) == 7
