"""The optimizers of TinyNet: RMSProp as TensorFlow, and with it the papers of EfficientNet and TinyNet, have it; SGD."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from .model_utils import device_adapter
from .model_utils.config import Config
from .model_utils.errors import require_range
from .model_utils.optimizers import momentum_sgd, parameter_groups

for_each = ops.HyperMap()


def update(
    decay: float,
    momentum: float,
    epsilon: float,
    rate: Tensor,
    weight: Parameter,
    mean_square: Parameter,
    moment: Parameter,
    gradient: Tensor,
) -> Tensor:
    """One step of one weight, in single operators; see `rmsprop`."""
    square = decay * mean_square + (1.0 - decay) * (gradient * gradient)
    change = momentum * moment + rate * gradient / ops.sqrt(square + epsilon)
    ops.assign(mean_square, square)
    ops.assign(moment, change)
    return ops.assign(weight, weight - change)


class _CPURMSProp(nn.Optimizer):
    """The function that nn.RMSProp is documented to be. Names of the state are those of nn.RMSProp.

    Its CPU kernel adds epsilon outside of the root, but for the last elements of each part of a weight; it splits a
    weight between its threads by their speed of the moment, so that two runs differ.
    """

    def __init__(
        self, groups: list[dict[str, Any]], learning_rates: Tensor, decay: float, momentum: float, epsilon: float
    ):
        super().__init__(learning_rates, groups)
        self.decay, self.momentum, self.epsilon = decay, momentum, epsilon
        self.one = Tensor([1], ms.int32)
        self.mean_square = self.parameters.clone(prefix="mean_square", init="ones")
        self.moment = self.parameters.clone(prefix="moment", init="zeros")

    def construct(self, gradients):
        gradients = self.decay_weight(gradients)
        rates = self.get_lr()
        ops.assign_add(self.global_step, self.one)
        if not self.is_group_lr:
            rates = (rates,) * len(self.parameters)

        constants = ops.partial(update, self.decay, self.momentum, self.epsilon)
        return for_each(constants, rates, self.parameters, self.mean_square, self.moment, gradients)


def rmsprop(
    groups: Iterable[dict[str, Any]],
    learning_rates: Tensor,
    decay: float = 0.9,
    momentum: float = 0.9,
    epsilon: float = 1e-3,
) -> nn.Optimizer:
    """RMSProp with momentum:

        g  = gradient + weight_decay * weight
        s' = decay * s + (1 - decay) * g * g            s starts at 1
        m' = momentum * m + rate * g / sqrt(s' + epsilon)
        weight' = weight - m'

    The epsilon stands inside the root and the mean square starts at 1, as in TensorFlow's operator ApplyRMSProp, the
    paper's own code and timm's `rmsproptf`; PyTorch's RMSprop adds epsilon outside of it and starts at 0. The learning rate
    is part of the momentum. Source: Tieleman and Hinton, lecture 6.5 of "Neural Networks for Machine Learning", 2012.

    Args:
        groups: parameter groups, as `nn.Optimizer` takes them.
        learning_rates: (steps,) float32, one for each step.
        decay: of the mean square, in [0, 1).
        momentum: in [0, 1).
        epsilon: above 0.

    Raises:
        UsageError: a number out of its range.
    """
    require_range(low=0, below=1, decay=decay, momentum=momentum)
    require_range(above=0, opt_eps=epsilon)
    groups = list(groups)
    if device_adapter.current_target() == "CPU":
        return _CPURMSProp(groups, learning_rates, decay, momentum, epsilon)
    return nn.RMSProp(groups, learning_rates, decay, momentum, epsilon)


def create_optimizer(
    config: Config, network: nn.Cell, learning_rates: np.ndarray, head: Callable[[str], bool]
) -> nn.Optimizer:
    """RMSProp or momentum SGD, as the recipe has it, over the groups of `parameter_groups`."""
    if config.opt == "sgd":
        return momentum_sgd(
            network, learning_rates, momentum=config.momentum, weight_decay=config.weight_decay,
            head=head, head_lr_factor=config.head_lr_factor,
        )  # fmt: skip
    groups = parameter_groups(
        network.trainable_params(), learning_rates, config.weight_decay, head, config.head_lr_factor
    )
    return rmsprop(groups, ms.Tensor(learning_rates), 0.9, config.momentum, config.opt_eps)
