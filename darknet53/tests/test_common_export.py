# Shared file: source utils/classification/tests/test_common_export.py; copy with: python scripts/sync_model_utils.py --write
"""Exports equal the network on inputs other than the traced one; infer.py and postprocess.py use them."""

from __future__ import annotations

import importlib
import json
import re
import shutil

import export
import infer
import postprocess
from conftest import EXPORT_BATCH, OTHER_NETWORK, SHALLOW, SMALL_NETWORK, program
from src.model_utils.checkpoint import save
from src.model_utils.config import DataError, UsageError
from src.recipe import NETWORK, build_network, read_config

import mindspore as ms
import numpy as np
import pytest
from src.inference import description, load_model, load_network

TOLERANCE = 1e-4
SIDE = 64


@pytest.fixture(scope="module", params=["default", "other"])
def weights(request, tmp_path_factory):
    """Random weights with statistics as training leaves them, of the recipe's network; shallow with other settings."""
    module = importlib.import_module(f"src.{NETWORK}")
    stages = module.STAGES
    options = [*SMALL_NETWORK, "--image_height", str(SIDE), "--image_width", str(SIDE)]
    if request.param == "other":
        options += [token for key, value in OTHER_NETWORK.items() for token in (f"--{key}", str(value))]
        exec(SHALLOW, {})
    about = description(read_config(options, ""), "zero one two three four five six seven eight nine".split())
    network, random = build_network(about), np.random.RandomState(5)
    ranges = {"moving_mean": (0, 0.1), "moving_variance": (0.6, 0.1), "gamma": (1, 0.1), "beta": (0, 0.1)}
    for name, parameter in network.parameters_dict().items():
        if (leaf := name.rpartition(".")[2]) in ranges:
            centre, spread = ranges[leaf]
            parameter.set_data(ms.Tensor(centre + spread * np.abs(random.standard_normal(parameter.shape)), ms.float32))
    path = tmp_path_factory.mktemp("weights") / "weights.ckpt"
    save(path, network.parameters_dict(), about)
    yield path
    module.STAGES = stages


def run_export(checkpoint, target, *options):
    export.main(["--device_target", "CPU", "--ckpt_file", str(checkpoint), "--file_name", str(target), *options])


def agree(result, expected) -> bool:
    assert result.shape == expected.shape and result.dtype == np.float32
    return np.abs(result - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("file_format, fold_bn, batch_size", [
    ("MINDIR", False, 1), ("MINDIR", True, 3), ("ONNX", False, 3), ("ONNX", True, 1), ("ONNX", True, 3),
])  # fmt: skip
def test_equals_the_network(weights, tmp_path, file_format, fold_bn, batch_size):
    options = ["--file_format", file_format, "--fold_bn", str(fold_bn), EXPORT_BATCH, str(batch_size)]
    run_export(weights, tmp_path / "m", *options)
    config = read_config(["--device_target", "CPU"], "")
    model, about, fixed = load_model(tmp_path / f"m.{file_format.lower()}", config)
    assert fixed == batch_size and about["input"]["height"] == SIDE
    fresh = np.random.RandomState(11).standard_normal((batch_size, 3, SIDE, SIDE)).astype(np.float32)
    (result,) = model(fresh)
    network, _ = load_network(weights, config)
    assert agree(result, network(ms.Tensor(fresh)).asnumpy())
    assert not agree(model(-fresh)[0], result), "the input does not matter"
    if file_format == "ONNX":
        import onnx

        kinds = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
        assert ("BatchNormalization" in kinds) == (not fold_bn)


def test_infer_and_postprocess(weights, few_digits, tmp_path, capsys):
    """Checkpoint, MINDIR and ONNX see the same classes; the accuracy of the result files is that of a hand count."""
    run_export(weights, tmp_path / "a", "--fold_bn", "true")
    run_export(weights, tmp_path / "b", "--fold_bn", "true", "--file_format", "ONNX", EXPORT_BATCH, "4")
    pictures = tmp_path / "pictures"
    for number, path in enumerate(sorted((few_digits / "val").rglob("*.jpg"))[::7]):
        shutil.copy(path, pictures / f"{path.parent.name}_{number}.jpg") if pictures.is_dir() else pictures.mkdir()
    tops = []
    for name in (weights, tmp_path / "a.mindir", tmp_path / "b.onnx"):
        out = tmp_path / f"out_{name.stem}"
        infer.main(
            ["--device_target", "CPU", "--model_file", str(name), "--input", str(pictures), "--output_dir", str(out)]
        )
        rows = json.loads((out / "predictions.json").read_text())["predictions"]
        assert len(rows) == 5 and rows[0]["top"][0]["class_name"] in "zero one two three four five six seven eight nine"
        tops.append([row["top"][0]["class_index"] for row in rows])
        scores = [row["top"][0]["score"] for row in rows]
        assert all(0.1 <= score <= 1 for score in scores)
    assert tops[0] == tops[1] == tops[2]
    names = [path.stem for path in sorted(pictures.iterdir())]
    (tmp_path / "label.txt").write_text("".join(f"{name}:{name[0]}\n" for name in names))
    (tmp_path / "label.json").write_text(json.dumps({f"{name}.jpg": int(name[0]) for name in names}))
    right = sum(int(name[0]) == top for name, top in zip(names, tops[0]))
    for label in ("label.txt", "label.json"):
        capsys.readouterr()
        postprocess.main(["--result_path", str(out / "result_Files"), "--label_file", str(tmp_path / label)])
        assert f"total=5, top1_correct={right}," in capsys.readouterr().out


def test_damaged_picture_is_named(weights, few_digits, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    sound = next((few_digits / "val").rglob("*.jpg"))
    shutil.copy(sound, pictures / "a.jpg")
    (pictures / "b.jpg").write_bytes(sound.read_bytes()[:200])
    run_export(weights, tmp_path / "m", "--file_format", "ONNX")
    result = program(
        "infer.py", "--model_file", tmp_path / "m.onnx", "--input", pictures, "--output_dir", tmp_path / "o"
    )
    assert result.returncode == 1 and re.search(r"1 of 2 picture.*\n.*b\.jpg", result.stderr), result.stderr
    assert len(json.loads((tmp_path / "o/predictions.json").read_text())["predictions"]) == 1


def test_refusals(weights, tmp_path):
    with pytest.raises(UsageError, match="AIR is written on Ascend only"):
        run_export(weights, tmp_path / "m", "--file_format", "AIR")
    with pytest.raises(UsageError, match="batch_size=0"):
        run_export(weights, tmp_path / "m", EXPORT_BATCH, "0")
    with pytest.raises(DataError, match="cannot be written"):
        run_export(weights, tmp_path / "none" / "m")
    run_export(weights, tmp_path / "m", "--dry_run", "true")
    assert not list(tmp_path.iterdir())
