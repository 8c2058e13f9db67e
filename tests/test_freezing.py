"""What is frozen stays bit for bit and computes in training what it computes in evaluation."""

from __future__ import annotations

from model_utils.errors import UsageError
from model_utils.freezing import freeze
from model_utils.logger import get_logger
from model_utils.train_step import TrainStep

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, amp, nn, ops

pytestmark = pytest.mark.usefixtures("eager_mode")


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
    return tuple(Tensor(random.normal(size=shape).astype(np.float32)) for shape in ((6, 4, 1, 1), (6, 2)))


def eager_step(network: nn.Cell):
    """A training step without the compiled cell: called with (images, targets)."""
    optimizer, loss = nn.Momentum(network.set_train().trainable_params(), RATE, 0.9), SquaredError()
    grad = ms.value_and_grad(lambda images, targets: loss(network(images), targets), None, optimizer.parameters)
    return lambda images, targets: optimizer(grad(images, targets)[1])


def compiled_step(network: nn.Cell) -> TrainStep:
    ms.set_context(mode=ms.GRAPH_MODE)
    optimizer = nn.Momentum(network.trainable_params(), RATE, 0.9)
    return TrainStep(network.set_train(), SquaredError(), optimizer, ema_decay=0.9)


def weights(network: nn.Cell) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy().copy() for p in network.get_parameters()}


NORM = ("moving_mean", "moving_variance", "gamma", "beta")
RATE = 0.01
CONV0 = {"conv0.conv.weight", *(f"conv0.bn.{leaf}" for leaf in NORM)}
CONV1 = {name.replace("conv0", "conv1") for name in CONV0}
HEAD = {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    "patterns, moving, make",
    [
        ([], CONV0 | CONV1 | HEAD, eager_step),
        (["conv?.*"], HEAD, eager_step),
        (["conv1.bn.gamma", "*1.bn.beta"], CONV0 | {"conv1.conv.weight"} | HEAD, eager_step),
        (["conv1.bn.gamma"], (CONV0 | CONV1 | HEAD) - {"conv1.bn.gamma"}, eager_step),
        (["conv[0].conv.*", "head.bias"], (CONV0 | CONV1 | HEAD) - {"conv0.conv.weight", "head.bias"}, eager_step),
        (["conv0.*", "head.bias"], (CONV1 | HEAD) - {"head.bias"}, compiled_step),
    ],
)
def test_what_is_frozen_stays_through_training_and_evaluation(patterns, moving, make):
    """Also where the network is evaluated between the steps; an epoch's training mode is set anew after it."""
    network = Small()
    freeze(network, patterns)
    step, before = make(network), weights(network)
    for seed in range(3):
        step(*batch(seed))
        network.set_train(False)(batch(0)[0])
        network.set_train(True)
    assert {name for name, value in weights(network).items() if not np.array_equal(value, before[name])} == moving
    assert {p.name for p in network.trainable_params()} == {name for name in moving if "moving" not in name}
    if make is compiled_step:
        averages = {p.name.rpartition("ema.")[2]: p.asnumpy() for p in step.ema.averages}
        assert {name for name in before if not np.array_equal(averages[name], before[name])} == moving


def test_frozen_batch_norm_computes_the_same_in_training():
    network, reference = Small(), Small()
    freeze(network, ["*.bn.*"])
    images, _ = batch(0)
    expected = reference.set_train(False)(images).asnumpy()
    for training in (True, False, True):
        assert np.array_equal(network.set_train(training)(images).asnumpy(), expected)
    assert abs(reference.set_train(True)(images).asnumpy() - expected).max() > 0.1


@pytest.mark.parametrize("make", [eager_step, compiled_step])
def test_gradient_through_frozen_batch_norm_equals_float64(make):
    """The statistics are constants for it."""
    network = Small()
    freeze(network, ["*.bn.*"])
    before = {name: value.astype(np.float64) for name, value in weights(network).items()}
    images, targets = batch(0)
    x = images.asnumpy()[:, :, 0, 0].astype(np.float64)

    def block(name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, variance, gamma, beta = (before[f"{name}.bn.{key}"] for key in NORM)
        factor = gamma / np.sqrt(variance + 1e-3)
        return (x @ before[f"{name}.conv.weight"][:, :, 0, 0].T - mean) * factor + beta, factor

    first, first_factor = block("conv0", x)
    last, last_factor = block("conv1", np.tanh(first))
    error = last @ before["head.weight"].T + before["head.bias"] - targets.asnumpy()
    flow = 2 / len(x) * error @ before["head.weight"] * last_factor
    gradients = {"conv1.conv.weight": flow.T @ np.tanh(first)}
    flow = flow @ before["conv1.conv.weight"][:, :, 0, 0] * (1 - np.tanh(first) ** 2) * first_factor
    gradients["conv0.conv.weight"] = flow.T @ x
    make(network)(images, targets)
    for name, gradient in gradients.items():
        found = (before[name] - weights(network)[name])[:, :, 0, 0] / RATE
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


def test_the_log_says_how_much_is_frozen(monkeypatch):
    lines = []
    monkeypatch.setattr(get_logger(), "info", lambda text, *values: lines.append(text % values))
    freeze(Small(), ["conv0.*", "conv0.conv.*", "conv1.bn.gamma"])
    told = "frozen: 4 of 8 trainable parameters; 1 of 2 batch norms keep and use their stored statistics"
    assert lines[0] == told
