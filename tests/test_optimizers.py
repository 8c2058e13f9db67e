"""Parameter groups and momentum SGD: the updates of each group equal float64 arithmetic."""

from __future__ import annotations

from model_utils import checkpoint
from model_utils.checkpoint import STATE_PREFIX
from model_utils.errors import UsageError
from model_utils.optimizers import momentum_sgd, parameter_groups
from model_utils.train_step import TrainStep

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

RATES = np.array([0.1, 0.3, 0.2], np.float32)
MOMENTUM, DECAY, FACTOR = 0.9, 0.01, 10.0
NAMES = ("a.weight", "a.bias", "bn.gamma", "bn.beta", "head.weight", "head.bias")


@pytest.fixture(autouse=True)
def eager_mode():
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=mode)


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


# ---- groups


def layout(groups: list[dict]) -> list[tuple]:
    return [([p.name for p in g["params"]], g["weight_decay"], "lr" in g) for g in groups[:-1]]


def test_groups():
    given = parameters()
    groups = parameter_groups(given, RATES, DECAY, is_head, FACTOR)
    assert layout(groups) == [
        (["a.weight"], DECAY, False),
        (["a.bias", "bn.gamma", "bn.beta"], 0.0, False),
        (["head.weight"], DECAY, True),
        (["head.bias"], 0.0, True),
    ]
    assert groups[-1] == {"order_params": given}
    for group in groups[2:4]:
        assert group["lr"].dtype == ms.float32
        np.testing.assert_allclose(group["lr"].asnumpy(), [1.0, 3.0, 2.0], rtol=1e-6)


def test_groups_without_a_factor():
    """As for training from random weights: two groups, no learning rate of their own."""
    assert layout(parameter_groups(parameters(), RATES, DECAY, is_head, 1.0)) == [
        (["a.weight", "head.weight"], DECAY, False),
        (["a.bias", "bn.gamma", "bn.beta", "head.bias"], 0.0, False),
    ]


@pytest.mark.parametrize("factor", [1.0, FACTOR])
@pytest.mark.parametrize("chosen", [["a.weight"], ["a.bias"], ["head.weight"], ["head.bias", "a.weight"]])
def test_no_group_is_empty(factor, chosen):
    """An optimizer refuses empty groups."""
    given = [p for p in parameters() if p.name in chosen]
    groups = parameter_groups(iter(given), RATES, DECAY, is_head, factor)
    assert sorted(name for names, *_ in layout(groups) for name in names) == sorted(chosen)
    assert all(group["params"] for group in groups[:-1])
    assert [p.name for p in nn.Momentum(groups, Tensor(RATES), MOMENTUM).parameters] == [p.name for p in given]


# ---- what cannot be


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_factors_that_cannot_be(factor):
    with pytest.raises(UsageError, match=f"head_lr_factor={factor}: above 0 is accepted"):
        parameter_groups(parameters(), RATES, DECAY, is_head, factor)


@pytest.mark.parametrize("decay", [-1e-4, float("nan")])
def test_decays_that_cannot_be(decay):
    with pytest.raises(UsageError, match=f"weight_decay={decay}: 0 or more is accepted"):
        sgd(weight_decay=decay)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_momenta_that_cannot_be(momentum):
    with pytest.raises(UsageError, match=f"momentum={momentum}: 0 or more and below 1 is accepted"):
        sgd(momentum=momentum)


# ---- updates


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


@pytest.mark.parametrize("factor", [1.0, FACTOR, 0.5])
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


def test_without_momentum_and_decay():
    optimizer = sgd(momentum=0.0, weight_decay=0.0)
    for _ in RATES:
        optimizer(tuple(Tensor(np.ones(2, np.float32)) for _ in NAMES))
    for p in optimizer.parameters:
        np.testing.assert_allclose(p.asnumpy(), np.array([1.0, -2.0]) - RATES.sum(), rtol=1e-5)


def test_learning_rates_of_groups_are_no_state(tmp_path):
    """They follow from the configuration; everything else goes through a file and back bit for bit."""

    def new(rate: float) -> TrainStep:
        network = Bare()
        return TrainStep(network, nn.MSELoss(), sgd(rate * RATES, FACTOR, network))

    first, resumed = new(0.01), new(0.02)
    first.optimizer(tuple(Tensor(np.full(2, i, np.float32)) for i in range(len(NAMES))))
    rates = {p.name for p in first.optimizer.get_parameters() if "learning_rate" in p.name}
    assert len(rates) == 3 and all(text.startswith("learning_rate") for text in rates)
    state = first.training_state()
    own = {f"{STATE_PREFIX}optimizer.{text}" for text in ("global_step", *(f"moments.{name}" for name in NAMES))}
    assert set(state) == {*NAMES, "fixed.weight"} | own
    checkpoint.save(tmp_path / "a.ckpt", state, {})
    checkpoint.restore(resumed, checkpoint.load(tmp_path / "a.ckpt")[0], "a.ckpt")
    found = resumed.training_state()
    assert found.keys() == state.keys() and found[f"{STATE_PREFIX}optimizer.moments.head.bias"].asnumpy().all()
    assert all(np.array_equal(found[key].asnumpy(), state[key].asnumpy()) for key in state)
    values = {p.name: p.asnumpy() for p in resumed.optimizer.get_parameters() if p.name in rates}
    for key, value in values.items():
        np.testing.assert_allclose(value, 0.02 * RATES * (FACTOR if "group" in key else 1), rtol=1e-6)
