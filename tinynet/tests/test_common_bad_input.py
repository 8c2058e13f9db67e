# Shared file: source utils/classification/tests/test_common_bad_input.py; copy with: python scripts/sync_model_utils.py --write
"""Bad input ends in one readable line, the right exit status, and nothing written over. Each case is a real process."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conftest import FOLDER, WRONG_CHOICE, program, small_run
from src.model_utils.checkpoint import save
from src.recipe import NETWORK, build_network, read_config

import pytest
from src.inference import description


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def training_cases(digits: Path, tmp: Path) -> dict[str, tuple[int, str, list[str]]]:
    """Name -> exit status, pattern of the message, command line of train.py."""
    train, out = digits / "train", tmp / "o"

    def on(folder: Path, **changes) -> list[str]:
        return [*small_run(digits, out, **changes), "--train_data_dir", str(folder)]

    no_images = copy(train, tmp / "no_images")
    (no_images / "zebra").mkdir()
    flat = tmp / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(train.rglob("*.jpg"))[:3]):
        shutil.copy(path, flat / f"{number}.jpg")
    cut = copy(train, tmp / "cut")
    victim = sorted((cut / "4").iterdir())[0]
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    broken = tmp / "broken.yaml"
    broken.write_text("lr: [0.1\nmomentum: 3\n")
    return {
        "missing folder": (1, r"expected:[\s\S]*found:", on(tmp / "nowhere")),
        "class without images": (1, r"zebra holds no images", on(no_images)),
        "no class folders": (1, r"outside any class folder", on(flat)),
        "truncated JPEG": (1, re.escape(victim.name), on(cut)),
        "too many classes": (1, r"10 classes, more than num_classes=7", on(train, num_classes=7)),
        "zero steps": (1, r"0 steps per epoch: 40 images", on(train, batch_size=500)),
        "no GPU": (1, r"device_target=GPU .*not available", on(train, device_target="GPU")),
        "unknown flag": (2, r"unknown option '--momentun'.*--momentum", [*on(train), "--momentun", "1"]),
        "wrong type": (2, r"batch_size='many': integer|per_batch_size='many': integer", on(train, batch_size="many")),
        "wrong choice": (2, "{}='{}': one of".format(*WRONG_CHOICE), on(train, **dict([WRONG_CHOICE]))),
        "broken YAML": (2, r"broken\.yaml:\d+: broken YAML", ["--config_path", str(broken)]),
        "half precision on CPU": (2, r"amp_level=O2: MindSpore's CPU kernels need float32", on(train, amp_level="O2")),
        "resume from nothing": (1, r"nothing\.ckpt is not a file", on(train, resume=tmp / "nothing.ckpt")),
        "frozen nothing": (2, r"no parameter matches 'backbone\.\*'", on(train, freeze="backbone.*")),
        "negative clipping": (2, r"clip_grad_norm=-1", on(train, clip_grad_norm=-1)),
        "accumulate zero": (2, r"accumulate_steps=0", on(train, accumulate_steps=0)),
        "crop": (2, r"crop_scale=0", on(train, crop_scale=0)),
    }  # fmt: skip


def evaluation_cases(digits: Path, tmp: Path) -> dict[str, tuple[int, str, list[str]]]:
    """Name -> exit status, pattern of the message, command line of eval.py."""
    about = description(read_config(["--num_classes", "5"], ""), None)
    five = build_network(about).parameters_dict()
    save(tmp / "five.ckpt", five, about)
    data = (tmp / "five.ckpt").read_bytes()
    (tmp / "cut.ckpt").write_bytes(data[: len(data) // 2])
    (tmp / "flipped.ckpt").write_bytes(data[:100_000] + bytes([data[100_000] ^ 1]) + data[100_001:])
    (tmp / "model.onnx").write_bytes(b"onnx")
    first = dict([next(iter(five.items()))])
    save(tmp / "other.ckpt", first, {**about, "network": {"name": "resnet", "num_classes": 5}})
    save(tmp / "lacking.ckpt", first, {})

    def options(name: str, *more: str) -> list[str]:
        return ["--val_data_dir", str(digits / "val"), "--device_target", "CPU", "--run_dir", str(tmp / "run"),
                "--checkpoint_path", str(tmp / name), *more]  # fmt: skip

    return {
        "missing": (1, r"none\.ckpt is not a file", options("none.ckpt")),
        "truncated": (1, r"cut\.ckpt .*truncated or damaged", options("cut.ckpt")),
        "bit-flipped": (1, r"flipped\.ckpt .*truncated or damaged", options("flipped.ckpt")),
        "ONNX": (1, r"model\.onnx is an ONNX model", options("model.onnx")),
        "class count": (1, r"10 .*classes|10 \(0, 1, 2", options("five.ckpt")),
        "other network": (1, r"is of the network resnet; one of " + NETWORK, options("other.ckpt")),
        "lacking weights": (1, r"lacks \d+ of \d+ weights", options("lacking.ckpt")),
        "contradiction": (2, r"--num_classes 12 contradicts", options("five.ckpt", "--num_classes", "12")),
        "no data": (1, r"holds no class folders", options("five.ckpt", "--val_data_dir", str(empty_folder(tmp)))),
    }  # fmt: skip


def empty_folder(tmp: Path) -> Path:
    (tmp / "empty").mkdir()
    return tmp / "empty"


def check(name: str, result, status: int, pattern: str) -> str | None:
    """What is wrong with the outcome of a case, or None."""
    if result.returncode != status:
        return f"{name}: exit status {result.returncode}, {status} expected: {result.stderr[-400:]}"
    if not re.search(
        "error: .*(?:" + pattern + ")" if "expected:" not in pattern else pattern, result.stderr, re.DOTALL
    ):
        return f"{name}: message {result.stderr[-400:]}"
    return f"{name}: traceback" if "Traceback" in result.stderr else None


@pytest.mark.parametrize("name, make", [("train.py", training_cases), ("eval.py", evaluation_cases)])
def test_errors(few_digits, tmp_path, name, make):
    cases = make(few_digits, tmp_path)
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda case: program(name, *case[2], cwd=tmp_path), cases.values())
        problems = [check(case, result, *cases[case][:2]) for case, result in zip(cases, results)]
    assert not list(filter(None, problems))
    assert not (tmp_path / "o" / "checkpoints").exists()


def test_modules_can_be_imported_under_a_foreign_command_line():
    """Nothing parses the command line at import."""
    code = (
        "import train, eval, export, infer, postprocess, convert_checkpoint, mindspore_hub_conf as hub; "
        f"print(hub.create_network('{NETWORK}', 3))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "--nonsense", "7"], capture_output=True, text=True, timeout=120, cwd=FOLDER
    )
    assert result.returncode == 0 and "Dense" in result.stdout, result.stderr
    assert "NotImplementedError" in subprocess.run(
        [sys.executable, "-c", "import mindspore_hub_conf as hub; hub.create_network('resnet')"],
        capture_output=True, text=True, timeout=120, cwd=FOLDER,
    ).stderr  # fmt: skip
