"""scripts/modelarts_local.sh: jobs of model folders that run alone, with a directory that plays the bucket."""

from __future__ import annotations

import hashlib
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

from sample_data.digits import write_image_folder

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = sorted(path.parent.name for path in ROOT.glob("*/train.py"))
OPTIONS = "--device_target=CPU --num_classes=10 --image_height=32 --image_width=32".split()
TRAINING = "--epoch_size=2 --warmup_epochs=0 --eval_interval=1 --batch_size=20 --upload_interval=1".split()


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """Variables with which the scripts take the running Python for a finished environment of theirs."""
    folder, temporary = tmp_path_factory.mktemp("venv"), tmp_path_factory.mktemp("tmp")
    (folder / "bin").mkdir()
    (folder / "bin/python").write_text(f'#!/usr/bin/env bash\nexec {sys.executable} "$@"\n')
    (folder / "bin/python").chmod(0o755)
    both = (ROOT / "requirements.txt").read_bytes() + (ROOT / "requirements-dev.txt").read_bytes()
    stamp = f"{platform.python_version()} {hashlib.sha256(both).hexdigest()}\n"
    (folder / ".model_zoo_environment").write_text(stamp)
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "BUCKET", "PYTHONPATH")}
    return {**inherited, "VENV_DIR": str(folder), "TMPDIR": str(temporary)}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Folders train and val with 20 JPEG digits each."""
    folder = tmp_path_factory.mktemp("images")
    write_image_folder(folder, size=48, limit=20)
    return folder


def run(environment, cwd, *arguments, **variables):
    """(exit status, stdout, stderr); nothing may be left in the temporary area."""
    result = subprocess.run(
        ["bash", ROOT / "scripts/modelarts_local.sh", *map(str, arguments)],
        cwd=cwd, env={**environment, **variables}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert list(Path(environment["TMPDIR"]).iterdir()) == [], "the job must leave nothing but its bucket"
    return result.returncode, result.stdout, result.stderr


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)


def test_jobs_one_after_the_other(environment, data, tmp_path):
    """Training, then an evaluation and an export of what it has put into the bucket."""
    bucket, before = tmp_path / "modelarts_local/tinydarknet", files(ROOT / "tinydarknet")
    bucket.mkdir(parents=True)
    (bucket / "data").symlink_to(data)
    status, out, error = run(environment, tmp_path, "tinydarknet", *OPTIONS, *TRAINING)
    assert status == 0, out + error
    copies = [line.split() for line in out.splitlines() if line.startswith("copying ")]
    assert [copy[1] for copy in copies if copy[1].startswith("obs:")] == ["obs://bucket/data"]
    # After the first epoch (upload_interval), and at the end.
    assert [copy[3] for copy in copies if copy[3].startswith("obs:")] == ["obs://bucket/output"] * 2
    (best,) = bucket.glob("output/**/*_best.ckpt")
    name = best.relative_to(bucket).as_posix()
    assert out.endswith("== the job has ended, status 0\n") and f" bytes  {name}\n" in out and " files  data\n" in out

    weights = f"--checkpoint_url=obs://bucket/{name}"
    status, out, error = run(environment, tmp_path, "tinydarknet/", "eval.py", *OPTIONS, weights)
    assert status == 0 and "accuracy:  {'top_1_accuracy': " in out + error, out + error

    (bucket / "data").unlink()  # an export needs none
    status, out, error = run(
        environment, "/", "tinydarknet", "export.py", *OPTIONS, weights, "--file_format", "MINDIR", BUCKET=str(bucket)
    )
    assert status == 0 and list(bucket.glob("output/*.mindir")), out + error
    assert files(ROOT / "tinydarknet") == before, "a job wrote into the folder of the repository"


def test_a_job_that_fails_brings_its_log(environment, data, tmp_path):
    (tmp_path / "data").symlink_to(data)
    status, out, error = run(
        environment, tmp_path, "tinydarknet", *OPTIONS, *TRAINING, "--batch_size=1000", BUCKET=str(tmp_path)
    )
    assert status == 1 and "error: " in error and out.endswith("== the job has ended, status 1\n")
    assert "the job failed: DataError: " in (tmp_path / "output/train.log").read_text() and "output/train.log\n" in out


@pytest.mark.parametrize("number", [signal.SIGTERM], ids=str)
def test_a_job_that_is_stopped_brings_its_checkpoint(environment, data, tmp_path, number):
    (tmp_path / "data").symlink_to(data)
    script = ["bash", str(ROOT / "scripts/modelarts_local.sh"), "tinydarknet", *OPTIONS, *TRAINING, "--epoch_size=1000"]
    process = subprocess.Popen(
        script, env={**environment, "BUCKET": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("epoch: 1 "):
            process.send_signal(number)
            break
    out, error = process.communicate(timeout=120)
    assert process.returncode == 128 + number and f"== the job has ended, status {128 + number}" in out, out + error
    assert list(tmp_path.glob("output/checkpoints/0/*.ckpt")) and list(Path(environment["TMPDIR"]).iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--device_target", "CPU"], "the first argument is a model folder"),
        (["darknet"], f"unknown folder 'darknet', there are: {' '.join(FOLDERS)}"),
        (["utils/common"], "unknown folder 'utils/common'"),
        (["darknet53", "training.py"], "darknet53 has no program 'training.py'"),
        (["darknet53", "README.md"], "darknet53 has no program 'README.md'"),
    ],
)
def test_wrong_usage(environment, tmp_path, arguments, text):
    status, out, error = run(environment, tmp_path, *arguments)
    assert (status, out) == (2, "") and error.startswith(f"error: {text}")
    assert "Usage: [BUCKET=DIR] bash scripts/modelarts_local.sh FOLDER [PROGRAM]" in error
    assert list(tmp_path.iterdir()) == []


def test_missing_data_and_help(environment, tmp_path):
    status, out, error = run(environment, tmp_path, "tinydarknet")
    assert (status, out) == (1, "")
    assert error.startswith(f"error: {tmp_path}/modelarts_local/tinydarknet/data is missing: put the data set there")
    assert list(tmp_path.iterdir()) == []
    status, out, error = run(environment, tmp_path, "--help")
    assert (status, error) == (0, "") and out.startswith("A ModelArts job on this machine") and "set -e" not in out
    assert "FOLDER [PROGRAM] [--KEY VALUE ...]" in out and out.endswith("which copies files.\n")


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_service_finds_the_requirements(folder):
    """pip-requirements.txt is the name that every release of ModelArts knows."""
    lines = (ROOT / folder / "pip-requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["-r requirements.txt"]
    assert (ROOT / folder / "requirements.txt").is_file()
