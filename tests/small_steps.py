"""Training steps on tiny networks, for their tests. Compiling one takes a second, so tests share those of equal settings."""

from __future__ import annotations

from typing import Any

from model_utils.checkpoint import STATE_PREFIX
from model_utils.train_step import TrainStep

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

RATES = np.array(
    [0.1, 0.2, 0.05, 0.1, 0.02, 0.3, 0.1, 0.1] + 200 * [0.05], np.float32
)  # of each step, more than any test has
MOMENTUM, DECAY = 0.9, 0.01
MOMENTS = f"{STATE_PREFIX}optimizer.moments."
GLOBAL_STEP = f"{STATE_PREFIX}optimizer.global_step"
SCALE, SCALE_COUNTER = f"{STATE_PREFIX}loss_scale", f"{STATE_PREFIX}loss_scale_counter"
STILL = {"last.weight": np.zeros((2, 3), np.float32), "last.bias": np.zeros(2, np.float32)}  # outputs of zero
DYNAMIC = {"loss_scale": 2.0**16, "dynamic_loss_scale": True}


class SquaredError(nn.Cell):
    """Mean over the batch of the squared distance."""

    def construct(self, predictions, targets):
        return ((predictions - targets) ** 2).sum(1).mean()


class Overflowing(nn.Cell):
    """A loss of up to 1e38 whose gradient overflows where a target is 1e19 and the loss is scaled up."""

    def construct(self, predictions, targets):
        return (predictions * targets).sum(1).mean() * 1e18


class Normed(nn.Cell):
    """Dense, batch norm, tanh, dense."""

    def __init__(self):
        super().__init__()
        self.first = nn.Dense(4, 3, has_bias=False)
        self.bn = nn.BatchNorm1d(3)
        self.last = nn.Dense(3, 2)

    def construct(self, x):
        return self.last(ops.tanh(self.bn(self.first(x))))


class Hidden(nn.Cell):
    """Dense, tanh, dense: nothing in it depends on the size of the batch."""

    def __init__(self):
        super().__init__()
        self.first = nn.Dense(4, 3)
        self.last = nn.Dense(3, 2)

    def construct(self, x):
        return self.last(ops.tanh(self.first(x)))


def linear() -> nn.Cell:
    return nn.Dense(4, 2)


def build(make: Any, seed: int = 1) -> nn.Cell:
    """A network in training mode; all of them map (N, 4) to (N, 2)."""
    ms.set_seed(seed)
    return make().set_train()


def momentum(network: nn.Cell, decay: float = DECAY) -> nn.Momentum:
    """As in the models: no weight decay on biases, one learning rate for each step."""
    parameters = network.trainable_params()
    groups = [
        {"params": [p for p in parameters if p.name.endswith("weight")], "weight_decay": decay},
        {"params": [p for p in parameters if not p.name.endswith("weight")], "weight_decay": 0.0},
        {"order_params": parameters},
    ]
    return nn.Momentum(groups, Tensor(RATES), MOMENTUM)


def adam(network: nn.Cell) -> nn.Adam:
    return nn.Adam(network.trainable_params(), 0.01)


def without_decay(network: nn.Cell) -> nn.Momentum:
    return momentum(network, 0.0)


def new_step(make: Any, seed: int = 1, loss: Any = SquaredError, optimizer: Any = momentum, **options) -> TrainStep:
    network = build(make, seed)
    return TrainStep(network, loss(), optimizer(network), **options)


_shared: dict[tuple, tuple[TrainStep, dict[str, np.ndarray]]] = {}


def shared_step(make: Any, loss: Any = SquaredError, optimizer: Any = momentum, **options) -> TrainStep:
    """The step of `new_step`, of which there is one in this process, in the state at its start."""
    key = (make, loss, optimizer, *sorted(options.items()))
    if key not in _shared:
        step = new_step(make, loss=loss, optimizer=optimizer, **options)
        _shared[key] = step, values(step)
    step, start = _shared[key]
    put(step, start)
    return step


def values(step: TrainStep) -> dict[str, np.ndarray]:
    """The training state."""
    return {name: parameter.asnumpy().copy() for name, parameter in step.training_state().items()}


def put(step: TrainStep, arrays: dict[str, np.ndarray]) -> None:
    """Change these values of the training state, also of a step that has run.

    Parameters of a branch of its graph do not see `set_data` then: with a dynamic loss scale, all but the weights.
    """
    state = step.training_state()
    for name, value in arrays.items():
        ops.assign(state[name], Tensor(value))


def train(step: TrainStep, data) -> list[tuple[float, float]]:
    """Losses and loss scales."""
    return [tuple(float(value.asnumpy()) for value in step(Tensor(x), Tensor(y))) for x, y in data]


def equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def changed(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    return {name for name, value in before.items() if not np.array_equal(value, after[name])}


def batches(count: int, size: int = 5):
    """Images (size, 4) and targets (size, 2) float32."""
    random = np.random.default_rng(7)
    for _ in range(count):
        yield tuple(random.normal(size=(size, width)).astype(np.float32) for width in (4, 2))


def growing_batches(count: int, size: int = 12):
    """Batches whose slices differ from one another: the size of the images grows along the batch."""
    random = np.random.default_rng(11)
    growth = np.linspace(0.2, 3, size)[:, None]
    for _ in range(count):
        yield tuple((random.normal(size=(size, width)) * growth).astype(np.float32) for width in (4, 2))
