"""The training step against float64 arithmetic: loss, momentum, weight decay, loss scale, moving average, whole state.

In graph mode, as the programs run; test_train_step_slices.py has accumulation and clipping.
"""

from __future__ import annotations

from model_utils import checkpoint
from model_utils.checkpoint import EMA_PREFIX, STATE_PREFIX
from model_utils.errors import UsageError
from small_steps import (
    DECAY,
    DYNAMIC,
    GLOBAL_STEP,
    MOMENTS,
    MOMENTUM,
    RATES,
    SCALE,
    SCALE_COUNTER,
    STILL,
    Normed,
    Overflowing,
    SquaredError,
    adam,
    batches,
    build,
    changed,
    equal,
    linear,
    momentum,
    new_step,
    put,
    shared_step,
    train,
    values,
    without_decay,
)

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, amp, nn, ops

OPTIONS = {"ema_decay": 0.9, "loss_scale": 2.0**10, "dynamic_loss_scale": True}
BOTH = {"clip_grad_norm": 0.5, "accumulate_steps": 3}


@pytest.fixture(autouse=True, scope="module")
def graph_mode():
    before = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=before)


# ---- updates


class Reference:
    """The linear network in float64."""

    def __init__(self, network: nn.Cell):
        self.weights = {p.name: p.asnumpy().astype(np.float64) for p in network.get_parameters()}
        self.moments = {name: np.zeros_like(value) for name, value in self.weights.items()}

    def step(self, images, targets, rate: float) -> float:
        error = images.astype(np.float64) @ self.weights["weight"].T + self.weights["bias"] - targets
        gradients = {"weight": 2 * error.T @ images / len(images), "bias": 2 * error.sum(0) / len(images)}
        gradients["weight"] += DECAY * self.weights["weight"]
        for name, gradient in gradients.items():
            self.moments[name] = MOMENTUM * self.moments[name] + gradient
            self.weights[name] = self.weights[name] - float(rate) * self.moments[name]
        return (error**2).sum(1).mean()


@pytest.mark.parametrize("options", [{}, {"loss_scale": 1000}, DYNAMIC], ids=["plain", "fixed", "dynamic"])
def test_loss_and_updates_equal_float64(options):
    """The optimizer sees unscaled gradients: its moments are those without a scale."""
    step = shared_step(linear, **options)
    reference = Reference(step.network)
    for (images, targets), rate in zip(batches(8), RATES):
        loss, scale = step(Tensor(images), Tensor(targets))
        assert loss.dtype == ms.float32 and loss.shape == ()
        assert float(loss.asnumpy()) == pytest.approx(reference.step(images, targets, rate), rel=1e-5)
        assert float(scale.asnumpy()) == options.get("loss_scale", 1.0)
    state = values(step)
    for name, value in reference.weights.items():
        np.testing.assert_allclose(state[name], value, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(state[MOMENTS + name], reference.moments[name], rtol=2e-5, atol=1e-6)
    assert state[GLOBAL_STEP] == 8


def test_fixed_loss_scale_changes_nothing():
    """A power of two: not a bit."""
    states = []
    for loss_scale in (1.0, 1024.0):
        step = shared_step(Normed, optimizer=without_decay, loss_scale=loss_scale)
        losses = [loss for loss, _ in train(step, batches(6))]
        states.append({**values(step), "losses": np.array(losses)})
    assert equal(*states)


# ---- the dynamic loss scale


def test_overflow_changes_nothing_but_the_scale():
    """Also where gradients are clipped, which makes not-a-numbers of infinite ones."""
    step = shared_step(
        linear, Overflowing, clip_grad_norm=1.0, loss_scale=2.0**20, dynamic_loss_scale=True, ema_decay=0.9
    )
    images, sound = np.ones((5, 4), np.float32), np.full((5, 2), 1e-10, np.float32)
    train(step, [(images, sound)] * 3)
    before = values(step)
    assert (before[SCALE], before[SCALE_COUNTER], before[GLOBAL_STEP]) == (2.0**20, 3, 3)
    ((loss, _),) = train(step, [(images, np.full((5, 2), 1e19, np.float32))])
    assert np.isfinite(loss)
    after = values(step)
    assert changed(before, after) == {SCALE, SCALE_COUNTER}
    assert (after[SCALE], after[SCALE_COUNTER]) == (2.0**19, 0)
    train(step, [(images, sound)])
    assert {GLOBAL_STEP, MOMENTS + "weight", EMA_PREFIX + "weight", "weight"} <= changed(after, values(step))


def test_not_a_number_is_an_overflow_too():
    step = shared_step(linear, **DYNAMIC)
    before = values(step)
    train(step, [(np.full((5, 4), np.nan, np.float32), np.zeros((5, 2), np.float32))])
    assert changed(before, values(step)) == {SCALE} and values(step)[SCALE] == 2.0**15


def test_scale_doubles_after_the_window_and_stays_above_one():
    step = shared_step(linear, **DYNAMIC)
    put(step, {SCALE: np.array(2, np.float32), SCALE_COUNTER: np.array(1997, np.int32)})
    scales = [scale for _, scale in train(step, batches(4))]
    assert scales == [2, 2, 4, 4]
    bad = (np.full((5, 4), np.inf, np.float32), np.zeros((5, 2), np.float32))
    assert [scale for _, scale in train(step, [bad] * 4)] == [2, 1, 1, 1]


# ---- the moving average


@pytest.mark.parametrize("decay", [0.9, 0.9999])
def test_moving_average_equals_float64(decay):
    """Over 100 steps, batch-norm statistics included."""
    step = shared_step(Normed, optimizer=without_decay, ema_decay=decay)
    average = {p.name: p.asnumpy().astype(np.float64) for p in step.network.get_parameters()}
    for batch in batches(100):
        train(step, [batch])
        for p in step.network.get_parameters():
            average[p.name] = decay * average[p.name] + (1 - decay) * p.asnumpy()
    assert "bn.moving_mean" in average and len(average) == 7
    state = values(step)
    for name, value in average.items():
        found = state[EMA_PREFIX + name]
        assert np.abs(found - value).max() < 1e-5 * np.abs(value).max(), name
        assert np.abs(found - state[name]).max() > 1e-6, f"{name}: the average is the weight itself"


def test_moving_average_has_no_bias():
    """Of a weight that stays, the average stays: 0.9999 and 0.0001 in float32 do not add up to 1."""
    step = shared_step(Normed, optimizer=without_decay, ema_decay=0.9999)
    put(step, STILL)  # and targets of zero: so are the gradients
    images, targets = next(batches(1))
    before = values(step)["first.weight"]
    train(step, [(images, 0 * targets)] * 100)
    state = values(step)
    assert np.array_equal(state["first.weight"], before)
    np.testing.assert_allclose(state[EMA_PREFIX + "first.weight"], before, rtol=3e-7)


def test_averaged_weights():
    step = shared_step(Normed, optimizer=without_decay, ema_decay=0.9)
    train(step, batches(3))
    before = values(step)
    with step.averaged_weights():
        for name, parameter in step.network.parameters_dict().items():
            assert np.array_equal(parameter.asnumpy(), before[EMA_PREFIX + name])
    assert equal(before, values(step))
    with pytest.raises(KeyError), step.averaged_weights():
        raise KeyError
    assert equal(before, values(step))


def test_averaged_weights_between_steps_change_nothing():
    """Also with a dynamic loss scale, where parameters of the branch that updates them lose sight of what is set."""
    states = []
    for evaluates in (False, True):
        step = shared_step(Normed, optimizer=momentum, **OPTIONS, **BOTH)
        for batch in batches(6, 15):
            train(step, [batch])
            if evaluates:
                with step.averaged_weights():
                    pass
        states.append(values(step))
    assert equal(*states) and states[0][GLOBAL_STEP] == 6


# ---- the state


@pytest.mark.parametrize(
    "optimizer, options",
    [(momentum, BOTH), (adam, {})],
    ids=["momentum", "adam"],
)
def test_three_and_three_equal_six(tmp_path, optimizer, options):
    """Bit for bit, in an object that never saw the first three; clipping and slices have no state."""
    data = list(batches(6, 15))
    first = shared_step(Normed, optimizer=optimizer, **OPTIONS, **options)
    losses = train(first, data)
    wanted = values(first)
    first = shared_step(Normed, optimizer=optimizer, **OPTIONS, **options)
    assert train(first, data[:3]) == losses[:3]
    checkpoint.save(tmp_path / "a.ckpt", first.training_state(), {})
    resumed = new_step(Normed, 2, optimizer=optimizer, **OPTIONS, **options)
    assert not equal(values(resumed), values(first))
    checkpoint.restore(resumed, checkpoint.load(tmp_path / "a.ckpt")[0], "a.ckpt")
    assert equal(values(resumed), values(first))
    assert train(resumed, data[3:]) == losses[3:] and equal(values(resumed), wanted)


def test_names_of_the_state():
    step = new_step(Normed, **OPTIONS, **BOTH)
    plain = [
        "first.weight", "bn.moving_mean", "bn.moving_variance", "bn.gamma", "bn.beta", "last.weight", "last.bias",
    ]  # fmt: skip
    assert list(step.network.parameters_dict()) == plain
    trained = [name for name in plain if "moving" not in name]
    own = {GLOBAL_STEP, *(MOMENTS + name for name in trained)}
    scale = {SCALE, SCALE_COUNTER}
    assert set(step.training_state()) == {*plain, *(EMA_PREFIX + name for name in plain)} | own | scale
    assert set(new_step(Normed).training_state()) == {*plain} | own
    network = build(Normed)
    network.first.weight.requires_grad = False
    state = new_step(lambda: network, ema_decay=0.9).training_state()
    assert {"first.weight", EMA_PREFIX + "first.weight"} <= set(state) and MOMENTS + "first.weight" not in state


def test_mixed_precision_keeps_the_names():
    plain = list(build(Normed).parameters_dict())
    for level in ("O2", "O3"):
        step = new_step(lambda level=level: amp.auto_mixed_precision(Normed(), level), ema_decay=0.9)
        assert [name for name in step.training_state() if not name.startswith(STATE_PREFIX)] == plain
        assert all(p.dtype == ms.float32 for p in step.ema.averages)


def test_hyperparameters_are_no_state():
    """A resumed run takes learning rate and momentum from its configuration, not from the checkpoint."""

    def still(network: nn.Cell) -> nn.Momentum:
        groups = [{"params": [parameter], "lr": 0.0} for parameter in network.trainable_params()]
        return nn.Momentum([*groups, {"order_params": network.trainable_params()}], 0.0, 0.0)

    first = shared_step(linear)
    train(first, batches(1))
    resumed = new_step(linear, 2, optimizer=still)
    checkpoint.restore(resumed, {name: ms.Parameter(Tensor(value)) for name, value in values(first).items()}, "a")
    before = values(resumed)
    train(resumed, batches(1))
    assert changed(before, values(resumed)) == {GLOBAL_STEP, MOMENTS + "weight", MOMENTS + "bias"}
    assert resumed.optimizer.momentum.asnumpy() == 0


def test_source_states_its_checkpoint_prefix():
    """Evaluation and export tell weights from the rest by this prefix, which is part of the file format."""
    assert (STATE_PREFIX, EMA_PREFIX) == ("train_state.", "train_state.ema.")


@pytest.mark.parametrize(
    "options, text",
    [
        ({"loss_scale": 0.5}, "loss_scale=0.5"), ({"loss_scale": -1.0, "dynamic_loss_scale": True}, "loss_scale=-1.0"),
        ({"ema_decay": 1.0}, "ema_decay=1.0"), ({"ema_decay": -0.1}, "ema_decay=-0.1"),
        ({"clip_grad_norm": -1.0}, "clip_grad_norm=-1.0"), ({"clip_grad_norm": float("nan")}, "clip_grad_norm=nan"),
        ({"clip_grad_norm": float("inf")}, "clip_grad_norm=inf"),
        ({"accumulate_steps": 0}, "accumulate_steps=0"), ({"accumulate_steps": -2}, "accumulate_steps=-2"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(options, text):
    with pytest.raises(UsageError, match=text):
        new_step(linear, **options)


# ---- networks that draw random numbers


class Noisy(nn.Cell):
    """Writes down which numbers it was given."""

    takes_step = True

    def __init__(self):
        super().__init__()
        self.dense = nn.Dense(4, 2)
        self.seen = ms.Parameter(Tensor(np.zeros(40), ms.float32), name="seen", requires_grad=False)
        self.places = Tensor(np.arange(40), ms.int32)

    def construct(self, x, number):
        seen = self.seen + (self.places == number).astype(ms.float32)
        return ops.depend(self.dense(x), ops.assign(self.seen, seen))


@pytest.mark.parametrize("slices", [1, 5])
def test_a_network_that_takes_the_step_gets_another_number_each_time(slices):
    step = new_step(Noisy, accumulate_steps=slices)
    train(step, batches(4))
    np.testing.assert_array_equal(step.network.seen.asnumpy(), np.arange(40) < 4 * slices)
    assert values(step)[GLOBAL_STEP] == 4


def test_shared_steps_start_anew():
    """What the tests here rely on."""
    start = values(shared_step(linear))
    train(shared_step(linear), batches(2))
    assert equal(values(shared_step(linear)), start) and isinstance(shared_step(linear).loss_fn, SquaredError)
