"""The ranks of a server: which one a process is, and how they meet; real processes run a ModelArts job."""

import signal
import time
from pathlib import Path

from model_utils.errors import DataError
from model_utils.ranks import local_rank
from modelarts_bench import finish, modelarts_place, wait_until

import pytest


@pytest.fixture
def place(tmp_path, monkeypatch):
    with modelarts_place(tmp_path, monkeypatch) as place:
        yield place


OMPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "RANK_SIZE": "4"}  # dealt out to two servers in turn  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1, 0)),
        ({"DEVICE_ID": "5"}, (0, 1, 0)),
        ({"RANK_ID": "3", "RANK_SIZE": "8"}, (3, 8, 3)),
        ({"RANK_ID": "11", "RANK_SIZE": "16", "DEVICE_NUM": "8", "DEVICE_ID": "7"}, (3, 8, 11)),
        ({"RANK_SIZE": "1", "DEVICE_NUM": "8"}, (0, 1, 0)),
        ({"MS_WORKER_NUM": "4", "DEVICE_NUM": "2", "DEVICE_ID": "1"}, (1, 2, 1)),
        (OMPI, (1, 2, 2)),
    ],
)
def test_local_rank(environment, expected):
    assert local_rank(environment) == expected


def test_local_rank_that_is_no_number():
    with pytest.raises(DataError, match="RANK_ID=first: a number of at most nine digits is expected"):
        local_rank({"RANK_SIZE": "2", "RANK_ID": "first"})


def test_one_copy_for_all_ranks_and_an_upload_after_the_last(place):
    ranks = [place.start(2, 3, "sleep:0.3", "write", FAKE_MOXING_SECONDS="0.1")]
    ranks += [place.start(rank, 3, "find_private_folder", "write", FAKE_MOXING_SECONDS="0.1") for rank in (1, 0)]
    assert [status for status, _ in finish(*ranks)] == [0, 0, 0]
    sources = ["s3://bucket/data", place.config().output_path]
    assert [copy.split()[0:2] for copy in place.copies()] == [["copy_parallel", source] for source in sources]
    assert place.results() == ["rank0.txt", "rank1.txt", "rank2.txt"]


def test_other_ranks_learn_of_a_failure_at_once(place):
    """They would wait for an hour."""
    start = time.monotonic()
    results = finish(*(place.start(rank, 3, timeout=3600, FAKE_MOXING_FAIL="data") for rank in range(3)))
    assert time.monotonic() - start < 50
    assert [status for status, _ in results] == [1, 1, 1]
    assert results[0][1].startswith("error: copying s3://bucket/data")
    for _, text in results[1:]:
        assert text.startswith("error: the first rank of this server failed: DataError: copying s3://bucket/data")


def test_time_out(place):
    """Of the first rank, which the others learn of, and without the first rank."""
    second = place.start(1, 3)
    wait_until(lambda: list(place.temporary.glob("*/rank1")), second)
    results = finish(place.start(0, 3, timeout=1.0, FAILURE_WAIT="0.3"), second)
    assert "error: 2 of 3 ranks came within 1 s" in results[0][1]
    assert "the first rank of this server failed: DataError: 2 of 3 ranks came" in results[1][1]
    assert [copy.split()[1] for copy in place.copies()] == ["s3://bucket/data"]
    ((status, text),) = finish(place.start(1, 2, timeout=0.1))
    assert status == 1 and "the first rank of this server gave no answer within 0.1 s" in text


@pytest.mark.parametrize("failing", [0, 1])
def test_error_of_one_rank_does_not_keep_the_results(place, failing):
    """They are those of all ranks, also after an error of the first one."""
    ranks = [place.start(1 - failing, 2, "sleep:0.4", "write"), place.start(failing, 2, "write", "fail")]
    results = finish(*ranks)
    assert [status for status, _ in results] == [0, 1] and f"ValueError: rank {failing}" in results[1][1]
    assert place.results() == ["rank0.txt", "rank1.txt"]


def test_first_rank_does_not_wait_long_after_its_own_error(place):
    hanging = place.start(1, 2, "write", "hang")
    (result,) = finish(place.start(0, 2, "write", "wait_for_rank1", "fail", FAILURE_WAIT="0.3"))
    assert result[0] == 1 and "ValueError: rank 0" in result[1] and "not all ranks" in result[1]
    assert place.results() == ["rank0.txt", "rank1.txt"]
    hanging.kill()
    finish(hanging)


def test_termination_while_the_first_rank_waits(place):
    """Exit by SIGTERM while it waits for the others: the results go out."""
    hanging = place.start(1, 2, "write", "hang")
    first = place.start(0, 2, "exit_on_sigterm", "write", FAILURE_WAIT="0.3")
    wait_until(lambda: all((place.output / f"rank{rank}.txt").exists() for rank in range(2)), first, hanging)
    time.sleep(0.2)
    first.send_signal(signal.SIGTERM)
    assert finish(first)[0][0] == 143 and place.results() == ["rank0.txt", "rank1.txt"]
    hanging.kill()
    finish(hanging)


@pytest.mark.parametrize("rank", [0, 1])
def test_termination_before_the_block_leaves_nothing(place, rank):
    """While the first rank copies, and while another one waits for it; with the framework and its threads."""
    process = place.start(rank, 2, framework=True, FAKE_MOXING_SECONDS="600", FAILURE_WAIT="0.2")
    wait_until(lambda: place.copies() if rank == 0 else list(place.temporary.glob("*/rank1")), process)
    process.send_signal(signal.SIGTERM)
    assert finish(process) == [(143, "")] and not list(place.temporary.iterdir())


def killed_job(place):
    """A job of two ranks that is killed in its block, and the folder that it leaves."""
    ranks = [place.start(rank, 2, "write", "hang") for rank in range(2)]
    wait_until(lambda: all((place.output / f"rank{rank}.txt").exists() for rank in range(2)), *ranks)
    for process in ranks:
        process.kill()
    finish(*ranks)
    (folder,) = place.temporary.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["answer", "rank1"]
    return folder


def test_files_of_a_killed_job_are_not_mistaken(place):
    folder = killed_job(place)
    before = (folder / "rank1").read_text()
    (folder / "done1").write_text("0" * 32)
    for path in Path(place.config().data_path).rglob("*.jpg"):
        path.unlink()
    second = place.start(1, 2, "sleep:0.3", "write_again")
    wait_until(lambda: (folder / "rank1").read_text() not in ("", before), second)
    time.sleep(0.2)
    assert second.poll() is None, "it must wait for the first rank of its own job"
    first = place.start(0, 2, FAKE_MOXING_SECONDS="0.1")
    assert [status for status, _ in finish(first, second)] == [0, 0]
    assert "second1.txt" in place.results()


def test_folder_that_others_can_enter_is_refused(place):
    folder = killed_job(place)
    elsewhere = folder.rename(place.root / "elsewhere")
    for make in (lambda: folder.mkdir() or folder.chmod(0o777), lambda: folder.symlink_to(elsewhere)):
        make()
        for rank in (0, 1):
            (result,) = finish(place.start(rank, 2, timeout=5))
            assert result[0] == 1 and "must be a folder that only this user can enter" in result[1]
        assert sorted(path.name for path in elsewhere.iterdir()) == ["answer", "rank1"]
        folder.unlink() if folder.is_symlink() else folder.rmdir()
