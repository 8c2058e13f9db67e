"""Exports equal the network on inputs other than the traced one; bad targets are refused before the work."""

from __future__ import annotations

import json
import os

import convert_checkpoint
import export
import oracle
from conftest import program
from src.model_utils.config import DataError, UsageError
from src.recipe import read_config

import mindspore as ms
import numpy as np
import pytest
from src.inference import load_model, load_network

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The oracle's darknet weights as a checkpoint."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.weights").write_bytes(oracle.tiny_weights())
    convert_checkpoint.main(["--input", str(folder / "tiny.weights"), "--output", str(folder / "tiny.ckpt")])
    return folder / "tiny.ckpt"


def run_export(checkpoint, target, *options):
    export.main(["--device_target", "CPU", "--checkpoint_path", str(checkpoint), "--file_name", str(target), *options])


@pytest.mark.parametrize("file_format, ending", [("MINDIR", ".mindir"), ("ONNX", ".onnx")])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_equals_darknet_and_the_network(tiny, tmp_path, file_format, ending, batch_size):
    options = [] if batch_size is None else ["--batch_size", str(batch_size)]
    run_export(tiny, tmp_path / "m", "--file_format", file_format, *options)
    config = read_config(["--device_target", "CPU"], "")
    model, about, fixed = load_model(tmp_path / f"m{ending}", config)
    assert fixed == (batch_size or 1) and about["input"]["crop_ratio"] == 1.0
    case = next(case for case in oracle.TINY["cases"] if case["input_shape"] == [1, 3, 224, 224])
    fresh = oracle.model_input((fixed, 3, 224, 224), 11)
    fresh[0] = oracle.model_input(case["input_shape"], oracle.TINY["seed"])[0]
    (result,) = model(fresh)
    network, _ = load_network(tiny, config)
    expected = network(ms.Tensor(fresh)).asnumpy()
    assert result.shape == (fixed, 1000) and result.dtype == np.float32
    assert np.abs(result - expected).max() <= TOLERANCE * np.abs(expected).max()
    darknet = np.array(case["logits"])
    assert np.abs(result[0] - darknet).max() <= 2e-5 * np.abs(darknet).max()
    if fixed > 1:
        assert np.abs(result[1] - result[0]).max() > 0.05 * np.abs(result).max()  # the input matters


def test_default_names(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export.main(["--device_target", "CPU", "--checkpoint_path", str(tiny)])
    export.main(["--device_target", "CPU", "--checkpoint_path", str(tiny), "--file_format=ONNX", "--batch_size=2"])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["tinydarknet.mindir", "tinydarknet.mindir.json", "tinydarknet.onnx", "tinydarknet.onnx.json"]
    assert json.loads((tmp_path / "tinydarknet.mindir.json").read_text())["batch_size"] == 1
    assert json.loads((tmp_path / "tinydarknet.onnx.json").read_text())["batch_size"] == 2


def test_air_off_ascend(tiny, tmp_path):
    with pytest.raises(UsageError, match="AIR is written on Ascend only"):
        run_export(tiny, tmp_path / "m", "--file_format", "AIR")


def test_folder_that_does_not_exist(tiny, tmp_path):
    with pytest.raises(DataError, match="cannot be written"):
        run_export(tiny, tmp_path / "none" / "m")


def test_target_is_a_folder(tiny, tmp_path):
    (tmp_path / "m.mindir").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        run_export(tiny, tmp_path / "m")


def test_failed_export_keeps_the_old_file(tiny, tmp_path, monkeypatch):
    (tmp_path / "m.mindir").write_text("old")

    def fail(*_args, file_name, **_options):
        with open(file_name + ".mindir", "w") as file:
            file.write("half")
        raise RuntimeError("no space left")

    monkeypatch.setattr("src.exporting.ms.export", fail)
    with pytest.raises(DataError, match=r"m\.mindir cannot be written: no space left"):
        run_export(tiny, tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m.mindir"]
    assert (tmp_path / "m.mindir").read_text() == "old"


def test_read_only_folder_as_a_program(tiny, tmp_path):
    """The refusal comes as one line and exit status 1 (root may write everywhere, so a file stands in the way)."""
    (tmp_path / "file").write_text("")
    result = program(
        "export.py", "--device_target", "CPU", "--checkpoint_path", tiny, "--file_name", tmp_path / "file/m"
    )
    assert result.returncode == 1 and "error: file_name=" in result.stderr and "Traceback" not in result.stderr
    assert os.listdir(tmp_path) == ["file"]


def test_batch_size_zero(tiny, tmp_path):
    with pytest.raises(UsageError, match="batch_size=0"):
        run_export(tiny, tmp_path / "m", "--batch_size", "0")


def test_dry_run(tiny, tmp_path):
    run_export(tiny, tmp_path / "m", "--dry_run", "true")
    assert not list(tmp_path.iterdir())
