# Shared file: source utils/classification/tests/test_common_distributed.py; copy with: python scripts/sync_model_utils.py --write
"""Two processes on one machine: one run, one set of checkpoints, the evaluation of one process."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import DISTRIBUTED, FOLDER, accuracies, program, small_run

import pytest

MSRUN = Path(sys.executable).parent / "msrun"


@pytest.mark.skipif(not MSRUN.exists() and shutil.which("msrun") is None, reason="msrun comes with MindSpore")
def test_two_processes_train_as_one(few_digits, tmp_path):
    script, arguments, run_folder = DISTRIBUTED
    options = small_run(few_digits, tmp_path, epoch_size=1, batch_size=4, eval_interval=1)
    del options[options.index("--run_dir") : options.index("--run_dir") + 2]
    environment = {**os.environ, "PYTHON": sys.executable, "DEVICE_NUM": "2", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        ["bash", str(FOLDER / "scripts" / script), *arguments(few_digits), "--wait", *options],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    logs = "".join(
        path.read_text(errors="replace") for path in (tmp_path / run_folder).rglob("*log*") if path.is_file()
    )
    assert result.returncode == 0, result.stdout + result.stderr + logs[-3000:]
    found = list((tmp_path / "checkpoints").rglob("*-1_5.ckpt"))  # 40 / (2 * 4)
    assert len(found) == 1 and found[0].parent.name in ("checkpoints", "ckpt_0"), "one rank saves, the first one"
    said = re.search(r"validation after epoch 1: top_1_accuracy (\S+),", logs)
    alone = program(
        "eval.py", "--val_data_dir", few_digits / "val", "--device_target", "CPU", "--checkpoint_path", found[0],
        "--run_dir", tmp_path / "eval", cwd=tmp_path,
    )  # fmt: skip
    assert accuracies(alone.stdout)[0] == pytest.approx(float(said[1]), abs=1e-4)
