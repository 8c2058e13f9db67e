"""The training step against float64 arithmetic: loss, momentum, weight decay, loss scale, moving average, whole state."""

from __future__ import annotations

from pathlib import Path

import model_utils  # noqa: F401  (sets the environment before MindSpore is imported)
from model_utils import checkpoint
from model_utils.checkpoint import EMA_PREFIX, STATE_PREFIX
from model_utils.config import UsageError
from model_utils.train_step import TrainStep

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, amp, nn, ops

RATES = np.array([0.1, 0.2, 0.05, 0.1, 0.02, 0.3, 0.1, 0.1], np.float32)
MOMENTUM, DECAY = 0.9, 0.01


@pytest.fixture(autouse=True, scope="module")
def graph_mode():
    """The mode in which the programs run."""
    before = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=before)


class SquaredError(nn.Cell):
    """Mean over the batch of the squared distance, times `factor`."""

    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.factor = factor

    def construct(self, predictions, targets):
        return ((predictions - targets) ** 2).sum(1).mean() * self.factor


class Overflowing(nn.Cell):
    """A loss of up to 1e38 whose gradient overflows where a target is 1e19 and the loss is scaled up."""

    def construct(self, predictions, targets):
        return (predictions * targets).sum(1).mean() * 1e18


class Normed(nn.Cell):
    """Dense, batch norm, dense."""

    def __init__(self):
        super().__init__()
        self.first = nn.Dense(4, 3, has_bias=False)
        self.bn = nn.BatchNorm1d(3)
        self.last = nn.Dense(3, 2)

    def construct(self, x):
        return self.last(ops.tanh(self.bn(self.first(x))))


def momentum(network: nn.Cell, rates=RATES, decay: float = DECAY) -> nn.Momentum:
    """As in the models: no weight decay on biases, one learning rate for each step."""
    parameters = network.trainable_params()
    groups = [
        {"params": [p for p in parameters if p.name.endswith("weight")], "weight_decay": decay},
        {"params": [p for p in parameters if not p.name.endswith("weight")], "weight_decay": 0.0},
        {"order_params": parameters},
    ]
    return nn.Momentum(groups, Tensor(rates) if isinstance(rates, np.ndarray) else rates, MOMENTUM)


def linear(seed: int = 1) -> nn.Cell:
    ms.set_seed(seed)
    return nn.Dense(4, 2).set_train()


def normed(seed: int = 1) -> nn.Cell:
    ms.set_seed(seed)
    return Normed().set_train()


def batches(count: int, scale: float = 1.0):
    random = np.random.default_rng(7)
    for _ in range(count):
        images = random.normal(size=(5, 4)).astype(np.float32)
        yield images, (random.normal(size=(5, 2)) * scale).astype(np.float32)


def train(step: TrainStep, data) -> list[tuple[float, float]]:
    """Losses and loss scales."""
    return [tuple(float(value.asnumpy()) for value in step(Tensor(x), Tensor(y))) for x, y in data]


def values(step: TrainStep) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy().copy() for name, parameter in step.training_state().items()}


def equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


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


@pytest.mark.parametrize("options", [{}, {"loss_scale": 1024}, {"loss_scale": 65536, "dynamic_loss_scale": True}])
def test_loss_and_updates_equal_float64(options):
    network = linear()
    reference = Reference(network)
    step = TrainStep(network, SquaredError(), momentum(network), **options)
    for (images, targets), rate in zip(batches(8), RATES):
        loss, scale = step(Tensor(images), Tensor(targets))
        assert loss.dtype == ms.float32 and loss.shape == ()
        assert float(loss.asnumpy()) == pytest.approx(reference.step(images, targets, rate), rel=1e-5)
        assert float(scale.asnumpy()) == options.get("loss_scale", 1.0)
    for name, value in reference.weights.items():
        np.testing.assert_allclose(network.parameters_dict()[name].asnumpy(), value, rtol=2e-5, atol=1e-6)
    state = values(step)
    for name, value in reference.moments.items():
        np.testing.assert_allclose(state[f"{STATE_PREFIX}optimizer.moments.{name}"], value, rtol=2e-5, atol=1e-6)
    assert state[f"{STATE_PREFIX}optimizer.global_step"] == 8


@pytest.mark.parametrize("scale, exact", [(1024.0, True), (1000.0, False)])
def test_fixed_loss_scale_changes_nothing(scale, exact):
    states = []
    for loss_scale in (1.0, scale):
        network = normed()
        step = TrainStep(network, SquaredError(), momentum(network), loss_scale=loss_scale)
        losses = [loss for loss, _ in train(step, batches(6))]
        states.append({**values(step), "losses": np.array(losses)})
    if exact:
        assert equal(*states)
    for name in states[0]:
        np.testing.assert_allclose(states[0][name], states[1][name], rtol=1e-4, atol=1e-5)


def test_gradients_do_not_overflow_where_the_scale_is_taken_back():
    """The optimizer sees unscaled gradients: with all its moments, a large scale leaves no trace."""
    network = linear()
    step = TrainStep(network, SquaredError(1e-30), momentum(network, decay=0.0), loss_scale=2.0**40)
    train(step, batches(1))
    assert 0 < abs(values(step)[f"{STATE_PREFIX}optimizer.moments.bias"]).max() < 1e-28


def test_overflow_changes_nothing_but_the_scale():
    network = linear()
    step = TrainStep(
        network, Overflowing(), momentum(network, 1e-9), loss_scale=2.0**20, dynamic_loss_scale=True, ema_decay=0.9
    )
    images, sound = np.ones((5, 4), np.float32), np.full((5, 2), 1e-10, np.float32)
    train(step, [(images, sound)] * 3)
    before = values(step)
    assert before[f"{STATE_PREFIX}loss_scale"] == 2.0**20 and before[f"{STATE_PREFIX}loss_scale_counter"] == 3
    assert before[f"{STATE_PREFIX}optimizer.global_step"] == 3
    ((loss, _),) = train(step, [(images, np.full((5, 2), 1e19, np.float32))])
    assert np.isfinite(loss)
    after = values(step)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {f"{STATE_PREFIX}loss_scale", f"{STATE_PREFIX}loss_scale_counter"}
    assert after[f"{STATE_PREFIX}loss_scale"] == 2.0**19 and after[f"{STATE_PREFIX}loss_scale_counter"] == 0
    train(step, [(images, sound)])
    changed = {name for name in after if not np.array_equal(after[name], values(step)[name])}
    assert {
        f"{STATE_PREFIX}optimizer.global_step",
        f"{STATE_PREFIX}optimizer.moments.weight",
        EMA_PREFIX + "weight",
    } <= changed


def test_not_a_number_is_an_overflow_too():
    network = linear()
    step = TrainStep(network, SquaredError(), momentum(network), loss_scale=16, dynamic_loss_scale=True)
    before = values(step)
    bad = np.full((5, 4), np.nan, np.float32)
    train(step, [(bad, np.zeros((5, 2), np.float32))])
    assert np.array_equal(before["weight"], values(step)["weight"])
    assert values(step)[f"{STATE_PREFIX}loss_scale"] == 8


def test_scale_doubles_after_the_window_and_stays_above_one():
    network = linear()
    step = TrainStep(network, SquaredError(), momentum(network, 0.01), loss_scale=2, dynamic_loss_scale=True)
    step.scaler.counter.set_data(Tensor(1997, ms.int32))
    scales = [scale for _, scale in train(step, batches(4))]
    assert scales == [2, 2, 4, 4]
    bad = (np.full((5, 4), np.inf, np.float32), np.zeros((5, 2), np.float32))
    assert [scale for _, scale in train(step, [bad] * 4)] == [2, 1, 1, 1]


@pytest.mark.parametrize("decay", [0.9, 0.9999])
def test_moving_average_equals_float64(decay):
    """Over 100 steps, batch-norm statistics included."""
    network = normed()
    step = TrainStep(network, SquaredError(), momentum(network, 0.05), ema_decay=decay)
    average = {p.name: p.asnumpy().astype(np.float64) for p in network.get_parameters()}
    for batch in batches(100):
        train(step, [batch])
        for p in network.get_parameters():
            average[p.name] = decay * average[p.name] + (1 - decay) * p.asnumpy()
    assert "bn.moving_mean" in average and len(average) == 7
    for name, value in average.items():
        found = values(step)[EMA_PREFIX + name]
        assert np.abs(found - value).max() < 1e-5 * np.abs(value).max(), name
        assert np.abs(found - values(step)[name]).max() > 1e-6, f"{name}: the average is the weight itself"


def test_moving_average_has_no_bias():
    """Of a weight that stays, the average stays: 0.9999 and 0.0001 in float32 do not add up to 1."""
    network = linear()
    step = TrainStep(network, SquaredError(), momentum(network, 0.0, 0.0), ema_decay=0.9999)
    train(step, list(batches(1)) * 100)
    state = values(step)
    np.testing.assert_allclose(state[EMA_PREFIX + "weight"], state["weight"], rtol=3e-7)


def test_averaged_weights():
    network = normed()
    step = TrainStep(network, SquaredError(), momentum(network), ema_decay=0.9)
    train(step, batches(3))
    before = values(step)
    with step.averaged_weights():
        for name, parameter in network.parameters_dict().items():
            assert np.array_equal(parameter.asnumpy(), before[EMA_PREFIX + name])
    assert equal(before, values(step))
    with pytest.raises(KeyError), step.averaged_weights():
        raise KeyError
    assert equal(before, values(step))
    reference = TrainStep(normed(), SquaredError(), momentum(normed()), ema_decay=0.9)
    train(step, batches(1))
    assert values(step)[f"{STATE_PREFIX}optimizer.global_step"] == 4 and reference is not step


FACTORIES = {
    "momentum": lambda network: momentum(network),
    "rmsprop": lambda network: nn.RMSProp(network.trainable_params(), 0.01, momentum=0.9),
    "adam": lambda network: nn.Adam(network.trainable_params(), 0.01),
}
OPTIONS = {"ema_decay": 0.9, "loss_scale": 2.0**10, "dynamic_loss_scale": True}


@pytest.mark.parametrize("optimizer", FACTORIES)
def test_three_and_three_equal_six(tmp_path, optimizer):
    def new(seed: int) -> TrainStep:
        network = normed(seed)
        return TrainStep(network, SquaredError(), FACTORIES[optimizer](network), **OPTIONS)

    data = list(batches(6))
    straight = new(1)
    losses = train(straight, data)
    first = new(1)
    assert train(first, data[:3]) == losses[:3]
    checkpoint.save(tmp_path / "a.ckpt", first.training_state(), {})
    resumed = new(2)
    assert not equal(values(resumed), values(first))
    checkpoint.restore(resumed, checkpoint.load(tmp_path / "a.ckpt")[0], "a.ckpt")
    assert equal(values(resumed), values(first))
    found = train(resumed, data[3:])
    if (
        optimizer == "rmsprop"
    ):  # MindSpore's kernel on CPU shares its work out by measured times, which moves the last bit
        for name, value in values(straight).items():
            np.testing.assert_allclose(values(resumed)[name], value, rtol=1e-4, atol=1e-6)
    else:
        assert found == losses[3:] and equal(values(resumed), values(straight))


def test_names_of_the_state():
    network = normed()
    plain = list(network.parameters_dict())
    step = TrainStep(network, SquaredError(), momentum(network), **OPTIONS)
    assert list(network.parameters_dict()) == plain == [
        "first.weight", "bn.moving_mean", "bn.moving_variance", "bn.gamma", "bn.beta", "last.weight", "last.bias",
    ]  # fmt: skip
    trained = [p.name for p in network.trainable_params()]
    assert set(step.training_state()) == {
        *plain,
        *(EMA_PREFIX + name for name in plain),
        *(f"{STATE_PREFIX}optimizer.moments.{name}" for name in trained),
        f"{STATE_PREFIX}optimizer.global_step",
        f"{STATE_PREFIX}loss_scale",
        f"{STATE_PREFIX}loss_scale_counter",
    }
    simple = TrainStep(network, SquaredError(), momentum(network))
    assert not any("ema" in name or "loss_scale" in name for name in simple.training_state())


def test_mixed_precision_keeps_the_names():
    network = normed()
    plain = list(network.parameters_dict())
    for level in ("O2", "O3"):
        wrapped = amp.auto_mixed_precision(normed(), level)
        step = TrainStep(wrapped, SquaredError(), momentum(wrapped), ema_decay=0.9)
        assert [name for name in step.training_state() if not name.startswith(STATE_PREFIX)] == plain
        assert all(p.dtype == ms.float32 for p in step.ema.averages)


@pytest.mark.parametrize("groups", ["one rate", "rate of each group"])
def test_hyperparameters_are_no_state(tmp_path, groups):
    """A resumed run takes learning rate and momentum from its configuration, not from the checkpoint."""

    def new(rate: float, factor: float) -> TrainStep:
        network = linear()
        weight, bias = network.trainable_params()
        parameters = [{"params": [weight], "lr": rate}, {"params": [bias], "lr": rate}]
        optimizer = nn.Momentum(network.trainable_params() if groups == "one rate" else parameters, rate, factor)
        return TrainStep(network, SquaredError(), optimizer)

    first, data = new(0.1, 0.9), list(batches(1))
    train(first, data)
    checkpoint.save(tmp_path / "a.ckpt", first.training_state(), {})
    resumed = new(0.0, 0.0)
    checkpoint.restore(resumed, checkpoint.load(tmp_path / "a.ckpt")[0], "a.ckpt")
    before = values(resumed)
    train(resumed, data)
    assert np.array_equal(before["weight"], values(resumed)["weight"])
    gradient = values(resumed)[f"{STATE_PREFIX}optimizer.moments.bias"]
    assert not np.array_equal(gradient, before[f"{STATE_PREFIX}optimizer.moments.bias"])
    assert resumed.optimizer.momentum.asnumpy() == 0


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
    network = linear()
    with pytest.raises(UsageError, match=text):
        TrainStep(network, SquaredError(), momentum(network), **options)


class Hidden(nn.Cell):
    """Dense, tanh, dense: nothing in it depends on the size of the batch."""

    def __init__(self):
        super().__init__()
        self.first = nn.Dense(4, 3)
        self.last = nn.Dense(3, 2)

    def construct(self, x):
        return self.last(ops.tanh(self.first(x)))


def hidden(seed: int = 1) -> nn.Cell:
    ms.set_seed(seed)
    return Hidden().set_train()


def long_batches(count: int, size: int = 12):
    """Batches whose slices differ from one another: the size of the images grows along the batch."""
    random = np.random.default_rng(11)
    growth = np.linspace(0.2, 3, size)[:, None]
    for _ in range(count):
        images, targets = random.normal(size=(size, 4)) * growth, random.normal(size=(size, 2)) * growth
        yield images.astype(np.float32), targets.astype(np.float32)


DYNAMIC = {"loss_scale": 2.0**16, "dynamic_loss_scale": True}


@pytest.mark.parametrize(
    "slices, options",
    [
        (2, {}), (3, {}), (12, {}), (3, {"loss_scale": 1024}), (3, DYNAMIC), (3, {"clip_grad_norm": 0.05}),
        (2, {"ema_decay": 0.9}), (4, {**DYNAMIC, "clip_grad_norm": 0.05, "ema_decay": 0.9}),
    ],
)  # fmt: skip
def test_slices_equal_the_whole_batch(slices, options):
    """Loss, weights, moments and averages over six steps of momentum with weight decay."""
    states, losses = [], []
    for accumulate_steps in (1, slices):
        network = hidden()
        step = TrainStep(network, SquaredError(), momentum(network), accumulate_steps=accumulate_steps, **options)
        losses.append(train(step, long_batches(6)))
        states.append(values(step))
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-6)
    assert states[0].keys() == states[1].keys() and states[1][f"{STATE_PREFIX}optimizer.global_step"] == 6
    for name, value in states[0].items():
        np.testing.assert_allclose(states[1][name], value, rtol=2e-6, atol=2e-6 * abs(value).max(), err_msg=name)


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
    ms.set_seed(1)
    network = Noisy().set_train()
    step = TrainStep(network, SquaredError(), momentum(network), accumulate_steps=slices)
    train(step, batches(4))
    np.testing.assert_array_equal(network.seen.asnumpy(), np.arange(40) < 4 * slices)
    assert int(values(step)[f"{STATE_PREFIX}optimizer.global_step"][0]) == 4


def test_batch_norm_sees_the_slices_one_after_the_other():
    network, single = normed(), normed()
    train(TrainStep(network, SquaredError(), momentum(network, 0.0), accumulate_steps=3), long_batches(1))
    ((images, targets),) = long_batches(1)
    slices = [(images[i : i + 4], targets[i : i + 4]) for i in (0, 4, 8)]
    train(TrainStep(single, SquaredError(), momentum(single, 0.0)), slices)
    for name in ("bn.moving_mean", "bn.moving_variance"):
        expected = single.parameters_dict()[name].asnumpy()
        np.testing.assert_allclose(network.parameters_dict()[name].asnumpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("bad", [0, 11])
def test_overflow_in_one_slice_skips_the_step(bad):
    network = hidden()
    step = TrainStep(
        network, SquaredError(), momentum(network), accumulate_steps=4, clip_grad_norm=0.05, ema_decay=0.9, **DYNAMIC
    )
    data = list(long_batches(2))
    train(step, data[:1])
    before = values(step)
    data[1][0][bad] = np.nan
    train(step, data[1:])
    changed = {name for name, value in values(step).items() if not np.array_equal(value, before[name])}
    assert changed == {f"{STATE_PREFIX}loss_scale", f"{STATE_PREFIX}loss_scale_counter"}
    assert values(step)[f"{STATE_PREFIX}loss_scale"] == 2.0**15


def test_a_batch_that_the_slices_do_not_divide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the compiler leaves a report of its failure
    network = hidden()
    step = TrainStep(network, SquaredError(), momentum(network), accumulate_steps=5)
    with pytest.raises(UsageError, match="accumulate_steps=5 does not divide the batch of 12 images"):
        train(step, long_batches(1))


def raw_gradients(network: nn.Cell, images, targets) -> dict[str, np.ndarray]:
    """In float64, from the first moments of an optimizer without weight decay: they are the gradients."""
    step = TrainStep(network, SquaredError(), momentum(network, 0.0, 0.0))
    train(step, [(images, targets)])
    prefix = f"{STATE_PREFIX}optimizer.moments."
    return {name[len(prefix) :]: v.astype(np.float64) for name, v in values(step).items() if name.startswith(prefix)}


@pytest.mark.parametrize(
    "fraction, options",
    [(0.01, {}), (0.999, {}), (0.5, {"loss_scale": 1024}), (0.5, DYNAMIC), (0.01, {"accumulate_steps": 2})],
)
def test_clipped_gradients_equal_float64(fraction, options):
    """One factor for all parameters, from the norm of the unscaled gradients."""
    ((images, targets),) = long_batches(1)
    gradients = raw_gradients(hidden(), images, targets)
    norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
    network = hidden()
    step = TrainStep(
        network, SquaredError(), momentum(network, decay=0.0), clip_grad_norm=float(fraction * norm), **options
    )
    train(step, [(images, targets)])
    for name, gradient in gradients.items():
        found = values(step)[f"{STATE_PREFIX}optimizer.moments.{name}"]
        np.testing.assert_allclose(found, fraction * gradient, rtol=5e-6, atol=1e-6 * fraction * norm, err_msg=name)


@pytest.mark.parametrize("options", [{}, DYNAMIC])
def test_a_norm_below_the_limit_changes_nothing(options):
    """Bit for bit, also where limit / limit is not 1 in float32 arithmetic, which this limit on a CPU is an example of."""
    states = []
    for limit in (0.0, 1e3 / 3):
        network = hidden()
        step = TrainStep(network, SquaredError(), momentum(network, 0.01), clip_grad_norm=limit, **options)
        losses = [loss for loss, _ in train(step, long_batches(4))]
        states.append({**values(step), "losses": np.array(losses)})
    assert equal(*states)


def test_gradients_of_zero_are_not_clipped():
    network = linear()
    step = TrainStep(network, SquaredError(0.0), momentum(network, decay=0.0), clip_grad_norm=1.0)
    before = values(step)["weight"]
    train(step, batches(2))
    assert np.array_equal(values(step)["weight"], before)


def test_overflow_is_decided_before_clipping():
    """Infinite gradients, which clipping would make zeros and not-a-numbers of, skip the step."""
    network = linear()
    step = TrainStep(
        network, Overflowing(), momentum(network, 1e-9), clip_grad_norm=1.0, loss_scale=2.0**20, dynamic_loss_scale=True
    )
    before = values(step)
    train(step, [(np.ones((5, 4), np.float32), np.full((5, 2), 1e19, np.float32))])
    changed = {name for name, value in values(step).items() if not np.array_equal(value, before[name])}
    assert changed == {f"{STATE_PREFIX}loss_scale"} and values(step)[f"{STATE_PREFIX}loss_scale"] == 2.0**19


def test_clipping_and_slices_have_no_state(tmp_path):
    """Three steps, a checkpoint and three more are six; the names are those of a step without the two."""

    def new(seed: int, **options) -> TrainStep:
        network = hidden(seed)
        return TrainStep(network, SquaredError(), momentum(network), **OPTIONS, **options)

    both = {"clip_grad_norm": 0.5, "accumulate_steps": 3}
    straight, first, resumed = new(1, **both), new(1, **both), new(2, **both)
    assert straight.training_state().keys() == new(1).training_state().keys()
    data = list(long_batches(6))
    losses = train(straight, data)
    train(first, data[:3])
    checkpoint.save(tmp_path / "a.ckpt", first.training_state(), {})
    checkpoint.restore(resumed, checkpoint.load(tmp_path / "a.ckpt")[0], "a.ckpt")
    assert train(resumed, data[3:]) == losses[3:] and equal(values(resumed), values(straight))


def test_frozen_weights_stay_and_are_in_the_state():
    network = normed()
    for parameter in network.first.get_parameters():
        parameter.requires_grad = False
    step = TrainStep(network, SquaredError(), momentum(network), ema_decay=0.9)
    before = values(step)
    train(step, batches(2))
    after = values(step)
    assert np.array_equal(before["first.weight"], after["first.weight"])
    assert not np.array_equal(before["last.weight"], after["last.weight"])
    assert not any("moments.first" in name for name in after) and EMA_PREFIX + "first.weight" in after


def test_source_states_its_checkpoint_prefix():
    """Evaluation and export tell weights from the rest by this prefix, which is part of the file format."""
    assert (STATE_PREFIX, EMA_PREFIX) == ("train_state.", "train_state.ema.")
    assert Path(checkpoint.__file__).is_file()
