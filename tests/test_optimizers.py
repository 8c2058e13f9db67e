"""Parameter groups and momentum SGD: the updates of each group equal float64 arithmetic."""

from __future__ import annotations

import math

from model_utils import checkpoint
from model_utils.checkpoint import STATE_PREFIX
from model_utils.errors import UsageError
from model_utils.optimizers import momentum_sgd, parameter_groups
from model_utils.schedules import linear_warmup, warmup_cosine_annealing_lr, warmup_step_lr
from model_utils.train_step import TrainStep

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

pytestmark = pytest.mark.usefixtures("eager_mode")

RATES = np.array([0.1, 0.3, 0.2], np.float32)
MOMENTUM, DECAY, FACTOR = 0.9, 0.01, 10.0
NAMES = ("a.weight", "a.bias", "bn.gamma", "bn.beta", "head.weight", "head.bias")


def is_head(name: str) -> bool:
    return name.startswith("head.")


def parameters() -> list[Parameter]:
    return [Parameter(Tensor(np.array([1.0, -2.0], np.float32)), name=name) for name in NAMES]


class Bare(nn.Cell):
    """A network of these parameters that computes nothing; the last one is frozen."""

    def __init__(self):
        super().__init__()
        self.all = ms.ParameterTuple(
            [*parameters(), Parameter(Tensor([5.0]), name="fixed.weight", requires_grad=False)]
        )


def sgd(rates=RATES, factor: float = 1.0, network: nn.Cell | None = None, **options: float) -> nn.Optimizer:
    options = {"momentum": MOMENTUM, "weight_decay": DECAY, **options}
    return momentum_sgd(network or Bare(), rates, head=is_head, head_lr_factor=factor, **options)


def layout(groups: list[dict]) -> list[tuple]:
    return [([p.name for p in g["params"]], g["weight_decay"], "lr" in g) for g in groups[:-1]]


def test_groups():
    """Without a factor for the head, as for training from random weights, two of them."""
    given = parameters()
    groups = parameter_groups(given, RATES, DECAY, is_head, FACTOR)
    assert layout(groups) == [
        (["a.weight"], DECAY, False), (["a.bias", "bn.gamma", "bn.beta"], 0.0, False), (["head.weight"], DECAY, True),
        (["head.bias"], 0.0, True),
    ]  # fmt: skip
    assert groups[-1] == {"order_params": given}
    assert layout(parameter_groups(given, RATES, DECAY, is_head, 1.0)) == [
        (["a.weight", "head.weight"], DECAY, False), (["a.bias", "bn.gamma", "bn.beta", "head.bias"], 0.0, False)
    ]  # fmt: skip


@pytest.mark.parametrize("chosen", [["a.weight"], ["head.bias"], ["head.bias", "a.weight"]])
def test_no_group_is_empty(chosen):
    """An optimizer refuses empty groups."""
    given = [p for p in parameters() if p.name in chosen]
    groups = parameter_groups(iter(given), RATES, DECAY, is_head, FACTOR)
    assert all(group["params"] for group in groups[:-1])
    assert [p.name for p in nn.Momentum(groups, Tensor(RATES), MOMENTUM).parameters] == [p.name for p in given]


@pytest.mark.parametrize(
    "options, text",
    [({"factor": 0.0}, "head_lr_factor=0.0: above 0"), ({"factor": float("inf")}, "head_lr_factor=inf: above 0"),
     ({"weight_decay": -1e-4}, "weight_decay=-0.0001: 0 or more"), ({"momentum": -0.1}, "momentum=-0.1: 0 or more and below 1"),
     ({"momentum": 1.0}, "momentum=1.0: 0 or more and below 1")],
)  # fmt: skip
def test_options_that_cannot_be(options, text):
    with pytest.raises(UsageError, match=f"{text} is accepted"):
        sgd(**options)


@pytest.mark.parametrize("factor", [1e38, 1e300])
def test_rates_of_the_head_that_float32_does_not_hold(factor):
    with pytest.raises(UsageError, match="float32 does not hold them; lower .*head_lr_factor"):
        sgd(RATES * 1e3, factor)


def momentum_update(state: dict, gradient: np.ndarray, rate: float) -> np.ndarray:
    state["v"] = MOMENTUM * state.get("v", 0) + gradient
    return rate * state["v"]


def rmsprop_update(state: dict, gradient: np.ndarray, rate: float) -> np.ndarray:
    state["s"] = 0.9 * state.get("s", 1.0) + 0.1 * gradient**2  # the framework's mean square begins at 1
    state["v"] = MOMENTUM * state.get("v", 0) + rate * gradient / np.sqrt(state["s"] + 1e-10)
    return state["v"]


def rmsprop(factor: float) -> nn.Optimizer:
    groups = parameter_groups(Bare().trainable_params(), RATES, DECAY, is_head, factor)
    return nn.RMSProp(groups, Tensor(RATES), momentum=MOMENTUM)


@pytest.mark.parametrize("factor", [1.0, FACTOR])
@pytest.mark.parametrize(
    "make, update", [(lambda factor: sgd(factor=factor), momentum_update), (rmsprop, rmsprop_update)]
)
def test_updates_equal_float64(make, update, factor):
    """Over three steps with three learning rates: of a recipe's own optimizer, and of another one over these groups."""
    optimizer = make(factor)
    given = list(optimizer.parameters)
    assert [p.name for p in given] == list(NAMES), "what is frozen is left out"
    random, states = np.random.default_rng(5), [{} for _ in given]
    expected = [p.asnumpy().astype(np.float64) for p in given]
    for rate in RATES:
        gradients = [random.normal(size=2).astype(np.float32) for _ in given]
        optimizer(tuple(Tensor(gradient) for gradient in gradients))
        for i, p in enumerate(given):
            gradient = gradients[i] + (DECAY * expected[i] if p.name.endswith("weight") else 0)
            expected[i] = expected[i] - update(states[i], gradient, rate * (factor if is_head(p.name) else 1))
            np.testing.assert_allclose(p.asnumpy(), expected[i], rtol=2e-5, atol=2e-6, err_msg=p.name)


def test_learning_rates_of_groups_are_no_state(tmp_path):
    """They follow from the configuration; everything else goes through a file and back bit for bit."""

    def new(rate: float) -> TrainStep:
        network = Bare()
        return TrainStep(network, nn.MSELoss(), sgd(rate * RATES, FACTOR, network))

    first, resumed = new(0.01), new(0.02)
    first.optimizer(tuple(Tensor(np.full(2, i, np.float32)) for i in range(len(NAMES))))
    state = first.training_state()
    own = {f"{STATE_PREFIX}optimizer.{text}" for text in ("global_step", *(f"moments.{name}" for name in NAMES))}
    assert set(state) == {*NAMES, "fixed.weight"} | own
    checkpoint.save(tmp_path / "a.ckpt", state, {})
    checkpoint.restore(resumed, checkpoint.load(tmp_path / "a.ckpt")[0], "a.ckpt")
    found = resumed.training_state()
    assert found.keys() == state.keys() and found[f"{STATE_PREFIX}optimizer.moments.head.bias"].asnumpy().all()
    assert all(np.array_equal(found[key].asnumpy(), state[key].asnumpy()) for key in state)
    rates = {p.name: p.asnumpy() for p in resumed.optimizer.get_parameters() if p.name.startswith("learning_rate")}
    assert len(rates) == 3
    for key, value in rates.items():
        np.testing.assert_allclose(value, 0.02 * RATES * (FACTOR if "group" in key else 1), rtol=1e-6)


HALF = math.sqrt(0.5)  # cos(pi / 4)


@pytest.mark.parametrize(
    "arguments, wanted",
    [
        # rate, steps of an epoch, epochs, milestones, gamma, epochs of warm-up
        ((0.1, 1, 4, [], 0.1), [0.1, 0.1, 0.1, 0.1]),
        ((0.1, 2, 3, [1, 2], 0.5), [0.1, 0.1, 0.05, 0.05, 0.025, 0.025]),
        ((0.1, 1, 4, [2, 1], 0.1), [0.1, 0.01, 0.001, 0.001]),
        ((0.1, 1, 3, [1, 1], 0.1), [0.1, 0.001, 0.001]),
        ((0.1, 1, 3, [0], 0.1), [0.01, 0.01, 0.01]),
        ((0.1, 1, 2, [2, 9], 0.1), [0.1, 0.1]),
        ((0.1, 1, 3, [1], 0.0), [0.1, 0.0, 0.0]),
        ((0.4, 2, 4, [3], 0.5, 2), [0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.2, 0.2]),
        ((0.4, 2, 3, [1], 0.5, 2), [0.1, 0.2, 0.3, 0.4, 0.2, 0.2]),
        ((0.4, 2, 1, [], 0.5, 2), [0.1, 0.2]),
        ((0.0, 1, 2, [1], 0.5), [0.0, 0.0]),
    ],
)
def test_steps(arguments, wanted):
    rates = warmup_step_lr(*arguments)
    assert rates.dtype == np.float32 and rates.shape == (len(wanted),)
    np.testing.assert_allclose(rates, wanted, rtol=1e-7)


@pytest.mark.parametrize(
    "arguments, wanted",
    [
        # rate, steps of an epoch, epochs, period, smallest rate, epochs of warm-up
        ((0.8, 1, 5, 4), [0.8, 0.4 + 0.4 * HALF, 0.4, 0.4 - 0.4 * HALF, 0.0]),
        ((0.8, 1, 5, 4, 0.2), [0.8, 0.5 + 0.3 * HALF, 0.5, 0.5 - 0.3 * HALF, 0.2]),
        ((0.8, 2, 3, 2), [0.8, 0.8, 0.4, 0.4, 0.0, 0.0]),
        ((0.8, 1, 2, 4), [0.8, 0.4 + 0.4 * HALF]),
        ((0.8, 1, 5, 2), [0.8, 0.4, 0.0, 0.4, 0.8]),
        ((0.8, 2, 3, 4, 0.2, 1), [0.4, 0.8] + [0.5 + 0.3 * HALF] * 2 + [0.5] * 2),
        ((0.1, 1, 3, 3, 0.1), [0.1, 0.1, 0.1]),
        ((0.0, 1, 3, 2, 0.1), [0.0, 0.05, 0.1]),
    ],
)
def test_cosine(arguments, wanted):
    """All steps of an epoch have one rate; the epochs of the warm-up count; beyond the period the rate rises again."""
    rates = warmup_cosine_annealing_lr(*arguments)
    assert rates.dtype == np.float32 and rates.shape == (len(wanted),)
    np.testing.assert_allclose(rates, wanted, rtol=1e-7, atol=1e-17)


def test_long_runs():
    assert [linear_warmup(step, 4, 0.4) for step in range(4)] == pytest.approx([0.1, 0.2, 0.3, 0.4], rel=1e-15)
    rates = warmup_step_lr(0.1, 3, 500, [70, 140, 210, 280], 0.3)
    for epoch, wanted in {69: 0.1, 70: 0.03, 139: 0.03, 140: 0.009, 210: 0.0027, 280: 0.00081, 499: 0.00081}.items():
        np.testing.assert_allclose(rates[3 * epoch : 3 * epoch + 3], wanted, rtol=1e-6)
    rates = warmup_cosine_annealing_lr(0.1, 2, 150, 150, 0.0, 5)
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 100, rtol=1e-6)
    np.testing.assert_allclose(rates[10:12], 0.0997261, rtol=1e-6)
    np.testing.assert_allclose(rates[298:], 1.09658e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "schedule, change, text",
    [
        (warmup_step_lr, {"epochs": 0}, "epochs=0: 1 or more is accepted"),
        (warmup_step_lr, {"base_lr": -0.1}, "lr=-0.1: 0 or more is accepted"),
        (warmup_step_lr, {"gamma": -1}, "lr_gamma=-1"),
        (warmup_step_lr, {"milestones": [1, -2]}, r"lr_epochs=\[1, -2\]"),
        (warmup_step_lr, {"warmup_epochs": -1}, "warmup_epochs=-1"),
        (warmup_cosine_annealing_lr, {"epochs": 0}, "epochs=0: 1 or more is accepted"),
        (warmup_cosine_annealing_lr, {"t_max": 0}, "T_max=0: 1 or more is accepted"),
        (warmup_cosine_annealing_lr, {"base_lr": math.nan}, "lr=nan"),
        (warmup_cosine_annealing_lr, {"eta_min": -1e-9}, "eta_min=-1e-09"),
        (warmup_cosine_annealing_lr, {"warmup_epochs": -1}, "warmup_epochs=-1"),
    ],
)
def test_schedules_that_cannot_be(schedule, change, text):
    step = {"milestones": [1], "gamma": 0.5} if schedule is warmup_step_lr else {"t_max": 3, "eta_min": 0.0}
    sound = {"base_lr": 0.1, "steps_per_epoch": 2, "epochs": 3, "warmup_epochs": 1, **step}
    schedule(**sound)
    with pytest.raises(UsageError, match=text):
        schedule(**{**sound, **change})
