"""Each program's --help lists every key of the recipe that it reads; those that read few list no others."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import eval as evaluation_program
import export
import infer
import postprocess
import train
from conftest import FOLDER, SMALL, small_run
from src.detect import evaluation, prediction
from src.model_utils.checkpoint import save
from src.model_utils.config import Config
from src.model_utils.inference import description
from src.quantize import comparison, int8
from src.recipe import MODEL, read_config

import numpy as np
import pytest
from coco_digits import CLASS_NAMES

sys.path.append(str(FOLDER.parent / "tests"))  # last: it has files of the same names
lent = pytest.importorskip("recorded_keys", reason="the recorder of keys is in the repository")
NETWORK = [*SMALL, "--num_classes", "10", "--testing_shape", "96"]
ALWAYS = {"config_path", "debug"}  # what every program has, and reads before there is a configuration


@pytest.fixture(scope="module")
def about() -> dict:
    return {**description(MODEL, read_config(NETWORK, ""), list(CLASS_NAMES)), "batch_size": 1}


@pytest.fixture(scope="module")
def checkpoints(about, tmp_path_factory) -> list[Path]:
    """Weights with their description, and without one: then network and input are those of the recipe."""
    folder = tmp_path_factory.mktemp("weights")
    parameters = MODEL.build_network(about["network"]).parameters_dict()
    save(folder / "described.ckpt", parameters, about)
    save(folder / "plain.ckpt", parameters, {})
    return [folder / "described.ckpt", folder / "plain.ckpt"]


def outputs(images: np.ndarray) -> list[np.ndarray]:
    """Decoded maps without an object, for images (n, 3, H, W)."""
    n, _, height, width = images.shape
    return [np.zeros((n, height // stride, width // stride, 3, 15), np.float32) for stride in (32, 16, 8)]


def read_keys(main: Callable, *command_lines: list) -> set[str]:
    """The keys that a program reads, without those that every program reads to check them."""
    with lent.recorded_keys(Config) as always:
        read_config([], "")
    with lent.recorded_keys(Config) as keys:
        for argv in command_lines:
            main([str(token) for token in argv])
    return keys - always


def test_training(few_digits, tmp_path):
    line = small_run(few_digits, tmp_path, dry_run=True, eval_interval=1)
    listed = lent.listed_options(train.main)
    assert not read_keys(train.main, line, [*line, "--visualize_batches", 1]) - listed
    assert not listed & {"fold_bn", "quantize", "model_file", "output_dir", "result_path"}


def test_evaluation(few_digits, checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "predict", lambda network, images, batch_size: outputs(images))
    line = ["--data_dir", few_digits, "--device_target", "CPU", "--log_path", tmp_path, *NETWORK, "--pretrained"]
    listed = lent.listed_options(evaluation_program.main)
    assert not read_keys(evaluation_program.main, *([*line, path] for path in checkpoints)) - listed
    assert not listed & {"lr", "momentum", "mosaic", "fold_bn", "model_file", "result_path"}


def test_export(few_digits, about, checkpoints, tmp_path, monkeypatch):
    """Without and with a quantization, whose model is a stand-in."""
    line = ["--device_target", "CPU", "--file_name", tmp_path / "m", *NETWORK, "--dry_run", "true", "--ckpt_file"]
    keys = read_keys(export.main, *([*line, path] for path in checkpoints))
    path = tmp_path / "m.onnx"
    path.touch()
    (tmp_path / "m.onnx.json").write_text(json.dumps(about))
    monkeypatch.setattr(export, "export_checkpoint", lambda *arguments: path)
    monkeypatch.setattr(int8, "quantize_file", lambda path, target, batches: shutil.copy(path, target))
    monkeypatch.setattr(int8, "_input_name", lambda path: "images")
    monkeypatch.setattr(comparison, "load_model", lambda *arguments: (outputs, about, 1))
    keys |= read_keys(export.main, [*line, checkpoints[0], "--quantize", "int8", "--file_format", "ONNX",
                                    "--calibration_data", few_digits / "val2017", "--data_dir", few_digits])  # fmt: skip
    listed = lent.listed_options(export.main)
    assert keys - listed == {"per_batch_size"}  # the report takes that of the model
    assert not listed & {"lr", "momentum", "mosaic", "model_file", "result_path"}


def test_inference(few_digits, about, checkpoints, tmp_path, monkeypatch):
    line = ["--input", few_digits / "val2017", "--device_target", "CPU", "--output_dir", tmp_path / "out", *NETWORK]
    keys = read_keys(infer.main, *([*line, "--model_file", path, "--dry_run", "true"] for path in checkpoints))
    monkeypatch.setattr(prediction, "load_model", lambda *arguments: (outputs, about, None))
    line += ["--testing_shape", "", "--test_img_shape", "96,96"]
    keys |= read_keys(infer.main, [*line, "--model_file", checkpoints[0]])
    listed = lent.listed_options(infer.main)
    assert not keys - listed
    assert listed - keys == ALWAYS | {"anchor_scales"}  # read by all


def test_accuracy_of_result_files(few_digits, tmp_path):
    for picture in (few_digits / "val2017").iterdir():
        for number, values in enumerate(outputs(np.empty((1, 3, 96, 96)))):
            values.tofile(tmp_path / f"{picture.stem}_{number}.bin")
    line = ["--data_dir", few_digits, "--result_path", tmp_path, "--log_path", tmp_path / "out"]
    keys = read_keys(postprocess.main, [*line, "--testing_shape", 96], [*line, "--test_img_shape", "96,96"])
    assert lent.listed_options(postprocess.main) == keys | ALWAYS
