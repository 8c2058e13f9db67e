"""Callbacks on real trainings with mindspore.Model: checkpoints, evaluation, resume, and the orderly stop on a signal."""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace

from model_utils import checkpoint
from model_utils.callbacks import Evaluate, Interrupt, SaveCheckpoint
from model_utils.checkpoint import CheckpointFolder
from model_utils.errors import UsageError
from model_utils.progress import Position
from small_run import CPU, STEPS, Run, interrupt_now

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("graph_mode", "programs")


@pytest.fixture(autouse=True)
def same_handlers():
    """Of signals."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Three epochs without an interruption; losses by step, and the last state."""
    run = Run(tmp_path_factory.mktemp("straight"), epochs=3)
    assert run.train() == 0
    return SimpleNamespace(losses=run.curve(), state=run.state())


@pytest.mark.parametrize("interval, saved", [(1, ["1_5", "2_5", "3_5"]), (2, ["2_5", "3_5"]), (5, ["3_5"])])
def test_checkpoints_every_few_epochs_and_at_the_end(tmp_path, interval, saved):
    run = Run(tmp_path, epochs=3, save_interval=interval)
    run.train()
    assert run.saved == saved
    parameters, metadata = checkpoint.load(run.folder.files()[-1])
    assert metadata == {"about": "x", "epoch": 3, "step": 5}
    assert {name: p.asnumpy().tobytes() for name, p in parameters.items()} == run.state()


@pytest.mark.parametrize("stop", [3, 5, 15])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_and_resume_equal_an_uninterrupted_run(tmp_path, straight, stop, number):
    first = Run(tmp_path, epochs=3, save_interval=10)
    assert first.train(**{f"step_begin_at_{stop}": interrupt_now(number)}) == 128 + number
    assert first.saved == [f"{(stop - 1) // STEPS + 1}_{(stop - 1) % STEPS + 1}"]
    assert list(first.curve()) == list(range(1, stop + 1))
    assert first.log.count(f"stopping on signal {int(number)}") == 1
    second = Run(tmp_path, epochs=3)
    assert second.state() != straight.state, "each run starts anew"
    assert second.resume().position.total == stop
    assert second.train() == 0
    assert second.curve() == straight.losses and second.state() == straight.state


@pytest.mark.parametrize("place", ["epoch_begin_at_2", "epoch_end_at_1", "step_end_at_5", "evaluation"])
def test_interrupt_between_steps_loses_nothing(tmp_path, straight, place):
    """Whenever the signal comes, the run ends with a checkpoint of where it stands."""
    run, signals = Run(tmp_path, epochs=3, save_interval=10), iter([interrupt_now()])
    if place == "evaluation":
        assert run.train(lambda: next(signals, lambda: None)() or 0.5) == 130
    else:
        assert run.train(**{place: interrupt_now()}) == 130
    assert run.saved == (["1_5"] if place == "step_end_at_5" else ["2_1"])
    Run(tmp_path, epochs=3).resume().train()
    assert run.curve() == straight.losses


def test_checkpoints_after_steps(tmp_path):
    """Steps of the run count, whatever the epoch; the last one is always saved."""
    at, folder = Position(STEPS), CheckpointFolder(tmp_path, "net", 9, counts_all_steps=True)
    state = SimpleNamespace(training_state=lambda: {"x": np.zeros(1, np.float32)})
    callback = SaveCheckpoint(at, folder, state, {"steps_per_epoch": STEPS}, 3, 1, step_interval=4)
    context = SimpleNamespace(get_stop_requested=lambda: False)
    for at.epoch in (1, 2, 3):
        for at.step in range(1, STEPS + 1):
            callback.on_train_step_end(context)
        callback.on_train_epoch_end(context)
    assert [path.name for path in folder.files()] == [f"net-{place}.ckpt" for place in ("1_4", "2_8", "3_12", "3_15")]
    metadata = checkpoint.load(folder.files()[1])[1]
    assert (metadata["epoch"], metadata["step"]) == (2, 3), "the state counts from the start of the epoch"
    folder.set_aside_after(metadata)
    assert [path.stem for path in folder.files()] == ["net-1_4", "net-2_8"]


def test_second_signal_ends_at_once(tmp_path, monkeypatch):
    def end(status):
        raise SystemExit(status)

    monkeypatch.setattr(os, "_exit", end)
    run = Run(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run.train(step_begin_at_2=lambda: [interrupt_now()(), interrupt_now(signal.SIGTERM)()])
    assert ended.value.code == 143 and run.saved == []


def ranks_stop(signals: list[int], interval: int) -> list[tuple[int, int]]:
    """An epoch of Interrupt on each rank; `signals` came to them before its first step. (status, last step) of each."""
    device = SimpleNamespace(size=len(signals), sum=lambda _: [float(sum(signals))])
    result = []
    for number in signals:
        position, stopped = Position(STEPS), []
        with Interrupt(device, position, interval) as interrupt:
            if number:
                interrupt._on_signal(number, None)
            while position.step < STEPS and not stopped:
                position.step += 1
                interrupt.on_train_step_end(SimpleNamespace(request_stop=lambda stopped=stopped: stopped.append(True)))
        result.append((interrupt.status, position.step))
    return result


@pytest.mark.parametrize("interval, last", [(1, 1), (3, 3), (9, STEPS)])
def test_ranks_stop_at_the_same_step(interval, last):
    """Whichever had the signal; they ask each other every few steps, and at the end of an epoch."""
    assert ranks_stop([2, 0], interval) == [(130, last), (143, last)]
    assert ranks_stop([0, 15], interval) == [(143, last), (143, last)]
    assert ranks_stop([0, 0], interval) == [(0, STEPS), (0, STEPS)]


def test_handlers_are_put_back():
    """One that a library has set is None for Python, which does not take None."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyError), Interrupt(CPU, Position(1)) as interrupt:
        assert signal.getsignal(signal.SIGINT) == interrupt._on_signal == signal.getsignal(signal.SIGTERM)
        interrupt._before[signal.SIGTERM] = None
        raise KeyError
    assert signal.getsignal(signal.SIGINT) == before and interrupt.status == 0
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_interrupt_outside_the_main_thread():
    statuses, before = [], signal.getsignal(signal.SIGINT)

    def work():
        with Interrupt(CPU, Position(1)) as interrupt:
            statuses.append(interrupt.status)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert statuses == [0] and signal.getsignal(signal.SIGINT) == before


def test_best_is_kept(tmp_path):
    run, kept = Run(tmp_path, epochs=5), []
    values = iter([0.2, 0.6, 0.4, 0.6, 0.7])
    run.train(lambda: next(values), save_best=lambda metrics: kept.append((run.position.epoch, metrics["accuracy"])))
    assert kept == [(1, 0.2), (2, 0.6), (5, 0.7)]
    assert (run.metadata["best"], run.metadata["best_epoch"]) == (0.7, 5)
    assert run.curve("accuracy") == {5: 0.2, 10: 0.6, 15: 0.4, 20: 0.6, 25: 0.7}
    line = "validation after epoch 4: accuracy 0.6000, other 0.5000; best accuracy 0.6000 after epoch 2"
    assert line in run.log.splitlines()


@pytest.mark.parametrize("actions, epochs", [({}, [2, 4, 5]), ({"step_begin_at_18": interrupt_now()}, [2])])
def test_evaluation_interval(tmp_path, actions, epochs):
    """The last epoch is evaluated always, a part of an epoch never."""
    run, calls = Run(tmp_path, epochs=5), []
    run.train(lambda: calls.append(run.position.epoch) or 0.0, eval_interval=2, **actions)
    assert calls == epochs and run.metadata["best"] == 0.0


def test_best_survives_a_resume(tmp_path):
    run, kept = Run(tmp_path, epochs=4), []
    values = iter([0.2, 0.6])
    run.train(lambda: next(values), step_begin_at_12=interrupt_now())
    again, values = Run(tmp_path, epochs=4).resume(), iter([0.5, 0.55])
    again.train(lambda: next(values), save_best=kept.append)
    assert kept == [] and (again.metadata["best"], again.metadata["best_epoch"]) == (0.6, 2)
    assert checkpoint.load(again.folder.files()[-1])[1]["best"] == 0.6


def test_report_gets_what_it_may_keep():
    """After each evaluation: metrics, epoch, and the metadata in which the best is already noted."""
    at, metadata, seen = Position(STEPS, 3, STEPS), {}, []

    def report(metrics, epoch, about):
        about["accuracies"] = [metrics["accuracy"]]
        seen.append((dict(metrics), epoch, about["best"]))

    callback = Evaluate(at, lambda: {"accuracy": 0.5}, None, "accuracy", metadata, 9, 3, None, report)
    for at.epoch in (3, 4):
        callback.on_train_epoch_end(None)
    assert seen == [({"accuracy": 0.5}, 3, 0.5)]
    assert metadata == {"best": 0.5, "best_epoch": 3, "accuracies": [0.5]}


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda at: SaveCheckpoint(at, None, None, {}, 1, 0), "save_checkpoint_epochs=0"),
        (lambda at: SaveCheckpoint(at, None, None, {}, 1, 1, 0), "save_checkpoint_steps=0"),
        (lambda at: Evaluate(at, None, None, "x", {}, 1, -2, None), "eval_interval=-2"),
    ],
)
def test_intervals_that_cannot_be(make, text):
    with pytest.raises(UsageError, match=text):
        make(Position(STEPS))
