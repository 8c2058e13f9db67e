"""The ModelArts adapter with one rank, against a stand-in for moxing; test_ranks.py has several."""

import os
import signal
import sys
import zipfile
from pathlib import Path

from model_utils.errors import DataError, UsageError
from model_utils.logger import get_logger, init_logger
from model_utils.moxing_adapter import Upload, checkpoint_file, data_dir, job, upload
from model_utils.progress import Position
from modelarts_bench import modelarts_place, use_local_data

import pytest


@pytest.fixture
def place(tmp_path, monkeypatch):
    with modelarts_place(tmp_path, monkeypatch) as place:
        yield place


def run_job(place, **changes):
    with job(place.config(**changes), use_local_data):
        pass


@pytest.mark.parametrize("enabled", [False, True])
def test_switched_off_and_for_the_scheduler_of_msrun_it_does_nothing(place, monkeypatch, enabled):
    monkeypatch.setitem(sys.modules, "moxing", None)  # an import would fail
    if enabled:
        monkeypatch.setenv("MS_ROLE", "MS_SCHED")
    config = place.config(enable_modelarts=enabled)
    with job(config, None) as given:
        assert given is config
    if not enabled:
        upload(config)
    assert place.copies() == [] and not (place.root / "cache").exists()


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


def epochs_with_upload(place, events, position, epochs, **changes):
    """Run a job of some epochs; returns after which of them the results were there."""
    seen = []
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


@pytest.mark.parametrize(
    ("interval", "first", "epochs", "expected"),
    [(0, 1, 5, []), (1, 1, 3, [1, 2]), (2, 1, 5, [2, 4]), (9, 1, 5, []), (3, 4, 7, [6])],
)
def test_upload_every_few_epochs_of_the_whole_run(place, interval, first, epochs, expected):
    events = []
    position = Position(10, epoch=first)
    assert epochs_with_upload(place, events, position, epochs, upload_interval=interval) == expected
    assert events == ["barrier"] * len(expected), "the other ranks are waited for"
    assert len(place.copies()) == 2 + len(expected) and len(place.results()) == epochs + 1 - first


@pytest.mark.parametrize("changes", [{"enable_modelarts": False}, {"train_url": ""}], ids=str)
def test_no_upload_elsewhere(place, changes):
    Path(place.config().output_path).mkdir(parents=True)
    events = []
    assert epochs_with_upload(place, events, Position(10), 5, upload_interval=1, **changes) == [] and events == []


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


@pytest.mark.parametrize(
    ("changes", "fail", "error", "message", "copies"),
    [
        ({}, "train", DataError, "cache/train to obs://bucket/train failed: OSError: storage refuses", 2),
        ({}, "data", DataError, "copying s3://bucket/data to .* failed", 1),
        ({"data_url": "s3://bucket/nothing"}, "", DataError, "data_url=s3://bucket/nothing does not exist", 0),
        ({"data_url": "/data"}, "", UsageError, "data_url=/data: an address s3://", 0),
        ({"train_url": "/data"}, "", UsageError, "train_url=/data: an address s3://", 0),
        ({"checkpoint_url": "/data"}, "", UsageError, "checkpoint_url=/data: an address s3://", 0),
        ({"upload_interval": -1}, "", UsageError, "upload_interval=-1: 0 .only at the end. or more is accepted", 0),
        (
            {"modelarts_dataset_unzip_name": "flowers"},
            "",
            DataError,
            "flowers.zip is missing; check data_url and modelarts_dataset_unzip_name",
            None,
        ),
    ],
)
def test_what_cannot_be_copied_is_an_error(place, monkeypatch, changes, fail, error, message, copies):
    """Nothing goes out where the data did not come in."""
    monkeypatch.setenv("FAKE_MOXING_FAIL", fail)
    with pytest.raises(error, match=message):
        run_job(place, **changes)
    assert place.results() == [] and copies in (None, len(place.copies()))


def test_outside_of_modelarts(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "moxing", None)
    for changes in ({}, {"data_url": ""}):
        with pytest.raises(DataError, match="needs the package moxing"):
            run_job(place, **changes)


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


def test_job_without_data_does_not_ask_for_the_zip_file(place):
    """An export: the recipe names a zip file for training; where one lies there, it is unpacked all the same."""
    changes = {"data_url": "", "modelarts_dataset_unzip_name": "flowers"}
    run_job(place, **changes)
    config = place.config(**changes)
    Path(config.data_path).mkdir(parents=True)
    with zipfile.ZipFile(Path(config.data_path, "flowers.zip"), "w") as archive:
        archive.writestr("cat/0.jpg", "picture")
    run_job(place, **changes)
    assert Path(data_dir(config), "cat", "0.jpg").read_text() == "picture"


def test_second_server_has_its_own_results(place, monkeypatch):
    Path(place.config().output_path).mkdir(parents=True)
    for rank in range(4):
        monkeypatch.setenv("RANK_ID", str(rank))
        monkeypatch.setenv("RANK_SIZE", "4")
        monkeypatch.setenv("DEVICE_NUM", "2")
        upload(place.config())
    assert [copy.split()[-1] for copy in place.copies()] == ["obs://bucket/train", "obs://bucket/train/rank_2"]


def test_signals_are_the_callers_again_in_the_block(place):
    handler = signal.getsignal(signal.SIGTERM)
    with job(place.config(), use_local_data):
        assert signal.getsignal(signal.SIGTERM) is handler
