"""Fixtures: photographs with real handwritten digits in COCO's layout, and the options of small networks and trainings."""

from __future__ import annotations

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


# One block in each layer, a tenth of the channels: seconds instead of minutes.
WIDTH, BLOCKS = 0.1, [1, 1, 1, 1]
SMALL = ["--width_multiplier", str(WIDTH), "--stage_blocks", "1,1,1,1"]


def small_run(data: Path, out: Path, **changes) -> list[str]:
    """Command line of a small training on the CPU: 64 and 96 pixels in turn, batch 4, two epochs of four steps."""
    options = {
        "data_dir": data,
        "multi_scale": "64,96",
        "testing_shape": "96",
        "width_multiplier": WIDTH,
        "stage_blocks": "1,1,1,1",
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
