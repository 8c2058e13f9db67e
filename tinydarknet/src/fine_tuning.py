"""Features in a size that a classifier can be trained on.

The features of darknet's published weights are large: on photographs their squared norm is about 2,000. The gradient of a
classifier on top of them, and the learning rate at which it explodes, follow from that norm; at a rate of 0.01 training
undoes what was pretrained. Divided by a power of two, all that was computed before stays as it was, to the last bit.
"""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindspore import nn

from .model_utils.device_adapter import Device
from .model_utils.logger import get_logger
from .tinydarknet import TinyDarkNet

LAST_NORM = ("conv15.bn.gamma", "conv15.bn.beta")  # what the features are proportional to
HEAD_WEIGHT = "conv16.conv.weight"


class _Features(nn.Cell):
    """(N, 3, H, W) images to the mean over their features' squares, a number."""

    def __init__(self, network: TinyDarkNet):
        super().__init__(auto_prefix=False)  # the parameters keep their names
        self.network = network

    def construct(self, images):
        x = images
        for layer in self.network.layers[:-1]:
            x = layer(x)
        return x.mean((2, 3)).square().mean()


def scale_features(network: TinyDarkNet, images: np.ndarray, device: Device, *, has_new_head: bool) -> float:
    """Divide the features by the power of two that brings their mean square closest to 1.

    Args:
        network: with pretrained weights; two batch-norm parameters and, with the head that they came with, its weights
            are changed in place. Its outputs stay the same.
        images: (N, 3, H, W) float32, a batch of the training data.
        device: all ranks take the same power, that of all their batches.
        has_new_head: the head is random and shall see the divided features.

    Returns:
        The divisor; 1 where there is nothing to divide.
    """
    training = network.training
    mean_square = float(_Features(network).set_train(False)(ms.Tensor(images)).asnumpy())
    network.set_train(training)
    mean_square = device.sum([mean_square])[0] / device.size
    exponent = round(math.log2(mean_square) / 2) if 0 < mean_square < math.inf else 0
    if exponent <= 0:
        return 1.0
    parameters = network.parameters_dict()
    for name in LAST_NORM:
        parameters[name].set_data(parameters[name] * 2.0**-exponent)
    if not has_new_head:
        parameters[HEAD_WEIGHT].set_data(parameters[HEAD_WEIGHT] * 2.0**exponent)
    get_logger().info(
        "features have a mean square of %.3g: they are divided by %d, so that the classifier can follow the learning rate",
        mean_square, 2**exponent,
    )  # fmt: skip
    return 2.0**exponent
