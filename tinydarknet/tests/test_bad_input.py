"""Bad input ends in one readable line, the right exit status, and nothing written over. Each case is a real process."""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conftest import program, small_run
from src.model_utils.checkpoint import save
from src.recipe import read_config
from src.tinydarknet import tinydarknet

import pytest
from src.inference import description


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A sound checkpoint of ten classes at 32 pixels."""
    path = tmp_path_factory.mktemp("sound") / "sound.ckpt"
    config = read_config(["--dataset_name", "cifar10", "--image_height", "32", "--image_width", "32"], "")
    names = "zero one two three four five six seven eight nine".split()
    save(path, tinydarknet(10).parameters_dict(), description(config, names))
    return path


def folder_run(data: Path, out: Path, **changes) -> list[str]:
    changes = {"dataset_name": "imagenet", "num_classes": 10, **changes}
    return small_run(data, out, **changes)


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def training_cases(few_digits: Path, image_folder: Path, tmp: Path) -> dict[str, tuple[int, str, list[str]]]:
    """Name -> exit status, pattern of the message, command line of train.py."""
    train, val = image_folder / "train", image_folder / "val"
    empty = tmp / "empty"
    empty.mkdir()
    no_images = copy(train, tmp / "no_images")
    (no_images / "zebra").mkdir()
    flat = tmp / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(val.rglob("*.jpg"))[:3]):
        shutil.copy(path, flat / f"{number}.jpg")
    text = copy(train, tmp / "text")
    (text / "3" / "fake.jpg").write_text("this is text")
    cut = copy(train, tmp / "cut")
    victim = sorted((cut / "4").iterdir())[0]
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    batch = copy(few_digits, tmp / "batch")
    file = batch / "data_batch_1.bin"
    file.write_bytes(file.read_bytes()[:-100])
    broken = tmp / "broken.yaml"
    broken.write_text("lr_init: [0.1\nbatch_size: 3\n")
    return {
        "missing folder": (1, r"expected:[\s\S]*found:", folder_run(tmp / "nowhere", tmp / "o")),
        "empty folder": (1, r"holds no class folders[\s\S]*expected:[\s\S]*found:", folder_run(empty, tmp / "o")),
        "class without images": (1, r"zebra holds no images", folder_run(no_images, tmp / "o")),
        "no class folders": (1, r"outside any class folder", folder_run(flat, tmp / "o")),
        "text as image": (1, r"fake\.jpg", folder_run(text, tmp / "o")),
        "truncated JPEG": (1, re.escape(victim.name), folder_run(cut, tmp / "o")),
        "too many classes": (1, r"10 classes, more than num_classes=7", folder_run(train, tmp / "o", num_classes=7)),
        "truncated batch": (1, r"data_batch_1\.bin is truncated", small_run(batch, tmp / "o")),
        "zero steps": (1, r"0 steps per epoch: 112 images", small_run(few_digits, tmp / "o", batch_size=500)),
        "too few classes": (1, r"num_classes=9", small_run(few_digits, tmp / "o", num_classes=9)),
        "no GPU": (1, r"device_target=GPU .*not available", small_run(few_digits, tmp / "o", device_target="GPU")),
        "device id": (2, r"device_id=9", small_run(few_digits, tmp / "o", device_id=9)),
        "unknown flag": (2, r"unknown option '--lr_inti'.*--lr_init", [*small_run(few_digits, tmp / "o"), "--lr_inti", "1"]),
        "wrong type": (2, r"batch_size='many': integer", small_run(few_digits, tmp / "o", batch_size="many")),
        "wrong choice": (2, r"lr_scheduler='linear': one of", small_run(few_digits, tmp / "o", lr_scheduler="linear")),
        "broken YAML": (2, r"broken\.yaml:\d+: broken YAML", ["--config_path", str(broken)]),
        "half precision on CPU": (2, r"amp_level=O2", small_run(few_digits, tmp / "o", amp_level="O2")),
        "resume from nothing": (1, r"nothing\.ckpt is not a file", small_run(few_digits, tmp / "o", resume=tmp / "nothing.ckpt")),
    }  # fmt: skip


def check(name: str, result, status: int, pattern: str) -> str | None:
    """What is wrong with the outcome of a case, or None."""
    if result.returncode != status:
        return f"{name}: exit status {result.returncode}, {status} expected: {result.stderr[-400:]}"
    if not re.search("error: .*" + pattern if "expected:" not in pattern else pattern, result.stderr, re.DOTALL):
        return f"{name}: message {result.stderr[-400:]}"
    return f"{name}: traceback" if "Traceback" in result.stderr else None


def test_training(few_digits, image_folder, tmp_path):
    cases = training_cases(few_digits, image_folder, tmp_path)
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda case: program("train.py", *case[2], cwd=tmp_path), cases.values())
        problems = [check(name, result, *case[:2]) for (name, case), result in zip(cases.items(), results)]
    assert not list(filter(None, problems))
    assert not (tmp_path / "o" / "checkpoints").exists()


def evaluation_cases(digits: Path, sound: Path, tmp: Path) -> dict[str, tuple[int, str, list[str]]]:
    data = sound.read_bytes()
    (tmp / "cut.ckpt").write_bytes(data[: len(data) // 2])
    (tmp / "flipped.ckpt").write_bytes(data[:100_000] + bytes([data[100_000] ^ 1]) + data[100_001:])
    (tmp / "empty.ckpt").write_bytes(b"")
    (tmp / "model.onnx").write_bytes(b"onnx")
    config = read_config(["--image_height", "32", "--image_width", "32"], "")
    about = description(config, None)
    save(
        tmp / "five.ckpt",
        tinydarknet(5).parameters_dict(),
        {**about, "network": {**about["network"], "num_classes": 5}},
    )
    save(tmp / "other.ckpt", {"w": tinydarknet(2).conv1.conv.weight}, {**about, "network": {"name": "darknet53"}})
    save(tmp / "lacking.ckpt", {"conv1.conv.weight": tinydarknet(2).conv1.conv.weight}, {})

    def options(name: str) -> list[str]:
        return ["--dataset_name", "cifar10", "--val_data_dir", str(digits), "--device_target", "CPU",
                "--run_dir", str(tmp / "run"), "--checkpoint_path", str(tmp / name)]  # fmt: skip

    return {
        "missing": (1, r"none\.ckpt is not a file", options("none.ckpt")),
        "truncated": (1, r"cut\.ckpt .*truncated or damaged", options("cut.ckpt")),
        "bit-flipped": (1, r"flipped\.ckpt .*truncated or damaged", options("flipped.ckpt")),
        "empty": (1, r"empty\.ckpt .*truncated or damaged", options("empty.ckpt")),
        "ONNX": (1, r"model\.onnx is an ONNX model", options("model.onnx")),
        "class count": (1, r"checkpoint has 5 classes", options("five.ckpt")),
        "other network": (1, r"is of the network darknet53", options("other.ckpt")),
        "lacking weights": (1, r"lacks 7\d of 77 weights", options("lacking.ckpt")),
        "contradiction": (2, r"--num_classes 12 contradicts", [*options("five.ckpt"), "--num_classes", "12"]),
        "no data": (1, r"test_batch\.bin", [*options("five.ckpt"), "--checkpoint_path", str(sound), "--val_data_dir", str(tmp)]),
    }  # fmt: skip


def test_evaluation(few_digits, sound, tmp_path):
    cases = evaluation_cases(few_digits, sound, tmp_path)
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda case: program("eval.py", *case[2], cwd=tmp_path), cases.values())
        problems = [check(name, result, *case[:2]) for (name, case), result in zip(cases.items(), results)]
    assert not list(filter(None, problems))


def test_debug_shows_the_traceback(tmp_path):
    result = program(
        "eval.py", "--debug", "--device_target", "CPU", "--checkpoint_path", tmp_path / "none.ckpt", cwd=tmp_path
    )
    assert result.returncode == 1 and "Traceback" in result.stderr and "error: checkpoint" in result.stderr


def test_workers_are_clipped_with_a_notice(few_digits, tmp_path):
    result = program("train.py", *small_run(few_digits, tmp_path, epoch_size=1, num_parallel_workers=512), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.search(r"num_parallel_workers=512 clipped to the \d+ cores", result.stdout)


def test_modules_can_be_imported_under_a_foreign_command_line():
    """Nothing parses the command line at import."""
    import subprocess
    import sys

    code = (
        "import train, eval, export, infer, postprocess, convert_checkpoint, mindspore_hub_conf as hub; "
        "print(hub.create_network('tinydarknet', 3))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "--nonsense", "7"], capture_output=True, text=True, timeout=120,
        cwd=Path(__file__).resolve().parents[1],
    )  # fmt: skip
    assert result.returncode == 0 and "TinyDarkNet" in result.stdout, result.stderr


def test_hub_refuses_other_names():
    from mindspore_hub_conf import create_network

    with pytest.raises(NotImplementedError, match="resnet"):
        create_network("resnet")
