"""One rank of the ModelArts jobs in the tests: python modelarts_rank.py CONFIGURATION TIMEOUT STEP...

CONFIGURATION is JSON. The steps, functions of this file or `sleep:SECONDS`, are what the rank does within the job.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from model_utils import moxing_adapter, program, ranks
from model_utils.config import Config

RANK = os.environ["RANK_ID"]


def shorten_waits() -> None:
    """Waits that end a job in tests of a minute; FAILURE_WAIT of the environment where a test waits for their end."""
    ranks.POLL, moxing_adapter.END_WAIT = 0.02, 60.0
    ranks.FAILURE_WAIT = moxing_adapter.FAILURE_WAIT = float(os.environ.get("FAILURE_WAIT", "60"))


def write(config: Config, name: str = "rank") -> None:
    """A result, where the data is there."""
    assert Path(config.train_data_dir, "cat", "0.jpg").read_text() == "picture"
    Path(config.output_path, f"{name}{RANK}.txt").write_text("result")


def write_again(config: Config) -> None:
    """Another one."""
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


def main() -> None:
    shorten_waits()
    config, timeout, *steps = sys.argv[1:]
    with moxing_adapter.job(Config(json.loads(config)), use_local_data, float(timeout)) as config:
        for step in steps:
            if step.startswith("sleep:"):
                time.sleep(float(step.partition(":")[2]))
            else:
                globals()[step](config)


def use_local_data(config: Config) -> Config:
    return config.replace(train_data_dir=config.data_path)


if __name__ == "__main__":
    program.run(main)
