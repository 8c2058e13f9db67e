"""A server of ModelArts for tests: object storage as a folder, a stand-in for moxing, ranks as processes.

One rank is python modelarts_bench.py CONFIGURATION TIMEOUT STEP...; CONFIGURATION is JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from model_utils import moxing_adapter, program, ranks
from model_utils.config import Config

HERE = Path(__file__).resolve().parent
RANK = os.environ.get("RANK_ID")
RANK_NAMES = ("RANK_ID", "RANK_SIZE", "DEVICE_ID", "DEVICE_NUM", "JOB_ID", "MS_ROLE", "MS_WORKER_NUM")


class Place:
    """Object storage, local disk and temporary area of one server."""

    def __init__(self, root: Path):
        self.root, self.storage, self.temporary = root, root / "storage", root / "tmp"
        self.temporary.mkdir()
        self.put("data/cat/0.jpg", "picture")
        self.put("weights/best.ckpt", "weights")

    def put(self, name: str, text: str = "") -> Path:
        path = self.storage / "bucket" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def config(self, **changes) -> Config:
        values = {
            "enable_modelarts": True,
            "data_url": "s3://bucket/data",
            "train_url": "obs://bucket/train/",
            "checkpoint_url": "",
            "data_path": str(self.root / "cache" / "data"),
            "output_path": str(self.root / "cache" / "train"),
            "load_path": str(self.root / "cache" / "checkpoint"),
            "modelarts_dataset_unzip_name": "",
            "upload_interval": 0,
            "train_data_dir": "./data",
            "checkpoint_path": "given.ckpt",
        }
        return Config({**values, **changes})

    @property
    def output(self) -> Path:
        return Path(self.config().output_path)

    def start(
        self, rank: int, size: int, *steps: str, timeout: float = 60.0, framework: bool = False, **environment: str
    ) -> subprocess.Popen:
        """Start a rank; without `framework`, a stand-in for MindSpore saves the time to import it."""
        folders = [HERE.parent / "utils", HERE / "fake_moxing", *([] if framework else [HERE / "fake_mindspore"])]
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "RANK_ID": str(rank),
                     "RANK_SIZE": str(size), **environment}  # fmt: skip
        command = [sys.executable, __file__, json.dumps(self.config().to_dict()), str(timeout)]
        return subprocess.Popen([*command, *(steps or ["write"])], env=variables, stderr=subprocess.PIPE, text=True)

    def copies(self) -> list[str]:
        log = self.root / "calls.log"
        return log.read_text().splitlines() if log.exists() else []

    def results(self) -> list[str]:
        return sorted(path.name for path in (self.storage / "bucket" / "train").glob("*"))


def finish(*processes: subprocess.Popen) -> list[tuple[int, str]]:
    """(exit status, stderr) of each rank."""
    output = [process.communicate(timeout=120)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, output)]


def wait_until(condition: Callable[[], object], *processes: subprocess.Popen) -> None:
    """Until it comes true, while these processes run."""
    end = time.monotonic() + 120
    while not condition():
        for process in processes:
            assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def modelarts_place(root: Path, monkeypatch) -> Iterator[Place]:
    """Inside, this process has the stand-in for moxing; the ranks must leave the temporary area empty."""
    place = Place(root)
    for name in RANK_NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FAKE_MOXING_STORAGE", str(place.storage))
    monkeypatch.setenv("TMPDIR", str(place.temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.syspath_prepend(str(HERE / "fake_moxing"))
    yield place
    sys.modules.pop("moxing", None)
    assert list(place.temporary.iterdir()) == [], "the temporary area must be left empty"


# ---- One rank: what it does within the job, functions of this file or `sleep:SECONDS` ------------------------------


def write(config: Config, name: str = "rank") -> None:
    """A result, where the data is there."""
    assert Path(config.train_data_dir, "cat", "0.jpg").read_text() == "picture"
    Path(config.output_path, f"{name}{RANK}.txt").write_text("result")


def write_again(config: Config) -> None:
    write(config, "second")


def fail(_: Config) -> None:
    raise ValueError(f"rank {RANK}")


def hang(_: Config) -> None:
    time.sleep(600)


def wait_for_rank1(config: Config) -> None:
    while not Path(config.output_path, "rank1.txt").exists():
        time.sleep(0.02)


def exit_on_sigterm(_: Config) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def find_private_folder(_: Config) -> None:
    """In which the ranks meet."""
    (folder,) = Path(os.environ["TMPDIR"]).iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700


def use_local_data(config: Config) -> Config:
    return config.replace(train_data_dir=config.data_path)


def main() -> None:
    """Waits that end a job in tests of a minute; FAILURE_WAIT of the environment where a test waits for their end."""
    ranks.POLL, moxing_adapter.END_WAIT = 0.02, 60.0
    ranks.FAILURE_WAIT = moxing_adapter.FAILURE_WAIT = float(os.environ.get("FAILURE_WAIT", "60"))
    config, timeout, *steps = sys.argv[1:]
    with moxing_adapter.job(Config(json.loads(config)), use_local_data, float(timeout)) as config:
        for step in steps:
            if step.startswith("sleep:"):
                time.sleep(float(step.partition(":")[2]))
            else:
                globals()[step](config)


if __name__ == "__main__":
    program.run(main)
