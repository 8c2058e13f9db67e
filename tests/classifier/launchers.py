"""The launchers of a folder: each passes the documented program, flags and paths, and refuses wrong arguments.

What all launchers share is tested in tests/ of the repository, which lends its bench; inference in its test_cpp_infer.py.
"""

from __future__ import annotations

import launcher_bench as lent
from conftest import FOLDER

import pytest

SINGLE = "DEVICE_ID RANK_ID RANK_SIZE DEVICE_NUM RANK_TABLE_FILE"


class Launchers:
    """The values come from the folder."""

    FILES: tuple[str, ...]  # in the caller's folder; "rank table.json" is there too
    COUNTS: dict[str, tuple[int, ...]]  # launcher with options -> numbers of arguments that are refused
    INVALID: list[tuple[str, str]]  # call, message

    @pytest.fixture
    def bench(self, tmp_path):
        bench = lent.Bench(tmp_path, FOLDER / "scripts")
        bench.make(*self.FILES)
        bench.rank_table([(4, 1), (5, 0)])
        yield bench
        bench.end_jobs()

    def test_wrong_number_of_arguments(self, bench):
        for call, counts in self.COUNTS.items():
            script, *options = call.split()
            for count in counts:
                errors = bench.refuse(script, *["1"] * count, *options)
                assert f"error: got {count} arguments, expected " in errors and f"Usage: bash {script}" in errors

    def test_invalid_argument(self, bench):
        for call, message in self.INVALID:
            assert bench.refuse(*bench.words(call)).startswith(f"error: {message}"), call

    def test_every_launcher_is_tested(self):
        found = {path.name for path in (FOLDER / "scripts").glob("*.sh")}
        assert found - {"run_infer_310.sh", "run_infer_cpu.sh"} == {call.split()[0] for call in self.COUNTS}


def check_process(bench, job: dict, command: list[str], log: str, device: str) -> None:
    """A job of one process, whatever the environment says."""
    assert job["argv"] == command
    assert lent.values(job, SINGLE) == [device, "0", "1", "1", None]
    assert (bench.caller / log).read_text() == "text\ntext on stderr\n"


def check_group(bench, job: dict, command: list[str], log: str, number: str) -> None:
    """A job that msrun starts with this number of processes."""
    assert job["words"][:4] == ["--worker_num", number, "--local_worker_num", number]
    assert job["argv"] == command
    assert (bench.caller / log).read_text() == "text\ntext on stderr\n"
