"""What a person sees of a training: lines, bar and curves; and the stop at a loss that is not finite."""

from __future__ import annotations

import re
from types import SimpleNamespace

from model_utils import progress as module
from model_utils.errors import DataError, UsageError
from model_utils.logger import get_logger
from model_utils.progress import Position, Progress
from small_run import BATCH, LOSS_SCALE, MOMENTUM, PREFIX, RATES, STEPS, Run, compiled_step, epoch_images, interrupt_now

import mindspore as ms
import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("graph_mode", "programs")


def test_documented_lines(tmp_path):
    run = Run(tmp_path)
    line = "epoch time {milliseconds:.3f} of {epoch} at {step}, {speed:.1f} a second, loss {loss:.7g}, {time}"
    assert run.train(epoch_line=line) == 0
    losses = run.curve()
    number, duration, stamp = r"\d+\.\d{3}", r"\d+:\d\d:\d\d", r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    wanted = []
    for epoch in (1, 2):
        loss = re.escape(f"{losses[epoch * STEPS]:.7g}")
        wanted += [
            rf"epoch {epoch}/2 step 5/5 loss \d+\.\d{{4}} lr \S+ \d+\.\d images/s waiting for data \d+% left {duration}",
            f"epoch: {epoch} step: 5, loss is {loss}",
            f"result: epoch: {epoch} step: 5, loss is {loss}",
            rf"epoch time {number} of {epoch} at {5 * epoch}, \d+\.\d a second, loss {loss}, {stamp}",
            f"Epoch time: {number}, per step time: {number}",
            rf"checkpoint: \S+{PREFIX}-{epoch}_5\.ckpt",
        ]
    lines = run.log.splitlines()
    assert len(lines) == len(wanted)
    for text, pattern in zip(lines, wanted):
        assert re.fullmatch(pattern, text), (text, pattern)
    assert lines[6].endswith("left 0:00:00")


def test_loss_is_that_of_the_step(tmp_path):
    """Against float64 arithmetic of the same run."""
    run = Run(tmp_path, epochs=3)
    run.train()
    start = compiled_step()[1]
    weight, bias = (start[name].astype(np.float64) for name in ("weight", "bias"))
    moments, step = [0.0, 0.0], 0
    for epoch in (1, 2, 3):
        for x in epoch_images(epoch).reshape(STEPS, BATCH, 4):
            error = x @ weight.T + bias - 2 * x[:, :2]
            assert run.curve()[step + 1] == pytest.approx((error**2).mean(), rel=1e-4), step
            gradients = 2 * error.T @ x / error.size, 2 * error.sum(0) / error.size
            moments = [MOMENTUM * moment + gradient for moment, gradient in zip(moments, gradients)]
            weight, bias = weight - RATES[step] * moments[0], bias - RATES[step] * moments[1]
            step += 1


def test_log_interval(tmp_path):
    """Every third step of an epoch, and its last one."""
    run = Run(tmp_path, log_interval=3)
    run.train()
    assert list(run.curve()) == [3, 5, 8, 10] and run.log.count("result: epoch") == 2
    assert list(run.curve("learning_rate").values()) == pytest.approx(RATES[[2, 4, 7, 9]].tolist())
    assert min(run.curve("images_per_second").values()) > 0
    assert (tmp_path / "curves.png").is_file() and any((tmp_path / "summary").iterdir())
    with pytest.raises(UsageError, match="log_interval=0"):
        Progress(Position(STEPS), 1, [0.1], 1, 0, None)


def test_progress_on_a_terminal(tmp_path, capsys, monkeypatch):
    """One line with a bar that is written over and fits the terminal, and whole lines at the end of an epoch."""
    monkeypatch.setenv("COLUMNS", "70")
    run = Run(tmp_path)
    progress = Progress(run.position, 2, RATES, BATCH, 1, None)
    progress.is_terminal = True
    ms.Model(run.step).train(1, run.dataset(), [progress], dataset_sink_mode=False)
    text = capsys.readouterr().out
    lines = re.findall(r"\r\x1b\[K([^\r\n]*)", text)
    assert [line[:32] for line in lines] == [f"[{'#' * n}{'.' * (20 - n)}] epoch 1/2" for n in (4, 8, 12, 16, 20)]
    assert max(map(len, lines)) == 69
    assert re.search(r"step 5/5 [^\n]*\nepoch: 1 step: 5, loss is \S+\nresult: epoch: 1 ", text)
    assert "epoch 1/2 step" not in run.log


def test_progress_within_epochs_where_the_console_is_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", -1.0)
    run = Run(tmp_path, epochs=1)
    run.train()
    assert run.log.count("epoch 1/1 step") == STEPS


def test_epoch_line_counts_whole_epochs_only(tmp_path):
    run = Run(tmp_path)
    run.train(step_begin_at_3=interrupt_now())
    assert "Epoch time" not in run.log and "result:" not in run.log
    Run(tmp_path).resume().train()
    assert run.log.count("Epoch time") == 2


def test_data_sink_mode():
    """The callbacks fire once an epoch, with the last step's outputs."""
    position, recorded = Position(STEPS, 3, 0), []
    record = SimpleNamespace(add=lambda step, **values: recorded.append((step, values["loss"])))
    progress = Progress(position, 4, np.full(20, 0.5, np.float32), BATCH, 100, record)
    for epoch in (3, 4):
        context = context_of(epoch, ms.Tensor(epoch, ms.float32), sink=True)
        for event in ("epoch_begin", "step_begin", "step_end", "epoch_end"):
            getattr(progress, f"on_train_{event}")(context)
        assert (position.epoch, position.step, position.total) == (epoch, STEPS, epoch * STEPS)
    assert recorded == [(15, 3.0), (20, 4.0)]


def context_of(epoch: int, loss: ms.Tensor, sink: bool) -> SimpleNamespace:
    """What MindSpore hands to a callback."""
    parameters = SimpleNamespace(cur_epoch_num=epoch, dataset_sink_mode=sink, net_outputs=(loss, ms.Tensor(1.0)))
    return SimpleNamespace(original_args=lambda: parameters)


def test_fields_of_the_documented_lines(monkeypatch):
    """Speed and duration are those since the last line, or of the epoch; iteration counts from 0 over the run."""
    now, found = [100.0], []
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0], strftime=lambda _: "T"))
    monkeypatch.setattr(get_logger(), "info", lambda text, *values: found.append(text % values if values else text))
    lines = {
        "step_line": "{before}|{iteration}|{loss:.1f}|{learning_rate:.2f}|{speed:.0f}|{milliseconds:.0f}|{time}",
        "epoch_line": "{epoch}#{step}#{loss:.1f}#{speed:.0f}#{milliseconds:.0f}#{time}",
    }
    progress = Progress(Position(STEPS, 2, 0), 3, [0.5] * 3 * STEPS, 8, 2, None, **lines)
    context = context_of(2, ms.Tensor(1.5), sink=False)
    progress.on_train_epoch_begin(context)
    for seconds in (0.1, 0.3, 0.5, 0.5, 0.6):
        progress.on_train_step_begin(context)
        now[0] += seconds
        progress.on_train_step_end(context)
    assert [text for text in found if "|" in text] == [
        "1|6|1.5|0.50|40|200|T", "1|8|1.5|0.50|16|500|T", "1|9|1.5|0.50|13|600|T"
    ]  # fmt: skip
    assert [text for text in found if "#" in text] == ["2#10#1.5#20#400#T"]
    assert [module._duration(seconds) for seconds in (0, 59.9, 360061)] == ["0:00:00", "0:00:59", "100:01:01"]


@pytest.mark.parametrize(
    "options, bad_step, seen, recorded",
    [
        ({}, 8, "step 3 .*step 8 of the run", [1, 2, 3, 4, 5, 6, 7]),
        ({"log_interval": 100}, 8, "step 5", [5]),  # at the end of the epoch, before a checkpoint is written
        ({"log_interval": 3, "fetch_interval": 1}, 9, "step 4", [3, 5, 8]),  # looked at more often than recorded
    ],
)
def test_non_finite_loss_stops_the_run(tmp_path, options, bad_step, seen, recorded):
    run = Run(tmp_path, epochs=3, bad_step=bad_step, **options)
    with pytest.raises(DataError, match=f"nan.*epoch 2 {seen}.*learning rate 0.0.*loss scale {LOSS_SCALE:g}"):
        run.train()
    assert run.saved == ["1_5"] and list(run.curve()) == recorded and (tmp_path / "curves.png").is_file()


def test_interrupt_after_a_non_finite_loss_saves_nothing(tmp_path):
    run = Run(tmp_path, epochs=2, log_interval=100, bad_step=7)
    with pytest.raises(DataError, match="epoch 2 step 4"):
        run.train(step_begin_at_9=interrupt_now())
    assert run.saved == ["1_5"]
