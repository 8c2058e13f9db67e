"""Fine-tuning: what is frozen stays bit for bit, and the updates of each group equal float64 arithmetic."""

from __future__ import annotations

import logging

from src.model_utils import checkpoint
from src.model_utils.checkpoint import STATE_PREFIX
from src.model_utils.config import UsageError
from src.model_utils.logger import get_logger
from src.model_utils.train_step import TrainStep

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, amp, nn, ops
from src.finetuning import freeze, parameter_groups

RATES = np.array([0.1, 0.3, 0.2], np.float32)
MOMENTUM, DECAY, FACTOR = 0.9, 0.01, 10.0


@pytest.fixture(autouse=True, scope="module")
def graph_mode():
    """The mode in which the programs run."""
    before = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=before)


class Block(nn.Cell):
    """1x1 convolution and batch norm whose weights and statistics are nobody's defaults."""

    def __init__(self, channels: int, out_channels: int, random: np.random.Generator):
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 1)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3)
        for parameter in self.get_parameters():
            parameter.set_data(Tensor(random.uniform(0.5, 1.5, parameter.shape).astype(np.float32)))

    def construct(self, x):
        return self.bn(self.conv(x))


class Small(nn.Cell):
    """Two blocks and a dense head: (N, 4, 1, 1) to (N, 2)."""

    def __init__(self):
        super().__init__()
        random = np.random.default_rng(3)
        self.conv0 = Block(4, 3, random)
        self.conv1 = Block(3, 3, random)
        self.head = nn.Dense(3, 2, Tensor(random.normal(size=(2, 3)).astype(np.float32)), "ones")

    def construct(self, x):
        return self.head(self.conv1(ops.tanh(self.conv0(x))).flatten(start_dim=1))


class SquaredError(nn.Cell):
    def construct(self, predictions, targets):
        return ((predictions - targets) ** 2).sum(1).mean()


def batch(seed: int) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(seed)
    shapes = (6, 4, 1, 1), (6, 2)
    return tuple(Tensor(random.normal(size=shape).astype(np.float32)) for shape in shapes)


def train_step(network: nn.Cell, rate: float = 0.01) -> TrainStep:
    return TrainStep(network.set_train(), SquaredError(), nn.Momentum(network.trainable_params(), rate, MOMENTUM))


def weights(network: nn.Cell) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy().copy() for p in network.get_parameters()}


def changed(before: dict[str, np.ndarray], network: nn.Cell) -> set[str]:
    return {name for name, value in weights(network).items() if not np.array_equal(value, before[name])}


CONV0 = {"conv0.conv.weight", "conv0.bn.gamma", "conv0.bn.beta", "conv0.bn.moving_mean", "conv0.bn.moving_variance"}
CONV1 = {name.replace("conv0", "conv1") for name in CONV0}
HEAD = {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    "patterns, moving",
    [
        ([], CONV0 | CONV1 | HEAD),
        (["conv0.*"], CONV1 | HEAD),
        (["conv?.*"], HEAD),
        (["*.bn.*"], {"conv0.conv.weight", "conv1.conv.weight"} | HEAD),
        (["conv1.bn.gamma", "*1.bn.beta"], CONV0 | {"conv1.conv.weight"} | HEAD),
        (["conv1.bn.gamma"], (CONV0 | CONV1 | HEAD) - {"conv1.bn.gamma"}),
        (["conv[0].conv.*", "head.bias"], (CONV0 | CONV1 | HEAD) - {"conv0.conv.weight", "head.bias"}),
    ],
)
def test_what_is_frozen_stays_through_training_and_evaluation(patterns, moving):
    """Also where the network is evaluated between the steps; an epoch's training mode is set anew after it."""
    network = Small()
    freeze(network, patterns)
    step, before = train_step(network), weights(network)
    for seed in range(3):
        step(*batch(seed))
        network.set_train(False)
        network(batch(0)[0])
        network.set_train(True)
        step.set_train(True)
    assert changed(before, network) == moving
    assert {p.name for p in network.trainable_params()} == {name for name in moving if "moving" not in name}


def test_frozen_batch_norm_computes_the_same_in_training():
    network, reference = Small(), Small()
    freeze(network, ["*.bn.*"])
    images, _ = batch(0)
    expected = reference.set_train(False)(images).asnumpy()
    for training in (True, False, True):
        assert np.array_equal(network.set_train(training)(images).asnumpy(), expected)
    assert abs(reference.set_train(True)(images).asnumpy() - expected).max() > 0.1


def test_gradient_through_frozen_batch_norm_equals_float64():
    """The statistics are constants for it."""
    network, rate = Small(), 0.01
    freeze(network, ["*.bn.*"])
    before = {name: value.astype(np.float64) for name, value in weights(network).items()}
    images, targets = batch(0)
    x = images.asnumpy()[:, :, 0, 0].astype(np.float64)

    def block(name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gamma, beta, mean, variance = (
            before[f"{name}.bn.{key}"] for key in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        factor = gamma / np.sqrt(variance + 1e-3)
        return (x @ before[f"{name}.conv.weight"][:, :, 0, 0].T - mean) * factor + beta, factor

    first, first_factor = block("conv0", x)
    last, last_factor = block("conv1", np.tanh(first))
    error = last @ before["head.weight"].T + before["head.bias"] - targets.asnumpy()
    flow = 2 / len(x) * error @ before["head.weight"] * last_factor
    gradients = {"conv1.conv.weight": flow.T @ np.tanh(first)}
    flow = flow @ before["conv1.conv.weight"][:, :, 0, 0] * (1 - np.tanh(first) ** 2) * first_factor
    gradients["conv0.conv.weight"] = flow.T @ x
    train_step(network, rate)(images, targets)
    for name, gradient in gradients.items():
        found = (before[name] - weights(network)[name])[:, :, 0, 0] / rate
        np.testing.assert_allclose(found, gradient, rtol=1e-3, atol=1e-3 * abs(gradient).max())


@pytest.mark.parametrize("level", ["O2", "O3"])
def test_mixed_precision_keeps_batch_norms_frozen(level):
    network = Small()
    freeze(network, ["conv0.*"])
    cells = amp.auto_mixed_precision(network, level).cells_and_names()
    found = [cell.use_batch_statistics for _, cell in cells if isinstance(cell, nn.BatchNorm2d)]
    assert found == [False, None]


@pytest.mark.parametrize(
    "patterns, texts",
    [
        (["conv0.*", "conv1.bn.gama"], ["'conv1.bn.gama'", "nearest name is conv1.bn.gamma", "conv0.conv.weight, "]),
        (["CONV0.*"], ["'CONV0.*'", "first names are conv0.conv.weight"]),
        (["conv0"], ["'conv0'"]),
        ([""], ["''"]),
        (["*"], ["nothing to train"]),
        (["*.bias", "conv?.*", "*.weight"], ["nothing to train"]),
    ],
)
def test_patterns_that_cannot_be(patterns, texts):
    network = Small()
    with pytest.raises(UsageError) as caught:
        freeze(network, patterns)
    assert all(text in str(caught.value) for text in texts)
    assert len(network.trainable_params()) == 8, "a refused call changes nothing"
    assert network.conv0.bn.use_batch_statistics is None


def test_the_log_says_how_much_is_frozen(caplog):
    get_logger().addHandler(caplog.handler)
    caplog.set_level(logging.INFO, get_logger().name)
    try:
        freeze(Small(), ["conv0.*", "conv0.conv.*", "conv1.bn.gamma"])
    finally:
        get_logger().removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records[:1]] == [
        "frozen: 4 of 8 trainable parameters; 1 of 2 batch norms keep and use their stored statistics"
    ]


def is_head(name: str) -> bool:
    return name.startswith("head.")


def parameters() -> list[Parameter]:
    names = ("a.weight", "a.bias", "bn.gamma", "bn.beta", "head.weight", "head.bias")
    return [Parameter(Tensor(np.array([1.0, -2.0], np.float32)), name=name) for name in names]


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


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_factors_that_cannot_be(factor):
    with pytest.raises(UsageError, match=f"head_lr_factor={factor}"):
        parameter_groups(parameters(), RATES, DECAY, is_head, factor)


def momentum_update(state: dict, gradient: np.ndarray, rate: float) -> np.ndarray:
    state["v"] = MOMENTUM * state.get("v", 0) + gradient
    return rate * state["v"]


def rmsprop_update(state: dict, gradient: np.ndarray, rate: float) -> np.ndarray:
    state["s"] = 0.9 * state.get("s", 1.0) + 0.1 * gradient**2  # the framework's mean square begins at 1
    state["v"] = MOMENTUM * state.get("v", 0) + rate * gradient / np.sqrt(state["s"] + 1e-10)
    return state["v"]


OPTIMIZERS = {
    "momentum": (lambda groups, rates: nn.Momentum(groups, Tensor(rates), MOMENTUM), momentum_update),
    "sgd": (lambda groups, rates: nn.SGD(groups, Tensor(rates), momentum=MOMENTUM), momentum_update),
    "rmsprop": (lambda groups, rates: nn.RMSProp(groups, Tensor(rates), momentum=MOMENTUM), rmsprop_update),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("factor", [1.0, FACTOR])
def test_updates_equal_float64(name, factor):
    """Over three steps with three learning rates."""
    make, update = OPTIMIZERS[name]
    given = parameters()
    optimizer = make(parameter_groups(given, RATES, DECAY, is_head, factor), RATES)
    random, states = np.random.default_rng(5), [{} for _ in given]
    expected = [p.asnumpy().astype(np.float64) for p in given]
    for rate in RATES:
        gradients = [random.normal(size=2).astype(np.float32) for _ in given]
        optimizer(tuple(Tensor(gradient) for gradient in gradients))
        for i, p in enumerate(given):
            gradient = gradients[i] + (DECAY * expected[i] if p.name.endswith("weight") else 0)
            expected[i] = expected[i] - update(states[i], gradient, rate * (factor if is_head(p.name) else 1))
            np.testing.assert_allclose(p.asnumpy(), expected[i], rtol=2e-5, atol=2e-6, err_msg=p.name)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_learning_rates_of_groups_are_no_state(tmp_path, name):
    """They follow from the configuration; everything else goes through a file and back bit for bit."""

    def new(rate: float) -> TrainStep:
        network = Small()
        freeze(network, ["conv0.*"])
        groups = parameter_groups(network.trainable_params(), rate * RATES, DECAY, is_head, FACTOR)
        optimizer = OPTIMIZERS[name][0](groups, rate * RATES)
        return TrainStep(network.set_train(), SquaredError(), optimizer, ema_decay=0.9)

    first, resumed = new(0.01), new(0.02)
    first(*batch(0))
    rates = {p.name for p in first.optimizer.get_parameters() if "learning_rate" in p.name}
    assert len(rates) == 3 and all(text.startswith("learning_rate") for text in rates)
    state = first.training_state()
    assert not any("learning_rate" in text for text in state)
    assert sum(f"{STATE_PREFIX}optimizer." in text and "global_step" not in text for text in state) >= 5
    checkpoint.save(tmp_path / "a.ckpt", state, {})
    checkpoint.restore(resumed, checkpoint.load(tmp_path / "a.ckpt")[0], "a.ckpt")
    found = resumed.training_state()
    assert found.keys() == state.keys()
    assert all(np.array_equal(found[key].asnumpy(), state[key].asnumpy()) for key in state)
    own = {p.name: p.asnumpy() for p in resumed.optimizer.get_parameters() if p.name in rates}
    for key, value in own.items():
        np.testing.assert_allclose(value, 0.02 * RATES * (FACTOR if "group" in key else 1), rtol=1e-6)
