"""The ModelArts adapter against a stand-in for moxing, with real processes for the ranks of a server."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from model_utils import moxing_adapter
from model_utils.callbacks import Position
from model_utils.config import Config, DataError, UsageError
from model_utils.logger import get_logger, init_logger
from model_utils.moxing_adapter import Upload, checkpoint_file, data_dir, job, local_rank, unzip_dataset, upload

import pytest

HERE = Path(__file__).resolve().parent
RANK_NAMES = ("RANK_ID", "RANK_SIZE", "DEVICE_ID", "DEVICE_NUM", "JOB_ID", "MS_ROLE", "MS_WORKER_NUM")

# A rank: configuration, time-out, code of the block. It prints what it raises.
RANK = """
import json, os, sys, time
from pathlib import Path
from model_utils import moxing_adapter
from model_utils.config import Config, DataError

moxing_adapter.POLL, moxing_adapter.END_WAIT = 0.02, 20.0
moxing_adapter.FAILURE_WAIT = float(os.environ.get("FAILURE_WAIT", "20"))
config, timeout, block = Config(json.loads(sys.argv[1])), float(sys.argv[2]), sys.argv[3]
rank = os.environ["RANK_ID"]
try:
    with moxing_adapter.job(config, lambda config: config.replace(train_data_dir=config.data_path), timeout) as config:
        exec(block)
except DataError as error:
    sys.exit(f"DataError: {error}")
"""
SEES_DATA = "assert Path(config.train_data_dir, 'cat', '0.jpg').read_text() == 'picture'\n"
WRITES = SEES_DATA + "Path(config.output_path, f'rank{rank}.txt').write_text('result')\n"


class Place:
    """Object storage, local disk and temporary area of one server."""

    def __init__(self, root):
        self.root, self.storage, self.temporary = root, root / "storage", root / "tmp"
        self.temporary.mkdir()
        self.put("data/cat/0.jpg", "picture")
        self.put("weights/best.ckpt", "weights")

    def put(self, name, text=""):
        path = self.storage / "bucket" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def config(self, **changes):
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

    def start(self, rank, size, block=WRITES, timeout=20.0, config=None, **environment):
        """Start one rank as a process."""
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE.parent / "utils"), str(HERE / "fake_moxing")]),
            "RANK_ID": str(rank),
            "RANK_SIZE": str(size),
            **environment,
        }
        arguments = [json.dumps((config or self.config()).to_dict()), str(timeout), block]
        return subprocess.Popen(
            [sys.executable, "-c", RANK, *arguments], env=variables, stderr=subprocess.PIPE, text=True
        )  # fmt: skip

    def copies(self):
        log = self.root / "calls.log"
        return log.read_text().splitlines() if log.exists() else []

    def results(self):
        return sorted(path.name for path in (self.storage / "bucket" / "train").glob("*"))


def finish(*processes):
    """(exit status, stderr) of each rank."""
    output = [process.communicate(timeout=60)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, output)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    place = Place(tmp_path)
    for name in RANK_NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FAKE_MOXING_STORAGE", str(place.storage))
    monkeypatch.setenv("TMPDIR", str(place.temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.syspath_prepend(str(HERE / "fake_moxing"))
    yield place
    sys.modules.pop("moxing", None)
    assert list(place.temporary.iterdir()) == [], "the temporary area must be left empty"


# ---- one rank ------------------------------------------------------------------------------------------------------


def use_local_data(config):
    return config.replace(train_data_dir=config.data_path)


def test_switched_off_it_does_nothing(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "moxing", None)  # an import would fail
    config = place.config(enable_modelarts=False, data_url="nonsense")
    with job(config, None) as given:
        assert given is config
    upload(config)
    assert place.copies() == [] and not (place.root / "cache").exists()


def test_scheduler_of_msrun_takes_no_part(place, monkeypatch):
    monkeypatch.setenv("MS_ROLE", "MS_SCHED")
    config = place.config()
    with job(config, None) as given:
        assert given is config
    assert place.copies() == []


@pytest.mark.parametrize("scheme", ["s3://", "obs://"])
def test_data_in_and_results_out(place, scheme):
    place.put("train/old.txt")
    config = place.config(data_url=f"{scheme}bucket/data/", train_url=f"{scheme}bucket/train")
    with job(config, use_local_data) as local:
        assert (Path(local.train_data_dir) / "cat" / "0.jpg").read_text() == "picture"
        assert list(Path(local.output_path).iterdir()) == []  # results of earlier jobs are not brought in
        (Path(local.output_path) / "new.txt").write_text("x")
    assert config.train_data_dir == "./data"
    assert place.results() == ["new.txt", "old.txt"] and len(place.copies()) == 2


def test_upload_while_the_block_runs(place):
    with job(place.config(), use_local_data) as config:
        (Path(config.output_path) / "epoch1.ckpt").write_text("x")
        upload(config)
        assert place.results() == ["epoch1.ckpt"]


def epochs_with_upload(place, events, position=None, epochs=5, **changes):
    """Run a job of some epochs; returns after which of them the results were there."""
    position, seen = position or Position(10), []
    with job(place.config(**changes), use_local_data) as config:
        callback = Upload(config, position, epochs, lambda: events.append("barrier"))
        while position.epoch <= epochs:
            position.step = position.steps_per_epoch
            (Path(config.output_path) / f"epoch{position.epoch}.txt").touch()
            callback.on_train_epoch_end(None)
            if f"epoch{position.epoch}.txt" in place.results():
                seen.append(position.epoch)
            position.epoch += 1
    return seen


@pytest.mark.parametrize(("interval", "epochs", "expected"), [(0, 5, []), (1, 3, [1, 2]), (2, 5, [2, 4]), (9, 5, [])])
def test_upload_every_few_epochs(place, interval, epochs, expected):
    events = []
    assert epochs_with_upload(place, events, epochs=epochs, upload_interval=interval) == expected
    assert events == ["barrier"] * len(expected), "the other ranks are waited for"
    assert len(place.copies()) == 2 + len(expected) and len(place.results()) == epochs


def test_upload_interval_counts_epochs_of_the_whole_run(place):
    assert epochs_with_upload(place, [], Position(10, epoch=4), epochs=7, upload_interval=3) == [6]


@pytest.mark.parametrize("changes", [{"enable_modelarts": False}, {"train_url": ""}], ids=str)
def test_no_upload_elsewhere(place, changes):
    Path(place.config().output_path).mkdir(parents=True)
    events = []
    assert epochs_with_upload(place, events, upload_interval=1, **changes) == [] and events == []


def test_no_upload_of_an_epoch_that_is_cut_short(place):
    events = []
    Upload(place.config(upload_interval=1), Position(10, 1, 7), 5, lambda: events.append(1)).on_train_epoch_end(None)
    assert place.copies() == [] and events == []


def test_failed_upload_between_epochs_is_a_warning(place, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_MOXING_FAIL", "train")
    with job(place.config(upload_interval=1), use_local_data) as config:
        Upload(config, Position(10, epoch=1, step=10), 5, lambda: None).on_train_epoch_end(None)
        warning = capsys.readouterr().err
        monkeypatch.setenv("FAKE_MOXING_FAIL", "")
        (Path(config.output_path) / "late.txt").touch()
    assert warning.startswith("warning: copying ") and "storage refuses train; training goes on" in warning
    assert place.results() == ["late.txt"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(143)], ids=repr)
@pytest.mark.parametrize("fail", ["", "train"])
def test_results_go_out_after_an_error_and_the_error_stays(place, monkeypatch, capsys, error, fail):
    monkeypatch.setenv("FAKE_MOXING_FAIL", fail)
    with pytest.raises(type(error)) as caught, job(place.config(), use_local_data) as config:
        (Path(config.output_path) / "log.txt").write_text("x")
        raise error
    assert caught.value is error
    assert place.results() == ([] if fail else ["log.txt"])
    assert ("storage refuses train" in capsys.readouterr().err) == bool(fail)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DataError("the loss is nan"), ["the job failed: DataError: the loss is nan"]),
        (ValueError("bad"), ["the job failed: ValueError: bad", "Traceback (most recent call last):"]),
        (KeyboardInterrupt(), []),
    ],
    ids=repr,
)
def test_the_log_that_goes_out_says_why(place, error, expected):
    with pytest.raises(type(error)), job(place.config(), use_local_data) as config:
        init_logger(config.output_path, "train.log")
        raise error
    for handler in list(get_logger().handlers):
        get_logger().removeHandler(handler)
        handler.close()
    lines = (place.storage / "bucket/train/train.log").read_text().splitlines()
    assert lines[:2] == expected and (len(lines) == len(expected) or "raise error" in "".join(lines))


def test_error_of_adapt_reaches_the_caller(place):
    def adapt(config):
        raise DataError("no such checkpoint")

    with pytest.raises(DataError, match="no such checkpoint"), job(place.config(), adapt):
        pass


def test_failed_upload_is_an_error(place, monkeypatch):
    monkeypatch.setenv("FAKE_MOXING_FAIL", "train")
    with (
        pytest.raises(DataError, match="cache/train to obs://bucket/train failed: OSError: storage refuses"),
        job(place.config(), use_local_data),
    ):
        pass


def test_failed_download_is_an_error_and_nothing_goes_out(place, monkeypatch):
    monkeypatch.setenv("FAKE_MOXING_FAIL", "data")
    with pytest.raises(DataError, match="copying s3://bucket/data to .* failed"), job(place.config(), use_local_data):
        pytest.fail("the block must not run")
    assert place.results() == [] and len(place.copies()) == 1


def test_missing_address(place):
    with (
        pytest.raises(DataError, match="data_url=s3://bucket/nothing does not exist"),
        job(place.config(data_url="s3://bucket/nothing"), use_local_data),
    ):
        pass


@pytest.mark.parametrize("key", ["data_url", "train_url", "checkpoint_url"])
def test_address_of_another_kind(place, key):
    with (
        pytest.raises(UsageError, match=f"{key}=/data: an address s3://"),
        job(place.config(**{key: "/data"}), use_local_data),
    ):
        pass


def test_upload_interval_below_zero(place):
    with (
        pytest.raises(UsageError, match="upload_interval=-1: 0 .only at the end. or more is accepted"),
        job(place.config(upload_interval=-1), use_local_data),
    ):
        pass
    assert place.copies() == []


def test_outside_of_modelarts(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "moxing", None)
    for config in (place.config(), place.config(data_url="")):
        with pytest.raises(DataError, match="needs the package moxing"), job(config, use_local_data):
            pytest.fail("the block must not run")


def test_without_addresses_nothing_is_copied(place, capsys):
    with job(place.config(data_url="", train_url=""), use_local_data) as config:
        assert Path(config.output_path).is_dir()
    assert place.copies() == [] and "train_url is empty" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["obs://bucket/weights/best.ckpt", "s3://bucket/weights", "s3://bucket/weights/"])
def test_checkpoint_file(place, address):
    if address.endswith(".ckpt"):  # a named file counts, whatever else lies there
        Path(place.config().load_path).mkdir(parents=True)
        Path(place.config().load_path, "another.ckpt").write_text("of an earlier job")
    with job(place.config(checkpoint_url=address), use_local_data) as config:
        assert Path(checkpoint_file(config)) == Path(config.load_path, "best.ckpt")
        assert Path(checkpoint_file(config)).read_text() == "weights"


def test_checkpoint_file_must_be_one(place):
    place.put("weights/second.ckpt")
    with job(place.config(checkpoint_url="s3://bucket/weights"), use_local_data) as config:
        local = config
    with pytest.raises(DataError, match=r"holds best.ckpt, second.ckpt; give the address of one"):
        checkpoint_file(local)
    assert checkpoint_file(place.config()) == "given.ckpt"


def test_zip_file_of_the_data_set(place):
    with zipfile.ZipFile(place.put("packed/flowers.zip"), "w") as archive:
        archive.writestr("flowers/cat/0.jpg", "picture")
    for name in ("flowers", "flowers.zip"):
        with job(place.config(data_url="s3://bucket/packed", modelarts_dataset_unzip_name=name), lambda c: c) as config:
            assert data_dir(config) == os.path.join(config.data_path, "flowers")
            assert Path(data_dir(config), "cat", "0.jpg").read_text() == "picture"
    assert data_dir(place.config()) == place.config().data_path


def test_missing_zip_file(place):
    with (
        pytest.raises(DataError, match="flowers.zip is missing; check data_url and modelarts_dataset_unzip_name"),
        job(place.config(modelarts_dataset_unzip_name="flowers"), use_local_data),
    ):
        pass


def test_job_without_data_does_not_ask_for_the_zip_file(place):
    """An export: the recipe names a zip file for training; where one lies there, it is unpacked all the same."""
    config = place.config(data_url="", modelarts_dataset_unzip_name="flowers")
    with job(config, use_local_data):
        pass
    Path(config.data_path).mkdir(parents=True)
    packed(Path(config.data_path, "flowers.zip"), {"cat/0.jpg": "picture"})
    with job(config, use_local_data):
        assert Path(data_dir(config), "cat", "0.jpg").read_text() == "picture"


# ---- several ranks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1, 0)),
        ({"DEVICE_ID": "5"}, (0, 1, 0)),
        ({"RANK_ID": "3", "RANK_SIZE": "8"}, (3, 8, 3)),
        ({"RANK_ID": "11", "RANK_SIZE": "16", "DEVICE_NUM": "8", "DEVICE_ID": "7"}, (3, 8, 11)),
        ({"RANK_ID": "4", "RANK_SIZE": "8", "DEVICE_NUM": "4", "DEVICE_ID": "4"}, (0, 4, 4)),
        ({"RANK_SIZE": "1", "DEVICE_NUM": "8"}, (0, 1, 0)),
        ({"MS_WORKER_NUM": "4", "DEVICE_NUM": "2", "DEVICE_ID": "1"}, (1, 2, 1)),
        (
            {
                "OMPI_COMM_WORLD_SIZE": "4",
                "OMPI_COMM_WORLD_RANK": "2",  # dealt out to two servers in turn
                "OMPI_COMM_WORLD_LOCAL_RANK": "1",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
                "RANK_SIZE": "4",
            },
            (1, 2, 2),
        ),
    ],
)
def test_local_rank(environment, expected):
    assert local_rank(environment) == expected


def test_local_rank_that_is_no_number():
    with pytest.raises(DataError, match="RANK_ID=first: a number is expected"):
        local_rank({"RANK_SIZE": "2", "RANK_ID": "first"})


def test_second_server_has_its_own_results(place, monkeypatch):
    Path(place.config().output_path).mkdir(parents=True)
    for rank in range(4):
        monkeypatch.setenv("RANK_ID", str(rank))
        monkeypatch.setenv("RANK_SIZE", "4")
        monkeypatch.setenv("DEVICE_NUM", "2")
        upload(place.config())
    assert [copy.split()[-1] for copy in place.copies()] == ["obs://bucket/train", "obs://bucket/train/rank_2"]


def test_one_copy_for_all_ranks_and_an_upload_after_the_last(place):
    slow = SEES_DATA + "time.sleep(0.8)\n" + WRITES
    private = "folder, = Path(os.environ['TMPDIR']).iterdir(); assert folder.stat().st_mode & 0o777 == 0o700\n"
    ranks = [place.start(2, 3, slow, FAKE_MOXING_SECONDS="0.3")]
    ranks += [place.start(rank, 3, private + WRITES, FAKE_MOXING_SECONDS="0.3") for rank in (1, 0)]
    assert [status for status, _ in finish(*ranks)] == [0, 0, 0]
    assert [copy.split()[0:2] for copy in place.copies()] == [
        ["copy_parallel", "s3://bucket/data"],
        ["copy_parallel", place.config().output_path],
    ]
    assert place.results() == ["rank0.txt", "rank1.txt", "rank2.txt"]


def test_other_ranks_learn_of_a_failure_at_once(place):
    start = time.monotonic()
    ranks = [place.start(rank, 3, timeout=60, FAKE_MOXING_FAIL="data") for rank in range(3)]
    results = finish(*ranks)
    assert time.monotonic() - start < 30
    assert [status for status, _ in results] == [1, 1, 1]
    assert results[0][1].startswith("DataError: copying s3://bucket/data")
    for _, text in results[1:]:
        assert text.startswith("DataError: the first rank of this server failed: DataError: copying s3://bucket/data")


def test_time_out_without_the_first_rank(place):
    (result,) = finish(place.start(1, 2, timeout=0.3))
    assert result[0] == 1 and "the first rank of this server gave no answer within 0.3 s" in result[1]


def test_time_out_of_the_first_rank(place):
    second = place.start(1, 3)
    while not list(place.temporary.glob("*/rank1")):
        time.sleep(0.02)
    results = finish(place.start(0, 3, timeout=1.0, FAILURE_WAIT="0.5"), second)
    assert "DataError: 2 of 3 ranks came within 1 s" in results[0][1]
    assert "the first rank of this server failed: DataError: 2 of 3 ranks came" in results[1][1]
    assert [copy.split()[1] for copy in place.copies()] == ["s3://bucket/data"]


def test_error_of_one_rank_does_not_keep_the_results(place):
    results = finish(place.start(0, 2), place.start(1, 2, WRITES + "raise ValueError('rank 1')"))
    assert [status for status, _ in results] == [0, 1] and "ValueError: rank 1" in results[1][1]
    assert place.results() == ["rank0.txt", "rank1.txt"]


def test_results_after_an_error_of_the_first_rank_are_those_of_all(place):
    ranks = [
        place.start(1, 2, SEES_DATA + "time.sleep(0.6)\n" + WRITES),
        place.start(0, 2, WRITES + "raise ValueError"),
    ]
    assert [status for status, _ in finish(*ranks)] == [0, 1]
    assert place.results() == ["rank0.txt", "rank1.txt"]


def test_first_rank_does_not_wait_long_after_its_own_error(place):
    hanging = place.start(1, 2, WRITES + "time.sleep(60)")
    block = (
        WRITES
        + "while not Path(config.output_path, 'rank1.txt').exists(): time.sleep(0.02)\nraise ValueError('rank 0')"
    )
    (result,) = finish(place.start(0, 2, block, FAILURE_WAIT="0.5"))
    assert result[0] == 1 and "ValueError: rank 0" in result[1] and "not all ranks" in result[1]
    assert place.results() == ["rank0.txt", "rank1.txt"]
    hanging.kill()
    finish(hanging)


def test_termination_while_the_first_rank_waits(place):
    """Exit by SIGTERM while it waits for the others: the results go out."""
    patient = "import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n" + WRITES
    hanging = place.start(1, 2, WRITES + "time.sleep(60)")
    first = place.start(0, 2, patient, FAILURE_WAIT="0.5")
    while not all((Path(place.config().output_path) / f"rank{rank}.txt").exists() for rank in range(2)):
        time.sleep(0.02)
    time.sleep(0.2)
    first.send_signal(signal.SIGTERM)
    assert finish(first)[0][0] == 143 and place.results() == ["rank0.txt", "rank1.txt"]
    hanging.kill()
    finish(hanging)


@pytest.mark.parametrize("rank", [0, 1])
def test_termination_before_the_block_leaves_nothing(place, rank):
    """While the first rank copies, and while another one waits for it."""
    process = place.start(rank, 2, FAKE_MOXING_SECONDS="60", FAILURE_WAIT="0.2")
    while not (place.copies() if rank == 0 else list(place.temporary.glob("*/rank1"))):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert finish(process) == [(143, "")] and not list(place.temporary.iterdir())


def test_signals_are_the_callers_again_in_the_block(place):
    handler = signal.getsignal(signal.SIGTERM)
    with job(place.config(), use_local_data):
        assert signal.getsignal(signal.SIGTERM) is handler


def killed_job(place):
    """A job of two ranks that is killed in its block, and the folder that it leaves."""
    ranks = [place.start(rank, 2, WRITES + "time.sleep(60)") for rank in range(2)]
    output = Path(place.config().output_path)
    while not all((output / f"rank{rank}.txt").exists() for rank in range(2)):
        time.sleep(0.02)
    for process in ranks:
        process.kill()
    finish(*ranks)
    (folder,) = place.temporary.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["answer", "rank1"]
    return folder


def test_files_of_a_killed_job_are_not_mistaken(place):
    folder = killed_job(place)
    (folder / "done1").write_text("0" * 32)
    for path in Path(place.config().data_path).rglob("*.jpg"):
        path.unlink()
    second = place.start(1, 2, "time.sleep(0.5)\n" + WRITES.replace("rank{rank}", "second{rank}"))
    time.sleep(0.7)
    assert second.poll() is None, "it must wait for the first rank of its own job"
    first = place.start(0, 2, FAKE_MOXING_SECONDS="0.3")
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


# ---- zip files -----------------------------------------------------------------------------------------------------


def packed(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tree(folder):
    """Relative path -> content of every file that is not hidden."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def refused(tmp_path, zip_path, **options):
    """The message of a zip file that is refused; nothing but the zip file may be there afterwards."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError) as caught:
        unzip_dataset(zip_path, tmp_path / "set", **options)
    assert sorted(tmp_path.rglob("*")) == before
    return str(caught.value)


@pytest.mark.parametrize("prefix", ["set/", ""])
def test_unzip(tmp_path, capsys, prefix):
    files = {"train/cat/0.jpg": "a" * 600, "train/dog/0.jpg": "b" * 300, "val/cat/1.jpg": "c" * 100}
    path = packed(tmp_path / "set.zip", {prefix + name: content for name, content in files.items()})
    assert unzip_dataset(str(path), str(tmp_path / "set")) == tmp_path / "set"
    assert tree(tmp_path / "set") == files
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["set", "set.zip"]
    assert capsys.readouterr().out.splitlines() == [f"unzip set.zip: {percent}%" for percent in (60, 90, 100)]


def test_single_folder_of_another_name_is_kept(tmp_path):
    path = packed(tmp_path / "set.zip", {"other/0.jpg": "a"})
    assert tree(unzip_dataset(path, tmp_path / "set")) == {"other/0.jpg": "a"}


def test_unzip_only_once(tmp_path, capsys):
    path = packed(tmp_path / "set.zip", {"0.jpg": "a"})
    unzip_dataset(path, tmp_path / "set")
    (tmp_path / "set" / "0.jpg").write_text("touched")
    capsys.readouterr()
    unzip_dataset(path, tmp_path / "set")
    assert tree(tmp_path / "set") == {"0.jpg": "touched"} and capsys.readouterr().out == ""


def test_other_content_is_unpacked_and_the_folder_before_kept(tmp_path):
    unzip_dataset(packed(tmp_path / "set.zip", {"0.jpg": "a"}), tmp_path / "set")
    unzip_dataset(packed(tmp_path / "set.zip", {"0.jpg": "b"}), tmp_path / "set")
    assert tree(tmp_path / "set") == {"0.jpg": "b"}
    (before,) = tmp_path.glob("set.before_*")
    assert tree(before) == {"0.jpg": "a"}


def test_folder_without_completion_marker_is_not_trusted(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "half.jpg").write_text("of another tool")
    unzip_dataset(packed(tmp_path / "set.zip", {"0.jpg": "a"}), tmp_path / "set")
    assert tree(tmp_path / "set") == {"0.jpg": "a"}


@pytest.mark.parametrize("name", ["../x.jpg", "/x.jpg", "cat/../../x.jpg", "cat/..", "C:/x.jpg", "cat\\x.jpg"])
def test_path_that_leads_outside(tmp_path, name):
    area = tmp_path / "area"
    area.mkdir()
    path = packed(area / "set.zip", {"cat/0.jpg": "a", name: "b"})
    assert f"the path '{name}' leads outside" in refused(tmp_path, path)


@pytest.mark.parametrize("kind", [0o120777, 0o010644, 0o020644], ids=["link", "pipe", "device"])
def test_link_or_special_file(tmp_path, kind):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo("cat")
        member.create_system, member.external_attr = 3, kind << 16
        archive.writestr(member, "/etc")
    assert "'cat' is a link or a special file" in refused(tmp_path, path)


def test_zip_bomb(tmp_path):
    path = packed(tmp_path / "set.zip", {"zeros.bin": bytes(5_000_000)}, zipfile.ZIP_DEFLATED)
    text = refused(tmp_path, path)
    assert f"5,000,000 bytes, 1 to {200 * path.stat().st_size:,} are accepted" in text


def test_size_bound(tmp_path, monkeypatch):
    path = packed(tmp_path / "set.zip", {"0.jpg": "a" * 600, "1.jpg": "b" * 401})
    assert "1,001 bytes, 1 to 1,000" in refused(tmp_path, path, max_bytes=1000)
    usage = moxing_adapter.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(moxing_adapter.shutil, "disk_usage", lambda _: usage._replace(free=500))
    assert "1,001 bytes, 1 to 500" in refused(tmp_path, path)
    monkeypatch.undo()
    assert len(tree(unzip_dataset(path, tmp_path / "set", max_bytes=1001))) == 2


def test_size_that_the_zip_file_understates(tmp_path):
    """The declared size is what the bound is computed from; zipfile then delivers no more than that."""
    path = packed(tmp_path / "set.zip", {"0.jpg": b"a" * 1000}, zipfile.ZIP_DEFLATED)
    content = path.read_bytes()
    path.write_bytes(content.replace((1000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    assert "cannot be unpacked: Bad CRC-32" in refused(tmp_path, path)


def test_empty_zip_file(tmp_path):
    assert "unpacks to 0 bytes" in refused(tmp_path, packed(tmp_path / "set.zip", {}))


def test_not_a_zip_file(tmp_path):
    path = tmp_path / "set.zip"
    assert "set.zip is missing" in refused(tmp_path, path)
    path.write_text("hello")
    assert "set.zip (5 bytes) is no zip file, or cut short" in refused(tmp_path, path)
    content = packed(path, {f"{index}.jpg": "a" * 100 for index in range(9)}).read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    assert "is no zip file, or cut short" in refused(tmp_path, path)


def test_damaged_zip_file(tmp_path):
    path = packed(tmp_path / "set.zip", {"0.jpg": "a" * 100, "1.jpg": "b" * 100})
    path.write_bytes(path.read_bytes().replace(b"bbbbb", b"bbcbb", 1))
    assert "cannot be unpacked: Bad CRC-32 for file '1.jpg'" in refused(tmp_path, path)


def test_encrypted_zip_file(tmp_path):
    path = packed(tmp_path / "set.zip", {"0.jpg": "a" * 100})
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    path.write_bytes(content)
    assert "upload it again, without a password" in refused(tmp_path, path)


def test_interrupted_unpacking_leaves_nothing(tmp_path, monkeypatch):
    path = packed(tmp_path / "set.zip", {"0.jpg": "a", "1.jpg": "b"})
    original = zipfile.ZipFile.extract

    def interrupted(self, member, *arguments):
        if member.filename == "1.jpg":
            raise KeyboardInterrupt
        return original(self, member, *arguments)

    monkeypatch.setattr(zipfile.ZipFile, "extract", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unzip_dataset(path, tmp_path / "set")
    assert [entry.name for entry in tmp_path.iterdir()] == ["set.zip"]
    monkeypatch.undo()
    assert tree(unzip_dataset(path, tmp_path / "set")) == {"0.jpg": "a", "1.jpg": "b"}


def test_killed_unpacking_is_redone(tmp_path):
    path = packed(tmp_path / "set.zip", {"0.jpg": "a", "1.jpg": "b"})
    code = (
        "import os, sys, zipfile\nfrom model_utils.moxing_adapter import unzip_dataset\n"
        "original = zipfile.ZipFile.extract\n"
        "def killed(self, member, *a):\n"
        "    original(self, member, *a) if member.filename == '0.jpg' else os._exit(9)\n"
        "zipfile.ZipFile.extract = killed\nunzip_dataset(sys.argv[1], sys.argv[2])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent / "utils")}
    target = tmp_path / "set"
    assert subprocess.run([sys.executable, "-c", code, str(path), str(target)], env=environment).returncode == 9
    assert not target.exists() and (tmp_path / ".set.partial" / "0.jpg").exists()
    (tmp_path / ".set.partial" / "junk.jpg").write_text("half")
    assert tree(unzip_dataset(path, target)) == {"0.jpg": "a", "1.jpg": "b"}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["set", "set.zip"]
