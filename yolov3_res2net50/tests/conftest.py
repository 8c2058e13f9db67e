"""Fixtures: photographs with real handwritten digits in COCO's layout, small training options, programs as processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "utils" / "sample_data"), str(FOLDER / "tests")]

import src.model_utils  # noqa: E402,F401  (sets the environment before MindSpore is imported)


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory) -> Path:
    """A COCO data set of ten classes, 16 training and 10 evaluation pictures of 96 pixels."""
    from coco_digits import write_coco

    folder = tmp_path_factory.mktemp("few") / "coco"
    write_coco(folder, train=16, val=10, size=96)
    return folder


# One block in each layer, an eighth of the channels: seconds instead of minutes. SHALLOW is a line of Python.
SHALLOW = "import src.model_utils, src.res2net as network; network.BLOCKS = (1,) * 4; "
WIDTH = 0.125


@pytest.fixture(scope="module")
def shallow():
    """The shallow network, for tests of what does not depend on the depth."""
    from src import res2net

    blocks = res2net.BLOCKS
    exec(SHALLOW, {})
    yield
    res2net.BLOCKS = blocks


def small_run(data: Path, out: Path, **changes) -> list[str]:
    """Command line of a small training on the CPU: 64 and 96 pixels in turn, batch 4, two epochs."""
    options = {
        "data_dir": data,
        "multi_scale": "64,96",
        "testing_shape": "96",
        "width_multiplier": WIDTH,
        "per_batch_size": 4,
        "max_epoch": 2,
        "ckpt_path": out / "outputs",
        "log_path": out / "run",
        "device_target": "CPU",
        "is_distributed": 0,
        "num_parallel_workers": 2,
        **changes,
    }
    return [token for key, value in options.items() for token in (f"--{key}", str(value))]


def program(name: str, *arguments, cwd: Path | None = None, **environment) -> subprocess.CompletedProcess:
    """Run a program of this folder to its end."""
    return subprocess.run(
        [sys.executable, str(FOLDER / name), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "GLOG_v": "3", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


def randomize(network, seed: int = 5) -> None:
    """Weights and statistics as training leaves them: no batch norm does nothing."""
    import mindspore as ms
    import numpy as np

    random = np.random.RandomState(seed)
    ranges = {"moving_mean": (0, 0.1), "moving_variance": (0.6, 0.1), "gamma": (1, 0.1), "beta": (0, 0.1)}
    for name, parameter in network.parameters_dict().items():
        if (leaf := name.rpartition(".")[2]) in ranges:
            centre, spread = ranges[leaf]
            parameter.set_data(ms.Tensor(centre + spread * np.abs(random.standard_normal(parameter.shape)), ms.float32))


def states(out: Path) -> list[Path]:
    """Training states of a run, oldest first."""
    return sorted(out.glob("outputs/*_time_*/ckpt_0/0-*_*.ckpt"), key=lambda path: int(path.stem.split("_")[1]))


def contents(path: Path) -> dict:
    """Name to array of everything in a checkpoint but its metadata."""
    import mindspore as ms

    loaded = ms.load_checkpoint(str(path))
    return {name: value.asnumpy() for name, value in loaded.items() if name != "metadata"}


def assert_same(first: Path, second: Path) -> None:
    """Both checkpoints hold the same bits."""
    import numpy as np

    one, two = contents(first), contents(second)
    assert one.keys() == two.keys() and len(one) > 100
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)
