"""A model folder taken alone works: copied to an empty directory and run from another one, without the rest."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "utils" / "sample_data"))
FOLDERS = sorted(path.parent.name for path in ROOT.glob("*/train.py"))


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """CIFAR-10 layout with 64 training and 64 held-out digits, and a folder of 5 pictures."""
    from digits import write_cifar10, write_pictures

    folder = tmp_path_factory.mktemp("data")
    write_cifar10(folder / "cifar10", limit=64)
    write_pictures(folder / "pictures", limit=5)
    return folder


def run(folder: Path, cwd: Path, program: str, *arguments) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, str(folder / program), *map(str, arguments)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, f"{program}: {result.stdout[-1500:]}{result.stderr[-1500:]}"
    return result.stdout


def test_there_are_folders():
    assert {"tinydarknet", "darknet53", "cspdarknet53", "tinynet", "yolov3_res2net50"} <= set(FOLDERS)


def taken_alone(name: str, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of a folder and nothing else, and another directory to work in."""
    folder, cwd = tmp_path / "alone" / name, tmp_path / "elsewhere"
    shutil.copytree(ROOT / name, folder, ignore=shutil.ignore_patterns("__pycache__", "tests", ".pytest_cache"))
    cwd.mkdir()
    return folder, cwd


def files(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if "__pycache__" not in path.parts)


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory) -> Path:
    """Folders train and val with 20 JPEG digits each."""
    from digits import write_image_folder

    folder = tmp_path_factory.mktemp("images") / "imagenet"
    write_image_folder(folder, size=48, limit=20)
    return folder


@pytest.mark.parametrize(
    "name, training, best, line",
    [
        (
            "darknet53",
            "--run_distributed=0 --dataset_path={data} --class_num=10 --image_height=32 --image_width=32 --batch_size=10",
            "darknet53_best.ckpt",
            "result: {'top_5_accuracy': ",
        ),
        (
            "cspdarknet53",
            "--is_distributed=0 --data_dir={data}/train --val_data_dir={data}/val --num_classes=10 --image_size=32,32 "
            "--per_batch_size=10",
            "checkpoint/ckpt_0/0_best.ckpt",
            "top1_correct=",
        ),
        (
            "tinynet",
            "--data_path={data} --num-classes=10 --image_height=32 --image_width=32 --batch-size=10 --ema-decay=0.5",
            "outputs/ema_best.ckpt",
            "{'Validation-Loss': ",
        ),
    ],
)
def test_image_classifier_alone(image_folder, digits, tmp_path, name, training, best, line):
    """The documented forms of the programs, one after the other, from another directory."""
    folder, cwd = taken_alone(name, tmp_path)
    before = files(folder)
    cpu = "--device_target=CPU"
    options = training.format(data=image_folder).split()
    run(folder, cwd, "train.py", *options, cpu, "--epoch_size=1", "--warmup_epochs=0", "--eval_interval=1")
    documented = [options[0], f"--val_data_dir={image_folder}/val", f"--checkpoint_path={best}"]
    assert line in run(folder, cwd, "eval.py", *documented, cpu)
    for file_format in ("MINDIR", "ONNX"):
        run(folder, cwd, "export.py", cpu, "--ckpt_file", best, "--file_format", file_format, "--fold_bn", "true")
        model = f"{name}.{file_format.lower()}"
        run(
            folder,
            cwd,
            "infer.py",
            cpu,
            "--model_file",
            model,
            "--input",
            digits / "pictures",
            "--output_dir",
            file_format,
        )
    rows = [json.loads((cwd / kind / "predictions.json").read_text())["predictions"] for kind in ("MINDIR", "ONNX")]
    assert [row["top"][0]["class_index"] for row in rows[0]] == [row["top"][0]["class_index"] for row in rows[1]]
    labels = digits / "pictures/label.txt"
    text = run(folder, cwd, "postprocess.py", "--result_path", "ONNX/result_Files", "--label_file", labels)
    assert "'top_1_accuracy': " in text
    assert files(folder) == before, "a program wrote into the folder"


def test_tinydarknet_alone(digits, tmp_path):
    folder, cwd = taken_alone("tinydarknet", tmp_path)
    before = files(folder)
    recipe = ["--dataset", "cifar10", "--device_target", "CPU"]
    size = ["--image_height", 32, "--image_width", 32]
    data = ["--train_data_dir", digits / "cifar10", "--val_data_dir", digits / "cifar10"]
    run(folder, cwd, "train.py", *recipe, *size, *data, "--epoch_size=1", "--batch_size=16", "--eval_interval=1")
    best = cwd / "checkpoints/0/train_tinydarknet_cifar10_best.ckpt"
    assert "accuracy:  {'top_1_accuracy': " in run(
        folder, cwd, "eval.py", *recipe, "--val_data_dir", digits / "cifar10", "--checkpoint_path", best
    )
    for file_format, ending in (("MINDIR", "mindir"), ("ONNX", "onnx")):
        run(folder, cwd, "export.py", *recipe, "--checkpoint_path", best, "--file_format", file_format)
        run(
            folder, cwd, "infer.py", "--device_target", "CPU", "--model_file", f"tinydarknet.{ending}",
            "--input", digits / "pictures", "--output_dir", ending,
        )  # fmt: skip
    rows = [json.loads((cwd / ending / "predictions.json").read_text())["predictions"] for ending in ("mindir", "onnx")]
    assert [row["top"][0]["class_index"] for row in rows[0]] == [row["top"][0]["class_index"] for row in rows[1]]
    text = run(
        folder,
        cwd,
        "postprocess.py",
        "--result_path",
        "mindir/result_Files",
        "--label_file",
        digits / "pictures/label.txt",
    )
    assert "'top_1_accuracy': " in text
    assert files(folder) == before, "a program wrote into the folder"


def test_detector_alone(tmp_path):
    """Training on a data set in COCO's layout, then everything that is done with the weights, from another directory."""
    from coco_digits import write_coco

    folder, cwd = taken_alone("yolov3_res2net50", tmp_path)
    before, data = files(folder), tmp_path / "coco"
    write_coco(data, train=8, val=3, size=64)
    cpu, size = "--device_target=CPU", ["--training_shape=64", "--testing_shape=64"]
    small = ["--width_multiplier=0.125", "--per_batch_size=4", "--max_epoch=1", "--eval_interval=1"]
    run(folder, cwd, "train.py", "--is_distributed=0", f"--data_dir={data}", cpu, *size, *small)
    (best,) = cwd.glob("outputs/*/ckpt_0/0_best.ckpt")
    text = run(folder, cwd, "eval.py", f"--data_dir={data}", f"--pretrained={best}", cpu)
    assert len(re.findall(r"^ Average (?:Precision|Recall)  .* = -?\d\.\d{3}$", text, re.MULTILINE)) == 12
    found = []
    for file_format in ("MINDIR", "ONNX"):
        run(folder, cwd, "export.py", cpu, "--ckpt_file", best, "--file_format", file_format, "--file_name", "model")
        model = ["--model_file", f"model.{file_format.lower()}", "--score_threshold=0.001"]
        run(folder, cwd, "infer.py", cpu, *model, "--input", data / "val2017", "--output_dir", file_format)
        found.append(json.loads((cwd / file_format / "detections.json").read_text())["pictures"])
        results = ["--result_path", f"{file_format}/result_Files", "--data_dir", data]
        assert "=============coco eval result=========" in run(folder, cwd, "postprocess.py", *results)
    ids = [[picture["image_id"] for picture in pictures] for pictures in found]
    assert ids == [[1, 2, 3], [1, 2, 3]]
    assert all((cwd / file_format / "annotated" / "000000000001.png").is_file() for file_format in ("MINDIR", "ONNX"))
    assert files(folder) == before, "a program wrote into the folder"
