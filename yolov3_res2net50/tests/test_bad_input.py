"""Bad input ends in one readable line, the right exit status, and no checkpoint; a few cases as real processes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import eval as evaluation
import train
from conftest import FOLDER, WIDTH, program, small_run
from src.model_utils.checkpoint import save
from src.model_utils.errors import DataError, UsageError
from src.model_utils.inference import description
from src.recipe import build_network, read_config

import pytest
from coco_digits import CLASS_NAMES

pytestmark = pytest.mark.usefixtures("shallow")
Cases = dict[str, tuple[type, str, list[str]]]  # name -> error, pattern of its message, command line


def with_annotations(data: Path, folder: Path, text: str) -> Path:
    """The data set with another training annotation file."""
    (folder / "annotations").mkdir(parents=True)
    for name in ("train2017", "val2017"):
        (folder / name).symlink_to(data / name)
    shutil.copy(data / "annotations/instances_val2017.json", folder / "annotations")
    (folder / "annotations/instances_train2017.json").write_text(text)
    return folder


def training_cases(data: Path, tmp: Path) -> Cases:
    content = json.loads((data / "annotations/instances_train2017.json").read_text())
    gone = [{**row, "file_name": f"gone_{row['id']}.jpg"} if row["id"] in (3, 11) else row for row in content["images"]]
    missing = with_annotations(data, tmp / "missing", json.dumps({**content, "images": gone}))
    keypoints = with_annotations(data, tmp / "other", json.dumps({"info": {}, "licenses": []}))
    broken = with_annotations(data, tmp / "broken", '{"images": [')
    for name in ("cut", "cut/train2017", "cut/annotations"):
        (tmp / name).mkdir()
    shutil.copy(data / "annotations/instances_train2017.json", tmp / "cut/annotations")
    for path in (data / "train2017").iterdir():
        cut = path.stat().st_size // 2 if path.stem.endswith("07") else None
        (tmp / "cut/train2017" / path.name).write_bytes(path.read_bytes()[:cut])
    (tmp / "anchors.yaml").write_text("anchor_scales: [[10, 13], [16, 30]]\n")
    (tmp / "yaml.yaml").write_text("lr: [0.1\n")

    def on(folder: Path = data, **changes) -> list[str]:
        return small_run(folder, tmp / "o", **changes)

    return {
        "images missing": (DataError, r"2 of 16 images .*gone_3\.jpg\n.*gone_11\.jpg", on(missing)),
        "no COCO file": (DataError, r"is not a COCO file: there is no 'images' \(found: info, licenses\)", on(keypoints)),
        "no JSON": (DataError, r"instances_train2017\.json is not JSON", on(broken)),
        "no data": (DataError, r"no folder train2017/.*expected.*found", on(tmp)),
        "damaged picture": (DataError, r"07\.jpg", on(tmp / "cut")),
        "too few images": (DataError, r"0 steps per epoch: 16 images", on(per_batch_size=32)),
        "too few classes": (DataError, r"10 classes, more than num_classes=7", on(num_classes=7)),
        "no GPU": (DataError, r"device_target=GPU .*not available", on(device_target="GPU")),
        "no checkpoint": (DataError, r"none\.ckpt is not a file", on(resume_yolov3=tmp / "none.ckpt")),
        "no state": (DataError, r"none\.ckpt is not a file", on(resume=tmp / "none.ckpt")),
        "data_dir is empty": (UsageError, r"data_dir is empty; give --data_dir FOLDER", on("")),
        "training_shape": (UsageError, r"training_shape=100: .*multiples of 32", on(training_shape=100)),
        "multi_scale": (UsageError, r"multi_scale=\[64, 100\]: .*multiples of 32", on(multi_scale="64,100")),
        "testing_shape": (UsageError, r"testing_shape=90: .*multiples of 32", on(testing_shape=90)),
        "anchors": (UsageError, r"anchor_scales=.*nine pairs", [*on(), "--config_path", str(tmp / "anchors.yaml")]),
        "broken YAML": (UsageError, r"yaml\.yaml:\d+: broken YAML", ["--config_path", str(tmp / "yaml.yaml")]),
        "unknown option": (UsageError, r"unknown option '--max_epoc'.*--max_epoch", [*on(), "--max_epoc", "1"]),
        "wrong type": (UsageError, r"per_batch_size='many': integer", on(per_batch_size="many")),
        "half precision": (UsageError, r"amp_level=O2: MindSpore's CPU kernels need float32", on(amp_level="O2")),
        "frozen nothing": (UsageError, r"no parameter matches 'neck\.\*'", on(freeze="neck.*")),
        "ignore_threshold": (UsageError, r"ignore_threshold=1\.5: 0 to 1", on(ignore_threshold=1.5)),
        "retention": (UsageError, r"keep_checkpoint_max=0: 1 or more", on(keep_checkpoint_max=0)),
        "max_box": (UsageError, r"max_box=0: 1 or more", on(max_box=0)),
        "rank": (UsageError, r"rank=1: this process is rank 0 of 1", on(rank=1)),
    }  # fmt: skip


def evaluation_cases(data: Path, tmp: Path) -> Cases:
    config = read_config(["--num_classes", "10", "--width_multiplier", str(WIDTH), "--testing_shape", "96"], "")
    about = description(config, list(CLASS_NAMES))
    network = build_network(about).parameters_dict()
    save(tmp / "sound.ckpt", network, about)
    sound = (tmp / "sound.ckpt").read_bytes()
    (tmp / "cut.ckpt").write_bytes(sound[: len(sound) // 2])
    (tmp / "flipped.ckpt").write_bytes(sound[:100_000] + bytes([sound[100_000] ^ 1]) + sound[100_001:])
    (tmp / "model.onnx").write_bytes(b"onnx")
    first = dict([next(iter(network.items()))])
    save(tmp / "other.ckpt", first, {**about, "network": {"name": "darknet53", "num_classes": 10}})
    save(tmp / "lacking.ckpt", first, about)
    save(tmp / "names.ckpt", network, {**about, "class_names": [f"digit {digit}" for digit in range(10)]})

    def on(name: str, *more: str) -> list[str]:
        return ["--data_dir", str(data), "--device_target", "CPU", "--log_path", str(tmp / "run"), "--pretrained",
                str(tmp / name), *more]  # fmt: skip

    return {
        "not given": (UsageError, r"--pretrained is missing; give the checkpoint", ["--data_dir", str(data)]),
        "damaged": (DataError, r"cut\.ckpt .*truncated or damaged", on("cut.ckpt")),
        "missing": (DataError, r"none\.ckpt is not a file", on("none.ckpt")),
        "bit-flipped": (DataError, r"flipped\.ckpt .*truncated or damaged", on("flipped.ckpt")),
        "ONNX": (DataError, r"model\.onnx is an ONNX model", on("model.onnx")),
        "other network": (DataError, r"is of the network darknet53; one of yolov3_res2net50", on("other.ckpt")),
        "lacking weights": (DataError, r"lacks \d+ of \d+ weights", on("lacking.ckpt")),
        "other classes": (DataError, r"digit 0", on("names.ckpt")),
        "contradiction": (UsageError, r"--num_classes 12 contradicts", on("sound.ckpt", "--num_classes", "12")),
        "testing_shape": (UsageError, r"testing_shape=100", on("sound.ckpt", "--testing_shape", "100")),
        "no data": (DataError, r"no folder val2017/", on("sound.ckpt", "--data_dir", str(tmp))),
        "no average": (DataError, r"holds no moving average", on("sound.ckpt", "--use_ema", "true")),
        "threshold": (UsageError, r"nms_thresh=2", on("sound.ckpt", "--nms_thresh", "2")),
    }  # fmt: skip


def problem_of(main, kind: type, pattern: str, options: list[str]) -> str | None:
    """What is wrong with the outcome of a case, or None."""
    try:
        main(options)
    except (UsageError, DataError) as error:
        if not isinstance(error, kind) or not re.search(pattern, str(error), re.DOTALL):
            return f"{type(error).__name__}: {error}"
        return None
    except Exception as error:  # a traceback for the user
        return repr(error)
    return "no error"


PROCESSES = {
    "train.py": (train, training_cases, ("images missing", "unknown option", "training_shape")),
    "eval.py": (evaluation, evaluation_cases, ("not given", "damaged")),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_errors(few_digits, tmp_path, name):
    module, make, _ = PROCESSES[name]
    cases = make(few_digits, tmp_path)
    outcomes = {case: problem_of(module.main, *cases[case]) for case in cases}
    assert not {case: outcome for case, outcome in outcomes.items() if outcome}
    assert not (tmp_path / "o/outputs").exists()


def test_exit_statuses(few_digits, tmp_path):
    """Each a process: one line (or the list of files), no traceback, 1 for data and 2 for options."""
    runs = []
    for name, (_, make, chosen) in PROCESSES.items():
        folder = tmp_path / name
        folder.mkdir()
        cases = make(few_digits, folder)
        runs += [(name, *cases[case]) for case in chosen]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda run: program(run[0], *run[3], cwd=tmp_path), runs))
    for (name, kind, pattern, _), result in zip(runs, results):
        assert result.returncode == kind.exit_status, (name, pattern, result.stderr)
        assert re.search(r"(?m)^error: [\s\S]*" + pattern, result.stderr, re.DOTALL), result.stderr
        assert "Traceback" not in result.stderr


def test_modules_can_be_imported_under_a_foreign_command_line():
    """Nothing parses the command line at import."""
    code = "import train, eval, export, infer, postprocess, convert_checkpoint, mindspore_hub_conf; print('sound')"
    result = subprocess.run(
        [sys.executable, "-c", code, "--nonsense", "7"], capture_output=True, text=True, timeout=120, cwd=FOLDER
    )
    assert result.returncode == 0 and result.stdout.endswith("sound\n"), result.stderr
